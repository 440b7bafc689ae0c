"""Reproductions of the papers' experiments: `understudy reproduce NAME`."""

from understudy.papers import bit, crd, crd_imagenet, crd_probes, hinton_mnist, hinton_specialists, hinton_speech
from understudy.papers.experiment import Bench, Experiment

_FILES = (hinton_mnist, hinton_specialists, hinton_speech, crd, crd_imagenet, crd_probes, bit)
EXPERIMENTS: dict[str, Experiment] = {one.name: one for file in _FILES for one in file.EXPERIMENTS}

__all__ = ["EXPERIMENTS", "Bench", "Experiment"]
