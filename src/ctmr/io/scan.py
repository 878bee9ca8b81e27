"""Any readable scan, by what its path is: an image, a volume file, or a folder or archive with a DICOM series."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ctmr.errors import DataError, UsageError
from ctmr.imaging.image import Image, Scan
from ctmr.io.codecs import is_image_name
from ctmr.io.dicom.archive import is_archive_name
from ctmr.io.dicom.series import find_dicom, read_series
from ctmr.io.image_info import INFO_NAME, ImageInfo, read_image_info
from ctmr.io.images import read_image, save_image
from ctmr.io.volumes import WRITTEN, read_volume_file, volume_bytes, volume_suffix
from ctmr.io.voxels import Geometry
from ctmr.system.files import content_digest
from ctmr.system.ownership import write_own

Kind = Literal["image", "volume", "series"]

# Written into every volume file, at most 79 bytes.
DESCRIPTION = "SYNTHETIC (ctmr): research use only, not for diagnosis"
READABLE = "PNG, JPEG or TIFF images, NIfTI, MetaImage, NRRD or MGZ volumes, or DICOM series, each a folder or a .zip"


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
    return kind_by_name(path)


def kind_by_name(path: Path) -> Kind | None:
    """What sort of scan a file is by its suffix; it need not be there."""
    if volume_suffix(path) is not None:
        return "volume"
    if is_archive_name(path):
        return "series"
    return "image" if is_image_name(path) else None


def stem_of(path: Path) -> str:
    """The name without the suffix of an image, a volume file or an archive; that of a folder whole."""
    suffix = volume_suffix(path)
    if suffix is not None:
        return path.name[: -len(suffix)]
    return path.stem if is_image_name(path) or is_archive_name(path) else path.name


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


def info_place(folder: Path, root: Path) -> Path:
    """The nearest folder that holds a `ctmr.json`, from a folder in a tree up to its root; itself if there is none."""
    places = (folder, *folder.parents)[: len(folder.relative_to(root).parts) + 1]
    return next((place for place in places if (place / INFO_NAME).exists()), folder)


def info_within(folder: Path, root: Path) -> ImageInfo:
    """What the `ctmr.json` of a folder in a tree says, else that of the nearest folder above it, up to the root.

    `files` of the latter names images by their paths below its own folder.

    Raises:
        DataError: If it says anything that is not understood.
    """
    place = info_place(folder, root)
    info = read_image_info(place)
    if place == folder:
        return info
    start = folder.relative_to(place).as_posix() + "/"
    below = {name: mm for name, mm in info.files.items() if name.startswith(start)}
    return replace(info, files={name.removeprefix(start): mm for name, mm in below.items()})


def read_scan(
    path: Path | str, *, geometry: Geometry | None = None, info: ImageInfo | None = None
) -> Scan:
    """The scan in an image file, a volume file, or a folder or `.zip` that holds one DICOM series.

    Args:
        path: A file or a folder.
        geometry: What to believe where the header of a volume file contradicts itself or says nothing; see
            `ctmr.io.nifti.read_nifti`.
        info: What holds for an image, if the caller knows it (`info_within`).

    Returns:
        An image, in HU where a `ctmr.json` beside it says so; or a volume in HU (CT) or scanner units (MR), whose
        modality is None where it comes from a volume file, which does not say it.

    Raises:
        DataError: If it cannot be read.
        SafetyError: If left and right, or the place of the slices, are not certain.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "series":
        return read_series(path).volume
    if kind == "volume":
        return read_volume_file(path, geometry=geometry)
    if path.is_dir():
        raise DataError(
            "expected one scan: found a folder that is not a DICOM series",
            file=path,
            fix="name a file, or the folder of one series",
        )
    return read_image(path, info=info)


def read_scan_within(path: Path, root: Path) -> Scan:
    """The scan at a path of a tree, whose images a `ctmr.json` beside them, or above them up to the root, describes."""
    return read_scan(
        path, info=info_within(path.parent, root) if kind_of(path) == "image" else None
    )


def write_scan(path: Path | str, scan: Scan, *, overwrite: bool = False) -> None:
    """Write a scan: an image by its suffix, with a `ctmr.json` if it is in HU; a volume too, on its own grid.

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
    elif volume_suffix(path) in WRITTEN:
        content = volume_bytes(path, scan, DESCRIPTION)
        write_own(path, content, overwrite=overwrite, kind="scans")
    else:
        raise UsageError(
            f"a volume is written as {', '.join(WRITTEN)}: found {path.suffix!r}",
            file=path,
            fix="change the suffix; ctmr translate writes DICOM",
        )


def _named_scans(folder: Path) -> Sequence[str]:
    """Names in a folder that are images or volumes by their suffix; an archive may lie beside the series it holds."""
    try:
        return [
            name
            for name in os.listdir(folder)
            if not name.startswith(".") and kind_by_name(Path(name)) in ("image", "volume")
        ]
    except OSError:
        return []
