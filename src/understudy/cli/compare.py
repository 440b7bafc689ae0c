"""`understudy compare`."""

from understudy.cli.training import training_command

compare = training_command("compare")
