"""Export to ONNX, `torch.export` and int8; each file is verified against the network it was exported from."""

from understudy.exporters.build import (
    CALIBRATE,
    FORMATS,
    TOLERANCE,
    ExportedFile,
    check_formats,
    export_network,
)
from understudy.exporters.interface import Interface, interface_of
from understudy.exporters.model_card import ModelCardInfo, export_summary, model_card
from understudy.exporters.predict_script import predict_script

__all__ = [
    "CALIBRATE",
    "FORMATS",
    "TOLERANCE",
    "ExportedFile",
    "Interface",
    "ModelCardInfo",
    "check_formats",
    "export_network",
    "export_summary",
    "interface_of",
    "model_card",
    "predict_script",
]
