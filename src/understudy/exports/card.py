"""The model card: what the files are, what they scored, how to use them; Markdown with the Hugging Face block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from understudy.exports.form import Form
from understudy.exports.making import Exported
from understudy.reporting import RunFacts
from understudy.reporting.facts import Row
from understudy.reporting.summary import ROLE_NAMES
from understudy.reporting.wording import MISSING, compact, moment

_TASKS = {"image": "image-classification", "audio": "audio-classification", "vector": "tabular-classification"}
_CLASSES = 50  # at most so many are listed


@dataclass(frozen=True)
class About:
    """What a card tells beside the files' own numbers.

    Attributes:
        name: of the model, as in "demo-distilled-0".
        model: its spec, as in "timm:resnet18".
        data: the set's name.
        hub: what the set is called on the Hugging Face hub, or among the named sets; None for files of one's own.
        examples: of the test split.
        samples: that int8 was calibrated on, 0 without int8.
        facts: of its run, where it is of one.
        license: as Hugging Face names it; left to the user where None.
    """

    name: str
    model: str
    data: str
    hub: str | None
    examples: int
    samples: int
    facts: RunFacts | None
    license: str | None


def model_card(about: About, form: Form, files: Sequence[Exported], script: str | None) -> str:
    """A README.md for a folder of exported files."""
    parts = [_block(about, form, files), f"# {about.name}", _what(about), "## Files", _files(files, about)]
    if script is not None:
        parts += ["## Use", _use(form, script)]
    parts += ["## What it takes and gives", _interface(form)]
    if about.facts is not None and about.facts.rows:
        parts += ["## How good it is", _scores(about.facts)]
    parts += ["## Limits", _limits(about)]
    return "\n\n".join(parts) + "\n"


def _task(form: Form) -> str:
    if form.image_mode is not None:
        return _TASKS["image"]
    return _TASKS["audio" if form.contract.modality == "audio" else "vector"]


def _block(about: About, form: Form, files: Sequence[Exported]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    distilled = about.facts is not None and about.facts.kind == "distill"
    results = None
    if files[0].accuracy is not None:
        results = [
            EvalResult(
                task_type=_task(form),
                dataset_type=about.hub or about.data,
                dataset_name=about.data,
                dataset_split="test",
                metric_type="accuracy",
                metric_name=f"accuracy of {one.file.name}",
                metric_value=round(one.accuracy or 0.0, 6),
            )
            for one in files
        ]
    data = ModelCardData(
        license=about.license,
        library_name="onnx" if any(one.format != "torch" for one in files) else "pytorch",
        pipeline_tag=_task(form),
        tags=[one.format for one in files] + ["understudy", *(["knowledge-distillation"] if distilled else [])],
        datasets=[about.hub] if about.hub else None,
        metrics=["accuracy"] if results else None,
        model_name=about.name if results else None,
        eval_results=results,
    )
    return f"---\n{data.to_yaml()}\n---"


def _what(about: About) -> str:
    how = "distilled from a teacher" if about.facts is not None and about.facts.kind == "distill" else "trained"
    return (
        f"`{about.model}`, {how} on {_plain(about.data)} with Understudy. Each file was loaded back and held against "
        f"the network it was made from on all {about.examples:,} test samples."
    )


def _files(files: Sequence[Exported], about: About) -> str:
    rows = [("PyTorch", files[0].original, MISSING, MISSING)]
    rows += [(f"`{one.file.name}`", one, f"{one.agreement:.2%}", f"{one.worst_difference:.2g}") for one in files]
    lines = ["| | size | one sample | p90 | accuracy | agreement | worst logit difference |", "|---|" + "---:|" * 6]
    for name, one, alike, worst in rows:
        accuracy = MISSING if one.accuracy is None else f"{one.accuracy:.2%}"
        lines.append(
            f"| {name} | {compact(one.bytes, 'B')} | {moment(one.latency_ms)} | {moment(one.latency_p90_ms)} "
            f"| {accuracy} | {alike} | {worst} |"
        )
    note = "Time is the median on one thread, all in one interleaved run; PyTorch's is of the folded network."
    if about.samples:
        note += f" int8 was calibrated on {about.samples:,} training samples."
    return "\n".join(lines) + f"\n\n{note}"


def _use(form: Form, script: str) -> str:
    what = "photo.jpg" if form.image_mode else "samples.npy"
    needs = "onnxruntime numpy pillow" if form.image_mode else "onnxruntime numpy"
    return f"```console\npip install {needs}\npython {script} {what}\n```"


def _interface(form: Form) -> str:
    contract = form.contract
    kind = "uint8" if form.as_bytes else "float32"
    lines = [f"- `input`: {kind}, (N, {', '.join(map(str, form.shape))}), N any number"]
    if form.preprocessing == "inside":
        scale = ", the bytes of its pixels" if form.as_bytes else ", in [0, 1]" if form.image_mode else ""
        lines[0] += f"{scale}. The file resizes and normalises."
    else:
        lines[0] += f", less the mean {_numbers(contract.mean)} and over the deviation {_numbers(contract.std)}"
        lines[0] += " of values in [0, 1]." if form.image_mode else "."
    names = ", ".join(map(_plain, contract.classes[:_CLASSES]))
    more = len(contract.classes) - _CLASSES
    lines.append(f"- `logits`: float32, (N, {len(contract.classes)}); a softmax makes them probabilities.")
    lines.append(f"- Classes, in order: {names}{f', and {more:,} more' if more > 0 else ''}.")
    lines.append("- The file's metadata holds the classes, mean, deviation and size, as JSON.")
    return "\n".join(lines)


def _plain(name: str) -> str:
    """A name as Markdown shows it letter for letter."""
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", " ".join(name.split()))


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _scores(facts: RunFacts) -> str:
    """The rows of the run's page: teacher, student alone, distilled."""
    lines = ["| | model | test accuracy | parameters |", "|---|---|---:|---:|"]
    for row in facts.of("teacher", "alone", "distilled", "model"):
        count = MISSING if row.parameters is None else compact(row.parameters)
        name = (
            ROLE_NAMES[row.role] if row.name in (row.role, "student alone") else f"{ROLE_NAMES[row.role]}, {row.name}"
        )
        lines.append(f"| {name} | `{row.model}` | {_accuracy(row)} | {count} |")
    return "\n".join(lines)


def _accuracy(row: Row) -> str:
    mean, sd = row.mean("accuracy"), row.sd("accuracy")
    assert mean is not None
    spread = "" if sd is None else f" ± {100 * sd:.2f} over {len(row.seeds)} seeds"
    return f"{100 * mean:.2f}%{spread}"


def _limits(about: About) -> str:
    return (
        "It knows the classes above and no others, and was measured on the test split of "
        f"{_plain(about.data)} alone: on other data expect less. Its probabilities are not calibrated for your data."
    )


def card_facts(about: About, form: Form, files: Sequence[Exported], options: Mapping[str, Any]) -> dict[str, Any]:
    """What `export.json` holds: all that the card tells, as numbers."""
    return {
        "name": about.name,
        "model": about.model,
        "data": {"name": about.data, "split": "test", "examples": about.examples},
        "preprocessing": form.preprocessing,
        "input": {"shape": list(form.shape), "layout": form.layout, "bytes": form.as_bytes},
        "classes": list(form.contract.classes),
        "original": asdict(files[0].original),
        "files": [one.to_json() for one in files],
        **options,
    }
