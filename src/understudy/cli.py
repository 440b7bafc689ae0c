"""The verbs on the command line. What imports torch is imported inside a command: help is quick."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy import __version__
from understudy.cli_flags import DataRoot, TrustCode
from understudy.errors import Interrupted, UnderstudyError, nearest

if TYPE_CHECKING:
    from understudy.api import Run
    from understudy.reporting import RunFacts

F = TypeVar("F", bound=Callable[..., Any])


def _default(value: Any) -> str | None:
    """A default as help shows it: as it would be typed, and not at all where nothing is the default."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or None
    return None if value is None or value is False or value == "" else str(value)


app = App(
    name="understudy",
    help="Train small models to stand in for big ones.",
    help_epilogue="understudy COMMAND --help shows a command's flags and examples.",
    help_format="rich",
    version=__version__,
    version_flags=["--version"],
    default_parameter=Parameter(negative_iterable=(), consume_multiple=True, show_default=_default),
)


def command(*examples: str) -> Callable[[F], F]:
    """Register a verb, with examples below its help."""
    return lambda verb: app.command(verb, help_epilogue=_epilogue(examples))


def _epilogue(examples: Sequence[str]) -> str:
    return "\n".join(["[bold]Examples[/bold]", *(f"  {example}" for example in examples)])


def lazy_command(verb: str, summary: str, *examples: str, module: str = "cli_recipe") -> None:
    """Register a verb of another module, which loads when asked for; flags that are recipes take a while."""
    app.command(f"understudy.{module}:{verb}", name=verb, help=summary, help_epilogue=_epilogue(examples))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. The result is the exit code; a user's mistake is one line on stderr and code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be Unicode
    try:
        tokens = list(sys.argv[1:] if argv is None else argv)
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        return _fail(_flag_complaint(error) or str(error))
    except UnderstudyError as error:
        return _fail(str(error))
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, as in `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(message: str) -> int:
    line = Text.assemble(("error:", "bold red"), " ", (" ".join(message.split()), "red"))
    Console(stderr=True).print(line, soft_wrap=True)
    return 2


def _flag_complaint(error: CycloptsError) -> str:
    """Pydantic's complaint, if it was one, about the flag as it was typed."""
    from pydantic import ValidationError

    from understudy.recipe_text import complaint

    if not isinstance(error.__cause__, ValidationError):
        return ""
    path, message = complaint(error.__cause__)
    fields = [part for part in path if isinstance(part, str)]
    return f"--{fields[-1].replace('_', '-')}: {message}" if fields else message


# --- training ---------------------------------------------------------------------------------------------

lazy_command(
    "train",
    "Train a teacher, or a baseline, on labels.",
    "understudy train digits --model 'mlp:256x2?dropout=0.3' --seeds 3",
    "understudy train photos/ --model 'timm:resnet50?pretrained=true' --run runs/teacher",
    "understudy train cifar10 --model cnn:32-64-128 --optimizer sgd --lr 0.1 --flip",
    "understudy train photos/ --model runs/student --freeze",
    "understudy train --config runs/teacher/recipe.yaml --seed 7 --dry-run",
)
lazy_command(
    "compress",
    "Transfer a backbone to your images, distil it into a small model, export that, and show what was gained.",
    "understudy compress photos/ --backbone timm:resnetv2_50x1_bit.goog_in21k --student timm:mobilenetv3_small_100",
    "understudy compress photos/ --backbone timm:resnet50 --student cnn:16-32-64 --budget 30m --crop-size 128",
    "understudy compress photos/ --backbone runs/a runs/b --student timm:resnet18 --transfer-set unlabelled/",
    module="cli_compress",
)
lazy_command(
    "pretrain",
    "Pre-train a backbone to transfer from, as Big Transfer does at its scales S, M and L.",
    "understudy pretrain photos/ --model bit:R50x1 --scale S",
    "understudy pretrain 'shards-{000..127}.tar' --model 'bit:R50x1?norm=bn' --scale M --micro-batch 128",
    "understudy pretrain photos/ --model 'bit:R26x1?root=cifar' --size 32 --batch-size 128 --run runs/upstream",
    module="cli_pretrain",
)
lazy_command(
    "transfer",
    "Fine-tune a pre-trained backbone by BiT-HyperRule, which takes its numbers from the data.",
    "understudy transfer photos/ --backbone timm:resnetv2_50x1_bit.goog_in21k",
    "understudy transfer photos/ --backbone timm:resnet50 --batch-size 32 --crop-size 224",
    "understudy transfer photos/ --backbone runs/upstream --shots 1,5,10 --draws 5",
    module="cli_transfer",
)
lazy_command(
    "suite",
    "Transfer one backbone to many tasks by BiT-HyperRule; one table. The exit code is 1 if a task failed.",
    "understudy suite cifar100 flowers102 pets photos/ --backbone timm:resnetv2_50x1_bit.goog_in21k",
    "understudy suite dtd eurosat --backbone runs/upstream --shots 1,5,10",
    "understudy suite caltech101 pcam clevr-count --backbone timm:resnet50 --vtab --run runs/vtab",
    module="cli_suite",
)
lazy_command(
    "distill",
    "Train a student on the soft targets of one teacher or several, beside the same student trained alone.",
    "understudy distill digits --teacher runs/teacher --student mlp:16x1 --seeds 3",
    "understudy distill photos/ --teacher runs/a runs/b --student timm:resnet18 --temperature 2",
    "understudy distill mnist --teacher runs/teacher --student mlp:800x2 --omit-classes 3",
    "understudy distill photos/ --teacher runs/a --student cnn:16-32 --transfer-set unlabelled/",
    "understudy distill cifar100 --teacher runs/wrn --student cifar:wrn_16_2 --method crd+kd",
    "understudy distill photos/ --teacher runs/a --student cnn:16-32 --method crd --student-sees chrominance",
)
lazy_command(
    "compare",
    "Train a student by several methods, and alone, on the same batches, and compare them.",
    "understudy compare digits --teacher runs/teacher --student mlp:16x1 --methods kd,crd,crd+kd --seeds 3",
    "understudy compare cifar100 --teacher runs/wrn --student cifar:wrn_16_2 --methods kd crd dkd at",
)
app.command(
    "understudy.cli_speech:speech",
    name="speech",
    help="Words from sound, by nets distilled from ensembles.",
)

lazy_command(
    "specialists",
    "Group the classes that a generalist confuses, and train a specialist for each group.",
    "understudy specialists photos/ --generalist runs/generalist --clusters 5 --parallel 2",
    "understudy specialists photos/ --generalist runs/generalist --clusters 5 --only 3",
    "understudy distill photos/ --teacher runs/generalist/specialists --student timm:resnet18",
    module="cli_specialists",
)


_RESUMED = {
    "compress.json": ("cli_compress", "resume_stages"),
    "transfer.json": ("cli_transfer", "resume_draws"),
    "suite.json": ("cli_suite", "resume_suite"),
}
"""What goes on with a folder of several runs, by the record that it holds."""


@command("understudy resume runs/teacher", "understudy resume runs/teacher --trust-code")
def resume(run: Path, /, *, trust_code: TrustCode = False) -> int | None:
    """Go on with a run where it stopped; the result is that of a run never stopped.

    Parameters
    ----------
    run
        The run's folder.
    """
    for record, (module, verb) in _RESUMED.items():
        if (run / record).exists():
            return getattr(import_module(f"understudy.{module}"), verb)(run, trust_code=trust_code)
    from understudy import api

    show_run(api.resume(run, trust_code=trust_code))


# --- results ----------------------------------------------------------------------------------------------


lazy_command(
    "evaluate",
    "Measure accuracy, calibration, and agreement with a teacher.",
    "understudy evaluate runs/demo digits",
    "understudy evaluate student.safetensors photos/ --teacher runs/teacher",
    "understudy evaluate runs/omit-3 mnist --class-bias 3=+3.5",
    module="cli_evaluate",
)


lazy_command(
    "probe",
    "Read classes from the networks' frozen representations with linear classifiers, on any data sets.",
    "understudy probe runs/demo digits",
    "understudy probe runs/demo photos/ cifar100 --teacher runs/teacher",
    "understudy probe runs/omit-3 mnist --only-classes 3 8 --json",
    module="cli_probe",
)


lazy_command(
    "predict",
    "Name the classes of images, with probabilities. The exit code is 1 if any image could not be read.",
    "understudy predict runs/demo photo.jpg",
    "understudy predict runs/demo photos/ --top 3",
    "understudy predict runs/demo photos/ --csv > predictions.csv",
    "understudy predict runs/demo photo.jpg --json",
    module="cli_predict",
)


def show_facts(facts: RunFacts) -> None:
    """Print the table of an evaluation, and its cautions."""
    from understudy.reporting import results_table

    Console().print(results_table(facts))
    for caution in facts.cautions:
        Console().print(Text(caution, "yellow"))


def show_run(run: Run) -> None:
    """Print a finished run's table, and where its page is; of torchrun's processes the first does."""
    if int(os.environ.get("RANK", "0")) > 0:
        return
    show_facts(run.facts)
    Console().print(Text(f"report: {run.report}"), soft_wrap=True)


lazy_command(
    "export",
    "Write a network as files that run elsewhere, each checked against it on the whole test split.",
    "understudy export runs/demo",
    "understudy export runs/demo --format onnx torch int8",
    "understudy export runs/demo --network distilled-2 --preprocessing beside --out device/",
    "understudy export student.safetensors --data photos/ --format int8 --calibrate 500 --tolerance 1",
    module="cli_export",
)


# --- papers and lists -------------------------------------------------------------------------------------


lazy_command(
    "reproduce",
    "Run a paper's experiment and set its numbers beside the paper's; without a name, list them.",
    "understudy reproduce",
    "understudy reproduce hinton-mnist --quick",
    "understudy reproduce hinton-mnist --run runs/mnist --data-root ~/data",
    "understudy reproduce crd-cifar100 --pair resnet32x4:resnet8x4",
    "understudy reproduce crd-cifar100 --pair wrn_16_2:resnet8 --scale 0.05 --data photos/ --size 32",
    "understudy reproduce crd-transfer --data photos/ --size 32 --held-out 5",
    module="cli_reproduce",
)


@command("understudy models", "understudy models resnet", "understudy models 'convnext*tiny*'")
def models(pattern: str | None = None, /) -> None:
    """List the families of models, or timm's models by name.

    Parameters
    ----------
    pattern
        Part of a name of timm's, or a pattern with *.
    """
    if pattern is None:
        from understudy.models import FAMILIES

        rows = [tuple(re.split(r" {2,}", line, maxsplit=1)) for line in FAMILIES.values()]
        print_rows(
            [
                *rows,
                (
                    "pkg.mod:fn",
                    "a function of yours: fn(num_classes=..., option=...)",
                ),
            ]
        )
        return
    import timm

    names = timm.list_models(pattern if "*" in pattern else f"*{pattern}*")
    if not names:
        raise UnderstudyError(f"timm has no model like {pattern!r}{nearest(pattern, timm.list_models())}")
    print("\n".join(f"timm:{name}" for name in names))


@command(
    "understudy methods",
    "understudy distill digits --teacher runs/a --student mlp:16x1 --method crd+kd",
    "understudy distill digits --teacher runs/a --student mlp:16x1 --objective crd:weight=0.5 soft:temperature=2",
)
def methods() -> None:
    """List what a student can learn from a teacher. Methods add up, as in --method crd+kd."""
    from understudy.objectives import ALIASES, OBJECTIVES

    others = {name: other for other, name in ALIASES.items()}
    rows = (
        (", ".join(filter(None, (others.get(name), name))), f"{made.weight:g}", made.summary)
        for name, made in OBJECTIVES.items()
    )
    print_rows(rows, ("--method", "weight", "what it minimises"))


@command("understudy datasets", "understudy datasets --data-root ~/data")
def datasets(*, data_root: DataRoot = None) -> None:
    """List the data sets that go by a name, and which of them are here."""
    from understudy.data import NAMED, group_of

    home = Path(data_root or os.environ.get("UNDERSTUDY_DATA") or "data")
    rows = []
    for name, named in NAMED.items():
        here = not named.folder or any((at / named.folder).exists() for at in (home, home / name))
        counts = [f"{n:,}" for n in named.examples] + ["-"] * (3 - len(named.examples))
        rows.append((name, named.classes or "-", *counts, "yes" if here else "", group_of(name), named.about))
    print_rows(rows, ("name", "classes", "train", "test", "validation", "here", "VTAB", "what"))


def print_rows(rows: Iterable[Sequence[object]], heads: Sequence[str] = ()) -> None:
    """Print a table, plain where there is no terminal."""
    table = Table(*heads, box=None, pad_edge=False, show_header=bool(heads), header_style="bold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)
