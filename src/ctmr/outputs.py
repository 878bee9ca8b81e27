"""What is written of a scan that was translated: the translation, maps of doubt, and the sidecar that says all is there."""

import functools
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ctmr.dicom import Series
from ctmr.dicom_write import Derivation, write_series
from ctmr.errors import CtmrError, OutputError, printable
from ctmr.files import read_regular, replacing_folder, write_json
from ctmr.images import (
    MAX_INFO_BYTES,
    Image,
    Unit,
    add_image_info,
    is_image_name,
    read_image_info,
    write_image,
    write_image_info,
)
from ctmr.intensity import FloatArray
from ctmr.jobs import Job, Reading
from ctmr.model import NOTICE
from ctmr.nifti import write_nifti
from ctmr.quality import Measure
from ctmr.scale import Spacing
from ctmr.scan import Kind, Scan, content_hash, info_within, write_scan
from ctmr.translate import DIRECTION_TO, Translation, Translator
from ctmr.volume import Modality, Volume, onto_grid

logger = logging.getLogger(__name__)

MAP_WHITE = 0.25  # share of the range, and above it, that is white in the map of an image
_OURS = re.compile(r"slice_\d{4,}\.dcm")


@dataclass(eq=False)
class Input:
    """A scan on its way: what was read, and the seconds of reading and translating so far."""

    job: Job
    request: str
    scan: Scan
    series: Series | None
    seconds: float


def write_translation(
    translator: Translator, its: Input, done: Translation, to: Modality, reading: Reading
) -> dict[str, Any]:
    """Write the translation of a scan and, last, its sidecar, which is returned.

    Raises:
        OutputError: If a file cannot be written.
    """
    job, series = its.job, its.series
    # What a killed process leaves is known for ours by it, and not taken for done.
    write_json(job.sidecar, {"notice": NOTICE, "unfinished": True})
    if series is not None and isinstance(done.scan, Volume):
        volume = done.scan if job.kind == "series" else onto_grid(done.scan, series.volume)
        about = _derivation(translator, job, to, reading)
        with replacing_folder(job.target) as folder:
            write_series(folder, volume, series, about)
    elif isinstance(done.scan, Image):
        write_image(job.target, done.scan)
    else:
        write_scan(job.target, done.scan)
    _write_maps(job, its.scan, done.maps)
    said = translator.sidecar(done, to, its.seconds) | _believed(job, reading)
    said["request_sha256"] = its.request
    said["output_sha256"] = _hash_of(job, list(done.maps))
    if series is not None and series.notes:
        logger.warning("%s: %s", printable(str(job.source)), "; ".join(series.notes))
        said["notes"] = list(series.notes)
    write_json(job.sidecar, said)
    return said


def earlier(job: Job, request: str) -> dict[str, Any] | None:
    """What the sidecar of an earlier translation says that followed from the same and is there whole; else None."""
    try:
        said: dict[str, Any] = json.loads(read_regular(job.sidecar, MAX_INFO_BYTES))
        if said["request_sha256"] == request and said["quality"]["level"]:
            return said if said["output_sha256"] == _hash_of(job, said["quality"]["maps"]) else None
    except (OSError, ValueError, LookupError, TypeError, CtmrError):
        return None
    return None


def _hash_of(job: Job, measures: Sequence[Measure]) -> str:
    """A hash of the translation and of its maps of doubt as they are on the disk."""
    whole = hashlib.sha256()
    for path in (job.target, *map(job.map_path, measures)):
        kind: Kind = "series" if path.is_dir() else "nifti"
        whole.update(content_hash(path, kind).encode())
    return whole.hexdigest()


def _write_maps(job: Job, scan: Scan, maps: Mapping[Measure, FloatArray]) -> None:
    """Write maps of doubt (shares of the range) on the grid of their scan, marked as translations are."""
    for measure, share in maps.items():
        path = job.map_path(measure)
        if isinstance(scan, Image):
            write_image(path, Image(np.minimum(share / MAP_WHITE, 1) * 255, "grey", 8))
        else:
            said = f"{measure}, share of range (ctmr): research use only, not for diagnosis"
            # Neither CT nor MR, but in floating point as MR is.
            write_nifti(path, replace(scan, array=share, modality="mr"), said)


def require_replaceable(job: Job) -> None:
    """Refuse to write a series over anything but an earlier translation, which has its sidecar beside it.

    Raises:
        OutputError: If something else is there.
    """
    if not job.target.exists():
        return
    others = not job.target.is_dir() or [
        path for path in job.target.iterdir() if not _OURS.fullmatch(path.name)
    ]
    if others or (any(job.target.iterdir()) and not job.sidecar.exists()):
        raise OutputError(
            "expected a new folder, or an earlier translation: found other files",
            file=job.target,
            fix="choose another OUTPUT",
        )


def _believed(job: Job, reading: Reading) -> dict[str, Any]:
    """What the sidecar says of what the user vouched for."""
    said: dict[str, Any] = {}
    if job.kind == "nifti" and reading.geometry is not None:
        said["geometry"] = reading.geometry
    like = job.kind == "nifti" and reading.like is not None
    if like:
        said["like"] = True
    if (like or job.kind == "series") and reading.irregular:
        said["irregular"] = True
    if reading.anyway:
        said["anyway"] = True
    return said


def _derivation(translator: Translator, job: Job, to: Modality, reading: Reading) -> Derivation:
    """What the files say of their origin; with `like` the source is not the series alone."""
    options = "anyway" if reading.anyway else ""
    if job.kind == "nifti":
        options += content_hash(job.source, job.kind)
    return Derivation(translator.model.card.sha256, DIRECTION_TO[to], version("ctmr"), options)


def write_info(translator: Translator, jobs: Sequence[Job], to: Modality) -> None:
    """Say HU and spacing of translated images in a `ctmr.json` beside them, where there is something to say."""
    spacings: dict[Path, dict[str, Spacing | None]] = {}
    roots: dict[Path, Path] = {}
    info_of = functools.cache(info_within)
    for job in jobs:
        if job.kind == "image":
            folder, info = job.target.parent, info_of(job.source.parent, job.root)
            spacings.setdefault(folder, {})[job.target.name] = info.spacing_of(job.source.name)
            roots[folder] = job.target_root
    unit: Unit = "HU" if translator.conversion.writes_hu(to) else "grey"
    for folder in sorted(spacings):  # what lies above first
        add_image_info(folder, unit, spacings[folder])
        # One above it holds for a folder without one.
        above = info_within(folder, roots[folder])
        if above == read_image_info(folder):
            continue
        if any(
            is_image_name(path) and path.name not in spacings[folder] for path in folder.glob("*")
        ):
            raise OutputError(
                f"{unit} images without a ctmr.json would lie beside others that one above gives"
                f" {above.unit} values",
                file=folder,
                fix="choose another folder",
            )
        write_image_info(folder, unit)
