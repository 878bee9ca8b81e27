"""The layout of a data folder: which folder is which, and which scans it holds."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctmr.errors import CtmrError, DataError, UsageError, printable, refuse_all
from ctmr.io.image_info import ImageInfo
from ctmr.io.listing import below_root, find_scans
from ctmr.io.scan import READABLE, Kind, info_place, info_within, kind_of
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
    """One scan of a data folder: an image file, a volume file or a folder with a DICOM series.

    Attributes:
        data: The data folder.
        kind: What sort of scan it is.
        label: The path below the data folder, with undecodable bytes escaped.
        patient: What the patient pattern found in the label.
        info: The `ctmr.json` that holds for it.
    """

    data: Path
    split: Split
    modality: Modality
    path: Path
    kind: Kind
    label: str
    patient: str | None
    info: ImageInfo

    @property
    def folder(self) -> str:
        """The folder of its split and modality, as `trainA`."""
        names = [layout[self.split, self.modality] for layout in LAYOUTS]
        its = [name for name in names if self.label.startswith(name + "/")]
        return its[0] if its else self.label.rpartition("/")[0]

    @property
    def below(self) -> str:
        """The path of the file or folder below `folder`, as it is on the disk."""
        return "/".join(self.path.parts[-1 - self.name.count("/") :])

    @property
    def name(self) -> str:
        """The same with undecodable bytes escaped."""
        return self.label.removeprefix(self.folder + "/")


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


def list_sources(data: Path, patient_pattern: str | None) -> list[Source]:
    """All scans of a data folder: by split, modality and the bytes of their names.

    Raises:
        DataError: If a training folder has no scan, or a `ctmr.json` is wrong or gives HU to MR, or images and volumes
            are mixed.
        UsageError: If the pattern is not a regular expression with a group.
    """
    patient_of = patient_finder(patient_pattern)
    sources = []
    failures: list[tuple[str, CtmrError]] = []
    for split, by_modality in find_data(data).items():
        for modality, folder in by_modality.items():
            name = folder.relative_to(data).as_posix()
            paths = find_scans(folder, name)
            infos, wrong = infos_of(folder, modality, paths)
            failures += [(below_root(place, data), error) for place, error in wrong.items()]
            if wrong:
                continue
            if split == "train" and not paths:
                raise DataError(
                    f"expected {READABLE} in it: found none; training needs"
                    f" {LAYOUTS[0]['train', 'ct']} (CT) and {LAYOUTS[0]['train', 'mr']} (MR)",
                    file=folder,
                    fix="put scans there",
                )
            for path in paths:
                label = _readable(path.relative_to(data).as_posix())
                kind = kind_of(path) or "image"
                patient = patient_of(label)
                info = infos[path.parent]
                sources.append(Source(data, split, modality, path, kind, label, patient, info))
    what = "folders have a ctmr.json that cannot be used"
    refuse_all(failures, what, file=data, fix="correct them; see docs/data.md")
    images = [source for source in sources if source.kind == "image"]
    volumes = [source for source in sources if source.kind != "image"]
    if images and volumes:
        raise DataError(
            f"expected images only, or volumes only: found {len(images)} images, such as"
            f" {printable(images[0].label)}, and {len(volumes)} volumes, such as"
            f" {printable(volumes[0].label)}",
            file=data,
            fix="put them into two data folders",
        )
    return sources


def infos_of(
    root: Path, modality: Modality, paths: Sequence[Path]
) -> tuple[dict[Path, ImageInfo], dict[Path, DataError]]:
    """What the `ctmr.json` files of a folder of one modality say.

    Args:
        root: The folder, as `trainA`.
        modality: What it holds.
        paths: Its scans.

    Returns:
        What holds in each folder with scans; and each folder whose own `ctmr.json` is wrong or gives HU to MR, with the
        error.
    """
    infos: dict[Path, ImageInfo] = {}
    wrong: dict[Path, DataError] = {}
    for folder in dict.fromkeys((root, *(path.parent for path in paths))):
        place = info_place(folder, root)
        if place in wrong:
            continue
        try:
            infos[folder] = info_within(folder, root)
        except DataError as error:
            wrong[place] = error
            continue
        if infos[folder].unit == "HU" and modality == "mr":
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


def _readable(text: str) -> str:
    """The text without the surrogates that stand for bytes which are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
