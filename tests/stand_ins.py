"""Synthetic speech, and runs with made-up results, for tests that need none that are real."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from understudy.config.recipe import DistillRecipe, Recipe, TrainRecipe
from understudy.evaluation.facts import Data, Role, Row, RunFacts, Seed
from understudy.models import InputContract, Network, build
from understudy.pipeline.base import Pipeline


class Tones:
    """Synthetic speech: each word is two noisy tones in a row, pitched by speaker."""

    words: ClassVar = {"zero": (400, 900), "one": (900, 400), "two": (1500, 2200), "three": (2200, 700)}  # Hz
    speakers: ClassVar = {"ada": 1.0, "bob": 1.06}

    def wave(self, word: str, speaker: str = "ada", take: int = 0, rate: int = 8_000) -> np.ndarray:
        """A word as float32, 0.2 to 0.3 s long; takes differ slightly."""
        random = np.random.default_rng([take, *word.encode(), *speaker.encode()])
        parts = []
        for hertz in self.words[word]:
            n = int(rate * random.uniform(0.1, 0.15))
            pitch = hertz * self.speakers[speaker] * random.uniform(0.97, 1.03)
            parts.append(np.sin(2 * np.pi * pitch * np.arange(n) / rate))
        voice = np.concatenate(parts)
        fade = np.minimum(np.arange(len(voice)), np.arange(len(voice))[::-1]) / (0.01 * rate)
        breath, room = 0.03 * random.normal(size=len(voice)), 0.001 * random.normal(size=len(voice))
        return ((0.3 * voice + breath) * fade.clip(0, 1) + room).astype(np.float32)

    def sentence(self, words: list[str], rate: int = 8_000) -> np.ndarray:
        """Words with pauses around them."""
        random = np.random.default_rng(1)
        parts = [0.001 * random.normal(size=1_200)]
        for i, word in enumerate(words):
            parts += [self.wave(word, take=100 + i, rate=rate), 0.001 * random.normal(size=1_200)]
        return np.concatenate(parts).astype(np.float32)

    def write(self, path: Path, samples: np.ndarray, rate: int = 8_000) -> Path:
        import soundfile

        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)
        return path

    def corpus(self, folder: Path, takes: int = 10, words: tuple[str, ...] = tuple(words), rate: int = 8_000) -> Path:
        """A folder in the layout of the Free Spoken Digit Dataset."""
        for number, word in enumerate(words):
            for speaker in self.speakers:
                for take in range(takes):
                    self.write(folder / f"{number}_{speaker}_{take}.flac", self.wave(word, speaker, take, rate), rate)
        return folder


def _row(role: Role, model: str, errors: int, seeds: int, name: str = "") -> Row:
    def score(seed: int) -> Seed:
        wrong = errors + seed
        difference = None if role in ("teacher", "model") else wrong / 10_000
        return Seed(seed=seed, accuracy=1 - wrong / 10_000, errors=wrong, correlation_difference=difference)

    return Row(name=name or role, role=role, model=model, seeds=[score(seed) for seed in range(seeds)])


def _confusion(wrong_threes: int, wrong_others: int) -> Tensor:
    """10,000 samples, 1,010 of them threes."""
    table = torch.zeros(10, 10)
    table[3, 3], table[3, 5] = 1010 - wrong_threes, wrong_threes
    table[0, 0], table[0, 6] = 8990 - wrong_others, wrong_others
    return table


@dataclass
class FakeRun:
    """A finished run with made-up results."""

    path: Path
    recipe: TrainRecipe | DistillRecipe

    @property
    def facts(self) -> RunFacts:
        recipe = self.recipe
        if isinstance(recipe, TrainRecipe):
            rows = [_row("model", recipe.model, 70 if "1200" in recipe.model else 150, recipe.seeds)]
        else:
            rows = [
                _row("teacher", "big", 30, 1),
                *([_row("alone", recipe.student, 110, recipe.seeds)] if recipe.baseline else []),
                *(
                    _row("distilled", recipe.student, 60 + k, recipe.seeds, method * (len(recipe.method) > 1))
                    for k, method in enumerate(recipe.method)
                ),
            ]
        classes = [str(k) for k in range(100)]
        data = Data(name=recipe.data, examples=10_000, train_examples=50_000, classes=classes)
        return RunFacts(name=self.path.name, kind=recipe.kind, data=data, rows=rows)

    def network(self, name: str) -> Network:
        """An untrained network that reads the modality of the recipe."""
        modality = getattr(self.recipe, "modality", "chrominance")
        channels = 1 if modality == "luminance" else 2
        mean, std = (0.5,) * channels, (0.2,) * channels
        return build("cifar:resnet8", InputContract((channels, 8, 8), mean, std, ("a", "b"), modality=modality))


@dataclass
class FakeRuns:
    """Stands in for what trains and scores runs: starts none, records the recipes."""

    recipes: dict[Path, Recipe] = field(default_factory=dict)

    def ensure(self, pipeline: Pipeline[Any], path: Path) -> FakeRun:
        assert self.recipes.setdefault(path, pipeline.recipe) == pipeline.recipe, "one folder, one recipe"
        return FakeRun(path, pipeline.recipe)

    def confusion_of(self, run: FakeRun, name: str) -> Tensor:
        assert name in {"distilled-0", "distilled-1", "distilled-2"}
        return _confusion(130, 70)

    def with_class_priors(self, run: FakeRun, name: str) -> Tensor:
        return _confusion(14, 96)
