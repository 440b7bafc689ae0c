"""From a run's facts to a page and a table: what was gained, what it costs, how to make it again."""

from understudy.reporting.facts import RunFacts
from understudy.reporting.page import render
from understudy.reporting.table import results_table

__all__ = ["RunFacts", "render", "results_table"]
