"""The commands. What imports torch is imported inside a command: help is quick."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter
from rich.text import Text

from understudy.cli.flags import default_as_typed
from understudy.errors import Interrupted, UnderstudyError, one_line
from understudy.terminal import Terminal
from understudy.version import __version__

app = App(
    name="understudy",
    help="Train small models to stand in for big ones.",
    help_epilogue="understudy COMMAND --help shows a command's flags and examples.",
    help_format="rich",
    version=__version__,
    version_flags=["--version"],
    default_parameter=Parameter(negative_iterable=(), consume_multiple=True, show_default=default_as_typed),
)

app.register_install_completion_command(help="Complete commands and flags in this shell (bash, zsh or fish).")


def command(verb: str, summary: str, *examples: str, module: str = "") -> None:
    """Register a verb, which is imported when asked for, with examples below its help."""
    path = f"understudy.cli.{module or verb}:{verb}"
    app.command(path, name=verb, help=summary, help_epilogue=epilogue(*examples))


def epilogue(*examples: str) -> str:
    return "\n".join(["[bold]Examples[/bold]", *(f"  {example}" for example in examples)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns the exit code; a user's mistake is one line on stderr and code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be Unicode
    try:
        tokens = list(sys.argv[1:] if argv is None else argv)
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (CycloptsError, UnderstudyError) as error:
        return _fail(str(error))
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(message: str) -> int:
    line = Text.assemble(("error:", "bold red"), " ", (one_line(message), "red"))
    Terminal(stderr=True).print(line, soft_wrap=True)
    return 2


command(
    "train",
    "Train a teacher, or a baseline, on labels.",
    "understudy train digits --model 'mlp:256x2?dropout=0.3' --seeds 3",
    "understudy train photos/ --model 'timm:resnet50?pretrained=true' --run runs/teacher",
    "understudy train cifar10 --model cnn:32-64-128 --optimizer sgd --lr 0.1 --flip",
    "understudy train photos/ --model runs/student --freeze",
    "understudy train --config runs/teacher/recipe.yaml --seed 7 --dry-run",
)
command(
    "compress",
    "Transfer a backbone to your images, distill it into a small model, export that, and show the gain.",
    "understudy compress photos/ --backbone timm:resnetv2_50x1_bit.goog_in21k --student timm:mobilenetv3_small_100",
    "understudy compress photos/ --backbone timm:resnet50 --student cnn:16-32-64 --budget 30m --crop-size 128",
    "understudy compress photos/ --backbone runs/a runs/b --student timm:resnet18 --transfer-set unlabeled/",
)
command(
    "pretrain",
    "Pre-train a backbone to transfer from, as Big Transfer does at its scales S, M and L.",
    "understudy pretrain photos/ --model bit:R50x1 --scale S",
    "understudy pretrain 'shards-{000..127}.tar' --model 'bit:R50x1?norm=bn' --scale M --micro-batch 128",
    "understudy pretrain photos/ --model 'bit:R26x1?root=cifar' --size 32 --batch-size 128 --run runs/upstream",
)
command(
    "transfer",
    "Fine-tune a pre-trained backbone by a rule that takes its numbers from the data.",
    "understudy transfer photos/ --backbone timm:resnetv2_50x1_bit.goog_in21k",
    "understudy transfer photos/ --backbone timm:resnet50 --micro-batch 32 --crop-size 224",
    "understudy transfer photos/ --backbone runs/upstream --shots 1,5,10 --draws 5",
)
command(
    "suite",
    "Transfer one backbone to many tasks; one table. The exit code is 1 if a task failed.",
    "understudy suite cifar100 flowers102 pets photos/ --backbone timm:resnetv2_50x1_bit.goog_in21k",
    "understudy suite dtd eurosat --backbone runs/upstream --shots 1,5,10",
    "understudy suite caltech101 pcam clevr-count --backbone timm:resnet50 --vtab --run runs/vtab",
)
command(
    "distill",
    "Train a student on one or more teachers' soft targets, with the same student trained alone as the baseline.",
    "understudy distill digits --teacher runs/teacher --student mlp:16x1 --seeds 3",
    "understudy distill photos/ --teacher runs/a runs/b --student timm:resnet18 --temperature 2",
    "understudy distill mnist --teacher runs/teacher --student mlp:800x2 --omit-classes 3",
    "understudy distill photos/ --teacher runs/a --student cnn:16-32 --transfer-set unlabeled/",
    "understudy distill cifar100 --teacher runs/wrn --student cifar:wrn_16_2 --method crd+kd",
    "understudy distill photos/ --teacher runs/a --student cnn:16-32 --method crd --student-modality chrominance",
    "understudy distill photos/ --teacher timm:vit_small_patch14_dinov2 --student timm:mobilenetv3_small_100 "
    "--method represent",
)
command(
    "compare",
    "Train a student by several methods, and alone, on the same batches, and compare them.",
    "understudy compare digits --teacher runs/teacher --student mlp:16x1 --method kd crd crd+kd --seeds 3",
    "understudy compare cifar100 --teacher runs/wrn --student cifar:wrn_16_2 --method kd crd dkd at",
)
command(
    "label",
    "Keep teachers' answers to augmented views of the samples, for any number of students.",
    "understudy label cifar100 --teacher runs/wrn --views 32 --out targets/",
    "understudy label unlabeled/ --teacher runs/a runs/b --embedding --out targets/",
    "understudy label photos/ --teacher runs/teacher --out targets/ --part 3/16",
    "understudy label unlabeled/ --teacher timm:vit_small_patch14_dinov2 --embedding --out targets/",
    "understudy distill cifar100 --targets targets/ --student cifar:resnet8",
)
app.command(
    "understudy.cli.speech:speech", name="speech", help="Words from sound, by networks distilled from ensembles."
)
command(
    "specialists",
    "Group the classes that a generalist confuses, and train a specialist for each group.",
    "understudy specialists photos/ --generalist runs/generalist --clusters 5 --parallel 2",
    "understudy specialists photos/ --generalist runs/generalist --clusters 5 --only 3",
    "understudy distill photos/ --teacher runs/generalist/specialists --student timm:resnet18",
)
command(
    "resume",
    "Continue a run, or a folder of runs, where it was stopped; the result is as if it had not been stopped.",
    "understudy resume runs/teacher",
    "understudy resume runs/compress-photos-1 --trust-code",
    "understudy resume runs/teacher --accept-changed-data",
)
command(
    "evaluate",
    "Measure accuracy, calibration, and agreement with a teacher.",
    "understudy evaluate runs/demo digits",
    "understudy evaluate student.safetensors photos/ --teacher runs/teacher",
    "understudy evaluate runs/omit-3 mnist --class-bias 3=+3.5",
)
command(
    "probe",
    "Fit linear classifiers to the networks' frozen representations, on any data sets.",
    "understudy probe timm:resnet18 photos/",
    "understudy probe runs/demo digits",
    "understudy probe runs/demo photos/ cifar100 --teacher runs/teacher",
    "understudy probe runs/distill-photos-1 flowers/ --teacher timm:vit_small_patch14_dinov2 --knn",
    "understudy probe runs/omit-3 mnist --only-classes 3 8 --json",
)
command(
    "neighbors",
    "List the images nearest to others by a network's embedding, as a page.",
    "understudy neighbors runs/distill-photos-1 photos/ query.jpg",
    "understudy neighbors runs/distill-photos-1 photos/ queries/ --top 5 --out found.html",
)
command(
    "predict",
    "Classify images, with probabilities. The exit code is 1 if any image could not be read.",
    "understudy predict runs/demo photo.jpg",
    "understudy predict runs/demo photos/ --top 3",
    "understudy predict runs/demo photos/ --csv > predictions.csv",
    "understudy predict runs/demo photo.jpg --json",
)
command(
    "export",
    "Write a network as files that run elsewhere, each verified on the whole test split.",
    "understudy export runs/demo",
    "understudy export runs/demo --format onnx torch int8",
    "understudy export runs/demo --format openvino litert executorch coreml",
    "understudy export runs/demo --network distilled-2 --preprocessing external --out device/",
    "understudy export student.safetensors --data photos/ --format int8 --calibrate 500 --tolerance 1",
)
command(
    "benchmark",
    "Put a network's formats side by side: size, latency, accuracy, agreement.",
    "understudy benchmark runs/demo",
    "understudy benchmark runs/demo photos/ --formats onnx int8 openvino --threads 1 0",
)
command(
    "push",
    "Put a network on the Hugging Face Hub in timm's layout, so that timm loads it by name.",
    "understudy push runs/demo me/birds",
    "understudy push runs/demo me/birds --private --license apache-2.0",
    "understudy push runs/demo me/birds --out birds/",
)
command(
    "reproduce",
    "Run a paper's experiment and show its numbers next to the paper's; without a name, list them.",
    "understudy reproduce",
    "understudy reproduce hinton-mnist --quick",
    "understudy reproduce hinton-mnist --run runs/mnist --data-root ~/data",
    "understudy reproduce crd-cifar100 --pair resnet32x4:resnet8x4",
    "understudy reproduce crd-cifar100 --pair wrn_16_2:resnet8 --epochs 12 --data photos/ --size 32",
    "understudy reproduce crd-transfer --data photos/ --size 32 --held-out 5",
)
command(
    "models",
    "List the families of models, or timm's models by name.",
    "understudy models",
    "understudy models resnet",
    "understudy models 'convnext*tiny*'",
    module="lists",
)
command(
    "methods",
    "List what a student can learn from a teacher. Methods add up, as in --method crd+kd.",
    "understudy methods",
    "understudy distill digits --teacher runs/a --student mlp:16x1 --method crd+kd",
    "understudy distill digits --teacher runs/a --student mlp:16x1 --objective crd:weight=0.5 kd:temperature=2",
    module="lists",
)
command(
    "datasets",
    "List the named data sets, and which of them are here.",
    "understudy datasets",
    "understudy datasets --data-root ~/data",
    module="lists",
)
command(
    "runs",
    "List the runs of a folder with what each found, and write a page with links to theirs.",
    "understudy runs",
    "understudy runs results/ --json",
)
command(
    "doctor",
    "Say what this machine has and what is missing: versions, devices, threads, folders, extras.",
    "understudy doctor",
    "understudy doctor --data-root ~/data",
)
