"""Which series lie in a folder, by their headers alone, and which of them a command takes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctmr.errors import DataError, UsageError
from ctmr.io.dicom.enhanced import frames_of
from ctmr.io.dicom.files import of_all, opened, require_whole
from ctmr.io.dicom.header import (
    COPY_AGAIN,
    SAME_PLACE_MM,
    SliceFile,
    check_uids,
    hashed,
    read_header,
    require,
    tagged,
)
from ctmr.io.dicom.kinds import (
    CLASSES,
    Kind,
    Weighting,
    is_capture,
    kind_of_image,
    modality_of,
    other_object,
    weighting_of,
)
from ctmr.io.dicom.parts import parts_of, told_apart
from ctmr.io.dicom.recognise import find_files, is_archive
from ctmr.types import NAMES, OTHER, Modality

Plane = Literal["axial", "coronal", "sagittal", "oblique"]

NOT_DICOM = "files that are not DICOM"
HEADS = ("series", "modality", "weighting", "plane", "size", "spacing mm", "slices", "kind")
WHOLE_HEAD_MM = (
    110.0  # a head measures 150 mm and more along each axis; 24 slices at 5 mm cover it nearly
)
_ALIGNED = 0.85  # cosine of the angle up to which a tilted slice still counts as axial, coronal or sagittal


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one series in a folder, told by their headers alone."""

    folder: Path
    files: tuple[Path, ...]
    number: int | None
    """SeriesNumber (0020,0011)."""
    uid: str = field(repr=False)
    """SeriesInstanceUID (0020,000E), empty if there is none; only compared, never shown or logged."""
    modality: Modality | None
    patient: str | None
    """A hash as `Series.patient`."""
    study: str | None
    """A hash of StudyInstanceUID (0020,000D)."""
    frame: str | None
    """A hash of FrameOfReferenceUID (0020,0052)."""
    plane: Plane | None
    rows: int
    columns: int
    slices: int
    """Places along the normal; the frames of a multi-frame file."""
    spacing_mm: tuple[float, float, float] | None
    """Between rows, columns and slices; None where the header does not say it."""
    weighting: Weighting | None
    """Of an MR, by its times (`ctmr.io.dicom.kinds.weighting_of`)."""
    kind: Kind
    part: int = 0
    """Which of several volumes of one series it is, from 1; 0: it is the whole series."""
    told_by: str = ""
    """What tells it from the others then, as `EchoTime 80`."""

    @property
    def name(self) -> str:
        """What the series is called: its number, or eight digits of the hash of its UID."""
        return str(self.number) if self.number is not None else hashed(self.uid)[:8]

    @property
    def whole_head(self) -> bool:
        """Whether it is as large as a head in plane and along the normal."""
        if self.spacing_mm is None:
            return False
        counts = (self.rows, self.columns, self.slices)
        sides = [count * mm for count, mm in zip(counts, self.spacing_mm, strict=True)]
        return min(sides) >= WHOLE_HEAD_MM


class SeriesList(NamedTuple):
    """The series of a folder, by number, and why other files are left out: a plural -> files."""

    series: tuple[SeriesFiles, ...]
    left_out: dict[str, list[Path]]


def list_series(folder: Path) -> SeriesList:
    """The series of a folder, not of its sub-folders, or of an archive or multi-frame file, sorted by number.

    No pixels are read. The files of an archive are called as if it was a folder.

    Raises:
        DataError: If a file is damaged, or was one of DICOM.
    """
    with opened(folder) as place:
        groups, left_out = group_files(place)
        found = describe_all(groups, folder)
    if is_archive(folder):
        found = [replace(one, files=_within(folder, one.files)) for one in found]
        left_out = {why: [*_within(folder, paths)] for why, paths in left_out.items()}
    return SeriesList(tuple(sorted(found, key=_order)), left_out)


def _within(archive: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(archive / path.name for path in paths)


def choose_series(
    series: Sequence[SeriesFiles], wanted: Sequence[str], to: Modality | None
) -> list[SeriesFiles]:
    """The series that a command takes.

    Args:
        series: Of a folder.
        wanted: Numbers, UIDs or `all`; see `Reading.series`.
        to: The modality that they are to be translated to. None: any series will do.

    Returns:
        Those wanted. Of one patient, if none is named: for `to` CT the thinnest T1-like MR of a whole head, for `to` MR the
        thinnest CT of a whole head, of equals the one with the lowest number. Of several patients, with `all`, or without
        `to`: all but localizers, results of ctmr, and what shows `to` already; derived ones only with `all` or alone.

    Raises:
        UsageError: If one that is wanted is not there.
    """
    named = [name for name in wanted if name != "all"]
    for name in named:
        if not any(_is_called(one, name) for one in series):
            listed = "; ".join(" ".join(row) for row in series_rows(series))
            raise UsageError(
                f"expected --series to name one of {len(series)} series: found {name!r}; there are {listed}",
                fix="give a number of these, a SeriesInstanceUID, or all",
            )
    if named and "all" not in wanted:
        return [one for one in series if any(_is_called(one, name) for name in named)]
    kinds = ("scan", "derived") if wanted else ("scan",)
    found = [one for one in series if one.kind in kinds] or list(series)
    if to is not None:
        found = [one for one in found if one.modality == OTHER[to]] or found
    if wanted or to is None or len({one.patient for one in found}) > 1:
        return found
    return [min(found, key=lambda one: _suits(one, to))] if found else []


def series_rows(series: Sequence[SeriesFiles]) -> list[tuple[str, ...]]:
    """A row for each series under `HEADS`; no text of a header is in it but numbers.

    The first column is what `--series` takes: the number, or a hash where the number is missing or not the only one.
    """
    numbers = Counter(number for number, _ in {(one.number, one.uid) for one in series})
    rows: list[tuple[str, ...]] = []
    for one in series:
        spacing = [format(mm, ".3g") for mm in one.spacing_mm or ()]
        kinds = (NAMES[one.modality] if one.modality else "-", one.weighting or "-")
        size = f"{one.rows} x {one.columns}"
        shape = (one.plane or "-", size, " x ".join(spacing) or "-", str(one.slices))
        name = one.name if numbers[one.number] == 1 else hashed(one.uid)[:8]
        name = f"{name}_{one.part}" if one.part else name
        rows.append((name, *kinds, *shape, ", ".join(filter(None, (one.kind, one.told_by)))))
    return rows


def group_files(folder: Path) -> tuple[list[list[SliceFile]], dict[str, list[Path]]]:
    """The headers of a folder by series, and what is left out."""
    paths, others = find_files(folder)
    require_whole(paths, others, folder)
    left_out: dict[str, list[Path]] = {NOT_DICOM: others} if others else {}
    headers = of_all(read_header, paths, folder)
    images = [image for image in headers if modality_of(image.values) is not None]
    of_all(_check_uncut, headers, folder)
    of_all(check_uids, images, folder)
    series = {_series(image) for image in images if not is_capture(image.values)} - {""}
    kept = []
    for image in headers:
        known, capture = _series(image) in series, is_capture(image.values)
        # A slice of another modality than the others of its series is refused with them.
        stray = known and str(image.values.get("SOPClassUID", "")) in CLASSES
        if stray or (modality_of(image.values) is not None and not (known and capture)):
            kept.append(image)
        else:
            left_out.setdefault(other_object(image.values), []).append(image.path)
    return group_images(kept), left_out


@np.errstate(all="ignore")
def group_images(images: Iterable[SliceFile]) -> list[list[SliceFile]]:
    """Headers by series; those without a UID, or with one of their own each, go where all else fits."""
    groups: dict[tuple[object, ...], list[SliceFile]] = {}
    for image in images:
        key = (_series(image) or _grid(image), kind_of_image(image.values) == "localizer")
        groups.setdefault(key, []).append(image)
    several = [group for group in groups.values() if len(group) > 1 and _series(group[0])]
    rest: dict[tuple[object, ...], list[SliceFile]] = {}
    for group in groups.values():
        if len(group) == 1 or not _series(group[0]):
            rest.setdefault(_grid(group[0]), []).extend(group)
    homes: dict[tuple[object, ...], list[list[SliceFile]]] = {}
    for group in several:
        homes.setdefault(_grid(group[0]), []).append(group)
    for grid, group in rest.items():
        if len(homes.get(grid, ())) == 1 and not any(map(_series, group)):
            homes[grid][0].extend(group)
        elif _is_stack(group) or not any(map(_series, group)):
            several.append(group)
        else:
            several.extend([image] for image in group)
    return [part for group in several for part in parts_of(group)]


def describe_all(groups: Sequence[Sequence[SliceFile]], folder: Path) -> list[SeriesFiles]:
    """What the headers of each group say of it, and which part of its series it is."""
    found = [describe(group, folder) for group in groups]
    series: dict[tuple[str, bool], list[int]] = {}
    for n, one in enumerate(found):
        series.setdefault((one.uid or str(n), one.kind == "localizer"), []).append(n)
    for places in series.values():
        for part, n in enumerate(places, 1):
            others = [groups[other] for other in places if other != n]
            if others:
                told_by = told_apart(groups[n], others)
                found[n] = replace(found[n], part=part, told_by=told_by)
    return found


@np.errstate(all="ignore")
def describe(images: Sequence[SliceFile], folder: Path) -> SeriesFiles:
    """What the headers of one series say of it."""
    values = images[0].values
    kinds = [kind_of_image(image.values) for image in images]
    slices = _slices(images)
    plane, step, places = _place(slices)
    spacing = _spacing(slices[0])
    unknown = (_integer(images[0], "NumberOfFrames") or 1) if len(slices) == len(images) else 1
    modality = modality_of(values)
    return SeriesFiles(
        folder=folder,
        files=tuple(image.path for image in images),
        number=_integer(images[0], "SeriesNumber"),
        uid=min(map(_series, images)),
        modality=modality,
        patient=_hash(images, "PatientID"),
        study=_hash(images, "StudyInstanceUID"),
        frame=_hash(images, "FrameOfReferenceUID"),
        plane=plane,
        rows=_integer(images[0], "Rows") or 0,
        columns=_integer(images[0], "Columns") or 0,
        slices=(places or len(slices)) if unknown == 1 else unknown * len(images),
        spacing_mm=(*spacing, step) if spacing and step else None,
        weighting=weighting_of(slices[0].values) if modality == "mr" else None,
        kind="localizer" if _is_scout(slices) else max(set(kinds), key=kinds.count),
    )


def _slices(images: Sequence[SliceFile]) -> list[SliceFile]:
    """The slices of files; one of several volumes stays whole, as it is refused only where it is read."""
    slices: list[SliceFile] = []
    for image in images:
        localizer = kind_of_image(image.values) == "localizer"
        try:
            slices += [image] if localizer else frames_of(image)
        except DataError:
            slices.append(image)
    return slices


def _check_uncut(image: SliceFile) -> None:
    """Refuse a file that ends before it says what it is, or, of an image, how large."""
    says = "Modality" in image.values or "SOPClassUID" in image.values
    what = f"expected {tagged('Modality')} or {tagged('SOPClassUID')}: found neither"
    require(says, what, image.path, COPY_AGAIN)
    whole = modality_of(image.values) is None or "Rows" in image.values
    require(whole, f"expected {tagged('Rows')}: found none", image.path, COPY_AGAIN)


def _is_called(series: SeriesFiles, name: str) -> bool:
    """Whether a number, a UID or the hash that stands for it names the series, with `_n` a part of it."""
    whole, _, part = name.partition("_")
    names = (str(series.number), series.uid or None, hashed(series.uid)[: max(8, len(whole))])
    return whole in names and part in ("", str(series.part))


def _suits(
    series: SeriesFiles, to: Modality | None
) -> tuple[bool, int, float, tuple[float, str, int]]:
    """Less is better: a whole head, T1-like where an MR is wanted, thin, a low number."""
    contrast = {"t1": 0, None: 1}.get(series.weighting, 2) if to == "ct" else 0
    step = round(series.spacing_mm[2], 3) if series.spacing_mm else np.inf
    return not series.whole_head, contrast, step, _order(series)


def _order(series: SeriesFiles) -> tuple[float, str, int]:
    return np.inf if series.number is None else series.number, series.uid, series.part


def _series(image: SliceFile) -> str:
    """SeriesInstanceUID (0020,000E), empty if there is none."""
    return str(image.values.get("SeriesInstanceUID", ""))


def _hash(images: Sequence[SliceFile], keyword: str) -> str | None:
    """The hash of the first value that is not blank."""
    texts = (str(image.values.get(keyword, "")).strip() for image in images)
    text = next((text for text in texts if text), None)
    return hashed(text) if text else None


def _integer(image: SliceFile, keyword: str) -> int | None:
    try:
        return int(image.values[keyword])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _numbers(image: SliceFile, keyword: str, count: int) -> NDArray[np.float64] | None:
    """So many finite numbers of a header, None where there are others."""
    try:
        found = image.floats(keyword)
    except (KeyError, TypeError, ValueError):
        return None
    return found if found.size == count and bool(np.isfinite(found).all()) else None


def _spacing(image: SliceFile) -> tuple[float, float] | None:
    found = _numbers(image, "PixelSpacing", 2)
    return None if found is None else (float(found[0]), float(found[1]))


def _place(images: Sequence[SliceFile]) -> tuple[Plane | None, float | None, int]:
    """The plane of the first slice, the usual way to the next along the normal in mm, and how many places there are."""
    if _numbers(images[0], "ImageOrientationPatient", 6) is None:
        return None, None, 0
    normal = images[0].normal
    if not np.isfinite(normal).all():
        return None, None, 0
    axis = int(np.abs(normal).argmax())
    names: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
    plane: Plane = names[axis] if abs(normal[axis]) >= _ALIGNED else "oblique"
    points = [_numbers(image, "ImagePositionPatient", 3) for image in images]
    along = np.sort([float(point @ normal) for point in points if point is not None])
    gaps = np.diff(along)
    gaps = gaps[gaps > SAME_PLACE_MM]
    if gaps.size:
        return plane, float(np.median(gaps)), gaps.size + 1
    thickness = _numbers(images[0], "SliceThickness", 1)
    return plane, None if thickness is None else float(thickness[0]), min(1, along.size)


def _grid(image: SliceFile) -> tuple[object, ...]:
    """All that the slices of one series share, but for UIDs."""
    values = image.values
    words = ("PatientID", "SeriesNumber", "SOPClassUID", "ImageType", "SliceThickness")
    times = ("EchoTime", "RepetitionTime", "InversionTime", "Rows", "Columns")
    turn = _numbers(image, "ImageOrientationPatient", 6)
    spacing = _numbers(image, "PixelSpacing", 2)
    return (
        modality_of(values),
        *(str(values.get(keyword, "")) for keyword in (*words, *times)),
        None if turn is None else tuple(np.round(turn, 2)),
        None if spacing is None else tuple(np.round(spacing, 4)),
    )


def _is_stack(images: Sequence[SliceFile]) -> bool:
    """Whether three or more single files lie at different places."""
    return len(images) > 2 and _place(images)[2] == len(images)


def _is_scout(images: Sequence[SliceFile]) -> bool:
    """Whether slices of one series are at right angles to each other, as those of a localizer of three planes are."""
    if kind_of_image(images[0].values) == "localizer":
        return True
    turns = [_numbers(image, "ImageOrientationPatient", 6) for image in images[:50]]
    normals = [np.cross(turn[:3], turn[3:]) for turn in turns if turn is not None]
    normals = [normal for normal in normals if normal.any()]
    return any(abs(float(normals[0] @ normal)) < 0.2 for normal in normals)
