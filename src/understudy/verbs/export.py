"""`export`: a run's network as files that run elsewhere, with a model card and a script that uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy.data import NAMED, Source, open_source, resize_square
from understudy.data.parts import spread
from understudy.errors import UnderstudyError, nearest
from understudy.evaluation.facts import ExportFacts, RunFacts
from understudy.exporters import (
    CALIBRATE,
    FORMATS,
    PAGE,
    TOLERANCE,
    WEB,
    ExportedFile,
    Interface,
    ModelCardInfo,
    check_formats,
    check_page,
    embedding_card,
    embedding_network,
    export_network,
    export_summary,
    file_formats,
    interface_of,
    model_card,
    predict_script,
    web_page,
)
from understudy.exporters.web.runtime import open_runtime
from understudy.files import new_folder, path_of, read_json, remove_path, sha256, write_whole
from understudy.models import Network, load_network
from understudy.pipeline.evaluate import scorable
from understudy.pipeline.kinds import pipeline_of
from understudy.pipeline.panel_folder import MANIFEST
from understudy.pipeline.run import versions
from understudy.pipeline.weights import weights_of
from understudy.runs.run import Run
from understudy.teachers import check_classes
from understudy.verbs.arguments import check_whole

_COMPARED = 200  # images that an exported embedding is compared on


@dataclass(frozen=True)
class Export:
    """The files of an export.

    Attributes:
        path: the folder: the files, README.md (the model card), export.json, and predict.py where there is a file
            with a runtime for Python.
        name: the model's, as in "demo-distilled-0".
        files: each with its measurements; all with the same `original`.
        page: index.html, or None if it was not asked for.
    """

    path: Path
    name: str
    files: tuple[ExportedFile, ...]
    page: Path | None = None

    @property
    def facts(self) -> ExportFacts:
        """What was measured, as pages have it."""
        original = self.files[0].original
        return ExportFacts.from_json(
            {
                "folder": self.path.name,
                "original": {
                    "latency_ms": original.latency_ms, "latency_p90_ms": original.latency_p90_ms,
                    "bytes": original.bytes, "accuracy": original.accuracy,
                },
                "files": [one.to_json() for one in self.files],
                "page": None if self.page is None else self.page.name,
            }
        )  # fmt: skip


def export(
    target: str | Path,
    *,
    format: str | Sequence[str] = ("onnx",),
    preprocessing: str = "embedded",
    embedding: bool = False,
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
    """Write a network as files that run elsewhere, each verified on the whole test split.

    Args:
        target: a run folder, or a weights file.
        format: of `exporters.FORMATS`: "onnx", "torch" (a `torch.export` program), "int8" (quantized ONNX),
            "openvino", "litert", "litert-int8", "executorch" or "coreml"; or "web" (a page that classifies images in
            the browser with the smallest of the ONNX files); or several of them.
        preprocessing: "embedded": the file takes samples as the data stores them; "external": resized and normalized.
        embedding: export the embedding, normalized to unit length, in place of the logits.
        network: which of the run's, as "distilled-crd-1"; default: the one that `predict` uses.
        data: whatever `open_source` opens, to verify and calibrate on; default: the run's own.
        calibrate: number of training samples for the calibration of int8.
        tolerance: points of test accuracy that int8 may lose.
        out: the folder; default: RUN/export, or export/ beside the weights file.
        license: of the model, as Hugging Face names it.
        data_root, download, size, pair: as for `open_source`, with `data`.
        trust_code: whether the function that made the network (pkg.mod:fn) may be imported.

    Raises:
        UnderstudyError: whatever `export_network` raises; no trained network, data without a test split, or a folder
            with a README.md that is not an export's.
    """
    check_whole("calibrate", calibrate)
    if not 0 <= tolerance <= 100:
        raise UnderstudyError(f"tolerance must be from 0 to 100 points of accuracy, not {tolerance}")
    formats = tuple(dict.fromkeys([format] if isinstance(format, str) else format))
    if not formats:
        raise UnderstudyError(
            f"no format to export to; pass --format with one or several of {', '.join((*FORMATS, WEB))}"
        )
    check_formats(formats)
    if embedding and not {"onnx", "torch"} >= set(formats):
        raise UnderstudyError("embeddings are exported as onnx and torch; leave out other formats")
    folder = None if out is None else new_folder(out, "the --out folder")
    of = open_subject(
        target,
        network,
        data,
        data_root=data_root,
        download=download,
        size=size,
        pair=pair,
        trust_code=trust_code,
        embedding=embedding,
    )
    folder = folder or (of.file.parent if of.run is None else of.run.path) / "export"
    _check_folder(folder, WEB in formats)
    net, test, calibration = of.network, of.test, of.train
    width = net.shapes(()).embedding if embedding else 0
    net = embedding_network(net) if embedding else net
    interface = interface_of(net, test, preprocessing)
    if WEB in formats:
        check_page(interface)
    files = export_network(
        net, test, calibration, file_formats(formats), folder,
        preprocessing=preprocessing, calibrate=calibrate, tolerance=tolerance,
    )  # fmt: skip
    done = Export(folder, of.name, tuple(files), folder / PAGE if WEB in formats else None)
    if embedding:
        write_whole(folder / "README.md", embedding_card(of.name, interface, files, width, test.name))
        summary = {"name": of.name, "embedding": width, "weights": sha256(of.file), "versions": versions()}
        listed = {"files": [one.to_json() for one in files]}
        write_whole(folder / "export.json", json.dumps(summary | listed, indent=2) + "\n")
        return done
    rounded = any(not FORMATS[one.format].exact for one in files)
    samples = min(calibrate, len(calibration)) if rounded else 0
    info = ModelCardInfo(
        done.name, net.spec, test.name, hub_name(test.name), len(test), samples, facts_of(of.run), license,
        distilled=of.file.stem.startswith("distilled"),
    )  # fmt: skip
    options = {"weights": sha256(of.file), "tolerance": tolerance, "calibrated_on": samples, "versions": versions()}
    _describe(done, info, interface, options)
    return done


@dataclass(frozen=True)
class Subject:
    """A trained network, and data to check its files on."""

    file: Path  # of its weights
    run: Run | None
    network: Network
    train: Source
    test: Source

    @property
    def name(self) -> str:
        """As in "demo-distilled-0"."""
        return self.file.stem if self.run is None else f"{self.run.path.resolve().name}-{self.file.stem}"


def open_subject(
    target: str | Path,
    network: str | None,
    data: object | None,
    *,
    data_root: str | Path | None,
    download: bool,
    size: int | None,
    pair: Mapping[str, str] | None,
    trust_code: bool,
    embedding: bool = False,
) -> Subject:
    """Open what is to be exported; the arguments are those of `export`.

    Raises:
        UnderstudyError: no trained network, or data without a test split.
    """
    target = path_of(target, "the run folder or weights file")
    file = weights_file(target, network)
    run = Run(target) if target.is_dir() else None
    net = load_network(file, trust_code=trust_code) if embedding else trained_network(file, run, trust_code)
    if not (net.classes or embedding):
        raise UnderstudyError(f"{target} has an embedding and no classifier; pass --embedding")
    if data is not None:
        root = None if data_root is None else path_of(data_root, "the data root")
        splits = open_source(data, root=root, download=download, size=size, pairs=pair)
        train, test = splits.train, splits.test
    else:
        train, test = _data_of(target, run)
    if net.contract.crop_mode == "squash":  # as in `predict`: whole images at the network's size
        side = net.contract.shape[1]
        train, test = resize_square(train, side), None if test is None else resize_square(test, side)
    if embedding:
        test = replace(spread(train if test is None else test, _COMPARED), targets=None)
    if test is None:
        raise UnderstudyError(f"{train.name} has no test split to verify the files on; pass --data with one")
    if test.targets is not None:
        check_classes(net, file.stem, test.classes)
    return Subject(file, run, net, train, test)


def weights_file(target: Path, network: str | None) -> Path:
    """The weights file; of a run, by default the one that `predict` uses."""
    files = weights_of(str(target))  # raises for a run without a trained model
    if files[0].name == MANIFEST:
        raise UnderstudyError(f"{target} is a panel of specialists; distill it, and export the student")
    if not target.is_dir():
        if network is not None:
            raise UnderstudyError(f"{target} is a single network; leave out --network")
        return files[0]
    models = Run(target).models
    if network is None:
        return next(iter(models.values()))
    if network not in models:
        raise UnderstudyError(f"{target} has no network {network!r}{nearest(network, models)}")
    return models[network]


def _check_folder(folder: Path, page: bool) -> None:
    ours = _earlier(folder)
    if (folder / "README.md").exists() and ours is None:
        raise UnderstudyError(f"{folder} has a README.md that is not an export's; choose another --out folder")
    if page and (folder / PAGE).exists() and (ours or {}).get("page") != PAGE:
        raise UnderstudyError(f"{folder} has an {PAGE} that is not an export's; choose another --out folder")


def _earlier(folder: Path) -> dict[str, Any] | None:
    """What an earlier export to a folder wrote of itself, if there was one."""
    described = folder / "export.json"
    return read_json(described, "delete it, and export again") if described.exists() else None


def trained_network(file: Path, run: Run | None, trust_code: bool) -> Network:
    """The network, whose head must have been trained."""
    network = load_network(file, trust_code=trust_code)
    untrained = [] if run is None else run.record.get("untrained_heads", [])
    _, cautions = scorable({}, None, [file.stem] if file.stem in untrained else [])
    if cautions:
        raise UnderstudyError(cautions[0])
    return network


def _data_of(target: str | Path, run: Run | None) -> tuple[Source, Source | None]:
    """The training samples of the run, and the test split of its data."""
    if run is None or not run.exists:
        raise UnderstudyError(
            f"{target} does not name data to verify its files on; pass --data, as in --data digits or --data photos/"
        )
    try:
        data = pipeline_of(run.located_recipe()).data
    except UnderstudyError as fault:
        raise UnderstudyError(f"the run's data cannot be opened ({fault}); pass --data to name it") from fault
    return data.train, data.test


def hub_name(name: str) -> str | None:
    """The name of a public data set; None for the user's own."""
    if name.startswith("hf:"):
        return name.removeprefix("hf:").partition(":")[0]
    return name if name in NAMED else None


def facts_of(run: Run | None) -> RunFacts | None:
    return run.facts if run is not None and (run.path / "evaluation.json").exists() else None


def _describe(done: Export, info: ModelCardInfo, interface: Interface, options: dict[str, object]) -> None:
    """Write the model card, the scripts and the page, and remove files of an earlier export that this one did not."""
    folder, own = done.path, {part for one in done.files for part in one.parts}
    earlier = _earlier(folder) or {}
    page = None
    if done.page is not None:
        smallest = min((one for one in done.files if FORMATS[one.format].onnx), key=lambda one: one.bytes)
        write_whole(done.page, web_page(info, interface, smallest, open_runtime()))
        page, options = (PAGE, smallest), options | {"page": PAGE}
    elif earlier.get("page") == PAGE:
        (folder / PAGE).unlink(missing_ok=True)
    scripts = _scripts(done.files)
    for name, one in scripts.items():
        script = FORMATS[one.format].script
        assert script is not None
        write_whole(folder / name, predict_script(interface, one.file.name, script))
    for name in {"predict.py", *earlier.get("scripts", ())} - scripts.keys():
        (folder / Path(name).name).unlink(missing_ok=True)
    # before the card, as a card without it is not an export's
    summary = export_summary(info, interface, done.files, options | {"scripts": list(scripts)})
    write_whole(folder / "export.json", json.dumps(summary, indent=2) + "\n")
    write_whole(folder / "README.md", model_card(info, interface, done.files, scripts, page))
    for one in earlier.get("files", []):
        for part in {one["file"], *one.get("parts", ())} - own:
            remove_path(folder / Path(part).name)


def _scripts(files: Sequence[ExportedFile]) -> dict[str, ExportedFile]:
    """The scripts by name: predict.py of the first file that has a runtime, predict-FORMAT.py of other runtimes."""
    found: dict[str, ExportedFile] = {}
    runtimes = set()
    for one in files:
        script = FORMATS[one.format].script
        if script is not None and script not in runtimes:
            runtimes.add(script)
            found[f"predict-{one.format}.py" if found else "predict.py"] = one
    return found
