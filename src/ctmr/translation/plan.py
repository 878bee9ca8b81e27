"""Which scans are translated, and what each translation is called."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from ctmr.errors import DataError, UsageError, printable
from ctmr.io.codecs import FORMATS, is_image_name
from ctmr.io.dicom.archive import is_archive_name
from ctmr.io.image_info import ImageInfo
from ctmr.io.listing import SHOWN, below_root, find_scans, found, warn_of_scans_below
from ctmr.io.scan import READABLE, Kind, content_hash, kind_by_name, kind_of, stem_of
from ctmr.io.volumes import WRITTEN, volume_suffix
from ctmr.io.voxels import Geometry
from ctmr.system.ownership import MAPS_NAME
from ctmr.translation.translator import Translator
from ctmr.translation.uncertainty import MAPPED, QualityLevel
from ctmr.types import Modality

MAX_NAME_BYTES = 255  # of a file name on the usual file systems


class Job(NamedTuple):
    """One scan to be translated."""

    source: Path
    kind: Kind
    target: Path
    sidecar: Path
    """The JSON beside the target."""
    root: Path
    """INPUT if it is a folder of scans, else the folder of the source."""

    @property
    def name(self) -> str:
        """The path of the source below the root."""
        return below_root(self.source, self.root)

    @property
    def target_root(self) -> Path:
        """Where the translation of what lies at the root goes."""
        return self.target.parents[self.name.count("/")]

    def map_path(self, measure: str) -> Path:
        """Where the map of a measure of uncertainty goes: an image for an image, else a NIfTI file."""
        suffix = ".png" if self.kind == "image" else ".nii.gz"
        return self.target.parent / MAPS_NAME / f"{self.sidecar.stem}_{measure}{suffix}"

    def outputs(self, measures: Iterable[str]) -> list[Path]:
        """The translation and its maps."""
        return [self.target, *map(self.map_path, measures)]

    def paths(self, measures: Iterable[str]) -> list[Path]:
        """All that is written of it."""
        return [*self.outputs(measures), self.sidecar]

    def sidecars(self, measures: Iterable[str]) -> dict[Path, Path]:
        """Output -> the sidecar by which it is known."""
        return dict.fromkeys(self.outputs(measures), self.sidecar)

    def name_of(self, path: Path) -> str:
        """What the sidecar calls an output."""
        return os.path.relpath(path, self.sidecar.parent)


@dataclass(frozen=True)
class Reading:
    """What to believe of scans that say too little.

    Attributes:
        geometry: Of volume files whose header contradicts itself or says nothing (`ctmr.io.nifti.read_nifti`).
        irregular: Translate a DICOM series with gaps or uneven slices too, slice by slice.
        anyway: Translate what looks like another modality, or like no head, too.
        like: A DICOM series whose headers and grid a volume file belongs to: it is written as DICOM.
    """

    geometry: Geometry | None = None
    irregular: bool = False
    anyway: bool = False
    like: Path | None = None


def find_inputs(source: Path, output: Path) -> list[Path]:
    """The scans meant by INPUT: one, or those of a folder and its sub-folders; what lies in OUTPUT is none of them.

    Raises:
        DataError: If there is none.
    """
    kind = kind_of(source)
    if kind == "series" and source.is_dir():
        warn_of_scans_below(source)
    if kind is not None:
        return [source]
    if not source.is_dir():
        raise DataError(
            f"expected {READABLE}: found another file" if source.exists() else "no such file",
            file=source,
            fix="check the path",
        )
    paths = find_scans(source, output=output)
    if not paths:
        raise DataError(f"expected {READABLE} in it: found none", file=source, fix="check the path")
    return paths


def plan_jobs(
    translator: Translator,
    paths: Sequence[Path],
    source: Path,
    output: Path,
    to: Modality,
    reading: Reading,
) -> list[Job]:
    """What is written where: OUTPUT has the sub-folders of INPUT, and outputs have names of their own.

    Raises:
        UsageError: If OUTPUT has not the form of INPUT.
    """
    many = kind_of(source) is None
    if many and output.exists() and not output.is_dir():
        raise UsageError(
            "the input is a folder, so OUTPUT must be one: found a file",
            file=output,
            fix="choose another OUTPUT",
        )
    root = source if many else source.parent
    kinds = [kind_of(path) or "image" for path in paths]
    if many:
        folders = [output / path.parent.relative_to(root) for path in paths]
        named = zip(folders, paths, strict=True)
        targets = [folder / _name(translator, path, to, reading) for folder, path in named]
    else:
        targets = [_one_target(translator, source, kinds[0], output, to, reading)]
    stems = Counter((target.parent, stem_of(target).lower()) for target in targets)
    jobs = []
    for path, kind, target in zip(paths, kinds, targets, strict=True):
        stem = stem_of(target)
        # `ctmr.json` has another meaning.
        alone = stems[target.parent, stem.lower()] == 1 and stem.lower() != "ctmr"
        sidecar = target.with_name((stem if alone else target.name) + ".json")
        jobs.append(Job(path, kind, target, sidecar, root))
    return jobs


def choose_jobs(jobs: Sequence[Job], only: str | None) -> list[Job]:
    """Those whose scan has a path below INPUT that matches a pattern, in which `*` stands for `/` too.

    Raises:
        UsageError: If there is none.
    """
    if only is None:
        return list(jobs)
    chosen = [job for job in jobs if fnmatchcase(job.name, only)]
    if not chosen:
        shown = ", ".join(job.name for job in jobs[:SHOWN]) + (", ..." if jobs[SHOWN:] else "")
        raise UsageError(
            f"expected scans that match --only {only!r}: found none among {len(jobs)}, such as"
            f" {printable(shown)}",
            file=jobs[0].root,
            fix="write the pattern for paths below INPUT",
        )
    found.info("%d of them match %s", len(chosen), printable(repr(only)))
    return chosen


def check_outputs(jobs: Sequence[Job], inputs: Sequence[Path], quality: QualityLevel) -> None:
    """Refuse outputs that cannot be written, or would overwrite a scan of INPUT or each other.

    Raises:
        UsageError: If a scan of INPUT would be overwritten, or a translated series has the name of the folder for maps.
        DataError: If two outputs would have one name, or one is too long.
    """
    if quality == "full":
        _check_maps(jobs)
    paths = [path for job in jobs for path in (job.target, job.sidecar)]
    if quality == "full":
        paths += [job.map_path(measure) for job in jobs for measure in MAPPED]
    _check_paths(paths, inputs)


def request_of(
    translator: Translator,
    job: Job,
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
    said = (
        content_hash(job.source, job.kind),
        (info.unit, info.slope, info.intercept, info.spacing_of(job.source.name)) if info else None,
        content_hash(reading.like, "series") if reading.like is not None else None,
        translator.about,
        (to, quality, reading.geometry, reading.irregular, reading.anyway, version("ctmr")),
        job.target.name,
    )
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _check_maps(jobs: Sequence[Job]) -> None:
    """Refuse a translated series in the place of the folder for maps of doubt."""
    for job in jobs:
        if job.target.name.lower() == MAPS_NAME:
            raise UsageError(
                f"expected another name than {MAPS_NAME!r} for a translated series, as maps go"
                " into a folder of that name beside it",
                file=job.target,
                fix="choose another name, or leave out --quality full",
            )


def _one_target(
    translator: Translator, source: Path, kind: Kind, output: Path, to: Modality, reading: Reading
) -> Path:
    """Where the translation of a single scan goes."""
    if kind == "series" or (kind == "volume" and reading.like is not None):
        here = output.resolve() == Path.cwd() or not output.name
        if here or kind_by_name(output) is not None or output.is_file():
            raise UsageError(
                f"expected a new folder for a DICOM series: found {output.name or str(output)!r}",
                file=output,
                fix="name a new folder",
            )
        return output
    if output.is_dir():
        return output / _name(translator, source, to, reading)
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


def _check_paths(paths: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Refuse outputs that cannot be written, or would overwrite an input or each other."""
    taken = {path.resolve() for path in inputs}
    seen: set[str] = set()
    folders = {str(folder).lower() for path in paths for folder in path.parents}
    for path in paths:
        if path.resolve() in taken:
            raise UsageError(
                "the output would overwrite an input", file=path, fix="choose another OUTPUT"
            )
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


def _name(translator: Translator, path: Path, to: Modality, reading: Reading) -> str:
    """The input's name; a JPEG becomes a PNG where the target needs 16 bits, a volume file a folder with `like`, and so does an archive."""
    if volume_suffix(path) is not None:
        return path.name if reading.like is None else stem_of(path)
    if is_archive_name(path) and not path.is_dir():
        return stem_of(path)
    if not is_image_name(path) or _holds(translator, path, to):
        return path.name
    return path.stem + ".png"
