"""Export to files, one module a format, each verified against its network; and a page that runs in the browser."""

from understudy.exporters.build import (
    CALIBRATE,
    FORMATS,
    TOLERANCE,
    WEB,
    ExportedFile,
    accuracy_lost,
    check_formats,
    export_network,
    file_formats,
)
from understudy.exporters.embedding import embedding_card, embedding_network
from understudy.exporters.format import Format, Script
from understudy.exporters.interface import Interface, interface_of
from understudy.exporters.model_card import ModelCardInfo, export_summary, model_card
from understudy.exporters.predict_script import predict_script
from understudy.exporters.web.page import PAGE, check_page, web_page

__all__ = [
    "CALIBRATE",
    "FORMATS",
    "PAGE",
    "TOLERANCE",
    "WEB",
    "ExportedFile",
    "Format",
    "Interface",
    "ModelCardInfo",
    "Script",
    "accuracy_lost",
    "check_formats",
    "check_page",
    "embedding_card",
    "embedding_network",
    "export_network",
    "export_summary",
    "file_formats",
    "interface_of",
    "model_card",
    "predict_script",
    "web_page",
]
