"""Who teaches: networks frozen and folded, alone, as an ensemble, or as a generalist with its specialists."""

from understudy.teachers.frozen import Ensemble, Teacher, check_classes
from understudy.teachers.panel import SpecialistPanel

__all__ = ["Ensemble", "SpecialistPanel", "Teacher", "check_classes"]
