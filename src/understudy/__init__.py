"""Train small models to stand in for big ones."""

__version__ = "0.1.0"
