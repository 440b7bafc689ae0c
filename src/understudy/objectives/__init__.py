"""What to minimise: each objective a module with a functional twin, usable in any training loop."""

from understudy.objectives.activation_boundaries import ActivationBoundaries, activation_boundary_loss
from understudy.objectives.attention import AttentionTransfer, attention_loss
from understudy.objectives.base import Needs, Objective, PerTeacher, Setting, WeightedSum, kept_alike
from understudy.objectives.correlation import CorrelationCongruence, correlation_loss
from understudy.objectives.crd import CRD
from understudy.objectives.crd_loss import crd_loss, mutual_information_bound
from understudy.objectives.dist import DIST, dist_loss
from understudy.objectives.dkd import DKD, dkd_loss
from understudy.objectives.factor_transfer import FactorTransfer, Paraphraser, factor_loss
from understudy.objectives.fitnet import FitNet, hint_loss
from understudy.objectives.fsp import FlowOfSolution, fsp_loss
from understudy.objectives.hard_targets import HardTargets, hard_target_loss
from understudy.objectives.logit_matching import LogitMatching, logit_matching_loss
from understudy.objectives.nst import NeuronSelectivity, nst_loss
from understudy.objectives.pkt import ProbabilisticTransfer, pkt_loss
from understudy.objectives.rest_targets import RestTargets, rest_target_loss
from understudy.objectives.rkd import RelationalKD, rkd_loss
from understudy.objectives.sigmoid_targets import SigmoidTargets, sigmoid_loss
from understudy.objectives.similarity import SimilarityPreserving, similarity_loss
from understudy.objectives.simkd import SimKD, simkd_loss
from understudy.objectives.soft_targets import SoftTargets, ensemble_log_probs, soft_target_loss
from understudy.objectives.standardised import LogitStandardised, standardised, standardised_logits
from understudy.objectives.taps import TapPair
from understudy.objectives.vid import VariationalInformation, vid_loss

OBJECTIVES: dict[str, type[Objective]] = {
    "hard": HardTargets,
    "sigmoid": SigmoidTargets,
    "soft": SoftTargets,
    "logits": LogitMatching,
    "dkd": DKD,
    "dist": DIST,
    "standardised": LogitStandardised,
    "simkd": SimKD,
    "fitnet": FitNet,
    "at": AttentionTransfer,
    "sp": SimilarityPreserving,
    "cc": CorrelationCongruence,
    "vid": VariationalInformation,
    "rkd": RelationalKD,
    "pkt": ProbabilisticTransfer,
    "nst": NeuronSelectivity,
    "ab": ActivationBoundaries,
    "ft": FactorTransfer,
    "fsp": FlowOfSolution,
    "crd": CRD,
}
"""Every objective by the name that recipes and the command line use. A new one adds its line here."""

ALIASES = {"kd": "soft"}
"""Other names of objectives: the field says knowledge distillation for soft targets."""

__all__ = [
    "ALIASES",
    "CRD",
    "DIST",
    "DKD",
    "OBJECTIVES",
    "ActivationBoundaries",
    "AttentionTransfer",
    "CorrelationCongruence",
    "FactorTransfer",
    "FitNet",
    "FlowOfSolution",
    "HardTargets",
    "LogitMatching",
    "LogitStandardised",
    "Needs",
    "NeuronSelectivity",
    "Objective",
    "Paraphraser",
    "PerTeacher",
    "ProbabilisticTransfer",
    "RelationalKD",
    "RestTargets",
    "Setting",
    "SigmoidTargets",
    "SimKD",
    "SimilarityPreserving",
    "SoftTargets",
    "TapPair",
    "VariationalInformation",
    "WeightedSum",
    "activation_boundary_loss",
    "attention_loss",
    "correlation_loss",
    "crd_loss",
    "dist_loss",
    "dkd_loss",
    "ensemble_log_probs",
    "factor_loss",
    "fsp_loss",
    "hard_target_loss",
    "hint_loss",
    "kept_alike",
    "logit_matching_loss",
    "mutual_information_bound",
    "nst_loss",
    "pkt_loss",
    "rest_target_loss",
    "rkd_loss",
    "sigmoid_loss",
    "similarity_loss",
    "simkd_loss",
    "soft_target_loss",
    "standardised",
    "standardised_logits",
    "vid_loss",
]
