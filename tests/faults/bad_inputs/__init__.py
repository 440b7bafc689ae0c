"""Tables of bad inputs: what is typed, and what the one sentence says of it, a regular expression.

`<name>` in a command line stands for one of the inputs of `test_bad_inputs.py`, as `<run>` for a trained run.
"""

from __future__ import annotations

Table = tuple[tuple[str, str], ...]
