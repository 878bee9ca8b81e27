"""A data folder -> one store of slices, keyed by a fingerprint of its files and of the settings."""

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ctmr.config import DataConfig
from ctmr.errors import DataError, OutputError, printable
from ctmr.files import sync, write_text
from ctmr.folders import Source, find_data, list_sources
from ctmr.intensity import Intensity, ct_window
from ctmr.scale import Scale, resize, training_scale
from ctmr.scan import Encoding, image_of, read_bytes
from ctmr.store import (
    FORMAT,
    INDEX_NAME,
    MODALITIES,
    SLICES_NAME,
    SPLITS,
    Codes,
    Entry,
    Index,
    Intensities,
    Store,
    open_store,
    to_codes,
    with_settings,
)
from ctmr.survey import (
    Histogram,
    Look,
    Progress,
    Survey,
    each,
    hash_all,
    overlap,
    refuse_all,
    survey,
)

__all__ = ["Store", "find_data", "open_store", "prepare"]

# Part of a 16-bit folder's values left out at each end: a few hot pixels must not set the range.
TAIL = 0.0005

Shapes = list[tuple[int, int]]

logger = logging.getLogger(__name__)


def prepare(
    data: Path,
    config: DataConfig,
    store: Path | None = None,
    progress: Progress | None = None,
) -> Store:
    """The store of a data folder, written now unless there is one of the same data and settings.

    Args:
        data: Data folder, or a store.
        config: What the slices shall be.
        store: Where the store shall be; None puts it into the user's cache folder.
        progress: Called with the work done and the work to do.

    Raises:
        DataError: If folders are missing, or for all images that cannot be used, at once.
        UsageError: If `data` is a store made with other settings.
        OutputError: If the store cannot be written.
    """
    if (data / INDEX_NAME).is_file():
        return with_settings(open_store(data), config)
    sources = list_sources(data, config.patient_pattern)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = hash_all(pool, sources)
        if hashes is None:
            survey(pool, sources, progress)  # it names the files
            raise DataError("files changed while they were read", file=data, fix="run it again")
        fingerprint = _fingerprint(sources, hashes, config)
        place = store or _cache() / "stores" / fingerprint[:16]
        prepared = _existing(place, fingerprint, in_cache=store is None)
        if prepared is None:
            found = survey(pool, sources, progress)
            index, shapes = _plan(found, config, fingerprint)
            prepared = _write(pool, place, index, sources, shapes, progress)
    _warn_of_overlap(prepared)
    logger.info("%r", prepared)
    return prepared


def _cache() -> Path:
    """The user's cache folder of ctmr: $CTMR_CACHE, else as the XDG base directories say."""
    if place := os.environ.get("CTMR_CACHE"):
        return Path(place)
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "ctmr"
    return Path.home() / ".cache" / "ctmr"


def _fingerprint(sources: Sequence[Source], hashes: Sequence[str], config: DataConfig) -> str:
    """SHA-256 over all that the store depends on."""
    settings = [config.size, config.channels, config.ct_window, config.patient_pattern]
    infos = {f"{source.split} {source.modality}": repr(source.info) for source in sources}
    files = sorted(
        (source.split, source.modality, source.label, sha256)
        for source, sha256 in zip(sources, hashes, strict=True)
    )
    said = json.dumps([FORMAT, settings, infos, files], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _existing(place: Path, fingerprint: str, *, in_cache: bool) -> Store | None:
    """The store that is there already, if it is the one wanted; None if nothing is there."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    try:
        store = open_store(place)
    except DataError as error:
        if not in_cache:
            raise
        logger.warning("the cached store is damaged and is made again: %s", error)
        shutil.rmtree(place, ignore_errors=True)
        return None
    if store.fingerprint == fingerprint:
        return store
    raise OutputError(
        "expected an empty place for the store: found a store of other data or settings",
        file=place,
        fix="give another place, or delete it",
    )


def _plan(found: Survey, config: DataConfig, fingerprint: str) -> tuple[Index, Shapes]:
    """The index of the store to be written, and the shape each image is brought to."""
    intensities = _intensities(found, config)
    train = [look for source, look in found.looks if source.split == "train"]
    scale = training_scale(
        config.size, [look.shape for look in train], [look.spacing_mm for look in train]
    )
    shapes = _shapes(found.looks, scale)
    entries: dict[tuple[str, str], list[Entry]] = {(s, m): [] for s in SPLITS for m in MODALITIES}
    offset = 0
    for (source, look), shape in zip(found.looks, shapes, strict=True):
        height, width = max(shape[0], config.size), max(shape[1], config.size)
        entries[source.split, source.modality].append(
            Entry(source.name, source.patient, height, width, offset, look.sha256)
        )
        offset += height * width * config.channels
    index = Index(
        fingerprint=fingerprint,
        size=config.size,
        channels=config.channels,
        ct_window=config.ct_window,
        patient_pattern=config.patient_pattern,
        scale=scale,
        intensities=intensities,
        entries={s: {m: tuple(entries[s, m]) for m in MODALITIES} for s in SPLITS},
        overlap=overlap(found),
    )
    return index, shapes


def _shapes(looks: Sequence[tuple[Source, Look]], scale: Scale) -> Shapes:
    """The shape each image is brought to, before it is padded."""
    shapes: Shapes = []
    failures: list[tuple[Source, DataError]] = []
    for source, look in looks:
        try:
            shapes.append(scale.shape_for(*look.shape, look.spacing_mm))
        except DataError as error:
            failures.append((source, DataError(error.what, file=source.path, fix=error.fix)))
    refuse_all(failures, len(looks))
    return shapes


def _intensities(found: Survey, config: DataConfig) -> Intensities:
    """The map to [-1, 1] of each encoding of the training images, the commonest first."""
    intensities: Intensities = {}
    for modality in MODALITIES:
        ours = [(source, look) for source, look in found.looks if source.modality == modality]
        trained = Counter(look.encoding for source, look in ours if source.split == "train")
        if len(trained) > 1:
            logger.warning("the %s training images differ in encoding: %s", modality, dict(trained))
        for source, look in ours:
            if look.encoding not in trained:
                raise DataError(
                    f"expected {' or '.join(trained)} values, as the {modality} training images"
                    f" have: found {look.encoding}",
                    file=source.path,
                    fix="save the test images like the training images",
                )
        maps: dict[Encoding, Intensity] = {}
        for encoding, _ in trained.most_common():
            if encoding == "HU":
                maps[encoding] = ct_window(config.ct_window)
            elif encoding == "8-bit":
                maps[encoding] = Intensity("grey", (0.0, 255.0))
            else:
                maps[encoding] = _percentiles(found.histograms[modality])
        intensities[modality] = maps
    return intensities


def _percentiles(histogram: Histogram) -> Intensity:
    """The map of the 0.05 to 99.95 percentile range of 16-bit values."""
    below = np.cumsum(histogram)
    low = int(np.searchsorted(below, TAIL * below[-1], side="right"))
    high = int(np.searchsorted(below, (1 - TAIL) * below[-1]))
    return Intensity("grey", (float(low), float(max(high, low + 1))))


def _warn_of_overlap(store: Store) -> None:
    both = store.index.overlap
    if both:
        logger.warning(
            "%d test images are in the training folders too, or of the same patients, so that test"
            " results will flatter: %s",
            len(both),
            printable("; ".join(f"{o.test} = {o.train} ({o.why})" for o in both[:3]))
            + ("; ..." if len(both) > 3 else ""),
        )


def _write(
    pool: ThreadPoolExecutor,
    place: Path,
    index: Index,
    sources: Sequence[Source],
    shapes: Shapes,
    progress: Progress | None,
) -> Store:
    """Write the store beside its place and move it there whole."""
    entries = [entry for s in SPLITS for m in MODALITIES for entry in index.entries[s][m]]

    def codes(source: Source, n: int) -> Codes:
        return _codes(source, entries[n], shapes[n], index)

    draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
    try:
        draft.mkdir(parents=True)
        constant = 0
        with (draft / SLICES_NAME).open("wb") as stream:
            for array in each(pool, codes, sources, progress, done=len(sources)):
                stream.write(array.tobytes())
                constant += bool(array.min() == array.max())
        sync(draft / SLICES_NAME)
        write_text(draft / INDEX_NAME, index.model_dump_json(indent=1) + "\n")
        _publish(draft, place)
    except OSError as error:
        raise OutputError(
            f"cannot write the store ({error.strerror})",
            file=place,
            fix="check space and permissions, or set CTMR_CACHE to another folder",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if constant:
        logger.warning("%d of %d images have one grey value only", constant, len(sources))
    return open_store(place)


def _publish(draft: Path, place: Path) -> None:
    """Move the draft to its place, unless another process was first with the same store."""
    try:
        draft.rename(place)
    except OSError:
        if not (place / INDEX_NAME).is_file():
            raise
    sync(place.parent)


def _codes(source: Source, entry: Entry, shape: tuple[int, int], index: Index) -> Codes:
    """One image as it lies in the store, (H, W, C)."""
    content = read_bytes(source.path)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise DataError("the file changed while it was read", file=source.path, fix="run it again")
    image = image_of(content, source.path, 1 if index.channels == 1 else None, source.info)
    intensity = index.intensities[source.modality][image.encoding]
    array = intensity.to_unit(resize(image.array, *shape))
    array = array.reshape(*shape, -1)  # (h, w, 1 or 3)
    rows, columns = entry.height - shape[0], entry.width - shape[1]
    around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    codes = to_codes(np.pad(array, around, constant_values=-1.0))
    return np.broadcast_to(codes, (entry.height, entry.width, index.channels))  # grey: repeated
