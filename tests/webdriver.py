"""A browser for tests, driven through chromedriver by the W3C WebDriver protocol, which is JSON over HTTP."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND")  # fmt: skip
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "ArrowLeft": "\ue012", "ArrowUp": "\ue013",
        "ArrowRight": "\ue014", "ArrowDown": "\ue015", "End": "\ue010", "Home": "\ue011"}  # fmt: skip
NO_BROWSER = f"there is no browser: none of {', '.join(BROWSERS)} is in PATH, and ZOO_BROWSER is not set"


def find_browser() -> str | None:
    """The program of a browser, that of ZOO_BROWSER first; None if there is none."""
    return os.environ.get("ZOO_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


def missing_browser() -> str:
    """Why there is no browser to drive; empty if there is one."""
    if not find_browser():
        return NO_BROWSER
    return "" if shutil.which("chromedriver") else "chromedriver is not in PATH"


class Browser:
    """One window. `run` returns the value of a JavaScript expression."""

    def __init__(self, port: int, folder: Path, flags: tuple[str, ...]) -> None:
        self.url = f"http://127.0.0.1:{port}/session"
        options = {"binary": find_browser(), "args": [*FLAGS, *flags, f"--user-data-dir={folder}"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        self.url += "/" + self.post("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def post(self, path: str, values: dict[str, Any], method: str = "POST") -> Any:
        data = json.dumps(values).encode() if method == "POST" else None
        request = Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, url: str) -> None:
        self.post("/url", {"url": "about:blank"})
        self.post("/url", {"url": url})
        self.until("document.body.dataset.ready === 'true'")

    def run(self, expression: str) -> Any:
        return self.post("/execute/sync", {"script": f"return ({expression})", "args": []})

    def until(self, expression: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < end, f"{expression} is still false"
            time.sleep(0.02)

    def hover(self, selector: str, index: int = 0, click: bool = False) -> None:
        """Move the mouse to the middle of an element, and click it or not."""
        places = "(({left, top, width, height}) => [left + width / 2, top + height / 2].map(Math.round))"
        found = f"document.querySelectorAll({selector!r})[{index}]"
        self.run(f"{found}.scrollIntoView({{block: 'center'}})")
        x, y = self.run(f"{places}({found}.getBoundingClientRect())")
        press = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}] if click else []
        move = {"type": "pointerMove", "x": x, "y": y, "duration": 0}
        self.actions({"type": "pointer", "id": "mouse", "actions": [move, *press]})

    def press(self, *keys: str) -> None:
        steps = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.actions({"type": "key", "id": "keyboard", "actions": steps})

    def actions(self, source: dict[str, Any]) -> None:
        self.post("/actions", {"actions": [source]})

    def resize(self, width: int, height: int) -> None:
        self.post("/window/rect", {"width": width, "height": height})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What the browser has logged since the last call: "browser" (the console) or "performance"."""
        return self.post("/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """The addresses that were loaded since the last call, without those inside of the page itself."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "blob:", "about:"))]


@contextmanager
def browser(folder: Path, *flags: str) -> Iterator[Browser]:
    """A browser with an empty profile in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end, "chromedriver does not start"
            time.sleep(0.02)
        window = Browser(port, folder, flags)
        try:
            yield window
        finally:
            window.post("", {}, "DELETE")
    finally:
        driver.terminate()
        driver.wait(20)
