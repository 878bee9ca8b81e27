"""Any readable scan, by what its path is: an image, a NIfTI volume, or a folder with a DICOM series."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ctmr.dicom import find_dicom, is_dicom, read_series
from ctmr.errors import DataError, UsageError, printable
from ctmr.files import content_digest
from ctmr.images import (
    INFO_NAME,
    Image,
    is_image_name,
    is_regular,
    read_image,
    save_image,
)
from ctmr.nifti import Geometry, is_nifti_name, nifti_bytes, read_nifti
from ctmr.ownership import write_own
from ctmr.volume import Volume

Kind = Literal["image", "nifti", "series"]
Scan = Image | Volume

# Written into every NIfTI file, at most 79 bytes.
DESCRIPTION = "SYNTHETIC (ctmr): research use only, not for diagnosis"
READABLE = "PNG, JPEG or TIFF images, NIfTI volumes, or folders with a DICOM series each"

logger = logging.getLogger(__name__)


def kind_of(path: Path) -> Kind | None:
    """What sort of scan a path is; None for a folder of scans and for anything else.

    Raises:
        DataError: If its folder cannot be entered.
    """
    try:
        folder = path.is_dir()
    except OSError as error:
        raise DataError(
            f"cannot look at it ({error.strerror})", file=path, fix="check the permissions"
        ) from error
    if folder:
        return "series" if not _named_scans(path) and find_dicom(path) else None
    if is_nifti_name(path):
        return "nifti"
    return "image" if is_image_name(path) else None


def stem_of(path: Path) -> str:
    """The name without the suffix of an image or NIfTI file; that of a folder whole."""
    if is_nifti_name(path):
        return path.name[: path.name.lower().rindex(".nii")]
    return path.stem if is_image_name(path) else path.name


def find_scans(folder: Path) -> list[Path]:
    """The scans of a folder, sorted by the bytes of their names; sub-folders count where they hold a DICOM series.

    Raises:
        DataError: If the folder cannot be listed, or DICOM files lie in it among other scans.
    """
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)
    except OSError as error:
        raise DataError(
            f"cannot list the folder ({error.strerror})", file=folder, fix="check the path"
        ) from error
    scans: list[Path] = []
    loose, others = 0, 0
    for name in names:
        path = folder / name
        if name.startswith(".") or name == INFO_NAME:
            continue
        if path.is_dir():
            if kind_of(path) == "series":
                scans.append(path)
            elif find_dicom(path):
                raise DataError(
                    "expected DICOM files only, or none, in a sub-folder: found images or NIfTI files"
                    " beside them",
                    file=path,
                    fix="move the other files away",
                )
        elif kind_of(path) is not None:
            if is_regular(path):
                scans.append(path)
            else:
                logger.warning("%s: skipped, it is not a regular file", printable(str(path)))
        elif _is_loose_dicom(path):
            loose += 1
        else:
            others += 1
    if loose:
        raise DataError(
            f"expected each DICOM series in a sub-folder of its own: found {loose} DICOM files"
            " beside each other",
            file=folder,
            fix="move the files of each series into a folder",
        )
    if others:
        logger.warning(
            "%s: skipped %d files that are no scans by name", printable(str(folder)), others
        )
    return scans


def content_hash(path: Path, kind: Kind) -> str:
    """SHA-256 of a file, or over the names and contents of a series' files.

    Raises:
        DataError: If it cannot be read.
    """
    whole = hashlib.sha256()
    for file in find_dicom(path) if kind == "series" else [path]:
        try:
            digest = content_digest(file)
        except OSError as error:
            raise DataError(
                f"cannot read it ({error.strerror})",
                file=file,
                fix="check the path and permissions",
            ) from error
        if kind != "series":
            return digest.hex()
        whole.update(os.fsencode(file.name) + b"\0" + digest)
    return whole.hexdigest()


def read_scan(path: Path | str, *, geometry: Geometry | None = None) -> Scan:
    """The scan in an image file, a NIfTI file or a folder that holds one DICOM series.

    Args:
        path: A file or a folder.
        geometry: What to believe where the header of a NIfTI file contradicts itself or says nothing; see
            `ctmr.nifti.read_nifti`.

    Returns:
        An image, in HU where a `ctmr.json` beside it says so; or a volume in HU (CT) or scanner units (MR), whose
        modality is None where it comes from NIfTI, which does not say it.

    Raises:
        DataError: If it cannot be read.
        SafetyError: If left and right, or the place of the slices, are not certain.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "series":
        return read_series(path).volume
    if kind == "nifti":
        return read_nifti(path, geometry=geometry)
    if path.is_dir():
        raise DataError(
            "expected one scan: found a folder that is not a DICOM series",
            file=path,
            fix="name a file, or the folder of one series",
        )
    return read_image(path)


def write_scan(path: Path | str, scan: Scan, *, overwrite: bool = False) -> None:
    """Write a scan: an image by its suffix, with a `ctmr.json` if it is in HU; a volume as NIfTI, on its own grid.

    Args:
        path: Where it goes; `.ctmr-outputs.json` in that folder lists what ctmr wrote.
        scan: The scan.
        overwrite: Replace a file that ctmr did not write too.

    Raises:
        OutputError: If the format cannot hold the scan, images of another unit are there, a file that ctmr did not write
            is there, or the file cannot be written.
        UsageError: If a volume is to become an image.
    """
    path = Path(path)
    if isinstance(scan, Image):
        save_image(path, scan, overwrite=overwrite)
    elif is_nifti_name(path):
        content = nifti_bytes(path, scan, DESCRIPTION)
        write_own(path, content, overwrite=overwrite, kind="scans")
    else:
        raise UsageError(
            f"a volume is written as .nii or .nii.gz: found {path.suffix!r}",
            file=path,
            fix="change the suffix; ctmr translate writes DICOM",
        )


def _is_loose_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except DataError:  # it cannot be read, and is no scan by name
        return False


def _named_scans(folder: Path) -> Sequence[str]:
    """Names in a folder that are images or NIfTI files by their suffix."""
    try:
        return [
            name
            for name in os.listdir(folder)
            if not name.startswith(".") and (is_image_name(Path(name)) or is_nifti_name(Path(name)))
        ]
    except OSError:
        return []
