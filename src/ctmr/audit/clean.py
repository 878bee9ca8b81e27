"""A cleaned copy of a data folder: the bad scans left out, the same ones whole on one side of the split.

Nothing of the data folder is changed: its files become hard links where the file system allows it, else copies.
"""

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctmr.audit.inventory import Inventory
from ctmr.audit.scan_profile import Picture
from ctmr.data.sources import LAYOUTS, Source, label_of
from ctmr.errors import DataError
from ctmr.io.dicom.files import opened
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.image_info import INFO_NAME
from ctmr.results import Cleaned, Finding
from ctmr.system.files import making_folder, write_json, write_text
from ctmr.types import MODALITIES, SPLITS, Modality, Split

Place = tuple[Split, Modality]

MANIFEST = "manifest.csv"
# Kinds of finding whose files are left out; wrong_modality only if it is sure.
LEFT_OUT = ("unreadable", "not_hu", "skipped", "blank", "exchanged_folders")


@dataclass(frozen=True)
class Kept:
    """A scan of the cleaned copy: the side of the split, the folder and the path below it that it has there."""

    picture: Picture
    split: Split
    folder: str
    name: str

    @property
    def moved(self) -> bool:
        """Whether it was on the other side of the split."""
        return self.split != self.picture.source.split


@dataclass(frozen=True)
class Cleaning:
    """What goes where: every scan of the data folder that can be read is in `kept` or in `left_out`.

    Attributes:
        left_out: Label of a scan -> why.
    """

    kept: tuple[Kept, ...]
    left_out: dict[str, str]
    clusters: dict[str, int]

    def counted(self) -> Cleaned:
        """How many scans go where."""
        counts = Counter(kept.folder for kept in self.kept)
        return Cleaned(dict(counts), sum(kept.moved for kept in self.kept), len(self.left_out))


def plan_cleaning(
    inventory: Inventory, findings: Sequence[Finding], clusters: NDArray[np.int64]
) -> Cleaning:
    """Which scans are kept, and on which side of the split.

    Left out are those that cannot be used, blank ones, those surely of another modality, and all but the first of equal
    ones. A cluster (`leaks.clusters`) that was on both sides goes whole to the side that lacks more of what it had.

    Raises:
        DataError: If a training folder would be empty, or a `ctmr.json` is wrong.
    """
    pictures = inventory.pictures
    _require_units(findings)
    left_out = {
        label: finding.why
        for finding in findings
        if finding.kind in LEFT_OUT
        or (finding.kind == "wrong_modality" and finding.level == "error")
        for label in finding.files
    }
    wrong_folders = {name for name in inventory.folders.values() if name in left_out}
    firsts: dict[str, str] = {}
    kept: list[tuple[Picture, int]] = []
    for picture, cluster in zip(pictures, clusters, strict=True):
        label = picture.label
        if picture.folder in wrong_folders:
            left_out[label] = "its folder holds the other modality"
        if label in left_out:
            continue
        if firsts.setdefault(picture.digest, label) != label:
            left_out[label] = f"the same pixels as {firsts[picture.digest]}"
            continue
        kept.append((picture, int(cluster)))
    sides = _sides(kept)
    _require_training(kept, sides)
    return Cleaning(
        tuple(_named(inventory, [(picture, sides[cluster]) for picture, cluster in kept])),
        left_out,
        {p.label: int(c) for p, c in zip(pictures, clusters, strict=True)},
    )


def _sides(kept: Sequence[tuple[Picture, int]]) -> dict[int, Split]:
    """Cluster -> its side of the split."""
    members: dict[int, list[Picture]] = {}
    for picture, cluster in kept:
        members.setdefault(cluster, []).append(picture)
    wanted = Counter(_place(picture) for picture, _ in kept)
    missing = Counter(wanted)
    sides: dict[int, Split] = {}
    crossing = []
    for cluster, group in members.items():
        splits = {picture.source.split for picture in group}
        if len(splits) == 1:
            sides[cluster] = splits.pop()
            missing.subtract(_place(picture) for picture in group)
        else:
            crossing.append((cluster, group))
    for cluster, group in sorted(crossing, key=lambda each: -len(each[1])):
        modalities = Counter(picture.source.modality for picture in group)
        lack = {
            split: sum(
                n * missing[split, modality] / max(1, wanted[split, modality])
                for modality, n in modalities.items()
            )
            for split in SPLITS
        }
        sides[cluster] = max(SPLITS, key=lack.__getitem__)
        missing.subtract({(sides[cluster], modality): n for modality, n in modalities.items()})
    return sides


def _require_units(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.kind == "ctmr_json":
            raise DataError(
                f"expected to know the unit of the images: {finding.why}",
                file=finding.files[0],
                fix="correct it, then clean",
            )


def _require_training(kept: Sequence[tuple[Picture, int]], sides: dict[int, Split]) -> None:
    there = {(sides[cluster], picture.source.modality) for picture, cluster in kept}
    for modality in MODALITIES:
        if ("train", modality) not in there:
            raise DataError(
                f"expected {modality.upper()} to train on: found none that is left when cleaned",
                fix="look at the findings first",
            )


def _named(inventory: Inventory, kept: Iterable[tuple[Picture, Split]]) -> list[Kept]:
    """Each with its name in the copy: its own, or with its former folder before it where that is taken."""
    layout = next(
        each for each in LAYOUTS if each["train", "ct"] == inventory.folders["train", "ct"]
    )
    taken: set[str] = set()
    above: set[str] = set()  # folders in which something is
    named = []
    # Those that stay where they are come first, so that they keep their names.
    for picture, split in sorted(kept, key=lambda each: each[0].source.split != each[1]):
        source = picture.source
        folder, name = layout[split, source.modality], source.below
        place = PurePosixPath(f"{folder}/{name}".lower())
        # No scan has the name of another, or of a folder of others.
        while str(place) in above or taken & set(map(str, (place, *place.parents))):
            name = f"{source.split}-{name}"
            place = PurePosixPath(f"{folder}/{name}".lower())
        taken.add(str(place))
        above |= set(map(str, place.parents))
        named.append(Kept(picture, split, folder, name))
    return named


def _place(picture: Picture) -> Place:
    return picture.source.split, picture.source.modality


def write_clean(out: Path, cleaning: Cleaning) -> None:
    """Write the cleaned copy, with `manifest.csv`, whole or not at all.

    Raises:
        DataError: If images that go to one folder have different units.
        OutputError: If it cannot be written.
    """
    with making_folder(out) as folder:
        rows = [(label, "", why, "") for label, why in cleaning.left_out.items()]
        for kept in cleaning.kept:
            target = folder / kept.folder / kept.name
            target.parent.mkdir(parents=True, exist_ok=True)
            how = _place_scan(kept.picture.source, target)
            why = (
                "moved: the same, or the same patient, was on both sides" if kept.moved else "kept"
            )
            rows.append((kept.picture.label, label_of(folder, target), why, how))
        _write_infos(folder, cleaning)
        write_text(folder / MANIFEST, _manifest(sorted(rows), cleaning.clusters))


def _manifest(rows: Sequence[tuple[str, str, str, str]], clusters: dict[str, int]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "to", "why", "how", "cluster"))
    for row in rows:
        writer.writerow((*row, clusters.get(row[0], "")))
    return text.getvalue()


def _place_scan(source: Source, target: Path) -> str:
    """Link or copy the files of a scan; say which."""
    if source.kind != "series" or (source.path.is_file() and source.files is None):
        return _place_file(source.path, target)
    target.mkdir()
    with opened(source.path) as place:
        files = source.files.files if source.files is not None else find_dicom(place)
        hows = {_place_file(place / path.name, target / path.name) for path in files}
    return " and ".join(sorted(hows))


def _place_file(path: Path, target: Path) -> str:
    try:
        os.link(path.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)
        return "copy"
    return "hard link"


def _write_infos(folder: Path, cleaning: Cleaning) -> None:
    """The `ctmr.json` of each folder whose images had one: the unit, and the spacing of each file."""
    images: dict[str, list[Kept]] = {}
    for kept in cleaning.kept:
        if kept.picture.source.kind == "image":
            images.setdefault(kept.folder, []).append(kept)
    for name, files in images.items():
        infos = [kept.picture.source.info for kept in files]
        units = sorted({(info.unit, info.slope, info.intercept) for info in infos})
        if len(units) > 1:
            raise DataError(
                f"expected one unit for the images of {name}: found {units} (unit, slope, intercept)",
                fix="make the ctmr.json of the training and the test folder agree",
            )
        _write_info(folder / name, files)


def _write_info(root: Path, kept: Sequence[Kept]) -> None:
    """The `ctmr.json` of the images below one folder, which have one unit."""
    info = kept[0].picture.source.info
    scale: dict[str, Any] = {"unit": info.unit}
    if info.unit == "HU":
        scale |= {"slope": info.slope, "intercept": info.intercept}
    spacings = {
        file.name: file.picture.source.info.spacing_of(file.picture.source.path.name)
        for file in kept
    }
    known = {key: {"spacing_mm": list(mm)} for key, mm in spacings.items() if mm is not None}
    if info.unit == "HU" or known:
        write_json(root / INFO_NAME, scale | {"files": known})
