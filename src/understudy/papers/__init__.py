"""The papers' experiments, each a short program: `understudy reproduce NAME`."""

from understudy.papers import crd, crd_probes, hinton_mnist, hinton_specialists
from understudy.papers.experiment import Bench, Experiment

_ALL = (*hinton_mnist.EXPERIMENTS, *hinton_specialists.EXPERIMENTS, *crd.EXPERIMENTS, *crd_probes.EXPERIMENTS)
EXPERIMENTS: dict[str, Experiment] = {one.name: one for one in _ALL}

__all__ = ["EXPERIMENTS", "Bench", "Experiment"]
