"""`neighbors`: the nearest images of a collection, by a network's embedding."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from understudy.data.decoding import Decoding
from understudy.errors import UnderstudyError
from understudy.evaluation.facts import Neighbor, NeighborFacts, Query
from understudy.evaluation.representation import check_embeddings, nearest
from understudy.files import new_folder, path_of, write_whole
from understudy.models import Network, fold, to_channels_last
from understudy.pipeline.device import usable_cores
from understudy.pipeline.weights import networks_of
from understudy.reporting import render
from understudy.verbs.arguments import check_whole
from understudy.verbs.predict import decoded_image, image_records

_TOGETHER = 250  # images of up to 100 x 100 pixels; fewer larger ones
_PICTURE = 128  # pixels of a picture on the page


def neighbors(
    target: str | Path,
    images: str | Path | Sequence[str | Path],
    queries: str | Path | Sequence[str | Path],
    *,
    top: int = 8,
    out: str | Path | None = None,
    trust_code: bool = False,
) -> NeighborFacts:
    """Find the images of a collection that are nearest to others, by the cosine of a network's embeddings.

    Args:
        target: a run folder, of which the first distilled network is used, or a weights file.
        images: the collection: image files, or folders that hold some.
        queries: the same; an image is not its own neighbor.
        top: how many to find for each query.
        out: a page to write, self-contained HTML; None for none.
        trust_code: whether the function that made the network (pkg.mod:fn) may be imported.

    Raises:
        UnderstudyError: no network or no images at these paths, or embeddings that are not finite.
    """
    check_whole("top", top)
    page = None if out is None else path_of(out, "the --out page")
    if page is not None:
        new_folder(page.parent, "the folder of --out")
    network = _embedder(target, trust_code)
    collection, asked = (image_records(_listed(one)) for one in (images, queries))
    paths, keys, faults = _embedded(network, [path for path, _ in collection], [record for _, record in collection])
    if not paths:
        raise UnderstudyError(f"no image of {images} could be read ({next(iter(faults.values()), 'there are none')})")
    found, x, unread = _embedded(network, [path for path, _ in asked], [record for _, record in asked])
    rows, places = {path: row for row, path in enumerate(found)}, [path.resolve() for path in paths]
    made = []
    for path, _ in asked:
        if path not in rows:
            made.append(Query(path=str(path), error=unread[path]))
            continue
        own = path.resolve()
        others = [i for i, place in enumerate(places) if place != own]
        if not others:
            raise UnderstudyError(f"{images} has no image besides {path}; name a folder of several")
        similar, index = nearest(x[rows[path]][None], keys[others], top)
        made.append(
            Query(
                path=str(path), picture=_picture(path),
                neighbors=[
                    Neighbor(path=str(paths[others[i]]), similarity=value, picture=_picture(paths[others[i]]))
                    for i, value in zip(index[0].tolist(), similar[0].tolist(), strict=True)
                ],
            )
        )  # fmt: skip
    facts = NeighborFacts(model=str(target), images=len(paths), skipped=len(faults), queries=made)
    if page is not None:
        write_whole(page, render(facts, page.parent))
    return facts


def _listed(images: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [images] if isinstance(images, str | Path) else list(images)


def _embedder(target: str | Path, trust_code: bool) -> Network:
    known = networks_of(target, trust_code=trust_code)
    first = next((name for name in known if name.startswith("distilled")), next(iter(known)))
    network = fold(known[first])
    if len(network.contract.source_shape) != 3:
        raise UnderstudyError(f"{target} was trained on vectors; neighbors takes images")
    to_channels_last(network, "cpu")
    return network.watch({"embedding"})


def _embedded(
    network: Network, paths: Sequence[Path], records: Sequence[object]
) -> tuple[list[Path], Tensor, dict[Path, str]]:
    """The paths that can be read, their embeddings (N, D), and why the others cannot."""
    channels, height, _ = network.contract.source_shape
    decode = partial(
        decoded_image, Decoding(records, channels, height),  # type: ignore[arg-type]
        resize=height if network.contract.crop_mode == "squash" else 0,
    )  # fmt: skip
    together = max(1, min(_TOGETHER, _TOGETHER * 100**2 // height**2))
    read, found, faults = list[Path](), list[Tensor](), dict[Path, str]()
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(records), together):
            part = range(start, min(start + together, len(records)))
            pixels = list(pool.map(decode, part))
            faults |= {paths[i]: one for i, one in zip(part, pixels, strict=True) if isinstance(one, str)}
            kept = [(paths[i], one) for i, one in zip(part, pixels, strict=True) if isinstance(one, Tensor)]
            if not kept:
                continue
            stack = torch.stack([one for _, one in kept])
            stack = stack[:, None] if stack.dim() == 3 else stack.permute(0, 3, 1, 2)
            with torch.inference_mode():
                embedding = network(stack.float().div(255)).embedding
            assert embedding is not None, "it was watched"
            read += [path for path, _ in kept]
            found.append(embedding.float())
    if not found:
        return [], torch.empty(0, 0), faults
    x = torch.cat(found)
    return read, check_embeddings(x, network.name) if len(x) > 2 else x, faults


def _picture(path: Path) -> str:
    with Image.open(path) as image:
        image.draft("RGB", (2 * _PICTURE, 2 * _PICTURE))
        small = image.convert("RGB")
    small.thumbnail((_PICTURE, _PICTURE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
