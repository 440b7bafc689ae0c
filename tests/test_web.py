"""The page of `--format web`, in a headless Chromium, shows what `predict` answers; and where its runtime is from."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import urllib.error
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageCms

import understudy
from chromium import Chromium, find_chromium
from understudy.cli.app import main
from understudy.data import ArraySource, Splits
from understudy.data.crop import center_crop
from understudy.data.decoding import Decoding
from understudy.data.formats.decoded import cache_folder
from understudy.data.formats.records import FileRecord
from understudy.errors import UnderstudyError
from understudy.exporters import ModelCardInfo, interface_of, web_page
from understudy.exporters.build import ExportedFile, Measurement
from understudy.exporters.web import runtime as web_runtime
from understudy.exporters.web.runtime import ARCHIVE, REGISTRY, Runtime, archive_url, check_integrity, open_runtime
from understudy.models import build
from understudy.pipeline.modality import contract_of

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("cached_operators")


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """ONNX Runtime Web, in the tests' cache."""
    cache = cache_folder("npm")
    assert cache is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("UNDERSTUDY_CACHE")
        own = cache_folder("npm")
    if own is not None and (own / ARCHIVE).exists():
        cache.mkdir(parents=True, exist_ok=True)
        shutil.copy(own / ARCHIVE, cache / ARCHIVE)
    try:
        return open_runtime()
    except UnderstudyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium or Chrome; install it, or set CHROMIUM to its path")
    with Chromium(program, tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs of 12 flowers: train/CLASS/ and test/CLASS/."""
    root = os.environ.get("UNDERSTUDY_DATA")
    if root is None:
        pytest.skip("UNDERSTUDY_DATA is not set")
    folder = tmp_path_factory.mktemp("flowers")
    with zipfile.ZipFile(Path(root) / "flowers12" / "flowers12.zip") as packed:
        names = [name for name in packed.namelist() if int(re.sub(r"\D", "", "0" + Path(name).name)) % 3 == 0]
        packed.extractall(folder, names)
    return folder


def images(n: int, channels: int, side: int, classes: tuple[str, ...] = ("a", "b", "c")) -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, channels, side, side), generator=generator).byte()
    rows = torch.arange(n)
    return ArraySource("some", classes, rows, rows % len(classes), (channels, side, side), inputs=pixels)


def classify(browser: Chromium, page: str, files: list[Path]) -> list[dict[str, Any]]:
    """What the page shows of each file: its name, what it says of it, and the probability of each class in order."""
    browser.open(page)
    browser.wait("document.body?.className === 'ready'")
    browser.choose_files("#chooser", files)
    browser.wait(f"results.children.length === {len(files)}")
    cards = browser.run("""[...results.children].reverse().map((card) => ({
        name: card.querySelector(".name bdi").textContent,
        fault: card.querySelector(".fault")?.textContent,
        classes: [...card.querySelectorAll("li")].map(
            (item) => [item.querySelector("bdi").textContent, Number(item.querySelector("data").value)]),
    }))""")
    assert browser.messages == []
    assert [card["name"] for card in cards] == [file.name for file in files]
    return cards


def assert_equal_to_predict(cards: list[dict[str, Any]], wanted: list[Any], atol: float) -> None:
    for card, one in zip(cards, wanted, strict=True):
        assert card["classes"][0][0] == one.classes[0], one.path
        assert sum(value for _, value in card["classes"]) <= 1 + 1e-5
        shown, known = dict(card["classes"]), dict(zip(one.classes, one.probabilities, strict=True))
        for name in shown.keys() & known.keys():
            assert shown[name] == pytest.approx(known[name], abs=atol), one.path


# ---- its classes


def test_the_page_classifies_photographs_as_predict_does(
    browser: Chromium, runtime: Runtime, flowers: Path, tmp_path: Path
) -> None:
    """20 photographs, by file:// and from a server; it asks for nothing but itself."""
    run = tmp_path / "run"
    understudy.train(flowers, "cnn:8-16-32", run=run, epochs=12, size=64, batch_size=32, precision="32", lr=0.005)
    done = understudy.export(run, format=("onnx", "web"))
    page = run / "export" / "index.html"
    assert done.page == page
    files = sorted((flowers / "test").glob("*/*.jpg"))[::4][:20]
    assert len(files) == 20
    wanted = understudy.predict(run, files, top=12)
    assert len({one.classes[0] for one in wanted}) > 3, "the network tells flowers apart"
    cards = classify(browser, page.as_uri(), files)
    assert_equal_to_predict(cards, wanted, 1e-3)
    assert all(len(card["classes"]) == 5 for card in cards)
    assert [url for url in browser.requests if not url.startswith("blob:")] == [page.as_uri()]

    handler = partial(SimpleHTTPRequestHandler, directory=str(done.path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/index.html"
        assert classify(browser, url, files) == cards
        assert [one for one in browser.requests if not one.startswith("blob:")] == [url]
        server.shutdown()


@pytest.mark.parametrize(("channels", "preprocessing", "whole"), [
    (1, "embedded", False), (3, "external", False), (3, "embedded", True),
])  # fmt: skip
def test_every_kind_of_image_and_of_input(
    channels: int, preprocessing: str, whole: bool, browser: Chromium, runtime: Runtime, tmp_path: Path
) -> None:
    """For a network that heeds each pixel and color, and where it is."""
    source = images(60, channels, 16)
    contract = replace(contract_of(source), crop_mode="squash" if whole else "center")
    network = build("mlp:32x1", contract, seed=channels)
    for weights in network.parameters():
        weights.data *= 4
    network.save(tmp_path / "net.safetensors")
    done = understudy.export(
        tmp_path / "net.safetensors", data=Splits(source, source), preprocessing=preprocessing, format="web",
        out=tmp_path / "out",
    )  # fmt: skip
    assert done.page is not None
    files = pictures(tmp_path / "photos")
    cards = classify(browser, done.page.as_uri(), files)
    assert_equal_to_predict(cards, understudy.predict(tmp_path / "net.safetensors", files), 1e-3)


def pictures(folder: Path) -> list[Path]:
    """Files of all kinds: sizes, EXIF orientations, gray, palette, 16 bits, transparency, a foreign color profile."""
    rng = np.random.default_rng(0)
    folder.mkdir()

    def noise(height: int, width: int, channels: int = 3) -> Image.Image:
        blocks = rng.integers(0, 256, (height // 5 + 1, width // 5 + 1, channels)).astype(np.uint8)
        return Image.fromarray(blocks.repeat(5, 0).repeat(5, 1)[:height, :width].squeeze())

    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "tiny.png": (noise(3, 4), {}),
        "wide.png": (noise(20, 333), {}),
        "tall.jpg": (noise(61, 37), {"quality": 95}),
        "big.png": (noise(400, 380), {}),
        "gray.png": (noise(25, 31, 1), {}),
        "gray.jpg": (noise(25, 31, 1), {"quality": 95}),
        "palette.gif": (noise(30, 30).quantize(40), {}),
        "web.webp": (noise(40, 30), {"lossless": True}),
        "profile.png": (noise(30, 30), {"icc_profile": swapped_profile()}),
        "deep.png": (Image.fromarray(rng.integers(0, 256, (40, 40)).repeat(2, 0).astype(np.uint16) * 257), {}),
    }
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        made[f"turned{turn}.jpg"] = (noise(40, 25), {"exif": exif, "quality": 95})
    glass = noise(30, 30).convert("RGBA")
    glass.putalpha(noise(30, 30, 1))
    made["glass.png"] = (glass, {})
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return [folder / name for name in made]


def swapped_profile() -> bytes:
    """sRGB's profile with red and blue exchanged: a browser that heeds it shows other colors than it stores."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert profile.count(b"rXYZ") == profile.count(b"bXYZ") == 1
    return profile.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")


def test_the_int8_page_classifies_as_the_int8_file(browser: Chromium, runtime: Runtime, tmp_path: Path) -> None:
    """The smallest file is in the page: on the same images, its probabilities are those that predict.py prints."""
    run = tmp_path / "run"
    understudy.train("digits", "cnn:8-16", run=run, epochs=4, precision="32", lr=0.01)
    done = understudy.export(run, format=("int8", "onnx", "web"))
    assert done.page is not None
    test = understudy.data.open_source("digits").test
    assert isinstance(test, ArraySource)
    files = [tmp_path / f"{row}.png" for row in range(20)]
    for file, pixels in zip(files, test.inputs, strict=False):
        Image.fromarray(pixels[0].numpy()).save(file)
    script = subprocess.run(
        [sys.executable, done.path / "predict.py", *files], capture_output=True, text=True, check=True
    )
    wanted = [line.split("\t") for line in script.stdout.splitlines()]
    assert 'with_name("model-int8.onnx")' in (done.path / "predict.py").read_text()
    cards = classify(browser, done.page.as_uri(), files)
    for card, (_, name, probability) in zip(cards, wanted, strict=True):
        assert card["classes"][0] == [name, pytest.approx(float(probability), abs=1e-3)]


# ---- its inputs


def test_inputs_are_those_of_predict_to_the_bit(browser: Chromium, tmp_path: Path) -> None:
    """Of the same pixels, for images and inputs of random sizes, gray and in color, cropped and squeezed."""
    code = Path(web_runtime.__file__).with_name("resize.js").read_text()
    browser.open("about:blank")
    browser.run(code)
    rng = np.random.default_rng(1)
    sizes = [(1, 1, 8), (7, 5, 8), (16, 16, 16), (300, 301, 9), (97, 640, 32), (513, 511, 64), (224, 224, 48)]
    sizes += [(*rng.integers(1, 260, 2).tolist(), int(rng.integers(1, 90))) for _ in range(25)]
    if int(PIL.__version__.partition(".")[0]) < 13:  # which resizes tall images in the other order
        sizes = [size for size in sizes if size[0] <= size[1]]
    for number, (height, width, side) in enumerate(sizes):
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        if number % 2:  # edges of full contrast, where the kernel over- and undershoots
            pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        for channels, whole in ((1, False), (3, False), (3, True)):
            images = Decoding([FileRecord("", str(tmp_path / "image.png"))], channels, side)
            wanted = np.asarray(center_crop(images.image(0), side, side if whole else 0))
            rgba = np.dstack([pixels, np.full((height, width), 255, np.uint8)])
            packed = base64.b64encode(rgba.tobytes()).decode()
            form = {"width": side, "height": side, "channels": channels, "whole": whole}
            found = browser.run(f"""(() => {{
                const all = Uint8Array.from(atob("{packed}"), (c) => c.charCodeAt(0));
                const [width, height] = [{width}, {height}];
                const read = (left, top, right, bottom) => {{
                  const part = new Uint8Array((right - left) * (bottom - top) * 4);
                  for (let y = top; y < bottom; y++) {{
                    const row = all.subarray((y * width + left) * 4, (y * width + right) * 4);
                    part.set(row, (y - top) * row.length);
                  }}
                  return part;
                }};
                return Array.from(fitted({{ width, height }}, read, {json.dumps(form)}));
            }})()""")
            difference = np.abs(np.array(found) - wanted.reshape(-1).astype(int))
            assert difference.max() == 0, (height, width, side, channels, whole)


# ---- what it says


def page_of(classes: tuple[str, ...], name: str, data: str, tmp_path: Path) -> str:
    source = replace(images(9, 3, 8, classes), name=data)
    (tmp_path / "model.onnx").write_bytes(b"model")
    network = build("cnn:4", contract_of(source))
    original = Measurement(5, 0.75, 1.0, 1.0)
    file = ExportedFile(
        5, 0.751, 1.0, 1.0, format="onnx", file=tmp_path / "model.onnx", agreement=1.0, worst_difference=0.0,
        original=original,
    )  # fmt: skip
    info = ModelCardInfo(name, "cnn:4", data, None, 9, 0, None, None)
    return web_page(info, interface_of(network, source), file, Runtime(b"export default 1", b"\0asm"))


def test_names_are_text(browser: Chromium, tmp_path: Path) -> None:
    hostile = (
        "</script><script>boom()</script>",
        '<img src=x onerror="boom()">',
        "a&amp;b",
        "\u202ereversed",
        "{{ 7 * 7 }}",
    )
    text = page_of(hostile, "<b>net</b>", "<i>data</i>", tmp_path)
    (tmp_path / "index.html").write_text(text)
    assert "boom()</script>" not in text
    browser.open((tmp_path / "index.html").as_uri())
    browser.wait("document.readyState === 'complete'")
    assert browser.run("document.title") == browser.run("document.querySelector('h1').textContent") == "<b>net</b>"
    assert browser.run("about.classes") == [*hostile[:3], r"\u202ereversed", hostile[4]]
    assert browser.run("document.querySelector('.about').textContent") == (
        "model.onnx, 5 B: right on 75.1% of 9 test images of <i>data</i>"
    )
    shown = browser.run("""(() => {
        results.append(ranking([0.1, 0.4, 0.3, 0.15, 0.05]));
        return [...results.querySelectorAll("li bdi")].map((one) => [one.textContent, one.children.length]);
    })()""")
    assert shown == [[hostile[1], 0], [hostile[2], 0], [r"\u202ereversed", 0], [hostile[0], 0], [hostile[4], 0]]
    # what is no model is said, rather than waited for
    browser.wait("document.body.className === 'failed'")
    assert "could not be opened" in browser.run("notice.textContent")


def test_a_file_that_is_no_image_is_said_and_the_others_are_classified(
    browser: Chromium, runtime: Runtime, tmp_path: Path
) -> None:
    source = images(60, 3, 16)
    build("cnn:6", contract_of(source)).save(tmp_path / "net.safetensors")
    done = understudy.export(
        tmp_path / "net.safetensors", data=Splits(source, source), format="web", out=tmp_path / "out"
    )
    assert done.page is not None
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    text, red = classify(browser, done.page.as_uri(), [tmp_path / "text.png", tmp_path / "red.png"])
    assert (text["fault"], text["classes"]) == ("Not an image that this browser can read.", [])
    assert len(red["classes"]) == 3
    assert browser.run("notice.textContent") == f"red.png: {red['classes'][0][0]}"


def test_it_is_used_with_the_keyboard_alone(browser: Chromium, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(page_of(("a", "b"), "net", "data", tmp_path))
    browser.open((tmp_path / "index.html").as_uri())
    browser.wait("document.readyState === 'complete'")
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.run("document.activeElement.id") == "chooser"
    assert browser.run("getComputedStyle(zone).outlineStyle") == "solid"
    for width in (400, 1400):
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")


# ---- the export


def test_exports_without_a_page_remove_it_and_foreign_pages_stay(runtime: Runtime, tmp_path: Path) -> None:
    source = images(30, 3, 8)
    build("cnn:4", contract_of(source)).save(tmp_path / "net.safetensors")
    run = partial(understudy.export, tmp_path / "net.safetensors", data=Splits(source, source))
    out = tmp_path / "out"
    done = run(format="web", out=out)
    assert [one.format for one in done.files] == ["onnx"], "an ONNX file is written for it"
    assert done.facts.page == json.loads((out / "export.json").read_text())["page"] == "index.html"
    assert "`index.html` classifies images in a browser with `model.onnx`" in (out / "README.md").read_text()
    assert run(format="web", out=out).page == out / "index.html", "its own page is replaced"
    assert run(format="torch", out=out).page is None
    assert not (out / "index.html").exists()
    assert "index.html" not in (out / "README.md").read_text()
    (out / "index.html").write_text("mine")
    with pytest.raises(UnderstudyError, match=r"has an index\.html that is not an export's; choose another --out"):
        run(format="web", out=out)
    run(format="torch", out=out)
    assert (out / "index.html").read_text() == "mine"


def test_the_report_of_a_compression_links_to_its_page(runtime: Runtime, tmp_path: Path) -> None:
    made = understudy.compress(
        "digits", "cnn:4", "cnn:4", run=tmp_path / "run", from_scratch=True, steps=4, teacher_steps=4, crop_size=8,
        views=1, format="web",
    )  # fmt: skip
    assert (made.path / "export" / "index.html").exists()
    assert (made.path / "export" / "model.onnx").exists()
    assert '<a href="export/index.html">' in made.report.read_text()


def test_what_is_not_an_image_has_no_page(runtime: Runtime, tmp_path: Path) -> None:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(30)
    source = ArraySource("some", ("a", "b"), rows, rows % 2, (6,), inputs=x)
    build("mlp:4", contract_of(source)).save(tmp_path / "net.safetensors")
    with pytest.raises(UnderstudyError, match="classifies image files, and this network takes vectors; leave out web"):
        understudy.export(tmp_path / "net.safetensors", data=Splits(source, source), format="web", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- the runtime


class Answers:
    """Stands in for the network."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer, self.asked = answer, []

    def __call__(self, request: Any, timeout: float) -> io.BytesIO:
        self.asked.append(request.full_url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return io.BytesIO(self.answer)


def package(script: bytes, binary: bytes) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for name, data in (("ort.wasm.bundle.min.mjs", script), ("ort-wasm-simd-threaded.wasm", binary)):
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return held.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", "https://me:secret@mirror.example.org/npm/")
    return tmp_path / "cache" / "npm"


def test_the_package_is_downloaded_once_from_the_configured_registry(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = package(b"module", b"\0asm")
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    network = Answers(data)
    monkeypatch.setattr("urllib.request.urlopen", network)
    monkeypatch.setattr(web_runtime, "INTEGRITY", f"sha512-{digest}")
    assert open_runtime() == open_runtime() == Runtime(b"module", b"\0asm")
    assert network.asked == [f"https://me:secret@mirror.example.org/npm/onnxruntime-web/-/{ARCHIVE}"]
    assert [file.name for file in cache.iterdir()] == [ARCHIVE]


def test_another_package_is_refused_and_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", Answers(package(b"other", b"\0asm")))
    with pytest.raises(
        UnderstudyError, match=r"mirror\.example\.org/.* is not onnxruntime-web .*, by its sha512; set npm"
    ):
        open_runtime()
    assert not cache.exists()
    cache.mkdir(parents=True)
    (cache / ARCHIVE).write_bytes(b"cut off")
    with pytest.raises(UnderstudyError, match=rf"{ARCHIVE} is not onnxruntime-web .*; delete it, and export again"):
        open_runtime()
    with pytest.raises(UnderstudyError, match="x is not"):
        check_integrity(b"b", "sha512-" + base64.b64encode(hashlib.sha512(b"a").digest()).decode(), "x", "y")


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("a file")
    data = package(b"module", b"\0asm")
    monkeypatch.setattr("urllib.request.urlopen", Answers(data))
    monkeypatch.setattr(web_runtime, "INTEGRITY", f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}")
    assert open_runtime().script == b"module"


@pytest.mark.parametrize("fault", [
    urllib.error.URLError("no route"), TimeoutError(), http.client.IncompleteRead(b""),
    urllib.error.HTTPError("https://mirror.example.org", 401, "who", {}, None),  # type: ignore[arg-type]
])  # fmt: skip
def test_offline_says_where_to_put_the_package(
    fault: Exception, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is opened or trained, also by `compress`."""
    monkeypatch.setattr("urllib.request.urlopen", Answers(fault))
    net, run, version = str(tmp_path / "net.safetensors"), str(tmp_path / "run"), web_runtime.VERSION
    for words in (
        ["export", net, "--data", "digits", "--format", "web"],
        ["compress", "digits", "--backbone", "cnn:4", "--from-scratch", "--student", "cnn:4", "--format", "onnx", "web",
         "--run", run],
    ):  # fmt: skip
        assert main(words) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == (
            f"error: the page needs the npm package onnxruntime-web {version}, which is not on this machine and could "
            f"not be downloaded from https://mirror.example.org/npm/onnxruntime-web/-/{ARCHIVE} "
            f"({type(fault).__name__}); put {ARCHIVE}, which npm pack onnxruntime-web@{version} downloads, in {cache}, "
            "or leave out --format web"
        )
    assert not (tmp_path / "run").exists()


def test_registry_is_the_one_of_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(key, raising=False)
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\n[ "$*" = "config get registry" ] && echo https://from-npmrc.example.org/\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert archive_url(web_runtime.registry()) == f"https://from-npmrc.example.org/onnxruntime-web/-/{ARCHIVE}"
    npm.write_text("#!/bin/sh\nexit 1\n")
    assert web_runtime.registry() == REGISTRY
    npm.write_text("#!/bin/sh\necho undefined\n")
    assert web_runtime.registry() == REGISTRY
    monkeypatch.setenv("npm_config_registry", "http://localhost:4873")
    assert archive_url(web_runtime.registry()) == f"http://localhost:4873/onnxruntime-web/-/{ARCHIVE}"
