"""Teachers: frozen, folded networks, alone or as an ensemble."""

from understudy.teachers.frozen import Ensemble, Teacher, adopt_classes, check_classes, combine, match_classes

__all__ = ["Ensemble", "Teacher", "adopt_classes", "check_classes", "combine", "match_classes"]
