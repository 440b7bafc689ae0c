"""`understudy speech` from a corpus to words: train, distill, resume, decode, the page, the paper's table."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import understudy
from understudy.cli.app import main
from understudy.config.recipe import TrainRecipe
from understudy.data.formats.frames import FRAMES
from understudy.errors import Interrupted, UnderstudyError
from understudy.evaluation.facts import RunFacts, SpeechFacts, SpeechRow
from understudy.papers import EXPERIMENTS
from understudy.papers.experiment import Bench
from understudy.papers.hinton_speech import TEMPERATURES, corpus, distilled, single
from understudy.pipeline.base import Pipeline
from understudy.reporting import render
from understudy.runs.run import Run
from understudy.speech.decoding import DECODER
from understudy.speech.examples import segments
from understudy.speech.hmm import WordModels
from understudy.verbs import speech as speaking

if TYPE_CHECKING:
    from stand_ins import Tones

QUICK: dict[str, Any] = {"batch_size": 128, "lr": 0.01, "precision": "32"}


@pytest.fixture(scope="module", autouse=True)
def _no_stop_watch() -> Iterator[None]:
    """What a pass takes is not looked at here, and timing it takes most of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        timing = sys.modules["understudy.evaluation.cost"]
        patch.setattr(timing, "_WARM_UP", 0.0)
        patch.setattr(timing, "_LIMIT", 0.0)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tones: Tones) -> Path:
    """A corpus of tones, prepared, with an ensemble of two and a student distilled from it."""
    home = tmp_path_factory.mktemp("speech")
    speaking.prepare(tones.corpus(home / "digits", takes=12), home / "prepared", states=3, mixtures=1)
    train = speaking.train(home / "prepared", seeds=2, run=home / "ensemble", model="mlp:32x1", epochs=6, **QUICK)
    speaking.distill(home / "prepared", train.path, run=home / "student", student="mlp:32x1", epochs=4, **QUICK)
    return home


# ---- words


def test_words_are_heard_with_their_times(home: Path, tmp_path: Path, tones: Tones) -> None:
    said = ["two", "zero", "three", "one", "two"]
    file = tones.write(tmp_path / "call.wav", tones.sentence(said))
    for run, network in (("ensemble", ""), ("ensemble", "model-1"), ("student", ""), ("student", "alone-0")):
        (found,) = speaking.decode(home / run, [file], network=network)
        assert [one.word for one in found.words] == said, (run, network)
        assert found.error is None
        starts = [one.start for one in found.words]
        assert starts == sorted(starts)
        assert found.words[0].start == pytest.approx(0.15, abs=0.04)
        assert all(0.1 < one.end - one.start < 0.45 for one in found.words)


def test_word_errors_are_counted_for_all_who_listen(home: Path) -> None:
    ensemble = Run(home / "ensemble").facts.speech
    student = Run(home / "student").facts.speech
    assert ensemble is not None
    assert student is not None
    assert [(row.name, row.role, len(row.seeds)) for row in ensemble.rows] == [
        ("ensemble of 2", "teacher", 1), ("single model", "model", 2),
    ]  # fmt: skip
    assert [row.role for row in student.rows] == ["teacher", "alone", "distilled"]
    assert student.kinds == ["all", "isolated", "connected"]
    for row in (*ensemble.rows, *student.rows):
        assert row.rates("all")[0] < 15, row.name
        for seed in row.seeds:
            whole, parts = seed.errors["all"], [seed.errors["isolated"], seed.errors["connected"]]
            assert whole.words == sum(part.words for part in parts)
    assert student.rows[0].seeds[0].errors == ensemble.rows[0].seeds[0].errors, "the same ensemble hears the same"


def test_the_frame_accuracy_of_words_is_that_of_the_evaluation(home: Path) -> None:
    facts = Run(home / "student").facts
    assert facts.speech is not None
    for role in ("alone", "distilled"):
        row, heard = facts.of(role)[0], facts.speech.of(role)[0]
        assert heard.seeds[0].accuracy == pytest.approx(row.seeds[0].accuracy, abs=1e-3)


def test_a_run_folder_holds_what_decoding_needs_and_nothing_pickled(home: Path) -> None:
    files = {path.relative_to(home / "student").as_posix() for path in (home / "student").rglob("*") if path.is_file()}
    assert {"recipe.yaml", "report.html", DECODER, "models/distilled-0.safetensors"} <= files
    assert {Path(name).suffix for name in files} <= {
        ".yaml",
        ".json",
        ".jsonl",
        ".html",
        ".safetensors",
        ".sha256",
        ".gz",
    }
    decoder = json.loads((home / "student" / DECODER).read_text())
    assert set(decoder["penalty"]) == {"teacher", "alone-0", "distilled-0"}
    assert sum(decoder["priors"]) == pytest.approx(1)
    assert decoder["features"]["rate"] == 8_000


def test_a_resumed_run_ends_with_the_same_bytes_and_hears_words(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from understudy.training import loop

    sync_ranks = loop.Loop._sync_ranks

    def stop_at_step_5(self: loop.Loop, number: int, samples: int, due: bool) -> tuple[int, int, bool]:
        return sync_ranks(self, 2 if self._step == 5 else number, samples, due)

    monkeypatch.setattr(loop.Loop, "_sync_ranks", stop_at_step_5)
    with pytest.raises(Interrupted):
        speaking.distill(
            home / "prepared", home / "ensemble", run=tmp_path / "r", student="mlp:32x1", epochs=4, **QUICK
        )
    monkeypatch.setattr(loop.Loop, "_sync_ranks", sync_ranks)
    run = understudy.resume(tmp_path / "r")
    own, other = ((at / "models" / "distilled-0.safetensors").read_bytes() for at in (run.path, home / "student"))
    assert own == other
    assert run.facts.speech == Run(home / "student").facts.speech


def test_resuming_finishes_what_a_killed_run_left(home: Path, tmp_path: Path, tones: Tones) -> None:
    """One that was killed before its words were counted."""
    run = Run(shutil.copytree(home / "ensemble", tmp_path / "r"))
    run.note(finished=False)
    (run.path / DECODER).unlink()
    file = tones.write(tmp_path / "one.wav", tones.sentence(["one"]))
    with pytest.raises(UnderstudyError, match=f"is not evaluated yet; finish it with: understudy resume {run.path}"):
        speaking.decode(run.path, [file])
    before = {name: model.read_bytes() for name, model in run.models.items()}
    understudy.resume(run.path)
    assert {name: model.read_bytes() for name, model in run.models.items()} == before
    assert [one.word for one in speaking.decode(tmp_path / "r", [file])[0].words] == ["one"]
    assert run.facts.speech == Run(home / "ensemble").facts.speech


def test_recordings_that_cannot_be_decoded(home: Path, tmp_path: Path, tones: Tones) -> None:
    files = [
        tones.write(tmp_path / "fast.wav", tones.wave("one", rate=16_000), 16_000),
        tones.write(tmp_path / "loud.wav", (8 * tones.sentence(["one"])).clip(-1, 1)),
        tmp_path / "none.wav",
        tones.write(tmp_path / "brief.wav", tones.wave("one")[:400]),
    ]
    fast, loud, none, brief = speaking.decode(home / "student", files)
    assert fast.error == "sampled at 16,000 Hz, not at 8,000 as in training; resample it"
    assert loud.error is None
    assert loud.clipped
    assert none.error is not None
    assert "cannot be opened" in none.error
    assert brief.error is None, "three frames are silence at most"
    assert brief.words == ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda home: speaking.decode(home / "ensemble", ["x.wav"], network="model-7"),
            "there are ensemble, model-0, model-1",
        ),
        (lambda home: speaking.decode(home / "prepared", ["x.wav"]), "is not a run folder"),
        (lambda home: speaking.decode(_of_digits(home), ["x.wav"]), "holds no trained model"),
        (lambda home: speaking.train(home / "nowhere"), "there is no folder or file"),
        (lambda home: speaking.train(_without_alignment(home)), "is not prepared speech"),
    ],
)
def test_mistakes(call: object, words: str, home: Path) -> None:
    assert callable(call)
    with pytest.raises(UnderstudyError, match=words):
        call(home)


def _of_digits(home: Path) -> Path:
    run = Run(home / "digits-run")
    if not run.exists:
        run.open(TrainRecipe(data="digits", model="mlp:8x1"))
    return run.path


def _without_alignment(home: Path) -> Path:
    folder = home / "frames"
    folder.mkdir(exist_ok=True)
    shutil.copy(home / "prepared" / FRAMES, folder)
    return folder


def test_a_student_learns_from_answers_to_frames(home: Path, tmp_path: Path) -> None:
    """Of frames there is one view; the ensemble is not at hand, and not on the page."""
    targets = understudy.label(home / "prepared", home / "ensemble", views=1, out=tmp_path / "targets", precision="32")
    shared: dict[str, Any] = {"student": "mlp:32x1", "epochs": 4, "baseline": False, **QUICK}
    run = speaking.distill(home / "prepared", None, targets=targets.path, run=tmp_path / "s", **shared)
    assert run.facts.speech is not None
    assert [row.role for row in run.facts.speech.rows] == ["distilled"]
    known = Run(home / "student").facts.of("distilled")[0]
    assert run.facts.of("distilled")[0].mean("accuracy") == pytest.approx(known.mean("accuracy"), abs=0.5)
    with pytest.raises(UnderstudyError, match=r"mixup is 0\.2, and .*targets was made with 0\.0"):
        speaking.distill(home / "prepared", None, targets=targets.path, run=tmp_path / "t", mixup=0.2, **shared)


def test_a_teacher_of_other_states(home: Path, tmp_path: Path) -> None:
    speaking.prepare(home / "digits", tmp_path / "p", states=2, mixtures=1, strings=False)
    with pytest.raises(UnderstudyError, match="predicts 15 classes"):
        speaking.distill(tmp_path / "p", home / "ensemble", run=tmp_path / "r", student="mlp:8x1", epochs=1, **QUICK)


# ---- the page


def test_the_page_shows_words_and_an_utterance(home: Path) -> None:
    page = (home / "student" / "report.html").read_text()
    for text in ("Word errors", "WER, connected", "Substitutions", "One utterance", "Alignment", "Mel bands"):
        assert text in page
    figure = page[page.index('id="utterance"') :].partition("</section>")[0]
    assert figure.count("data:image/png;base64") == 4, "a spectrogram, and the posteriors of three models"
    assert "http" not in re.sub(r"base64,[^\"]*", "", figure)


def test_words_are_escaped_in_the_figure(home: Path) -> None:
    facts = Run(home / "student").facts
    assert facts.speech is not None
    example = facts.speech.example
    assert example is not None
    odd = "<script>$x&"
    parts = [part.model_copy(update={"word": odd if part.word else ""}) for part in example.alignment]
    changed = example.model_copy(update={"alignment": parts, "words": [odd], "labels": [odd] * len(example.labels)})
    odd_facts = facts.model_copy(update={"speech": facts.speech.model_copy(update={"example": changed})})
    page = render(odd_facts, home / "student")
    assert "<script>" not in page
    assert "&lt;script&gt;$x&amp;" in page


def test_a_page_without_speech_has_no_words(home: Path) -> None:
    page = render(RunFacts(name="x", kind="train"), home)
    assert "Word errors" not in page


def test_segments_tell_a_word_said_twice_apart() -> None:
    models = WordModels.initial(("a", "b"), 2, 1)
    import torch

    found = segments(torch.tensor([4, 0, 0, 1, 0, 1, 1, 4, 4, 2, 3]), models)
    assert [(one["word"], one["first"], one["after"]) for one in found] == [
        ("", 0, 1), ("a", 1, 4), ("a", 4, 7), ("", 7, 9), ("b", 9, 11),
    ]  # fmt: skip


# ---- the command line


def test_from_the_command_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tones: Tones
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    place = str(home / "digits")
    assert main(["speech", "prepare", place, "--to", "p", "--states", "2", "--mixtures", "1", "--hold-out", "bob"]) == 0
    said = capsys.readouterr().out
    assert "4 words, 11 states" in said
    assert "connected" in said
    small = ["--model", "mlp:16x1", "--epochs", "1", "--batch-size", "64"]
    assert main(["speech", "train", "p", "--seeds", "2", *small, "--run", "r"]) == 0
    assert "ins / del / sub" in capsys.readouterr().out
    assert Run(Path("r")).recipe.seeds == 2
    facts = Run(Path("r")).facts.speech
    assert facts is not None
    assert facts.notes == ["Tested on speakers who are not in the training part: bob."]
    tones.write(tmp_path / "one.wav", tones.sentence(["one"]))
    (tmp_path / "bad.wav").write_text("no sound")
    assert main(["speech", "decode", "r", "one.wav", "bad.wav", "--json"]) == 1
    one, bad = json.loads(capsys.readouterr().out)
    assert one["error"] is None
    assert all(set(word) == {"word", "start", "end"} for word in one["words"])
    assert "not audio" in bad["error"]
    assert main(["speech", "decode", "r", "one.wav"]) == 0
    assert "start, s" in capsys.readouterr().out
    assert main(["speech", "distill", "p", "--teacher", "nowhere"]) == 2
    assert "no run folder or weights file nowhere" in capsys.readouterr().err
    assert main(["speech", "decode", "r"]) == 2


def test_a_corpus_is_prepared_where_it_was_not(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tones: Tones
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = tones.corpus(tmp_path / "digits", takes=16, words=("zero", "one"))
    folder = speaking.prepared_folder(corpus)
    assert folder == Path("runs/speech-digits")
    assert speaking.prepared_folder(corpus) == folder
    with pytest.raises(UnderstudyError, match="was prepared from"):
        speaking.prepared_folder(home / "digits")


# ---- the paper


def test_the_papers_table_from_made_up_listeners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy.papers import hinton_speech

    def row(name: str, role: str, *shares: float) -> SpeechRow:
        errors = {"all": {"words": 100, "insertions": 1, "deletions": 2, "substitutions": 3}}
        seeds = [{"seed": k, "accuracy": share, "penalty": 0, "errors": errors} for k, share in enumerate(shares)]
        return SpeechRow.model_validate({"name": name, "role": role, "seeds": seeds})

    rows = {
        "ensemble": [row("ensemble of 10", "teacher", 0.66), row("single model", "model", 0.59, 0.61)],
        "distilled": [row("t", "teacher", 0.66), row("alone", "alone", 0.6, 0.6)]
        + [row(f"kd:temperature={t}", "distilled", 0.65, 0.65) for t in TEMPERATURES],
        "fraction": [row("t", "teacher", 0.66), row("alone", "alone", 0.5), row("distilled", "distilled", 0.57)],
    }
    monkeypatch.setattr(hinton_speech, "prepared", lambda bench: "prepared")
    asked: dict[str, Any] = {}

    class MadeUpRun:
        def __init__(self, path: Path) -> None:
            self.path = path
            own = rows[path.name]
            self.facts = RunFacts(name="x", kind="train", speech=SpeechFacts(kinds=["all"], rows=own))

    def ensure(pipeline: Pipeline[Any], run: Path) -> MadeUpRun:
        asked[run.name] = pipeline.recipe
        return MadeUpRun(run)

    monkeypatch.setattr("understudy.pipeline.run.ensure", ensure)
    outcome = EXPERIMENTS["hinton-speech"].compare(Bench(tmp_path))
    lines = [tuple(map(str, line)) for line in outcome.lines]
    assert lines[0] == ("baseline, mean of the ensemble's members", "58.9%", "60.00 ± 1.41%", "10.9%", "6.00 ± 0.00%")
    assert lines[1][1:] == ("61.1%", "66.00%", "10.7%", "6.00%")
    assert [line[0] for line in lines[2:6]] == [f"distilled, T = {t}" for t in (1, 2, 5, 10)]
    assert "83% at T = 2" in outcome.notes[0]
    assert "lose 10.0 points" in outcome.notes[1]
    assert "soft targets 3.0;" in outcome.notes[1]
    assert asked["distilled"].hard_weight == 0.5
    assert asked["distilled"].seeds == 3
    assert asked["ensemble"].seeds == 10
    assert asked["fraction"].fraction == 0.03
    bench = Bench(tmp_path, quick=True)
    quick, full = single(bench), single(Bench(tmp_path))
    assert quick.seeds * quick.epochs * quick.fraction < full.seeds * full.epochs * full.fraction / 8
    assert distilled(bench, MadeUpRun(tmp_path / "ensemble")).teacher == (str(tmp_path / "ensemble"),)  # type: ignore[arg-type]


def test_the_paper_says_where_it_looked_for_its_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_DATA", raising=False)
    with pytest.raises(UnderstudyError, match=r"Free Spoken Digit Dataset is not at .*--data"):
        corpus(Bench(tmp_path, data_root=str(tmp_path)))
    (tmp_path / "spoken_digits.zip").touch()
    assert corpus(Bench(tmp_path, data_root=str(tmp_path))) == tmp_path / "spoken_digits.zip"
    assert corpus(replace(Bench(tmp_path), data="mine")) == Path("mine")


def test_a_small_net_hears_real_digits(tmp_path: Path, spoken_digits: Path) -> None:
    import zipfile

    folder = tmp_path / "digits"
    with zipfile.ZipFile(spoken_digits) as file:
        for name in file.namelist():
            digit, speaker, index = Path(name).stem.split("_")
            if speaker == "jackson" and int(index) < 20 and digit in "0123":
                write_bytes(folder / Path(name).name, file.read(name))
    speaking.prepare(folder, tmp_path / "p", states=5, mixtures=1)
    run = speaking.train(tmp_path / "p", run=tmp_path / "r", model="mlp:64x1", epochs=4, **QUICK)
    heard = run.facts.speech
    assert heard is not None
    assert heard.rows[0].accuracies()[0] > 50
    assert heard.rows[0].rates("all")[0] < 20


def write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
