"""A data folder -> one store of slices, keyed by a fingerprint of its files and of the settings."""

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ctmr.config import DataConfig
from ctmr.data.copies import (
    ANATOMIES,
    PAIRS,
    VAL,
    Copies,
    copied_files,
    hashes_of,
    kept,
    write_copies,
)
from ctmr.data.folders import require_sources
from ctmr.data.planning import Plan, plan
from ctmr.data.sources import Source
from ctmr.data.store import (
    INDEX_NAME,
    SLICES_NAME,
    Codes,
    Index,
    Store,
    evenly,
    open_store,
    to_codes,
    with_settings,
)
from ctmr.data.survey import each, hash_all, image_of_source, let_in, read_volume, survey
from ctmr.errors import CtmrError, DataError, OutputError, SafetyError, printable
from ctmr.imaging.appearance import log_odds
from ctmr.imaging.descriptors import Descriptors, descriptors_of
from ctmr.imaging.resampling import MARGIN, Scale, resize
from ctmr.imaging.slices import head_slices
from ctmr.io.image_info import read_bytes
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.scan import content_hash
from ctmr.system.cache import cache_folder
from ctmr.system.disks import sync
from ctmr.system.files import write_text
from ctmr.types import MODALITIES, FloatArray, Progress

MAX_JUDGED_IMAGES = 48  # images of a training folder by which it is judged, evenly chosen
MIN_JUDGED_IMAGES = 3  # from which it is judged
MIN_WRONG_LOG_ODDS = (
    0.5  # median log-odds of the other modality; exchanged real folders have 2.3 to 6
)

logger = logging.getLogger(__name__)

PREPARATION = "ctmr store 2"  # of the fingerprint; changes when slices come out otherwise


def prepare(
    data: Path,
    config: DataConfig,
    store: Path | None = None,
    progress: Progress | None = None,
    *,
    reading: Reading = DEFAULT,
    pairs: Path | None = None,
    anatomies: Path | None = None,
) -> Store:
    """The store of a data folder, written now unless there is one of the same data and settings.

    Args:
        data: Data folder, or a store.
        config: What the slices shall be.
        store: Where the store shall be; None puts it into the user's cache folder.
        progress: Called with the work done and the work to do.
        reading: What to believe of scans that say too little; a store keeps it.
        pairs: Registered pairs, and
        anatomies: label maps of heads, which a store with a place of its own keeps, and `val/` of the data with them.

    Raises:
        CtmrError: If folders are missing, or for all scans that cannot be used, at once.
        SafetyError: If the training folders of images are exchanged.
        UsageError: If `data` is a store made with other settings.
        OutputError: If the store cannot be written, or there is no cache folder.
    """
    if (data / INDEX_NAME).is_file():
        return with_settings(open_store(data), config)
    sources = require_sources(data, config.patient_pattern, reading)
    scale = None
    if any(source.kind != "image" for source in sources):
        scale = Scale(round(MARGIN * config.size), config.pixel_mm)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = hash_all(pool, sources)
        if hashes is None:
            survey(pool, sources, progress, config.size, scale)  # it names the files
            raise DataError("files changed while they were read", file=data, fix="run it again")
        fingerprint = _fingerprint(sources, hashes, config, reading)
        place = store or cache_folder() / "stores" / fingerprint[:16]
        files = copied_files(_beside(data, pairs, anatomies)) if store is not None else {}
        copies = hashes_of(files)
        prepared = _existing(place, fingerprint, copies, in_cache=store is None)
        if prepared is None:
            found = survey(pool, sources, progress, config.size, scale)
            sources = [source for source, _ in found.looks]
            _require_in_place(pool, sources)
            index, plans = plan(found, config, scale, fingerprint)
            more = {"reading": reading.vouched(), "let_in": let_in(found), "copies": copies}
            index = index.model_copy(update=more)
            prepared = _write(pool, place, index, sources, plans, progress, files)
    _warn_of_overlap(prepared)
    logger.info("%r", prepared)
    return prepared


def _require_in_place(pool: ThreadPoolExecutor, sources: Sequence[Source]) -> None:
    """Refuse training folders of images that each hold what the other should; of volumes `survey` has seen it.

    Raises:
        SafetyError: With how many of the images that were looked at look like the other modality.
    """
    wrong = []
    for modality in MODALITIES:
        images = [
            s for s in sources if (s.split, s.modality, s.kind) == ("train", modality, "image")
        ]
        places = evenly(len(images), MAX_JUDGED_IMAGES)
        pictures = pool.map(_descriptors_of, [images[place] for place in places])
        looks = [descriptors for descriptors in pictures if descriptors is not None]
        if len(looks) >= MIN_JUDGED_IMAGES:
            odds = log_odds("mr", looks) * (1 if modality == "ct" else -1)  # of the other modality
            if np.median(odds) > MIN_WRONG_LOG_ODDS:
                folder = images[0].folder
                wrong.append(f"{int((odds > 0).sum())} of {len(odds)} in {folder}")
    if len(wrong) == len(MODALITIES):
        raise SafetyError(
            f"expected CT and MR each in its folder: found {' and '.join(map(printable, wrong))} that look like"
            " the other",
            file=sources[0].data,
            fix="exchange the folders; ctmr audit shows their images",
        )
    if wrong:
        logger.warning("%s look like the other modality: see ctmr audit", printable(wrong[0]))


def _descriptors_of(source: Source) -> Descriptors | None:
    """What one image looks like; None if it cannot be read or shows no head."""
    try:
        return descriptors_of(image_of_source(source, read_bytes(source.path)))
    except CtmrError:
        return None


def _fingerprint(
    sources: Sequence[Source], hashes: Sequence[str], config: DataConfig, reading: Reading
) -> str:
    """SHA-256 over all that the store depends on."""
    settings: list[object] = [config.size, config.channels, config.ct_window]
    settings += [config.pixel_mm, config.patient_pattern]
    infos = {}
    for source in sources:
        below = source.name.rpartition("/")[0]  # a folder of the tree; none at its top
        infos[" ".join([source.split, source.modality, *([below] if below else [])])] = repr(
            source.info
        )
    files = sorted(
        (source.split, source.modality, source.label, sha256)
        for source, sha256 in zip(sources, hashes, strict=True)
    )
    parts: list[object] = [PREPARATION, settings, infos, files]
    parts += [reading.vouched()] if reading != DEFAULT else []
    content = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _beside(data: Path, pairs: Path | None, anatomies: Path | None) -> dict[str, Path]:
    """What is kept beside the slices, by its name in the store."""
    folders = {VAL: kept(data, VAL), PAIRS: pairs, ANATOMIES: anatomies}
    return {name: folder for name, folder in folders.items() if folder is not None}


def _existing(place: Path, fingerprint: str, copies: Copies, *, in_cache: bool) -> Store | None:
    """The store that is there already, if it is the one wanted; None if nothing is there."""
    try:
        if not (place.exists() or place.is_symlink()):
            return None
        if place.is_dir() and not any(place.iterdir()):
            return None
    except PermissionError as error:
        raise _cannot_write(place, error) from error
    try:
        store = open_store(place)
    except DataError as error:
        if in_cache:
            aside = place.with_name(f"{place.name}.{secrets.token_hex(4)}.damaged")
            try:
                place.rename(aside)  # it may hold files of others
            except OSError as failed:
                raise _cannot_write(place, failed) from failed
            logger.warning("the cached store cannot be used and is made again: %s", error)
            logger.warning("what was there is kept as %s", printable(str(aside)))
            return None
        raise OutputError(
            f"expected a new or empty folder for the store, or the same store ({error.what})",
            file=place,
            fix="give another place, or delete it",
        ) from error
    if store.fingerprint == fingerprint and store.index.copies == copies:
        return store
    raise OutputError(
        "expected an empty place for the store: found a store of other data or settings",
        file=place,
        fix="give another place, or delete it",
    )


def _warn_of_overlap(store: Store) -> None:
    overlaps = store.index.overlap
    if overlaps:
        logger.warning(
            "%d test images are in the training folders too, or of the same patients, so that test"
            " results will flatter: %s",
            len(overlaps),
            printable("; ".join(f"{o.test} = {o.train} ({o.why})" for o in overlaps[:3]))
            + ("; ..." if len(overlaps) > 3 else ""),
        )


def _write(
    pool: ThreadPoolExecutor,
    place: Path,
    index: Index,
    sources: Sequence[Source],
    plans: Sequence[Plan],
    progress: Progress | None,
    files: Mapping[str, Path],
) -> Store:
    """Write the store beside its place and move it there whole."""

    def codes(source: Source, n: int) -> Codes:
        return _codes(source, plans[n], index)

    draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
    try:
        draft.mkdir(parents=True)
        constant, digest = 0, hashlib.sha256()
        with (draft / SLICES_NAME).open("wb") as stream:
            for array in each(pool, codes, sources, progress, done=len(sources)):
                content = array.tobytes()
                stream.write(content)
                digest.update(content)
                constant += int((np.ptp(array, axis=(1, 2, 3)) == 0).sum())
        sync(draft / SLICES_NAME)
        write_copies(draft, files)
        index = index.model_copy(update={"slices_sha256": digest.hexdigest()})
        write_text(draft / INDEX_NAME, index.as_json())
        _publish(draft, place)
    except OSError as error:
        raise _cannot_write(place, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if constant:
        logger.warning("%d of %d images have one grey value only", constant, len(sources))
    return open_store(place)


def _cannot_write(place: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write the store ({error.strerror})",
        file=place,
        fix="check space and permissions, or set CTMR_CACHE to another folder",
    )


def _publish(draft: Path, place: Path) -> None:
    """Move the draft to its place, unless another process was first with the same store."""
    try:
        draft.rename(place)
    except OSError:
        if not (place / INDEX_NAME).is_file():
            raise
    sync(place.parent)


def _codes(source: Source, plan: Plan, index: Index) -> Codes:
    """The slices of one scan as they lie in the store, (N, H, W, C)."""
    entry = plan.entries[0]
    if source.kind == "image":
        arrays = [_image(source, plan, index)]
    else:
        if content_hash(source.path, source.kind, source.files) != entry.sha256:
            raise _changed(source)
        volume = read_volume(source).volume
        anyway = source.reading.anyway
        found = head_slices(volume, source.modality, index.scale, index.size, anyway=anyway)
        intensity = index.intensities[source.modality][volume.encoding].fitted(found.head.values)
        arrays = [array[..., None] for array in found.images(intensity)]
    rows, columns = entry.height - plan.shape[0], entry.width - plan.shape[1]
    around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    codes = [to_codes(np.pad(array, around, constant_values=-1.0)) for array in arrays]
    shape = len(codes), entry.height, entry.width, index.channels
    return np.broadcast_to(np.stack(codes), shape)  # grey: repeated


def _image(source: Source, plan: Plan, index: Index) -> FloatArray:
    """One image (h, w, 1 or 3) in [-1, 1], at the store's scale."""
    content = read_bytes(source.path)
    if hashlib.sha256(content).hexdigest() != plan.entries[0].sha256:
        raise _changed(source)
    image = image_of_source(source, content, 1 if index.channels == 1 else None)
    intensity = index.intensities[source.modality][image.encoding]
    array = intensity.fitted(image.grey).to_unit(resize(image.array, *plan.shape))
    return array.reshape(*plan.shape, -1)


def _changed(source: Source) -> DataError:
    return DataError("the file changed while it was read", file=source.path, fix="run it again")
