"""The demo page in headless Chromium, which may speak to this machine alone."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, Route, sync_playwright

from tests.s3 import free_port

START = 90.0  # seconds that `cfpp demo` may take to serve its page
PATIENCE = 20_000  # milliseconds that anything on the page may take
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The browser of this machine; None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[str]:
    """`cfpp demo` as a person runs it in `folder`, on any port; gives its address, ends it with Ctrl-C."""
    command = [
        sys.executable,
        "-m",
        "cfpp.cli",
        "demo",
        "--device",
        "cpu",
        "--port",
        str(free_port()),
        *arguments,
    ]
    log, scratch = folder / "demo.log", folder / "tmp"
    scratch.mkdir(exist_ok=True)
    environment = os.environ | {"TMPDIR": str(scratch)}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START
        while (found := re.search(r" at (http://\S+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield found[1]
        process.send_signal(signal.SIGTERM)  # in the background of a shell, SIGINT is ignored
        assert process.wait(30) == 0, log.read_text()
        assert not list(scratch.glob("cfpp-*"))  # nobody's pictures stay behind
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()


@contextmanager
def opened(address: str, width: int = 1280, height: int = 900) -> Iterator[tuple[Page, list[str]]]:
    """The page at `address`, ready for use, and every other machine's address that it asked for (in vain)."""
    outside: list[str] = []

    def guard(route: Route) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", None):  # data: and blob: have no host
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
        )
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE)
            page.route("**/*", guard)
            page.goto(address)
            page.locator("#restore").wait_for()
            yield page, outside
        finally:
            browser.close()


def picture_of(page: Page, image: Locator) -> np.ndarray:
    """The pixels behind an <img>, uint8 [H, W, 3], decoded here and not by the browser."""
    source = image.get_attribute("src")
    assert source
    answer = page.request.get(urljoin(page.url, source))
    assert answer.ok, source
    return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))
