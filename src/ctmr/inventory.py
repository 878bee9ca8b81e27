"""Every scan of a data folder, the bad ones too: what cannot be used is a finding, and the others are looked at."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from ctmr.dicom import find_dicom, is_dicom
from ctmr.errors import DataError, ResourceError
from ctmr.folders import Source, find_data, patient_finder
from ctmr.images import INFO_NAME, ImageInfo, is_regular, read_image_info
from ctmr.picture import Picture, Unusable, take_picture
from ctmr.processes import serve
from ctmr.scan import Kind, kind_of
from ctmr.store import Split
from ctmr.survey import Progress
from ctmr.volume import Modality

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

FEW = 64  # scans for which other processes would take longer to start than they help
CHUNK = 16  # scans handed to a process at a time


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: A word for it, as `wrong_modality`.
        level: `error`: results would be wrong or no training starts; `warning`: look at it; `note`: good to know.
        files: `folder/name` of each, or `folder`.
        why: What was seen, with numbers.
    """

    kind: str
    level: Level
    files: tuple[str, ...]
    why: str

    def as_json(self) -> dict[str, Any]:
        """As audit.json has it."""
        return {"kind": self.kind, "level": self.level, "files": list(self.files), "why": self.why}


@dataclass(frozen=True)
class Inventory:
    """All scans that can be read, by folder and name, and what was found on the way to them.

    Attributes:
        scans: Number of scans, those that cannot be used too.
        folders: Name of the folder of each split and modality that is there.
    """

    pictures: tuple[Picture, ...]
    findings: tuple[Finding, ...]
    scans: int
    folders: dict[tuple[Split, Modality], str]


def take_inventory(
    data: Path, patient_pattern: str | None, progress: Progress | None = None
) -> Inventory:
    """Look at every scan of a data folder.

    Args:
        data: `trainA trainB testA testB` or `train/ct train/mr test/ct test/mr`.
        patient_pattern: Regular expression whose first group, searched in a file's path, names the patient.
        progress: Called with scans done and scans to do.

    Raises:
        DataError: If a training folder is missing, or both layouts are there.
        UsageError: If the pattern is not a regular expression with a group.
    """
    patient_of = patient_finder(patient_pattern)
    findings: list[Finding] = []
    sources: list[Source] = []
    folders: dict[tuple[Split, Modality], str] = {}
    for split, by_modality in find_data(data).items():
        for modality, folder in by_modality.items():
            folders[split, modality] = label_of(data, folder)
            info = _info(data, folder, modality, findings)
            for path, kind in _scans(data, folder, findings):
                label = label_of(data, path)
                patient = patient_of(label)
                sources.append(Source(data, split, modality, path, kind, label, patient, info))
    pictures: list[Picture] = []
    for done, found in enumerate(_pictures(sources), 1):
        if isinstance(found, Unusable):
            findings.append(Finding(found.fault, "error", (found.source.label,), found.why))
        else:
            pictures.append(found)
        if progress is not None:
            progress(done, len(sources))
    return Inventory(tuple(pictures), tuple(findings), len(sources), folders)


def label_of(data: Path, path: Path) -> str:
    """The path below the data folder, with bytes that are no UTF-8 escaped."""
    return os.fsencode(path.relative_to(data).as_posix()).decode("utf-8", "backslashreplace")


def _info(data: Path, folder: Path, modality: Modality, findings: list[Finding]) -> ImageInfo:
    """The folder's `ctmr.json`; none if it is wrong."""
    label = label_of(data, folder / INFO_NAME)
    try:
        info = read_image_info(folder)
    except DataError as error:
        findings.append(Finding("ctmr_json", "error", (label,), error.what))
        return ImageInfo()
    if info.unit == "HU" and modality == "mr":
        why = "it gives HU to MR, and HU exist only for CT"
        findings.append(Finding("ctmr_json", "error", (label,), why))
        return ImageInfo()
    return info


def _scans(data: Path, folder: Path, findings: list[Finding]) -> Iterator[tuple[Path, Kind]]:
    """The scans of a folder, sorted by the bytes of their names; what is none is a finding."""
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)
    except OSError as error:
        why = f"cannot list the folder ({error.strerror})"
        findings.append(Finding("unreadable", "error", (label_of(data, folder),), why))
        return
    skipped: dict[tuple[str, Level, str], list[str]] = {}
    for name in names:
        if name.startswith(".") or name == INFO_NAME:
            continue
        path = folder / name
        found = _what_is(path)
        if isinstance(found, str):
            yield path, found
        else:
            skipped.setdefault(found, []).append(label_of(data, path))
    for (what, level, why), labels in skipped.items():
        findings.append(Finding(what, level, tuple(labels), why))


def _what_is(path: Path) -> Kind | tuple[str, Level, str]:
    """What sort of scan a path is; else kind, level and text of the finding."""
    try:
        kind = kind_of(path)
        if kind is not None:
            return kind if kind == "series" or is_regular(path) else _NO_FILE
        if path.is_dir():
            return _MIXED if find_dicom(path) else _OTHER
        return _LOOSE if is_dicom(path) else _OTHER
    except DataError as error:
        return "unreadable", "error", error.what


_NO_FILE: tuple[str, Level, str] = (
    "skipped",
    "warning",
    "named as a scan, and no regular file (a pipe, a dangling link)",
)
_OTHER: tuple[str, Level, str] = ("skipped", "note", "no scan by name: training skips it too")
_LOOSE: tuple[str, Level, str] = (
    "unreadable",
    "error",
    "DICOM files beside each other: expected each series in a sub-folder of its own",
)
_MIXED: tuple[str, Level, str] = (
    "unreadable",
    "error",
    "images or NIfTI files beside DICOM files: expected DICOM files only in a sub-folder",
)


def _pictures(sources: Sequence[Source]) -> Iterator[Picture | Unusable]:
    """What was seen of each, in order."""
    workers = os.cpu_count() or 1
    pool: Executor
    if len(sources) <= FEW:
        pool = ThreadPoolExecutor(workers)
    else:
        pool = ProcessPoolExecutor(workers, get_context("forkserver"), serve, (os.getpid(),))
    try:
        yield from pool.map(take_picture, sources, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process that looked at scans was killed, perhaps for want of memory",
            fix="free memory, or audit fewer scans at a time",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
