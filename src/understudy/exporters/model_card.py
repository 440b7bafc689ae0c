"""The model card of an export: Markdown with Hugging Face metadata; and the same numbers for `export.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

from understudy.config.places import shown
from understudy.config.yaml import dumped
from understudy.escaping import markdown, markdown_code
from understudy.evaluation.facts import Row, RunFacts
from understudy.exporters.build import FORMATS, ExportedFile
from understudy.exporters.interface import Interface
from understudy.reporting.summary import ROLE_NAMES
from understudy.reporting.wording import MISSING, compact, general, moment, percent

_MAX_CLASSES = 50  # number of class names listed


@dataclass(frozen=True)
class ModelCardInfo:
    """What a model card says besides the measurements of the files."""

    name: str  # e.g. "demo-distilled-0"
    model: str  # its spec, e.g. "timm:resnet18"
    data: str  # name of the dataset
    hub: str | None  # name of the dataset on the Hugging Face Hub, or of a named set; None for local files
    examples: int  # number of test samples
    calibrated_on: int  # number of samples 8-bit files were calibrated on; 0 without int8
    facts: RunFacts | None  # results of the run, if the model is from a run
    license: str | None  # Hugging Face license identifier; None to leave it out
    distilled: bool = False  # whether a teacher trained it


def model_card(
    info: ModelCardInfo,
    interface: Interface,
    files: Sequence[ExportedFile],
    scripts: Mapping[str, ExportedFile],
    page: tuple[str, ExportedFile] | None = None,
) -> str:
    """The README.md of a folder of exported files.

    Args:
        scripts: the file that each script runs, by the script's name; predict.py is the first.
        page: the name of its index.html and the file that this holds, if any.
    """
    parts = [
        _header(info, interface, files),
        f"# {markdown(info.name)}",
        _summary(info, files),
        "## Files",
        _files(info, files),
    ]
    if scripts:
        parts += ["## Usage", _usage(interface, scripts)]
    if page is not None:
        name, held = page
        parts.append(
            f"`{name}` classifies images in a browser with `{held.file.name}`, which it holds: open it, and drop "
            "images on it. It works without a network, and sends nothing."
        )
    parts += ["## Inputs and outputs", _inputs_and_outputs(interface, files)]
    if info.facts is not None and info.facts.rows:
        parts += ["## Evaluation", evaluation_table(info.facts)]
    parts += ["## Limitations", limitations(info)]
    return "\n\n".join(parts) + "\n"


def _header(info: ModelCardInfo, interface: Interface, files: Sequence[ExportedFile]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    audio = interface.contract.modality == "audio"
    task = f"{'image' if interface.image_mode else 'audio' if audio else 'tabular'}-classification"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=info.hub or shown(info.data),
            dataset_name=shown(info.data),
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"accuracy of {file.file.name}",
            metric_value=round(file.accuracy, 6),
        )
        for file in files
        if file.accuracy is not None
    ]
    libraries = [FORMATS[file.format].library for file in files]
    data = ModelCardData(
        license=info.license,
        library_name=next((x for x in libraries if x != "pytorch"), "pytorch"),
        pipeline_tag=task,
        tags=[*(file.format for file in files), "understudy", *(["knowledge-distillation"] if info.distilled else [])],
        datasets=[info.hub] if info.hub else None,
        metrics=["accuracy"] if results else None,
        model_name=info.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{dumped(data.to_dict())}---"


def _summary(info: ModelCardInfo, files: Sequence[ExportedFile]) -> str:
    how = "distilled from a teacher" if info.distilled else "trained"
    model, data = markdown_code(shown(info.model)), markdown(shown(info.data))
    lacking = [f"`{file.file.name}`" for file in files if not file.checked]
    but = f" except {', '.join(lacking)}, which cannot be run on the system that wrote it," if lacking else ""
    return (
        f"{model}, {how} on {data} with Understudy. Each file{but} was loaded back and verified against the network it "
        f"was exported from on all {info.examples:,} test samples."
    )


def _files(info: ModelCardInfo, files: Sequence[ExportedFile]) -> str:
    rows = [("PyTorch", files[0].original, MISSING, MISSING)]
    rows += [
        (f"`{file.file.name}`", file, percent(file.agreement, 2), general(file.worst_difference)) for file in files
    ]
    lines = ["| | size | median latency | p90 | accuracy | agreement | worst logit difference |", "|---|" + "---:|" * 6]
    for name, row, agreement, difference in rows:
        accuracy = MISSING if row.accuracy is None else f"{row.accuracy:.2%}"
        lines.append(
            f"| {name} | {compact(row.bytes, 'B')} | {moment(row.latency_ms)} | {moment(row.latency_p90_ms)} "
            f"| {accuracy} | {agreement} | {difference} |"
        )
    note = "Latency is for one sample on one thread, from one interleaved benchmark; PyTorch runs the folded network."
    if info.calibrated_on:
        note += f" 8-bit files were calibrated on {info.calibrated_on:,} training samples."
    return "\n".join(lines) + f"\n\n{note}"


def _usage(interface: Interface, scripts: Mapping[str, ExportedFile]) -> str:
    example, more = ("photo.jpg", "numpy pillow") if interface.image_mode else ("samples.npy", "numpy")
    blocks = []
    for name, one in scripts.items():
        script = FORMATS[one.format].script
        assert script is not None
        blocks.append(f"```console\npip install {script.packages} {more}\npython {name} {example}\n```")
    return "\n\n".join(blocks)


def _inputs_and_outputs(interface: Interface, files: Sequence[ExportedFile]) -> str:
    contract = interface.contract
    dtype = interface.input_spec["dtype"]
    shape = ", ".join(map(str, interface.shape))
    if interface.preprocessing == "embedded":
        scale = " pixels" if dtype == "uint8" else " in [0, 1]" if interface.image_mode else ""
        details = f"{scale}. The file resizes and normalizes."
    else:
        details = f", normalized with mean {_numbers(contract.mean)} and standard deviation {_numbers(contract.std)}"
        details += " of values in [0, 1]." if interface.image_mode else "."
    names = ", ".join(map(markdown, contract.classes[:_MAX_CLASSES]))
    more = len(contract.classes) - _MAX_CLASSES
    return "\n".join(
        [
            f"- `input`: {dtype} (N, {shape}), any N{details}",
            f"- `logits`: float32 (N, {len(contract.classes)}); apply softmax to get probabilities.",
            f"- Classes, in order: {names}{f', and {more:,} more' if more > 0 else ''}.",
            "- The metadata of the file holds the class names, mean, standard deviation and input size as JSON.",
            *_exceptions(files),
        ]
    )


def _exceptions(files: Sequence[ExportedFile]) -> list[str]:
    """What holds for some of the files only."""
    single = [f"`{one.file.name}`" for one in files if not FORMATS[one.format].several]
    lines = [f"- {', '.join(single)}: one sample at a time, N = 1."] if single else []
    pixels = {one.file.name: FORMATS[one.format].pixels for one in files}
    return lines + [f"- `{name}`: pixels as {text}." for name, text in pixels.items() if text]


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def evaluation_table(facts: RunFacts) -> str:
    """The scores of the run's models."""
    lines = ["| | model | test accuracy | parameters |", "|---|---|---:|---:|"]
    for row in facts.of("teacher", "alone", "distilled", "model"):
        count = MISSING if row.parameters is None else compact(row.parameters)
        suffix = "" if row.name in (row.role, "student alone") else f", {markdown(row.name)}"
        lines.append(
            f"| {ROLE_NAMES[row.role]}{suffix} | {markdown_code(shown(row.model))} | {_accuracy(row)} | {count} |"
        )
    return "\n".join(lines)


def _accuracy(row: Row) -> str:
    mean, sd = row.mean("accuracy"), row.sd("accuracy")
    assert mean is not None
    spread = "" if sd is None else f" ± {100 * sd:.2f} over {len(row.seeds)} seeds"
    return f"{100 * mean:.2f}%{spread}"


def limitations(info: ModelCardInfo) -> str:
    """What it was not tested on."""
    data = markdown(shown(info.data))
    return (
        f"It predicts only the classes above and was evaluated only on the test split of {data}; expect lower accuracy "
        "on other data. Its probabilities are not calibrated for your data."
    )


def export_summary(
    info: ModelCardInfo, interface: Interface, files: Sequence[ExportedFile], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of `export.json`: the numbers of the model card."""
    return {
        "name": info.name,
        "model": shown(info.model),
        "data": {"name": shown(info.data), "split": "test", "examples": info.examples},
        "preprocessing": interface.preprocessing,
        "input": interface.input_spec,
        "classes": list(interface.contract.classes),
        "original": asdict(files[0].original),
        "files": [{key: _known(value) for key, value in file.to_json().items()} for file in files],
        **options,
    }


def _known(value: object) -> object:
    """A value for JSON, which has no NaN."""
    return None if isinstance(value, float) and isnan(value) else value
