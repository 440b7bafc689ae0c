"""`index.html`: a page that classifies images in the browser, with the model, its runtime and all else in it."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy.config.places import shown
from understudy.errors import UnderstudyError
from understudy.escaping import printable
from understudy.exporters.build import ExportedFile
from understudy.exporters.interface import Interface
from understudy.exporters.model_card import ModelCardInfo
from understudy.exporters.web.runtime import VERSION, Runtime
from understudy.reporting.wording import compact, count, percent

PAGE = "index.html"
_TOP = 5  # classes shown


def check_page(interface: Interface) -> None:
    """Raise UnderstudyError if the inputs of the files cannot come from image files."""
    if interface.image_mode is None:
        plain = "vectors" if interface.layout == "ND" else f"images of {interface.shape[0]} channels"
        raise UnderstudyError(
            "the page of --format web classifies image files, and this network takes "
            f"{interface.contract.modality or plain}; leave out web"
        )


def web_page(info: ModelCardInfo, interface: Interface, file: ExportedFile, runtime: Runtime) -> str:
    """The page, as one string of HTML that loads nothing.

    Args:
        file: The exported ONNX file that it holds.

    Raises:
        UnderstudyError: The file's inputs cannot come from images.
    """
    check_page(interface)
    whole = interface.contract.crop_mode == "squash"
    return _environment().get_template(f"{PAGE}.j2").render(
        name=printable(info.name), version=VERSION, about=_about(interface), about_line=_about_line(info, file),
        classes=count(len(interface.contract.classes)),
        crop_line="Images are squeezed to a square." if whole else "Of an image, it sees the central square.",
        model=_packed(file.file.read_bytes()), script=_packed(runtime.script), binary=_packed(runtime.binary),
    )  # fmt: skip


def _about(interface: Interface) -> dict[str, Any]:
    """What the page's script has to know of the model."""
    contract, external = interface.contract, interface.preprocessing == "external"
    height, width = interface.image_size
    return {
        "classes": [printable(name) for name in contract.classes],
        "top": min(_TOP, len(contract.classes)),
        "input": {
            "type": "uint8" if interface.layout == "NHWC" else "float32", "shape": interface.shape,
            "width": width, "height": height, "channels": 1 if interface.image_mode == "L" else 3,
            "whole": contract.crop_mode == "squash",
            "mean": contract.mean if external else [0], "std": contract.std if external else [1],
        },
    }  # fmt: skip


def _about_line(info: ModelCardInfo, file: ExportedFile) -> str:
    data, tested = printable(shown(info.data)), f"{info.examples:,} test images"
    right = f"agrees with its network on {percent(file.agreement, 1)} of {tested} of {data}"
    if file.accuracy is not None:
        right = f"right on {percent(file.accuracy, 1)} of {tested} of {data}"
    return f"{file.file.name}, {compact(file.bytes, 'B')}: {right}"


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("understudy.exporters", "web"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
