"""Small scans that the model in the package takes: heads of 12 and 60 slices, as files and as DICOM, and a picture."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctmr import Volume, write_scan
from ctmr.io.dicom.writer import phantom_series
from ctmr.synthetic.head import synthesise_head


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with volumes, a picture and DICOM; not to be changed.

    `mr.nii.gz`, `ct.nii.gz`, `slice.png`; `dicom/`, also as `dicom.zip`; `sixty/`, a series of 60 slices; `two/`, with
    a CT and an MR.
    """
    folder = tmp_path_factory.mktemp("scans")
    head = synthesise_head(3, shape=(64, 64, 12), spacing_mm=(4, 4, 12))
    ct, mr = (
        Volume(array.astype(np.float32), head.affine, modality)
        for array, modality in ((head.ct, "ct"), (head.mr, "mr"))
    )
    write_scan(folder / "ct.nii.gz", ct)
    write_scan(folder / "mr.nii.gz", mr)
    (folder / "dicom").mkdir()
    paths = phantom_series(folder / "dicom", mr, name="Canary^Name", study="x")
    with zipfile.ZipFile(folder / "dicom.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n, path in enumerate(paths):
            archive.write(path, f"../../<img src=x onerror=alert(1)>{n}")
    sixty = synthesise_head(3, shape=(64, 64, 60), spacing_mm=(4, 4, 2.5))
    (folder / "sixty").mkdir()
    volume = Volume(sixty.mr.astype(np.float32), sixty.affine, "mr")
    phantom_series(folder / "sixty", volume, name="Canary^Name", study="y")
    for scan in (ct, mr):
        (folder / "two" / str(scan.modality)).mkdir(parents=True)
        phantom_series(folder / "two" / str(scan.modality), scan, name="A", study="z")
    plane = mr.array[::-1, ::-1, 8].T / mr.array[..., 8].max() * 255
    Image.fromarray(np.kron(plane, np.ones((4, 4))).astype(np.uint8)).save(folder / "slice.png")
    return folder
