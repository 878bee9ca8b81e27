"""The layout of a data folder: which folder is which, and which scans it holds."""

import logging
from pathlib import Path

from ctmr.data.sources import LAYOUTS, Source, Sources, infos_of, label_of, patient_finder
from ctmr.data.trees import require_both, tree_sources
from ctmr.errors import DataError, printable, refuse_all
from ctmr.io.image_info import ImageInfo
from ctmr.io.listing import Listing, below_root, chooser, list_scans
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.scan import READABLE
from ctmr.types import MODALITIES, Modality, Split

_EXPECTED = "; or ".join(", ".join(layout.values()) for layout in LAYOUTS)

logger = logging.getLogger(__name__)


def find_data(data: Path, *, whole: bool = True) -> dict[Split, dict[Modality, Path]]:
    """The folders of a data folder; a test folder that does not exist is left out.

    Args:
        data: The data folder.
        whole: Both training folders are needed; else one is enough.

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
    if len(missing) == len(MODALITIES) or (whole and missing):
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
        elif split == "test":
            logger.info("%s: no folder %s, so nothing to test on", printable(str(data)), name)
    return folders


def is_tree(data: Path) -> bool:
    """Whether a folder has none of the folders of a data folder, but others."""
    names = [name.split("/")[0] for layout in LAYOUTS for name in layout.values()]
    return data.is_dir() and not any((data / name).exists() for name in names)


def holds_data(folder: Path) -> bool:
    """Whether a folder is a data folder, laid out or a tree, which PAIRS is not."""
    if any((folder / layout["train", "ct"]).is_dir() for layout in LAYOUTS):
        return True
    return is_tree(folder) and not any((folder / kind).is_dir() for kind in MODALITIES)


def list_sources(
    data: Path, patient_pattern: str | None, reading: Reading = DEFAULT, *, whole: bool = True
) -> Sources:
    """Walk through a data folder, laid out or a tree, and collect its scans and all that is wrong with it.

    Args:
        data: The data folder.
        patient_pattern: See `patient_finder`.
        reading: What to believe of scans that say too little.
        whole: See `find_data`.

    Raises:
        DataError: If a training folder is missing, or both layouts are there.
        UsageError: If the pattern is not a regular expression with a group.
    """
    patient_of = patient_finder(patient_pattern)
    if is_tree(data):
        found = tree_sources(data, patient_of, reading)
        if found.scans:
            return found
    found = Sources()
    for split, by_modality in find_data(data, whole=whole).items():
        for modality, folder in by_modality.items():
            listing = list_scans(folder, choose=chooser(reading.series))
            images = [scan.path for scan in listing.scans if scan.kind == "image"]
            infos, wrong = infos_of(folder, modality, images)
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
            found.listings.append(listing)
            found.folders[split, modality] = label_of(data, folder)
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
    for listing in found.listings:
        if listing.faults:
            raise listing.faults[0].error
        name = label_of(data, listing.folder) if listing.folder != data else data.name
        listing.count(name)
        listing.warn(name)
        if name in (found.folders.get(("train", modality)) for modality in MODALITIES):
            _require_scans(listing)
    if is_tree(data):
        require_both(data, found)
    failures = [(below_root(place, data), error) for place, error in found.wrong.items()]
    what = "folders have a ctmr.json that cannot be used"
    refuse_all(failures, what, file=data, fix="correct them; see ctmr help data-folders")
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


def _require_scans(listing: Listing) -> None:
    if not listing.scans:
        raise DataError(
            f"expected {READABLE} in it: found none; training needs"
            f" {LAYOUTS[0]['train', 'ct']} (CT) and {LAYOUTS[0]['train', 'mr']} (MR)",
            file=listing.folder,
            fix="put scans there",
        )
