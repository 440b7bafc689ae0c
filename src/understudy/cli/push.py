"""`understudy push`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from understudy.terminal import Terminal


def push(
    target: str,
    repository: str,
    /,
    *,
    network: str | None = None,
    out: str | None = None,
    private: Annotated[bool, Parameter(negative=())] = False,
    license: str | None = None,
) -> None:
    """Put a network on the Hugging Face Hub in timm's layout, so that timm loads it by name.

    Parameters
    ----------
    target
        A run folder or a weights file of a timm: model.
    repository
        USER/NAME on the Hub; made if there is none.
    network
        Which of the run's networks, as in distilled-crd-1; default: the one that predict uses.
    out
        Write this folder, and upload nothing.
    private
        Make a new repository private.
    license
        License of the model, for its card, as in apache-2.0.
    """
    from understudy.verbs.push import push as verb

    done = verb(target, repository, network=network, out=out, private=private, license=license)
    Terminal().say(f"{'written: ' if done.path else 'uploaded: '}{done.path or done.url}")
    Terminal().say(f'timm.create_model("{done.name}", pretrained=True)')
