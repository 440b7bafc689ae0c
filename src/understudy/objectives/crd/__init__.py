"""Contrastive Representation Distillation (Tian, Krishnan, Isola 2020)."""

from understudy.objectives.crd.loss import crd_loss, mutual_information_bound
from understudy.objectives.crd.objective import CRD

__all__ = ["CRD", "crd_loss", "mutual_information_bound"]
