"""The page in chromium, without WebGL: drop, keys, windows, letters, refusals, hostile names."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctmr import Volume, write_scan
from support.browser import AXE, need, page_of, pixels
from support.view import Client, view

HOSTILE = ["<img src=x onerror=alert(1)>.png", "\u202egnp.tac.png", "a" * 240 + ".png"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with view(temporary=tmp_path_factory.mktemp("view")) as client:
        yield client


@pytest.fixture(scope="module")
def page(served: Client) -> Iterator[Any]:
    with page_of(served) as opened:
        yield opened


def choose(page: Any, *paths: Path) -> None:
    page.set_input_files("#files", [str(path) for path in paths])
    page.wait_for_selector("#go:visible, #error:visible", timeout=60_000)


def translate(page: Any) -> None:
    page.keyboard.press("Enter")  # the button has the focus
    page.wait_for_selector("#result:visible", timeout=60_000)
    page.wait_for_selector("#values:not(:empty)", timeout=60_000)


def test_keyboard_alone_leads_from_a_volume_to_its_download(
    page: Any, served: Client, scans: Path
) -> None:
    choose(page, scans / "ct.nii.gz")
    assert page.input_value("#to") == "mr"
    translate(page)
    assert "no WebGL 2" in page.text_content("#view-note")
    assert "SYNTHETIC MR" in page.text_content("#pane-translation figcaption")
    page.focus("#downloads a:first-child")
    with page.expect_download() as started:
        page.keyboard.press("Enter")
    job = served.ask("GET", "/jobs").json["jobs"][0]["id"]
    content = Path(started.value.path()).read_bytes()
    assert content == served.ask("GET", f"/jobs/{job}/results/result").body
    assert started.value.suggested_filename == "ct-synthetic.nii.gz"
    page.focus("#pane-source .screen")
    for key, plane in (("c", "coronal"), ("s", "sagittal"), ("m", "all"), ("a", "axial")):
        page.keyboard.press(key)
        page.wait_for_selector(f"#planes button[aria-pressed=true]:text-is('{plane}')")
    before = page.text_content("#at")
    page.keyboard.press("ArrowUp")
    page.wait_for_selector("#at:text-is('8 of 12')")
    assert before == "7 of 12"
    assert page.get_attribute("#values", "data-mm").count(" ") == 2


def test_windows_give_the_grey_levels_that_hands_compute(page: Any) -> None:
    """Air, -1000 HU, is black in each window but wide: (-1000 + 1024) / 4095 of 255 is 1.5."""
    page.keyboard.press("4")
    page.wait_for_selector("#presets button[aria-pressed=true]:text-is('wide')")
    page.wait_for_timeout(300)
    assert pixels(page, "source")[:6, 20:60].mean() <= 2
    page.keyboard.press("3")
    page.wait_for_timeout(300)
    assert "window 2000, level 500 HU" in page.text_content("#pane-source figcaption")


def test_banner_stands_on_the_page_and_in_the_screenshot(page: Any) -> None:
    assert "SYNTHETIC" in page.text_content("#banner")
    assert page.is_visible("#banner")
    with page.expect_download() as started:
        page.click("text=Screenshot")
    from PIL import Image

    shot = np.asarray(Image.open(started.value.path()).convert("RGB")).astype(int)
    assert (shot[2, 5:-5] == (0xFF, 0xB4, 0x54)).all()
    assert shot[5:40, :600].std() > 20  # words


def test_refusal_names_the_way_out_in_the_words_of_the_command(page: Any, scans: Path) -> None:
    page.select_option("#to", "ct")
    page.click("#go")
    page.wait_for_selector("#error:visible", timeout=60_000)
    assert "expected MR: found the values of a CT in HU" in page.text_content("#error")
    assert page.is_visible("#anyway")
    page.check("#anyway")
    page.click("#go")
    page.wait_for_selector("#result:visible", timeout=60_000)
    assert "SYNTHETIC CT" in page.text_content("#pane-translation figcaption")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_is_shown_as_text(page: Any, scans: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((scans / "slice.png").read_bytes())
    choose(page, tmp_path / name)
    assert page.text_content("#found") == name
    assert page.locator("#found img").count() == 0
    translate(page)
    assert page.locator("#scans img").count() == 0
    assert "does not say where left and right are" in page.text_content("#view-note")


def test_wedge_on_the_right_of_the_patient_stands_at_the_left(
    page: Any, served: Client, tmp_path: Path
) -> None:
    """A bright corner on the right, front and top of a head-like ball, in a volume stored from right to left."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (48, 48, 24)], indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    array = np.where(radius < 0.8, 40, -1000) + np.where((radius < 0.9) & (radius >= 0.8), 800, 0)
    array = np.where((radius < 0.7) & (grid[0] > 0.2), 75, array)  # on the right
    volume = Volume(array[::-1].astype(np.float32), np.diag([-4.0, 4.0, 7.0, 1.0]), "ct")
    write_scan(tmp_path / "wedge.nii.gz", volume)
    choose(page, tmp_path / "wedge.nii.gz")
    page.select_option("#to", "mr")
    if page.get_attribute("#options", "open") is None:
        page.click("#options summary")
    page.check("#anyway")
    page.click("#go")
    page.wait_for_selector("#result:visible", timeout=60_000)
    page.focus("#pane-source .screen")
    page.keyboard.press("1")
    for key in ("a", "c"):
        page.keyboard.press(key)
        page.wait_for_timeout(500)
        shown = pixels(page, "source")[..., 0]
        width = shown.shape[1]
        left, right = shown[:, : width // 2 - 20], shown[:, width // 2 + 20 :]
        bright = [((half > 225) & (half < 250)).sum() for half in (left, right)]
        assert bright[0] > 10 * max(1, bright[1]), (key, bright)


def test_nothing_overlaps_on_a_tablet(page: Any) -> None:
    page.set_viewport_size({"width": 1024, "height": 768})
    boxes = [
        page.locator(f"#pane-{pane}").bounding_box() for pane in ("source", "translation", "blend")
    ]
    assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))
    assert boxes[2]["x"] + boxes[2]["width"] <= 1024
    page.set_viewport_size({"width": 640, "height": 360})  # 1280 x 720 at 200 %
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= 640
    page.set_viewport_size({"width": 1280, "height": 720})


def test_axe_finds_nothing_serious(served: Client, page: Any) -> None:
    need(AXE.is_file(), "axe-core")
    session = page.context.new_cdp_session(page)  # the policy does not let text be evaluated
    source = AXE.read_text(encoding="utf-8")
    session.send("Runtime.evaluate", {"expression": source})
    run = "axe.run().then((found) => JSON.stringify(found.violations))"
    answer = session.send("Runtime.evaluate", {"expression": run, "awaitPromise": True})
    import json

    violations = json.loads(answer["result"]["value"])
    serious = [each["id"] for each in violations if each["impact"] in ("serious", "critical")]
    assert serious == []
