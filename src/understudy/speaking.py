"""Speech: a corpus prepared, acoustic models trained and distilled on it, and words heard in recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy import api
from understudy.data import Unreadable
from understudy.data.frames import FRAMES, Sequences, Windows
from understudy.data.gather import PARTS
from understudy.errors import UnderstudyError
from understudy.evaluation.metrics import accuracy
from understudy.files import write_whole
from understudy.models import Network, load_network
from understudy.preparing import networks_of, weights_of
from understudy.recipe import DistillRecipe
from understudy.reporting import RunFacts, render
from understudy.runs import Run, find_run
from understudy.speech.audio import read_sound
from understudy.speech.corpus import open_corpus
from understudy.speech.decoding import (
    DECODER,
    Decoder,
    Errors,
    Word,
    choose_penalty,
    posteriors_of,
    priors_of,
    word_errors,
)
from understudy.speech.examples import example
from understudy.speech.features import log_mel, normalised
from understudy.speech.preparation import SPEECH, Prepared, prepare_corpus, read_prepared
from understudy.teachers import Ensemble, Teacher

MODEL = "mlp:512x4"
TRAINING: dict[str, Any] = {"model": MODEL, "epochs": 10, "batch_size": 256}
DISTILLING: dict[str, Any] = {
    "student": MODEL, "epochs": 10, "batch_size": 256, "temperature": 2.0, "hard_weight": 0.5,
}  # fmt: skip
"""Where a caller says nothing else; the temperature and the labels' weight are among those of Hinton et al. 2015."""
ENSEMBLE = "ensemble"


def prepare(
    corpus: str | Path,
    to: str | Path | None = None,
    *,
    states: int = 8,
    mixtures: int = 2,
    strings: bool | None = None,
    hold_out: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[Path, Prepared]:
    """Features and alignment of a corpus, in a folder that every verb takes as its data.

    Args:
        corpus: a folder, a zip or a table of recordings; see `understudy.speech.corpus.open_corpus`.
        to: the folder to write; runs/speech-NAME where unset.
        states: HMM states of a word.
        mixtures: Gaussians of a state, in the alignment.
        strings: join recordings of single words to connected strings; where unset, wherever they are of single words.
        hold_out: speakers to test on, all others being for training.

    Raises:
        UnderstudyError: what is no corpus, or one of which no part is left once what is unusable is set aside.
    """
    folder = Path(to) if to is not None else _place_of(Path(corpus))
    if (folder / SPEECH).exists() and not overwrite:
        raise UnderstudyError(f"{folder} holds prepared speech; choose another --to folder or pass --overwrite")
    recordings = open_corpus(Path(corpus), hold_out=hold_out, seed=seed)
    return folder, prepare_corpus(
        str(corpus), recordings, folder,
        states=states, mixtures=mixtures, strings=strings, seed=seed, hold_out=hold_out,
    )  # fmt: skip


def prepared_folder(place: str | Path) -> Path:
    """A prepared folder: the one named, or that of a corpus, which is prepared now if it was not."""
    path = Path(place)
    if (path / FRAMES).is_file():
        read_prepared(path)
        return path
    folder = _place_of(path)
    if not (folder / SPEECH).exists():
        return prepare(path, folder)[0]
    known = read_prepared(folder)[0].corpus
    if known != str(place):
        raise UnderstudyError(
            f"{folder} was prepared from {known}, not from {place}; prepare that into another folder: understudy "
            f"speech prepare {place} --to FOLDER"
        )
    return folder


def _place_of(corpus: Path) -> Path:
    return Path("runs") / f"speech-{re.sub(r'[^A-Za-z0-9._]+', '-', corpus.stem).strip('-.') or 'corpus'}"


def train(folder: str | Path, *, members: int = 1, run: str | Path | None = None, **fields: Any) -> Run:
    """`understudy.train` on frames, and then the words that the networks hear.

    Args:
        folder: a prepared folder, or a corpus.
        members: networks that differ in their initial weights; several are an ensemble.
        **fields: any field of `TrainRecipe`.
    """
    values = {**TRAINING, **fields}
    return finish(api.train(str(prepared_folder(folder)), values.pop("model"), run=run, seeds=members, **values))


def distill(
    folder: str | Path, teacher: str | Path | Sequence[str | Path], *, run: str | Path | None = None, **fields: Any
) -> Run:
    """`understudy.distill` on frames, and then the words that teacher and students hear."""
    values = {**DISTILLING, **fields}
    teachers = [str(teacher)] if isinstance(teacher, (str, Path)) else [str(one) for one in teacher]
    return finish(api.distill(str(prepared_folder(folder)), teachers, values.pop("student"), run=run, **values))


def is_speech(run: Run) -> bool:
    """Whether a run learnt from prepared speech."""
    return (Path(run.recipe.data) / SPEECH).is_file()


@dataclass(frozen=True)
class _Listener:
    """Who listens: a network or an ensemble, as a row of the page names it."""

    title: str
    role: str
    seed: int
    model: Teacher | Ensemble


def finish(run: Run) -> Run:
    """Choose each network's word insertion penalty, count its word errors, and add both to a finished run's page.

    Writes `decoder.json`, and what is heard into `evaluation.json` and `report.html`.
    """
    prepared, sequences = read_prepared(Path(run.recipe.data))
    listeners = _listeners(run)
    train_rows = (sequences.parts == PARTS.index("train")).repeat_interleave(sequences.starts.diff())
    priors = priors_of(sequences.targets[train_rows], len(prepared.models.names))
    decoder = Decoder(prepared.features, prepared.models, priors, {})
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    shown: list[tuple[str, str, Tensor]] = []
    pick = _longest(prepared)
    for name, one in listeners.items():
        held, test = prepared.of("validation"), prepared.of("test")
        posteriors = _posteriors(one, sequences, [*held, *test])
        said = [prepared.utterances[i].words for i in held]
        decoder.penalty[name] = choose_penalty(decoder, [posteriors[i] for i in held], said)
        heard = decoder.paths([posteriors[i] for i in test], [decoder.penalty[name]])[0]
        targets = torch.cat([sequences.targets[_frames(sequences, i)] for i in test])
        measured = {
            "seed": one.seed,
            "accuracy": accuracy(torch.cat([posteriors[i] for i in test]), targets),
            "penalty": decoder.penalty[name],
            "errors": {kind: found.to_json() for kind, found in _errors(prepared, test, heard).items()},
        }
        rows.setdefault((one.title, one.role), []).append(measured)
        if len(rows[one.title, one.role]) == 1:
            shown.append((one.role, one.title, posteriors[pick]))
    facts = {
        "kinds": list(next(iter(rows.values()))[0]["errors"]),
        "rows": [{"name": title, "role": role, "seeds": seeds} for (title, role), seeds in rows.items()],
        "example": example(prepared, sequences, pick, shown),
        "notes": _notes(prepared),
    }
    decoder.save(run.path)
    evaluation = json.loads((run.path / "evaluation.json").read_text()) | {"speech": facts}
    checked = RunFacts.from_json(evaluation)
    write_whole(run.path / "evaluation.json", json.dumps(evaluation) + "\n")
    write_whole(run.report, render(checked))
    return run


def _listeners(run: Run) -> dict[str, _Listener]:
    """Everyone whose words are counted: the ensemble, the student alone, the distilled ones."""
    recipe = run.recipe
    networks = networks_of(run.path)
    found: dict[str, _Listener] = {}
    if isinstance(recipe, DistillRecipe):
        teachers = [load_network(file) for name in recipe.teacher for file in weights_of(name)]
        found["teacher"] = _Listener(f"ensemble of {len(teachers)}" if len(teachers) > 1 else "teacher", "teacher", 0,
                                     _together(teachers))  # fmt: skip
    elif len(networks) > 1:
        found[ENSEMBLE] = _Listener(f"ensemble of {len(networks)}", "teacher", 0, _together([*networks.values()]))
    titles = {"alone": "student alone", "distilled": "distilled", "model": "single model"}
    for name, network in sorted(networks.items(), key=lambda item: not item[0].startswith("alone")):
        group, _, number = name.rpartition("-")
        role, _, method = group.partition("-")
        found[name] = _Listener(method or titles[role], role, int(number), Teacher(network))
    return found


def _together(networks: Sequence[Network]) -> Teacher | Ensemble:
    frozen = [Teacher(network) for network in networks]
    return Ensemble(frozen) if len(frozen) > 1 else frozen[0]


def _frames(sequences: Sequences, utterance: int) -> slice:
    return slice(int(sequences.starts[utterance]), int(sequences.starts[utterance + 1]))


def _posteriors(listener: _Listener, sequences: Sequences, utterances: Sequence[int]) -> dict[int, Tensor]:
    """(T, S) log-probabilities of each utterance, by its number."""
    spans = [_frames(sequences, i) for i in utterances]
    rows = torch.cat([torch.arange(span.start, span.stop) for span in spans])
    found = posteriors_of(listener.model, sequences.windows().chosen(rows))
    return dict(zip(utterances, found.split([span.stop - span.start for span in spans]), strict=True))


def _errors(prepared: Prepared, test: Sequence[int], heard: Sequence[Sequence[Word]]) -> dict[str, Errors]:
    """Word errors of all the utterances of a part, and of each kind where there are two."""
    kinds = list(dict.fromkeys(prepared.utterances[i].kind for i in test))
    found = {}
    for kind in ("all", *(kinds if len(kinds) > 1 else ())):
        pairs = [
            (prepared.utterances[i].words, [one.word for one in words])
            for i, words in zip(test, heard, strict=True)
            if kind in ("all", prepared.utterances[i].kind)
        ]
        found[kind] = word_errors([said for said, _ in pairs], [words for _, words in pairs])
    return found


def _longest(prepared: Prepared) -> int:
    """The test utterance that is shown: the first of those with five words, or with the most below that."""
    return max(prepared.of("test"), key=lambda i: (min(len(prepared.utterances[i].words), 5), -i))


def _notes(prepared: Prepared) -> list[str]:
    notes = []
    if prepared.hold_out:
        notes.append(f"Tested on speakers who were not heard in training: {', '.join(prepared.hold_out)}.")
    if prepared.clipped:
        notes.append(f"{len(prepared.clipped):,} recordings are clipped; they are used as they are.")
    return notes


@dataclass(frozen=True)
class Transcript:
    """What was heard in one file.

    Attributes:
        words: with their times.
        clipped: whether its peaks are cut off, so that it may be misheard.
        error: why it could not be read, or None.
    """

    path: str
    words: tuple[Word, ...] = ()
    clipped: bool = False
    error: str | None = None


def decode(run: str | Path, files: Sequence[str | Path], *, network: str = "") -> list[Transcript]:
    """The words in audio files, with their times.

    Args:
        run: a folder of `speech train` or `speech distill`.
        network: one of its networks, as "distilled-0", or "ensemble"; the first distilled one, or of a run that trained
            several alike all together, where unset.

    A file that cannot be read gives a transcript whose `error` says why.
    """
    found = find_run(Path(run))
    weights_of(str(run))  # complains of a run without a trained model
    if not (found.path / DECODER).exists() and is_speech(found) and found.finished:
        finish(found)
    decoder = Decoder.read(found.path)
    networks = networks_of(run)
    several = len(networks) > 1 and found.recipe.kind == "train"
    name = network or (ENSEMBLE if several else next(iter(networks)))
    if name not in networks and not (name == ENSEMBLE and several):
        known = [*networks, *([ENSEMBLE] if several else [])]
        raise UnderstudyError(f"{run} has no network {name!r}; there are {', '.join(known)}")
    model = _together([*networks.values()] if name == ENSEMBLE else [networks[name]])
    return [_transcript(Path(file), decoder, model, decoder.penalty[name]) for file in files]


def _transcript(path: Path, decoder: Decoder, model: Teacher | Ensemble, penalty: float) -> Transcript:
    features = decoder.features
    try:
        with open(path, "rb") as file:
            sound = read_sound(file, features.window)
        if sound.rate != features.rate:
            raise Unreadable(f"it is sampled at {sound.rate:,} Hz, the run learnt at {features.rate:,}; resample it")
    except Unreadable as reason:
        return Transcript(str(path), error=str(reason))
    except OSError as fault:
        return Transcript(str(path), error=f"it cannot be opened ({fault.strerror})")
    frames = normalised(log_mel(sound.wave, features))
    t = len(frames)
    windows = Windows(
        frames, torch.arange(t), torch.zeros(t, dtype=torch.int64), torch.full((t,), t - 1),
        features.before, features.after,
    )  # fmt: skip
    words = decoder.paths([posteriors_of(model, windows)], [penalty])[0][0]
    return Transcript(str(path), tuple(words), sound.clipped)
