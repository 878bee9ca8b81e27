"""What is written of a scan that was translated: the translation, its preview, uncertainty maps, and the sidecar that says all is there."""

import functools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from ctmr.errors import OutputError, printable
from ctmr.imaging.image import Image, Scan, Unit
from ctmr.imaging.volume import Volume, onto_grid
from ctmr.io.codecs import is_image_name
from ctmr.io.image_info import INFO_NAME, add_image_info, info_to_add
from ctmr.io.images import image_bytes
from ctmr.io.nifti import nifti_bytes
from ctmr.io.reading import Reading
from ctmr.io.scan import DESCRIPTION, content_hash, info_place, info_within
from ctmr.io.volumes import volume_bytes
from ctmr.notice import NOTICE
from ctmr.results import Sidecar
from ctmr.system.files import cannot_write, persistently, replacing, replacing_folder, write_bytes
from ctmr.system.ownership import (
    digest_of,
    is_own_extra,
    known_digests,
    read_sealed,
    require_own,
    sealed,
)
from ctmr.translation.packed import Packed
from ctmr.translation.plan import PlanItem
from ctmr.translation.preprocessing import NetworkInput
from ctmr.translation.preview import preview
from ctmr.translation.translator import Translation, Translator
from ctmr.translation.uncertainty import QualityLevel
from ctmr.types import DIRECTION_TO, Modality, Spacing

if TYPE_CHECKING:  # pydicom takes a third of a second to import: only for what is DICOM
    from ctmr.io.dicom.series import Series
    from ctmr.io.dicom.writer import Derivation

logger = logging.getLogger(__name__)

MAP_WHITE = 0.25  # share of the range, and above it, that is white in the map of an image
_SLICE_NAME = re.compile(r"slice_\d{4,}\.dcm")


@dataclass(eq=False)
class Loaded:
    """A scan on its way: what was read, the seconds of reading and translating so far, and the quality wanted."""

    item: PlanItem
    request: str
    scan: Scan
    made: NetworkInput
    series: "Series | None"
    seconds: float
    quality: QualityLevel


def write_translation(
    translator: Translator,
    loaded: Loaded,
    done: Translation[Scan | Packed],
    to: Modality,
    reading: Reading,
    *,
    overwrite: bool = False,
) -> Sidecar:
    """Write the translation of a scan and, last, its sidecar, which is returned.

    Before the first file takes its place the sidecar names the hashes of the new ones and of those they replace: what a
    killed process leaves is known by it for ours, and is not taken for done.

    Raises:
        OutputError: If a file cannot be written, or one that ctmr did not write has come to be there (without `overwrite`).
    """
    item, series, quality = loaded.item, loaded.series, loaded.quality
    require_own(item.paths(quality), overwrite=overwrite, sidecars=item.sidecars(quality))
    contents = _contents(loaded, done)
    outputs: dict[str, str | None] = {}

    def write() -> None:
        replaced = {item.name_of(path): _own_digest(item, path) for path in item.outputs(quality)}
        with ExitStack() as publishing:
            drafts: dict[Path, Path] = {}
            if series is not None and isinstance(done.scan, Volume):
                volume = done.scan if item.kind == "series" else onto_grid(done.scan, series.volume)
                draft = publishing.enter_context(replacing_folder(item.target))
                from ctmr.io.dicom.writer import write_series

                write_series(draft, volume, series, _derivation(translator, item, to, reading))
                drafts[item.target] = draft
            for path, content in contents.items():
                drafts[path] = publishing.enter_context(replacing(path))
                try:
                    if isinstance(content, Packed):
                        content.put_at(drafts[path])
                    else:
                        drafts[path].write_bytes(content)
                except OSError as error:
                    raise cannot_write(path, error, len(content)) from error
            outputs.update({item.name_of(path): digest_of(at) for path, at in drafts.items()})
            unfinished = {
                "notice": NOTICE,
                "unfinished": True,
                "result": item.target.name,
                "replaced": {name: digest for name, digest in replaced.items() if digest},
                "outputs": outputs,
            }
            write_bytes(item.sidecar, sealed(unfinished))

    persistently(write)
    sidecar = _sidecar(translator, loaded, done, to, reading, outputs)
    if sidecar.notes:
        logger.warning("%s: %s", printable(str(item.source)), "; ".join(sidecar.notes))
    write_bytes(item.sidecar, sealed(sidecar.as_json()))
    return sidecar


def _sidecar(
    translator: Translator,
    loaded: Loaded,
    done: Translation[Scan | Packed],
    to: Modality,
    reading: Reading,
    outputs: Mapping[str, str | None],
) -> Sidecar:
    """What the JSON beside a translation says once all is written."""
    about = done.about | _believed(loaded.item, to, reading)
    if loaded.series is not None and loaded.series.notes:
        about["notes"] = loaded.series.notes
    return Sidecar.model_validate(
        {
            "notice": NOTICE,
            "model_sha256": translator.model.card.sha256,
            "direction": DIRECTION_TO[to],
            "scale": asdict(translator.model.card.scale),
            "engine": translator.engine,
            "precision": translator.precision,
            "seconds": round(loaded.seconds, 4),
            "quality": {
                **done.quality.as_json(),
                "correlations": translator.correlations(to),
                "maps": tuple(done.maps),
            },
            "request_sha256": loaded.request,
            "result": loaded.item.target.name,
            "outputs": outputs,
            **about,
        }
    )


def _contents(loaded: Loaded, done: Translation[Scan | Packed]) -> dict[Path, bytes | Packed]:
    """The bytes of a translation that is one file, of its preview, and of maps of uncertainty on the grid of their scan."""
    item, contents = loaded.item, dict[Path, bytes | Packed]()
    if isinstance(done.scan, Packed):
        contents[item.target] = done.scan
    elif isinstance(done.scan, Image):
        contents[item.target] = image_bytes(item.target, done.scan)
    elif loaded.series is None:
        contents[item.target] = volume_bytes(item.target, done.scan, DESCRIPTION)
    if loaded.quality != "none":
        result = done.scan.glance if isinstance(done.scan, Packed) else done.scan
        contents[item.preview] = preview(loaded.scan, result, done.centre)
    for measure, share in done.maps.items():
        path = item.map_path(measure)
        if isinstance(loaded.scan, Image):
            grey = Image(np.minimum(share / MAP_WHITE, 1) * 255, "grey", 8)
            contents[path] = image_bytes(path, grey)
        else:
            title = f"{measure}, share of range (ctmr): research use only, not for diagnosis"
            # Neither CT nor MR, but in floating point as MR is.
            volume = replace(loaded.scan, array=share, modality="mr")
            contents[path] = nifti_bytes(path, volume, title, (0, MAP_WHITE))
    return contents


def _own_digest(item: PlanItem, path: Path) -> str | None:
    """The hash of a file that is there, if ctmr wrote it."""
    if not os.path.lexists(path):
        return None
    digest = digest_of(path)
    return digest if digest in known_digests(path, item.sidecar) else None


def earlier(item: PlanItem, request: str) -> Sidecar | None:
    """The sidecar of an earlier translation that followed from the same and is there whole; else None."""
    try:
        sidecar = Sidecar.model_validate(read_sealed(item.sidecar))
    except ValidationError:  # none is there, or an unfinished one
        return None
    whole = sidecar.request_sha256 == request and all(
        digest_of(item.sidecar.parent / name) == digest for name, digest in sidecar.outputs.items()
    )
    return sidecar if whole else None


def require_replaceable(item: PlanItem) -> None:
    """Refuse to write a series into a folder with anything but the slices of a translation.

    Raises:
        OutputError: If something else is there.
    """
    if not os.path.lexists(item.target):
        return
    if not item.target.is_dir() or any(
        not _SLICE_NAME.fullmatch(path.name) for path in item.target.iterdir()
    ):
        raise OutputError(
            "expected a new folder, or an earlier translation: found other files",
            file=item.target,
            fix="choose another OUTPUT",
        )


def _believed(item: PlanItem, to: Modality, reading: Reading) -> dict[str, Any]:
    """What the sidecar says of what the user vouched for."""
    given = reading.vouched()
    if item.kind != "volume":
        given.pop("geometry", None)
    if item.series is None:
        given.pop("irregular", None)
        given.pop("series", None)
    if to == "ct":
        given.pop("ct_values", None)
    return ({"like": True} if item.like is not None else {}) | given


def _derivation(
    translator: Translator, item: PlanItem, to: Modality, reading: Reading
) -> "Derivation":
    """What the files say of their origin; with `like` the source is not the series alone."""
    from ctmr.io.dicom.writer import Derivation

    options = "anyway" if reading.anyway else ""
    if item.kind == "volume":
        options += content_hash(item.source, item.kind, item.scan.series)
    return Derivation(translator.model.card.sha256, DIRECTION_TO[to], version("ctmr"), options)


def write_info(
    translator: Translator, items: Sequence[PlanItem], to: Modality, *, only_check: bool = False
) -> None:
    """Say HU and spacing of translated images in a `ctmr.json` beside them, where there is something to say.

    Raises:
        OutputError: See `images.add_image_info`; with `only_check` nothing is written.
    """
    spacings: dict[Path, dict[str, Spacing | None]] = {}
    roots: dict[Path, Path] = {}
    info_of = functools.cache(info_within)
    for item in items:
        if item.kind == "image":
            folder, info = item.target.parent, info_of(item.source.parent, item.root)
            spacings.setdefault(folder, {})[item.target.name] = info.spacing_of(item.source.name)
            roots[folder] = item.target_root
    unit: Unit = "HU" if translator.preprocessor.writes_hu(to) else "grey"
    say = info_to_add if only_check else add_image_info
    for folder in sorted(spacings):  # what lies above first
        above = info_place(folder, roots[folder])  # it holds for a folder without one
        if above != folder and any(
            is_image_name(path) and path.name not in spacings[folder] and not is_own_extra(path)
            for path in folder.glob("*")
        ):
            raise OutputError(
                f"{unit} images would lie beside others for which {above / INFO_NAME} holds",
                file=folder,
                fix="choose another folder",
            )
        say(folder, unit, spacings[folder], always=above != folder)
