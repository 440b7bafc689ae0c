"""What a run is: the schema of its recipe, its textual forms, and the rules that resolve one from the data."""

from understudy.config.hyperrule import HyperRule, hyperrule
from understudy.config.upstream import Upstream, upstream

__all__ = ["HyperRule", "Upstream", "hyperrule", "upstream"]
