"""Image decoding to upright "L" or "RGB" images, with a fixed set of reasons for failure."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image

from understudy.data.source import ImageHeader, Unreadable

EMPTY = "empty file"
NOT_AN_IMAGE = "not an image"
DAMAGED = "truncated or corrupt"
TOO_LARGE = "too many pixels to decode safely"
NO_RANGE = "floating-point pixels of unknown range"
NOT_OPENED = "cannot be opened"

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".jp2", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

# Raster formats only: some others that Pillow supports run programs (EPS) or open further files.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP")

_ORIENTATION = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_header(stream: BinaryIO) -> ImageHeader:
    """Read the header of an image file without decoding it; raises `Unreadable`."""
    image = _open(stream)
    width, height = image.size
    # Pillow rotates TIFFs itself, and would decode a whole PNG to find EXIF data at its end.
    if image.format not in ("TIFF", "PNG") and _orientation(image) >= 5:
        width, height = height, width
    return ImageHeader(width, height, image.mode[0] in "1LI")


def decode(stream: BinaryIO) -> Image.Image:
    """Decode an image file, or an animation's first frame, to an upright "L" or "RGB" image; raises `Unreadable`."""
    image = _open(stream)
    try:
        image.load()
        return upright(image)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # Pillow raises almost anything on corrupt data
        raise Unreadable(DAMAGED) from error


def upright(image: Image.Image) -> Image.Image:
    """Convert to "L" or "RGB": apply the EXIF orientation, blend transparency with white, scale 16 bits to 8."""
    transpose = _TRANSPOSES.get(_orientation(image))
    if transpose is not None:
        image = image.transpose(transpose)
    if image.mode == "F":
        raise Unreadable(NO_RANGE)
    if image.mode[0] == "I":
        # Pillow opens 16-bit files as "I" if it has no 16-bit mode for them
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        mode = "L" if image.mode[0] in "1L" else "RGB"
        foreground = image.convert("LA" if mode == "L" else "RGBA")
        background = Image.new(mode, image.size, "white")
        background.paste(foreground.convert(mode), mask=foreground.getchannel("A"))
        return background
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _open(stream: BinaryIO) -> Image.Image:
    """Open without decoding; raises `Unreadable`."""
    start: bytes | None = None
    try:
        start = stream.read(16)
        stream.seek(0)
        image = Image.open(stream, formats=_FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(TOO_LARGE) from error
    except MemoryError:
        raise
    except Exception as error:
        if start == b"":
            raise Unreadable(EMPTY) from error
        # even the first bytes may be unreadable in a corrupt zip
        known = start is None or start.startswith(_SIGNATURES)
        raise Unreadable(DAMAGED if known else NOT_AN_IMAGE) from error
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise Unreadable(TOO_LARGE)
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # corrupt EXIF data is ignored
        return 1
