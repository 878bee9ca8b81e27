"""Every scan of a data folder, the bad ones too: what cannot be used is a finding, and the others are looked at."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from ctmr.audit.scan_profile import Picture, Unusable, take_picture
from ctmr.data.folders import list_sources
from ctmr.data.sources import Source, label_of
from ctmr.errors import ResourceError
from ctmr.io.image_info import INFO_NAME
from ctmr.io.listing import OTHER, Listing
from ctmr.io.reading import DEFAULT, Reading
from ctmr.results import Finding
from ctmr.system.parallel import serve, worker_context
from ctmr.types import Level, Modality, Progress, Split

MIN_FOR_PROCESSES = 64  # scans for which other processes would take longer to start than they help
CHUNK = 16  # scans handed to a process at a time


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
    data: Path,
    patient_pattern: str | None,
    progress: Progress | None = None,
    *,
    reading: Reading = DEFAULT,
) -> Inventory:
    """Look at every scan of a data folder.

    Args:
        data: `trainA trainB testA testB` or `train/ct train/mr test/ct test/mr`.
        patient_pattern: Regular expression whose first group, searched in a file's path, names the patient.
        progress: Called with scans done and scans to do.
        reading: What to believe of scans that say too little.

    Raises:
        DataError: If both training folders are missing, or both layouts are there.
        UsageError: If the pattern is not a regular expression with a group.
    """
    listed = list_sources(data, patient_pattern, reading, whole=False)
    findings: list[Finding] = []
    for listing in listed.listings:
        listing.count(label_of(data, listing.folder))
        findings += _of_listing(data, listing)
        for place, error in listed.wrong.items():
            if place.is_relative_to(listing.folder):
                label = label_of(data, place / INFO_NAME)
                findings.append(Finding("ctmr_json", "error", (label,), error.what))
    pictures: list[Picture] = []
    for done, found in enumerate(_pictures(listed.scans), 1):
        if isinstance(found, Unusable):
            level: Level = "warning" if found.fault == "no_scan" else "error"
            findings.append(Finding(found.fault, level, (found.source.label,), found.why))
        else:
            pictures.append(found)
        if progress is not None:
            progress(done, len(listed.scans))
    return Inventory(tuple(pictures), tuple(findings), len(listed.scans), listed.folders)


def _of_listing(data: Path, listing: Listing) -> Iterator[Finding]:
    """What lies in a folder and is no scan that can be used."""
    for error, paths in listing.faults:
        labels = tuple(label_of(data, path) for path in paths)
        yield Finding("unreadable", "error", labels, error.what)
    for why, left_out in listing.left_out.items():
        level: Level = "note" if why == OTHER else "warning"
        labels = tuple(label_of(data, path) for path in left_out)
        yield Finding("skipped", level, labels, why)


def _pictures(sources: Sequence[Source]) -> Iterator[Picture | Unusable]:
    """What was seen of each, in order."""
    workers = os.cpu_count() or 1
    pool: Executor
    if len(sources) <= MIN_FOR_PROCESSES:
        pool = ThreadPoolExecutor(workers)
    else:
        pool = ProcessPoolExecutor(workers, worker_context(__name__), serve, (os.getpid(),))
    try:
        yield from pool.map(take_picture, sources, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process that looked at scans was killed, perhaps for want of memory",
            fix="free memory, or audit fewer scans at a time",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
