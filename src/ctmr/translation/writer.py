"""What is written of a scan that was translated: the translation, maps of doubt, and the sidecar that says all is there."""

import functools
import logging
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ctmr.errors import OutputError, printable
from ctmr.imaging.image import Image, Scan, Unit
from ctmr.imaging.volume import Volume, onto_grid
from ctmr.io.codecs import is_image_name
from ctmr.io.dicom.series import Series
from ctmr.io.dicom.writer import Derivation, write_series
from ctmr.io.image_info import INFO_NAME, add_image_info, info_to_add
from ctmr.io.images import image_bytes
from ctmr.io.nifti import nifti_bytes
from ctmr.io.scan import DESCRIPTION, content_hash, info_place, info_within
from ctmr.io.volumes import volume_bytes
from ctmr.notice import NOTICE
from ctmr.system.files import cannot_write, persistently, replacing, replacing_folder, write_bytes
from ctmr.system.ownership import digest_of, known_digests, read_sealed, require_own, sealed
from ctmr.translation.plan import Job, Reading
from ctmr.translation.translator import Translation, Translator
from ctmr.types import DIRECTION_TO, Modality, Spacing

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
    translator: Translator,
    its: Input,
    done: Translation,
    to: Modality,
    reading: Reading,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the translation of a scan and, last, its sidecar, which is returned.

    Before the first file takes its place the sidecar names the hashes of the new ones and of those they replace: what a
    killed process leaves is known by it for ours, and is not taken for done.

    Raises:
        OutputError: If a file cannot be written, or one that ctmr did not write has come to be there (without `overwrite`).
    """
    job, series = its.job, its.series
    require_own(job.paths(done.maps), overwrite=overwrite, sidecars=job.sidecars(done.maps))
    contents = _contents(its, done)
    said = {"notice": NOTICE, "unfinished": True, "result": job.target.name}

    def write() -> None:
        replaced = {job.name_of(path): _own_digest(job, path) for path in job.outputs(done.maps)}
        said["replaced"] = {name: digest for name, digest in replaced.items() if digest is not None}
        with ExitStack() as publishing:
            drafts: dict[Path, Path] = {}
            if series is not None and isinstance(done.scan, Volume):
                volume = done.scan if job.kind == "series" else onto_grid(done.scan, series.volume)
                draft = publishing.enter_context(replacing_folder(job.target))
                write_series(draft, volume, series, _derivation(translator, job, to, reading))
                drafts[job.target] = draft
            for path, content in contents.items():
                drafts[path] = publishing.enter_context(replacing(path))
                try:
                    drafts[path].write_bytes(content)
                except OSError as error:
                    raise cannot_write(path, error, len(content)) from error
            said["outputs"] = {job.name_of(path): digest_of(its) for path, its in drafts.items()}
            write_bytes(job.sidecar, sealed(said))

    persistently(write)
    about = translator.sidecar(done, to, its.seconds) | _believed(job, reading)
    about |= {"request_sha256": its.request, "result": said["result"], "outputs": said["outputs"]}
    if series is not None and series.notes:
        logger.warning("%s: %s", printable(str(job.source)), "; ".join(series.notes))
        about["notes"] = list(series.notes)
    write_bytes(job.sidecar, sealed(about))
    return about


def _contents(its: Input, done: Translation) -> dict[Path, bytes]:
    """The bytes of a translation that is one file, and of maps of uncertainty (shares of the range), on the grid of their scan."""
    job, contents = its.job, dict[Path, bytes]()
    if isinstance(done.scan, Image):
        contents[job.target] = image_bytes(job.target, done.scan)
    elif its.series is None:
        contents[job.target] = volume_bytes(job.target, done.scan, DESCRIPTION)
    for measure, share in done.maps.items():
        path = job.map_path(measure)
        if isinstance(its.scan, Image):
            grey = Image(np.minimum(share / MAP_WHITE, 1) * 255, "grey", 8)
            contents[path] = image_bytes(path, grey)
        else:
            said = f"{measure}, share of range (ctmr): research use only, not for diagnosis"
            # Neither CT nor MR, but in floating point as MR is.
            contents[path] = nifti_bytes(path, replace(its.scan, array=share, modality="mr"), said)
    return contents


def _own_digest(job: Job, path: Path) -> str | None:
    """The hash of a file that is there, if ctmr wrote it."""
    if not os.path.lexists(path):
        return None
    digest = digest_of(path)
    return digest if digest in known_digests(path, job.sidecar) else None


def earlier(job: Job, request: str) -> dict[str, Any] | None:
    """What the sidecar of an earlier translation says that followed from the same and is there whole; else None."""
    said = read_sealed(job.sidecar)
    if said is None or said.get("request_sha256") != request or said.get("unfinished"):
        return None
    whole = all(
        digest_of(job.sidecar.parent / name) == digest for name, digest in said["outputs"].items()
    )
    return said if whole else None


def require_replaceable(job: Job) -> None:
    """Refuse to write a series into a folder with anything but the slices of a translation.

    Raises:
        OutputError: If something else is there.
    """
    if not os.path.lexists(job.target):
        return
    if not job.target.is_dir() or any(
        not _OURS.fullmatch(path.name) for path in job.target.iterdir()
    ):
        raise OutputError(
            "expected a new folder, or an earlier translation: found other files",
            file=job.target,
            fix="choose another OUTPUT",
        )


def _believed(job: Job, reading: Reading) -> dict[str, Any]:
    """What the sidecar says of what the user vouched for."""
    said: dict[str, Any] = {}
    if job.kind == "volume" and reading.geometry is not None:
        said["geometry"] = reading.geometry
    like = job.kind == "volume" and reading.like is not None
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
    if job.kind == "volume":
        options += content_hash(job.source, job.kind)
    return Derivation(translator.model.card.sha256, DIRECTION_TO[to], version("ctmr"), options)


def write_info(
    translator: Translator, jobs: Sequence[Job], to: Modality, *, only_check: bool = False
) -> None:
    """Say HU and spacing of translated images in a `ctmr.json` beside them, where there is something to say.

    Raises:
        OutputError: See `images.add_image_info`; with `only_check` nothing is written.
    """
    spacings: dict[Path, dict[str, Spacing | None]] = {}
    roots: dict[Path, Path] = {}
    info_of = functools.cache(info_within)
    for job in jobs:
        if job.kind == "image":
            folder, info = job.target.parent, info_of(job.source.parent, job.root)
            spacings.setdefault(folder, {})[job.target.name] = info.spacing_of(job.source.name)
            roots[folder] = job.target_root
    unit: Unit = "HU" if translator.preprocessor.writes_hu(to) else "grey"
    say = info_to_add if only_check else add_image_info
    for folder in sorted(spacings):  # what lies above first
        above = info_place(folder, roots[folder])  # it holds for a folder without one
        names = [path.name for path in folder.glob("*") if is_image_name(path)]
        if above != folder and not spacings[folder].keys() >= set(names):
            raise OutputError(
                f"{unit} images would lie beside others for which {above / INFO_NAME} holds",
                file=folder,
                fix="choose another folder",
            )
        say(folder, unit, spacings[folder], always=above != folder)
