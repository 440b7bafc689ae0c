"""`understudy compress`."""

from understudy.cli.training import training_command

compress = training_command("compress")
