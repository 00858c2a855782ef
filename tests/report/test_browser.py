"""The page in a real browser: no message on its console, nothing asked of a network, nothing cut off."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.golden import NAME
from helpers.reports import SECOND, reported_store

from quantpipe.report.gather import report_of
from quantpipe.report.write import write_report

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"
)

BAD = '<!DOCTYPE html><img src="http://127.0.0.1:9/x.png"><script>console.error("planted")</script>'


class Opened(NamedTuple):
    """What a browser made of a page.

    Attributes:
        requests: addresses that the page asked for, other than itself.
        console: the lines of its console.
    """

    document: str
    requests: set[str]
    console: list[str]


def opened(page: Path, folder: Path) -> Opened:
    assert CHROMIUM is not None
    log = folder / "net.json"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--log-net-log={log}", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    events = [event.get("params") for event in json.loads(log.read_text())["events"]]
    # What the browser asks for by itself (updates) is not asked by the page: it has no page's origin.
    asked = [event for event in events if isinstance(event, dict) and "initiator" in event and "url" in event]
    requests = {str(event["url"]) for event in asked if event["initiator"] != "not an origin"}
    return Opened(
        done.stdout,
        {url for url in requests if not url.startswith(("file:", "data:"))},
        [line for line in done.stderr.splitlines() if ":CONSOLE:" in line],
    )


def test_the_page_opens_without_a_message_and_without_a_network(tmp_path: Path) -> None:
    store, recipe = reported_store(tmp_path)
    page = write_report(report_of(store, NAME, SECOND, recipe), tmp_path / "out")
    found = opened(page, tmp_path)
    assert (found.console, found.requests) == ([], set())
    assert "Transcript: every probe with its answer" in found.document


def test_this_test_notices_a_message_and_a_request(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(BAD)
    found = opened(page, tmp_path)
    assert found.requests == {"http://127.0.0.1:9/x.png"}
    assert any("planted" in line for line in found.console)
