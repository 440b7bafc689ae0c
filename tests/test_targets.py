"""Teacher stores: what `label` keeps is what the teacher answers, whoever labels, and whatever stops it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import understudy
from resumable import QUICK, stop_at, weights
from understudy.cli import main
from understudy.data.loader import BatchLoader
from understudy.errors import Interrupted, UnderstudyError
from understudy.runs.targets import TargetsFolder
from understudy.signals import Batch, Signals
from understudy.teachers.encoding import Compact
from understudy.teachers.store import Store, read_manifest, shards_of
from understudy.verbs.label import LabelConfig, Overrides, _job

CPU = torch.device("cpu")
SERIAL: dict[str, Any] = {**QUICK, "workers": 0}
SMALL: dict[str, Any] = {"views": 3, "batch_size": 20, **SERIAL}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers of digits, one of photos, and photos."""
    root = tmp_path_factory.mktemp("home")
    random = np.random.default_rng(0)
    for number in range(70):
        part, name = ("train" if number % 5 else "test"), ("dark", "bright")[number % 2]
        place = root / "photos" / part / name / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (20 + number % 9, 24, 3), np.uint8) + np.uint8(number % 2 * 120)
        Image.fromarray(pixels).save(place)
    for seed in (0, 1):
        understudy.train("digits", "mlp:32x1", run=root / f"digits-{seed}", epochs=2, seed=seed, **SERIAL)
    understudy.train(str(root / "photos"), "cnn:4", run=root / "cnn", epochs=1, batch_size=8, size=16, **SERIAL)
    return root


def answers(folder: TargetsFolder, batch: int, **options: Any) -> list[tuple[Batch, Any, Any]]:
    """Batches of two passes over the views, with the store's signals and the teachers' own."""
    manifest = read_manifest(folder.path)
    config = LabelConfig(**{**manifest.config, **options})
    job = _job(config, Overrides(), folder.path)
    store, teacher = Store.open(folder.path), job.pipeline.live_teacher(CPU)
    assert teacher is not None
    watched = {one.name for one in manifest.signals} - {"logits"}
    store.watch(watched)
    teacher.watch(watched)
    loader = BatchLoader(job.pipeline.data.train, store.views, batch, 5, CPU)
    steps = 2 * manifest.known_views.count * loader.steps  # type: ignore[operator]
    return [(one, store(one), teacher(one)) for one in loader.stream(0, steps)]


def files(folder: Path) -> dict[str, bytes]:
    """All bytes but those of the record of the machine."""
    names = [path.name for path in folder.iterdir() if path.name != "targets.json"]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("mixup", [0.0, 0.5])
@pytest.mark.parametrize("batch", [7, 50])
def test_a_store_gives_what_the_teacher_would(home: Path, tmp_path: Path, mixup: float, batch: int) -> None:
    """For batches of any size, in any order, of arrays and of photos, also mixed ones."""
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "digits-0": ("digits", {"fraction": 0.1}), "cnn": (str(home / "photos"), {"size": 16}),
    }  # fmt: skip
    for teacher, (data, options) in cases.items():
        out = tmp_path / teacher
        folder = understudy.label(data, home / teacher, out=out, mixup=mixup, embedding=True, **SMALL, **options)
        for one, found, expected in answers(folder, batch):
            torch.testing.assert_close(found.logits, expected.logits, rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(found.embedding, expected.embedding, rtol=2e-3, atol=2e-3)
            assert len(one) == len(found.logits)


def test_int8_and_features(home: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"embedding": True, "int8": True, "fraction": 0.1, "features": ("1",)}
    folder = understudy.label("digits", home / "digits-0", out=tmp_path / "t", **SMALL, **options)
    for _, found, expected in answers(folder, 40):
        layers = ((one.embedding, one.features["1"]) for one in (found, expected))
        for one, other in zip(*layers, strict=True):
            assert isinstance(one, Tensor)
            assert float((one - other).abs().max()) <= float(other.abs().max()) / 200


def test_several_teachers_together_and_apart(home: Path, tmp_path: Path) -> None:
    teachers = [home / "digits-0", home / "digits-1"]
    together = understudy.label("digits", teachers, out=tmp_path / "a", fraction=0.1, mean="geometric", **SMALL)
    apart = understudy.label("digits", teachers, out=tmp_path / "b", fraction=0.1, members=True, **SMALL)
    for folder, members in ((together, 0), (apart, 2)):
        for _, found, expected in answers(folder, 40):
            torch.testing.assert_close(found.logits, expected.logits, rtol=5e-3, atol=5e-3)
            assert len(found.members) == members
            for one, other in zip(found.members, expected.members, strict=False):
                torch.testing.assert_close(one.logits, other.logits, rtol=2e-3, atol=2e-3)


def test_a_panel_of_specialists_is_one_teacher(home: Path, tmp_path: Path) -> None:
    panel = understudy.specialists("digits", home / "digits-0", run=tmp_path / "p", clusters=2, epochs=1, **SERIAL)
    folder = understudy.label("digits", panel.path, out=tmp_path / "t", fraction=0.1, **SMALL)
    for _, found, expected in answers(folder, 40):
        torch.testing.assert_close(found.logits.softmax(1), expected.logits.softmax(1), rtol=0, atol=2e-3)


def test_the_size_of_compact_logits() -> None:
    each = Compact.row_bytes((1000,))
    assert 50_000 * 50 * each <= 80e6, "CIFAR-100, 50 views"
    assert 1_281_167 * 50 * each <= 2.06e9, "ImageNet, 50 views"


def distance(found: Signals, expected: Signals, temperature: float = 4.0) -> float:
    """Total variation of the soft targets, on average."""
    one, other = ((x.logits / temperature).softmax(1) for x in (found, expected))
    return float((one - other).abs().sum(1).mean()) / 2


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Images of a hundred classes, and a teacher of them, hardly trained."""
    root, random = tmp_path_factory.mktemp("hundred"), np.random.default_rng(0)
    for number in range(400):
        place = root / "images" / ("test" if number < 100 else "train") / f"{number % 100:02}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (4, 4), np.uint8)).save(place)
    data = str(root / "images")
    return data, understudy.train(data, "mlp:8", epochs=1, batch_size=50, run=root / "teacher", **SERIAL).path


@pytest.mark.parametrize(("logits", "encoding", "width"), [("auto", "compact", 32), ("all", "float16", 200)])
def test_logits_of_a_hundred_classes_are_compact_unless_all_are_asked_for(
    hundred: Any, tmp_path: Path, logits: Any, encoding: str, width: int
) -> None:
    data, teacher = hundred
    folder = understudy.label(data, teacher, out=tmp_path / "targets", logits=logits, **SMALL)
    (signal,) = folder.manifest.signals
    assert (signal.encoding, folder.manifest.view_bytes) == (encoding, width)
    assert Store.open(folder.path).tables["logits.bin"].shape == (3, folder.manifest.samples, width)
    for _, found, expected in answers(folder, 40):
        assert distance(found, expected) < 0.02


def test_compact_logits_of_mixed_images(hundred: Any, tmp_path: Path) -> None:
    """Each is answered as it is mixed in its view, whatever batch a student sees it in."""
    data, teacher = hundred
    folder = understudy.label(data, teacher, out=tmp_path / "targets", mixup=0.5, **SMALL)
    assert folder.manifest.signals[0].encoding == "compact"
    for batch in (7, 50):
        seen = answers(folder, batch)
        assert any(bool((one.weight < 0.99).any()) for one, *_ in seen if one.weight is not None)
        for one, found, expected in seen:
            assert distance(found, expected) < 0.02, len(one)


def test_compact_logits_of_few_classes_are_all_kept(home: Path, tmp_path: Path) -> None:
    folder = understudy.label("digits", home / "digits-0", out=tmp_path / "t", logits="compact", **SMALL)
    assert folder.manifest.signals[0].encoding == "float16", "20 bytes, not 32"


def test_students_of_compact_logits(hundred: Any, tmp_path: Path) -> None:
    """The teacher is known by its answers."""
    data, teacher = hundred
    targets = understudy.label(data, teacher, out=tmp_path / "targets", **SMALL).path
    assert understudy.distill(data, teacher, "mlp:4", targets=targets, epochs=1, run=tmp_path / "s", **SERIAL).finished
    understudy.train(data, "mlp:8", epochs=9, lr=0.05, batch_size=50, seed=5, run=tmp_path / "other", **SERIAL)
    with pytest.raises(UnderstudyError, match="the teacher does not give the answers of"):
        understudy.distill(data, tmp_path / "other", "mlp:4", targets=targets, run=tmp_path / "t", **SERIAL)


def test_compact_logits_of_teachers_apart(hundred: Any, tmp_path: Path) -> None:
    data, teacher = hundred
    second = understudy.train(data, "mlp:8", epochs=1, batch_size=50, seed=1, run=tmp_path / "second", **SERIAL).path
    folder = understudy.label(data, [teacher, second], out=tmp_path / "t", members=True, logits="compact", **SMALL)
    assert sorted(path.name for path in folder.path.glob("*.npz")) == [
        "0-logits-basis.npz", "1-logits-basis.npz", "sampled.npz",
    ]  # fmt: skip
    for _, found, expected in answers(folder, 40, teacher=(str(teacher), str(second))):
        assert distance(found, expected) < 0.02
        for one, other in zip(found.members, expected.members, strict=True):
            assert distance(one, other) < 0.02


# --- whoever labels, and whatever stops it ----------------------------------------------------------------


# compact logits, whose basis comes first, and int8, of mixed images: all that could differ
KEPT: dict[str, Any] = {"views": 3, "batch_size": 5, "embedding": True, "int8": True, "mixup": 0.5, **SERIAL}
FLAGS = ["--views", "3", "--batch-size", "5", "--embedding", "--int8", "--mixup", "0.5", "--precision", "32"]


@pytest.fixture(scope="module")
def whole(hundred: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    found = understudy.label(*hundred, out=tmp_path_factory.mktemp("whole") / "targets", **KEPT)
    assert [one.encoding for one in found.manifest.signals] == ["compact", "int8"]
    return found.path, files(found.path)


def test_parts_make_the_whole(hundred: Any, tmp_path: Path, whole: Any) -> None:
    """Also of machines that found other bases of compact logits."""
    parts = [tmp_path / f"part-{k}" for k in (1, 2, 3)]
    for k, part in enumerate(parts, 1):
        assert not understudy.label(*hundred, out=part, part=f"{k}/3", **KEPT).finished
    with pytest.raises(UnderstudyError, match="has not all answers yet; continue with: understudy resume"):
        Store.open(parts[0])
    merged = understudy.label(*hundred, out=tmp_path / "all", part="1/3", merge=parts, **KEPT)
    assert merged.finished
    assert files(merged.path) == whole[1]
    assert not (merged.path / "shards").exists()
    basis = Compact.read(parts[1] / "logits-basis.npz")
    other = replace(basis, directions=-basis.directions.flip(0))  # the same axes, as another machine may find them
    for file in parts[1].glob("shards/*.bin"):
        number, folder = int(file.stem), TargetsFolder(parts[1])
        _, first, last = shards_of(folder.manifest)[number]
        rows, found = folder.read_shard(number, last - first, folder.manifest.signals)
        recoded = other.encode(basis.decode(torch.from_numpy(rows["logits.bin"].copy()))).numpy()
        folder.write_shard(number, {**rows, "logits.bin": recoded}, found)
    (parts[1] / "logits-basis.npz").write_bytes(other.to_bytes())
    for _, found, expected in answers(understudy.label(*hundred, out=tmp_path / "recoded", merge=parts, **KEPT), 40):
        assert distance(found, expected) < 0.02


def test_other_targets_are_not_merged(home: Path, tmp_path: Path) -> None:
    other = understudy.label("digits", home / "digits-1", out=tmp_path / "other", part="1/15", **SMALL)
    with pytest.raises(UnderstudyError, match="is of other teachers; choose another --out folder, or delete it"):
        understudy.label("digits", home / "digits-0", out=tmp_path / "new", merge=[other.path], **SMALL)


def test_two_processes_make_the_whole(hundred: Any, tmp_path: Path, whole: Any) -> None:
    assert files(understudy.label(*hundred, out=tmp_path / "two", devices=2, **KEPT).path) == whole[1]


def test_what_a_signal_stops_goes_on(hundred: Any, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, out = TargetsFolder.write_shard, tmp_path / "t"

    def stopping(self: TargetsFolder, number: int, *rest: Any) -> None:
        real(self, number, *rest)
        if number == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TargetsFolder, "write_shard", stopping)
    with pytest.raises(Interrupted, match=f"continue with: understudy resume {out}"):
        understudy.label(*hundred, out=out, **KEPT)
    monkeypatch.undo()
    assert len(list((out / "shards").iterdir())) == 4
    assert main(["resume", str(out)]) == 0
    assert files(out) == whole[1]
    with pytest.raises(UnderstudyError, match="is finished"):
        understudy.resume(out)


def test_what_is_killed_goes_on(hundred: Any, tmp_path: Path, whole: Any) -> None:
    data, teacher, out = *hundred, tmp_path / "t"
    command = [sys.executable, "-m", "understudy", "label", data, "--teacher", str(teacher), *FLAGS]
    command += ["--accelerator", "cpu", "--workers", "0", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("shards/*.bin"))) < 2:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert main(command[3:]) == 0
    assert files(out) == whole[1]
    assert main(command[3:]) == 0, "what is done is left alone"


# --- students ---------------------------------------------------------------------------------------------


def test_students_need_no_teacher_at_hand(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "digits-0", "gone")
    assert main(["label", "digits", "--teacher", "gone", "--views", "4", "--embedding", "--out", "targets"]) == 0
    options: dict[str, Any] = {"method": ("kd", "crd"), "seeds": 1, "epochs": 6, **SERIAL}
    live = understudy.compare("digits", "gone", "mlp:8", run="live", **options)
    both = understudy.distill("digits", "gone", "mlp:8", targets="targets", epochs=2, run="both", **SERIAL)
    assert both.facts.rows[0].role == "teacher"
    shutil.rmtree("gone")
    run = understudy.compare("digits", None, "mlp:8", targets="targets", run="s", **options)
    assert sorted(run.models) == sorted(live.models)
    assert run.finished
    for name in ("kd", "crd"):
        one, other = (next(r for r in x.facts.rows if r.name == name).mean("accuracy") for x in (run, live))
        assert one == pytest.approx(other, abs=0.12)


def test_a_stopped_student_ends_the_same(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = understudy.label("digits", home / "digits-0", out=tmp_path / "targets", mixup=0.4, **SMALL).path
    options: dict[str, Any] = {"targets": targets, "epochs": 5, **SERIAL}
    understudy.distill("digits", None, "mlp:8", run=tmp_path / "whole", **options)
    stop_at(monkeypatch, 17)
    with pytest.raises(Interrupted):
        understudy.distill("digits", None, "mlp:8", run=tmp_path / "stopped", **options)
    monkeypatch.undo()
    understudy.resume(tmp_path / "stopped")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_photos_without_labels(home: Path, tmp_path: Path) -> None:
    """The students learn the teacher's classes; photos that cannot be read have no answers, and are not asked for."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in sorted((home / "photos" / "train").rglob("*.png")):
        shutil.copy(file, bare / file.name)
    broken = bare / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    targets = understudy.label(str(bare), home / "cnn", out=tmp_path / "targets", size=16, **SMALL)
    assert len(read_manifest(targets.path).unreadable) <= 1
    run = understudy.distill(
        str(bare), None, "cnn:2", targets=targets.path, epochs=2, batch_size=8, run=tmp_path / "s", **SERIAL
    )
    assert run.network("distilled-0").classes == ("bright", "dark")


# --- what does not fit ------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_one_sentence(home: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(home / "photos", photos)
    targets = understudy.label(str(photos), home / "cnn", out=tmp_path / "targets", size=16, **SMALL).path

    def refused(match: str, data: object = None, targets: Path = targets, **options: Any) -> None:
        fields: dict[str, Any] = {"epochs": 1, "batch_size": 8, "teacher": None, **SERIAL, **options}
        with pytest.raises(UnderstudyError, match=match) as found:
            understudy.distill(
                data or str(photos), fields.pop("teacher"), "cnn:2", targets=targets, run=tmp_path / "s", **fields
            )
        assert "\n" not in str(found.value)
        assert not (tmp_path / "s").exists()

    refused(
        "targets holds logits of the teacher, and the method reads its embedding; label .* --embedding", method="crd"
    )
    refused("augmentation is rotate=5.0, and .*targets was made with the default", rotate=5)
    refused(r"mixup is 0\.3, and .*targets was made with 0\.0", mixup=0.3)
    refused("size is 20, and .*targets was made with 16", size=20)
    refused("digits have no answers in|samples of digits have no answers in", data="digits")
    refused("the teacher does not give the answers of", teacher=other_teacher(home, photos))
    (photos / "train" / "dark" / "new.png").write_bytes((photos / "train" / "dark" / "2.png").read_bytes())
    refused("1 of the 57 samples of .*photos have no answers in .* e.g. .*dark/new.png; label them: understudy label")
    (photos / "train" / "dark" / "new.png").unlink()
    kept = (photos / "train" / "dark" / "2.png").read_bytes()
    Image.new("RGB", (24, 24), "red").save(photos / "train" / "dark" / "2.png")
    refused("photos has changed since .*targets was made .*1 sample with other contents")
    (photos / "train" / "dark" / "2.png").write_bytes(kept)
    data = bytearray((targets / "logits.bin").read_bytes())
    data[5] ^= 1
    (targets / "logits.bin").write_bytes(data)
    refused(r"logits\.bin is damaged; restore it, or label the data again")
    refused("holds no targets; understudy label makes them", targets=tmp_path)


def other_teacher(home: Path, photos: Path) -> Path:
    there = home / "other-cnn"
    if not there.exists():
        understudy.train(str(photos), "cnn:4", run=there, epochs=4, lr=0.05, seed=3, batch_size=8, size=16, **SERIAL)
    return there


def test_a_part_of_the_samples_is_enough_but_with_mixup(home: Path, tmp_path: Path) -> None:
    plain = understudy.label("digits", home / "digits-0", out=tmp_path / "a", **SMALL).path
    mixed = understudy.label("digits", home / "digits-0", out=tmp_path / "b", mixup=0.5, **SMALL).path
    options: dict[str, Any] = {"epochs": 1, "fraction": 0.3, **SERIAL}
    assert understudy.distill("digits", None, "mlp:8", targets=plain, run=tmp_path / "s", **options).finished
    with pytest.raises(UnderstudyError, match="it fits only all samples that were labeled"):
        understudy.distill("digits", None, "mlp:8", targets=mixed, run=tmp_path / "t", **options)


def test_changed_data_stops_the_labeling(home: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "targets"
    shutil.copytree(home / "photos", photos)
    understudy.label(str(photos), home / "cnn", out=out, size=16, part="1/2", **SMALL)
    (photos / "train" / "dark" / "2.png").unlink()
    with pytest.raises(UnderstudyError, match="is of other data"):
        understudy.label(str(photos), home / "cnn", out=out, size=16, **SMALL)


@pytest.mark.parametrize("part", ["0/3", "4/3", "a", "3"])
def test_a_part_that_is_none(home: Path, tmp_path: Path, part: str) -> None:
    with pytest.raises(UnderstudyError, match="write NUMBER/PARTS, as in 3/16"):
        understudy.label("digits", home / "digits-0", out=tmp_path / "t", part=part)


def test_members_of_a_single_teacher_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="keeps the answers of several teachers apart, and there is one"):
        understudy.label("digits", home / "digits-0", out=tmp_path / "t", members=True, **SMALL)
    assert not (tmp_path / "t").exists()


def test_a_folder_of_targets_is_no_place_for_a_run(home: Path, whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "digits", "--model", "mlp:8", "--epochs", "1", "--run", str(whole[0])]
    for more in ([], ["--overwrite"]):
        assert main([*command, *more]) == 2
        assert "targets holds targets; choose another --run folder" in capsys.readouterr().err
    with pytest.raises(UnderstudyError, match="holds targets; choose another --run folder"):
        understudy.compare("digits", home / "digits-0", "mlp:8", run=whole[0], **SERIAL)
    assert files(whole[0]) == whole[1]


def test_the_size_is_said_before_anything_is_labeled(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "digits", "--teacher", str(home / "digits-0"), "--views", "50", "--dry-run"]) == 0
    assert "50 views of 1,438 samples of digits, 20 bytes each, 1.4 MB in all" in capsys.readouterr().out
