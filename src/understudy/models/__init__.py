"""Networks by name, with what they must be fed, and their inference form."""

from understudy.models.build import FAMILIES, build, is_code, load_network, parse_spec, start_from
from understudy.models.contract import InputContract, seen
from understudy.models.fold import fold
from understudy.models.narrow import narrow
from understudy.models.network import Network, laid_out, read_weights
from understudy.models.stages import find_head, is_depthwise, stages

__all__ = [
    "FAMILIES",
    "InputContract",
    "Network",
    "build",
    "find_head",
    "fold",
    "is_code",
    "is_depthwise",
    "laid_out",
    "load_network",
    "narrow",
    "parse_spec",
    "read_weights",
    "seen",
    "stages",
    "start_from",
]
