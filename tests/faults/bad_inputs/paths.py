"""Paths that cannot be: empty, absurd, of nobody, of the wrong kind."""

from __future__ import annotations

from bad_inputs import Table
from bad_inputs.numbers import COMPRESS, DISTILL, LABEL, SPECIALISTS, TRAIN, TRANSFER

ESCAPE, NUL, NEWLINE = "'a\x1b[31mb'", "'a\x00b'", "'a\nb'"
LONG, DEEP = "x" * 5000, "/".join(["x" * 200] * 30)
OF_NOBODY = "~nobody-is-called-so/a"


def _each(line: str, *pairs: tuple[str, str]) -> Table:
    """A line with several values in the place of `PATH`."""
    return tuple((line.replace("PATH", value), says) for value, says in pairs)


ABSURD = (
    ("''", "empty"),
    (NUL, "control character"),
    (NEWLINE, "control character"),
    (ESCAPE, "control character"),
    (LONG, "too long"),
    (DEEP, "too long"),
    (OF_NOBODY, "no user 'nobody-is-called-so'"),
)
NOT_A_FOLDER = (("<text>", "is not a folder"), ("<text>/a", "is not a folder"), ("<loop>/a", "."))
NOT_THERE = ("<nowhere>", "there is no")

OF_RESULTS: Table = (
    *_each(f"{TRAIN} --epochs 1 --run PATH", *ABSURD, *NOT_A_FOLDER, ("/proc/a", "could not be (made|written)")),
    *_each(f"{TRAIN} --run PATH --dry-run", *ABSURD, *NOT_A_FOLDER),
    *_each(f"{DISTILL} --run PATH", *ABSURD, *NOT_A_FOLDER),
    *_each(f"{TRANSFER} --run PATH", *ABSURD[:3], *NOT_A_FOLDER),
    *_each(f"{TRANSFER} --shots 1 --run PATH", *ABSURD[3:], *NOT_A_FOLDER),
    *_each("suite digits --backbone <run> --run PATH", ABSURD[0], ABSURD[4], *NOT_A_FOLDER),
    *_each("pretrain <photos> --model cnn:4 --run PATH", ABSURD[0], ABSURD[6], *NOT_A_FOLDER),
    *_each(f"{COMPRESS} --run PATH", ABSURD[0], ABSURD[1], *NOT_A_FOLDER),
    *_each(f"{SPECIALISTS} --run PATH", ABSURD[0], ABSURD[6], *NOT_A_FOLDER),
    *_each(f"{LABEL} --views 1 --out PATH", *ABSURD, *NOT_A_FOLDER, ("<run>", "holds a run; choose another --out")),
    *_each("export <run> --format onnx --out PATH", *ABSURD, *NOT_A_FOLDER),
    *_each("reproduce hinton-mnist --quick --run PATH", ABSURD[0], ABSURD[5], *NOT_A_FOLDER),
    *_each("speech prepare <photos> --to PATH", *ABSURD, *NOT_A_FOLDER),
)

OF_INPUTS: Table = (
    *_each(
        "train PATH --model mlp:8x1",
        *ABSURD[1:],
        ("''", "DATA is missing"),
        ("<nowhere>", "no folder"),
        ("<text>", "supported"),
    ),
    *_each("train PATH --model mlp:8x1", ("<photo>", "supported"), ("<loop>", "."), ("<empty>", "no (images|class)")),
    *_each("train digits --model PATH", *ABSURD[1:], ("''", "--model is missing"), ("<nowhere>", "is not a model")),
    *_each("train digits --model PATH", ("<empty>", "no trained model"), ("<text>", "could not be|not a|weights")),
    *_each(f"{TRAIN} --config PATH", *ABSURD, NOT_THERE, ("<photos>", "cannot be read"), ("<photo>", "plain YAML")),
    *_each(f"{TRAIN} --data-root PATH", *ABSURD),
    *_each("train mnist --model mlp:8x1 --data-root PATH", ("<text>", "."), ("<nowhere>", ".")),
    *_each(
        f"{TRAIN} --subset PATH",
        *ABSURD,
        ("<nowhere>", "cannot be read"),
        ("<photos>", "cannot be read"),
        ("<text>", "."),
    ),
    *_each("distill digits --student mlp:8x1 --teacher PATH", *ABSURD, NOT_THERE, ("<empty>", "no trained model")),
    *_each("distill digits --student mlp:8x1 --teacher PATH", ("<text>", "."), ("<photo>", "."), ("<loop>", ".")),
    *_each("distill digits --teacher <run> --student PATH", *ABSURD[1:], ("<nowhere>", "is not a model")),
    *_each(f"{DISTILL} --transfer-set PATH", *ABSURD[1:], ("<nowhere>", "no folder"), ("<text>", "supported")),
    *_each("transfer <photos> --backbone PATH", *ABSURD[1:], ("<nowhere>", "not a model"), ("<empty>", "no trained")),
    *_each("suite PATH --backbone <run>", *ABSURD[1:], ("<nowhere>", "there is no folder")),
    *_each("suite digits --backbone PATH", *ABSURD[1:5], ("<nowhere>", "not a model")),
    *_each("compress <photos> --student cnn:4 --backbone PATH", *ABSURD[1:4], ("<nowhere>", "not a model")),
    *_each("specialists digits --generalist PATH", *ABSURD[1:], NOT_THERE, ("<empty>", "no trained model")),
    *_each("label PATH --teacher <run>", *ABSURD[1:], ("''", "DATA is missing"), ("<nowhere>", "no folder")),
    *_each("label digits --teacher PATH", *ABSURD, NOT_THERE, ("<empty>", "no trained model"), ("<text>", ".")),
    *_each(f"{LABEL} --merge PATH", *ABSURD),
    *_each(f"{LABEL} --merge PATH", *((where, "holds no targets") for where in ("<nowhere>", "<run>", "<loop>"))),
    *_each("distill digits --student mlp:8x1 --targets PATH", *ABSURD),
    *_each(
        "distill digits --student mlp:8x1 --targets PATH",
        *((where, "holds no targets") for where in ("<nowhere>", "<empty>", "<text>", "<loop>", "<run>")),
    ),
    *_each(f"{SPECIALISTS} --soft 1 --targets PATH", *ABSURD[:3], ("<run>", "holds no targets")),
    *_each("evaluate PATH digits", *ABSURD, NOT_THERE, ("<empty>", "no trained model"), ("<photo>", ".")),
    *_each("evaluate <run> PATH", *ABSURD, ("<nowhere>", "no folder"), ("<text>", "supported")),
    *_each("evaluate <run> digits --teacher PATH", *ABSURD, NOT_THERE),
    *_each("evaluate <run> digits --data-root PATH", ABSURD[0], ABSURD[1], ABSURD[6]),
    *_each("probe PATH digits", *ABSURD, NOT_THERE),
    *_each("probe <run> PATH", *ABSURD, ("<nowhere>", "no folder")),
    *_each("predict PATH <photo>", *ABSURD, NOT_THERE, ("<empty>", "no trained model")),
    *_each("predict <run> PATH", *ABSURD, NOT_THERE, ("<empty>", "no images"), ("<loop>", ".")),
    *_each("export PATH", *ABSURD, NOT_THERE, ("<empty>", "no trained model")),
    *_each("export <run> --data PATH", *ABSURD, ("<nowhere>", "no folder")),
    *_each("resume PATH", *ABSURD, ("<nowhere>", "run folder"), ("<empty>", "run folder"), ("<text>", "run folder")),
    *_each("datasets --data-root PATH", *ABSURD),
    *_each("speech prepare PATH", *ABSURD, NOT_THERE, ("<empty>", "."), ("<text>", ".")),
    *_each("speech train PATH", *ABSURD[1:], ("''", "DATA is missing"), NOT_THERE),
    *_each("speech decode PATH <photo>", *ABSURD, ("<nowhere>", "run folder"), ("<run>", ".")),
    *_each("reproduce hinton-specialists --groups PATH", *ABSURD),
    *_each("reproduce hinton-mnist --quick --data-root PATH", *ABSURD),
    *_each(f"{TRAIN} --pair PATH", ("depth", "NAME=FOLDER"), ("=a", "NAME=FOLDER"), ("depth=", "NAME=FOLDER")),
    *_each("train <photos> --model cnn:4 --pair depth=PATH", *ABSURD[1:], ("<nowhere>", ".")),
)
