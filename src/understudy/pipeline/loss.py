"""From a recipe's methods to losses: `crd+kd`, or `dkd:weight=0.8,warmup=20,beta=2` for each term of a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from understudy.config.recipe import DistillRecipe
from understudy.config.text_options import check_options, hints_of, parse_options
from understudy.errors import UnderstudyError, nearest
from understudy.objectives import OBJECTIVES, BuildContext, Objective, PerTeacher, WeightedSum
from understudy.objectives.base import LOGITS, check_number
from understudy.randomness import name_key, seed_of

_LABELS = {"ce", "bce"}
_OF_TERMS = ("weight", "warmup")  # options that every term takes
_SOFT = {"kd", "logits"}  # with one of these alone, its weight and that of the labels add up to 1 (Hinton et al. 2015)


@dataclass(frozen=True)
class Term:
    """One objective of a weighted sum.

    Attributes:
        name: its key in `OBJECTIVES`.
        weight: the objective's own where None.
        options: arguments of its constructor.
        warmup: epochs over which the weight rises; the objective's own where None.
    """

    name: str
    weight: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    warmup: float | None = None

    @property
    def reads_logits_alone(self) -> bool:
        """Whether it can be built without knowing the networks' layers."""
        return self.name in _LABELS or OBJECTIVES[self.name].needs.teacher == LOGITS

    @property
    def needs_classes(self) -> bool:
        """Whether it reads the teacher's logits, so that the teacher must predict the student's classes."""
        return "logits" in OBJECTIVES[self.name].needs.teacher

    @property
    def trains_classes(self) -> bool:
        """Whether the student is to have a classifier for it."""
        return self.name in _LABELS or OBJECTIVES[self.name].labels_beside


def parse_term(text: str) -> Term:
    """A term from text; values are read as YAML scalars.

    Raises:
        UnderstudyError: an unknown name, or an option that the objective does not take.

    >>> parse_term("crd:weight=0.8,negatives=16384")
    Term(name='crd', weight=0.8, options={'negatives': 16384}, warmup=None)
    """
    name, _, listed = text.partition(":")
    if name not in OBJECTIVES:
        raise UnderstudyError(f"there is no method {name!r}{nearest(name, OBJECTIVES)}")
    options = parse_options(listed, ",", text)
    known = _options_of(OBJECTIVES[name])
    if known is not None:
        check_options(options, dict.fromkeys(_OF_TERMS, float) | known, name)
    weight, warmup = (_number_of(options, option, name) for option in _OF_TERMS)
    return Term(name, weight, options, warmup)


def _number_of(options: dict[str, Any], option: str, name: str) -> float | None:
    """Take an option of a term from the listed ones; None where it is not among them."""
    value = options.pop(option, None)
    if value is not None:
        try:
            check_number(option, value)
        except (TypeError, ValueError) as error:
            raise UnderstudyError(f"{name}: {error}") from None
    return value


def methods_of(recipe: DistillRecipe) -> dict[str, tuple[Term, ...]]:
    """The weighted terms of each method of a recipe, by its label, with the term of the labels."""
    if recipe.objective:
        terms = [parse_term(text) for text in recipe.objective]
        return {"+".join(term.name for term in terms): _weighted(terms, recipe)}
    return {label: _weighted([parse_term(name) for name in label.split("+")], recipe) for label in recipe.method}


def _weighted(terms: Sequence[Term], recipe: DistillRecipe) -> tuple[Term, ...]:
    """The terms with the recipe's options and with their weights, and cross-entropy where no term reads the labels.

    Representations are learned without labels unless `hard_weight` says otherwise. The weights of soft targets alone
    and of the labels add up to 1 (Hinton et al. 2015); in other sums every term has its paper's weight. The labels'
    weight is the one that a method's authors give them, and 1 beside several.
    """
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise UnderstudyError(f"{'+'.join(names)} names an objective twice; name it once, with a weight")
    soft = len(terms) == 1 and terms[0].name in _SOFT
    hard = recipe.hard_weight
    if hard is None:
        hard = OBJECTIVES[terms[0].name].label_weight(terms[0].options) if len(terms) == 1 else 1.0
    if soft and hard > 1:
        raise UnderstudyError(f"hard_weight is {hard:g}; with soft targets alone it must be at most 1")
    shared = {
        "kd": {"temperature": recipe.temperature, "mean": recipe.mean},
        "dkd": {"temperature": recipe.temperature},
    }
    full = []
    for term in terms:
        weight = term.weight
        if weight is None:
            weight = 1 - hard if soft else OBJECTIVES[term.name].weight
        full.append(replace(term, weight=weight, options=shared.get(term.name, {}) | dict(term.options)))
    beside = recipe.hard_weight is not None or any(OBJECTIVES[name].labels_beside for name in names)
    return (*full, Term("ce", hard)) if beside and not _LABELS & set(names) else tuple(full)


def compose(terms: Sequence[Term], contexts: Sequence[BuildContext], seed: int) -> WeightedSum:
    """The weighted sum of some terms, built for the shapes of one student and its teachers.

    Args:
        contexts: one for each teacher.
        seed: for the initial weights of projectors and banks, which do not depend on the other terms.

    Raises:
        UnderstudyError: a term that does not fit the networks or the data.
    """
    built = {}
    for term in terms:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, name_key(term.name)))
            try:
                objective = _built(term, contexts)
            except (ValueError, TypeError) as error:
                raise UnderstudyError(f"{term.name}: {error}") from error
        built[term.name] = (OBJECTIVES[term.name].weight if term.weight is None else term.weight, objective)
    return WeightedSum(built, {term.name: term.warmup for term in terms if term.warmup is not None})


def trains_head(objective: Objective, *, labeled: bool) -> bool:
    """Whether a sum has a term with a weight that reads the student's logits, and the labels only if there are any."""
    assert isinstance(objective, WeightedSum)
    terms = [term for name, term in objective.terms.items() if objective.weights[name]]
    needs = [term.needs for term in terms if isinstance(term, Objective)]
    if any(isinstance(term, Objective) and term.reuses_classifier for term in terms):
        return True  # it is the teacher's
    return any("logits" in need.student and (labeled or not need.targets) for need in needs)


def _built(term: Term, contexts: Sequence[BuildContext]) -> Objective:
    objective = OBJECTIVES[term.name]
    first = objective.from_shapes(contexts[0], **term.options)
    if len(contexts) == 1 or first.needs.teacher <= LOGITS:
        return first  # it averages the logits of an ensemble itself
    return PerTeacher([first, *(objective.from_shapes(context, **term.options) for context in contexts[1:])])


def _options_of(objective: type[Objective]) -> dict[str, Any] | None:
    """The options of an objective's constructor and `from_shapes`; None where it passes them on to another."""
    if objective.__name__ == "LogitStandardization":
        return None
    return hints_of(objective.__init__) | hints_of(objective.from_shapes)
