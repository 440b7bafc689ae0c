"""Big Transfer models and their official weights, against an independent implementation."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.models import InputContract, build, load_network, start_from
from understudy.signals import Batch

Arrays = dict[str, NDArray[np.float32]]

NAMES = ("a", "b", "c", "d", "e")
RGB = InputContract((3, 32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), NAMES)
GRAY = InputContract((1, 32, 32), (0.1,), (0.3,), NAMES)


# --- the official format, written by hand ---------------------------------------------------------------


def official(
    blocks: tuple[int, ...] = (1, 1, 1, 1), width: int = 8, classes: int = 7, *, prefix: str = "resnet/",
    numbers: bool = False, shrink: float = 1.0,
) -> Arrays:  # fmt: skip
    """Random tensors under the official keys: kernels are (H, W, in, out); `width` is of the root, 64 in R50x1."""
    draw = np.random.default_rng(0)
    found: Arrays = {}

    def kernel(place: str, size: int, inp: int, out: int) -> None:
        number = f"_{len(found)}" if numbers else ""
        values = draw.normal(0.02, (size * size * inp) ** -0.5, (size, size, inp, out))
        found[f"{prefix}{place}/standardized_conv2d{number}/kernel"] = (values * shrink).astype(np.float32)

    def norm(place: str, channels: int) -> None:
        found[f"{prefix}{place}group_norm/gamma"] = draw.uniform(0.5, 1.5, channels).astype(np.float32)
        found[f"{prefix}{place}group_norm/beta"] = draw.uniform(-0.3, 0.3, channels).astype(np.float32)

    kernel("root_block", 7, 3, width)
    inp = width
    for block, units in enumerate(blocks, 1):
        out = width * 2 ** (block + 1)
        for unit in range(1, units + 1):
            place = f"block{block}/unit{unit:02d}"
            for part, size, wide, narrow in (
                ("a", 1, inp, out // 4), ("b", 3, out // 4, out // 4), ("c", 1, out // 4, out),
            ):  # fmt: skip
                norm(f"{place}/{part}/", wide)
                kernel(f"{place}/{part}", size, wide, narrow)
            if unit == 1:
                kernel(f"{place}/a/proj", 1, inp, out)
            inp = out
    norm("", inp)
    found[f"{prefix}head/conv2d/kernel"] = draw.normal(0, 0.1, (1, 1, inp, classes)).astype(np.float32)
    found[f"{prefix}head/conv2d/bias"] = draw.normal(0, 0.1, classes).astype(np.float32)
    return found


def written(folder: Path, arrays: Mapping[str, NDArray[np.generic]], name: str = "BiT-X.npz") -> Path:
    np.savez(folder / name, **arrays)  # type: ignore[arg-type]  # numpy's stubs: keywords of allow_pickle's type
    return folder / name


def transcribed(arrays: Arrays, images: Tensor) -> Tensor:
    """The published forward pass in float64, (B, 3, H, W) in [0, 1] -> (B, classes), from the official keys."""
    weights = {key.removeprefix("resnet/"): torch.from_numpy(x).double() for key, x in arrays.items()}

    def conv(x: Tensor, place: str, stride: int = 1, padding: int = 0) -> Tensor:
        w = weights[f"{place}/standardized_conv2d/kernel"].permute(3, 2, 0, 1)
        centered = w - w.mean((1, 2, 3), keepdim=True)
        w = centered / (centered.square().mean((1, 2, 3), keepdim=True) + 1e-10).sqrt()
        return F.conv2d(F.pad(x, (padding,) * 4), w, stride=stride)

    def act(x: Tensor, place: str) -> Tensor:
        channels = x.shape[1]
        groups = next(n for n in (32, 16, 8, 4, 2, 1) if channels % n == 0 and channels // n >= 2)
        grouped = x.reshape(len(x), groups, -1)
        centered = grouped - grouped.mean(2, keepdim=True)
        x = (centered / (centered.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
        gamma, beta = (weights[f"{place}group_norm/{kind}"].view(-1, 1, 1) for kind in ("gamma", "beta"))
        return (x * gamma + beta).clamp_min(0)

    x = conv(images.double() * 2 - 1, "root_block", 2, 3)
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for place in dict.fromkeys("/".join(key.split("/")[:2]) for key in weights if key.startswith("block")):
        stride = 2 if place.endswith("unit01") and not place.startswith("block1/") else 1
        pre = act(x, f"{place}/a/")
        projected = f"{place}/a/proj/standardized_conv2d/kernel" in weights
        shortcut = conv(pre, f"{place}/a/proj", stride) if projected else x
        x = conv(pre, f"{place}/a")
        x = conv(act(x, f"{place}/b/"), f"{place}/b", stride, 1)
        x = conv(act(x, f"{place}/c/"), f"{place}/c") + shortcut
    pooled = act(x, "").mean((2, 3))
    return pooled @ weights["head/conv2d/kernel"][0, 0] + weights["head/conv2d/bias"]


def images(contract: InputContract, rows: int = 3) -> Tensor:
    return torch.rand(rows, *contract.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shrink", [1.0, 1e-4])
@pytest.mark.parametrize(("blocks", "size"), [((1, 1, 1, 1), (64, 64)), ((2, 2, 2, 2), (37, 53))])
def test_the_forward_pass_is_the_published_one(
    blocks: tuple[int, ...], size: tuple[int, int], shrink: float, tmp_path: Path
) -> None:
    arrays = official(blocks, shrink=shrink)
    network = build(f"bit:{written(tmp_path, arrays)}", InputContract((3, 224, 224), (0,) * 3, (1,) * 3, ())).eval()
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found = network.module((x - network.mean) / network.std)
    torch.testing.assert_close(found.double(), transcribed(arrays, x), rtol=1e-4, atol=1e-4)


def test_the_epsilon_of_timm_would_be_seen(tmp_path: Path) -> None:
    arrays = official((1, 1, 1, 1), shrink=1e-4)
    network = build(f"bit:{written(tmp_path, arrays)}", InputContract((3, 64, 64), (0,) * 3, (1,) * 3, ())).eval()
    x = images(RGB)
    for layer in network.modules():
        if hasattr(layer, "eps") and isinstance(layer, nn.Conv2d):
            layer.eps = 1e-8  # type: ignore[assignment]  # timm's layer has it
    found = network.module(x * 2 - 1).double()
    assert (found - transcribed(arrays, x)).abs().max() > 1e-2


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("prefix", ["resnet/", ""])
def test_every_tensor_lands_in_its_place(prefix: str, numbers: bool, tmp_path: Path) -> None:
    arrays = official((2, 2, 2, 2), prefix=prefix, numbers=numbers)
    network = build(f"bit:{written(tmp_path, arrays)}", InputContract((3, 64, 64), (0,) * 3, (1,) * 3, ()))
    assert network.spec == "bit:R26x0.125"
    assert network.classes == tuple("0123456")
    assert network.contract.shape == (3, 224, 224)
    assert network.contract.mean == network.contract.std == (0.5, 0.5, 0.5)
    own = network.module.state_dict()
    # by value: a one-to-one match between the arrays of the file and the tensors of the network
    places = {x.double().sum().item(): name for name, x in own.items()}
    assert len(places) == len(own) == len(arrays)
    found = {}
    for key, array in arrays.items():
        x = torch.from_numpy(array)
        x = x.permute(3, 2, 0, 1) if x.dim() == 4 else x
        name = next(n for n, y in own.items() if y.shape == x.shape and torch.equal(x, y))
        found[key.removeprefix(prefix)] = name
    assert len(set(found.values())) == len(arrays)
    norms = {key: name for key, name in found.items() if "group_norm" in key}
    assert norms["block3/unit02/b/group_norm/beta"] == "stages.2.blocks.1.norm2.bias"
    assert norms["group_norm/gamma"] == "norm.weight"
    kernels = {key.split("/standardized_conv2d")[0]: name for key, name in found.items() if key.endswith("kernel")}
    assert kernels["root_block"] == "stem.conv.weight"
    assert kernels["block4/unit01/a/proj"] == "stages.3.blocks.0.downsample.conv.weight"
    assert kernels["block1/unit02/c"] == "stages.0.blocks.1.conv3.weight"


def test_heads(tmp_path: Path) -> None:
    path = written(tmp_path, official())
    for classes in (NAMES, tuple("tuvwxyz")):  # seven other classes are not those of the file
        network = build(f"bit:{path}", InputContract((3, 32, 32), (0,) * 3, (1,) * 3, classes))
        assert network.classes == classes
        assert not any(x.any() for x in network.module.get_submodule("head").parameters())
        assert "a new head" in network.init_from
        assert not network(images(RGB)).logits.any()
    network = build(f"bit:{path}?head=pretrained", InputContract((3, 32, 32), (0,) * 3, (1,) * 3, tuple("tuvwxyz")))
    assert network(images(RGB)).logits.any()
    assert "head of 7 classes kept" in network.init_from
    with pytest.raises(UnderstudyError, match="has 7 classes, the data 5"):
        build(f"bit:{path}?head=pretrained", RGB)
    with pytest.raises(UnderstudyError, match="write head=pretrained"):
        build(f"bit:{path}?head=old", RGB)


def test_other_modalities_get_their_channels(tmp_path: Path) -> None:
    path = written(tmp_path, official())
    assert build(f"bit:{path}", GRAY).contract.shape == (3, 224, 224), "gray images are repeated"
    depth = InputContract((1, 32, 32), (2.0,), (3.0,), NAMES, modality="depth")
    network = build(f"bit:{path}", depth)
    assert (network.contract.shape, network.contract.mean) == ((1, 224, 224), (2.0,))
    kernel = network.module.get_parameter("stem.conv.weight")
    whole = build(f"bit:{path}", RGB).module.get_parameter("stem.conv.weight")
    torch.testing.assert_close(kernel, whole.sum(1, keepdim=True))


def test_a_saved_net_does_not_need_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, official((2, 2, 2, 2)))
    network = build(f"bit:{path}", RGB).eval()
    nn.init.normal_(network.module.get_parameter("head.fc.weight"))
    network.save(tmp_path / "w.safetensors")
    path.unlink()
    again = load_network(tmp_path / "w.safetensors").eval()
    assert torch.equal(again(images(RGB)).logits, network(images(RGB)).logits)
    other = start_from(tmp_path / "w.safetensors", ("x", "y"))
    assert other(images(RGB)).logits.tolist() == [[0.0, 0.0]] * 3
    assert torch.equal(other.module.get_parameter("stem.conv.weight"), network.module.get_parameter("stem.conv.weight"))


# --- other and damaged files ----------------------------------------------------------------------


def test_a_file_of_another_net(tmp_path: Path) -> None:
    path = written(tmp_path, official((2, 2, 2, 2)))
    with pytest.raises(UnderstudyError, match="does not fit the model") as caught:
        build(f"bit:R50x0.125?weights={path}", RGB)
    assert "block1/unit03/a/group_norm/gamma is missing; " in str(caught.value)
    assert str(caught.value).endswith(" more")
    with pytest.raises(UnderstudyError, match=r"root_block/standardized_conv2d/kernel is \(8, 3, 7, 7\) instead of"):
        build(f"bit:{path}?root=cifar", RGB)
    with pytest.raises(UnderstudyError, match="leave out norm=bn"):
        build(f"bit:{path}?norm=bn", RGB)
    arrays = official((2, 2, 2, 2))
    arrays["resnet/block1/unit01/a/extra"] = np.ones(3, np.float32)
    del arrays["resnet/block2/unit02/c/group_norm/beta"]
    with pytest.raises(UnderstudyError, match=r"block2/unit02/c/group_norm/beta is missing; .*/extra is unexpected"):
        build(f"bit:{written(tmp_path, arrays)}", RGB)


def test_a_file_of_another_family(tmp_path: Path) -> None:
    vit = {"Transformer/encoderblock_0/LayerNorm_0/bias": np.zeros(3), "cls": np.zeros((1, 1, 3))}
    with pytest.raises(UnderstudyError, match="no Big Transfer model") as caught:
        build(f"bit:{written(tmp_path, vit)}", RGB)
    assert "lacks block1/unit01/a/group_norm/beta, " in str(caught.value)
    assert "has Transformer/encoderblock_0/LayerNorm_0/bias, cls" in str(caught.value)
    with pytest.raises(UnderstudyError, match="has nothing else"):  # one block in each stage but the last
        build(f"bit:{written(tmp_path, official((1, 1, 1)))}", RGB)
    whole = {key: x.astype(np.int64) for key, x in official().items()}
    with pytest.raises(UnderstudyError, match="is int64 instead of floating point"):
        build(f"bit:{written(tmp_path, whole)}", RGB)


class _Payload:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("bare", [True, False])
def test_objects_are_never_unpickled(bare: bool, tmp_path: Path) -> None:
    bomb = _Payload(str(tmp_path / "mark"))
    path = tmp_path / "bomb.npz"
    if bare:
        path.write_bytes(pickle.dumps(bomb))
    else:
        np.savez(path, **{"resnet/root_block/standardized_conv2d/kernel": np.array([bomb], object)})  # type: ignore[arg-type]
    with pytest.raises(UnderstudyError, match="pickled objects, which are never run"):
        build(f"bit:{path}", RGB)
    assert not (tmp_path / "mark").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = written(tmp_path, official())
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(UnderstudyError, match="damaged or truncated; download it again"):
            build(f"bit:{path}", RGB)
    middle = len(whole) // 3
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(UnderstudyError, match="damaged or truncated"):
        build(f"bit:{path}", RGB)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(UnderstudyError, match="a single array"):
        build(f"bit:{path}", RGB)
    with pytest.raises(UnderstudyError, match=r"no file .*none\.npz; .*BiT-M-R50x1\.npz"):
        build(f"bit:{tmp_path / 'none.npz'}", RGB)
    with pytest.raises(UnderstudyError, match=r"bit:PATH/BiT-M-R50x1\.npz"):
        build("bit:BiT-M-R50x1", RGB)
    with pytest.raises(UnderstudyError, match=f"loaded as bit:{path}"):
        build(f"timm:resnet10t?weights={path}", RGB)


# --- new networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("R50x1", 25.55),
        ("R101x1", 44.54),
        ("R50x3", 217.32),
        ("R101x3", 387.93),
        ("R152x2", 236.34),
        ("R152x4", 936.53),
    ],
)
def test_sizes_are_the_published_ones(name: str, millions: float) -> None:
    contract = InputContract((3, 32, 32), (0,) * 3, (1,) * 3, tuple(map(str, range(1000))))
    with torch.device("meta"):
        network = build(f"bit:{name}", contract)
    assert sum(x.numel() for x in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
    assert {(layer.num_groups, layer.eps) for layer in norms} == {(32, 1e-5)}


@pytest.mark.parametrize("root", ["imagenet", "cifar"])
@pytest.mark.parametrize("norm", ["gn+ws", "gn", "bn", "bn+ws"])
def test_the_ablation(norm: str, root: str) -> None:
    spec = f"bit:R14x0.25?norm={norm}&root={root}"
    network = build(spec, RGB, seed=3)
    assert network.spec == spec
    assert network.contract.mean == network.contract.std == (0.5, 0.5, 0.5)
    assert network.contract.shape == RGB.shape
    kinds = {"gn": nn.GroupNorm, "bn": nn.BatchNorm2d}
    norms = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm | nn.BatchNorm2d)]
    assert len(norms) == 4 * 3 + 1
    assert all(isinstance(layer, kinds[norm[:2]]) for layer in norms)
    convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convs) == 1 + 4 * 4 + 1
    head = network.module.get_submodule("head.fc")
    x, targets = images(RGB, 8), torch.arange(8) % 5
    scales = []
    for layer in convs:  # standardized weights are invariant to scale and offset
        if layer is head:
            continue
        before = layer(torch.ones(1, layer.in_channels, 5, 5))
        with torch.no_grad():
            layer.weight.mul_(2)
        scales.append((layer(torch.ones(1, layer.in_channels, 5, 5)) / before).nanmedian().item())
        with torch.no_grad():
            layer.weight.div_(2)
    assert scales == pytest.approx([1.0 if "ws" in norm else 2.0] * 17, rel=1e-3)
    assert network.shapes().features["stages.3"] == ((512, 4, 4) if root == "cifar" else (512, 1, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    batch = Batch(torch.arange(8), torch.arange(8), x, targets)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(network.train()(batch).logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(5)), "the head is zero-initialized"
    assert losses[-1] < 0.9 * losses[0]
    assert all(x.grad is not None and x.grad.any() for x in network.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bit:R51x1", "unknown depth; choose from 14, 26, 50, 101, 152"),
        ("bit:R50x0.3", "multiple of 0.125"),
        ("bit:R50x0", "multiple of 0.125"),
        ("bit:50x1", "as in bit:R50x1"),
        ("bit:R26x0.5?norm=ln", "choose from gn.ws, gn, bn, bn.ws"),
        ("bit:R26x0.5?root=small", "choose from imagenet, cifar"),
        ("bit:R26x0.5?rot=cifar", "no option 'rot'; did you mean 'root'"),
        ("bit:R26x0.5?head=pretrained", "no option 'head'"),
    ],
)
def test_names_that_are_not_understood(spec: str, message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        build(spec, RGB)


def test_vectors_are_refused() -> None:
    with pytest.raises(UnderstudyError, match="vectors of 7"):
        build("bit:R50x1", InputContract((7,), (0.0,), (1.0,), NAMES))


# --- backbones of timm and torchvision ------------------------------------------------------------------


def test_timms_nets_of_the_official_weights() -> None:
    network = build("timm:resnetv2_50x1_bit.goog_in21k", RGB)
    layers = [layer for layer in network.modules() if type(layer).__name__ == "StdConv2d"]
    assert {layer.eps for layer in layers} == {1e-10}
    assert not network.module.get_parameter("head.fc.weight").any()
    plain = build("bit:R50x1", RGB)
    assert {n: x.shape for n, x in network.state_dict().items()} == {n: x.shape for n, x in plain.state_dict().items()}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither a network nor cached weights; returns torch's empty hub folder."""
    from urllib.error import URLError

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))

    def unreachable(*args: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_weights_of_timm_that_are_not_here(offline: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="are not on this machine") as caught:
        build("timm:resnet10t.c3_in1k?pretrained=true", RGB)
    assert "hf download timm/resnet10t.c3_in1k" in str(caught.value)
    assert "timm:resnet10t.c3_in1k?pretrained=PATH/model.safetensors" in str(caught.value)
    # following its advice works
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = timm.create_model("resnet10t").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    network = build(f"timm:resnet10t.c3_in1k?pretrained={tmp_path / 'model.safetensors'}", GRAY)
    assert network.classes == NAMES
    assert network.contract.shape[0] == 3
    assert network.contract.mean == pytest.approx((0.485, 0.456, 0.406))
    own = network.module.state_dict()
    assert all(torch.equal(own[name], x) for name, x in state.items() if not name.startswith("fc."))
    depth = InputContract((2, 32, 32), (2.0,) * 2, (3.0,) * 2, NAMES, modality="depth")
    network = build(f"timm:resnet10t.c3_in1k?pretrained={tmp_path / 'model.safetensors'}", depth)
    assert network.module.get_parameter("conv1.0.weight").shape[1] == 2
    del state["bn1.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UnderstudyError, match=r"bn1\.weight is missing"):
        build(f"timm:resnet10t.c3_in1k?pretrained={tmp_path / 'model.safetensors'}", RGB)


def test_weights_of_torchvision_that_are_not_here(offline: Path) -> None:
    with pytest.raises(UnderstudyError, match="are not on this machine") as caught:
        build("torchvision:squeezenet1_1?weights=DEFAULT", RGB)
    url, _, rest = str(caught.value).partition("download https://")[2].partition(" on another machine and copy it to ")
    place = Path(rest)
    assert url.startswith("download.pytorch.org/models/squeezenet1_1-")
    assert place.parent == offline
    from torchvision.models import squeezenet1_1

    module = squeezenet1_1()
    torch.save(module.state_dict(), place)
    network = build("torchvision:squeezenet1_1?weights=DEFAULT", RGB)
    assert torch.equal(network.module.get_parameter("features.0.weight"), module.get_parameter("features.0.weight"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnetv2_50d.untrained?pretrained=true", "no pre-trained weights for resnetv2_50d"),
        ("timm:resnet10t.c4_in1k", "did you mean 'resnet10t.c3_in1k'"),
        ("torchvision:squeezenet1_1?weights=DEFALT", "no such file; did you mean 'DEFAULT'"),
        ("torchvision:squeezenet1_1?weights=none.pth", "no weights file none.pth"),
        ("timm:resnet10t?pretrained=none.safetensors", "no weights file none.safetensors"),
    ],
)
def test_weights_that_there_are_not(spec: str, message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        build(spec, RGB)
