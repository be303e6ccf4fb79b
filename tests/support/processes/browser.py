"""A headless Chromium that is driven over a pipe (the Chrome DevTools Protocol): it goes to pages, clicks, draws and looks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.datasets.promised import missing

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """One tab. What it wrote to the console, and whatever it asked any server for, is kept."""

    def __init__(self, write: int, read: int) -> None:
        self._to, self._from = os.fdopen(write, "wb", buffering=0), os.fdopen(read, "rb", buffering=0)
        self._count, self._session, self._rest = 0, "", b""
        self.console: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self._to.write(json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._count:
                assert "error" not in told, told
                return dict(told["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = self._from.read(65536)
            assert piece, "the browser ended"
            self._rest += piece
        one, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(one)
        self._note(told.get("method", ""), told.get("params", {}))
        return told

    def _note(self, event: str, of: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.asked.append(of["request"]["url"])
        elif event == "Log.entryAdded":
            self.console.append(of["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.console.append(json.dumps(of["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.console.append(json.dumps(of["args"]))

    def go(self, url: str) -> None:
        """And wait until it has loaded."""
        self.call("Page.navigate", url=url)
        self.until(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> Any:
        """The value of an expression once it is true."""
        ends = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < ends, f"{script} stays {found!r}; {self.console}; {self.run('document.body.innerText')}"
            time.sleep(0.05)
        return found

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def draw(self, selector: str, *points: tuple[float, float]) -> None:
        """A stroke; points are shares of the element's width and height."""
        box = self.run(f"JSON.stringify(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        left, top, width, height = (json.loads(box)[name] for name in ("left", "top", "width", "height"))
        places = [(left + x * width, top + y * height) for x, y in points]
        for kind, place in [
            ("mousePressed", places[0]),
            *(("mouseMoved", each) for each in places),
            ("mouseReleased", places[-1]),
        ]:
            self.mouse(kind, *place)

    def choose(self, selector: str, file: Path) -> None:
        """In a field for files."""
        field = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]["objectId"]
        self.call("DOM.setFileInputFiles", objectId=field, files=[str(file)])

    def type(self, selector: str, text: str) -> None:
        """As from a keyboard, into a field that is emptied first."""
        self.run(f"(field => {{ field.focus(); field.select(); }})(document.querySelector({json.dumps(selector)}))")
        self.call("Input.insertText", text=text)

    def drop(self, selector: str, file: Path) -> None:
        """From a folder of the desktop onto the middle of an element."""
        box = self.run(f"JSON.stringify(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        left, top, width, height = (json.loads(box)[name] for name in ("left", "top", "width", "height"))
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=left + width / 2, y=top + height / 2, data=data)

    def close(self) -> None:
        """It ends by itself once nobody is at the other end of the pipe."""
        self._to.close()
        self._from.close()

    def shot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


@contextmanager
def browsing(profile: Path, *flags: str) -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing("chromium", "install it (Debian: apt-get install chromium)")
    theirs_in, to = os.pipe()
    back, theirs_out = os.pipe()
    command = [found, *FLAGS, "--remote-debugging-pipe", *flags, f"--user-data-dir={profile}", "about:blank"]
    wired = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command]  # the browser reads 3 and writes 4
    with subprocess.Popen(wired, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL) as process:
        os.close(theirs_in)
        os.close(theirs_out)
        browser = Browser(to, back)
        try:
            yield browser
        finally:
            browser.close()
            process.wait(20)
