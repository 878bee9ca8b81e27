"""A data folder -> one store of slices, keyed by a fingerprint of its files and of the settings."""

import hashlib
import json
import logging
import os
import secrets
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctmr.config import DataConfig
from ctmr.data.convert import convert, is_earlier
from ctmr.data.copies import ANATOMIES, PAIRS, VAL, Copies, copied_files, hashes_of, kept
from ctmr.data.drafts import clear_draft, draft_of
from ctmr.data.folders import require_sources
from ctmr.data.manifest import FORMAT, MANIFEST_NAME
from ctmr.data.planning import plan
from ctmr.data.seen import Seen
from ctmr.data.sources import Source
from ctmr.data.store import Store, evenly, open_store, with_settings
from ctmr.data.survey import hash_all, image_of_source, let_in, overlap, survey
from ctmr.data.writing import publish, write_store
from ctmr.errors import CtmrError, DataError, OutputError, SafetyError, printable
from ctmr.imaging.appearance import log_odds
from ctmr.imaging.descriptors import Descriptors, descriptors_of
from ctmr.imaging.resampling import MARGIN, Scale
from ctmr.io.image_info import ImageInfo, read_bytes
from ctmr.io.listing import shown
from ctmr.io.reading import DEFAULT, Reading
from ctmr.system.cache import cache_folder
from ctmr.system.memory import free_bytes
from ctmr.system.parallel import Workers, cores
from ctmr.types import MODALITIES, Progress

MAX_JUDGED_IMAGES = 48  # images of a training folder by which it is judged, evenly chosen
MIN_JUDGED_IMAGES = 3  # from which it is judged
MIN_WRONG_LOG_ODDS = (
    0.5  # median log-odds of the other modality; exchanged real folders have 2.3 to 6
)
MIN_FOR_PROCESSES = 2**25  # bytes of scans; fewer are sooner done than processes start
LINE_EVERY_S = 30
VOLUME_BYTES = 2**30  # of memory that work on one takes

logger = logging.getLogger(__name__)
told = logging.getLogger("ctmr.found")  # which the command line shows

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
    verify: bool = False,
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
        verify: Read all scans and all of the store. Else files whose size and modification time are known are not read,
            and slices are tested when they are used.

    Raises:
        CtmrError: If folders are missing, or for all scans that cannot be used, at once.
        SafetyError: If the training folders of images are exchanged.
        UsageError: If `data` is a store made with other settings.
        OutputError: If the store cannot be written, or there is no cache folder.
    """
    if (data / MANIFEST_NAME).is_file():
        return _of_store(data, config, store, verify=verify)
    seen = Seen(data, _asked(config, reading), verify=verify)
    fingerprint, sources = seen.fingerprint, list[Source]()
    if fingerprint is None:
        sources = require_sources(data, config.patient_pattern, reading)
        fingerprint = _look_through(sources, config, reading, seen)
    files = copied_files(_beside(data, pairs, anatomies)) if store is not None else {}
    wanted = _Wanted(
        store or cache_folder() / "stores" / fingerprint[:16],
        fingerprint,
        files,
        hashes_of(files),
        store is None,
        verify,
    )
    prepared = _existing(wanted)
    if prepared is None:
        sources = sources or require_sources(data, config.patient_pattern, reading)
        prepared = _make(wanted, sources, config, reading, progress=progress)
    else:
        clear_draft(wanted.place, fingerprint)
    seen.remember(fingerprint)
    _warn_of_overlap(prepared)
    logger.info("%r", prepared)
    return prepared


class _Wanted(NamedTuple):
    """Which store is wanted, and where."""

    place: Path
    fingerprint: str
    files: Mapping[str, Path]
    """What it keeps beside the slices."""
    copies: Copies
    in_cache: bool
    verify: bool


def _of_store(data: Path, config: DataConfig, store: Path | None, *, verify: bool) -> Store:
    """A store that is given as data; one of the earlier format is converted if there is a place for it."""
    if store is not None and is_earlier(data):
        return convert(data, store)
    opened = open_store(data)
    if verify:
        opened.verify()
    return with_settings(opened, config)


def _asked(config: DataConfig, reading: Reading) -> str:
    """All that decides, beside the files, what a store is."""
    settings = config.size, config.channels, config.ct_window, config.pixel_mm
    asked = (version("ctmr"), PREPARATION, FORMAT, settings, config.patient_pattern)
    return json.dumps([*asked, reading.vouched()], sort_keys=True)


def _look_through(
    sources: Sequence[Source], config: DataConfig, reading: Reading, seen: Seen
) -> str:
    """The fingerprint of the scans as they are now; only files that are not known are read."""
    hashes = hash_all(sources, seen.digest)
    if hashes is None:
        with _workers(sources) as workers:
            survey(workers, sources, None, config.size, _scale(sources, config))  # it names files
        data = sources[0].data
        raise DataError("files changed while they were read", file=data, fix="run it again")
    if seen.changed:
        logger.warning(
            "%d files have another content than before, though their size and time are the same: %s",
            len(seen.changed),
            shown(seen.changed),
        )
    return _fingerprint(sources, hashes, config, reading)


def _scale(sources: Sequence[Source], config: DataConfig) -> Scale | None:
    """The scale of volumes; that of images follows from them."""
    if all(source.kind == "image" for source in sources):
        return None
    return Scale(round(MARGIN * config.size), config.pixel_mm)


def _workers(sources: Sequence[Source]) -> Workers:
    """As many as there are cores, or as memory holds volumes."""
    count, free = cores(), free_bytes()
    if sources[0].kind != "image" and free is not None:
        count = max(1, min(count, free // VOLUME_BYTES))
    size = 0
    for source in sources:
        size += _bytes_of(source)
        if size >= MIN_FOR_PROCESSES:
            return Workers(count, processes=count > 1)
    return Workers(count, processes=False)


def _bytes_of(source: Source) -> int:
    """How large the files of a scan are, about."""
    try:
        if not source.path.is_dir():
            return source.path.stat().st_size
        return sum(entry.stat().st_size for entry in os.scandir(source.path))
    except OSError:
        return 0


def _make(
    wanted: _Wanted,
    sources: Sequence[Source],
    config: DataConfig,
    reading: Reading,
    *,
    progress: Progress | None,
) -> Store:
    """Write the store, unless another process did while this one waited for it."""
    scale = _scale(sources, config)
    try:
        with draft_of(wanted.place, wanted.fingerprint) as draft:
            prepared = _existing(wanted)
            if prepared is not None:
                return prepared
            with _workers(sources) as workers:
                progress = _paced(progress)
                found = survey(workers, sources, progress, config.size, scale)
                _require_in_place(found.sources)
                manifest, layout = plan(found, config, scale, wanted.fingerprint)
                overlaps = overlap(found)
                more = {
                    "reading": reading.vouched(),
                    "let_in": let_in(found),
                    "overlap": dict(Counter(each.why for each in overlaps)),
                }
                manifest = manifest.model_copy(update=more)
                manifest = write_store(workers, draft, manifest, layout, found, progress=progress)
            publish(draft, wanted.place, manifest, overlaps, wanted.files)
    except OSError as error:
        raise _cannot_write(wanted.place, error) from error
    return open_store(wanted.place)


def _paced(progress: Progress | None, clock: Callable[[], float] = time.monotonic) -> Progress:
    """The same, and a line each `LINE_EVERY_S` seconds with scans a second and the time that is left."""
    began = due = clock()
    due += LINE_EVERY_S

    def paced(done: int, total: int) -> None:
        nonlocal due
        if progress is not None:
            progress(done, total)
        now = clock()
        if now < due:
            return
        pace = done / (now - began)  # each scan is looked at, and then written
        left = timedelta(seconds=round((total - done) / max(pace, 1e-9)))
        doing = "looked at" if 2 * done <= total else "written"
        scans = done if 2 * done <= total else done - total // 2
        told.info("%s %d of %d scans, %.1f a second, %s left", doing, scans, total // 2, pace, left)
        due = now + LINE_EVERY_S

    return paced


def _require_in_place(sources: Sequence[Source]) -> None:
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
        with ThreadPoolExecutor(cores()) as pool:
            pictures = list(pool.map(_descriptors_of, [images[place] for place in places]))
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
    sources: Sequence[Source], hashes: bytes, config: DataConfig, reading: Reading
) -> str:
    """SHA-256 over all that the store depends on, as JSON; it is never in memory as a whole."""
    settings: list[object] = [config.size, config.channels, config.ct_window]
    settings += [config.pixel_mm, config.patient_pattern]
    infos: dict[str, ImageInfo] = {}
    groups: dict[tuple[str, str], array[int]] = {}
    for n, source in enumerate(sources):
        below = source.name.rpartition("/")[0]  # a folder of the tree; none at its top
        infos[" ".join([source.split, source.modality, *([below] if below else [])])] = source.info
        groups.setdefault((source.split, source.modality), array("Q")).append(n)
    told = {name: repr(info) for name, info in infos.items()}
    start = json.dumps([PREPARATION, settings, told], sort_keys=True).removesuffix("]")
    whole, comma = hashlib.sha256(f"{start}, [".encode()), ""
    for group in sorted(groups):
        for n in sorted(groups[group], key=lambda n: sources[n].label):
            file = [*group, sources[n].label, hashes[32 * n : 32 * (n + 1)].hex()]
            whole.update((comma + json.dumps(file)).encode())
            comma = ", "
    vouched = json.dumps(reading.vouched(), sort_keys=True)
    whole.update((f"], {vouched}]" if reading != DEFAULT else "]]").encode())
    return whole.hexdigest()


def _beside(data: Path, pairs: Path | None, anatomies: Path | None) -> dict[str, Path]:
    """What is kept beside the slices, by its name in the store."""
    folders = {VAL: kept(data, VAL), PAIRS: pairs, ANATOMIES: anatomies}
    return {name: folder for name, folder in folders.items() if folder is not None}


def _existing(wanted: _Wanted) -> Store | None:
    """The store that is there already, if it is the one wanted; None if nothing is there."""
    place = wanted.place
    try:
        if not (place.exists() or place.is_symlink()):
            return None
        if place.is_dir() and not any(place.iterdir()):
            return None
    except PermissionError as error:
        raise _cannot_write(place, error) from error
    try:
        store = open_store(place)
        if wanted.verify:
            store.verify()
    except DataError as error:
        if wanted.in_cache:
            _put_aside(place, error)
            return None
        if wanted.verify and (place / MANIFEST_NAME).is_file():
            raise
        raise OutputError(
            f"expected a new or empty folder for the store, or the same store ({error.what})",
            file=place,
            fix="give another place, or delete it",
        ) from error
    if store.fingerprint == wanted.fingerprint and store.copies == wanted.copies:
        return store
    if wanted.verify:
        raise DataError(
            "the store was made of other data or settings than are there now",
            file=place,
            fix="restore the data, or prepare a new store",
        )
    raise OutputError(
        "expected an empty place for the store: found a store of other data or settings",
        file=place,
        fix="give another place, or delete it",
    )


def _put_aside(place: Path, error: DataError) -> None:
    """Rename what is in the way in the cache: it may hold files of others."""
    aside = place.with_name(f"{place.name}.{secrets.token_hex(4)}.damaged")
    try:
        place.rename(aside)
    except OSError as failed:
        raise _cannot_write(place, failed) from failed
    logger.warning("the cached store cannot be used and is made again: %s", error)
    logger.warning("what was there is kept as %s", printable(str(aside)))


def _warn_of_overlap(store: Store) -> None:
    overlaps = store.overlap
    if overlaps:
        logger.warning(
            "%d test images are in the training folders too, or of the same patients, so that test"
            " results will flatter: %s",
            len(overlaps),
            printable("; ".join(f"{o.test} = {o.train} ({o.why})" for o in overlaps[:3]))
            + ("; ..." if len(overlaps) > 3 else ""),
        )


def _cannot_write(place: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write the store ({error.strerror})",
        file=place,
        fix="check space and permissions, or set CTMR_CACHE to another folder",
    )
