"""`understudy pretrain`."""

from understudy.cli.training import training_command

pretrain = training_command("pretrain")
