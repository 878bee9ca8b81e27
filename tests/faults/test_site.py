"""The built pages of the documents open from a folder, whole, and ask nobody outside for anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.browser import CHROMIUM, need

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_ask_for_nothing_from_outside(site):
    need(CHROMIUM, "chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        asked = list[str]()
        page.on("request", lambda request: asked.append(request.url))
        for each in pages:
            page.goto(each.as_uri())
            assert page.locator("h1").first.inner_text(), each
        browser.close()
    assert len(asked) > len(pages)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_references_are_of_the_program_as_it_is(site):
    commands = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    assert "ctmr translate scan.nii.gz ct.nii.gz --to ct" in commands
    assert "model_sha256" in (site / "reference" / "files.html").read_text(encoding="utf-8")
    assert "E300" in (site / "reference" / "errors.html").read_text(encoding="utf-8")
