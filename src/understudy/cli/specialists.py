"""`understudy specialists`."""

from understudy.cli.training import training_command

specialists = training_command("specialists")
