"""The class of each kind of recipe. A new kind adds its line here, and its schema in `understudy.config.recipe`."""

from __future__ import annotations

from typing import Any

from understudy.config.recipe import Recipe
from understudy.pipeline.base import Pipeline
from understudy.pipeline.distill import Distill
from understudy.pipeline.run_data import Overrides
from understudy.pipeline.specialist import Specialist
from understudy.pipeline.speech import SpeechDistill, SpeechTrain
from understudy.pipeline.train import Train

KINDS: dict[str, type[Pipeline[Any]]] = {
    "train": Train,
    "distill": Distill,
    "compare": Distill,
    "specialist": Specialist,
    "speech-train": SpeechTrain,
    "speech-distill": SpeechDistill,
}


def pipeline_of(recipe: Recipe, overrides: Overrides | None = None) -> Pipeline[Any]:
    """The pipeline of a recipe; nothing is opened yet."""
    return KINDS[recipe.kind](recipe, overrides)
