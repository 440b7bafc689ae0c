"""Big Transfer (Kolesnikov et al. 2020): from the data to a recipe, to pre-train with and to transfer with."""

from understudy.bit.hyperrule import HyperRule, hyperrule
from understudy.bit.upstream import Upstream, upstream

__all__ = ["HyperRule", "Upstream", "hyperrule", "upstream"]
