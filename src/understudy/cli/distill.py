"""`understudy distill`."""

from understudy.cli.training import training_command

distill = training_command("distill")
