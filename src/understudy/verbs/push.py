"""`push`: a network on the Hugging Face Hub, in timm's layout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from understudy.errors import UnderstudyError
from understudy.exporters import ModelCardInfo
from understudy.exporters.timm_layout import timm_files
from understudy.files import new_folder, path_of, write_whole
from understudy.runs.run import Run
from understudy.verbs.export import facts_of, hub_name, trained_network, weights_file


@dataclass(frozen=True)
class Pushed:
    """Where a network went.

    Attributes:
        url: of the repository; empty if only `path` was written.
        path: the folder that was written instead of uploading.
        name: what timm is given, as in "hf-hub:user/name".
    """

    name: str
    url: str = ""
    path: Path | None = None


def push(
    target: str | Path,
    repository: str,
    *,
    network: str | None = None,
    out: str | Path | None = None,
    private: bool = False,
    license: str | None = None,
) -> Pushed:
    """Upload a network so that `timm.create_model("hf-hub:USER/NAME", pretrained=True)` makes it.

    The repository gets `config.json`, `model.safetensors` and a card. Before that the model is made by timm, and its
    answers are compared.

    Args:
        target: a run folder, or a weights file.
        repository: USER/NAME; made if there is none.
        network: which of the run's, as "distilled-1"; default: the one that `predict` uses.
        out: a folder to write instead; nothing is uploaded, and timm loads it as "local-dir:FOLDER".
        private: whether a new repository is private.
        license: of the model, as Hugging Face names it.

    Raises:
        UnderstudyError: the network is not timm's, or the upload fails, as without a token.
    """
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repository):
        raise UnderstudyError(f"{repository!r} is no repository of the Hub; write USER/NAME")
    folder = None if out is None else new_folder(out, "the --out folder")
    target = path_of(target, "the run folder or weights file")
    file = weights_file(target, network)
    run = Run(target) if target.is_dir() else None
    net = trained_network(file, run, trust_code=False)
    facts, data = facts_of(run), "" if run is None else run.recipe.data
    info = ModelCardInfo(
        repository.partition("/")[2], net.spec, data or "data of its own", hub_name(data), 0, 0, facts, license,
        distilled=file.stem.startswith("distilled"),
    )  # fmt: skip
    files = timm_files(net, info, repository)
    if folder is not None:
        _write(files, folder)
        return Pushed(f"local-dir:{folder}", path=folder)
    with TemporaryDirectory() as temporary:
        _write(files, Path(temporary))
        return Pushed(f"hf-hub:{repository}", url=_upload(Path(temporary), repository, private))


def _write(files: dict[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        write_whole(folder / name, data)


def _upload(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder. Returns the address."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model by Understudy")
    except Exception as error:  # of the network, of the token, of the Hub: of many types
        raise UnderstudyError(
            f"{repository} could not be uploaded ({type(error).__name__}); log in with: hf auth login, or write a "
            "folder with --out"
        ) from error
    return str(url)
