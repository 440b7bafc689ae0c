"""`export`: a run's network as files that run elsewhere, with a model card and a program that uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy.data import NAMED, Source, open_source, squashed
from understudy.errors import UnderstudyError, nearest
from understudy.exports import (
    CALIBRATE,
    TOLERANCE,
    About,
    Exported,
    Form,
    card_facts,
    check_formats,
    export_network,
    form_of,
    model_card,
    predict_script,
)
from understudy.files import sha256, write_whole
from understudy.material import Given, prepare_data
from understudy.models import Network, load_network
from understudy.panels import MANIFEST
from understudy.performing import to_score, versions
from understudy.preparing import weights_of
from understudy.reporting import RunFacts
from understudy.runs import Run
from understudy.teachers import check_classes


@dataclass(frozen=True)
class Export:
    """What an export left in a folder.

    Attributes:
        path: the folder: the files, README.md (the model card), export.json, and predict.py where there is an ONNX
            file.
        name: the model's, as in "demo-distilled-0".
        files: each with what it scored; all with the same `original`.
    """

    path: Path
    name: str
    files: tuple[Exported, ...]


def export(
    target: str | Path,
    *,
    format: str | Sequence[str] = ("onnx",),
    preprocessing: str = "inside",
    network: str | None = None,
    data: object | None = None,
    calibrate: int = CALIBRATE,
    tolerance: float = TOLERANCE,
    out: str | Path | None = None,
    license: str | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    size: int | None = None,
    pair: Mapping[str, str] | None = None,
    trust_code: bool = False,
) -> Export:
    """Write a network as files that run elsewhere, each checked against it on the whole test split.

    Args:
        target: a run folder, or a weights file.
        format: "onnx", "torch" (a `torch.export` program) or "int8" (ONNX in 8 bits), or several of them.
        preprocessing: "inside", where the file takes samples as the data holds them; "beside", where it takes them
            resized and normalised.
        network: which of the run's, as "distilled-crd-1"; the one that `predict` uses where unset.
        data: whatever `open_source` opens, to check and calibrate on; the run's own where unset.
        calibrate: training samples that int8 is calibrated on.
        tolerance: points of test accuracy that int8 may lose.
        out: the folder; RUN/export where unset, or one beside the weights file.
        license: of the model, as Hugging Face names it; the card names none where unset.
        data_root, download, size, pair: as for `open_source`, with `data`.
        trust_code: whether the function that the network was made by (pkg.mod:fn) may be imported.

    Raises:
        UnderstudyError: whatever `export_network` raises; no trained network, data without a test part, or a folder
            that holds another README.md.
    """
    formats = tuple(dict.fromkeys([format] if isinstance(format, str) else format))
    if not formats:
        raise UnderstudyError("there is no format to export to; pass --format onnx, torch or int8")
    check_formats(formats)
    file = _weights(Path(target), network)
    run = Run(Path(target)) if Path(target).is_dir() else None
    folder = Path(out) if out is not None else (file.parent if run is None else run.path) / "export"
    _check_folder(folder)
    net = _trained(file, run, trust_code)
    if data is not None:
        root = Path(data_root) if data_root else None
        splits = open_source(data, root=root, download=download, size=size, pairs=pair)
        calibration, test = splits.train, splits.test
    else:
        calibration, test = _data_of(target, run)
    if net.contract.fit == "whole":  # a file takes what `predict` shows the network: whole images at its own size
        side = net.contract.shape[1]
        calibration, test = squashed(calibration, side), None if test is None else squashed(test, side)
    if test is None:
        raise UnderstudyError(f"{calibration.name} has no test part to check the files on; pass --data with one")
    if test.targets is not None:
        check_classes(net, file.stem, test.classes)
    files = export_network(
        net, test, calibration, formats, folder,
        preprocessing=preprocessing, calibrate=calibrate, tolerance=tolerance,
    )  # fmt: skip
    done = Export(folder, file.stem if run is None else f"{run.path.resolve().name}-{file.stem}", tuple(files))
    samples = min(calibrate, len(calibration)) if "int8" in formats else 0
    about = About(done.name, net.spec, test.name, _hub_name(test.name), len(test), samples, _facts(run), license)
    options = {"weights": sha256(file), "tolerance": tolerance, "calibrated_on": samples, "versions": versions()}
    _describe(done, about, form_of(net, test, preprocessing), options)
    return done


def _weights(target: Path, network: str | None) -> Path:
    """The weights file that is meant; of a run, by default the one that `predict` uses."""
    files = weights_of(str(target))  # complains of a run without a trained model
    if files[0].name == MANIFEST:
        raise UnderstudyError(f"{target} is a panel, which asks other nets for each image; distil it, and export that")
    if not target.is_dir():
        if network is not None:
            raise UnderstudyError(f"{target} is one network; leave out --network")
        return files[0]
    models = Run(target).models
    if network is None:
        return next(iter(models.values()))
    if network not in models:
        raise UnderstudyError(f"{target} has no network {network!r}{nearest(network, models)}")
    return models[network]


def _check_folder(folder: Path) -> None:
    if (folder / "README.md").exists() and not (folder / "export.json").exists():
        raise UnderstudyError(f"{folder} holds a README.md of its own; choose another --out folder")


def _trained(file: Path, run: Run | None, trust_code: bool) -> Network:
    """The network, unless what it was trained by left its classifier as it was."""
    network = load_network(file, trust_code=trust_code)
    untrained = [] if run is None else run.record.get("untrained_heads", [])
    _, cautions = to_score({}, None, [file.stem] if file.stem in untrained else [])
    if cautions:
        raise UnderstudyError(cautions[0])
    return network


def _data_of(target: str | Path, run: Run | None) -> tuple[Source, Source | None]:
    """The samples that the run learned from, and the test part of its data."""
    if run is None or not run.exists:
        raise UnderstudyError(
            f"{target} does not say what to check its files on; pass --data, as in --data digits or --data photos/"
        )
    try:
        material = prepare_data(run.recipe, Given())
    except UnderstudyError as fault:
        raise UnderstudyError(f"the run's data cannot be opened ({fault}); pass --data to name it") from fault
    return material.train, material.test


def _hub_name(name: str) -> str | None:
    """What others call a set, where it is none of the user's own."""
    if name.startswith("hf:"):
        return name.removeprefix("hf:").partition(":")[0]
    return name if name in NAMED else None


def _facts(run: Run | None) -> RunFacts | None:
    return run.facts if run is not None and (run.path / "evaluation.json").exists() else None


def _describe(done: Export, about: About, form: Form, options: dict[str, object]) -> None:
    """Write what goes beside the files, and remove what an earlier export left that this one did not make."""
    folder, own = done.path, [one.file.name for one in done.files]
    described = folder / "export.json"
    earlier = json.loads(described.read_text()) if described.exists() else {}
    runnable = next((one.file.name for one in done.files if one.format != "torch"), None)
    script = None if runnable is None else "predict.py"
    if runnable is not None:
        write_whole(folder / "predict.py", predict_script(form, runnable))
    else:
        (folder / "predict.py").unlink(missing_ok=True)
    write_whole(folder / "README.md", model_card(about, form, done.files, script))
    write_whole(described, json.dumps(card_facts(about, form, done.files, options), indent=2) + "\n")
    for one in earlier.get("files", []):
        if one["file"] not in own:
            (folder / Path(one["file"]).name).unlink(missing_ok=True)
