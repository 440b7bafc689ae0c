"""The standalone `predict.py` that goes with an exported file."""

from __future__ import annotations

from understudy.data.formats.decode import NO_RANGE
from understudy.exporters.format import Script
from understudy.exporters.interface import Interface

_HEAD = '''"""{purpose}. Requires {packages}, numpy{more}."""

import json
import sys
from pathlib import Path

import numpy as np
{imports}
{opening}
'''

_IMAGE = """for path in sys.argv[1:]:
    try:
        image = ImageOps.exif_transpose(Image.open(path))
        image.load()
    except Exception as error:  # Pillow raises almost anything on damaged files
        sys.exit(f"{{path}}: not an image that can be read ({{error}})")
    if image.mode == "F":
        sys.exit(f"{{path}}: {no_range}")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = Image.fromarray(np.uint8(np.round(np.clip(image, 0, 65535) / 257))) if image.mode[0] == "I" else image
{margin}    image = image.convert("{mode}").resize(({width}, {height}), Image.Resampling.BICUBIC, {box}, 3.0)
    x = {array}
    logits = run(x)[0].astype(float)
    probs = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    names = (path, metadata["classes"][probs.argmax()])
    shown = ("".join(c if c.isprintable() else repr(c)[1:-1] for c in name) for name in names)
    print(*shown, f"{{probs.max():.4f}}", sep="\\t")
"""

_MARGIN = """    margin = np.subtract(image.size, min(image.size)) / 2  # around the central square
"""
_CENTRAL_SQUARE = "(*margin, *(margin + min(image.size)))"

_ARRAY = """samples = np.load(sys.argv[1], allow_pickle=False).astype(np.{dtype})  # (N, {shape})
{scale}for row, logits in enumerate(run(samples).astype(float)):
    probs = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    name = metadata["classes"][probs.argmax()]
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    print(row, shown, f"{{probs.max():.4f}}", sep="\\t")
"""


def predict_script(interface: Interface, file: str, script: Script) -> str:
    """A program that classifies images, or the rows of an .npy array, with the exported `file`.

    Args:
        script: how it runs the file.

    It crops and resizes images the way `understudy predict` does.
    """
    external, uint8 = interface.preprocessing == "external", interface.layout == "NHWC"
    if interface.image_mode is None:
        head = _head("Classify the rows of an array: python predict.py samples.npy", "", (), file, script)
        return head + _ARRAY.format(
            dtype="uint8" if uint8 else "float32",
            shape=", ".join(map(str, interface.shape)),
            scale=f"samples = {_normalized('samples', interface)}\n" if external else "",
        )
    height, width = interface.image_size
    whole = interface.contract.crop_mode == "squash"
    purpose = "Classify images: python predict.py IMAGE [IMAGE ...]"
    head = _head(purpose, " and Pillow", ("from PIL import Image, ImageOps",), file, script)
    pixels = f"np.asarray(image).reshape({height}, {width}, {1 if interface.image_mode == 'L' else 3})"
    array = f"{pixels}[None]" if uint8 else f"{pixels}.transpose(2, 0, 1)[None] / np.float32(255)"
    return head + _IMAGE.format(
        mode=interface.image_mode,
        margin="" if whole else _MARGIN,
        box=None if whole else _CENTRAL_SQUARE,
        no_range=NO_RANGE,
        height=height,
        width=width,
        array=_normalized(array, interface) if external else array,
    )


def _head(purpose: str, more: str, imports: tuple[str, ...], file: str, script: Script) -> str:
    lines = sorted((*script.imports, *imports), key=lambda line: (line.startswith("from"), line.lower()))
    return _HEAD.format(
        purpose=purpose, packages=script.packages, more=more, imports="\n".join([*lines, ""]),
        opening=script.opening.format(file=file),
    )  # fmt: skip


def _normalized(x: str, interface: Interface) -> str:
    """Code that normalizes a batch with one value per channel."""
    shape = "(-1, 1, 1)" if interface.layout == "NCHW" else "-1"
    mean, std = (f'np.reshape(metadata["{key}"], {shape})' for key in ("mean", "std"))
    return f"(({x} - {mean}) / {std}).astype(np.float32)"
