"""The layout of a data folder: which folder is which, and which scans it holds."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctmr.errors import DataError, UsageError, printable, refuse_all
from ctmr.io.dicom.grouping import SeriesFiles
from ctmr.io.image_info import ImageInfo
from ctmr.io.listing import Listing, below_root, list_scans
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.scan import READABLE, Kind, info_place, info_within
from ctmr.types import MODALITIES, SPLITS, Modality, Split

# As in the paper's data set (A = CT, B = MR), and by name.
LAYOUTS: tuple[dict[tuple[Split, Modality], str], ...] = (
    {
        ("train", "ct"): "trainA",
        ("train", "mr"): "trainB",
        ("test", "ct"): "testA",
        ("test", "mr"): "testB",
    },
    {(split, modality): f"{split}/{modality}" for split in SPLITS for modality in MODALITIES},
)
_EXPECTED = "; or ".join(", ".join(layout.values()) for layout in LAYOUTS)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One scan of a data folder: an image file, a NIfTI file or a folder with a DICOM series.

    Attributes:
        data: The data folder.
        kind: What sort of scan it is.
        label: The path below the data folder, with undecodable bytes escaped.
        patient: What the patient pattern found in the label.
        info: The `ctmr.json` that holds for it.
        reading: What to believe where it says too little.
        files: One of several DICOM series in the folder `path`, which is called `part` there.
    """

    data: Path
    split: Split
    modality: Modality
    path: Path
    kind: Kind
    label: str
    patient: str | None
    info: ImageInfo
    reading: Reading = DEFAULT
    files: SeriesFiles | None = None
    part: str = ""

    @property
    def folder(self) -> str:
        """The folder of its split and modality, as `trainA`."""
        names = [layout[self.split, self.modality] for layout in LAYOUTS]
        fitting = [name for name in names if self.label.startswith(name + "/")]
        return fitting[0] if fitting else self.label.rpartition("/")[0]

    @property
    def below(self) -> str:
        """The path of the file or folder below `folder`, as it is on the disk."""
        depth = len(self.folder.split("/"))
        return "/".join((self.path / self.part).relative_to(self.data).parts[depth:])

    @property
    def name(self) -> str:
        """The same with undecodable bytes escaped."""
        return self.label.removeprefix(self.folder + "/")


@dataclass(frozen=True)
class Sources:
    """What lies in a data folder, the bad too.

    Attributes:
        scans: By split, modality and the bytes of their names; where a `ctmr.json` is wrong, as if it said nothing.
        listings: Of each folder that is there, also what is left out.
        wrong: Each folder whose own `ctmr.json` cannot be used, with the error.
    """

    scans: list[Source] = field(default_factory=list)
    listings: dict[tuple[Split, Modality], Listing] = field(default_factory=dict)
    wrong: dict[Path, DataError] = field(default_factory=dict)


def find_data(data: Path) -> dict[Split, dict[Modality, Path]]:
    """The folders of a data folder; a test folder that does not exist is left out.

    Raises:
        DataError: If a training folder is missing, or both layouts are there.
    """
    if not data.is_dir():
        what = "a file" if data.exists() else "nothing"
        raise DataError(
            f"expected a folder with {_EXPECTED}: found {what}", file=data, fix="check the path"
        )
    there = [[name for name in layout.values() if (data / name).is_dir()] for layout in LAYOUTS]
    if all(there):
        raise DataError(
            f"expected one layout ({_EXPECTED}): found {', '.join(there[0] + there[1])}",
            file=data,
            fix="move one of them away",
        )
    layout = LAYOUTS[1] if there[1] else LAYOUTS[0]
    missing = [layout["train", m] for m in MODALITIES if not (data / layout["train", m]).is_dir()]
    if missing:
        found = sorted(path.name for path in data.iterdir())
        shown = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
        raise DataError(
            f"no folder {' and no folder '.join(missing)}: expected {_EXPECTED}; found"
            f" {printable(shown) or 'an empty folder'}",
            file=data,
            fix=f"put the training images into {' and '.join(missing)}",
        )
    folders: dict[Split, dict[Modality, Path]] = {"train": {}, "test": {}}
    for (split, modality), name in layout.items():
        if (data / name).is_dir():
            folders[split][modality] = data / name
        else:
            logger.info("%s: no folder %s, so nothing to test on", printable(str(data)), name)
    return folders


def holds_data(folder: Path) -> bool:
    """Whether a folder is laid out as a data folder, which PAIRS is not."""
    return any((folder / layout["train", "ct"]).is_dir() for layout in LAYOUTS)


def list_sources(data: Path, patient_pattern: str | None, reading: Reading = DEFAULT) -> Sources:
    """Walk through a data folder and collect its scans and all that is wrong with it.

    Raises:
        DataError: If a training folder is missing, or both layouts are there.
        UsageError: If the pattern is not a regular expression with a group.
    """
    patient_of = patient_finder(patient_pattern)
    found = Sources()
    for split, by_modality in find_data(data).items():
        for modality, folder in by_modality.items():
            listing = list_scans(folder)
            infos, wrong = _infos_of(folder, modality, [scan.path for scan in listing.scans])
            for scan in listing.scans:
                label = label_of(data, scan.path / scan.part)
                info = infos.get(scan.path.parent, ImageInfo())
                source = Source(
                    *(data, split, modality, scan.path, scan.kind, label, patient_of(label), info),
                    reading=reading,
                    files=scan.series,
                    part=scan.part,
                )
                found.scans.append(source)
            found.listings[split, modality] = listing
            found.wrong.update(wrong)
    return found


def require_sources(
    data: Path, patient_pattern: str | None, reading: Reading = DEFAULT
) -> list[Source]:
    """All scans of a data folder that can be trained on: by split, modality and the bytes of their names.

    Raises:
        DataError: If a training folder has no scan, or a `ctmr.json` is wrong or gives HU to MR, or images and volumes
            are mixed.
        UsageError: If the pattern is not a regular expression with a group.
    """
    found = list_sources(data, patient_pattern, reading)
    for (split, _), listing in found.listings.items():
        if listing.faults:
            raise listing.faults[0].error
        listing.count(label_of(data, listing.folder))
        listing.warn(label_of(data, listing.folder))
        if split == "train" and not listing.scans:
            raise DataError(
                f"expected {READABLE} in it: found none; training needs"
                f" {LAYOUTS[0]['train', 'ct']} (CT) and {LAYOUTS[0]['train', 'mr']} (MR)",
                file=listing.folder,
                fix="put scans there",
            )
    failures = [(below_root(place, data), error) for place, error in found.wrong.items()]
    what = "folders have a ctmr.json that cannot be used"
    refuse_all(failures, what, file=data, fix="correct them; see docs/data.md")
    images = [source for source in found.scans if source.kind == "image"]
    volumes = [source for source in found.scans if source.kind != "image"]
    if images and volumes:
        raise DataError(
            f"expected images only, or volumes only: found {len(images)} images, such as"
            f" {printable(images[0].label)}, and {len(volumes)} volumes, such as"
            f" {printable(volumes[0].label)}",
            file=data,
            fix="put them into two data folders",
        )
    return found.scans


def _infos_of(
    root: Path, modality: Modality, paths: Sequence[Path]
) -> tuple[dict[Path, ImageInfo], dict[Path, DataError]]:
    """What the `ctmr.json` files of a folder of one modality say.

    Args:
        root: The folder, as `trainA`.
        modality: What it holds.
        paths: Its scans.

    Returns:
        What holds in each folder with scans, where it can be used; and each folder whose own `ctmr.json` is wrong or
        gives HU to MR, with the error.
    """
    infos: dict[Path, ImageInfo] = {}
    wrong: dict[Path, DataError] = {}
    for folder in dict.fromkeys((root, *(path.parent for path in paths))):
        place = info_place(folder, root)
        if place in wrong:
            continue
        try:
            info = info_within(folder, root)
        except DataError as error:
            wrong[place] = error
            continue
        if info.unit != "HU" or modality == "ct":
            infos[folder] = info
        else:
            wrong[place] = DataError(
                "expected grey values: found unit HU in the ctmr.json of an MR folder, and HU"
                " exist only for CT",
                file=place,
                fix="remove unit, slope and intercept there, or exchange the folders",
            )
    return infos, wrong


def patient_finder(pattern: str | None) -> Callable[[str], str | None]:
    """The function that finds the patient in a file's path; without a pattern it finds none.

    Raises:
        UsageError: If the pattern is not a regular expression with a group.
    """
    compiled = _compiled(pattern)

    def patient_of(label: str) -> str | None:
        found = compiled.search(label) if compiled else None
        return found.group(1) if found else None

    return patient_of


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"data.patient_pattern = {pattern!r} is not a regular expression ({error})",
            fix="correct it",
        ) from error
    if compiled.groups == 0:
        raise UsageError(
            f"data.patient_pattern = {pattern!r} has no group",
            fix="put the part that names the patient in parentheses",
        )
    return compiled


def label_of(data: Path, path: Path) -> str:
    """The path below the data folder, with bytes that are no UTF-8 escaped."""
    return os.fsencode(path.relative_to(data).as_posix()).decode("utf-8", "backslashreplace")
