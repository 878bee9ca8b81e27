"""The chromium of the machine, at the page of a running server; a test is skipped, with a reason, where it is not there."""

import importlib.util
import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctmr.viewer.pages import NIIVUE, PAGE
from support.view import Client

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
REQUIRED = os.environ.get("CTMR_VIEWER") == "required"
WITHOUT_WEBGL = ("--disable-gpu", "--disable-3d-apis")
WITH_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
AXE = Path(__file__).parents[2] / ".venv" / "axe.js"


def need(there: object, what: str) -> None:
    """Skip the test where something is missing, or fail where it may not be."""
    if not there:
        if REQUIRED:
            pytest.fail(f"{what} is missing")
        pytest.skip(f"{what} is missing: make viewer, apt-get install chromium")


_drivers = list[Any]()


@contextmanager
def _driver() -> Iterator[Any]:
    """What starts browsers: a process can have but one, so that pages which are open at a time share it."""
    if _drivers:
        yield _drivers[0]
        return
    need(importlib.util.find_spec("playwright"), "playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        _drivers.append(driver)
        try:
            yield driver
        finally:
            _drivers.clear()


@contextmanager
def page_of(client: Client, *, webgl: bool = False, **options: Any) -> Iterator[Any]:
    """A page that has entered; at its end nothing was asked of anyone but the server, and no script has failed."""
    need(CHROMIUM, "chromium")
    if webgl:
        need((PAGE / NIIVUE).is_file(), "NiiVue")
    with _driver() as driver:
        words = ["--no-sandbox", *(WITH_WEBGL if webgl else WITHOUT_WEBGL)]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=words)
        try:
            options.setdefault("viewport", {"width": 1280, "height": 720})
            context = browser.new_context(accept_downloads=True, **options)
            name, value = client.cookie.split("=", 1)
            context.add_cookies([{"name": name, "value": value, "url": client.origin}])
            page = context.new_page()
            asked, failed = list[str](), list[str]()
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: failed.append(str(error)))
            page.goto(client.origin + "/")
            page.wait_for_selector("body[data-ready]")
            yield page
            assert failed == []
            own = (client.origin + "/", "data:", "blob:")
            assert [url for url in asked if not url.startswith(own)] == []
        finally:
            browser.close()


def pixels(page: Any, pane: str) -> np.ndarray[Any, Any]:
    """What a pane shows, (rows, columns, 3)."""
    content = page.locator(f"#pane-{pane} .screen").screenshot()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def steady(page: Any, pane: str, *, unlike: np.ndarray[Any, Any] | None = None) -> Any:
    """What a pane shows once two pictures in a row agree, and, where asked for, differ from an earlier one."""
    until, before = time.monotonic() + 20, pixels(page, pane)
    while time.monotonic() < until:
        page.wait_for_timeout(100)
        now = pixels(page, pane)
        if np.array_equal(before, now) and not (unlike is not None and np.array_equal(unlike, now)):
            return now
        before = now
    raise AssertionError(f"pane {pane} does not become steady, or stays as it was")


def drop(page: Any, *paths: Path) -> None:
    """Let files or folders fall onto the page, as from the windows of a file manager."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": 400, "y": 300, "data": data}
        session.send("Input.dispatchDragEvent", event)
    session.detach()


def downloads(page: Any) -> dict[str, Path]:
    """What the links of a result give: label -> a file."""
    found = {}
    for link in page.locator("#downloads a").all():
        with page.expect_download() as started:
            link.click()
        found[link.text_content()] = Path(started.value.path())
    return found
