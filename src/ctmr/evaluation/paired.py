"""A model on pairs: each translation, and those by other means, against the truth."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctmr.data.pairs import Pair, head_of, read_pair, require_all, scans_by_stem
from ctmr.errors import CtmrError, DataError, UsageError
from ctmr.evaluation.baselines import BASELINES, Baselines
from ctmr.evaluation.protocol import SPANS, UNITS, comparable, score
from ctmr.evaluation.results import Pile, Seen, features_of, observe
from ctmr.evaluation.statistics import MODEL, Row
from ctmr.imaging.image import Scan
from ctmr.imaging.volume import Volume
from ctmr.io.listing import stem_below
from ctmr.io.scan import read_scan_within
from ctmr.translation.translator import Translator
from ctmr.types import OTHER, TO, BoolArray, Direction, Encoding, FloatArray, Modality

if TYPE_CHECKING:
    from ctmr.reporting.figures import Case

SHOWN_HU = (-1000.0, 1500.0)


class Translations(NamedTuple):
    """Translations of PAIRS to one modality by other means.

    Attributes:
        folder: The root of their tree.
        files: Name of the pair -> its translation.
    """

    folder: Path
    files: Mapping[str, Path]

    def read(self, pair: Pair, truth: Scan) -> Scan:
        """The translation of a pair, which lies on the truth's grid and has its kind of values."""
        file = self.files[pair.name]
        scan = read_scan_within(file, self.folder).upright()
        if type(truth) is not type(scan):
            raise DataError(
                "expected the same kind of scan as the truth", file=file, fix="convert it"
            )
        if isinstance(scan, Volume):
            unit = truth.unit if isinstance(truth, Volume) else None
            modality: Modality = "mr" if truth.encoding == "MR" else "ct"
            scan = replace(scan, modality=modality, unit=unit)
        if scan.encoding != truth.encoding or scan.array.shape[:2] != truth.array.shape[:2]:
            raise DataError(
                f"expected {truth.encoding} values of {truth.array.shape}, as the truth has: found"
                f" {scan.encoding} of {scan.array.shape}",
                file=file,
                fix="write it on the grid and in the unit of the truth, with its ctmr.json",
            )
        return scan


Others = Mapping[str, Mapping[Modality, Translations]]


def find_others(
    folders: Mapping[str, Path], to: Sequence[Modality], pairs: Sequence[Pair]
) -> Others:
    """Where the translations by other means lie: by name, modality, and name of the pair.

    Raises:
        DataError: If a folder lacks a modality, or the translation of a pair.
        UsageError: If a name is that of a row the table has anyway.
    """
    taken = sorted(folders.keys() & {MODEL, *BASELINES})
    if taken:
        raise UsageError(
            f"{taken[0]!r} is a row of the table already: other translators need other names",
            fix="name them differently in --answers",
        )
    found: dict[str, dict[Modality, Translations]] = {}
    for name, folder in folders.items():
        for modality in to:
            place = folder / modality
            files = scans_by_stem(place, f"{name}/{modality}", modality) if place.is_dir() else {}
            stems = {pair.name: stem_below(pair.ct, pair.folder / "ct") for pair in pairs}
            missing = [pair for pair, stem in stems.items() if stem not in files]
            if missing:
                raise DataError(
                    f"expected a translation of each pair: found {len(files)} scans, and none for"
                    f" {missing[0]}" + (f" and {len(missing) - 1} others" if missing[1:] else ""),
                    file=place,
                    fix="translate all scans of PAIRS, keeping their names",
                )
            by_pair = {pair: files[stem] for pair, stem in stems.items()}
            found.setdefault(name, {})[modality] = Translations(place, by_pair)
    return found


def require_usable(
    translator: Translator,
    pairs: Sequence[Pair],
    directions: Sequence[Direction],
    others: Others,
) -> None:
    """Read all that `look_at_pairs` reads once, before any work.

    Raises:
        CtmrError: Naming every scan that cannot be read, translated or compared.
    """

    def look(pair: Pair, images: Mapping[Modality, Scan], mask: BoolArray) -> None:
        files = {"ct": pair.ct, "mr": pair.mr}
        images = {m: scan.upright() for m, scan in images.items()}
        for to in (TO[d] for d in directions):
            source, truth = images[OTHER[to]], images[to]
            try:
                translator.check(source, to, anyway=pair.reading.anyway)
            except CtmrError as error:
                raise error.at(files[OTHER[to]]) from error
            encoding = translator.preprocessor.target_encoding(source, to)
            _require_values(encoding, truth, files[to])
            for by_modality in others.values():
                by_modality[to].read(pair, truth)

    require_all(pairs, look)


def look_at_pairs(
    translator: Translator,
    pairs: Sequence[Pair],
    directions: Sequence[Direction],
    *,
    baselines: Baselines | None = None,
    others: Others | None = None,
    only: Collection[str] | None = None,
    shown: Collection[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Seen:
    """Translate both scans of each pair and measure all results.

    Args:
        translator: Of the model in question.
        pairs: From `find_pairs`.
        directions: What is looked at.
        baselines: From `fit_baselines`, if wanted.
        others: From `find_others`.
        only: Keys of the figures with truth that are wanted; None for all.
        shown: Numbers of the pairs that a comparison shall show.
        progress: Called with pairs done and pairs to do.

    Raises:
        CtmrError: Naming the scan that cannot be read, translated or compared.
    """
    seen = Seen()
    for n, pair in enumerate(pairs):
        images = {m: scan.upright() for m, scan in read_pair(pair).items()}
        mask = head_of(pair, images)
        for d in directions:
            to = TO[d]
            source, truth = images[OTHER[to]], images[to]
            result, figures, mirrored = _observed(translator, pair, images, to, mask)
            # A model writes MR volumes in 0..1000, to which comparable() brings those that come in.
            given = {MODEL: result.grey}
            given |= baselines.translate(pair, images, mask, to) if baselines is not None else {}
            for name, by_modality in (others or {}).items():
                given[name] = comparable(by_modality[to].read(pair, truth), mask)
            actual = comparable(truth, mask)
            for method, array in given.items():
                measured = score(
                    array,
                    actual,
                    mask,
                    values=truth.encoding,
                    spacing_mm=truth.spacing_mm,
                    only=only,
                )
                measured |= figures if method == MODEL else {}
                seen.rows.append(Row(pair.name, pair.patient, d, method, measured))
            _gather(seen, translator, pair, d, (truth, result, mask))
            seen.mirrored[d] = seen.mirrored.get(d, 0) + mirrored
            seen.values[d] = truth.encoding
            seen.in_mm &= truth.spacing_mm is not None
            if n in shown:
                label = f"{pair.name} {d}"
                seen.cases.append(_case(label, source, truth, given[MODEL], mask))
        if progress is not None:
            progress(n + 1, len(pairs))
    return seen


def _observed(
    translator: Translator,
    pair: Pair,
    images: Mapping[Modality, Scan],
    to: Modality,
    mask: BoolArray,
) -> tuple[Scan, dict[str, float], bool]:
    """The translation of a pair's scan into the values of its truth, and what is seen of it."""
    files = {"ct": pair.ct, "mr": pair.mr}
    try:
        result, figures, mirrored = observe(
            translator, images[OTHER[to]], to, mask, anyway=pair.reading.anyway
        )
    except CtmrError as error:
        raise error.at(files[OTHER[to]]) from error
    _require_values(result.encoding, images[to], files[to])
    return result, figures, mirrored


def _require_values(expected: Encoding, truth: Scan, file: Path) -> None:
    """Refuse a truth in other values than the translation."""
    if expected != truth.encoding:
        raise DataError(
            f"expected {expected} values, as the model's translations have: found {truth.encoding}",
            file=file,
            fix="give the truth as the training images are, with their ctmr.json",
        )


def _gather(
    seen: Seen,
    translator: Translator,
    pair: Pair,
    d: Direction,
    scans: tuple[Scan, Scan, BoolArray],
) -> None:
    """Add the features of truth and result."""
    truth, result, mask = scans
    for piles, scan in ((seen.real, truth), (seen.translated, result)):
        rows = features_of(translator, scan, TO[d], mask)
        piles.setdefault(d, Pile()).add(rows, pair.patient)


def _case(label: str, source: Scan, truth: Scan, result: FloatArray, mask: BoolArray) -> "Case":
    """A row of `comparison.png`; HU are shown from air to bone."""
    from ctmr.reporting.figures import Case

    def window(scan: Scan) -> tuple[float, float]:
        return SHOWN_HU if scan.encoding == "HU" else SPANS[scan.encoding]

    return Case(
        label=label,
        source=_plane(comparable(source, mask), source),
        result=_plane(result, truth),
        truth=_plane(comparable(truth, mask), truth),
        unit=UNITS[truth.encoding],
        source_window=window(source),
        window=window(truth),
    )


def _plane(array: FloatArray, scan: Scan) -> FloatArray:
    """What the figure shows of an array on a scan's grid: the image, or a volume's middle axial slice."""
    slices = scan.axial(array)
    middle: FloatArray = slices[len(slices) // 2]
    return middle
