"""Distillation objectives: losses as modules and as functions, usable in any training loop."""

from understudy.objectives.activation_boundaries import ActivationBoundaries, activation_boundary_loss
from understudy.objectives.attention_transfer import AttentionTransfer, attention_loss
from understudy.objectives.balance import Balance, balancing
from understudy.objectives.base import (
    BuildContext,
    FirstStage,
    Needs,
    Objective,
    PerTeacher,
    WeightedSum,
    ddp_ignored_buffers,
)
from understudy.objectives.batch_norm import synchronize_batch_norm
from understudy.objectives.binary_cross_entropy import BinaryCrossEntropy, binary_cross_entropy_loss
from understudy.objectives.cat_kd import ClassAttention, cam_loss
from understudy.objectives.correlation_congruence import (
    CorrelationCongruence,
    KernelCongruence,
    congruence_loss,
    correlation_loss,
)
from understudy.objectives.cosine import Cosine, cosine_loss
from understudy.objectives.crd import CRD, crd_loss, mutual_information_bound
from understudy.objectives.cross_entropy import CrossEntropy, cross_entropy_loss
from understudy.objectives.dist import DIST, dist_loss
from understudy.objectives.dkd import DKD, dkd_loss
from understudy.objectives.factor_transfer import FactorTransfer, Paraphraser, factor_loss
from understudy.objectives.features import TapPair
from understudy.objectives.fitnet import FitNet, hint_loss
from understudy.objectives.fsp import FlowOfSolution, fsp_loss
from understudy.objectives.kd import KD, PartialKD, ensemble_log_probs, kd_loss, partial_kd_loss
from understudy.objectives.logit_matching import LogitMatching, logit_matching_loss
from understudy.objectives.logit_standardization import LogitStandardization, standardize_logits
from understudy.objectives.mlkd import MultiLevel, multi_level_loss
from understudy.objectives.nst import NeuronSelectivity, nst_loss
from understudy.objectives.ofa import OneForAll, ofa_loss
from understudy.objectives.overhaul import Overhaul, overhaul_loss
from understudy.objectives.patch_similarity import PatchSimilarity, patch_similarity_loss
from understudy.objectives.patches import Patches, patch_loss
from understudy.objectives.pkt import ProbabilisticTransfer, pkt_loss
from understudy.objectives.queue import QueueSimilarity, queue_loss
from understudy.objectives.represent import Represent
from understudy.objectives.review import Review, hierarchical_loss
from understudy.objectives.rkd import RelationalKD, rkd_loss
from understudy.objectives.similarity_preserving import SimilarityPreserving, similarity_loss
from understudy.objectives.simkd import SimKD, simkd_loss
from understudy.objectives.srrl import SoftmaxRegression, srrl_loss
from understudy.objectives.ttm import TransformedTeacher, ttm_loss
from understudy.objectives.vid import VariationalInformation, vid_loss

OBJECTIVES: dict[str, type[Objective]] = {
    "ce": CrossEntropy,
    "bce": BinaryCrossEntropy,
    "kd": KD,
    "logits": LogitMatching,
    "dkd": DKD,
    "dist": DIST,
    "standardized": LogitStandardization,
    "ttm": TransformedTeacher,
    "mlkd": MultiLevel,
    "simkd": SimKD,
    "srrl": SoftmaxRegression,
    "cat": ClassAttention,
    "fitnet": FitNet,
    "at": AttentionTransfer,
    "sp": SimilarityPreserving,
    "cc": CorrelationCongruence,
    "cc-kernel": KernelCongruence,
    "vid": VariationalInformation,
    "rkd": RelationalKD,
    "pkt": ProbabilisticTransfer,
    "nst": NeuronSelectivity,
    "ab": ActivationBoundaries,
    "ft": FactorTransfer,
    "fsp": FlowOfSolution,
    "ofd": Overhaul,
    "review": Review,
    "ofa": OneForAll,
    "crd": CRD,
    "cosine": Cosine,
    "queue": QueueSimilarity,
    "patches": Patches,
    "patch_similarity": PatchSimilarity,
    "represent": Represent,
}
"""The objectives by their names in recipes and on the command line. Register new ones here."""

__all__ = [
    "CRD", "DIST", "DKD", "KD", "OBJECTIVES", "ActivationBoundaries", "AttentionTransfer", "Balance",
    "BinaryCrossEntropy", "BuildContext", "ClassAttention", "CorrelationCongruence", "Cosine", "CrossEntropy",
    "FactorTransfer", "FirstStage", "FitNet", "FlowOfSolution", "KernelCongruence", "LogitMatching",
    "LogitStandardization", "MultiLevel", "Needs", "NeuronSelectivity", "Objective", "OneForAll", "Overhaul",
    "Paraphraser", "PartialKD", "PatchSimilarity", "Patches", "PerTeacher", "ProbabilisticTransfer", "QueueSimilarity",
    "RelationalKD", "Represent", "Review", "SimKD", "SimilarityPreserving", "SoftmaxRegression", "TapPair",
    "TransformedTeacher", "VariationalInformation", "WeightedSum", "activation_boundary_loss", "attention_loss",
    "balancing", "binary_cross_entropy_loss", "cam_loss", "congruence_loss", "correlation_loss", "cosine_loss",
    "crd_loss", "cross_entropy_loss", "ddp_ignored_buffers", "dist_loss", "dkd_loss", "ensemble_log_probs",
    "factor_loss", "fsp_loss", "hierarchical_loss", "hint_loss", "kd_loss", "logit_matching_loss", "multi_level_loss",
    "mutual_information_bound", "nst_loss", "ofa_loss", "overhaul_loss", "partial_kd_loss", "patch_loss",
    "patch_similarity_loss", "pkt_loss", "queue_loss", "rkd_loss", "similarity_loss", "simkd_loss", "srrl_loss",
    "standardize_logits", "synchronize_batch_norm", "ttm_loss", "vid_loss",
]  # fmt: skip
