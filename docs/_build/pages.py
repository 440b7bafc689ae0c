"""The sources of the documentation site in build/: the pages of docs/, those of the repository's root, and the reference.

`make docs` runs it, and then the builder on build/mkdocs.yml.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
# files of the repository's root -> their places in the site
OUTSIDE = {
    "README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md", "CITATION.cff": "CITATION.cff", "LICENSE": "LICENSE",
}  # fmt: skip
# pages of the reference -> their titles, and the module of which each shows the public names
REFERENCE = {
    "README.md": ("The commands in Python", "understudy"),
    "options.md": ("Options", "understudy.config.keywords"),
    "runs.md": ("Runs", "understudy.runs"),
    "objectives.md": ("Objectives", "understudy.objectives"),
    "models.md": ("Models", "understudy.models"),
    "data.md": ("Data", "understudy.data"),
    "signals.md": ("Signals", "understudy.signals"),
    "teachers.md": ("Teachers", "understudy.teachers"),
    "training.md": ("Training", "understudy.training"),
    "evaluation.md": ("Evaluation", "understudy.evaluation"),
    "facts.md": ("Facts", "understudy.evaluation.facts"),
    "exporters.md": ("Exporters", "understudy.exporters"),
    "config.md": ("Rules", "understudy.config"),
}
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def write_site(build: Path) -> None:
    """Write mkdocs.yml and docs/ into a folder."""
    pages, files = dict(texts()), dict(others())
    shutil.rmtree(build / "docs", ignore_errors=True)
    places = {source: place for place, (source, _) in pages.items()} | {
        source: place for place, source in files.items()
    }
    for place, (source, text) in pages.items():
        write(build / "docs" / place, relinked(text, source, place, places))
    for place, source in files.items():
        (build / "docs" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, build / "docs" / place)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config["nav"] = list(expanded(config["nav"], list(pages)))
    write(build / "mkdocs.yml", yaml.safe_dump(config, sort_keys=False))


def texts() -> Iterator[tuple[str, tuple[str, str]]]:
    """Of each page its place in the site, its file in the repository, and its text."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        source = path.relative_to(ROOT).as_posix()
        yield source.removeprefix("docs/"), (source, path.read_text(encoding="utf-8"))
    for source, place in OUTSIDE.items():
        if place.endswith(".md"):
            yield place, (source, (ROOT / source).read_text(encoding="utf-8"))
    examples = "examples/README.md"
    yield examples, (examples, (ROOT / examples).read_text(encoding="utf-8"))
    for name, (title, module) in REFERENCE.items():
        yield f"api/{name}", (f"docs/api/{name}", reference(title, import_module(module)))


def others() -> Iterator[tuple[str, str]]:
    """Of each other file its place in the site, and its path in the repository."""
    for path in sorted((ROOT / "docs").rglob("*.*")):
        if path.is_file() and path.suffix not in (".md", ".py", ".pyc"):
            yield path.relative_to(ROOT / "docs").as_posix(), path.relative_to(ROOT).as_posix()
    for source, place in OUTSIDE.items():
        if not place.endswith(".md"):
            yield place, source
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        yield f"examples/{path.name}", f"examples/{path.name}"


def relinked(text: str, source: str, place: str, places: dict[str, str]) -> str:
    """A page whose links to files of the repository lead to where the site has them; others stay as they are.

    >>> relinked("[a](docs/x.md#b) [c](http://d)", "README.md", "index.md", {"docs/x.md": "x.md"})
    '[a](x.md#b) [c](http://d)'
    """

    def moved(link: re.Match[str]) -> str:
        target = places.get(posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1])))
        return posixpath.relpath(target, posixpath.dirname(place)) if target else link[1]

    return LINK.sub(moved, text)


def reference(title: str, module: ModuleType) -> str:
    """The page of a module's public functions and classes, functions first, by where they are defined."""
    names = getattr(module, "__all__", None) or [
        name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__
    ]
    public = [one for name in names if name[0] != "_" and callable(one := getattr(module, name)) and one.__doc__]
    public.sort(key=lambda one: isinstance(one, type))
    parts = [f"# {title}", f"`{module.__name__}`: {(module.__doc__ or '').strip()}"]
    return "\n\n".join([*parts, *(f"::: {one.__module__}.{one.__qualname__}" for one in public), ""])


def expanded(nav: list[Any], pages: list[str]) -> Iterator[Any]:
    """The navigation with the pages of a folder in place of the folder, its index first.

    >>> list(expanded([{"A": ["x.md", "b/"]}], ["b/1.md", "b/README.md", "x.md"]))
    [{'A': ['x.md', 'b/README.md', 'b/1.md']}]
    """
    for entry in nav:
        if isinstance(entry, dict):
            ((title, place),) = entry.items()
            yield {title: list(expanded(place, pages)) if isinstance(place, list) else place}
        elif entry.endswith("/"):
            yield from sorted((page for page in pages if page.startswith(entry)), key=lambda page: "README" not in page)
        else:
            yield entry


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_site(ROOT / "build")
