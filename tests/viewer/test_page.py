"""The page in chromium, without WebGL: drop, keys, windows, maps, letters, refusals, hostile names."""

import shutil
import time
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctmr import Volume, write_scan
from ctmr.viewer.limits import MAX_BYTES, MAX_FILES
from support.browser import AXE, downloads, drop, need, page_of, pixels, steady
from support.command import by_command, timeless
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


def fall(page: Any, path: Path) -> None:
    """Drop it, and wait until the page asks what to do with it."""
    drop(page, path)
    page.wait_for_selector(f"#order:has(#found:text-is('{path.name}')) #go:focus", timeout=60_000)


def translate(page: Any) -> None:
    page.keyboard.press("Enter")  # the button has the focus
    page.wait_for_selector("#result:visible", timeout=60_000)
    page.wait_for_selector("#values:not(:empty)", timeout=60_000)


@pytest.fixture
def shown(page: Any, scans: Path) -> Any:
    """The page with a CT and its translation, whichever test came before."""
    choose(page, scans / "ct.nii.gz")
    translate(page)
    return page


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


def test_windows_give_the_grey_levels_that_hands_compute(shown: Any) -> None:
    """Air, -1000 HU, is black in each window but wide: (-1000 + 1024) / 4095 of 255 is 1.5."""
    shown.keyboard.press("4")
    shown.wait_for_selector("#presets button[aria-pressed=true]:text-is('wide')")
    shown.wait_for_timeout(300)
    assert pixels(shown, "source")[:6, 20:60].mean() <= 2
    shown.keyboard.press("3")
    shown.wait_for_timeout(300)
    assert "window 2000, level 500 HU" in shown.text_content("#pane-source figcaption")


def test_banner_stands_on_the_page_and_in_the_screenshot(shown: Any) -> None:
    assert "SYNTHETIC" in shown.text_content("#banner")
    assert shown.is_visible("#banner")
    with shown.expect_download() as started:
        shown.click("text=Screenshot")
    from PIL import Image

    shot = np.asarray(Image.open(started.value.path()).convert("RGB")).astype(int)
    assert (shot[2, 5:-5] == (0xFF, 0xB4, 0x54)).all()
    assert shot[5:40, :600].std() > 20  # words


def test_refusal_names_the_way_out_in_the_words_of_the_command(shown: Any) -> None:
    shown.select_option("#to", "ct")
    shown.click("#go")
    shown.wait_for_selector("#error:visible", timeout=60_000)
    assert "expected MR: found the values of a CT in HU" in shown.text_content("#error")
    assert shown.is_visible("#anyway")
    shown.check("#anyway")
    shown.click("#go")
    shown.wait_for_selector("#result:visible", timeout=60_000)
    assert "SYNTHETIC CT" in shown.text_content("#pane-translation figcaption")


def server_names(dropped: Path, folder: Path) -> None:
    """Lay what was dropped into `folder/scan`, called as the server calls it."""
    (folder / "scan").mkdir()
    if dropped.suffix == ".zip":
        with zipfile.ZipFile(dropped) as archive:
            for n, member in enumerate(archive.infolist(), 1):
                (folder / "scan" / f"{n:04}.dcm").write_bytes(archive.read(member))
        return
    files = sorted(
        (path for path in dropped.rglob("*") if path.is_file()), key=lambda one: one.name
    )
    for n, path in enumerate(files or [dropped], 1):
        end = ".dcm" if files else "." + path.name.partition(".")[2]
        shutil.copy(path, folder / "scan" / f"{n:04}{end}")


def require_same(page: Any, out: Path) -> None:
    """Compare what the page offers with what the command has written, byte for byte."""
    found = {label: path.read_bytes() for label, path in downloads(page).items()}
    (preview,) = out.rglob("*.preview.png")
    assert found.pop("Preview") == preview.read_bytes()
    sidecar = preview.with_name(preview.name.replace(".preview.png", ".json"))
    assert timeless(found.pop("JSON")) == timeless(sidecar.read_bytes())
    result = sidecar.with_name(timeless(sidecar.read_bytes())["result"])
    if result.is_dir():
        (out / "found.zip").write_bytes(found.pop("Translation"))
        with zipfile.ZipFile(out / "found.zip") as archive:
            packed = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        assert packed == {path.name: path.read_bytes() for path in result.iterdir()}
        assert found.pop("NIfTI")[:2] == b"\x1f\x8b"
    else:
        assert found.pop("Translation") == result.read_bytes()
    assert found == {}


@pytest.mark.parametrize("name", ["sixty", "dicom.zip", "slice.png", "mr.nii.gz"])
def test_what_is_dropped_comes_out_as_the_command_writes_it(
    page: Any, scans: Path, tmp_path: Path, name: str
) -> None:
    fall(page, scans / name)
    translate(page)
    assert "SYNTHETIC CT" in page.text_content("#pane-translation figcaption")
    server_names(scans / name, tmp_path)
    require_same(page, by_command(tmp_path, "ct"))


def test_map_lies_over_the_source_as_far_as_the_slider_says(page: Any, scans: Path) -> None:
    choose(page, scans / "mr.nii.gz")
    translate(page)
    assert page.locator("#over option").count() == 1
    page.click("#full")
    page.wait_for_selector("#over option[value=cycle_error]", state="attached", timeout=60_000)
    page.select_option("#over", "cycle_error")
    assert "UNCERTAINTY" in page.text_content("#pane-blend figcaption")
    page.wait_for_selector("#values:has-text('cycle error')", timeout=60_000)
    shares = []
    for percent in ("0", "50", "100"):
        page.fill("#opacity", percent)
        shown = steady(page, "blend")[:-60]  # without the mark below
        shares.append((shown[..., 0] - shown[..., 1]).clip(min=0).mean())  # red, and not white
    assert shares[0] < 0.1
    assert shares[0] + 0.2 < shares[1] < shares[2] - 0.2


def test_map_that_does_not_rank_the_error_is_hidden(page: Any) -> None:
    def worse(route: Any) -> None:
        answer = route.fetch()
        told = answer.json()
        for model in told["models"]:
            model["correlations"] = {"mr-to-ct": {"cycle_error": {"spearman": -0.1}}}
        route.fulfill(response=answer, json=told)

    page.route("**/models", worse)
    page.reload()
    page.click("#scans li:first-child button")  # the one above
    page.wait_for_selector("#over option[value=disagreement]", state="attached")
    assert page.locator("#over option[value=cycle_error]").count() == 0
    assert "does not rank the true error is hidden" in page.text_content("#view-note")
    page.unroute("**/models")
    page.reload()
    page.wait_for_selector("body[data-ready]")


def test_one_of_several_series_is_chosen(page: Any, scans: Path, tmp_path: Path) -> None:
    fall(page, scans / "two")
    assert page.locator("#series option").count() == 3
    (value,) = [
        option.get_attribute("value")
        for option in page.locator("#series option").all()
        if "  CT  " in option.text_content()
    ]
    page.select_option("#series", value)
    page.select_option("#to", "mr")
    page.focus("#go")
    translate(page)
    assert "SOURCE CT" in page.text_content("#pane-source figcaption")
    server_names(scans / "two", tmp_path)
    require_same(page, by_command(tmp_path, "mr", "--series", value))


def test_more_than_the_limit_is_refused_before_it_is_sent(page: Any, tmp_path: Path) -> None:
    with (tmp_path / "huge.nii").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no space
    drop(page, tmp_path / "huge.nii")
    page.wait_for_selector("#error:visible")
    said = f"expected at most {MAX_BYTES} bytes and {MAX_FILES} files: found {MAX_BYTES + 1} and 1"
    assert said in page.text_content("#error")


def test_cancel_ends_a_translation_within_two_seconds(page: Any, scans: Path) -> None:
    fall(page, scans / "sixty")
    page.keyboard.press("Enter")
    page.wait_for_selector("#cancel:focus")
    started = time.monotonic()
    page.keyboard.press("Enter")
    page.wait_for_selector("#say:text-is('Cancelled')", timeout=2000)
    assert time.monotonic() - started < 2
    assert page.is_visible("#go")


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
