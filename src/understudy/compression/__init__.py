"""A backbone, a budget and limits in; a teacher that is never worse, a race of students, and what to hand over out."""
