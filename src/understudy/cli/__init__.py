"""The command line: one file a verb, of the same name."""

from understudy.cli.app import main

__all__ = ["main"]
