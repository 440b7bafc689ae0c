"""`understudy suite`."""

from understudy.cli.training import training_command

suite = training_command("suite")
