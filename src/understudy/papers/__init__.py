"""The papers' experiments, each a short program: `understudy reproduce NAME`."""

from understudy.papers import crd, hinton_mnist, hinton_speech
from understudy.papers.experiment import Bench, Experiment

EXPERIMENTS: dict[str, Experiment] = {
    one.name: one for one in (*hinton_mnist.EXPERIMENTS, *hinton_speech.EXPERIMENTS, *crd.EXPERIMENTS)
}

__all__ = ["EXPERIMENTS", "Bench", "Experiment"]
