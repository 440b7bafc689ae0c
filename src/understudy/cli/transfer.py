"""`understudy transfer`."""

from understudy.cli.training import training_command

transfer = training_command("transfer")
