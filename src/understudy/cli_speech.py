"""`understudy speech`: its commands, their tables and JSON. Loaded when asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from understudy.cli import print_rows, show_run
from understudy.cli_recipe import DistillFlags, Place, TrainFlags, resolved
from understudy.errors import UnderstudyError
from understudy.recipe import AnyRecipe, DistillRecipe, TrainRecipe
from understudy.recipe_text import to_yaml

if TYPE_CHECKING:
    from understudy.runs import Run
    from understudy.speaking import Transcript
    from understudy.speech.preparation import Prepared

F = TypeVar("F", bound=Callable[..., Any])


def _epilogue(*examples: str) -> str:
    return "\n".join(["[bold]Examples[/bold]", *(f"  {example}" for example in examples)])


speech = App(
    name="speech",
    help="Words from sound, by nets distilled from ensembles.",
    help_epilogue=_epilogue(
        "understudy speech prepare spoken_digits.zip --to runs/digits",
        "understudy speech train runs/digits --members 10 --run runs/ensemble",
        "understudy speech distill runs/digits --teacher runs/ensemble --run runs/distilled",
        "understudy speech decode runs/distilled call.wav",
    ),
)


def _command(*examples: str) -> Callable[[F], F]:
    return lambda verb: speech.command(verb, help_epilogue=_epilogue(*examples))


@_command(
    "understudy speech prepare spoken_digits.zip",
    "understudy speech prepare spoken_digits.zip --hold-out george --to runs/without-george",
    "understudy speech prepare corpus/ --states 6",
)
def prepare(
    corpus: Path,
    /,
    *,
    to: Path | None = None,
    hold_out: tuple[str, ...] = (),
    states: int = 8,
    mixtures: int = 2,
    strings: bool | None = None,
    seed: int = 0,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compute features, and align each recording's frames with the states of its words.

    Parameters
    ----------
    corpus
        Recordings with their words: a folder with a file `text`, a CSV of path,text, folders named by words, or
        files called DIGIT_SPEAKER_INDEX.flac; in a folder or a zip.
    to
        The folder to write; runs/speech-NAME where unset.
    hold_out
        Speakers to test on; all others are for training.
    states
        HMM states of a word.
    mixtures
        Gaussians of a state, in the alignment.
    strings
        Join recordings of single words to connected strings too, each once; where unset, if all are of single words.
    seed
        Of what is drawn: the parts that the corpus leaves open, the strings and their pauses.
    overwrite
        Replace what the folder holds.
    """
    from understudy import speaking

    folder, prepared = speaking.prepare(
        corpus, to, states=states, mixtures=mixtures, strings=strings, hold_out=hold_out, seed=seed, overwrite=overwrite
    )
    _show_prepared(folder, prepared)


def _show_prepared(folder: Path, prepared: Prepared) -> None:
    console = Console()
    parts = [
        (part, kind, f"{sum((one.part, one.kind) == (part, kind) for one in prepared.utterances):,}")
        for part, kind in dict.fromkeys((one.part, one.kind) for one in prepared.utterances)
    ]
    print_rows(parts, ("part", "kind", "utterances"))
    history = prepared.history
    console.print(
        f"{len(prepared.models.words)} words, {len(prepared.models.names)} states; log-likelihood a frame from "
        f"{history[0]:.2f} to {history[-1]:.2f} in {len(history)} alignments",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for reason in dict.fromkeys(prepared.set_aside.values()):
        own = [name for name, why in prepared.set_aside.items() if why == reason]
        console.print(Text(f"{len(own):,} set aside, {own[0]} first: {reason}", "yellow"), soft_wrap=True)
    if prepared.clipped:
        names = f"{len(prepared.clipped):,} clipped, {prepared.clipped[0]} first: used as they are"
        console.print(Text(names, "yellow"), soft_wrap=True)
    console.print(Text(f"prepared: {folder}"), soft_wrap=True)


@_command(
    "understudy speech train spoken_digits.zip",
    "understudy speech train runs/speech-spoken_digits --members 10 --run runs/ensemble",
    "understudy speech train corpus/ --model mlp:2560x8 --epochs 20",
)
def train(
    folder: Path,
    /,
    *,
    members: int = 1,
    flags: Annotated[TrainFlags | None, Parameter(name="*")] = None,
    place: Place | None = None,
) -> None:
    """Train an acoustic model, or an ensemble of them, on the states of frames.

    Parameters
    ----------
    folder
        A folder that `speech prepare` made, or a corpus.
    members
        Networks that differ in their initial weights alone; together they are an ensemble.
    """
    from understudy.speaking import TRAINING

    _carry_out(TrainRecipe, folder, flags, place or Place(), TRAINING | {"seeds": members})


@_command(
    "understudy speech distill runs/speech-spoken_digits --teacher runs/ensemble",
    "understudy speech distill spoken_digits.zip --teacher runs/ensemble --temperature 5 --seeds 3",
)
def distill(
    folder: Path,
    /,
    *,
    flags: Annotated[DistillFlags | None, Parameter(name="*")] = None,
    place: Place | None = None,
) -> None:
    """Distil an ensemble of acoustic models into one net, beside the same net trained alone.

    Parameters
    ----------
    folder
        A folder that `speech prepare` made, or a corpus.
    """
    from understudy.speaking import DISTILLING

    _carry_out(DistillRecipe, folder, flags, place or Place(), DISTILLING)


def _carry_out(
    schema: type[AnyRecipe], folder: Path, flags: AnyRecipe | None, place: Place, defaults: dict[str, Any]
) -> None:
    from understudy import api, speaking

    data = str(speaking.prepared_folder(folder))
    recipe, trust_code = resolved(schema, data, flags, place.config, defaults)
    if place.dry_run:
        print(to_yaml(recipe))
        print_rows(api.dry_run(recipe, trust_code=trust_code).items())
        return
    run = api.run_recipe(
        recipe, run=place.run, overwrite=place.overwrite, trust_code=trust_code, command=["understudy", *sys.argv[1:]]
    )
    show_words(speaking.finish(run))


def show_words(run: Run) -> None:
    """Print a finished run's tables, of frames and of words, and where its page is."""
    from understudy.reporting.speech_figures import spoken_lines

    facts = run.facts.speech
    assert facts is not None
    show_run(run)
    kinds = ["WER" if kind == "all" else f"WER, {kind}" for kind in facts.kinds]
    print_rows(spoken_lines(facts), ("", "frames right, %", *kinds, "inserted / deleted / substituted"))


@_command(
    "understudy speech decode runs/distilled sevens.flac call.wav",
    "understudy speech decode runs/ensemble *.flac --json",
)
def decode(
    run: Path,
    /,
    *files: Path,
    network: str = "",
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Print the words in recordings, with their times. The exit code is 1 if any recording could not be read.

    Parameters
    ----------
    run
        A run folder of `speech train` or `speech distill`.
    files
        WAV, FLAC or OGG files of one channel, of the rate that was trained on.
    network
        One of the run's networks, as distilled-0, or ensemble; where unset the first distilled one, or of a run with
        several members all together.
    as_json
        Print a JSON list with an object for each file.
    """
    if not files:
        raise UnderstudyError("name a recording, as in: understudy speech decode RUN call.wav")
    from understudy import speaking

    found = speaking.decode(run, files, network=network)
    if as_json:
        print(json.dumps([_plain(one) for one in found], indent=2))
    else:
        _print_words(found)
    return int(any(one.error for one in found))


def _plain(one: Transcript) -> dict[str, Any]:
    words = [{"word": w.word, "start": round(w.start, 3), "end": round(w.end, 3)} for w in one.words]
    return {"path": one.path, "words": words, "clipped": one.clipped, "error": one.error}


def _print_words(found: list[Transcript]) -> None:
    rows: list[tuple[object, ...]] = []
    for one in found:
        first = one.path + (" (clipped)" if one.clipped else "")
        if one.error or not one.words:
            rows.append((first, one.error or "no word is heard", "", ""))
        for number, word in enumerate(one.words):
            rows.append(("" if number else first, word.word, f"{word.start:.2f}", f"{word.end:.2f}"))
    print_rows(rows, ("recording", "word", "from, s", "to, s"))
