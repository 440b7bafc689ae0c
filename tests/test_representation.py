"""Representations without labels: objectives against plain versions, teachers as they are, and what is made of them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import entropy
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

import understudy
from understudy.data import ArraySource, open_source
from understudy.data.parts import distinct, held_apart, spread
from understudy.errors import UnderstudyError
from understudy.evaluation.representation import (
    check_embeddings,
    effective_rank,
    gap_closed,
    knn_accuracy,
    neighbor_agreement,
    plane,
    principal_plane,
    side_by_side,
)
from understudy.models import InputContract, as_given, build, load_network, with_own_classes
from understudy.objectives import (
    Balance,
    BuildContext,
    Cosine,
    Patches,
    PatchSimilarity,
    QueueSimilarity,
    TapPair,
    balancing,
    cosine_loss,
    patch_loss,
    patch_similarity_loss,
    queue_loss,
)
from understudy.objectives.patches import as_map, grid_of, resized_to
from understudy.runs.run import Run
from understudy.signals import Batch, Shapes, Signals
from understudy.teachers import adopt_classes
from understudy.teachers.frozen import named_among

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "accelerator": "cpu"}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(rows: int) -> Batch:
    return Batch(torch.arange(rows), torch.arange(rows), torch.zeros(rows, 1))


# --- objectives -----------------------------------------------------------------------------------------


def test_cosine_is_theias_loss() -> None:
    s, t = randn(5, 7), randn(5, 7, seed=1)
    a, b = s.numpy(), t.numpy()
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    distance = np.abs(a - b)
    smooth = np.where(distance < 1, 0.5 * distance**2, distance - 0.5).mean()
    assert float(cosine_loss(s, t, 0.1)) == pytest.approx(0.9 * (1 - cosine).mean() + 0.1 * smooth, rel=1e-5)


def test_the_queue_compares_distributions_of_similarities() -> None:
    s, t, keys = randn(4, 6), randn(4, 6, seed=1), randn(9, 6, seed=2)

    def similarities(x: Tensor) -> np.ndarray:
        a, k = x.double().numpy(), keys.double().numpy()
        scores = a @ k.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(k, axis=1)) / 0.07
        e = np.exp(scores - scores.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    expected = np.mean([entropy(p, q) for p, q in zip(similarities(t), similarities(s), strict=True)])
    assert float(queue_loss(s, t, keys)) == pytest.approx(expected, rel=1e-4)


def test_the_queue_holds_the_last_teacher_embeddings_and_only_those() -> None:
    objective = QueueSimilarity(3, 4, size=6, balance="none")
    rows = [randn(4, 4, seed=i) for i in range(3)]
    for row in rows:
        objective(Signals(torch.empty(4, 0), randn(4, 3)), Signals(torch.empty(4, 0), row), batch_of(4))
    unit = nn.functional.normalize(torch.cat(rows)[-6:], dim=1)
    nearest_own = (objective.queue @ unit.T).max(1)
    torch.testing.assert_close(nearest_own.values, torch.ones(6))
    assert sorted(nearest_own.indices.tolist()) == list(range(6))
    before = objective.queue.clone()
    objective.eval()(Signals(torch.empty(4, 0), randn(4, 3)), Signals(torch.empty(4, 0), rows[0]), batch_of(4))
    assert torch.equal(objective.queue, before), "nothing is added when it is not trained"


def test_rows_that_are_not_filled_yet_do_not_count() -> None:
    student, teacher = Signals(torch.empty(4, 0), randn(4, 3)), Signals(torch.empty(4, 0), randn(4, 4, seed=1))
    short, long = (QueueSimilarity(3, 4, size=size, balance="none") for size in (4, 50))
    long.project.load_state_dict(short.project.state_dict())
    torch.testing.assert_close(short(student, teacher, batch_of(4)), long(student, teacher, batch_of(4)))


@pytest.mark.parametrize("kind", ["center", "standardize", "phi-s"])
def test_balanced_spaces(kind: Any) -> None:
    x = randn(200, 5) @ randn(5, 5, seed=1) * torch.tensor([10.0, 1.0, 0.1, 3.0, 1.0]) + 7
    mean, matrix = balancing(x, kind)
    y = (x - mean) @ matrix
    torch.testing.assert_close(y.mean(0), torch.zeros(5), atol=1e-3, rtol=0)
    assert float(y.var(0, correction=0).mean()) == pytest.approx(1, abs=1e-3)
    if kind != "center":
        torch.testing.assert_close(y.var(0, correction=0), torch.ones(5), atol=1e-3, rtol=0)
    if kind != "standardize":  # one scale: distances keep their ratios
        ratio = torch.cdist(y, y)[0, 1:] / torch.cdist(x, x)[0, 1:]
        torch.testing.assert_close(ratio, ratio[:1].expand(199), rtol=1e-3, atol=0)


@pytest.mark.parametrize("bad", [torch.full((4, 3), torch.nan), torch.ones(4, 3), torch.zeros(4, 3)])
def test_embeddings_that_say_nothing_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="nothing to learn"):
        Balance(3).fit(bad)
    with pytest.raises(UnderstudyError, match="check its weights"):
        check_embeddings(bad, "the teacher")


def test_patches_of_a_transformer_and_a_convolutional_network() -> None:
    tokens, maps = randn(2, 1 + 16, 6), randn(2, 3, 2, 2, seed=1)
    assert grid_of((17, 6)) == (6, 4, 4)
    assert torch.equal(as_map(tokens)[0, :, 1, 2], tokens[0, 1 + 4 + 2])
    assert resized_to(maps, (4, 4)).shape == (2, 3, 4, 4)
    pair = TapPair("map", "tokens", (3, 2, 2), (17, 6))
    student, teacher = (
        Signals(torch.empty(2, 0), None, {"map": maps}),
        Signals(torch.empty(2, 0), None, {"tokens": tokens}),
    )
    objective = Patches([pair])
    projected = objective.projectors[0](resized_to(maps, (4, 4)))
    torch.testing.assert_close(objective(student, teacher, batch_of(2)), patch_loss(projected, as_map(tokens)))
    expected = patch_similarity_loss(resized_to(maps, (4, 4)), as_map(tokens))
    torch.testing.assert_close(PatchSimilarity([pair])(student, teacher, batch_of(2)), expected)


@pytest.mark.parametrize("shape", [(160, 6), (8,), (6, 1, 1)])
def test_layers_without_a_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"grid|single position"):
        Patches([TapPair("map", "tokens", (3, 2, 2), shape)])
    context = BuildContext(Shapes(0, 4, {"a": (3, 2, 2)}), Shapes(0, 4, {"t": shape}), torch.arange(4))
    with pytest.raises(ValueError, match=r"the teacher has no layer with a grid of patches.*--teacher-taps"):
        Patches.from_shapes(context)


def test_a_store_without_embeddings_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="--embedding"):
        Cosine.from_shapes(BuildContext(Shapes(0, 4), Shapes(3, 0), torch.arange(4)))


# --- measures -------------------------------------------------------------------------------------------


def test_nearest_neighbors_vote_as_in_scikit_learn() -> None:
    x, keys = randn(30, 5), randn(60, 5, seed=1)
    targets, key_targets = torch.arange(30) % 3, torch.arange(60) % 3
    weights: Any = lambda d: np.exp((1 - d) / 0.07)  # noqa: E731 a function, unlike what its stub says
    model = KNeighborsClassifier(20, metric="cosine", weights=weights)
    predicted = model.fit(keys.numpy(), key_targets.numpy()).predict(x.numpy())
    assert knn_accuracy(x, targets, keys, key_targets) == pytest.approx(float((predicted == targets.numpy()).mean()))


def test_measures_of_a_space() -> None:
    x = randn(40, 6)
    turn = torch.linalg.qr(randn(6, 6, seed=1)).Q
    assert neighbor_agreement(x, 5 * x @ turn) == 1
    assert neighbor_agreement(x, randn(40, 6, seed=2)) < 0.5
    assert effective_rank(x @ turn + 3) == pytest.approx(effective_rank(x), rel=1e-4)
    assert effective_rank(x[:, :1] * torch.ones(6)) == pytest.approx(1, abs=1e-3), "collapsed to a line"
    assert gap_closed(0.2, 0.1, 0.6) == pytest.approx(-0.25)
    plane = principal_plane(x @ torch.diag(torch.tensor([9.0, 4, 0.1, 0.1, 0.1, 0.1])))
    assert abs(float(torch.corrcoef(torch.stack([plane[:, 0], x[:, 0]]))[0, 1])) > 0.9
    assert principal_plane(x[:, :1]).shape == (40, 2)
    both = side_by_side([x, 100 * randn(40, 3, seed=3)])
    torch.testing.assert_close(both[:, :6].norm(dim=1), both[:, 6:].norm(dim=1), msg="teachers count alike")


def test_maps_are_by_umap_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halves:
        def __init__(self, **options: Any) -> None:
            assert options["metric"] == "cosine"

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            return 5 * x[:, :2] + 3

    x = randn(40, 6)
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Halves))
    kind, found = plane(x)
    assert kind == "UMAP"
    torch.testing.assert_close(found, (x[:, :2] - x[:, :2].mean(0)) / x[:, 0].std())
    assert plane(x[:15])[0] == "PCA", "fewer than it looks at"
    monkeypatch.setitem(sys.modules, "umap", None)
    kind, found = plane(x)
    assert kind == "PCA"
    torch.testing.assert_close(found, principal_plane(x))


def test_umap_keeps_groups_together() -> None:
    pytest.importorskip("umap")
    group = torch.arange(60) % 2
    kind, found = plane(0.1 * randn(60, 6) + torch.eye(6)[group])
    assert kind == "UMAP"
    assert knn_accuracy(found - found.mean(0), group, count=1) > 0.9
    assert float(torch.cdist(found[group == 0], found[group == 1]).min()) > 0.5


# --- data -----------------------------------------------------------------------------------------------


def test_exact_copies_are_left_out(tmp_path: Path) -> None:
    for name, shade in (("a", 10), ("b", 20), ("c", 10)):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / f"{name}.png")
    kept = distinct(open_source(tmp_path).train)
    assert sorted(kept.sample_name(i) for i in range(len(kept))) in (["a.png", "b.png"], ["b.png", "c.png"])
    assert any("1 exact copy" in note for note in kept.notes)


def test_what_is_held_out_depends_on_the_ids_alone(small_images: ArraySource) -> None:
    kept, held = held_apart(small_images, 6, seed=3)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(30))
    turned = small_images.subset(torch.arange(29, -1, -1))
    assert set(turned.ids[held_apart(turned, 6, seed=3)[1]].tolist()) == set(small_images.ids[held].tolist())
    assert len(spread(small_images, 7)) == 7


# --- teachers as they are -------------------------------------------------------------------------------

PHOTOS = InputContract((3, 32, 32), (0.4,) * 3, (0.2,) * 3, ())


def test_models_without_classes_become_classifiers(tmp_path: Path) -> None:
    for spec in ("cnn:4-8", "timm:test_resnet.r160_in1k", "bit:R26x0.5"):
        network = build(spec, PHOTOS)
        assert network(torch.rand(2, 3, 32, 32)).logits.shape == (2, 0)
        network.save(tmp_path / "w.safetensors")
        again = load_network(tmp_path / "w.safetensors")
        x = torch.rand(2, 3, 32, 32)
        embeddings = [one.eval().watch({"embedding"})(x).embedding for one in (network, again)]
        torch.testing.assert_close(*embeddings)


def test_a_vision_transformer_at_another_size(tmp_path: Path) -> None:
    name = "timm:test_vit"
    trained = build(name, InputContract((3, 160, 160), (0.5,) * 3, (0.5,) * 3, tuple("abcde")))
    torch.save(trained.module.state_dict(), tmp_path / "w.pth")
    teacher = as_given(f"{name}?weights={tmp_path / 'w.pth'}", PHOTOS)
    assert teacher.contract.shape == (3, 64, 64), "twice the images'"
    assert teacher.classes == tuple("01234")
    assert teacher.contract.mean != PHOTOS.mean, "its own"
    asked = as_given(f"{name}?weights={tmp_path / 'w.pth'}", PHOTOS, size=40)
    assert asked.contract.shape == (3, 48, 48), "whole patches of 16"
    own = as_given(f"{name}?weights={tmp_path / 'w.pth'}", PHOTOS, size=160)
    x = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(own.eval().module(x), trained.eval().module(x))


def test_weights_without_a_head_make_a_headless_teacher(tmp_path: Path) -> None:
    state = build("timm:test_resnet", PHOTOS).module.state_dict()
    torch.save({name: x for name, x in state.items() if not name.startswith("fc.")}, tmp_path / "w.pth")
    for classes in ((), ("cat", "dog")):
        teacher = as_given(f"timm:test_resnet?weights={tmp_path / 'w.pth'}", InputContract(*_fields(PHOTOS), classes))
        assert teacher.classes == ()
        assert teacher.shapes(()).embedding > 0


def _fields(contract: InputContract) -> tuple[Any, Any, Any]:
    return contract.shape, contract.mean, contract.std


class Embeds(nn.Module):
    """A module of the user's that ends in an embedding."""

    def __init__(self, value: float | None = None) -> None:
        super().__init__()
        self.convolution, self.value = nn.Conv2d(1, 6, 3), value

    def forward(self, x: Tensor) -> Tensor:
        found = self.convolution(x).relu().mean((2, 3))
        return found if self.value is None else found * 0 + self.value


def test_a_module_that_outputs_an_embedding() -> None:
    module = Embeds()
    network = with_own_classes(build(module, InputContract((1, 8, 8), (0.5,), (0.5,), ("cat", "dog"))))
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(network.watch({"embedding"})(x).embedding, module((x - 0.5) / 0.5))
    assert network.classes == ()


def test_classes_are_found_by_name() -> None:
    known = ["tench, Tinca tinca", "tabby, tabby cat", "crane", "crane"]
    assert named_among(["Tabby_Cat", "tench"], known) == [1, 0]
    assert named_among(["crane"], known) is None, "which one?"
    assert named_among(["dog"], known) is None
    network = build("mlp:8", InputContract((2,), (0.0,) * 2, (1.0,) * 2, ("a, x", "b", "c")))
    x = torch.rand(3, 2)
    before = network(x).logits
    assert adopt_classes(network, ("c", "x"))
    torch.testing.assert_close(network(x).logits, before[:, [2, 0]])
    assert "2 of its 3 classes" in network.init_from


# --- the way through ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 unlabeled images of 16 x 16 pixels in a flat folder, one of them twice."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for i in range(120):
        coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")
    (folder / "again.png").write_bytes((folder / "000.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    contract = InputContract((3, 16, 16), (0.5,) * 3, (0.25,) * 3, tuple("abcdefg"))
    file = tmp_path_factory.mktemp("teacher") / "w.pth"
    torch.save(build("cnn:16-24", contract, seed=5).module.state_dict(), file)
    return f"cnn:16-24?weights={file}"


@pytest.fixture(scope="module")
def run(photos: Path, teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    options: dict[str, Any] = QUICK | {"epochs": 25, "lr": 0.01, "crop_scale": 1.0, "batch_size": 16}
    return understudy.distill(photos, teacher, "cnn:8-16", method="represent", run=folder, **options)


def test_a_student_of_unlabeled_photos_comes_nearer_to_its_teacher(run: Run) -> None:
    rows = [row for row in run.epochs() if row["part"] == "held out"]
    assert len(rows) == 25
    assert rows[-1]["gap"] > 0.1
    assert rows[-1]["rank"] > 1.5, "no collapse"
    found = run.facts.representation
    assert found is not None
    teacher, start, student = found.spaces
    assert (teacher.role, start.role, student.role) == ("teacher", "start", "distilled")
    assert student.cka is not None
    assert start.cka is not None
    assert student.cka > start.cka
    assert student.neighbors_gap is not None
    assert len(student.map) == found.queries == 24
    assert list(run.models) == ["distilled-0"], "labels are not there, so nothing is trained on them"
    assert load_network(run.models["distilled-0"]).classes == ()
    page = (run.path / "report.html").read_text()
    assert "of the gap closed" in page
    assert page.count('<article class="neighborhood">') == 5
    assert any("1 exact copy" in note for note in run.facts.notes)


def test_the_result_is_a_backbone(run: Run, small_images: ArraySource, tmp_path: Path) -> None:
    done = understudy.transfer(
        small_images, run.path, rule="finetune", steps=2, batch_size=8, run=tmp_path / "t", accelerator="cpu"
    )
    assert load_network(done.models["model-0"]).classes == small_images.classes
    (found,) = understudy.probe(run.path, small_images, knn=True)
    assert set(found.neighbors) == set(found.probes) == {"distilled-0"}


def test_it_finds_neighbors(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    found = understudy.neighbors(
        run.path, photos, [photos / "000.png", tmp_path / "bad.png"], top=3, out=tmp_path / "n.html"
    )
    first, bad = found.queries
    assert Path(first.neighbors[0].path).name == "again.png", "not itself"
    assert first.neighbors[0].similarity == pytest.approx(1, abs=1e-5)
    assert [one.similarity for one in first.neighbors] == sorted(
        (one.similarity for one in first.neighbors), reverse=True
    )
    assert bad.error
    assert (tmp_path / "n.html").read_text().count("data:image/jpeg") == 4


def test_its_embedding_is_exported(run: Run, photos: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    done = understudy.export(run.path, embedding=True, out=tmp_path / "export")
    session = onnxruntime.InferenceSession(done.files[0].file)
    assert [one.name for one in session.get_outputs()] == ["embedding"]
    pixels = np.array(Image.open(io.BytesIO((photos / "003.png").read_bytes())))[None]
    (found,) = session.run(None, {"input": pixels})
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    network = load_network(run.models["distilled-0"]).eval().watch({"embedding"})
    expected = network(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).embedding
    assert expected is not None
    np.testing.assert_allclose(found, nn.functional.normalize(expected, dim=1).detach().numpy(), atol=1e-4)
    assert "of unit length" in (tmp_path / "export" / "README.md").read_text()


def test_from_a_store(photos: Path, teacher: str, tmp_path: Path) -> None:
    kept = understudy.label(
        photos, teacher, embedding=True, logits="none", views=2, batch_size=8, out=tmp_path / "store"
    )
    assert {one.name for one in kept.manifest.signals} == {"embedding"}
    done = understudy.distill(photos, None, "cnn:4", method="represent", targets=kept.path, run=tmp_path / "a", **QUICK)
    assert done.facts.representation is not None
    with pytest.raises(UnderstudyError, match="has no logits, which kd reads"):
        understudy.distill(photos, None, "cnn:4", targets=kept.path, run=tmp_path / "kd", **QUICK)
    both = understudy.distill(photos, teacher, "cnn:4", method="cosine", targets=kept.path, run=tmp_path / "b", **QUICK)
    assert both.finished, "the teacher gives the answers of the store"


def test_several_teachers_of_different_spaces(photos: Path, teacher: str, tmp_path: Path) -> None:
    other = build("cnn:12", InputContract((3, 16, 16), (0.5,) * 3, (0.25,) * 3, ("x", "y")), seed=7)
    other.save(tmp_path / "other.safetensors")
    done = understudy.distill(
        photos, [teacher, str(tmp_path / "other.safetensors")], "cnn:4", method="represent", run=tmp_path / "a", **QUICK
    )
    found = done.facts.representation
    assert found is not None
    assert found.spaces[0].width == 24 + 12


def test_a_run_goes_on_with_the_same_bytes(photos: Path, teacher: str, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        done = understudy.distill(photos, teacher, "cnn:4", method="represent", run=tmp_path / name, **QUICK)
        files.append(done.models["distilled-0"].read_bytes())
    assert files[0] == files[1]


# --- bad inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_teacher_whose_embeddings_say_nothing(value: float, small_images: ArraySource, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"nothing to learn from|check its weights|not finite"):
        understudy.distill(small_images, Embeds(value), "mlp:4", method="represent", run=tmp_path / "run", **QUICK)


class Summary(Embeds):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean()


class Named(Embeds):
    def forward(self, x: Tensor) -> Any:
        return {"embedding": super().forward(x)}


@pytest.mark.parametrize(("teacher", "reason"), [
    (Summary(), r"outputs a tensor of shape \(\), which is no embedding \(B, D\); wrap it"),
    (Named(), "outputs a dict instead of logits"),
])  # fmt: skip
def test_a_teacher_with_no_embedding_to_find(
    teacher: nn.Module, reason: str, small_images: ArraySource, tmp_path: Path
) -> None:
    with pytest.raises(UnderstudyError, match=reason) as caught:
        understudy.distill(small_images, teacher, "mlp:4", method="represent", run=tmp_path / "run", **QUICK)
    assert "\n" not in str(caught.value)


def test_patches_of_a_teacher_without_a_grid(small_images: ArraySource, tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
    with pytest.raises(UnderstudyError, match="the teacher has no layer with a grid of patches"):
        understudy.distill(small_images, flat, "cnn:4", method="represent+patches", run=tmp_path / "run", **QUICK)


def test_soft_targets_of_a_teacher_without_a_classifier(small_images: ArraySource, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"has no classifier, and kd learns.*--method represent"):
        understudy.distill(small_images, Embeds(), "mlp:4", method="kd", run=tmp_path / "run", **QUICK)


def test_fewer_images_than_a_batch(photos: Path, teacher: str, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="a batch size of 128 exceeds"):
        understudy.distill(photos, teacher, "cnn:4", method="represent", run=tmp_path / "run", accelerator="cpu")


def test_what_needs_a_classifier_says_so(run: Run, photos: Path) -> None:
    with pytest.raises(UnderstudyError, match="understudy neighbors"):
        understudy.predict(run.path, [photos / "000.png"])
    with pytest.raises(UnderstudyError, match="--embedding"):
        understudy.export(run.path)


def test_a_backbone_of_another_modality(run: Run, tmp_path: Path) -> None:
    vectors = (torch.rand(20, 5), torch.arange(20) % 2)
    with pytest.raises(UnderstudyError, match="images"):
        understudy.transfer(vectors, run.path, run=tmp_path / "t", accelerator="cpu")
