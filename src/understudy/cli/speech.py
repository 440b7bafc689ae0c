"""`understudy speech`: its commands, their tables and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from understudy.cli.app import epilogue
from understudy.cli.flags import AsJson, Whole
from understudy.cli.show import print_rows
from understudy.cli.training import training_command
from understudy.errors import UnderstudyError
from understudy.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.speech.preparation import Prepared
    from understudy.speech.recognition import Transcript

speech = App(
    name="speech",
    help="Words from sound, by networks distilled from ensembles.",
    help_epilogue=epilogue(
        "understudy speech prepare spoken_digits.zip --to runs/digits",
        "understudy speech train runs/digits --seeds 10 --run runs/ensemble",
        "understudy speech distill runs/digits --teacher runs/ensemble --run runs/distilled",
        "understudy speech decode runs/distilled call.wav",
    ),
)


@speech.command(
    help_epilogue=epilogue(
        "understudy speech prepare spoken_digits.zip",
        "understudy speech prepare spoken_digits.zip --hold-out george --to runs/without-george",
        "understudy speech prepare corpus/ --states 6",
    )
)
def prepare(
    corpus: str,
    /,
    *,
    to: str | None = None,
    hold_out: tuple[str, ...] = (),
    states: Whole = 8,
    mixtures: Whole = 2,
    strings: bool | None = None,
    seed: Whole = 0,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compute features, and align each recording's frames with the states of its words.

    Parameters
    ----------
    corpus
        Recordings with their words: a folder with a file `text`, a CSV of path,text, folders named by words, or
        files called DIGIT_SPEAKER_INDEX.flac; in a folder or a zip.
    to
        The folder to write; default: runs/speech-NAME.
    hold_out
        Speakers to test on; all others are for training.
    states
        HMM states per word.
    mixtures
        Gaussians per state, in the alignment.
    strings
        Also join recordings of single words to connected strings, each once; default: if all are of single words.
    seed
        Seed for splits that the corpus leaves open, and for the strings and their pauses.
    overwrite
        Replace what the folder holds.
    """
    from understudy.verbs import speech as verbs

    folder, prepared = verbs.prepare(
        corpus, to, states=states, mixtures=mixtures, strings=strings, hold_out=hold_out, seed=seed, overwrite=overwrite
    )
    _show_prepared(folder, prepared)


speech.command(
    training_command("speech-train"),
    name="train",
    help="Train an acoustic model, or with several seeds an ensemble of them, on the states of frames.",
    help_epilogue=epilogue(
        "understudy speech train spoken_digits.zip",
        "understudy speech train runs/speech-spoken_digits --seeds 10 --run runs/ensemble",
        "understudy speech train corpus/ --model mlp:2560x8 --epochs 20",
    ),
)
speech.command(
    training_command("speech-distill"),
    name="distill",
    help="Distill an ensemble of acoustic models into one, with the same model trained alone as the baseline.",
    help_epilogue=epilogue(
        "understudy speech distill runs/speech-spoken_digits --teacher runs/ensemble",
        "understudy speech distill spoken_digits.zip --teacher runs/ensemble --temperature 5 --seeds 3",
    ),
)


@speech.command(
    help_epilogue=epilogue(
        "understudy speech decode runs/distilled sevens.flac call.wav",
        "understudy speech decode runs/ensemble *.flac --json",
    )
)
def decode(
    run: str,
    /,
    *files: str,
    network: str = "",
    as_json: AsJson = False,
) -> int:
    """Print the words in recordings, with their times. The exit code is 1 if any recording could not be read.

    Parameters
    ----------
    run
        A run folder of `speech train` or `speech distill`.
    files
        WAV, FLAC or OGG files of one channel, at the sample rate of the training.
    network
        One of the run's networks, as distilled-0, or ensemble; default: the first distilled one, or of several
        trained alike the ensemble.
    as_json
        Print a JSON list with an object for each file.
    """
    if not files:
        raise UnderstudyError("no recordings; write understudy speech decode RUN call.wav")
    from understudy.verbs import speech as verbs

    found = verbs.decode(run, files, network=network)
    if as_json:
        print(json.dumps([_plain(one) for one in found], indent=2))
    else:
        _print_words(found)
    return int(any(one.error for one in found))


def _show_prepared(folder: Path, prepared: Prepared) -> None:
    terminal = Terminal()
    parts = [
        (part, kind, f"{sum((one.part, one.kind) == (part, kind) for one in prepared.utterances):,}")
        for part, kind in dict.fromkeys((one.part, one.kind) for one in prepared.utterances)
    ]
    print_rows(parts, ("part", "kind", "utterances"))
    history = prepared.history
    terminal.say(
        f"{len(prepared.models.words)} words, {len(prepared.models.names)} states; log-likelihood per frame from "
        f"{history[0]:.2f} to {history[-1]:.2f} in {len(history)} alignments"
    )
    for reason in dict.fromkeys(prepared.skipped.values()):
        names = [name for name, why in prepared.skipped.items() if why == reason]
        terminal.say(f"{len(names):,} skipped, {names[0]} first: {reason}", "yellow")
    if prepared.clipped:
        terminal.say(f"{len(prepared.clipped):,} clipped, {prepared.clipped[0]} first; used as they are", "yellow")
    terminal.say(f"prepared: {folder}")


def _plain(one: Transcript) -> dict[str, Any]:
    words = [{"word": w.word, "start": round(w.start, 3), "end": round(w.end, 3)} for w in one.words]
    return {"path": one.path, "words": words, "clipped": one.clipped, "error": one.error}


def _print_words(found: list[Transcript]) -> None:
    rows: list[tuple[object, ...]] = []
    for one in found:
        first = one.path + (" (clipped)" if one.clipped else "")
        if one.error or not one.words:
            rows.append((first, one.error or "no words recognized", "", ""))
        for number, word in enumerate(one.words):
            rows.append(("" if number else first, word.word, f"{word.start:.2f}", f"{word.end:.2f}"))
    print_rows(rows, ("recording", "word", "start, s", "end, s"))
