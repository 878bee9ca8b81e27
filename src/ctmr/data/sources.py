"""The scans of a data folder, good and bad, and what their `ctmr.json` files say."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctmr.errors import DataError, UsageError
from ctmr.io.dicom.grouping import SeriesFiles
from ctmr.io.image_info import ImageInfo
from ctmr.io.listing import Listing
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.scan import Kind, info_place, info_within
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


@dataclass(frozen=True, slots=True)
class Source:
    """One scan of a data folder: an image file, a volume file, or a folder or archive with a DICOM series.

    Attributes:
        data: The data folder.
        kind: What sort of scan it is.
        label: The path below the data folder, with undecodable bytes escaped.
        patient: What the patient pattern found in the label.
        info: The `ctmr.json` that holds for it.
        reading: What to believe where it says too little.
        files: One of several DICOM series in the folder `path`, which is called `part` there.
        frame: Of a DICOM series in a tree, a hash of its FrameOfReferenceUID (0020,0052).
        in_tree: Whether the data folder is a tree without folders for each modality.
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
    in_tree: bool = False
    frame: str | None = None

    @property
    def folder(self) -> str:
        """The folder of its split and modality, as `trainA`; in a tree a name for it."""
        if self.in_tree:
            return f"{self.split}/{self.modality}"
        names = [layout[self.split, self.modality] for layout in LAYOUTS]
        fitting = [name for name in names if self.label.startswith(name + "/")]
        return fitting[0] if fitting else self.label.rpartition("/")[0]

    @property
    def below(self) -> str:
        """The path of the file or folder below `folder`, as it is on the disk."""
        return "/".join((self.path / self.part).parts[-1 - self.name.count("/") :])

    @property
    def name(self) -> str:
        """The same with undecodable bytes escaped."""
        return self.label if self.in_tree else self.label.removeprefix(self.folder + "/")


@dataclass(frozen=True)
class Sources:
    """What lies in a data folder, the bad too.

    Attributes:
        scans: By split, modality and the bytes of their names; where a `ctmr.json` is wrong, as if it said nothing.
        listings: What lies in each folder of a split and modality, or in the tree, also what is left out.
        folders: What the folder of each split and modality is called.
        wrong: Each folder whose own `ctmr.json` cannot be used, with the error.
    """

    scans: list[Source] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    folders: dict[tuple[Split, Modality], str] = field(default_factory=dict)
    wrong: dict[Path, DataError] = field(default_factory=dict)


def infos_of(
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
