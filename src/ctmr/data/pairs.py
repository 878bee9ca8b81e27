"""PAIRS: a folder with `ct/`, `mr/` and optionally `mask/`, where one name is one slice or one volume."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ctmr.data.sources import Source, patient_finder
from ctmr.data.survey import read_volume
from ctmr.errors import CtmrError, DataError, printable, refuse_all
from ctmr.imaging.head import head_of_scan
from ctmr.imaging.image import Scan
from ctmr.imaging.label_maps import NotAScan, require_scan
from ctmr.imaging.modality import as_modality
from ctmr.imaging.volume import Volume, onto_grid, resampled_onto
from ctmr.io.images import read_image
from ctmr.io.listing import below_root, chooser, find_scans, shown, stem_below
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.scan import info_within, read_scan, read_scan_within
from ctmr.types import MODALITIES, OTHER, BoolArray, Modality

logger = logging.getLogger(__name__)

_LEVEL = re.compile(r"slice-?(\d+)")


@dataclass(frozen=True)
class Pair:
    """One slice or volume in both modalities.

    Attributes:
        name: Path below `ct/` without the suffix.
        patient: What `data.patient_pattern` finds in the name, else the name.
        level: Number after `slice` in the last part of the name: slices of one level are at one height; None if it has none.
        ct: The CT.
        mr: The MR.
        mask: The head mask, if there is one.
        folder: PAIRS.
        reading: What to believe where its scans say too little.
        sources: Of a pair in a tree: the MR is then resampled onto the grid of the CT.
    """

    name: str
    patient: str
    level: int | None
    ct: Path
    mr: Path
    mask: Path | None
    folder: Path
    reading: Reading = DEFAULT
    sources: Mapping[Modality, Source] = field(default_factory=dict)


Look = Callable[[Pair, Mapping[Modality, Scan], BoolArray], None]


def find_pairs(
    folder: Path, patient_pattern: str | None = None, reading: Reading = DEFAULT
) -> list[Pair]:
    """The pairs of a folder, sorted by name.

    Raises:
        DataError: If `ct/` or `mr/` is missing, no name is in both, or a name is there twice.
    """
    files = {kind: _by_stem(folder, kind, reading) for kind in ("ct", "mr", "mask")}
    stems = sorted(files["ct"].keys() & files["mr"].keys())
    if not stems:
        counts = ", ".join(
            f"{len(files[m])} in {m}/ ({shown(sorted(files[m]))})" for m in MODALITIES
        )
        raise DataError(
            f"expected scans of the same names in ct/ and mr/: found {counts}, none in both",
            file=folder,
            fix="give the CT and the MR of a patient one name, as ct/p1.nii.gz and mr/p1.nii.gz",
        )
    alone = sorted(files["ct"].keys() ^ files["mr"].keys())
    if alone:
        logger.warning(
            "%s: left out %d scans without a partner: %s",
            printable(str(folder)),
            len(alone),
            shown(alone),
        )
    patient_of = patient_finder(patient_pattern)
    pairs = []
    for stem in stems:
        level = _LEVEL.search(stem.rpartition("/")[2])
        pairs.append(
            Pair(
                name=printable(stem),
                patient=patient_of(below_root(files["ct"][stem], folder)) or printable(stem),
                level=int(level.group(1)) if level else None,
                ct=files["ct"][stem],
                mr=files["mr"][stem],
                mask=files["mask"].get(stem),
                folder=folder,
                reading=reading,
            )
        )
    return pairs


def pairs_in_tree(sources: Sequence[Source]) -> list[Pair]:
    """The CT and MR series of test patients that lie in one frame of reference; of several the first of each.

    A pair has the MR resampled onto the grid of the CT.
    """
    found: dict[tuple[str, str], dict[Modality, Source]] = {}
    for source in sources:
        if source.split == "test" and source.frame is not None:
            key = (str(source.patient), source.frame)
            found.setdefault(key, {}).setdefault(source.modality, source)
    return [
        Pair(
            name=scans["ct"].label,
            patient=patient,
            level=None,
            ct=scans["ct"].path,
            mr=scans["mr"].path,
            mask=None,
            folder=scans["ct"].data,
            reading=scans["ct"].reading,
            sources=scans,
        )
        for (patient, _), scans in found.items()
        if len(scans) == len(MODALITIES)
    ]


def read_pair(pair: Pair) -> dict[Modality, Scan]:
    """Both scans of a pair; volumes lie on the grid of the CT.

    Raises:
        CtmrError: If one cannot be read, or they are not on one grid.
    """
    return _on_one_grid(pair, *(_scan_of(pair, modality) for modality in MODALITIES))


def _scan_of(pair: Pair, modality: Modality) -> Scan:
    if modality in pair.sources:
        return read_volume(pair.sources[modality]).volume
    path = pair.ct if modality == "ct" else pair.mr
    root = pair.folder / modality
    return read_scan_within(path, root, modality=modality, reading=pair.reading)


def without_maps(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of scans: those with a mask, label map or map of probabilities are left out with a warning.

    A scan that cannot be read is left to `require_all`.

    Raises:
        DataError: If nothing else is there.
    """
    maps: list[Pair] = []
    for pair in pairs:
        try:
            for modality in () if pair.reading.anyway else MODALITIES:
                require_scan(_scan_of(pair, modality))
        except NotAScan:
            maps.append(pair)
        except CtmrError:
            continue
    if maps and len(maps) == len(pairs):
        raise DataError(
            "expected pairs of scans: found only masks and label maps",
            file=pairs[0].folder,
            fix="put scans there, or give --anyway if these are scans",
        )
    if maps:
        names = shown([pair.name for pair in maps])
        logger.warning(
            "left out %d masks, label maps or maps of probabilities: %s", len(maps), names
        )
    return [pair for pair in pairs if pair not in maps]


def require_all(pairs: Sequence[Pair], look: Look | None = None) -> None:
    """Read every scan and mask once, before any work.

    Args:
        pairs: From `find_pairs`.
        look: What else is looked at of a pair, with its scans and its head mask.

    Raises:
        CtmrError: Naming all that cannot be used.
    """
    failures: list[CtmrError] = []
    for pair in pairs:
        scans: list[Scan] = []
        for modality in MODALITIES:
            with _gathering(failures):
                scans.append(_scan_of(pair, modality))
        with _gathering(failures):
            if len(scans) == 2:
                images = _on_one_grid(pair, *scans)
                mask = head_of(pair, images)
                if look is not None:
                    look(pair, images, mask)
    folder = pairs[0].folder
    refuse_all(
        [(_label(Path(error.file or ""), folder), error) for error in failures],
        f"scans of {len(pairs)} pairs cannot be used",
        file=folder,
        fix="restore or remove these files",
    )


def _label(path: Path, folder: Path) -> str:
    """What a file of a pair, or of a translation of it, is called."""
    inside = path.is_relative_to(folder)
    return below_root(path, folder) if inside else "/".join(path.parts[-2:])


@contextlib.contextmanager
def _gathering(failures: list[CtmrError]) -> Iterator[None]:
    try:
        yield
    except CtmrError as error:
        failures.append(error)


def _on_one_grid(pair: Pair, ct: Scan, mr: Scan) -> dict[Modality, Scan]:
    anyway = pair.reading.anyway
    if isinstance(ct, Volume) and isinstance(mr, Volume):
        if pair.sources:
            mr = resampled_onto(mr, ct)
        return {
            "ct": _info_of(pair.ct, lambda: as_modality(ct, "ct", anyway=anyway)),
            "mr": _info_of(pair.mr, lambda: as_modality(onto_grid(mr, ct), "mr", anyway=anyway)),
        }
    if ct.grey.shape != mr.grey.shape:
        raise DataError(
            f"expected two scans of one size: found CT {ct.array.shape} and MR {mr.array.shape}",
            file=pair.mr,
            fix="register the pair onto one grid",
        )
    return {"ct": ct, "mr": mr}


def head_of(pair: Pair, images: Mapping[Modality, Scan]) -> BoolArray:
    """The head mask of a pair: its mask file, else the head in a CT in HU, else that in the MR.

    Raises:
        DataError: If the mask has another size, or there is no head in it.
    """
    ct, mr = images["ct"], images["mr"]
    if isinstance(ct, Volume):
        return _head_of_volume(pair, ct)
    if pair.mask is not None:
        info = info_within(pair.mask.parent, pair.folder / "mask")
        mask = read_image(pair.mask, channels=1, info=info).array > 0
    else:
        mask = head_of_scan(ct, "ct") if ct.unit == "HU" else head_of_scan(mr, "mr")
    if mask.shape != ct.array.shape[:2] or not mask.any():
        raise DataError(
            f"expected a head mask of {ct.array.shape[:2]}: found {mask.shape} with {int(mask.sum())}"
            " pixels in it",
            file=pair.mask or pair.mr,
            fix="correct or remove the mask",
        )
    return mask


def _info_of(path: Path, look: Callable[[], Volume]) -> Volume:
    """What `look` returns; an error of it names the file."""
    try:
        return look()
    except CtmrError as error:
        raise error.at(path) from error


def _head_of_volume(pair: Pair, ct: Volume) -> BoolArray:
    """The head mask (I, J, K) on the grid of a CT volume."""
    if pair.mask is not None:
        mask = read_scan(pair.mask, reading=replace(pair.reading, ct_values=None))
        if not isinstance(mask, Volume):
            raise DataError(
                "expected a volume as mask: found an image", file=pair.mask, fix="give a volume"
            )
        shown = _info_of(pair.mask, lambda: onto_grid(mask, ct)).array > 0
        if not shown.any():
            raise DataError(
                "expected a head mask: found no voxel in it", file=pair.mask, fix="correct it"
            )
        return shown
    found = head_of_scan(ct, "ct")
    if not found.any():
        raise DataError("expected a head: found none", file=pair.ct, fix="remove the pair")
    return found


def _by_stem(pairs: Path, kind: str, reading: Reading) -> dict[str, Path]:
    """The scans in one folder of PAIRS by their paths below it without suffix."""
    folder = pairs / kind
    if not folder.is_dir():
        if kind == "mask":
            return {}
        raise DataError(
            "expected a folder of scans: found none",
            file=folder,
            fix="give a folder with ct/ and mr/ (ctmr help data-folders)",
        )
    name = f"{pairs.name}/{kind}".lstrip("/")
    return scans_by_stem(folder, name, "mr" if kind == "mr" else "ct", reading)


def scans_by_stem(
    folder: Path, name: str, modality: Modality, reading: Reading = DEFAULT
) -> dict[str, Path]:
    """The scans of a tree by their paths below it without suffix; `name` is what the log calls it.

    Of several DICOM series in a folder one is taken, by what is looked for: `io.scan.one_series`.

    Raises:
        DataError: If two have one.
    """
    found: dict[str, Path] = {}
    for scan in find_scans(folder, name, choose=chooser(reading.series, OTHER[modality])):
        path, stem = scan.path, stem_below(scan.path, folder)
        if stem in found:
            raise DataError(
                f"two scans are called {printable(stem)!r}", file=folder, fix="rename one"
            )
        found[stem] = path
    return found
