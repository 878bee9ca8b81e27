"""Which of some 50 folders of DICOM files SimpleITK and ctmr read rightly: voxels and geometry, against what was written.

    python benchmarks/series_readers.py [--work DIR] [--only TEXT] [--json]

Each folder is a small synthetic head whose files were changed as scanners, archives and scripts change them. "right": every
series has its voxels within 0.5 and its corners within 0.01 mm. An option is named where ctmr needs it.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from ctmr.errors import CtmrError
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.grouping import list_series
from ctmr.io.dicom.series import read_series
from series_folders import FOLDERS, Case

RIGHT, WRONG = "right", "wrong"
OPTIONS: tuple[tuple[str, bool, bool], ...] = (
    *(("", False, False), ("--irregular", True, False)),
    *(("--ct-values hu", False, True), ("--irregular --ct-values hu", True, True)),
)


def main() -> None:
    """Write each folder, read it twice, and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, help="keep the folders here")
    parser.add_argument("--only", default="", help="folders whose names hold this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    print("| folder | SimpleITK | ctmr | with |\n|---|---|---|---|")
    rows = {}
    with _place(options.work) as work:
        for name, case in FOLDERS.items():
            if options.only in name:
                folder = work / name.replace(" ", "_").replace("/", "_")
                rows[name] = row = compare(case, folder)
                print(
                    f"| {name} | {row['simpleitk']} | {row['ctmr']} | {row['with']} |", flush=True
                )
    if options.json:
        print(json.dumps(rows))


def compare(case: Case, folder: Path) -> dict[str, str]:
    """Who reads a folder rightly, and with what option."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = case(folder)
    theirs = read_by_simpleitk(folder, truth)
    for text, irregular, vouched in OPTIONS:
        here, said = read_by_ctmr(folder, truth, irregular, vouched)
        if here == RIGHT:
            return {"simpleitk": theirs, "ctmr": RIGHT, "with": text}
    here, said = read_by_ctmr(folder, truth, False, False)
    return {"simpleitk": theirs, "ctmr": here, "with": said}


def read_by_ctmr(
    folder: Path, truth: list[Volume], irregular: bool, vouched: bool
) -> tuple[str, str]:
    """Whether the scans of a folder are read rightly, else why not."""
    try:
        scans = [one for one in list_series(folder).series if one.kind == "scan"]
        volumes = [read_series(one, irregular=irregular, vouched=vouched).volume for one in scans]
    except CtmrError as error:
        return f"refused (exit {error.exit_code})", error.what.replace("|", "/")[:100]
    found = [(volume.array, corners(volume.affine, volume.array.shape)) for volume in volumes]
    return (RIGHT if _matches(found, truth) else WRONG), ""


def read_by_simpleitk(folder: Path, truth: list[Volume]) -> str:
    """Whether `ImageSeriesReader` reads every series of a folder rightly."""
    reader = SimpleITK.ImageSeriesReader
    found = []
    try:
        for uid in reader.GetGDCMSeriesIDs(str(folder)):
            image = SimpleITK.ReadImage(reader.GetGDCMSeriesFileNames(str(folder), uid))
            array = SimpleITK.GetArrayFromImage(image)
            if array.ndim == 3:  # an image of colours has a fourth
                found.append((array.T, simpleitk_corners(image)))
    except RuntimeError:
        return "refused"
    return RIGHT if _matches(found, truth) else WRONG


def corners(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The places of the eight corner voxels (2, 2, 2, 3), RAS mm."""
    ends = np.stack(np.meshgrid(*([0, side - 1] for side in shape), indexing="ij"), axis=-1)
    return np.asarray(ends @ affine[:3, :3].T + affine[:3, 3])


def simpleitk_corners(image: SimpleITK.Image) -> NDArray[np.float64]:
    """The same of an image of SimpleITK, which speaks LPS."""
    i, j, k = ([0, side - 1] for side in image.GetSize())
    places = [[[image.TransformIndexToPhysicalPoint((a, b, c)) for c in k] for b in j] for a in i]
    return np.asarray(places) * [-1, -1, 1]


def _matches(
    found: list[tuple[NDArray[np.float32], NDArray[np.float64]]], truth: list[Volume]
) -> bool:
    """Whether each volume that was written is there, with its slices in either order."""
    return all(
        any(
            array.shape == volume.array.shape
            and np.allclose(array[..., ::way], volume.array, atol=0.5)
            and np.allclose(ends[:, :, ::way], corners(volume.affine, array.shape), atol=0.01)
            for array, ends in found
            for way in (1, -1)
        )
        for volume in truth
    )


@contextmanager
def _place(work: Path | None) -> Iterator[Path]:
    if work is not None:
        yield work
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


if __name__ == "__main__":
    main()
