"""A Chromium without a window, spoken to over its DevTools pipe.

In: a page's address. Out: what is on the page, as scripts see it.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --remote-debugging-pipe --hide-scrollbars"
).split()


class Browser:
    def __init__(self, profile: Path, width: int = 1180, height: int = 760):
        # the browser reads its descriptor 3 and writes 4
        ours_out, theirs_in = os.pipe(), os.pipe()
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        self.child = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ours_out[0]} 4>&{theirs_in[1]}', "bash", CHROMIUM, *flags, "about:blank"],
            pass_fds=(ours_out[0], theirs_in[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours_out[0])
        os.close(theirs_in[1])
        self.orders, self.answers = os.fdopen(ours_out[1], "wb"), os.fdopen(theirs_in[0], "rb")
        self.numbers, self.session, self.rest = itertools.count(1), None, b""
        # scripts that failed, what a policy has blocked, and the like
        self.complaints: list[str] = []
        target = next(t for t in self.order("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.order("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.order(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self.child.kill()
        self.child.wait()
        self.orders.close()
        self.answers.close()

    def order(self, method: str, **parameters) -> dict:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.orders.write(json.dumps(message).encode() + b"\0")
        self.orders.flush()
        while (told := self._message()).get("id") != number:
            said = told.get("params", {})
            if "exceptionDetails" in said or said.get("entry", {}).get("level") == "error":
                self.complaints.append(json.dumps(said))
        assert "error" not in told, told
        return told["result"]

    def open(self, address: str) -> None:
        self.order("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str):
        told = self.order("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, expression: str) -> None:
        while not self.value(expression):
            time.sleep(0.05)

    def type(self, text: str) -> None:
        self.order("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "char", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "char" else {}
            if kind != "char" or text:
                self.order("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.order("Page.captureScreenshot", format="png")["data"]))

    def _message(self) -> dict:
        while b"\0" not in self.rest:
            data = os.read(self.answers.fileno(), 65536)
            assert data, "the browser has ended"
            self.rest += data
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)
