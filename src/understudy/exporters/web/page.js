"use strict";
/* The page: files that are chosen, dropped or pasted, one after the other, to classes with their probabilities. */

const about = JSON.parse(document.getElementById("about").textContent);
const zone = document.getElementById("zone"), chooser = document.getElementById("chooser");
const notice = document.getElementById("status"), results = document.getElementById("results");
const STRIP = 4096; // pixels of a side that every browser's canvas can have

/* The bytes of an element that holds them compressed, as Base64. */
async function unpacked(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* ONNX Runtime with the model, on one thread: more would need a server that isolates the page. */
async function opened() {
  const [script, binary, model] = await Promise.all(["script", "binary", "model"].map(unpacked));
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const ort = await import(url);
  URL.revokeObjectURL(url);
  Object.assign(ort.env.wasm, { wasmBinary: binary.buffer, numThreads: 1, proxy: false });
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  const logits = async (data) => {
    const { type, shape } = about.input;
    const outputs = await session.run({ input: new ort.Tensor(type, data, [1, ...shape]) });
    return Array.from(outputs.logits.data);
  };
  await logits(tensor(new Uint8Array(about.input.shape.reduce((a, b) => a * b)))); // the first takes longer
  return logits;
}

/* Pixels as the model takes them: bytes as they are, or floats with the channels first. */
function tensor(pixels) {
  const { type, channels, mean, std } = about.input;
  if (type === "uint8") return pixels;
  const plane = pixels.length / channels, data = new Float32Array(pixels.length);
  for (let c = 0; c < channels; c++) {
    const [shift, scale] = [mean[c % mean.length], std[c % std.length]];
    for (let i = 0; i < plane; i++) {
      data[c * plane + i] = (Math.fround(pixels[i * channels + c] / 255) - shift) / scale;
    }
  }
  return data;
}

/* Upright, with its own numbers for pixels, whatever its color profile, as where the network was trained. */
const decoded = (file) => createImageBitmap(file, {
  imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none",
});

/* A reader of parts of an image as RGBA, with what is transparent on white. */
function reader(bitmap) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  return (left, top, right, bottom) => {
    const [width, height] = [right - left, bottom - top];
    const rgba = new Uint8ClampedArray(width * height * 4);
    for (let x = 0; x < width; x += STRIP) {
      [canvas.width, canvas.height] = [Math.min(STRIP, width - x), height];
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, height);
      context.drawImage(bitmap, -left - x, -top);
      const part = context.getImageData(0, 0, canvas.width, height).data;
      for (let y = 0; y < height; y++) {
        const row = part.subarray(y * canvas.width * 4, (y + 1) * canvas.width * 4);
        rgba.set(row, (y * width + x) * 4);
      }
    }
    return rgba;
  };
}

function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((x) => Math.exp(x - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((x) => x / sum);
}

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

/* The image, small, with what the network does not see of it faded. */
function thumbnail(bitmap, name) {
  const canvas = element("canvas", "thumbnail");
  const scale = Math.min(1, 320 / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < 1;
  context.imageSmoothingQuality = "high";
  const [left, top, right, bottom] = seen(canvas.width, canvas.height, about.input.whole);
  context.globalAlpha = 0.3;
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  context.beginPath();
  context.rect(left, top, right - left, bottom - top);
  context.clip();
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function ranking(probabilities) {
  const list = element("ol", "classes");
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  for (const i of order.slice(0, about.top)) {
    const item = element("li"), value = element("data", "", `${(100 * probabilities[i]).toFixed(1)}%`);
    const track = element("span", "track"), bar = element("i");
    value.value = probabilities[i].toFixed(6);
    bar.style.width = `${100 * probabilities[i]}%`;
    track.append(bar);
    item.append(element("bdi", "", about.classes[i]), value, track);
    list.append(item);
  }
  return list;
}

async function classified(logits, file) {
  const card = element("article", "card"), text = element("div", "text"), head = element("p", "name");
  const name = file.name || "image";
  head.append(element("bdi", "", name));
  text.append(head);
  try {
    const start = performance.now();
    const bitmap = await decoded(file);
    const outputs = await logits(tensor(fitted(bitmap, reader(bitmap), about.input)));
    const spent = performance.now() - start;
    if (!outputs.every(Number.isFinite)) throw new Error("the model's outputs are not finite");
    head.append(element("small", "", `${bitmap.width} × ${bitmap.height}, ${spent < 10 ? spent.toFixed(1) : Math.round(spent)} ms`));
    text.append(ranking(softmax(outputs)));
    card.append(thumbnail(bitmap, name));
    bitmap.close();
  } catch (error) {
    const unread = error instanceof DOMException;
    text.append(element("p", "fault", unread ? "Not an image that this browser can read." : `Failed: ${error.message}.`));
  }
  card.append(text);
  return card;
}

/* Files wait for those before them, and for the model. */
let last = opened().then(
  (logits) => { notice.textContent = "Ready"; document.body.classList.add("ready"); return logits; },
  (error) => {
    notice.textContent = `The model could not be opened (${error.message}); use a current browser.`;
    document.body.classList.add("failed");
    throw error;
  },
);
last.catch(() => {});

function take(files) {
  for (const file of files) {
    last = last.then(async (logits) => {
      notice.textContent = `Reading ${file.name || "an image"}`;
      const card = await classified(logits, file);
      const outcome = card.querySelector("li bdi") ?? card.querySelector(".fault");
      results.prepend(card);
      notice.textContent = `${file.name || "An image"}: ${outcome.textContent}`;
      return logits;
    });
  }
  last.catch(() => {});
}

chooser.addEventListener("change", () => { take(chooser.files); chooser.value = ""; });
addEventListener("paste", (event) => take(event.clipboardData.files));
addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  take(event.dataTransfer.files);
});
