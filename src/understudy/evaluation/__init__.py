"""Evaluation: what models answer, how good it is, what it costs, and pictures of it."""

from understudy.evaluation.bias import fit_class_bias, parse_bias, parse_priors
from understudy.evaluation.calibration import fit_scale
from understudy.evaluation.cka import CKA, CrossCovariance, cka_between, linear_cka
from understudy.evaluation.correlation import class_correlation, correlation_difference
from understudy.evaluation.cost import cost, cost_of_all, file_size, flops, latency, parameters
from understudy.evaluation.gallery import gallery
from understudy.evaluation.logits import Predictions, evaluating, logits_of
from understudy.evaluation.metrics import accuracy, agreement, brier, confusion, ece, nll, scores, top_k
from understudy.evaluation.probe import Embeddings, Probe, embeddings_of, linear_probe
from understudy.evaluation.score import score_models
from understudy.evaluation.sizes import accuracy_by_size

__all__ = [
    "CKA",
    "CrossCovariance",
    "Embeddings",
    "Predictions",
    "Probe",
    "accuracy",
    "accuracy_by_size",
    "agreement",
    "brier",
    "cka_between",
    "class_correlation",
    "confusion",
    "correlation_difference",
    "cost",
    "cost_of_all",
    "ece",
    "embeddings_of",
    "evaluating",
    "file_size",
    "fit_class_bias",
    "fit_scale",
    "flops",
    "gallery",
    "latency",
    "linear_cka",
    "linear_probe",
    "logits_of",
    "nll",
    "parameters",
    "parse_bias",
    "parse_priors",
    "score_models",
    "scores",
    "top_k",
]
