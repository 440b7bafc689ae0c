"""What the recipe of one specialist means: its samples, its network, its objective."""

from __future__ import annotations

from pathlib import Path

from understudy.contracts import tell
from understudy.data import Source
from understudy.data.drawing import HalfAndHalf, dustbin_of, narrowed
from understudy.errors import UnderstudyError, nearest
from understudy.models import InputContract, Network, load_network, narrow
from understudy.objectives import Objective, RestTargets, WeightedSum
from understudy.recipe import SpecialistRecipe


def samples(recipe: SpecialistRecipe, source: Source) -> Source:
    """A source as the specialist is to see it: all but its classes in the dustbin, unless it keeps them apart.

    Raises:
        UnderstudyError: no labels, or a group that is not of the source's classes.
    """
    if source.targets is None:
        raise UnderstudyError(f"{source.name} has no labels; a specialist needs them to learn its classes")
    for name in recipe.group:
        if name not in source.classes:
            raise UnderstudyError(f"{source.name} has no class {name!r}{nearest(name, source.classes)}")
    if not 0 < len(set(recipe.group)) == len(recipe.group) < len(source.classes):
        raise UnderstudyError(
            f"a group has different classes, and fewer than the {len(source.classes)} of {source.name}; it names "
            f"{len(recipe.group)}"
        )
    return source if recipe.soft else narrowed(source, recipe.group)


def draw(recipe: SpecialistRecipe, source: Source) -> HalfAndHalf:
    """Which of these samples each epoch shows."""
    return HalfAndHalf.of(source, recipe.group, recipe.seed)


def network(recipe: SpecialistRecipe, contract: InputContract) -> Network:
    """What a specialist begins with: the generalist, its head narrowed unless it keeps all classes apart.

    Raises:
        UnderstudyError: the generalist does not know the data's classes.
    """
    path = Path(recipe.model)
    if recipe.soft:
        begun = load_network(path)
        begun.began = f"began from {path}, with its head of {len(begun.classes)} classes"
        if begun.classes != contract.classes:
            raise UnderstudyError(f"{path} does not know the data's classes; give the generalist of this data")
    else:
        begun = narrow(path, recipe.group, contract.classes[-1])
    tell(begun, recipe.model, contract.modality)
    return begun


def objective(recipe: SpecialistRecipe, classes: tuple[str, ...], hard: Objective) -> Objective:
    """The labels, and beside them the generalist's soft targets for the classes outside of the group."""
    if not recipe.soft:
        return hard
    special = [classes.index(name) for name in recipe.group]
    rest = RestTargets(special, len(classes), recipe.temperature)
    return WeightedSum({"hard": (1.0, hard), "rest": (recipe.soft, rest)})


def correction(
    recipe_group: tuple[str, ...], classes: tuple[str, ...], raised: float, *, soft: bool
) -> tuple[str, ...]:
    """The class biases that undo the over-sampling, as a recipe writes them.

    Args:
        raised: what the logits of all that is not in the group are raised by.
    """
    lacking = [name for name in classes if name not in recipe_group] if soft else [dustbin_of(classes)]
    return tuple(f"{name}={raised:+.12g}" for name in lacking)
