"""Any readable scan, by what its path is: an image, a volume file, or a folder, archive or multi-frame file with a DICOM series."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ctmr.errors import DataError, UsageError, printable
from ctmr.imaging.ct_values import with_ct_values
from ctmr.imaging.image import Image, Scan
from ctmr.imaging.volume import Volume
from ctmr.io.codecs import is_image_name
from ctmr.io.dicom.recognise import find_dicom, is_archive, is_archive_name, is_dicom
from ctmr.io.fetched import require_fetched
from ctmr.io.image_info import INFO_NAME, ImageInfo, read_image_info
from ctmr.io.images import read_image, save_image
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.volumes import WRITTEN, read_volume_file, volume_bytes, volume_suffix
from ctmr.system.files import content_digest
from ctmr.system.ownership import write_own
from ctmr.types import OTHER, Modality

if TYPE_CHECKING:  # pydicom takes a third of a second to import: only for what is DICOM
    from ctmr.io.dicom.grouping import SeriesFiles
    from ctmr.io.dicom.series import Series

Kind = Literal["image", "volume", "series"]

# Written into every volume file, at most 79 bytes.
DESCRIPTION = "SYNTHETIC (ctmr): research use only, not for diagnosis"
READABLE = "PNG, JPEG or TIFF images, NIfTI, MetaImage, NRRD or MGZ volumes, or DICOM series, each a folder, a .zip or a multi-frame file"


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
        return "series" if not _named_volumes(path) and find_dicom(path) else None
    kind = kind_by_name(path)
    if kind is not None or not is_dicom(path):
        return kind
    from ctmr.io.dicom.files import is_multi_frame

    return "series" if is_multi_frame(path) else None


def no_scan(path: Path) -> DataError:
    """What is said of a file that is none."""
    if not path.exists():
        return DataError("no such file", file=path, fix="check the path")
    if path.is_file() and is_dicom(path):
        return DataError(
            "expected a DICOM series: found one file of it",
            file=path,
            fix=f"give its folder, {printable(str(path.parent))}",
        )
    what = f"expected {READABLE}: found another file"
    return DataError(what, file=path, fix="convert it, or name another")


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


def content_hash(
    path: Path,
    kind: Kind,
    series: "SeriesFiles | None" = None,
    digest: Callable[[Path], bytes] = content_digest,
) -> str:
    """SHA-256 of a file, or over the names and contents of a series' files, by default of all that are in the folder.

    Of an archive it is over the whole of it and the names of the series' files. `digest` gives the SHA-256 of a file.

    Raises:
        DataError: If it cannot be read.
    """
    whole = hashlib.sha256()
    require_fetched(path)
    files = [path]
    chosen = sorted(series.files, key=bytes) if series is not None else []
    if is_archive(path):
        whole.update(b"".join(os.fsencode(file.name) + b"\0" for file in chosen))
    elif kind == "series":
        files = chosen or find_dicom(path)
    for file in files:
        try:
            found = digest(file)
        except OSError as error:
            raise DataError(
                f"cannot read it ({error.strerror})",
                file=file,
                fix="check the path and permissions",
            ) from error
        if kind != "series":
            return found.hex()
        whole.update(os.fsencode(file.name) + b"\0" + found)
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
    path: Path | str,
    *,
    modality: Modality | None = None,
    reading: Reading = DEFAULT,
    info: ImageInfo | None = None,
) -> Scan:
    """The scan in an image file, a volume file, or a folder, `.zip` or multi-frame file that holds one DICOM series.

    Args:
        path: A file or a folder.
        modality: What it is taken for, if the caller knows it.
        reading: What to believe where the scan says too little. Its `ct_values` hold unless the scan is an MR.
        info: What holds for an image, if the caller knows it (`info_within`).

    Returns:
        An image, in HU where a `ctmr.json` beside it says so; or a volume in HU (CT) or scanner units (MR), whose
        modality is None where it comes from a volume file, which does not say it.

    Raises:
        DataError: If it cannot be read.
        SafetyError: If left and right, or the place of the slices, are not certain.
    """
    return read_with_series(Path(path), modality=modality, reading=reading, info=info)[0]


def read_with_series(
    path: Path,
    *,
    modality: Modality | None = None,
    reading: Reading = DEFAULT,
    info: ImageInfo | None = None,
    files: "SeriesFiles | None" = None,
    as_stored: bool = False,
) -> "tuple[Scan, Series | None]":
    """As `read_scan`, and the DICOM series that the scan comes from, if it does.

    Args:
        path: See `read_scan`.
        modality: See `read_scan`.
        reading: See `read_scan`.
        info: See `read_scan`.
        files: One of several series in a folder.
        as_stored: Leave a volume file's voxels of up to 16 bits as they are (`Volume.array`), which takes half of the memory.
    """
    require_fetched(path)
    kind, series = kind_of(path), None
    scan: Scan
    if kind == "series" or files is not None:
        from ctmr.io.dicom.series import read_series

        vouched = reading.ct_values is not None and modality != "mr"
        one = files or one_series(path, modality, reading)
        series = read_series(one or path, irregular=reading.irregular, vouched=vouched)
        scan = series.volume
    elif kind == "volume":
        volume = read_volume_file(path, geometry=reading.geometry)
        scan = volume if as_stored else volume.in_float()
    elif path.is_dir():
        raise DataError(
            "expected one scan: found a folder that is not a DICOM series",
            file=path,
            fix="name a file, or the folder of one series",
        )
    elif kind is None:
        raise no_scan(path)
    else:
        scan = read_image(path, info=info)
    known = modality or (scan.modality if isinstance(scan, Volume) else None)
    if reading.ct_values is not None and known != "mr":
        scan = with_ct_values(scan, reading.ct_values)
    return scan, series


def one_series(
    folder: Path, modality: Modality | None, reading: Reading = DEFAULT
) -> "SeriesFiles | None":
    """The series that is meant of several in a folder; None if it has one.

    Raises:
        UsageError: If several are meant, or one that is wanted is not there.
    """
    from ctmr.io.dicom.grouping import choose_series, list_series, series_rows

    series = list_series(folder).series
    if not reading.series and sum(one.kind == "scan" for one in series) <= 1:
        return None
    chosen = choose_series(series, reading.series, OTHER[modality] if modality else None)
    if len(chosen) == 1:
        return chosen[0]
    listed = "; ".join(" ".join(row) for row in series_rows(chosen))
    raise UsageError(
        f"expected one series: found {len(chosen)} of {len(series)}: {listed}",
        file=folder,
        fix="choose one with --series NUMBER",
    )


def read_scan_within(
    path: Path, root: Path, *, modality: Modality | None = None, reading: Reading = DEFAULT
) -> Scan:
    """The scan at a path of a tree, whose images a `ctmr.json` beside them, or above them up to the root, describes."""
    info = info_within(path.parent, root) if kind_of(path) == "image" else None
    return read_scan(path, modality=modality, reading=reading, info=info)


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


def _named_volumes(folder: Path) -> Sequence[str]:
    """Names in a folder that are volume files by their suffix."""
    try:
        return [name for name in os.listdir(folder) if kind_by_name(Path(name)) == "volume"]
    except OSError:
        return []
