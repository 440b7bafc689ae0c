"""Image decoding to upright "L" or "RGB" images, with a fixed set of reasons for failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image

from understudy.data.source import ImageHeader, Unreadable

EMPTY = "empty file"
NOT_AN_IMAGE = "not an image"
DAMAGED = "truncated or corrupt"
TOO_LARGE = "too many pixels to decode safely"
TOO_MANY_BYTES = "file too large to decode safely"
NO_RANGE = "floating-point pixels of unknown range"
NOT_OPENED = "cannot be opened"
NOT_A_FILE = "not a regular file"
RAW = "camera raw"
LINK = "link in an archive"
HEIC = "HEIC, which needs pip install 'understudy[heic]'"

MAX_PIXELS = 2**26
"""Images of more pixels are not decoded. Other limits are lower, as the decoders of some formats need more memory."""
MAX_BYTES = 2**27
"""Larger files are not decoded."""

HEAD = 64
"""So many of a file's first bytes tell its format."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".jp2", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jpe", ".jif", ".apng", ".dib", ".heic", ".heif", ".hif"),
)
"""Names of files that must be images. Others may be, by their content."""
RAW_SUFFIXES = (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")

# Raster formats only: some others that Pillow supports run programs (EPS) or open further files.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_SHARED_BRANDS = (b"mif1", b"msf1")  # of HEIC and AVIF
_LIMITS = {"JPEG2000": 26_000_000, "WEBP": 30_000_000}  # pixels, for about 500 MB
_LIMIT = 50_500_000  # of other formats; JPEG can be decoded at half its size beyond that
_MOST_SCANS = 64
_LONGEST = 2**16  # pixels of a side
_LEAST = 16  # pixels of a side; a JPEG can be decoded at exactly half its size only if there are so many
_STRIP = 2**22  # pixels converted at once

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


def looks_like_image(start: bytes) -> bool:
    """Whether a file that starts with these (64) bytes is an image, whatever its name.

    >>> looks_like_image(b"GIF89a"), looks_like_image(b"BMW and others")
    (True, False)
    """
    return (
        start.startswith(_SIGNATURES)
        or (start.startswith(b"BM") and start[6:10] == bytes(4))
        or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")
        or re.match(rb"P[1-6]\s+(#|\d+\s)", start) is not None
        or (start[4:8] == b"ftyp" and (start[8:12] in (b"avif", b"avis", *_SHARED_BRANDS) or _is_heif(start)))
    )


def read_header(stream: BinaryIO) -> ImageHeader:
    """Read the header of an image file without decoding it; raises `Unreadable`."""
    image = _open(stream)
    width, height = image.size
    # Pillow rotates TIFFs itself, and would decode a whole PNG to find EXIF data at its end.
    if image.format not in ("TIFF", "PNG") and _orientation(image) >= 5:
        width, height = height, width
    return ImageHeader(width, height, image.mode[0] in "1LI")


def decode(stream: BinaryIO, least: int = 0) -> Image.Image:
    """Decode an image file, or an animation's first frame, to an upright "L" or "RGB" image; raises `Unreadable`.

    Args:
        stream: the bytes of the file.
        least: pixels of the shorter side that are enough; if set, JPEGs are decoded at a half, quarter or eighth of
            their size where that leaves as many, which takes a fraction of the time.
    """
    try:
        return upright(_loaded(stream, least))  # which can free what it is given
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # Pillow raises almost anything on corrupt data
        raise Unreadable(DAMAGED) from error


def halvings(width: int, height: int, least: int) -> int:
    """How often an image can be halved until its shorter side would have fewer than `least` pixels; 0 if that is 0.

    >>> halvings(1600, 1200, 448), halvings(500, 375, 448), halvings(500, 375, 0)
    (1, 0, 0)
    """
    return max((min(width, height) // least).bit_length() - 1, 0) if least else 0


def _loaded(stream: BinaryIO, least: int) -> Image.Image:
    image = _open(stream, least)
    if image.info.get("progressive") and _scans(stream) > _MOST_SCANS:
        raise Unreadable(TOO_LARGE)
    image.load()
    return image


def _scans(stream: BinaryIO) -> int:
    """The scans of a progressive JPEG: each goes over all pixels, and takes no more than a hundred bytes."""
    position = stream.tell()
    stream.seek(0)
    count = stream.read().count(b"\xff\xda")
    stream.seek(position)
    return count


def upright(image: Image.Image) -> Image.Image:
    """Convert to "L" or "RGB": apply the EXIF orientation, blend transparency with white, scale 16 bits to 8."""
    transpose = _TRANSPOSES.get(_orientation(image))
    image = _opaque(image)
    return image if transpose is None else image.transpose(transpose)


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise Unreadable(NO_RANGE)
    if image.mode[0] == "I":
        return _by_strips(image, "L", _eight_bits)
    if image.has_transparency_data:
        mode = "L" if image.mode[0] in "1L" else "RGB"
        return _by_strips(image, mode, lambda strip: _on_white(strip, mode))
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _by_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An image converted a few rows at a time, as the intermediate results take several times its memory."""
    converted = Image.new(mode, image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(convert(strip), (0, top))
    return converted


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow opens 16-bit files as "I" if it has no 16-bit mode for them
    wide = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _on_white(image: Image.Image, mode: str) -> Image.Image:
    foreground = image.convert("LA" if mode == "L" else "RGBA")
    background = Image.new(mode, image.size, "white")
    background.paste(foreground.convert(mode), mask=foreground.getchannel("A"))
    return background


def _open(stream: BinaryIO, least: int = 0) -> Image.Image:
    """Open without decoding, see `decode`; raises `Unreadable`."""
    start: bytes | None = None
    try:
        start = stream.read(HEAD)
        stream.seek(0)
        image = _open_heif(stream) if _is_heif(start) else Image.open(stream, formats=_FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable(TOO_LARGE) from error
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        if start == b"":
            raise Unreadable(EMPTY) from error
        # even the first bytes may be unreadable in a corrupt zip
        known = start is None or looks_like_image(start) or start.startswith((b"BM", b"RIFF"))
        raise Unreadable(DAMAGED if known else NOT_AN_IMAGE) from error
    if width * height > MAX_PIXELS or max(width, height) > _LONGEST:
        raise Unreadable(TOO_LARGE)
    times = halvings(width, height, max(least, _LEAST)) if least else 0
    if width * height > _LIMITS.get(image.format or "", _LIMIT):
        if image.format not in ("JPEG", "MPO"):
            raise Unreadable(TOO_LARGE)
        times = max(times, 1)
    if times and image.format in ("JPEG", "MPO"):
        image.draft(None, (width >> min(times, 3), height >> min(times, 3)))
    if image.mode == "F":
        raise Unreadable(NO_RANGE)
    return image


def _is_heif(start: bytes) -> bool:
    if start[4:8] != b"ftyp":
        return False
    brand = start[8:12]
    return brand in _HEIF_BRANDS or (brand in _SHARED_BRANDS and b"avif" not in start[16:])


def _open_heif(stream: BinaryIO) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile  # type: ignore[reportMissingImports]
    except ImportError as error:
        raise Unreadable(HEIC) from error
    return HeifImageFile(stream)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # corrupt EXIF data is ignored
        return 1
