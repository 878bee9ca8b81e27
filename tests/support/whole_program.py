"""Commands called as a user calls them, on small heads in files as other programs write them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileDataset, FileMetaDataset
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.synthetic.head import synthesise_head
from support import tiny
from support.volume_files import foreign_file

HEAD = synthesise_head(50, shape=(36, 42, 12), spacing_mm=(5.0, 5.0, 12.0))
CT = np.rint(HEAD.ct).astype(np.float32)
MR = np.rint(HEAD.mr * (900 / HEAD.mr.max())).astype(np.float32)
TINY = [*tiny.TINY, "--set", "data.pixel_mm=7", "--steps", "2"]


def called(*words: object, code: int = 0) -> str:
    """What a command says in one line; its exit code is looked at."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return " ".join(done.output.split())


def file_of(path: Path, array: np.ndarray, affine: np.ndarray = HEAD.affine) -> Path:
    """A volume as nibabel or SimpleITK write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.name.endswith((".nii", ".nii.gz")):
        return foreign_file(path, array, affine)
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def seen(path: Path) -> np.ndarray:
    """The voxels (I, J, K), as SimpleITK reads any format but MGZ."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).transpose(2, 1, 0)


def pixels_of(folder: Path) -> np.ndarray:
    """A series by the names of its files, as SimpleITK reads it."""
    return SimpleITK.GetArrayFromImage(
        SimpleITK.ReadImage([str(path) for path in sorted(folder.glob("*.dcm"))])
    )


def series_of(
    folder: Path, array: np.ndarray, number: int = 1, patient: str = "A", **tags: object
) -> list[Path]:
    """Add the slices of a head to a folder: a CT if it has values below 0."""
    volume = Volume(array, HEAD.affine, "ct" if array.min() < 0 else "mr")
    made = folder / "made"
    paths = []
    for k, path in enumerate(phantom_series(made, volume, name=patient, study="S")):
        image = dcmread(path)
        image.SeriesNumber, image.SeriesInstanceUID = number, f"2.25.{number}"
        image.SOPInstanceUID = f"2.25.{number}.{k + 1}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        for keyword, value in tags.items():
            setattr(image, keyword, value)
        image.save_as(folder / f"{number}_{path.name}")
        path.unlink()
        paths.append(folder / f"{number}_{path.name}")
    made.rmdir()
    return paths


def object_of(path: Path, modality: str, sop_class: str) -> None:
    """A DICOM object that is no image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid.generate_uid()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    content = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    content.SOPClassUID, content.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    content.Modality, content.PatientID = modality, "A"
    content.StudyInstanceUID = content.SeriesInstanceUID = uid.generate_uid()
    content.save_as(path, enforce_file_format=True)
