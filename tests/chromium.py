"""A headless Chromium, driven through its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome: $CHROMIUM, or one on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser with one page.

    Attributes:
        requests: addresses that the page asked for, in order; of data, only the start.
        messages: errors and warnings on its console.
    """

    def __init__(self, program: str, profile: Path) -> None:
        mine, theirs = os.pipe(), os.pipe()  # (read, write) of what the browser reads, and of what it writes
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
                 "--force-color-profile=srgb", "--remote-debugging-pipe", f"--user-data-dir={profile}")  # fmt: skip
        # it reads from 3 and writes to 4
        script = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        command = ["bash", "-c", script, "bash", str(mine[0]), str(theirs[1]), program, *flags, "about:blank"]
        with open(profile.with_suffix(".log"), "wb") as log:
            self.process = subprocess.Popen(command, pass_fds=(mine[0], theirs[1]), stdout=log, stderr=log)
        os.close(mine[0])
        os.close(theirs[1])
        self._to, self._from, self._read, self._number = mine[1], theirs[0], b"", 0
        self.requests: list[str] = []
        self.messages: list[str] = []
        self._session: str | None = None
        (page,) = (x for x in self.call("Target.getTargets")["targetInfos"] if x["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, seconds: float = 60, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        end = time.monotonic() + seconds
        while (answer := self._next(end)).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, url: str) -> None:
        self.requests.clear()
        self.messages.clear()
        self.call("Page.navigate", url=url)

    def run(self, code: str, seconds: float = 60) -> Any:
        """The value of an expression in the page, or of what it promises."""
        answer = self.call(
            "Runtime.evaluate", seconds, expression=code, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} did not become true; console: {self.messages}")
            time.sleep(0.05)

    def choose_files(self, selector: str, files: Sequence[Path]) -> None:
        """As a user does in the dialog of an <input type="file">."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file.absolute()) for file in files])

    def screenshot(self, path: Path, width: int, height: int, scheme: str = "light") -> None:
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:200])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(params["exceptionDetails"])[:500])
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.messages.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.messages.append(params["entry"]["text"])

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            part = os.read(self._from, 2**20) if ready else b""
            if not part:
                raise TimeoutError(f"Chromium does not answer; it ended with {self.process.poll()}")
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)
