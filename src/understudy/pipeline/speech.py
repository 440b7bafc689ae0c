"""`speech-train` and `speech-distill`: acoustic models, whose words are counted after their frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from understudy.config.recipe import SpeechDistillRecipe, SpeechTrainRecipe
from understudy.evaluation.facts import RunFacts
from understudy.models import Network
from understudy.pipeline.distill import Distill
from understudy.pipeline.train import Train
from understudy.pipeline.weights import networks_of
from understudy.runs.run import Run
from understudy.speech.recognition import Recognizer, score_words
from understudy.teachers import Ensemble, Teacher, check_classes, combine

ENSEMBLE = "ensemble"
_TITLES = {"alone": "student alone", "distilled": "distilled", "model": "single model"}


class SpeechTrain(Train[SpeechTrainRecipe]):
    """Trains acoustic models; several seeds are an ensemble."""

    def complete(self, run: Run, facts: RunFacts) -> RunFacts:
        networks = networks_of(run.path)
        together = {ENSEMBLE: _ensemble(list(networks.values()))} if len(networks) > 1 else {}
        return with_words(run, self.recipe.data, facts, together | recognizers(networks))


class SpeechDistill(Distill[SpeechDistillRecipe]):
    """Distills an ensemble of acoustic models into one."""

    def match(self, name: str, network: Network, classes: tuple[str, ...]) -> None:
        """States of the same name are other states where a word is cut into more of them."""
        check_classes(network, name, classes)

    def complete(self, run: Run, facts: RunFacts) -> RunFacts:
        teachers = list(self.teachers.values())
        title = f"ensemble of {len(teachers)}" if len(teachers) > 1 else "teacher"
        at_hand = {"teacher": Recognizer(title, "teacher", 0, joined(teachers))} if teachers else {}
        return with_words(run, self.recipe.data, facts, at_hand | recognizers(networks_of(run.path)))


def with_words(run: Run, data: str, facts: RunFacts, recognizers: dict[str, Recognizer]) -> RunFacts:
    """The facts of a run with its word errors on a prepared folder; writes `decoder.json`."""
    decoder, speech = score_words(recognizers, Path(data))
    decoder.save(run.path)
    return facts.model_copy(update={"speech": speech})


def recognizers(networks: dict[str, Network]) -> dict[str, Recognizer]:
    """A run's networks, the student alone first."""
    found = {}
    for name, network in sorted(networks.items(), key=lambda item: not item[0].startswith("alone")):
        group, _, number = name.rpartition("-")
        role, _, method = group.partition("-")
        found[name] = Recognizer(method or _TITLES[role], role, int(number), Teacher(network))
    return found


def _ensemble(networks: Sequence[Network]) -> Recognizer:
    return Recognizer(f"ensemble of {len(networks)}", "teacher", 0, joined(networks))


def joined(networks: Sequence[Network]) -> Teacher | Ensemble:
    """Networks as one recognizer."""
    return combine([Teacher(network) for network in networks])
