"""What to minimise: each objective a module with a functional twin, usable in any training loop."""

from understudy.objectives.base import Needs, Objective, Setting, WeightedSum
from understudy.objectives.dist import DIST, dist_loss
from understudy.objectives.dkd import DKD, dkd_loss
from understudy.objectives.hard_targets import HardTargets, hard_target_loss
from understudy.objectives.logit_matching import LogitMatching, logit_matching_loss
from understudy.objectives.simkd import SimKD, simkd_loss
from understudy.objectives.soft_targets import SoftTargets, ensemble_log_probs, soft_target_loss
from understudy.objectives.standardised import LogitStandardised, standardised, standardised_logits

OBJECTIVES: dict[str, type[Objective]] = {
    "hard": HardTargets,
    "soft": SoftTargets,
    "logits": LogitMatching,
    "dkd": DKD,
    "dist": DIST,
    "standardised": LogitStandardised,
    "simkd": SimKD,
}
"""Every objective by the name that recipes and the command line use. A new one adds its line here."""

__all__ = [
    "DIST",
    "DKD",
    "OBJECTIVES",
    "HardTargets",
    "LogitMatching",
    "LogitStandardised",
    "Needs",
    "Objective",
    "Setting",
    "SimKD",
    "SoftTargets",
    "WeightedSum",
    "dist_loss",
    "dkd_loss",
    "ensemble_log_probs",
    "hard_target_loss",
    "logit_matching_loss",
    "simkd_loss",
    "soft_target_loss",
    "standardised",
    "standardised_logits",
]
