"""A tree without `trainA` or `train/ct` as a data folder: patient folders, BIDS, an archive."""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ctmr.data.sources import Source, Sources, infos_of, label_of
from ctmr.errors import CtmrError, DataError, printable
from ctmr.imaging.ct_values import looks_like_hu
from ctmr.imaging.image import Image
from ctmr.io.dicom.header import hashed
from ctmr.io.image_info import ImageInfo
from ctmr.io.listing import DERIVED, Found, chooser, list_scans
from ctmr.io.reading import Reading
from ctmr.io.scan import read_scan, stem_of
from ctmr.system.files import read_regular
from ctmr.types import MODALITIES, NAMES, SPLITS, Modality, Split

TEST_OF = 10  # one patient of so many is for testing
MAX_SIDECAR_BYTES = 10_000_000
UNKNOWN = "scans of which no header, sidecar or name says CT or MR are not read"
PICTURES = "pictures in a tree of volumes are not read"
# Words of a name that say what a scan is, as BIDS and the sets of challenges write them.
WORDS: dict[str, Modality] = {
    **dict.fromkeys(("ct", "ctac", "ldct"), "ct"),
    **dict.fromkeys(("mr", "mri", "t1", "t1w", "t1n", "t1c", "t1ce", "t1gd", "mprage"), "mr"),
    **dict.fromkeys(("t2", "t2w", "flair", "t2f", "t2flair", "pd", "pdw", "inplanet1"), "mr"),
}

logger = logging.getLogger(__name__)


def tree_sources(data: Path, patient_of: Callable[[str], str | None], reading: Reading) -> Sources:
    """The scans of a tree: modality by header, a tenth of the patients for testing.

    A patient is named by the pattern, else by PatientID (0010,0020), else by `sub-` in the path (BIDS), by the first folder
    below the tree, or by the name of the file.

    Args:
        data: The tree.
        patient_of: The patient that a path names.
        reading: What to believe of scans that say too little.
    """
    listing = list_scans(data, choose=chooser(reading.series))
    volumes = any(scan.kind != "image" for scan in listing.scans)
    known: list[tuple[Found, Modality, str]] = []
    for scan in listing.scans:
        modality = modality_of(scan, data)
        if scan.is_derived:
            listing.left_out.setdefault(DERIVED, []).append(scan.path)
        elif volumes and scan.kind == "image":
            listing.left_out.setdefault(PICTURES, []).append(scan.path)
        elif modality is None:
            listing.left_out.setdefault(UNKNOWN, []).append(scan.path)
        else:
            known.append(
                (scan, modality, patient_of(label_of(data, scan.path)) or _patient(scan, data))
            )
    patients = {patient for _, _, patient in known}
    splits: dict[str, Split] = dict.fromkeys(patients, "train")
    if not is_pairs(data):
        splits = split_of(patients)
    found = Sources()
    infos: dict[Modality, dict[Path, ImageInfo]] = {}
    for modality in MODALITIES:
        paths = [s.path for s, told, _ in known if told == modality and s.kind == "image"]
        infos[modality], wrong = infos_of(data, modality, paths)
        found.wrong.update(wrong)
    for scan, modality, patient in known:
        info = infos[modality].get(scan.path.parent, ImageInfo())
        label = label_of(data, scan.path / scan.part)
        source = Source(
            *(data, splits[patient], modality, scan.path, scan.kind, label, patient, info),
            reading=reading,
            files=scan.series,
            part=scan.part,
            in_tree=True,
            frame=scan.header.frame if scan.header is not None else None,
        )
        found.scans.append(source)
    found.scans.sort(key=lambda source: (source.split == "test", MODALITIES.index(source.modality)))
    there = [m for m in MODALITIES if any(source.modality == m for source in found.scans)]
    found.folders.update({(split, m): f"{split}/{m}" for split in SPLITS for m in there})
    found.listings.append(listing)
    _log(data, splits)
    return found


def is_pairs(folder: Path) -> bool:
    """Whether a folder is one of pairs, with `ct/` and `mr/`: all of them are for training."""
    return all((folder / modality).is_dir() for modality in MODALITIES)


def split_of(patients: set[str]) -> dict[str, Split]:
    """Test where the hash of a patient modulo 10 is 0; of two or more the one with the lowest hash if none is so."""
    numbers = {patient: int(hashed(patient), 16) for patient in patients}
    test = {patient for patient, number in numbers.items() if number % TEST_OF == 0}
    if len(patients) == 1:
        test = set()
    elif patients and len(test) in (0, len(patients)):
        test = {min(numbers, key=lambda patient: numbers[patient])}
    return {patient: "test" if patient in test else "train" for patient in patients}


def modality_of(scan: Found, root: Path) -> Modality | None:
    """CT or MR by the header of a series, else by a sidecar, by the words of the path, or by HU; None if nothing says it."""
    if scan.kind == "series":
        return scan.header.modality if scan.header is not None else None
    sidecar = scan.path.with_name(stem_of(scan.path) + ".json")
    told = _of_sidecar(sidecar) if sidecar.is_file() else None
    return told or _of_words(scan.path, root) or _of_values(scan)


def _of_sidecar(path: Path) -> Modality | None:
    """What a JSON that a converter wrote beside a volume says (dcm2niix, BIDS)."""
    try:
        content = json.loads(read_regular(path, MAX_SIDECAR_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    word = str(content.get("Modality", "")).lower() if isinstance(content, dict) else ""
    return next((modality for modality in MODALITIES if word == modality), None)


def _of_words(path: Path, root: Path) -> Modality | None:
    """The last word in a path below the root that says it; the name of the file comes first."""
    parts = path.relative_to(root).with_name(stem_of(path)).parts
    for part in reversed(parts):
        told = {WORDS[word] for word in re.split(r"[^a-z0-9]+", part.lower()) if word in WORDS}
        if len(told) == 1:
            return told.pop()
    return None


def _of_values(scan: Found) -> Modality | None:
    """A CT by its HU."""
    try:
        read = read_scan(scan.path)
    except CtmrError:
        return None
    return "ct" if not isinstance(read, Image) and looks_like_hu(read.array) else None


def _patient(scan: Found, root: Path) -> str:
    """Who a scan is of, where no pattern says it."""
    if scan.header is not None and scan.header.patient is not None:
        return scan.header.patient
    parts = scan.path.relative_to(root).parts
    if is_pairs(root) and len(parts) > 1:
        parts = parts[1:]
    for part in parts:
        subject = re.match(r"sub-([0-9A-Za-z]+)", part)
        if subject:
            return subject.group(1)
    if len(parts) > 1:
        return parts[0]
    words = re.split(r"[^A-Za-z0-9]+", stem_of(scan.path))
    return "_".join(word for word in words if word.lower() not in WORDS) or parts[0]


def _log(data: Path, splits: Mapping[str, Split]) -> None:
    test = sum(split == "test" for split in splits.values())
    name, count = printable(data.name), len(splits)
    logger.info("%s: %d patients, %d to train on, %d to test on", name, count, count - test, test)
    if count == 1:
        logger.warning("%s: one patient, so nothing to test on", name)


def require_both(data: Path, found: Sources) -> None:
    """Refuse a tree without training scans of both modalities.

    Raises:
        DataError: If one is missing.
    """
    for modality in MODALITIES:
        if not any((s.split, s.modality) == ("train", modality) for s in found.scans):
            raise DataError(
                f"expected {NAMES[modality]} to train on in the tree: found none",
                file=data,
                fix="add patients, or put scans into trainA (CT) and trainB (MR)",
            )
