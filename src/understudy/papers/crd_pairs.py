"""The pairs of networks of tables 1 and 2 of Tian, Krishnan and Isola (2020), with the published accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.errors import UnderstudyError, nearest

_ALIKE = (  # teacher and student of the same family
    "wrn_40_2:wrn_16_2", "wrn_40_2:wrn_40_1", "resnet56:resnet20", "resnet110:resnet20", "resnet110:resnet32",
    "resnet32x4:resnet8x4", "vgg13:vgg8",
)  # fmt: skip
_UNLIKE = (
    "vgg13:mobilenetv2", "resnet50:mobilenetv2", "resnet50:vgg8", "resnet32x4:shufflenetv1",
    "resnet32x4:shufflenetv2", "wrn_40_2:shufflenetv1",
)  # fmt: skip
_TOP1: Mapping[str, tuple[tuple[float | None, ...], tuple[float | None, ...]]] = {  # in %, in the order of the pairs
    "teacher": ((75.61, 75.61, 72.34, 74.31, 74.31, 79.42, 74.64), (74.64, 79.34, 79.34, 79.42, 79.42, 75.61)),
    "alone": ((73.26, 71.98, 69.06, 69.06, 71.14, 72.50, 70.36), (64.60, 64.60, 70.36, 70.50, 71.82, 70.50)),
    "kd": ((74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98), (67.37, 67.35, 73.81, 74.07, 74.45, 74.83)),
    "fitnet": ((73.58, 72.24, 69.21, 68.99, 71.06, 73.50, 71.02), (64.14, 63.16, 70.69, 73.59, 73.54, 73.73)),
    "at": ((74.08, 72.77, 70.55, 70.22, 72.31, 73.44, 71.43), (59.40, 58.58, 71.84, 71.73, 72.73, 73.32)),
    "sp": ((73.83, 72.43, 69.67, 70.04, 72.69, 72.94, 72.68), (66.30, 68.08, 73.34, 73.48, 74.56, 74.52)),
    "cc": ((73.56, 72.21, 69.63, 69.48, 71.48, 72.97, 70.71), (64.86, 65.43, 70.25, 71.14, 71.29, 71.38)),
    "vid": ((74.11, 73.30, 70.38, 70.16, 72.61, 73.09, 71.23), (65.56, 67.57, 70.30, 73.38, 73.40, 73.61)),
    "rkd": ((73.35, 72.22, 69.61, 69.25, 71.82, 71.90, 71.48), (64.52, 64.43, 71.50, 72.28, 73.21, 72.21)),
    "pkt": ((74.54, 73.45, 70.34, 70.25, 72.61, 73.64, 72.88), (67.13, 66.52, 73.01, 74.10, 74.69, 73.89)),
    "ab": ((72.50, 72.38, 69.47, 69.53, 70.98, 73.17, 70.94), (66.06, 67.20, 70.65, 73.55, 74.31, 73.34)),
    "ft": ((73.25, 71.59, 69.84, 70.22, 72.37, 72.86, 70.58), (61.78, 60.99, 70.29, 71.75, 72.50, 72.03)),
    "fsp": ((72.91, None, 69.95, 70.11, 71.89, 72.62, 70.23), (None,) * 6),
    "nst": ((73.68, 72.24, 69.60, 69.53, 71.96, 73.30, 71.53), (58.16, 64.96, 71.28, 74.12, 74.68, 74.89)),
    "crd": ((75.48, 74.14, 71.16, 71.46, 73.48, 75.51, 73.94), (69.73, 69.11, 74.30, 75.11, 75.65, 76.05)),
    "crd+kd": ((75.64, 74.38, 71.63, 71.56, 73.75, 75.46, 74.29), (69.94, 69.54, 74.58, 75.12, 76.05, 76.27)),
    # of Zhao et al. (2022), who leave out two pairs
    "dkd": ((76.23, 74.81, 71.97, None, 74.11, 76.32, 74.68), (69.71, 70.35, None, 76.45, 77.07, 76.70)),
}
_BETA = {
    "wrn_40_2:wrn_16_2": 6.0, "wrn_40_2:wrn_40_1": 6.0, "vgg13:vgg8": 6.0, "vgg13:mobilenetv2": 6.0,
    "resnet56:resnet20": 2.0, "resnet110:resnet20": 2.0, "resnet110:resnet32": 2.0,
}  # fmt: skip
_OTHERS = ("kd", "fitnet", "at", "crd", "crd+kd", "dkd")  # of pairs that no paper has


@dataclass(frozen=True)
class Pair:
    """A teacher and a student of the cifar family.

    Attributes:
        paper: published top-1 accuracy in percent, by method, and of `teacher` and `alone`; means of five runs.
        beta: of DKD, as Zhao et al. (2022) choose it by the pair.
    """

    teacher: str
    student: str
    paper: Mapping[str, float] = field(default_factory=dict)
    beta: float = 8.0

    @property
    def name(self) -> str:
        return f"{self.teacher}:{self.student}"

    @property
    def folder(self) -> str:
        return f"{self.teacher}-{self.student}"

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods with a published accuracy; a few for a pair without."""
        return tuple(name for name in self.paper if name not in ("teacher", "alone")) or _OTHERS

    def options(self, method: str) -> str:
        """A method with the options that depend on the pair.

        >>> find_pair("vgg13:vgg8").options("dkd"), find_pair("vgg13:vgg8").options("crd")
        ('dkd:beta=6', 'crd')
        """
        return f"dkd:beta={self.beta:g}" if method == "dkd" else method


def _pairs() -> dict[str, Pair]:
    found = {}
    for part, names in enumerate((_ALIKE, _UNLIKE)):
        for place, name in enumerate(names):
            figures = {method: table[part][place] for method, table in _TOP1.items()}
            known = {method: figure for method, figure in figures.items() if figure is not None}
            teacher, _, student = name.partition(":")
            found[name] = Pair(teacher, student, known, _BETA.get(name, 8.0))
    return found


PAIRS = _pairs()


def find_pair(text: str) -> Pair:
    """Look up a pair, TEACHER:STUDENT, or make one of any two nets of the cifar family.

    Example:
        >>> find_pair("vgg13:vgg8").paper["crd"], find_pair("vgg13:resnet20").paper
        (73.94, {})
    """
    from understudy.models.cifar import NETS

    if text in PAIRS:
        return PAIRS[text]
    teacher, colon, student = text.partition(":")
    if not colon:
        raise UnderstudyError(f"pair {text!r} is not TEACHER:STUDENT, as in wrn_40_2:wrn_16_2")
    for name in (teacher, student):
        if name not in NETS:
            raise UnderstudyError(f"the cifar family has no net {name!r}{nearest(name, NETS)}")
    return Pair(teacher, student)
