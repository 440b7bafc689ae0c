"""Prints pip constraints that pin each dependency to the oldest version that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def oldest_versions(pyproject: Path) -> list[str]:
    """A constraint for each requirement of the form `name>=version`, in the groups that a user installs.

    >>> oldest_versions(Path("pyproject.toml"))[0].startswith("torch==")
    True
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][name] for name in ("export", "speech"))]
    found = [re.fullmatch(r"([\w-]+)>=([\w.]+)", text) for group in groups for text in group]
    assert all(found), "each requirement names its oldest version"
    return [f"{match[1]}=={match[2]}" for match in found if match]


if __name__ == "__main__":
    print("\n".join(oldest_versions(Path(__file__).parents[1] / "pyproject.toml")))
