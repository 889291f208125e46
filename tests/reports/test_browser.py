"""The page in a headless browser: every section, no error, no request, a working table."""

import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import time

import pytest

from chemkl.stages import report

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
TIMEOUT = 30
"""Seconds until an unresponsive browser is an error."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason="no chromium on PATH, and CHROMIUM does not name one"
    ),
]


class Tab:
    """A tab of headless Chromium, controlled by DevTools messages over a pipe: JSON and NUL."""

    def __init__(self, folder):
        commands, answers = os.pipe(), os.pipe()
        self._write, self._read = commands[1], answers[0]
        # keep 3 and 4 free, which become the browser's ends
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (commands[0], answers[1])]
        flags = ["headless", "no-sandbox", "disable-gpu", "disable-background-networking"]
        flags += ["host-resolver-rules=MAP * ~NOTFOUND", "window-size=1280,900"]
        flags += [f"user-data-dir={folder}", "remote-debugging-pipe"]  # it uses 3 and 4
        self._process = subprocess.Popen(
            [BROWSER, *(f"--{flag}" for flag in flags)],
            close_fds=False,  # Python's own descriptors are not inheritable anyway; 3 and 4 are
            preexec_fn=lambda: [os.dup2(end, number) for number, end in enumerate(ends, start=3)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (commands[0], answers[1], *ends):
            os.close(end)
        os.set_blocking(self._read, False)
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session = None
        self.events = []

    def attach(self):
        """Open the tab and subscribe to its events; call `close` afterwards in any case."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Send a command and wait for its answer; other messages are added to `events`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self.until("id", number)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path):
        self.call("Page.navigate", url=path.as_uri())
        self.until("method", "Page.loadEventFired")

    def value(self, script):
        """Evaluate an expression in the page; an exception there fails the test."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press_enter(self):
        codes = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        for kind, text in (("keyDown", {"text": "\r"}), ("keyUp", {})):
            self.call("Input.dispatchKeyEvent", type=kind, **codes, **text)

    def events_of(self, method):
        return [event["params"] for event in self.events if event.get("method") == method]

    def close(self):
        self._session = None
        try:
            os.write(self._write, b'{"id": 0, "method": "Browser.close"}\0')
            self._process.wait(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def until(self, key, value):
        """Read messages up to the first one with a value."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            while b"\0" in self._unread:
                line, self._unread = self._unread.split(b"\0", 1)
                self.events.append(json.loads(line))
                if self.events[-1].get(key) == value:
                    return self.events[-1]
            try:
                self._unread += os.read(self._read, 1 << 20)
            except BlockingIOError:
                assert self._process.poll() is None, "the browser has ended"
                time.sleep(0.01)
        raise TimeoutError(f"no message with {key} {value} from the browser in {TIMEOUT} s")


@pytest.fixture(scope="module")
def report_page(tmp_path_factory, real_smiles, write_run):
    """A report on three runs with different molecules, one of them with few and invalid ones."""
    folder = tmp_path_factory.mktemp("runs")
    molecules = {
        "broad": [(s, 0.6 + 0.001 * k) for k, s in enumerate(real_smiles[:150])],
        "narrow": [(f"{'C' * (k % 9 + 1)}c1ccncc1", 0.5 + 0.05 * (k % 9)) for k in range(150)],
        "poor": [("CCO", 0.1), ("C1CC", 0.0), ("Cc1ccccc1", 0.3)],
    }
    for name, rows in molecules.items():
        config = {"batch_size": 8, "target": {"kind": "mara", "tau": 0.7}, "name": name}
        config["callbacks"] = {"collapse": {"window": 100}}  # at most as many as there are
        steps = [rows[at : at + 8] for at in range(0, len(rows), 8)]
        write_run(folder / name, steps, config)
    runs = [str(folder / name) for name in molecules]
    return report.run({"runs": runs, "threshold": 0.7}, folder / "report")


@pytest.fixture(scope="module")
def page(report_page, tmp_path_factory):
    tab = Tab(tmp_path_factory.mktemp("browser"))
    try:
        tab.attach()
        tab.open(report_page)
        yield tab
    finally:
        tab.close()


TABLE = "document.querySelector('#top .top-table')"


def in_table(page, script):
    return page.value(f"{TABLE}.{script}")


def column(page, name):
    """The exact values of the visible rows in a column of the table."""
    script = f"""(() => {{
        const root = {TABLE};
        const at = [...root.querySelectorAll("th")].findIndex((h) => h.dataset.name === "{name}");
        return [...root.querySelectorAll("tbody tr")].filter((row) => row.offsetParent)
            .map((row) => row.cells[at].dataset.v ?? row.cells[at].textContent);
    }})()"""
    return page.value(script)


def numbers(page, name):
    return [float(text) for text in column(page, name)]


def status(page):
    return in_table(page, "querySelector('output').textContent")


def sort_by(page, *names):
    for name in names:
        in_table(page, f"querySelector('th[data-name={name}] button').click()")


def search(page, words):
    page.value(
        f"(() => {{ const box = {TABLE}.querySelector('input'); box.value = {json.dumps(words)};"
        "box.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def test_every_section_has_content(page, report_sections):
    for name in report_sections:
        height, text = page.value(
            f"(() => {{ const s = document.getElementById('{name}');"
            "return s ? [s.getBoundingClientRect().height, s.innerText] : [0, '']; })()"
        )
        assert height > 60, f"section {name} is missing or has no height"
        assert len(text.split()) > 3, f"section {name} says nothing: {text!r}"
    for name in ("learning", "yield", "collapse", "rank", "anchors", "map"):
        drawn = page.value(f"document.querySelectorAll('#{name} svg').length")
        assert drawn >= 2, f"section {name} has {drawn} drawings"
    # nothing is wider than the window
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")


def test_no_error_no_warning_and_no_request(page, report_page):
    def urls():
        return {e["request"]["url"] for e in page.events_of("Network.requestWillBeSent")}

    for method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
        assert page.events_of(method) == []
    assert [url for url in urls() if not url.startswith(("data:", "about:"))] == [
        report_page.as_uri()
    ]
    # they would have been detected
    page.value("setTimeout(() => { throw new Error('made up'); }, 0)")
    page.value("fetch('http://example.org/x').catch(() => console.log('refused'))")
    page.until("method", "Runtime.consoleAPICalled")
    assert any("made up" in json.dumps(e) for e in page.events_of("Runtime.exceptionThrown"))
    assert "http://example.org/x" in urls()
    page.events.clear()


def test_table_starts_with_the_best_fifty_and_a_click_shows_more(page):
    rewards = numbers(page, "reward")
    assert len(rewards) == 50
    assert rewards == sorted(rewards, reverse=True)
    assert in_table(page, "querySelector('th[data-name=reward]').ariaSort") == "descending"
    in_table(page, "querySelector('.more').click()")
    assert len(column(page, "reward")) == 100
    assert in_table(page, "querySelector('.more').hidden")


@pytest.mark.parametrize("name", ["reward", "qed", "call", "hits_of_scaffold", "logp_policy"])
def test_numbers_sort_both_ways(page, name):
    sort_by(page, "smiles", name)
    down = numbers(page, name)
    assert down == sorted(down, reverse=True)
    assert in_table(page, f"querySelector('th[data-name={name}]').ariaSort") == "descending"
    sort_by(page, name)
    up = numbers(page, name)
    assert up == sorted(up)
    assert up[0] < down[0]
    assert in_table(page, "querySelectorAll('th[aria-sort]').length") == 1


@pytest.mark.parametrize("name", ["smiles", "scaffold", "runs"])
def test_text_sorts_with_empty_cells_at_the_end(page, name):
    sort_by(page, "reward", name)
    up = [text for text in column(page, name) if text]
    assert up == sorted(up)
    assert "" not in column(page, name)[: len(up)]


def test_headings_sort_by_the_keyboard(page):
    sort_by(page, "smiles")
    in_table(page, "querySelector('th[data-name=call] button').focus()")
    page.press_enter()
    calls = numbers(page, "call")
    assert calls == sorted(calls, reverse=True)
    assert calls[0] > calls[-1]


@pytest.mark.parametrize(
    ("words", "name"), [("c1ccncc1", "scaffold"), ("C(=O)N", "smiles"), ("NARROW", "runs")]
)
def test_search_shows_the_rows_that_contain_the_text(page, words, name):
    search(page, "")
    sort_by(page, "reward")
    total = int(status(page).split()[-1])
    search(page, f" {words} ")
    columns = (column(page, key) for key in ("smiles", "scaffold", "runs"))
    rows = list(zip(*columns, strict=True))
    assert 0 < len(rows) < total
    assert all(words in s or words in sc or words.lower() in r.lower() for s, sc, r in rows)
    assert re.fullmatch(rf"\d+ shown of \d+ that match, of {total}", status(page))
    search(page, "")
    assert len(column(page, name)) == 50


def test_case_matters_in_smiles_and_nothing_may_match(page):
    search(page, "c1ccncc1".upper())
    assert not any("c1ccncc1" in smiles for smiles in column(page, "smiles"))
    search(page, "<img src=x>")
    assert column(page, "smiles") == []
    assert "0 shown of 0" in status(page)
    search(page, "")


def test_matching_rows_can_be_saved(page):
    search(page, "c1ccncc1")
    page.value(
        "window.saved = null; URL.createObjectURL = (blob) => "
        "{ blob.text().then((text) => { window.saved = text; }); return '#'; };"
    )
    in_table(page, "querySelector('.save').click()")
    deadline = time.monotonic() + TIMEOUT
    while not page.value("window.saved") and time.monotonic() < deadline:
        time.sleep(0.01)
    head, *rows = page.value("window.saved").strip().split("\n")
    assert head.startswith('"reward","qed","runs","call"')
    assert len(rows) == len(column(page, "smiles")) > 1
    assert [float(row.split(",")[0]) for row in rows] == numbers(page, "reward")
    search(page, "")
