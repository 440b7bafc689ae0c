"""Networks built from a name, with the input contract they expect, and their folded inference form."""

from understudy.models.build import FAMILIES, build, is_code, load_network, names_model, parse_spec, restore, start_from
from understudy.models.contract import InputContract, select_modality
from understudy.models.fold import fold
from understudy.models.given import as_given, with_own_classes
from understudy.models.heads import find_heads
from understudy.models.network import Network, eval_mode, to_channels_last
from understudy.models.quantization import Ranges, activation_ranges, as_float, calibrate, quantize
from understudy.models.stages import is_depthwise, stages
from understudy.models.weights import read_weights

__all__ = [
    "FAMILIES", "InputContract", "Network", "Ranges", "activation_ranges", "as_float", "as_given", "build",
    "calibrate", "eval_mode", "find_heads", "fold", "is_code", "is_depthwise", "load_network", "names_model",
    "parse_spec", "quantize", "read_weights", "restore", "select_modality", "stages", "start_from",
    "to_channels_last", "with_own_classes",
]  # fmt: skip
