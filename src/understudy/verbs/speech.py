"""`speech`: a corpus prepared, acoustic models trained and distilled on it, and words recognized in recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from understudy.config.keywords import SpeechDistillKeywords, SpeechTrainKeywords
from understudy.config.recipe import SpeechDistillRecipe, SpeechTrainRecipe
from understudy.data.formats.frames import FRAMES
from understudy.errors import UnderstudyError
from understudy.files import new_folder, path_of
from understudy.models import Network
from understudy.pipeline.run_data import Overrides, require
from understudy.pipeline.speech import ENSEMBLE, joined
from understudy.pipeline.targets import with_targets
from understudy.pipeline.weights import networks_of, weights_of
from understudy.runs.run import Run, find_run, plain_stem
from understudy.speech.corpus import open_corpus
from understudy.speech.decoding import Decoder
from understudy.speech.preparation import SPEECH, Prepared, prepare_corpus, read_prepared
from understudy.speech.recognition import Transcript, transcribe
from understudy.verbs import train as trainer
from understudy.verbs.arguments import Place, Plan, check_whole, configure, listed, place


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
    """Features and forced alignment of a corpus, in a folder that every verb takes as its data.

    Args:
        corpus: a folder, a zip or a table of recordings; see `understudy.speech.corpus.open_corpus`.
        to: the folder to write; runs/speech-NAME by default.
        states: HMM states per word.
        mixtures: Gaussians per state, in the alignment.
        strings: join recordings of single words to connected strings; by default wherever all are of single words.
        hold_out: speakers to test on; all others are for training.
        seed: for splits that the corpus leaves open, and for the strings.
        overwrite: replace what the folder holds.

    Raises:
        UnderstudyError: not a corpus, or no part is left once unusable recordings are skipped.
    """
    check_whole("states", states, 2, 100)
    check_whole("mixtures", mixtures, 1, 100)
    check_whole("seed", seed, 0, 2**32 - 1)
    corpus = path_of(corpus, "the corpus")
    folder = new_folder(to, "the --to folder") if to is not None else _default_folder(corpus)
    if (folder / SPEECH).exists() and not overwrite:
        raise UnderstudyError(f"{folder} holds prepared speech; choose another --to folder or pass --overwrite")
    recordings = open_corpus(corpus, hold_out=hold_out, seed=seed)
    return folder, prepare_corpus(
        str(corpus), recordings, folder,
        states=states, mixtures=mixtures, strings=strings, seed=seed, hold_out=hold_out,
    )  # fmt: skip


def prepared_folder(data: str | Path) -> Path:
    """A prepared folder: the one named, or that of a corpus, which is prepared now if it was not."""
    path = path_of(data, "the data")
    if (path / FRAMES).is_file():
        read_prepared(path)
        return path
    folder = _default_folder(path)
    if not (folder / SPEECH).exists():
        return prepare(path, folder)[0]
    known = read_prepared(folder)[0].corpus
    if known != str(data):
        raise UnderstudyError(
            f"{folder} was prepared from {known}, not from {data}; prepare that into another folder: understudy "
            f"speech prepare {data} --to FOLDER"
        )
    return folder


def _default_folder(corpus: Path) -> Path:
    return Path("runs") / f"speech-{plain_stem(corpus, 'corpus')}"


def train(
    data: str | Path, *, run: str | Path | None = None, overwrite: bool = False,
    **options: Unpack[SpeechTrainKeywords],
) -> Run:  # fmt: skip
    """Train an acoustic model on the states of frames; several seeds are an ensemble. Word errors are evaluated too.

    Args:
        data: a prepared folder, or a corpus.
        run: the run folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `SpeechTrainRecipe`.
    """
    config = configure(SpeechTrainRecipe, options, data=data)
    return start(config, Overrides(trust_code=True), place(run, overwrite))


def distill(
    data: str | Path, teacher: str | Path | Sequence[str | Path] | None, *, run: str | Path | None = None,
    overwrite: bool = False, **options: Unpack[SpeechDistillKeywords],
) -> Run:  # fmt: skip
    """Distill an ensemble of acoustic models into one, with the same model trained alone as the baseline.

    Args:
        data: a prepared folder, or a corpus.
        teacher: run folders or weights files. None where their answers are read from `targets`.
        run: the run folder; a new one under runs/ by default.
        overwrite: replace the results that the folder holds, once the new ones have a checkpoint.
        **options: fields of `SpeechDistillRecipe`.
    """
    config = configure(SpeechDistillRecipe, options, data=data, teacher=listed(teacher))
    return start(config, Overrides(trust_code=True), place(run, overwrite))


def plan(config: SpeechTrainRecipe | SpeechDistillRecipe, overrides: Overrides) -> Plan:
    require(config, overrides)
    return Plan({config.kind: _ready(config)}, overrides)


def start(config: SpeechTrainRecipe | SpeechDistillRecipe, overrides: Overrides, place: Place) -> Run:
    require(config, overrides)
    return trainer.start(_ready(config), overrides, place)


def _ready(config: SpeechTrainRecipe | SpeechDistillRecipe) -> SpeechTrainRecipe | SpeechDistillRecipe:
    """The same recipe on the prepared folder of its corpus, with the views of its targets."""
    config = with_targets(config) if isinstance(config, SpeechDistillRecipe) else config
    return config.model_copy(update={"data": str(prepared_folder(config.data))})


def decode(run: str | Path, files: Sequence[str | Path], *, network: str = "") -> list[Transcript]:
    """The words in audio files, with their times.

    Args:
        run: a folder of `speech train` or `speech distill`.
        network: one of its networks, as "distilled-0", or "ensemble"; default: the first distilled one, or of several
            trained alike the ensemble.

    A file that cannot be read gives a transcript whose `error` says why.
    """
    found = find_run(path_of(run, "the run folder"))
    weights_of(run)  # raises for a run without a trained model
    if not found.finished:
        raise UnderstudyError(f"{run} is not evaluated yet; finish it with: understudy resume {run}")
    decoder = Decoder.read(found.path)
    networks = networks_of(run)
    known: dict[str, list[Network]] = {name: [one] for name, one in networks.items()}
    if ENSEMBLE in decoder.penalty:
        known = {ENSEMBLE: [*networks.values()]} | known
    name = network or next(iter(known))
    if name not in known:
        raise UnderstudyError(f"{run} has no network {name!r}; there are {', '.join(known)}")
    model = joined(known[name])
    return [transcribe(path_of(file, "a recording"), decoder, model, decoder.penalty[name]) for file in files]
