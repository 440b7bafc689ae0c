"""The results of an evaluation as typed, immutable values, from which alone `reporting` makes its pages and tables."""

from understudy.evaluation.facts.base import Facts, Matrix
from understudy.evaluation.facts.benchmark import BenchmarkFacts, ThreadsFacts
from understudy.evaluation.facts.compression import (
    CandidateFacts,
    CompressionFacts,
    ExportFacts,
    FileFacts,
    GivenFacts,
    OriginalFacts,
    ScalingForecast,
)
from understudy.evaluation.facts.index import IndexEntry, IndexFacts
from understudy.evaluation.facts.neighbors import Neighbor, NeighborFacts, Query
from understudy.evaluation.facts.panel import Coverage, PanelFacts
from understudy.evaluation.facts.probe import Probe, ProbedSet, ProbeFacts
from understudy.evaluation.facts.representation import Nearest, RepresentationFacts, Space
from understudy.evaluation.facts.run import (
    ClassPair,
    Confidence,
    Confusions,
    CorrelationMap,
    Curve,
    Data,
    Metric,
    Mistake,
    Picture,
    Role,
    Row,
    RunFacts,
    Seed,
)
from understudy.evaluation.facts.speech import Example, SpeechFacts, SpeechRow
from understudy.evaluation.facts.transfer import FewShotFacts, ShotResult, SuiteFacts, TaskResult

# by the verb that makes a collection of runs
COLLECTION_FACTS: dict[str, type[Facts]] = {
    "transfer": FewShotFacts, "suite": SuiteFacts, "compress": CompressionFacts, "specialists": PanelFacts
}  # fmt: skip

__all__ = [
    "COLLECTION_FACTS", "BenchmarkFacts", "CandidateFacts", "ClassPair", "CompressionFacts", "Confidence",
    "Confusions", "CorrelationMap", "Coverage", "Curve", "Data", "Example", "ExportFacts", "Facts", "FewShotFacts",
    "FileFacts", "GivenFacts", "IndexEntry", "IndexFacts", "Matrix", "Metric", "Mistake", "Nearest", "Neighbor",
    "NeighborFacts", "OriginalFacts", "PanelFacts", "Picture", "Probe", "ProbeFacts", "ProbedSet", "Query",
    "RepresentationFacts", "Role", "Row", "RunFacts", "ScalingForecast", "Seed", "ShotResult", "Space",
    "SpeechFacts", "SpeechRow", "SuiteFacts", "TaskResult", "ThreadsFacts",
]  # fmt: skip
