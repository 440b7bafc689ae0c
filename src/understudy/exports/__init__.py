"""Files that run elsewhere: ONNX, `torch.export`, int8, each held against the network it was made from."""

from understudy.exports.card import About, card_facts, model_card
from understudy.exports.form import Form, form_of
from understudy.exports.making import (
    CALIBRATE,
    FORMATS,
    TOLERANCE,
    Exported,
    Measured,
    check_formats,
    export_network,
)
from understudy.exports.script import predict_script

__all__ = [
    "CALIBRATE",
    "FORMATS",
    "TOLERANCE",
    "About",
    "Exported",
    "Form",
    "Measured",
    "card_facts",
    "check_formats",
    "export_network",
    "form_of",
    "model_card",
    "predict_script",
]
