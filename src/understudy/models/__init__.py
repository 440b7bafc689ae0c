"""Networks built from a name, with the input contract they expect, and their folded inference form."""

from understudy.models.build import FAMILIES, build, is_code, load_network, parse_spec, start_from
from understudy.models.contract import InputContract, select_modality
from understudy.models.fold import fold
from understudy.models.network import Network, eval_mode, read_weights, to_channels_last
from understudy.models.stages import find_head, is_depthwise, stages

__all__ = [
    "FAMILIES", "InputContract", "Network", "build", "eval_mode", "find_head", "fold", "is_code", "is_depthwise",
    "load_network", "parse_spec", "read_weights", "select_modality", "stages", "start_from", "to_channels_last",
]  # fmt: skip
