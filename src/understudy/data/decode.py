"""From a file's bytes to an upright "L" or "RGB" image, or to one of a few fixed reasons why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from understudy.data.source import Unreadable

EMPTY = "zero bytes long"
NOT_AN_IMAGE = "not an image"
DAMAGED = "truncated or damaged"
TOO_LARGE = "more pixels than is safe to decode"
NO_RANGE = "floating-point pixels without a known range"
NOT_OPENED = "cannot be opened"

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".jp2", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

# Only plain rasters: some of Pillow's other formats run programs (EPS) or open further files.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Head:
    """What a file's header tells: the upright image's size in pixels, and whether it is grey."""

    width: int
    height: int
    grey: bool


def head(stream: BinaryIO) -> Head:
    """Read only the header of an image file; raises `Unreadable`."""
    image = _open(stream)
    width, height = image.size
    # Pillow turns TIFFs by itself, and would decode a whole PNG to look for a note at its end.
    if image.format not in ("TIFF", "PNG") and _orientation(image) >= 5:
        width, height = height, width
    return Head(width, height, image.mode[0] in "1LI")


def decode(stream: BinaryIO, at_least: int = 0) -> Image.Image:
    """Decode an image file (an animation's first frame), upright, "L" or "RGB"; raises `Unreadable`.

    With `at_least`, a JPEG may be decoded at a lower scale, with neither side below that many pixels.
    """
    image = _open(stream)
    try:
        if at_least:
            image.draft(None, (at_least, at_least))
        image.load()
        return upright(image)
    except (Unreadable, MemoryError):
        raise
    except Exception as fault:  # Pillow's decoders raise almost anything on broken bytes
        raise Unreadable(DAMAGED) from fault


def upright(image: Image.Image) -> Image.Image:
    """Any Pillow image as "L" or "RGB": turned as EXIF says, transparency on white, 16 bits scaled to 8."""
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode == "F":
        raise Unreadable(NO_RANGE)
    if image.mode[0] == "I":
        # "I" is what Pillow makes of 16-bit files for which it has no mode of 16 bits.
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        mode = "L" if image.mode[0] in "1L" else "RGB"
        layer = image.convert("LA" if mode == "L" else "RGBA")
        ground = Image.new(mode, image.size, "white")
        ground.paste(layer.convert(mode), mask=layer.getchannel("A"))
        return ground
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _open(stream: BinaryIO) -> Image.Image:
    """Pillow's lazy image, or `Unreadable`."""
    start: bytes | None = None
    try:
        start = stream.read(16)
        stream.seek(0)
        image = Image.open(stream, formats=_FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise Unreadable(TOO_LARGE) from fault
    except MemoryError:
        raise
    except Exception as fault:
        if start == b"":
            raise Unreadable(EMPTY) from fault
        # A damaged zip's member may not even give its first bytes.
        known = start is None or start.startswith(_SIGNATURES)
        raise Unreadable(DAMAGED if known else NOT_AN_IMAGE) from fault
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise Unreadable(TOO_LARGE)
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken note beside the pixels leaves the image as it lies
        return 1
