"""A headless Chromium, driven over the pipe of its DevTools protocol: no package is needed for that.

As a command it takes pictures of a report: `python -m tests.integration.browser REPORT.html FOLDER`.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds that the browser may stay silent, on a busy machine."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
# The protocol's ends are the file descriptors 3 and 4 (Chromium, content/browser/devtools/devtools_pipe_handler.cc).
_START = 'exec "${@:3}" 3<&"$1" 4>&"$2"'


@dataclass
class Seen:
    """What a page did while it was looked at."""

    messages: list[str] = field(default_factory=list)
    """The console's lines, exceptions, dialogs, and what the browser complains about, such as blocked requests."""
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for, the page's own among them."""

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Keep what an event of the protocol tells, if anything."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        elif method in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"}:
            self.messages.append(json.dumps(params))


class Page:
    """The browser's one page."""

    def __init__(self, commands: int, replies: int) -> None:
        self.commands, self.replies, self.buffer, self.number, self.session = commands, replies, b"", 0, ""
        self.seen, self.loaded = Seen(), False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result, keeping what happens meanwhile."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": params}
        command |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != self.number:
            pass
        assert "error" not in message, (method, message["error"])
        return dict(message["result"])

    def show(self, url: str, width: int, scheme: str) -> Seen:
        """Load a page in a window of so many CSS pixels, light or dark; what it did."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.seen, self.loaded = Seen(), False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self._receive()
        self.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        return self.seen

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: Path, top: int, width: int, height: int) -> None:
        """Write a part of the page, in CSS pixels from its top, as PNG."""
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.replies], [], [], PATIENCE)
            assert ready, f"Chromium said nothing for {PATIENCE:.0f} s"
            part = os.read(self.replies, 1 << 20)
            assert part, "Chromium ended"
            self.buffer += part
        raw, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self.loaded |= message["method"] == "Page.loadEventFired"
            self.seen.note(message["method"], message["params"])
            if message["method"] == "Page.javascriptDialogOpening":
                self.number += 1
                answer = {"id": self.number, "method": "Page.handleJavaScriptDialog", "sessionId": self.session}
                os.write(self.commands, json.dumps({**answer, "params": {"accept": True}}).encode() + b"\0")
        return message


def executable() -> str | None:
    """Where Chromium is, if it is installed."""
    return shutil.which("chromium")


@contextmanager
def open_page() -> Iterator[Page]:
    """A page in a new browser with a profile of its own."""
    command_end, commands = os.pipe()
    replies, reply_end = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *("bash", "-c", _START, "bash", str(command_end), str(reply_end)),
                *(str(executable()), *FLAGS, f"--user-data-dir={profile}"),
            ],
            pass_fds=(command_end, reply_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_end)
        os.close(reply_end)
        try:
            yield Page(commands, replies)
        finally:
            os.close(commands)  # upon which it ends
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(replies)


def take_pictures(report: Path, folder: Path) -> None:
    """The top of a report at two widths, light and dark, each in few enough colours to be small."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    with open_page() as page:
        for name, width in (("desktop", 1280), ("phone", 390)):
            for scheme in ("light", "dark"):
                page.show(report.absolute().as_uri(), width, scheme)
                path = folder / f"report-{name}-{scheme}.png"
                page.screenshot(path, 0, width, 1500)
                Image.open(path).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]))
