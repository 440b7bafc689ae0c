"""The ten-line program that goes with an exported file."""

from __future__ import annotations

from understudy.exports.form import Form

_HEAD = '''"""{does}. Needs onnxruntime, numpy{more}."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
{imports}
session = onnxruntime.InferenceSession(Path(__file__).with_name("{file}"))
about = {{key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}}
'''

_IMAGE = """for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = Image.fromarray(np.uint8(np.round(np.clip(image, 0, 65535) / 257))) if image.mode[0] == "I" else image
    image = image.convert("{mode}")
{box}    image = image.resize(({width}, {height}), Image.Resampling.BICUBIC, box, 3.0)
    x = {array}
    logits = session.run(None, {{"input": x}})[0][0].astype(float)
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(path, about["classes"][share.argmax()], f"{{share.max():.4f}}", sep="\\t")
"""

_CENTRE = """    gap = np.subtract(image.size, min(image.size)) / 2  # beside and above the central square
    box = (*gap, *(gap + min(image.size)))
"""
_WHOLE = """    box = (0, 0, image.width, image.height)
"""

_ARRAY = """rows = np.load(sys.argv[1], allow_pickle=False).astype(np.{dtype})  # (N, {shape})
{scale}for row, logits in enumerate(session.run(None, {{"input": rows}})[0].astype(float)):
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(row, about["classes"][share.argmax()], f"{{share.max():.4f}}", sep="\\t")
"""


def predict_script(form: Form, file: str) -> str:
    """A program that names the classes of image files, or of the rows of an .npy file, as the exported `file` does.

    It crops and resizes images as `understudy predict` does.
    """
    if form.image_mode is None:
        shape = ", ".join(map(str, form.shape))
        does = "Name the class of each sample: python predict.py samples.npy"
        scale = f"rows = ({_scaled('rows', form)}).astype(np.float32)\n" if form.preprocessing == "beside" else ""
        body = _ARRAY.format(dtype="uint8" if form.as_bytes else "float32", shape=shape, scale=scale)
        return _HEAD.format(does=does, more="", imports="", file=file) + body
    height, width = form.side
    head = _HEAD.format(
        does="Name the class of each image: python predict.py IMAGE [IMAGE ...]",
        more=" and Pillow",
        imports="from PIL import Image, ImageOps\n",
        file=file,
    )
    pixels = f"np.asarray(image).reshape({height}, {width}, {1 if form.image_mode == 'L' else 3})"
    if form.as_bytes:
        array = f"{pixels}[None]"
    else:
        array = f"{pixels}.transpose(2, 0, 1)[None] / np.float32(255)"
        if form.preprocessing == "beside":
            array = f"({_scaled(array, form)}).astype(np.float32)"
    return head + _IMAGE.format(
        mode=form.image_mode, height=height, width=width, array=array,
        box=_WHOLE if form.contract.fit == "whole" else _CENTRE,
    )  # fmt: skip


def _scaled(x: str, form: Form) -> str:
    """The code that normalises a batch: a value for each channel, or one for all of a vector."""
    ends = ", 1, 1" if form.layout == "NCHW" else ""
    return f'({x} - np.reshape(about["mean"], (-1{ends}))) / np.reshape(about["std"], (-1{ends}))'
