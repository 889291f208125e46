"""Headless Chromium, controlled by DevTools messages over a pipe: JSON separated by NUL."""

import fcntl
import itertools
import json
import os
import subprocess
import time
from pathlib import Path

TIMEOUT = 30
"""Seconds until an unresponsive browser is an error."""


class Page:
    """A tab of the browser, with the events received from it."""

    def __init__(self, browser: str, folder: Path) -> None:
        commands, answers = os.pipe(), os.pipe()
        self._write, self._read = commands[1], answers[0]
        # keep 3 and 4 free, which become the browser's ends
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (commands[0], answers[1])]
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder}",
            "--window-size=1280,900",
            "--remote-debugging-pipe",  # it reads from descriptor 3 and writes to 4
        ]
        self._process = subprocess.Popen(
            [browser, *flags],
            close_fds=False,  # Python's own descriptors are not inheritable anyway; 3 and 4 must be
            preexec_fn=lambda: [os.dup2(end, number) for number, end in enumerate(ends, start=3)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands[0], answers[1], *ends):
            os.close(end)
        os.set_blocking(self._read, False)
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: str | None = None
        self.events: list[dict] = []

    def attach(self) -> None:
        """Open a tab and subscribe to its events; call `close` afterwards in any case."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        """Send a command and wait for its answer; other messages are added to `events`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self.until(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        self.until(lambda message: message.get("method") == "Page.loadEventFired")

    def value(self, script: str):
        """Evaluate an expression in the page; an exception there fails the test."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            codes = {"key": key, "code": key, "windowsVirtualKeyCode": 13}
            self.call("Input.dispatchKeyEvent", type=kind, **codes, **text)

    def events_of(self, method: str) -> list[dict]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def close(self) -> None:
        self._session = None
        try:
            os.write(self._write, b'{"id": 0, "method": "Browser.close"}\0')
            self._process.wait(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def until(self, condition) -> dict:
        """Read messages up to the first one that meets a condition."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            while b"\0" in self._unread:
                line, self._unread = self._unread.split(b"\0", 1)
                message = json.loads(line)
                self.events.append(message)
                if condition(message):
                    return message
            try:
                self._unread += os.read(self._read, 1 << 20)
            except BlockingIOError:
                assert self._process.poll() is None, "the browser has ended"
                time.sleep(0.01)
        raise TimeoutError(f"no such message from the browser in {TIMEOUT} s")
