"""What to minimise: each objective a module with a functional twin, usable in any training loop."""

from understudy.objectives.base import Needs, Objective, Setting, WeightedSum
from understudy.objectives.crd import CRD
from understudy.objectives.crd_loss import crd_loss, mutual_information_bound
from understudy.objectives.hard_targets import HardTargets, hard_target_loss
from understudy.objectives.logit_matching import LogitMatching, logit_matching_loss
from understudy.objectives.soft_targets import SoftTargets, ensemble_log_probs, soft_target_loss

OBJECTIVES: dict[str, type[Objective]] = {
    "hard": HardTargets,
    "soft": SoftTargets,
    "logits": LogitMatching,
    "crd": CRD,
}
"""Every objective by the name that recipes and the command line use. A new one adds its line here."""

__all__ = [
    "CRD",
    "OBJECTIVES",
    "HardTargets",
    "LogitMatching",
    "Needs",
    "Objective",
    "Setting",
    "SoftTargets",
    "WeightedSum",
    "crd_loss",
    "ensemble_log_probs",
    "hard_target_loss",
    "logit_matching_loss",
    "mutual_information_bound",
    "soft_target_loss",
]
