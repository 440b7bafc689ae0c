"""From a recipe's words to losses: `crd+kd`, or `crd:weight=0.8,negatives=16384` for each term of a sum."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import yaml

from understudy.errors import UnderstudyError, nearest
from understudy.objectives import ALIASES, OBJECTIVES, Objective, PerTeacher, Setting, WeightedSum
from understudy.objectives.base import LOGITS
from understudy.randomness import name_key, seed_of
from understudy.recipe import DistillRecipe

_LABELS = {"hard", "sigmoid"}
_SOFT = {"soft", "logits"}  # what shares the weight of 1 with the labels where it is alone, as in Hinton et al. 2015


@dataclass(frozen=True)
class Term:
    """One objective of a sum.

    Attributes:
        name: its key in `OBJECTIVES`.
        weight: None for the objective's own.
        options: of its constructor.
    """

    name: str
    weight: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads_logits_alone(self) -> bool:
        """Whether it can be made without knowing the networks' other layers."""
        return self.name in _LABELS or OBJECTIVES[self.name].needs.teacher == LOGITS


def parse_term(text: str) -> Term:
    """`"crd:weight=0.8,negatives=16384"` -> a term; values are read as YAML scalars.

    Raises:
        UnderstudyError: an unknown name, or an option that the objective does not take.
    """
    word, _, listed = text.partition(":")
    name = ALIASES.get(word, word)
    if name not in OBJECTIVES:
        raise UnderstudyError(f"there is no method {word!r}{nearest(word, {*OBJECTIVES, *ALIASES})}")
    options: dict[str, Any] = {}
    for pair in filter(None, listed.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UnderstudyError(f"option {pair!r} of {text!r} has no value; write {key}=VALUE")
        options[key] = yaml.safe_load(value)
    weight = options.pop("weight", None)
    if weight is not None and not isinstance(weight, (int, float)):
        raise UnderstudyError(f"the weight in {text!r} is not a number")
    known = _options_of(OBJECTIVES[name])
    for key in options:
        if known is not None and key not in known:
            raise UnderstudyError(f"{word} has no option {key!r}{nearest(key, {*known, 'weight'})}")
    return Term(name, weight, options)


def methods_of(recipe: DistillRecipe) -> dict[str, tuple[Term, ...]]:
    """Each method of a recipe by its label: the terms of its loss, weighted, the labels' among them."""
    if recipe.objective:
        terms = [parse_term(text) for text in recipe.objective]
        return {"+".join(term.name for term in terms): _weighted(terms, recipe)}
    return {label: _weighted([parse_term(word) for word in label.split("+")], recipe) for label in recipe.method}


def _weighted(terms: Sequence[Term], recipe: DistillRecipe) -> tuple[Term, ...]:
    """The terms with the recipe's options and with their weights, and the labels' term where none is named.

    Soft targets alone share a weight of 1 with the labels (Hinton et al. 2015); beside other terms, and with
    others alone, every term has its paper's weight and the labels have 1.
    """
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise UnderstudyError(f"{'+'.join(names)} names one objective twice; give it once, with a weight")
    soft = len(terms) == 1 and terms[0].name in _SOFT
    hard = recipe.hard_weight if recipe.hard_weight is not None else (0.1 if soft else 1.0)
    if soft and hard > 1:
        raise UnderstudyError(f"hard_weight is {hard:g}; with soft targets alone it is a share, 1 at most")
    own = {"soft": {"temperature": recipe.temperature, "mean": recipe.mean}, "dkd": {"temperature": recipe.temperature}}
    full = []
    for term in terms:
        weight = term.weight
        if weight is None:
            weight = 1 - hard if soft else OBJECTIVES[term.name].weight
        full.append(replace(term, weight=weight, options=own.get(term.name, {}) | dict(term.options)))
    return tuple(full) if _LABELS & set(names) else (*full, Term("hard", hard))


def compose(terms: Sequence[Term], settings: Sequence[Setting], seed: int) -> WeightedSum:
    """The weighted sum of some terms, fitted to one setting for each teacher.

    Args:
        seed: of the first weights of projectors and banks; they do not depend on the other terms.

    Raises:
        UnderstudyError: a term that does not fit the networks or the data.
    """
    made = {}
    for term in terms:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, name_key(term.name)))
            try:
                objective = _fitted(term, settings)
            except (ValueError, TypeError) as fault:
                raise UnderstudyError(f"{term.name}: {fault}") from fault
        made[term.name] = (OBJECTIVES[term.name].weight if term.weight is None else term.weight, objective)
    return WeightedSum(made)


def teaches_head(objective: Objective, *, labelled: bool) -> bool:
    """Whether a sum has a term of some weight that reads the student's logits and, where it needs labels, has them."""
    assert isinstance(objective, WeightedSum)
    terms = [term for name, term in objective.terms.items() if objective.weights[name]]
    needs = [term.needs for term in terms if isinstance(term, Objective)]
    return any("logits" in need.student and (labelled or not need.targets) for need in needs)


def _fitted(term: Term, settings: Sequence[Setting]) -> Objective:
    kind = OBJECTIVES[term.name]
    first = kind.suited(settings[0], **term.options)
    if len(settings) == 1 or first.needs.teacher <= LOGITS:
        return first  # an ensemble joins its members' logits itself
    return PerTeacher([first, *(kind.suited(setting, **term.options) for setting in settings[1:])])


def _options_of(kind: type[Objective]) -> set[str] | None:
    """The options that `kind.suited` takes; None where it passes any on."""
    taken: set[str] = set()
    for function in (kind.__init__, kind.suited):
        taken |= {name for name, one in inspect.signature(function).parameters.items() if one.kind != one.VAR_KEYWORD}
    return None if kind.__name__ == "LogitStandardised" else taken - {"self", "setting"}
