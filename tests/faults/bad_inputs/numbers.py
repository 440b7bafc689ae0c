"""Numbers that are none, or not sane: every numeric option of every verb."""

from __future__ import annotations

from bad_inputs import Table

HUGE = "9" * 30


def _each(line: str, option: str, *pairs: tuple[str, str]) -> Table:
    """The same option with several values."""
    return tuple((f"{line} {option} {value}", f"{option}.*{says}") for value, says in pairs)


def _checked_by_verb(line: str, option: str, *values: str, says: str = "") -> Table:
    """An option that no schema has, so that the sentence names it without dashes."""
    return tuple((f"{line} --{option} {value}", f"{option}.*{says}") for value in values)


TRAIN = "train digits --model mlp:8x1"
DISTILL = "distill digits --teacher <run> --student mlp:8x1"
TRANSFER = "transfer <photos> --backbone <run>"
COMPRESS = "compress <photos> --backbone <run> --student cnn:4"
SPECIALISTS = "specialists digits --generalist <run>"
LABEL = "label digits --teacher <run>"

NOT_A_NUMBER = ("few", "few"), ("''", ".")
NOT_FINITE = ("nan", "finite"), ("inf", "finite")
NEGATIVE = ("-1", "greater than")
TOO_LARGE = (HUGE, "less than")

OF_TRAINING: Table = (
    *_each(TRAIN, "--lr", *NOT_A_NUMBER, *NOT_FINITE, ("-inf", "finite"), ("0", "greater than 0"), ("1e30", "less")),
    *_each(TRAIN, "--momentum", *NOT_FINITE, ("1", "less than 1"), NEGATIVE),
    *_each(TRAIN, "--weight-decay", *NOT_FINITE, NEGATIVE, TOO_LARGE),
    *_each(TRAIN, "--warmup", ("nan", "finite"), ("1", "less than 1"), NEGATIVE),
    *_each(TRAIN, "--warmup-steps", ("1.5", "whole number"), NEGATIVE, TOO_LARGE),
    *_each(TRAIN, "--milestones", ("0.5 nan", "finite"), ("0", "greater than 0"), ("half", "number")),
    *_each(TRAIN, "--milestone-steps", ("0", "greater than"), ("1.5", "integer"), TOO_LARGE),
    *_each(TRAIN, "--gamma", ("nan", "finite"), ("0", "greater than 0"), ("2", "less than or equal to 1")),
    *_each(TRAIN, "--clip", *NOT_FINITE, ("0", "greater than 0")),
    *_each(TRAIN, "--max-norm", *NOT_FINITE, ("-3", "greater than 0")),
    *_each(TRAIN, "--ema", ("nan", "finite"), ("1", "less than 1"), ("0", "greater than 0")),
    *_each(
        TRAIN,
        "--epochs",
        *NOT_A_NUMBER,
        ("0", "greater than"),
        ("1e3", "whole number"),
        ("2.5", "whole number"),
        ("nan", "whole number"),
        TOO_LARGE,
    ),
    *_each(TRAIN, "--steps", ("0", "greater than"), NEGATIVE, TOO_LARGE),
    *_each(TRAIN, "--batch-size", ("0", "greater than"), NEGATIVE, TOO_LARGE, ("2.5", "whole number")),
    *_each(TRAIN, "--micro-batch", ("0", "greater than"), TOO_LARGE),
    *_each(TRAIN, "--mixup", *NOT_FINITE, NEGATIVE, ("1e9", "less than or equal to")),
    *_each(TRAIN, "--input-size", ("0", "greater than"), TOO_LARGE, ("100000", "less than or equal to")),
    *_each(TRAIN, "--test-size", ("0", "greater than"), ("100000", "less than or equal to")),
    *_each(TRAIN, "--size", ("0", "greater than"), NEGATIVE, ("100000", "less than or equal to")),
    *_each(TRAIN, "--seed", ("-1", "greater than"), TOO_LARGE, ("0.5", "whole number"), ("''", "whole number")),
    *_each(TRAIN, "--seeds", ("0", "greater than"), TOO_LARGE),
    *_each(TRAIN, "--patience", ("0", "greater than"), TOO_LARGE),
    *_each(TRAIN, "--label-smoothing", ("nan", "finite"), ("1", "less than 1"), NEGATIVE),
    *_each(TRAIN, "--fraction", ("nan", "finite"), ("0", "greater than 0"), ("1.1", "less than or equal to 1")),
    *_each(TRAIN, "--validation", ("nan", "finite"), ("1", "less than 1"), NEGATIVE),
    *_each(TRAIN, "--translate", NEGATIVE, TOO_LARGE),
    *_each(TRAIN, "--rotate", ("nan", "finite"), ("181", "less than or equal to 180"), NEGATIVE),
    *_each(TRAIN, "--zoom", ("nan", "finite"), ("1", "less than 1")),
    *_each(TRAIN, "--elastic", *NOT_FINITE, NEGATIVE, TOO_LARGE),
    *_each(TRAIN, "--crop-scale", ("nan", "finite"), ("0", "greater than 0")),
    *_each(TRAIN, "--resize", ("0", "greater than"), ("100000", "less than or equal to")),
    *_each(TRAIN, "--crop-size", ("0", "greater than"), ("100000", "less than or equal to")),
    *_each(TRAIN, "--noise", *NOT_FINITE, NEGATIVE, TOO_LARGE),
    *_each(TRAIN, "--devices", ("0", "greater than"), ("many", "many"), TOO_LARGE),
    *_each(TRAIN, "--nodes", ("0", "greater than"), TOO_LARGE),
    *_each(TRAIN, "--workers", NEGATIVE, TOO_LARGE, ("10000", "less than or equal to")),
    *_each(TRAIN, "--checkpoint-every", *NOT_FINITE, NEGATIVE, TOO_LARGE),
)

OF_OTHER_VERBS: Table = (
    *_each(DISTILL, "--temperature", *NOT_FINITE, ("0", "greater than"), NEGATIVE, TOO_LARGE, ("hot", "hot")),
    *_each(DISTILL, "--hard-weight", *NOT_FINITE, NEGATIVE, TOO_LARGE),
    *_each(DISTILL, "--lr", *NOT_FINITE),
    *_each(DISTILL.replace("distill", "compare", 1), "--seeds", ("0", "greater than"), TOO_LARGE),
    *_each(DISTILL.replace("distill", "compare", 1), "--temperature", *NOT_FINITE),
    *_each(TRANSFER, "--shots", ("0", "greater than"), ("1,x", "integer"), ("1,-5", "greater than"), TOO_LARGE),
    *_each(TRANSFER, "--draws", ("0", "greater than"), TOO_LARGE),
    *_each(TRANSFER, "--steps", ("0", "greater than"), TOO_LARGE),
    *_each(TRANSFER, "--crop-size", ("0", "greater than"), ("100000", "less than or equal to")),
    *_each(TRANSFER, "--lr", *NOT_FINITE),
    *_each("suite digits --backbone <run>", "--batch-size", ("0", "greater than"), TOO_LARGE),
    *_each("suite digits --backbone <run>", "--shots", ("0", "greater than")),
    *_each("pretrain <photos> --model cnn:4", "--size", ("0", "greater than"), ("100000", "less than or equal to")),
    *_each("pretrain <photos> --model cnn:4", "--epochs", ("0", "greater than"), TOO_LARGE),
    *_each("pretrain <photos> --model cnn:4", "--lr", *NOT_FINITE),
    *_each(COMPRESS, "--steps", ("0", "greater than"), TOO_LARGE),
    *_each(COMPRESS, "--teacher-steps", ("0", "greater than"), TOO_LARGE),
    *_each(COMPRESS, "--student-size", ("0", "greater than"), ("100000", "less than or equal to")),
    *_each(COMPRESS, "--seed", ("-1", "greater than"), TOO_LARGE),
    *((f"{COMPRESS} --budget {value}", "budget") for value in ("''", "soon", "0s", "nan", "inf", "-5m", HUGE + "h")),
    *_each(SPECIALISTS, "--clusters", ("0", "greater than"), TOO_LARGE),
    *_each(SPECIALISTS, "--group-size", ("0", "greater than"), TOO_LARGE),
    *_each(SPECIALISTS, "--top-n", ("0", "greater than"), TOO_LARGE),
    *_each(SPECIALISTS, "--only", NEGATIVE, TOO_LARGE),
    *_each(SPECIALISTS, "--parallel", ("0", "greater than"), TOO_LARGE),
    *_each(SPECIALISTS, "--soft", *NOT_FINITE, NEGATIVE, TOO_LARGE),
    *_each(SPECIALISTS, "--temperature", *NOT_FINITE, ("0", "greater than")),
    *_each(LABEL, "--views", *NOT_A_NUMBER, ("0", "greater than"), ("2.5", "whole number"), TOO_LARGE),
    *_each(LABEL, "--batch-size", ("0", "greater than"), TOO_LARGE),
    *_each(LABEL, "--mixup", *NOT_FINITE, NEGATIVE, ("1e9", "less than or equal to")),
    *_each(LABEL, "--seed", NEGATIVE, TOO_LARGE),
    *_each(LABEL, "--size", ("0", "greater than"), ("100000", "less than or equal to")),
    *_each(LABEL, "--fraction", ("nan", "finite"), ("0", "greater than 0")),
    *_each("predict <run> <photo>", "--top", ("0", "at least 1"), ("-3", "at least 1")),
    *_checked_by_verb("evaluate <run> digits", "size", "0", "-1", "100000", says="from 1 to 4,096"),
    *_checked_by_verb("probe <run> digits", "size", "0", "100000", HUGE, says="from 1 to 4,096"),
    *_checked_by_verb("export <run> --data digits", "size", "0", "100000", says="from 1 to 4,096"),
    *_checked_by_verb("evaluate <run> digits", "size", "x", "2.5", "''", says="whole number"),
    *_checked_by_verb("predict <run> <photo>", "top", "x", "2.5", "1e1", says="whole number"),
    *_checked_by_verb("export <run> --format int8", "calibrate", "0", "-5", "2.5", "x", says="whole number"),
    *_checked_by_verb("export <run> --format int8", "tolerance", "nan", "inf", "-1", "101", says="from 0 to 100"),
    *_checked_by_verb("reproduce crd-cifar100 --quick", "epochs", "0", "-1", HUGE, says="from 1 to 1,000,000"),
    *_checked_by_verb("reproduce crd-cifar100 --quick", "seeds", "0", "1001", says="from 1 to 1,000"),
    *_checked_by_verb("reproduce crd-cifar100 --quick", "epochs", "nan", "2.5", "''", says="whole number"),
    *_checked_by_verb("speech prepare <photos>", "states", "0", "-1", "2.5", "x", HUGE, says="whole number"),
    *_checked_by_verb("speech prepare <photos>", "mixtures", "0", "1.5", HUGE, says="whole number"),
    *_checked_by_verb("speech prepare <photos>", "seed", "-1", "0.5", HUGE, says="whole number"),
    *_each("speech train <photos>", "--lr", *NOT_FINITE),
    *_each("speech distill <photos> --teacher <run>", "--temperature", *NOT_FINITE),
)

TEXTS_WITH_NUMBERS: Table = (
    *(
        (f"{TRAIN} --class-bias {value}", says)
        for value, says in (
            ("3", "CLASS=NUMBER"), ("3=", "CLASS=NUMBER"), ("=3", "CLASS=NUMBER"), ("3=x", "CLASS=NUMBER"),
            ("3=nan", "finite"), ("3=inf", "finite"), ("3=1e30", "at most"), ("''", "CLASS=NUMBER"),
            ("33=1", "no class '33'"), ("3=1 3=2", "twice"),
        )
    ),
    *(
        (f"{TRAIN} --class-priors {value}", says)
        for value, says in (
            ("flat", "CLASS=NUMBER"), ("3=nan", "finite"), ("3=-1", "prior"), ("3=2", "prior"), ("uniform 3=0.1", "."),
        )
    ),
    ("evaluate <run> digits --class-bias 3", "CLASS=NUMBER"),
    ("evaluate <run> digits --class-bias 3=nan", "finite"),
    ("evaluate <run> digits --class-bias 12=1", "no class '12'"),
)  # fmt: skip
