"""DICOM CT and MR series -> a volume in HU or MR units: which files make a series, and in which order."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ctmr.errors import printable
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.contradictions import contradictions, require_hu
from ctmr.io.dicom.enhanced import frames_of
from ctmr.io.dicom.files import of_all, opened
from ctmr.io.dicom.grouping import SeriesFiles, describe_all, group_files, series_rows
from ctmr.io.dicom.header import SliceFile, hashed, read_header, require, text_of
from ctmr.io.dicom.lean import complete, without_copies
from ctmr.io.dicom.pixels import read_units
from ctmr.io.dicom.recognise import is_archive
from ctmr.io.dicom.validation import affine_of, check_file, check_series
from ctmr.types import FloatArray, Modality

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one CT or MR series, sorted along the slice normal."""

    headers: tuple[Dataset, ...]
    """One per slice, K ascending: the tags of `dicom_file.PATIENT`, `STUDY`, `PLACE` and the source's UIDs; no pixels."""
    volume: Volume
    """I runs along a row (column index), J down a column (row index), K with the slices; HU or MR units."""
    even: bool
    """False if the slices lie unevenly, which is read only if asked for: K of the affine is then a mean."""
    notes: tuple[str, ...]
    """What was left out, without names or identifiers."""
    part: int = 0
    """Which of several volumes of one series it is, from 1; 0: it is the whole series."""

    @property
    def patient(self) -> str | None:
        """A short hash of PatientID (0010,0020), never the ID itself; None where it is empty."""
        identity = text_of(self.headers[0], "PatientID").strip()
        return hashed(identity) if identity else None


def read_series(
    source: Path | SeriesFiles, *, irregular: bool = False, vouched: bool = False
) -> Series:
    """Read a CT or MR series.

    Slices are sorted by ImagePositionPatient (0020,0032) along the normal, never by name or InstanceNumber; a tilted
    gantry gives a sheared affine, nothing is resampled. PixelPaddingValue (0028,0120) becomes -1024 HU in CT, 0 in MR.
    Files that show the same at the same place are taken once.

    Args:
        source: One of `list_series`, or a folder or `.zip` with one series beside localizers, derived images and other
            objects, or an enhanced multi-frame file of one volume. In an archive the files may lie in folders.
        irregular: Read slices that lie unevenly too, see `Series.even`.
        vouched: The caller knows what the values of a CT are: they are read as stored, by RescaleSlope and RescaleIntercept
            where there are any, whatever their unit; padding becomes the lowest value of its slice.

    Raises:
        DataError: If a file is damaged or of a kind that is not read, or there is not exactly one series.
        SafetyError: If patients, geometry or units are missing, contradictory or irregular.
    """
    folder = source.folder if isinstance(source, SeriesFiles) else source
    with opened(folder) as place:
        if isinstance(source, SeriesFiles):
            paths = source.files
            if is_archive(folder):
                paths = tuple(place / path.name for path in paths)
            files, notes = of_all(read_header, paths, place), list[str]()
        else:
            files, notes = _only_series(place)
        images = [image for frames in of_all(frames_of, files, place) for image in frames]
        series = _read(images, notes, place, folder.name, irregular=irregular, vouched=vouched)
    return replace(series, part=source.part) if isinstance(source, SeriesFiles) else series


def _read(
    images: Sequence[SliceFile],
    notes: list[str],
    folder: Path,
    name: str,
    *,
    irregular: bool,
    vouched: bool,
) -> Series:
    """The series of slices in a folder, which messages call `name`; see `read_series`."""
    of_all(lambda image: check_file(image, vouched=vouched), images, folder)
    notes += check_series(images, folder)
    slices = sorted(images, key=lambda image: image.along(images[0].normal))
    slices = without_copies(slices)
    if len(slices) < len(images):
        notes.append(f"{len(images) - len(slices)} copies of slices left out")
    affine, even = affine_of(slices, folder, irregular)
    array, distrusted = _pixels(slices, folder, vouched)
    _warn(name, distrusted, contradictions(slices, array, affine, even), slices)
    modality: Modality = "ct" if slices[0].values["Modality"] == "CT" else "mr"
    if modality == "ct" and not vouched:
        require_hu(slices, array, folder)
    volume = Volume(array.transpose(2, 1, 0), affine, modality)  # (I, J, K)
    return Series(complete(slices, array), volume, even, tuple(notes))


def _warn(
    name: str, distrusted: int, contradicted: Iterable[str], slices: Sequence[SliceFile]
) -> None:
    """Warn of what the headers say and their pictures deny, and of names in the pixels."""
    if distrusted:
        value = slices[0].values.get("PixelPaddingValue")
        logger.warning(
            "%s: PixelPaddingValue (0028,0120) %s lies within the picture (%d pixels): kept as values",
            printable(name),
            int(value) if value is not None else "of some slices",
            distrusted,
        )
    for line in contradicted:
        logger.warning("%s: %s", printable(name), line)
    if any(image.values.get("BurnedInAnnotation") == "YES" for image in slices):
        logger.warning("BurnedInAnnotation (0028,0301) is YES: names may stand in the pixels")


def _pixels(slices: Sequence[SliceFile], folder: Path, vouched: bool) -> tuple[FloatArray, int]:
    """(K, rows, columns) in HU or MR units, and how many pixels are called padding but lie within the picture."""
    rows, columns = slices[0].values["Rows"], slices[0].values["Columns"]
    array = np.empty((len(slices), rows, columns), np.float32)
    distrusted = 0

    def fill(k: int) -> None:
        nonlocal distrusted
        array[k], more = read_units(slices[k], vouched=vouched)
        distrusted += more

    of_all(fill, range(len(slices)), folder)
    return array, distrusted


def _only_series(folder: Path) -> tuple[list[SliceFile], list[str]]:
    """The headers of the one series of a folder, and notes of what is left out beside it."""
    groups, left_out = group_files(folder)
    require(bool(groups), _nothing(left_out), folder, "choose the folder of a CT or MR series")
    about = dict(enumerate(describe_all(groups, folder)))
    for kinds in (("scan",), ("derived",), ("synthetic",), ("localizer",)):
        kept = [n for n, one in about.items() if one.kind in kinds]
        if kept:
            break
    notes = []
    for kind in ("localizer", "derived", "synthetic"):
        count = sum(
            len(groups[n]) for n, one in about.items() if one.kind == kind and n not in kept
        )
        if count:
            notes.append(f"{count} {kind} images left out")
    notes += [f"{len(files)} {why} left out" for why, files in left_out.items()]
    listed = "; ".join(" ".join(row) for row in series_rows([about[n] for n in kept]))
    what = f"expected one series: found {len(kept)}: {listed}"
    require(len(kept) == 1, what, folder, "choose one with --series NUMBER, or give --series all")
    return groups[kept[0]], notes


def _nothing(left_out: Mapping[str, Sequence[Path]]) -> str:
    """What is said of a folder without a CT or MR image."""
    listed = ", ".join(f"{len(files)} {why}" for why, files in left_out.items())
    return f"expected a DICOM series: found no image{' but ' + listed if listed else ''}"
