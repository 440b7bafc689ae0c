"""Evaluation: predictions, metrics, costs, representations, and the facts of a report."""

from understudy.evaluation.calibration import fit_class_bias, fit_scale, parse_bias, parse_priors
from understudy.evaluation.cka import CKA, cka_between, linear_cka
from understudy.evaluation.confidence import coverage_curve
from understudy.evaluation.correlation import class_correlation, correlation_difference
from understudy.evaluation.cost import cost, ensemble_cost, file_size, flops, latency, parameters
from understudy.evaluation.covariance import Covariance
from understudy.evaluation.facts import Probe
from understudy.evaluation.gallery import gallery
from understudy.evaluation.logits import Predictions, accuracy_by_size, predict_logits
from understudy.evaluation.metrics import accuracy, agreement, brier, confusion, ece, nll, scores, top_k
from understudy.evaluation.mistakes import mistakes, surest_mistakes
from understudy.evaluation.outcomes import discordant, packed
from understudy.evaluation.probe import Embeddings, extract_embeddings, linear_probe
from understudy.evaluation.score import score_models

__all__ = [
    "CKA", "Covariance", "Embeddings", "Predictions", "Probe", "accuracy", "accuracy_by_size", "agreement", "brier",
    "cka_between", "class_correlation", "confusion", "correlation_difference", "cost", "coverage_curve",
    "discordant", "ece", "ensemble_cost", "extract_embeddings", "file_size", "fit_class_bias", "fit_scale", "flops",
    "gallery", "latency", "linear_cka", "linear_probe", "mistakes", "nll", "packed", "parameters", "parse_bias",
    "parse_priors", "predict_logits", "score_models", "scores", "surest_mistakes", "top_k",
]  # fmt: skip
