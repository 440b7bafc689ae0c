"""ImageNet in "Contrastive Representation Distillation" (Tian, Krishnan and Isola, 2020)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.config.options import AugmentationConfig, OptimizerConfig
from understudy.config.recipe import DistillRecipe
from understudy.errors import UnderstudyError
from understudy.papers.crd import PAPER, ran
from understudy.papers.experiment import Bench, Comparison, Experiment, Line, Measured

if TYPE_CHECKING:
    from understudy.runs.run import Run

EPOCHS = 100
_TOP1 = {
    "teacher": 73.31, "alone": 69.76, "kd": 70.66, "at": 70.70, "crd": 71.17, "crd+kd": 71.38, "dkd": 71.70,
    "dist": 72.07,
}  # fmt: skip
_METHODS = {  # soft targets at T = 1 and equal weights; DKD with the options of Zhao et al. 2022
    "kd": "kd:weight=0.5+ce:weight=0.5",
    "at": "at",
    "crd": "crd",
    "crd+kd": "crd+kd:temperature=4",
    "dkd": "dkd:beta=0.5,warmup=1",
    "dist": "dist",
}
_SIZE, _SHOWN = 224, 224 / 256  # pixels, and the part of the shorter side that networks are tested on


def imagenet(bench: Bench) -> Comparison:
    """`understudy reproduce crd-imagenet --data IMAGENET_FOLDER`

    Distills torchvision's ResNet-34 into a ResNet-18. Expect: CRD+KD above KD, KD above the student alone.
    """
    if not bench.data:
        raise UnderstudyError(
            "pass the folder of ImageNet, which has train/ and val/ with class folders, as --data FOLDER"
        )
    sgd = OptimizerConfig(
        name="sgd", lr=0.1, schedule="step", milestones=(0.3, 0.6, 0.9), weight_decay=1e-4, decay_norms=True, warmup=0
    )
    size = bench.size or _SIZE
    recipe = DistillRecipe(
        data=bench.data, size=size, teacher=(str(_official(bench, "resnet34")),), student="torchvision:resnet18",
        method=tuple(_METHODS.values()), temperature=1.0, epochs=bench.epochs(EPOCHS, quick=1), batch_size=256,
        seeds=bench.seeds or 1, optimizer=sgd, augmentation=AugmentationConfig(flip=True, crop_scale=0.08),
    )  # fmt: skip
    run = bench.ensure("resnet34-resnet18", recipe)
    groups = {name: f"distilled-{text}" for name, text in _METHODS.items()}
    scores = _scores(bench, run, recipe)
    names = {"teacher": "teacher, ResNet-34", "alone": "ResNet-18 alone"} | _METHODS
    lines: list[Line] = [
        (title, f"{_TOP1[name]:.2f}%", scores[groups.get(name, name)]) for name, title in names.items()
    ]
    tested = f"Tested on the central {_SHOWN:.1%} of the images' shorter side; the run's page on the whole side."
    notes = [*ran([run], EPOCHS, ("ImageNet", 1_281_167, 1000)), tested]
    return Comparison(("net", "paper, top-1", "here, top-1"), lines, notes)


def _scores(bench: Bench, run: Run, recipe: DistillRecipe) -> dict[str, Measured]:
    """Top-1 accuracy in percent of the teacher and the students, by name, on the part of the images that is usual."""
    from understudy.data import RecordSource
    from understudy.evaluation import accuracy, predict_logits
    from understudy.models import load_network
    from understudy.pipeline.device import device_of, workers_of

    test = bench.opened(recipe.data, recipe.size).test
    if not isinstance(test, RecordSource) or test.targets is None:
        raise UnderstudyError(f"{recipe.data} has no labeled test images of several sizes; ImageNet has them in val/")
    test = replace(test, center=_SHOWN)
    networks = {"teacher": load_network(Path(recipe.teacher[0]))} | {name: run.network(name) for name in run.models}
    found: dict[str, list[float]] = {}
    device = device_of()
    for name, network in networks.items():
        predictions = predict_logits(network.to(device), test, device=device, workers=workers_of(recipe))
        assert predictions.targets is not None
        top1 = 100 * accuracy(predictions.logits, predictions.targets)
        found.setdefault(name.rpartition("-")[0] or name, []).append(top1)
    return {name: Measured(tuple(values), digits=2, unit="%") for name, values in found.items()}


def _official(bench: Bench, net: str) -> Path:
    """torchvision's weights as a teacher; the class folders of ImageNet sort in torchvision's order."""
    from torchvision.models import get_model

    from understudy.data import open_source
    from understudy.models import Network
    from understudy.pipeline.modality import contract_of

    path = bench.place(f"teacher-{net}").with_suffix(".safetensors")
    if path.exists():
        return path
    contract = contract_of(open_source(bench.data, size=bench.size or 224).train)
    if len(contract.classes) != 1000:
        raise UnderstudyError(
            f"{bench.data} has {len(contract.classes)} classes, not the teacher's 1000; pass ImageNet"
        )
    try:
        module = get_model(net, weights="IMAGENET1K_V1")
    except OSError as fault:
        raise UnderstudyError(
            f"torchvision's {net} could not be downloaded ({fault}); put its weights into TORCH_HOME"
        ) from fault
    Network(module, contract, f"torchvision:{net}").save(path)
    return path


EXPERIMENTS = (
    Experiment(
        "crd-imagenet", "ResNet-34 to ResNet-18 with six methods", PAPER, imagenet,
        takes=frozenset({"chosen_epochs", "seeds", "data", "size"}),
    ),
)  # fmt: skip
