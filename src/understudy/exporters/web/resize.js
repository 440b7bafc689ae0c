"use strict";
/* How `understudy predict` crops and resizes: Pillow's `convert`, `reduce` and bicubic `resize`, in the same integer
   arithmetic, so that equal pixels become equal inputs. A canvas would resize in its own way, different in each browser.
   A picture is { width, height, data }: its channels interleaved, in bytes. */

const BITS = 22; // of the weights' fractions, as in Pillow's Resample.c
const SUPPORT = 2; // of the bicubic kernel, in pixels

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/* For each of `count` outputs that cover [start, end): the first of its inputs, and their weights. */
function weights(length, start, end, count) {
  const scale = Math.fround(Math.fround(end) - Math.fround(start)) / count;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const center = Math.fround(start) + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - SUPPORT * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(center + SUPPORT * stretch + 0.5), length);
    const kernel = Array.from({ length: last - first }, (_, j) => bicubic((first + j - center + 0.5) / stretch));
    const sum = kernel.reduce((total, weight) => total + weight, 0);
    const fixed = kernel.map((weight) => Math.trunc((weight / sum) * 2 ** BITS + (weight < 0 ? -0.5 : 0.5)));
    return { first, fixed };
  });
}

/* Each of `lines` lines of pixels, which are `step` apart, as so many pixels as there are `kernels`. */
function filtered(from, to, kernels, lines, lineStep, step, newLineStep, newStep, channels) {
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < kernels.length; i++) {
      const { first, fixed } = kernels[i];
      const start = line * lineStep + first * step, end = line * newLineStep + i * newStep;
      for (let c = 0; c < channels; c++) {
        let sum = 2 ** (BITS - 1);
        for (let j = 0, at = start + c; j < fixed.length; j++, at += step) sum += from[at] * fixed[j];
        to[end + c] = Math.min(Math.max(Math.floor(sum / 2 ** BITS), 0), 255);
      }
    }
  }
}

/* The part of a picture within `box`, at width x height pixels. Both ways are rounded, so that their order matters. */
function resized(picture, channels, width, height, [left, top, right, bottom], downFirst) {
  const [row, newRow] = [picture.width * channels, width * channels];
  const data = new Uint8Array(newRow * height);
  const columns = weights(picture.width, left, right, width), rows = weights(picture.height, top, bottom, height);
  if (downFirst) {
    const down = new Uint8Array(row * height);
    filtered(picture.data, down, rows, picture.width, channels, row, channels, row, channels);
    filtered(down, data, columns, height, row, channels, newRow, channels, channels);
  } else {
    const across = new Uint8Array(newRow * picture.height);
    filtered(picture.data, across, columns, picture.height, row, channels, newRow, channels, channels);
    filtered(across, data, rows, width, channels, newRow, channels, newRow, channels);
  }
  return { width, height, data };
}

/* Each cell of acrossBy x downBy pixels as their mean; cells at the right and the bottom may have fewer. */
function reduced(picture, channels, acrossBy, downBy) {
  const width = Math.ceil(picture.width / acrossBy), height = Math.ceil(picture.height / downBy);
  const data = new Uint8Array(width * height * channels);
  for (let y = 0, to = 0; y < height; y++) {
    const bottom = Math.min((y + 1) * downBy, picture.height);
    for (let x = 0; x < width; x++) {
      const right = Math.min((x + 1) * acrossBy, picture.width);
      const pixels = (bottom - y * downBy) * (right - x * acrossBy);
      const share = Math.floor(2 ** 24 / pixels);
      for (let c = 0; c < channels; c++, to++) {
        let sum = Math.floor(pixels / 2);
        for (let v = y * downBy; v < bottom; v++) {
          let at = (v * picture.width + x * acrossBy) * channels + c;
          for (let u = x * acrossBy; u < right; u++, at += channels) sum += picture.data[at];
        }
        data[to] = Math.floor((sum * share) / 2 ** 24);
      }
    }
  }
  return { width, height, data };
}

/* RGBA pixels as gray (Rec. 601 luma) or RGB. */
function converted(rgba, channels) {
  const data = new Uint8Array((rgba.length / 4) * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    if (channels === 1) {
      data[to++] = (rgba[from] * 19595 + rgba[from + 1] * 38470 + rgba[from + 2] * 7471 + 0x8000) >> 16;
    } else {
      for (let c = 0; c < 3; c++) data[to++] = rgba[from + c];
    }
  }
  return data;
}

/* The box of an image that the network sees: its central square, or the whole of it. */
function seen(width, height, whole) {
  const side = Math.min(width, height);
  const [left, top] = whole ? [0, 0] : [(width - side) / 2, (height - side) / 2];
  return [left, top, width - left, height - top];
}

/* An image as the network's input: width x height pixels of one or three channels, interleaved.
   `read(left, top, right, bottom)` returns that part of the image as RGBA. */
function fitted(image, read, { width, height, channels, whole }) {
  // large images are halved first, as they are where they are decoded
  let halving = 1;
  while (Math.min(image.width, image.height) >= 4 * height * halving) halving *= 2;
  const [allWidth, allHeight] = [Math.ceil(image.width / halving), Math.ceil(image.height / halving)];
  let box = seen(allWidth, allHeight, whole);

  // what the kernel reaches beyond the box
  const scales = [(box[2] - box[0]) / width, (box[3] - box[1]) / height];
  const reach = scales.map((scale) => SUPPORT * Math.max(scale, 1) + 1);
  const origin = [Math.max(Math.floor(box[0] - reach[0]), 0), Math.max(Math.floor(box[1] - reach[1]), 0)];
  const end = [Math.min(Math.ceil(box[2] + reach[0]), allWidth), Math.min(Math.ceil(box[3] + reach[1]), allHeight)];
  let picture = { width: end[0] - origin[0], height: end[1] - origin[1] };
  picture.data = new Uint8Array(picture.width * picture.height * channels);
  const rows = Math.max(Math.floor(2 ** 20 / (picture.width * halving ** 2)), 1); // a strip at a time, for memory
  for (let y = 0; y < picture.height; y += rows) {
    const [from, to] = [origin[1] + y, Math.min(origin[1] + y + rows, end[1])];
    const edges = [origin[0] * halving, from * halving,
      Math.min(end[0] * halving, image.width), Math.min(to * halving, image.height)];
    const strip = { width: edges[2] - edges[0], height: edges[3] - edges[1], data: converted(read(...edges), channels) };
    const small = halving > 1 ? reduced(strip, channels, halving, halving) : strip;
    picture.data.set(small.data, y * picture.width * channels);
  }
  box = box.map((edge, i) => edge - origin[i % 2]);

  let of = [allWidth, allHeight];

  // then reduced in whole steps to no less than three times the size
  const [acrossBy, downBy] = scales.map((scale) => Math.max(Math.trunc(scale / 3), 1));
  if (acrossBy > 1 || downBy > 1) {
    const margin = scales.map((scale) => (SUPPORT - 0.5) * scale);
    const inner = [0, 1].map((i) => Math.max(Math.trunc(box[i] - margin[i]), 0));
    const outer = [Math.min(Math.ceil(box[2] + margin[0]), picture.width),
      Math.min(Math.ceil(box[3] + margin[1]), picture.height)];
    picture = reduced(cropped(picture, channels, ...inner, ...outer), channels, acrossBy, downBy);
    box = box.map((edge, i) => (edge - inner[i % 2]) / (i % 2 ? downBy : acrossBy));
    of = [picture.width, picture.height];
  }
  const [lessAcross, lessDown] = [of[0] - width, of[1] - height];
  const downFirst = lessDown > 0 && lessDown > 2 * lessAcross; // as in Pillow 13; older ones never do
  return resized(picture, channels, width, height, box, downFirst).data;
}

function cropped(picture, channels, left, top, right, bottom) {
  const width = right - left, height = bottom - top;
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * picture.width + left) * channels;
    data.set(picture.data.subarray(from, from + width * channels), y * width * channels);
  }
  return { width, height, data };
}
