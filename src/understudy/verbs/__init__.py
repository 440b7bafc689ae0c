"""What a user asks for, in Python; the command line has the same verbs, names and defaults.

A verb that trains is a module with three functions: `VERB(data, ..., **options)`, which users call; `plan(config)`, the
recipes that it would run; and `start(config)`, which runs them. `verbs.registry` lists the modules.
"""
