"""A run is resumed on the data, the threads and the teachers that it began with, wherever they are by then."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import understudy
from resumable import stop_at
from understudy.cli import main
from understudy.config.recipe import TrainRecipe
from understudy.data import RecordSource, open_source
from understudy.data import source as sources
from understudy.data.fingerprint import Fingerprint, differences
from understudy.errors import Interrupted, UnderstudyError
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.panel_folder import load_panel
from understudy.pipeline.run import ensure
from understudy.pipeline.run_data import Overrides
from understudy.runs import Run, RunCollection
from understudy.runs.places import located, noted_places
from understudy.training.loop import Loop

QUICK: dict[str, Any] = {"precision": "32", "accelerator": "cpu", "batch_size": 8, "workers": 0}
CLASSES = ("cat", "dog")


def draw(number: int, side: int = 8) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 200, (side, side)) + 50 * (number % 2)
    return Image.fromarray(pixels.astype(np.uint8))


def png(number: int) -> bytes:
    file = io.BytesIO()
    draw(number).save(file, "PNG")
    return file.getvalue()


def save_photos(root: Path) -> Path:
    """Two classes of twelve images for training and four for testing."""
    for number in range(32):
        file = root / ("train" if number < 24 else "test") / CLASSES[number % 2] / f"{number}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        draw(number).save(file)  # files of one size
    return root


def stopped(monkeypatch: pytest.MonkeyPatch, verb: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Call a verb, and stop it at its second update."""
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Interrupted):
            verb(*arguments, **options)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, and a run on them that was stopped."""
    root = tmp_path_factory.mktemp("project")
    save_photos(root / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        stopped(patch, understudy.train, "photos", "mlp:4", run="run", epochs=2, **QUICK)
    return root


@pytest.fixture
def here(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with new times, as the working directory."""
    shutil.copytree(project, tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def add(photos: Path) -> None:
    draw(90).save(photos / "train/dog/90.bmp")


def remove(photos: Path) -> None:
    (photos / "train/cat/2.bmp").unlink()


def edit(photos: Path) -> None:
    draw(91).save(photos / "train/cat/2.bmp")


def relabel(photos: Path) -> None:
    (photos / "train/cat/2.bmp").rename(photos / "train/dog/2.bmp")


def swap(photos: Path) -> None:
    for old, new in (("cat", "x"), ("dog", "cat"), ("x", "dog")):
        (photos / "train" / old).rename(photos / "train" / new)


def add_class(photos: Path) -> None:
    shutil.copytree(photos / "train/cat", photos / "train/eel")


def edit_test(photos: Path) -> None:
    draw(92).save(photos / "test/dog/25.bmp")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "added": (add, r"training part: 1 sample added (train/dog/90.bmp))"),
    "removed": (remove, r"training part: 1 sample removed (train/cat/2.bmp))"),
    "edited": (edit, r"training part: 1 sample with other contents (train/cat/2.bmp))"),
    "relabeled": (relabel, r"1 sample added (train/dog/2.bmp), 1 sample removed (train/cat/2.bmp))"),
    "swapped": (swap, r"24 samples added (train/cat/1.bmp"),
    "a class": (add_class, r"training part: 1 class added (eel), 12 samples added"),
    "test part": (edit_test, r"(test part: 1 sample with other contents (test/dog/25.bmp))"),
    "no test part": (lambda photos: shutil.rmtree(photos / "test"), r"test part: 5 samples added"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_is_refused_and_named(change: str, here: Path) -> None:
    apply, said = CHANGES[change]
    apply(here / "photos")
    with pytest.raises(UnderstudyError) as refused:
        understudy.resume("run")
    message = str(refused.value)
    assert message.startswith("photos has changed since run began")
    assert said in message
    if change == "a class":
        assert "and the networks are of its former classes" in message
        with pytest.raises(UnderstudyError, match="its former classes; restore it, or start a new run"):
            understudy.resume("run", accept_changed_data=True)
    else:
        assert "understudy resume run --accept-changed-data" in message


def test_copied_data_is_the_same_data(here: Path) -> None:
    shutil.move(here / "photos", here / "moved")
    shutil.copytree(here / "moved", here / "photos", copy_function=shutil.copyfile)
    assert understudy.resume("run").finished


def test_changed_data_may_be_accepted_and_is_then_on_the_page(here: Path) -> None:
    add(here / "photos")
    assert main(["resume", "run"]) == 2
    assert main(["resume", "run", "--accept-changed-data"]) == 0
    run = Run(here / "run")
    assert run.finished
    (note,) = run.facts.notes
    assert note.startswith("The data changed while the run was interrupted")
    assert "train/dog/90.bmp" in note


def test_fewer_samples_may_be_accepted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {**QUICK, "epochs": 2, "checkpoint_every": 0.0}
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(Interrupted, match="stopped at step 2"):  # of three in an epoch
            understudy.train("photos", "mlp:4", run="own", **options)
    for number in range(14):
        (here / f"photos/train/{CLASSES[number % 2]}/{number}.bmp").unlink()
    done = understudy.resume("own", accept_changed_data=True)
    assert isinstance(done, Run)
    assert [row["step"] for row in done.epochs() if row["part"] == "train"] == [2, 4]


def test_a_memory_bank_is_of_its_samples(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    understudy.train("photos", "mlp:4", run="teacher", epochs=1, **QUICK)
    stopped(monkeypatch, understudy.distill, "photos", "teacher", "mlp:4", run="crd", epochs=2, method="crd", **QUICK)
    add(here / "photos")
    with pytest.raises(UnderstudyError, match=r"do not fit distilled-0 .* restore the data, or start a new run"):
        understudy.resume("crd", accept_changed_data=True)


def test_what_was_accepted_is_what_counts_from_then_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (90, 92, 94):  # enough for one more update
        draw(number).save(here / f"photos/train/dog/{number}.bmp")
    stopped(monkeypatch, understudy.resume, "run", accept_changed_data=True)
    assert understudy.resume("run").finished


@pytest.mark.parametrize("contents", ["[]", '{"training part": {"ids": 3}}', '{"training part": [1e999]}', "{"])
def test_a_damaged_list_of_the_data_is_said(contents: str, here: Path) -> None:
    path = here / "run" / "data.json.gz"
    path.write_bytes(gzip.compress(contents.encode()))
    with pytest.raises(UnderstudyError, match=r"cannot be read .* remove it to go on"):
        understudy.resume("run")
    path.unlink()
    assert understudy.resume("run").finished


def test_changed_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.arange(24 * 64).remainder(251).byte().reshape(24, 1, 8, 8), torch.arange(24) % 2
    recipe = TrainRecipe(data="arrays", model="mlp:4", epochs=2, **QUICK)
    stopped(monkeypatch, ensure, pipeline_of(recipe, Overrides(data=(x, y))), tmp_path)
    other = x.clone()
    other[3, 0, 2, 2] += 1
    with pytest.raises(UnderstudyError, match=r"1 sample with other contents \(sample 3\)"):
        ensure(pipeline_of(recipe, Overrides(data=(other, y))), tmp_path)
    with pytest.raises(UnderstudyError, match=r"1 sample relabeled \(sample 23: 1, now 0\)"):
        ensure(pipeline_of(recipe, Overrides(data=(x, torch.cat([y[:23], y[:1]])))), tmp_path)
    assert ensure(pipeline_of(recipe, Overrides(data=(x, y))), tmp_path).finished


# --- formats --------------------------------------------------------------------------------------------------


def save_zip(path: Path, images: dict[str, bytes], labels: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for (name, data), label in zip(images.items(), labels, strict=True):
            file.writestr(f"{label}/{name}", data)


def save_tar(path: Path, images: dict[str, bytes], labels: list[str]) -> None:
    with tarfile.open(path, "w") as file:
        for (name, data), label in zip(images.items(), labels, strict=True):
            for member, content in ((name, data), (f"{Path(name).stem}.cls", label.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


def save_parquet(path: Path, images: dict[str, bytes], labels: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": data, "path": name} for name, data in images.items()]
    pq.write_table(pa.table({"image": cells, "label": labels}), path)


def save_csv(path: Path, images: dict[str, bytes], labels: list[str]) -> None:
    for name, data in images.items():
        (path.parent / name).write_bytes(data)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *zip(images, labels, strict=True)])


FORMATS = {"zip": save_zip, "tar": save_tar, "parquet": save_parquet, "csv": save_csv}
IMAGES = {f"{number}.png": png(number) for number in range(20)}
LABELS = [CLASSES[number % 2] for number in range(20)]


@pytest.mark.parametrize("decoded", [True, False], ids=["arrays", "records"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_tells_what_has_changed(
    form: str, decoded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not decoded:
        monkeypatch.setattr("understudy.data.formats.build.MAX_ARRAY_BYTES", 0)
    path = tmp_path / f"d.{form}"

    def saved(images: dict[str, bytes], labels: list[str]) -> Any:
        FORMATS[form](path, images, labels)
        os.utime(path, ns=(times := path.stat().st_mtime_ns + 10**9 * (len(list(tmp_path.iterdir())) + 1), times))
        return open_source(str(path)).train

    source = saved(IMAGES, LABELS)
    assert isinstance(source, RecordSource) is not decoded
    known = Fingerprint.from_json(json.loads(json.dumps(Fingerprint.of(source).to_json())))
    assert differences(known, saved(IMAGES, LABELS)) == []
    row = int((source.ids == source.ids.min()).nonzero())  # of any sample, by its number in IMAGES
    number = int(source.ids[row]) if form == "parquet" else int(Path(source.sample_names[row]).stem)
    edited = IMAGES | {f"{number}.png": png(number + 100)}
    assert any("other contents" in one for one in differences(known, saved(edited, LABELS)))
    labels = [*LABELS[:number], CLASSES[1 - number % 2], *LABELS[number + 1 :]]
    said = " ".join(differences(known, saved(IMAGES, labels)))
    assert ("relabeled" in said) or ("added" in said and "removed" in said)


def test_of_large_sets_some_contents_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.data.formats.build.MAX_ARRAY_BYTES", 0)
    monkeypatch.setattr(sources.RecordSource, "hashed", 3_000)
    photos = save_photos(tmp_path / "photos")
    source = open_source(str(photos)).train
    known = Fingerprint.of(source)
    hashed = {source.sample_names[int(row)] for row in known.digests.nonzero().flatten()}
    assert 0 < len(hashed) < len(source)

    def touch(*names: str) -> None:
        for name in names:
            os.utime(photos / name, ns=(1, 1))

    names = sorted(source.sample_names)
    unhashed = next(name for name in names if name not in hashed)
    touch(*names)
    assert differences(known, source) == [], "a copy has new times, and the same contents where they are hashed"
    shutil.rmtree(photos)
    save_photos(photos)
    again = Fingerprint.of(source)
    touch(unhashed)
    assert differences(again, source) == [f"1 sample with other contents ({unhashed})"], "nothing says that it is not"
    shutil.rmtree(photos)
    save_photos(photos)
    draw(93).save(photos / sorted(hashed)[0])
    assert differences(known, source) == [f"1 sample with other contents ({sorted(hashed)[0]})"]


def test_the_order_of_samples_and_classes_counts() -> None:
    digits = open_source("digits").train
    known = Fingerprint.of(digits)
    assert digits.targets is not None
    assert differences(known, digits.subset(torch.arange(len(digits)).flip(0))) == ["samples in another order"]
    renamed = replace(digits, classes=(*digits.classes[:9], "nine"))
    assert differences(known, renamed)[:2] == ["1 class added (nine)", "1 class removed (9)"]
    renumbered = replace(digits, classes=digits.classes[::-1], targets=9 - digits.targets)
    assert differences(known, renumbered) == ["classes in another order"]


# --- collections ----------------------------------------------------------------------------------------------


def few_shots(run: str) -> object:
    options: dict[str, Any] = {"draws": 2, "steps": 4, "crop_size": 8, **QUICK, "batch_size": 4}
    return understudy.few_shots("photos", "backbone", (2,), run=run, **options)


def test_runs_of_a_collection_that_have_not_begun_are_held_to_its_data(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    understudy.train("photos", "cnn:4", run="backbone", epochs=1, **QUICK)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)  # in the second draw
        with pytest.raises(Interrupted):
            few_shots("shots")
    shutil.rmtree("shots/shots-2-draw-1/checkpoints")
    shutil.rmtree("shots/shots-2-draw-1/models", ignore_errors=True)
    edit(here / "photos")
    with pytest.raises(UnderstudyError, match=r"since shots began .*understudy resume shots --accept-changed-data"):
        understudy.resume("shots")
    done = understudy.resume("shots", accept_changed_data=True)
    assert isinstance(done, RunCollection)
    assert done.finished
    assert "The data changed" in json.dumps(done.runs["shots-2-draw-1"].record["notes"])


def test_a_task_of_a_suite_is_held_to_its_data(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    understudy.train("photos", "cnn:4", run="backbone", epochs=1, **QUICK)
    options: dict[str, Any] = {"steps": 4, "crop_size": 8, **QUICK}
    stopped(monkeypatch, understudy.suite, ["photos"], "backbone", run="suite", **options)
    add(here / "photos")
    refused = understudy.resume("suite")
    assert isinstance(refused, RunCollection)
    assert "has changed since suite/photos began" in refused.facts.tasks[0].reason
    assert understudy.resume("suite", accept_changed_data=True).finished


# --- threads --------------------------------------------------------------------------------------------------


@pytest.fixture
def threads_of_updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads each update has."""
    real, seen = Loop._update, []

    def counted(self: Loop, *arguments: Any) -> None:
        seen.append(torch.get_num_threads())
        real(self, *arguments)

    monkeypatch.setattr(Loop, "_update", counted)
    return seen


def test_a_run_is_resumed_with_the_threads_that_it_began_with(here: Path, threads_of_updates: list[int]) -> None:
    began, now = Run(here / "run").record["machine"]["threads"], torch.get_num_threads()
    torch.set_num_threads(began + 2)
    try:
        assert understudy.resume("run").finished
        assert torch.get_num_threads() == began + 2, "what was set is set again"
    finally:
        torch.set_num_threads(now)
    assert set(threads_of_updates) == {began}


def test_the_runs_of_a_collection_have_its_threads(
    here: Path, monkeypatch: pytest.MonkeyPatch, threads_of_updates: list[int]
) -> None:
    understudy.train("photos", "cnn:4", run="backbone", epochs=1, **QUICK)
    stopped(monkeypatch, few_shots, "shots")
    began = torch.get_num_threads()
    torch.set_num_threads(began + 2)
    try:
        assert understudy.resume("shots").finished
    finally:
        torch.set_num_threads(began)
    assert set(threads_of_updates) == {began}


def test_another_machine_is_said(here: Path) -> None:
    run = Run(here / "run")
    run.note(machine={"device": "cuda", "precision": "bf16-mixed", "threads": 64})
    understudy.resume("run")
    assert run.facts.notes == [
        "Resumed on another machine (cuda, now cpu; bf16-mixed, now 32-true): the result is not that of a run in one "
        "go."
    ]


# --- places ---------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def distill(at: Path) -> None:
    """A teacher, and a student that was stopped, by relative paths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        understudy.train("photos", "mlp:4", run="runs/teacher", epochs=1, **QUICK)
        stopped(patch, understudy.distill, "photos", "runs/teacher", "mlp:4", run="runs/student", epochs=2, **QUICK)


def test_a_run_is_resumed_from_any_working_directory(
    here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill(here)
    monkeypatch.chdir(elsewhere)
    recipe = (here / "runs/student/recipe.yaml").read_bytes()
    done = understudy.resume("../copy/runs/student")
    assert done.finished
    assert (here / "runs/student/recipe.yaml").read_bytes() == recipe
    assert list(elsewhere.iterdir()) == []
    facts = understudy.evaluate("../copy/runs/student", "../copy/photos", split="test")
    assert facts.rows


def test_a_project_that_was_moved_is_resumed(here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distill(here)
    monkeypatch.chdir(elsewhere)
    shutil.move(here, elsewhere / "moved")
    assert understudy.resume("moved/runs/student").finished


def test_a_run_that_was_moved_alone_finds_its_files(
    here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill(here)
    monkeypatch.chdir(elsewhere)
    shutil.move(here / "runs/student", elsewhere / "student")
    assert understudy.resume("student").finished


def test_a_file_that_is_nowhere_is_named_with_its_place(
    here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(monkeypatch, understudy.train, "photos", "mlp:4", run="own", epochs=2, **QUICK)
    shutil.move(here / "photos", elsewhere / "pictures")
    with pytest.raises(UnderstudyError, match=f"photos, which own needs, is not where it was, at {here / 'photos'}"):
        understudy.resume("own")
    (elsewhere / "pictures").rename(elsewhere / "photos")
    monkeypatch.chdir(elsewhere)
    assert understudy.resume("../copy/own").finished, "what the sentence advises"


def test_named_data_sets_are_found_where_they_were(
    here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNDERSTUDY_DATA", raising=False)
    for folder in ("data", "mnist"):
        (here / folder).mkdir()  # a folder by the name of a data set is not that data set
    recipe = TrainRecipe(data="mnist", model="mlp:4")
    places = noted_places(recipe, Path("run"))
    assert located(recipe, places, Path("run")) == recipe
    monkeypatch.chdir(elsewhere)
    assert located(recipe, places, here / "run") == recipe.model_copy(update={"data_root": str(here / "data")})


def test_a_collection_that_was_moved_is_resumed(here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    understudy.train("photos", "cnn:4", run="backbone", epochs=1, **QUICK)
    stopped(monkeypatch, few_shots, "shots")
    options: dict[str, Any] = {**QUICK, "batch_size": 100}
    understudy.train("digits", "mlp:4", run="generalist", epochs=1, **options)
    stopped(monkeypatch, understudy.specialists, "digits", "generalist", run="panel", clusters=2, epochs=1, **options)
    monkeypatch.chdir(elsewhere)
    for name in ("shots", "panel"):
        shutil.move(here / name, elsewhere / name)
        assert understudy.resume(name).finished
    (elsewhere / "deeper").mkdir()
    shutil.move(elsewhere / "panel", elsewhere / "deeper" / "panel")
    assert len(load_panel(elsewhere / "deeper" / "panel").classes) == 10, "its generalist is found too"


def test_a_compression_that_was_moved_finds_its_teacher(
    here: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    understudy.train("photos", "cnn:4", run="backbone", epochs=1, **QUICK)
    options = {name: value for name, value in QUICK.items() if name != "batch_size"}
    stopped(
        monkeypatch, understudy.compress, "photos", "backbone", "mlp:4", run="small", steps=2, teacher_steps=4,
        crop_size=8, format="torch", **options,
    )  # fmt: skip
    monkeypatch.chdir(elsewhere)
    shutil.move(here, elsewhere / "moved")
    assert understudy.resume("moved/small").finished
