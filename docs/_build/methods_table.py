"""The table of docs/methods/README.md, from the registry of objectives and their pages.

`python docs/_build/methods_table.py` writes it; a test fails if it is not up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from understudy.objectives import OBJECTIVES, BuildContext
from understudy.signals import Shapes

METHODS = Path(__file__).parents[1] / "methods"
INDEX = METHODS / "README.md"
START, END = "<!-- table: docs/_build/methods_table.py -->\n", "<!-- end of the table -->\n"
# what most of them were measured on; the pages name it in these words
MEASURED = "ResNet-8 distilled from WRN-16-2 on 20 classes of Tiny-ImageNet at 32x32, 12 epochs"


def with_table(text: str) -> str:
    """The index of the methods, its table made anew."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{table()}\n{END}{rest.partition(END)[2]}"


def table() -> str:
    rows = [f"| {' | '.join(row(name))} |" for name in OBJECTIVES]
    return "\n".join(["| method | minimizes | reads | use it | measured |", "|---|---|---|---|---:|", *rows, ""])


def row(name: str) -> tuple[str, ...]:
    page = page_of(name)
    if page is None:
        return f"`{name}`", OBJECTIVES[name].summary, "labels", "Beside all others.", ""
    text = page.read_text(encoding="utf-8")
    return f"[{name}]({page.name})", OBJECTIVES[name].summary, reads(name), use(text), measured(name, text)


def page_of(name: str) -> Path | None:
    """Forms of one method share a page, as cc and cc-kernel do. The cross-entropy has none."""
    page = METHODS / f"{name.partition('-')[0]}.md"
    return page if page.exists() else None


def reads(name: str) -> str:
    """What an objective reads of the teacher, and whether it needs labels."""
    maps = {f"stage{i}": (8 * i, 16 >> i, 16 >> i) for i in (1, 2, 3)}
    shapes = Shapes(5, 24, maps, maps=(24, 2, 2))
    samples = torch.arange(20)
    context = BuildContext(shapes, shapes, samples, samples % 5, (torch.eye(5, 24), torch.zeros(5)))
    objective = OBJECTIVES[name].from_shapes(context)
    layers = objective.needs.teacher - {"logits", "embedding"}
    words = [word for word in ("logits", "embedding") if word in objective.needs.teacher]
    return ", ".join([*words, *(["layers"] if layers else []), *(["labels"] if objective.needs.targets else [])])


def use(text: str) -> str:
    """The first sentence on when to use a method."""
    found = re.search(r"(?:\*\*Use it\*\*|\*\*When to use it\.\*\*|## When to use it\n)\s*(.*?[.:])\s", text, re.DOTALL)
    assert found, f"a page does not say when to use the method: {text[:40]}"
    said = " ".join(found[1].split())
    return said[0].upper() + said[1:-1] + "."


def measured(name: str, text: str) -> str:
    """The accuracy in % on what most were measured on; in italics that of another form, which the page describes."""
    found = re.search(r"^Measured([^:]*): (.*?)%", " ".join(text[text.rfind("\nMeasured") + 1 :].split()))
    if not found or not found[2].startswith(MEASURED):
        return ""
    of_form = re.match(r" of `(.*?)`", found[1])
    if of_form and of_form[1] != name:
        return ""
    accuracy = found[2].rpartition(": ")[2].removeprefix("versus ")
    return f"*{accuracy}*" if found[1] else accuracy


if __name__ == "__main__":
    INDEX.write_text(with_table(INDEX.read_text(encoding="utf-8")), encoding="utf-8")
