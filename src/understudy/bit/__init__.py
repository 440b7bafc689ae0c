"""Big Transfer (Kolesnikov et al. 2020): one rule from the data to a recipe."""

from understudy.bit.hyperrule import HyperRule, hyperrule

__all__ = ["HyperRule", "hyperrule"]
