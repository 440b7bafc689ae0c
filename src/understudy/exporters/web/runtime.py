"""ONNX Runtime Web, from its npm package: downloaded once, and used only if it is the very package known here."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from understudy.data.formats.decoded import cache_folder
from understudy.errors import UnderstudyError
from understudy.files import write_whole
from understudy.terminal import Terminal

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, as `npm view onnxruntime-web@VERSION dist.integrity` prints it."""
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
"""As `npm pack` names it."""
REGISTRY = "https://registry.npmjs.org/"

_SCRIPT = "package/dist/ort.wasm.bundle.min.mjs"
_BINARY = "package/dist/ort-wasm-simd-threaded.wasm"
_SECONDS = 30  # without an answer
_MOST = 2**26  # bytes of the package; it has half as many


@dataclass(frozen=True)
class Runtime:
    """The two files of ONNX Runtime Web that run a model on the CPU."""

    script: bytes  # an ES module
    binary: bytes  # WebAssembly


def open_runtime() -> Runtime:
    """ONNX Runtime Web; raises whatever `archive` raises."""
    return _unpacked(archive())


def archive() -> bytes:
    """The npm package, from the cache or else from the npm registry that the user has configured.

    Raises:
        UnderstudyError: It is not on this machine and cannot be downloaded, or what was found is not the package.
    """
    folder = cache_folder("npm")
    kept = None if folder is None else folder / ARCHIVE
    if kept is not None and kept.exists():
        data = _read(kept)
        check_integrity(data, INTEGRITY, str(kept), "delete it, and export again")
        return data
    url = archive_url(registry())
    Terminal(stderr=True).say(f"downloading ONNX Runtime Web {VERSION} (33 MB), once", "dim")
    try:
        data = _download(url)
    except (OSError, ValueError, HTTPException) as error:
        put = f"put {ARCHIVE}, which npm pack onnxruntime-web@{VERSION} downloads, in {folder}, or "
        raise UnderstudyError(
            f"the page needs the npm package onnxruntime-web {VERSION}, which is not on this machine and could not be "
            f"downloaded from {without_password(url)} ({type(error).__name__}); {'' if kept is None else put}leave out "
            "--format web"
        ) from None
    check_integrity(
        data, INTEGRITY, without_password(url), "set npm's registry to one that has the package as it was published"
    )
    if kept is not None:
        with suppress(UnderstudyError):  # a cache that cannot be written costs another download
            write_whole(kept, data)
    return data


def registry() -> str:
    """The npm registry that is configured, in npm's own way: the environment, then its files, if npm is installed."""
    named = next((os.environ[key] for key in ("npm_config_registry", "NPM_CONFIG_REGISTRY") if os.environ.get(key)), "")
    npm = None if named else shutil.which("npm")
    if npm is not None:
        try:
            asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, timeout=_SECONDS)
            named = asked.stdout.strip() if asked.returncode == 0 else ""
        except (OSError, subprocess.SubprocessError):
            named = ""
    return named if named.startswith(("https://", "http://")) else REGISTRY


def archive_url(registry: str) -> str:
    """Where a registry has the package.

    >>> archive_url("https://npm.example.org/all")
    'https://npm.example.org/all/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz'
    """
    return f"{registry.rstrip('/')}/onnxruntime-web/-/{ARCHIVE}"


def without_password(url: str) -> str:
    """An address without the name and password that one of a registry may have.

    >>> without_password("https://me:secret@npm.example.org/all")
    'https://npm.example.org/all'
    """
    return re.sub(r"(?<=://)[^/]*@", "", url)


def check_integrity(data: bytes, integrity: str, origin: str, remedy: str) -> None:
    """Raise UnderstudyError if bytes do not have a hash in the form of npm and of Subresource Integrity.

    >>> check_integrity(b"", "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "nothing", "try again")
    """
    name, _, wanted = integrity.partition("-")
    if base64.b64encode(hashlib.new(name, data).digest()).decode() != wanted:
        raise UnderstudyError(f"{origin} is not onnxruntime-web {VERSION}, by its {name}; {remedy}")


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "understudy"})
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        data = answer.read(_MOST + 1)
    if len(data) > _MOST:
        raise ValueError("too many bytes")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnderstudyError(
            f"{path} cannot be read ({error.strerror or error}); delete it, and export again"
        ) from None


def _unpacked(data: bytes) -> Runtime:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as packed:
        files = [packed.extractfile(name) for name in (_SCRIPT, _BINARY)]
        script, binary = (b"" if file is None else file.read() for file in files)
    return Runtime(script, binary)
