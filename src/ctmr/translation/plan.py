"""Which scans are translated, and what each translation is called."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from ctmr.errors import DataError, OutputError, UsageError, printable
from ctmr.io.codecs import FORMATS, is_image_name
from ctmr.io.dicom.recognise import is_archive
from ctmr.io.image_info import ImageInfo
from ctmr.io.listing import (
    SHOWN,
    Found,
    chooser,
    find_scans,
    found,
    scans_of_series,
    warn_of_scans_below,
)
from ctmr.io.reading import Reading
from ctmr.io.scan import READABLE, Kind, content_hash, kind_by_name, kind_of, no_scan, stem_of
from ctmr.io.volumes import WRITTEN, volume_suffix
from ctmr.system.ownership import MAPS_NAME
from ctmr.translation.translator import Translator
from ctmr.translation.uncertainty import MAPPED, QualityLevel
from ctmr.types import NAMES, Modality

MAX_NAME_BYTES = 255  # of a file name on the usual file systems

logger = logging.getLogger(__name__)


class PlanItem(NamedTuple):
    """One scan to be translated."""

    scan: Found
    target: Path
    sidecar: Path
    """The JSON beside the target."""
    root: Path
    """INPUT if it is a folder of scans, else the folder of the source."""
    like: Path | None = None
    """A DICOM series whose headers and grid a volume file belongs to: it is written as DICOM."""

    @property
    def series(self) -> Path | None:
        """The DICOM series that the translation is written onto, if it is written as one."""
        return self.source if self.kind == "series" else self.like

    @property
    def source(self) -> Path:
        """The file, or the folder of the series."""
        return self.scan.path

    @property
    def kind(self) -> Kind:
        """What sort of scan it is."""
        return self.scan.kind

    @property
    def name(self) -> str:
        """The path of the source below the root."""
        return self.scan.below(self.root)

    @property
    def target_root(self) -> Path:
        """Where the translation of what lies at the root goes."""
        return self.target.parents[self.name.count("/")]

    def map_path(self, measure: str) -> Path:
        """Where the map of a measure of uncertainty goes: an image for an image, else a NIfTI file."""
        suffix = ".png" if self.kind == "image" else ".nii.gz"
        return self.target.parent / MAPS_NAME / f"{self.sidecar.stem}_{measure}{suffix}"

    @property
    def preview(self) -> Path:
        """The picture of source and translation."""
        return self.sidecar.with_name(self.sidecar.stem + ".preview.png")

    def outputs(self, quality: QualityLevel) -> list[Path]:
        """The translation, its preview and its maps."""
        previews = [] if quality == "none" else [self.preview]
        maps = map(self.map_path, MAPPED if quality == "full" else ())
        return [self.target, *previews, *maps]

    def paths(self, quality: QualityLevel) -> list[Path]:
        """All that is written of it."""
        return [*self.outputs(quality), self.sidecar]

    def sidecars(self, quality: QualityLevel) -> dict[Path, Path]:
        """Output -> the sidecar by which it is known."""
        return dict.fromkeys(self.outputs(quality), self.sidecar)

    def name_of(self, path: Path) -> str:
        """What the sidecar calls an output."""
        return os.path.relpath(path, self.sidecar.parent)


def find_inputs(source: Path, output: Path, to: Modality, reading: Reading) -> list[Found]:
    """The scans meant by INPUT: one, or those of a folder and its sub-folders; what lies in OUTPUT is none of them.

    Raises:
        DataError: If there is none.
        UsageError: If a DICOM series that is wanted is not there.
    """
    kind = kind_of(source)
    if kind == "series":
        if source.is_dir():
            warn_of_scans_below(source)
        return _series_of(source, to, reading)
    if kind is not None:
        return [Found(source, kind)]
    if not source.is_dir():
        raise no_scan(source)
    inputs = find_scans(source, output=output, choose=chooser(reading.series, to))
    if not inputs:
        raise DataError(f"expected {READABLE} in it: found none", file=source, fix="check the path")
    others = [scan for scan in inputs if scan.modality == to or scan.is_derived]
    if not others or len(others) == len(inputs):
        return inputs
    names = printable(", ".join(scan.below(source) for scan in others[:SHOWN]))
    logger.warning(
        "left out %d series that show %s already or are derived: %s", len(others), NAMES[to], names
    )
    return [scan for scan in inputs if scan not in others]


def _series_of(folder: Path, to: Modality, reading: Reading) -> list[Found]:
    """The series meant of a folder that is INPUT; of several the table is logged."""
    from ctmr.io.dicom.grouping import choose_series, list_series, series_rows

    series = list_series(folder).series
    if not reading.series and sum(one.kind == "scan" for one in series) <= 1:
        return [Found(folder, "series")]
    chosen = choose_series(series, reading.series, to)
    found.info("%s: %d series, of which those marked are translated", folder, len(series))
    for row, one in zip(series_rows(series), series, strict=True):
        found.info("%s %s", "*" if one in chosen else " ", "  ".join(row))
    return scans_of_series(folder, series, chosen)


def plan_items(
    translator: Translator,
    inputs: Sequence[Found],
    source: Path,
    output: Path,
    to: Modality,
    *,
    like: Path | None = None,
) -> list[PlanItem]:
    """What is written where: OUTPUT has the sub-folders of INPUT, and outputs have names of their own.

    Raises:
        UsageError: If OUTPUT has not the form of INPUT.
        OutputError: If a file is there, and INPUT is a folder.
    """
    many = kind_of(source) is None or bool(inputs[0].part)
    if many and output.exists() and not output.is_dir():
        raise OutputError(
            "the input is a folder, so OUTPUT must be one: found a file, which is kept",
            file=output,
            fix="choose another OUTPUT",
        )
    root = source if many else source.parent
    if many:
        folders = [(output / scan.stem(root)).parent for scan in inputs]
        targets = [
            folder / (scan.part or _name(translator, scan.path, to, like))
            for folder, scan in zip(folders, inputs, strict=True)
        ]
    else:
        targets = [_one_target(translator, source, inputs[0].kind, output, to, like)]
    stems = Counter((target.parent, stem_of(target).lower()) for target in targets)
    items = []
    for scan, target in zip(inputs, targets, strict=True):
        stem = stem_of(target)
        # `ctmr.json` has another meaning.
        alone = stems[target.parent, stem.lower()] == 1 and stem.lower() != "ctmr"
        sidecar = target.with_name((stem if alone else target.name) + ".json")
        own = like if scan.kind == "volume" else None
        items.append(PlanItem(scan, target, sidecar, root, own))
    return items


def choose_items(items: Sequence[PlanItem], only: str | None) -> list[PlanItem]:
    """Those whose scan has a path below INPUT that matches a pattern, in which `*` stands for `/` too.

    Raises:
        UsageError: If there is none.
    """
    if only is None:
        return list(items)
    chosen = [item for item in items if fnmatchcase(item.name, only)]
    if not chosen:
        shown = ", ".join(item.name for item in items[:SHOWN]) + (", ..." if items[SHOWN:] else "")
        raise UsageError(
            f"expected scans that match --only {only!r}: found none among {len(items)}, such as"
            f" {printable(shown)}",
            file=items[0].root,
            fix="write the pattern for paths below INPUT",
        )
    found.info("%d of them match %s", len(chosen), printable(repr(only)))
    return chosen


def part_of(items: Sequence[PlanItem], part: tuple[int, int]) -> list[PlanItem]:
    """One of several shares, numbered from 1: of the names in order, each n-th."""
    which, parts = part
    return sorted(items, key=lambda item: item.name)[which - 1 :: parts] if parts > 1 else [*items]


def check_outputs(items: Sequence[PlanItem], quality: QualityLevel) -> None:
    """Refuse outputs that cannot be written, or would overwrite each other.

    Raises:
        UsageError: If a translated series has the name of the folder for maps.
        DataError: If two outputs would have one name, or one is too long.
    """
    if quality == "full":
        _check_maps(items)
    _check_paths([path for item in items for path in item.paths(quality)])


def request_of(
    translator: Translator,
    item: PlanItem,
    to: Modality,
    quality: QualityLevel,
    reading: Reading,
    info: ImageInfo | None,
) -> str:
    """A hash of all that a translation and its sidecar follow from: the scan, the model, the options and the name.

    Args:
        info: Of an image, what the `ctmr.json` says that holds for it.

    Raises:
        DataError: If the scan cannot be read.
    """
    described = (
        content_hash(item.source, item.kind, item.scan.series),
        (info.unit, info.slope, info.intercept, info.spacing_of(item.source.name))
        if info
        else None,
        content_hash(item.like, "series") if item.like is not None else None,
        translator.about,
        (to, quality, reading.vouched(), version("ctmr")),
        item.target.name,
    )
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _check_maps(items: Sequence[PlanItem]) -> None:
    """Refuse a translated series in the place of the folder for uncertainty maps."""
    for item in items:
        if item.target.name.lower() == MAPS_NAME:
            raise UsageError(
                f"expected another name than {MAPS_NAME!r} for a translated series, as maps go"
                " into a folder of that name beside it",
                file=item.target,
                fix="choose another name, or leave out --quality full",
            )


def _one_target(
    translator: Translator,
    source: Path,
    kind: Kind,
    output: Path,
    to: Modality,
    like: Path | None,
) -> Path:
    """Where the translation of a single scan goes."""
    if kind == "series" or (kind == "volume" and like is not None):
        here = output.resolve() == Path.cwd() or not output.name
        if here or kind_by_name(output) is not None:
            raise UsageError(
                f"expected a new folder for a DICOM series: found {output.name or str(output)!r}",
                file=output,
                fix="name a new folder",
            )
        return output
    if output.is_dir():
        return output / _name(translator, source, to, like)
    known: Sequence[str] = WRITTEN
    if kind == "image":
        known = [suffix for suffix in FORMATS if _holds(translator, Path("a" + suffix), to)]
    if not output.name.lower().endswith(tuple(known)):
        raise UsageError(
            f"expected a folder or a file ending in {', '.join(known)}: found {output.suffix!r}",
            file=output,
            fix="change the suffix",
        )
    return output


def _check_paths(paths: Sequence[Path]) -> None:
    """Refuse outputs of one name, or whose name is too long."""
    seen: set[str] = set()
    folders = {str(folder).lower() for path in paths for folder in path.parents}
    for path in paths:
        if str(path).lower() in seen or str(path).lower() in folders:
            raise DataError(
                "two inputs would be written to one output", file=path, fix="rename one of them"
            )
        if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            raise DataError(
                f"expected an output name of at most {MAX_NAME_BYTES} bytes: found"
                f" {len(os.fsencode(path.name))}",
                file=path,
                fix="shorten the name of the input",
            )
        seen.add(str(path).lower())


def _holds(translator: Translator, path: Path, to: Modality) -> bool:
    """Whether an image file of that suffix holds translations; a JPEG has 8 bits, which HU do not fit."""
    form = FORMATS.get(path.suffix.lower())
    return form is not None and (form != "JPEG" or translator.preprocessor.writes_8_bit(to))


def _name(translator: Translator, path: Path, to: Modality, like: Path | None) -> str:
    """The input's name; a JPEG becomes a PNG where the target needs 16 bits, a volume file with `like` or an archive a folder."""
    if volume_suffix(path) is not None:
        return path.name if like is None else stem_of(path)
    if is_archive(path):
        return stem_of(path)
    if not is_image_name(path) or _holds(translator, path, to):
        return path.name
    return path.stem + ".png"
