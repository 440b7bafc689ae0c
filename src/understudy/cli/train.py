"""`understudy train`."""

from understudy.cli.training import training_command

train = training_command("train")
