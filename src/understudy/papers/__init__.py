"""The papers' experiments, each a short program: `understudy reproduce NAME`."""

from understudy.papers import crd, crd_probes, hinton_mnist
from understudy.papers.experiment import Bench, Experiment

EXPERIMENTS: dict[str, Experiment] = {
    one.name: one for one in (*hinton_mnist.EXPERIMENTS, *crd.EXPERIMENTS, *crd_probes.EXPERIMENTS)
}

__all__ = ["EXPERIMENTS", "Bench", "Experiment"]
