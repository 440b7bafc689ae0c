"""The papers' experiments, each a short program: `understudy reproduce NAME`."""

from understudy.papers import hinton_mnist
from understudy.papers.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in hinton_mnist.EXPERIMENTS}

__all__ = ["EXPERIMENTS", "Experiment"]
