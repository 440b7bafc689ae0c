"""Networks with several classifiers: each is found, and all are touched wherever a head is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.models import InputContract, Network, build, fold, load_network, start_from
from understudy.panels.head import narrow_head
from understudy.teachers import match_classes

NAMES = ("a", "b", "c", "d")
RGB = InputContract((3, 32, 32), (0.5,) * 3, (0.25,) * 3, NAMES)

SMALL = {
    "timm:deit_tiny_distilled_patch16_224?depth=1&img_size=32": ("head", "head_dist"),
    "timm:levit_128s": ("head.linear", "head_dist.linear"),
    "timm:repvit_m0_9": ("head.head.l", "head.head_dist.l"),
    "timm:crossvit_tiny_240": ("head.0", "head.1"),
    "timm:cait_xxs24_224?depth=1&img_size=32": ("head",),  # 4 attention heads: 4 x 4 layers, and 4 classes
    "torchvision:googlenet": ("fc",),
    "torchvision:squeezenet1_1": ("classifier.1",),
}


@pytest.mark.parametrize(("spec", "paths"), SMALL.items())
def test_all_heads_are_found_and_scaled(spec: str, paths: tuple[str, ...]) -> None:
    network = build(spec, RGB, seed=1).eval()
    assert network.head_paths == paths
    x = torch.rand(2, *network.contract.shape)
    with torch.no_grad():
        before = network(x).logits
        network.scale_logits(3.0)
        torch.testing.assert_close(network(x).logits, 3 * before, rtol=1e-3, atol=1e-4)


class Twins(nn.Module):
    """Two classifiers of its own features, one of them shifted, whose logits are combined."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor] = lambda a, b: (a + b) / 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
        self.near, self.far = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.combine(self.near(features), self.far(features.flip(1)))


DOTS = InputContract((3, 2, 2), (0.0,) * 3, (1.0,) * 3, NAMES)


@pytest.fixture
def twins() -> Network:
    torch.manual_seed(0)
    return Network(Twins(), DOTS).eval()


def test_layers_as_wide_as_the_logits_are_no_heads(twins: Network) -> None:
    assert twins.head_paths == ("near", "far")


def test_frozen_but_for_the_heads(twins: Network) -> None:
    trained = {name for name, x in twins.freeze().named_parameters() if x.requires_grad}
    assert trained == {"module.near.weight", "module.near.bias", "module.far.weight"}


def test_heads_of_zeros_give_equal_logits(twins: Network) -> None:
    twins.zero_heads()
    assert not twins(torch.rand(3, 3, 2, 2)).logits.any()


def test_the_embedding_is_what_all_heads_read(twins: Network) -> None:
    signals = twins.watch(["embedding"])(torch.rand(3, 3, 2, 2))
    assert signals.embedding is not None
    near, far = signals.embedding.split(4, 1)
    torch.testing.assert_close(far, near.flip(1))
    assert twins.shapes().embedding == 8
    with torch.no_grad():
        copied = copy.deepcopy(twins)(torch.rand(3, 3, 2, 2)).embedding
    assert copied is not None, "a copy keeps what it reads itself"


def test_classes_in_another_order(twins: Network) -> None:
    twins.set_class_bias(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x = torch.rand(5, 3, 2, 2)
    with torch.no_grad():
        before = twins(x).logits
        match_classes(twins, "twins", ("d", "b", "a", "c"))
        torch.testing.assert_close(twins(x).logits, before[:, [3, 1, 0, 2]])
    assert twins.classes == ("d", "b", "a", "c")
    assert twins.init_from == "its classes put into the order of the data"
    with pytest.raises(UnderstudyError, match="twins predicts 4 classes"):
        match_classes(twins, "twins", ("a", "b", "c", "e"))


def test_folded_as_before(twins: Network) -> None:
    x = torch.rand(5, 3, 2, 2)
    torch.testing.assert_close(fold(twins)(x).logits, twins(x).logits.detach())


def test_a_network_whose_logits_do_not_follow_its_head_is_not_scaled() -> None:
    torch.manual_seed(0)
    normed = Network(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.LayerNorm(4)), DOTS)
    with pytest.raises(UnderstudyError, match="leave out --calibrate"):
        normed.scale_logits(2.0)


def test_a_network_without_a_linear_head() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.LazyBatchNorm1d()), InputContract((4,), (0.0,), (1.0,), NAMES))
    network.module(torch.rand(2, 4))
    assert network.head_paths == ()
    network.check()
    with pytest.raises(UnderstudyError, match="end it with a linear layer"):
        network.freeze()


SPEC = "timm:deit_tiny_distilled_patch16_224?depth=1&img_size=32"


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file of a DeiT with a class bias."""
    network = build(SPEC, RGB, seed=2)
    network.set_class_bias(torch.tensor([0.5, 0.0, -1.0, 2.0]))
    path = tmp_path_factory.mktemp("deit") / "w.safetensors"
    network.save(path)
    return path


def test_both_heads_are_new_for_other_classes(distilled: Path) -> None:
    before, after = load_network(distilled), start_from(distilled, ("x", "y"))
    assert [tuple(head.weight.shape) for head in after.heads.values()] == [(2, 192), (2, 192)]
    kept = before.module.get_parameter("blocks.0.mlp.fc1.weight")
    assert torch.equal(kept, after.module.get_parameter("blocks.0.mlp.fc1.weight"))


def test_a_specialist_of_two_heads_ranks_its_classes_as_before(distilled: Path) -> None:
    whole, special = load_network(distilled).eval(), narrow_head(distilled, ("d", "b"), "rest").eval()
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        before, after = whole(x).logits, special(x).logits
    torch.testing.assert_close(after[:, :2], before[:, [3, 1]])
    torch.testing.assert_close(after[:, 2], before[:, [0, 2]].mean(1) + math.log(2))


def test_weights_of_other_classes_start_with_new_heads(distilled: Path, tmp_path: Path) -> None:
    state = {name.removeprefix("module."): x for name, x in load_network(distilled).state_dict().items()}
    del state["class_bias"]
    torch.save(state, tmp_path / "w.pth")
    wide = InputContract(RGB.shape, RGB.mean, RGB.std, tuple("abcdefg"))
    network = build(f"{SPEC}&pretrained={tmp_path / 'w.pth'}", wide)
    assert [len(head.weight) for head in network.heads.values()] == [7, 7]
    assert "with a new head of 7 classes" in network.init_from
    assert torch.equal(network.module.get_parameter("pos_embed"), state["pos_embed"])
