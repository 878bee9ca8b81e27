"""Nothing real is lost: killed at every rename, and four processes in one folder."""

import contextlib
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ctmr import write_scan
from ctmr.audit.audit import audit
from ctmr.errors import OutputError
from ctmr.evaluation.evaluate import evaluate
from ctmr.imaging.image import Image
from ctmr.imaging.intensity import MR_UNITS
from ctmr.imaging.resampling import Scale
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.image_info import read_image_info, write_image_info
from ctmr.io.reading import Reading
from ctmr.synthetic.head import synthesise_head
from ctmr.system.files import is_draft
from ctmr.system.ownership import LIST_NAME, read_sealed
from ctmr.translation.batch import translate_files
from support.identity import HU, smooth_head, translator

KILL = "signal=SIGKILL"
REAL = b"a real scan of somebody"


def save(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 3, (48, 48))
    Pillow.fromarray((smooth_head(48, 48, 10, 240) + noise).clip(0, 255).astype(np.uint8)).save(
        path
    )


def images(folder: Path, count: int = 2, *, hu: bool = False) -> Path:
    folder.mkdir(parents=True)
    for n in range(count):
        save(folder / f"{n}.png", n)
    if hu:
        write_image_info(folder, "grey", None, {f"{n}.png": (1.0 + n, 1.0) for n in range(count)})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of all files, but for what a killed process left half written."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(map(is_draft, (path, *path.parents)))
    }


# Killed at every rename


def image_work(place):
    source = images(place / "in", hu=True)
    model = translator(ct={"HU": HU})
    return lambda: translate_files(model, source, place / "out", "ct")


def map_work(place):
    source = images(place / "in", 1)
    return lambda: translate_files(translator(), source, place / "out", "ct", quality="full")


def volume():
    head = synthesise_head(11, shape=(36, 42, 8), spacing_mm=(5.0, 5.0, 8.0))
    return Volume(np.rint(head.mr * (900 / head.mr.max())).astype(np.float32), head.affine, "mr")


def nifti_work(place):
    write_scan(place / "in" / "a.nii.gz", volume())
    return volume_work(place)


def series_work(place):
    phantom_series(place / "in" / "a", volume(), name="P1", study="S1")
    return volume_work(place)


def volume_work(place):
    model = translator(ct={"HU": HU}, mr={"MR": MR_UNITS}, scale=Scale(64, 4.0))
    reading = Reading(anyway=True)
    return lambda: translate_files(model, place / "in", place / "out", "ct", reading=reading)


def evaluate_work(place):
    for modality in ("ct", "mr"):
        images(place / "pairs" / modality)
    return lambda: evaluate(translator(), place / "pairs", out=place / "out")


def audit_work(place):
    for n, folder in enumerate(("trainA", "trainB")):
        (place / "data" / folder).mkdir(parents=True)
        save(place / "data" / folder / "a.png", n)
    return lambda: audit(place / "data", place / "out" / "audit.json")


def scan_work(place):
    image = Image(np.full((8, 9), 7, np.float32), "HU", 16, (1.0, 2.0))
    return lambda: write_scan(place / "out" / "a.png", image)


WORKS = {
    "image": (image_work, "out/1.png"),
    "map": (map_work, "out/quality/0_disagreement.png"),
    "nifti": (nifti_work, "out/a.nii.gz"),
    "series": (series_work, "out/a"),
    "evaluate": (evaluate_work, "out/metrics.csv"),
    "audit": (audit_work, "out/audit.html"),
    "scan": (scan_work, "out/a.png"),
}


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over its own"])
@pytest.mark.parametrize("name", WORKS)
def test_killed_at_every_rename_and_run_again_ends_well(sweep, tmp_path, name, earlier):
    make, real = WORKS[name]
    work = make(tmp_path)
    if earlier:
        work()
        before = tmp_path / "before"
        shutil.copytree(tmp_path / "out", before)
    whole: list[set[str]] = []

    def check(_):
        killed = tmp_path / "killed"
        if (tmp_path / "out").exists():
            shutil.copytree(tmp_path / "out", killed)
        work()
        whole.append(set(contents(tmp_path / "out")))
        shutil.rmtree(tmp_path / "out")
        # Once more, with a real scan that somebody put there between the kill and the second try.
        if killed.exists():
            shutil.move(killed, tmp_path / "out")
        place = tmp_path / real
        if place.is_dir():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(REAL)
        with pytest.raises(OutputError):
            work()
        assert place.read_bytes() == REAL
        shutil.rmtree(tmp_path / "out")
        if earlier:
            shutil.copytree(before, tmp_path / "out")

    assert sweep(work, "rename,renameat2", KILL, check) >= 2
    assert all(names == whole[0] for names in whole)


# Several processes, one folder


@pytest.mark.parametrize("resume", [False, True])
def test_four_processes_in_one_folder_lose_no_entry(tmp_path, resume):
    source = images(tmp_path / "in", 12, hu=True)
    model = translator(ct={"HU": HU})
    for n in range(20):
        out = tmp_path / f"out{n}"
        out.mkdir()
        ends = []
        for part in range(4):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
                pid = os.fork()
            if pid == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    for k in range(part, 12, 4):
                        translate_files(model, source / f"{k}.png", out, "ct", resume=resume)
                    code = 0
                os._exit(code)
            ends.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in ends] == [0, 0, 0, 0]
        names = {f"{k}{end}" for k in range(12) for end in (".png", ".preview.png")}
        assert read_image_info(out).files == {f"{k}.png": (1.0 + k, 1.0) for k in range(12)}
        assert {path.name for path in out.glob("*.png")} == names
        assert read_sealed(out / LIST_NAME)["files"].keys() == {"ctmr.json"}
