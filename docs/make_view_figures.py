"""Draws the pictures of docs/how-to/view.md: the page in chromium, with synthetic heads.

    python docs/make_view_figures.py [--runs FOLDER] [--slices]

Without `--runs` the picture of two runs is left as it is, with `--slices` those with WebGL are.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ctmr import Volume, write_scan
from ctmr.synthetic.head import synthesise_head
from support.browser import page_of
from support.view import Client, view

IMAGES = Path(__file__).parent / "images"


def choose(page: Any, path: Path) -> None:
    page.set_input_files("#files", [str(path)])
    page.wait_for_selector("#go:visible, #error:visible", timeout=120_000)


def translated(page: Any, path: Path, *, anyway: bool = False) -> None:
    choose(page, path)
    if anyway:
        page.click("#options summary")
        page.check("#anyway")
    page.click("#go")
    page.wait_for_selector("#result:visible", timeout=300_000)
    page.wait_for_selector("#values:not(:empty)", timeout=300_000)
    page.focus("#pane-source .screen")
    page.wait_for_timeout(1000)


def save(page: Any, name: str) -> None:
    page.screenshot(path=IMAGES / f"view-{name}.png")


def draw_volumes(client: Client, folder: Path) -> None:
    with page_of(client, webgl=True) as page:
        translated(page, folder / "head-mr.nii.gz")
        save(page, "mr")
        translated(page, folder / "head-ct.nii.gz")
        page.keyboard.press("m")
        page.wait_for_timeout(1500)
        save(page, "ct")


def draw_slices(page: Any, folder: Path) -> None:
    translated(page, folder / "noisy.nii.gz", anyway=True)
    save(page, "warning")
    translated(page, folder / "head-ct.nii.gz")
    page.keyboard.press("c")
    page.wait_for_timeout(500)
    save(page, "slices")
    page.set_viewport_size({"width": 1024, "height": 768})
    page.wait_for_timeout(500)
    save(page, "tablet")
    page.set_viewport_size({"width": 1280, "height": 720})
    page.select_option("#to", "ct")
    page.click("#go")
    page.wait_for_selector("#error:visible", timeout=120_000)
    save(page, "refusal")


def draw_runs(page: Any) -> None:
    page.click("#tab-runs")
    page.wait_for_selector("#run-table tbody tr:nth-child(2) input")
    for n in (1, 2):
        page.click(f"#run-table tbody tr:nth-child({n}) input")
        page.wait_for_timeout(700)
    page.wait_for_selector(".run img:visible")
    page.wait_for_timeout(1500)
    save(page, "runs")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--slices", action="store_true")
    options = parser.parse_args()
    runs = options.runs
    head = synthesise_head(7, shape=(128, 128, 48), spacing_mm=(2, 2, 3.75))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, array in (("mr", head.mr), ("ct", head.ct)):
            volume = Volume(array.astype(np.float32), head.affine, kind)  # type: ignore[arg-type]
            write_scan(folder / f"head-{kind}.nii.gz", volume)
        noisy = np.random.default_rng(0).normal(0, 60, head.mr.shape) + head.mr
        write_scan(
            folder / "noisy.nii.gz",
            Volume(np.abs(noisy).astype(np.float32), head.affine, "mr"),
        )
        words = ["--runs", str(runs)] if runs else []
        with view(*words, temporary=folder) as client:
            if not options.slices:
                draw_volumes(client, folder)
            with page_of(client) as page:
                draw_slices(page, folder)
                if runs:
                    draw_runs(page)


if __name__ == "__main__":
    main()
