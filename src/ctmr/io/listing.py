"""Which scans lie in a folder and below it, and what lies there that is not read: the one walk through a tree."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctmr.errors import DataError, UsageError, printable
from ctmr.io.dicom.recognise import is_archive_name, is_dicom
from ctmr.io.fetched import is_dangling
from ctmr.io.image_info import INFO_NAME, is_regular
from ctmr.io.scan import Kind, kind_by_name, stem_of
from ctmr.system.ownership import is_own_extra, is_run
from ctmr.types import Modality

if TYPE_CHECKING:  # pydicom takes a third of a second to import: only for what is DICOM
    from ctmr.io.dicom.grouping import SeriesFiles

MAX_DEPTH = 8  # folders below the one that is walked through
SHOWN = 3  # names in a warning

# Why something is not read.
DERIVED = "derived series are not read"
OTHER = "files that are no scans by name are skipped"
NO_FILE = "pipes, devices and links in a circle are no regular files"
LINK = "links to folders are not followed"
DEEP = f"folders more than {MAX_DEPTH} levels down are not read"
HIDDEN = "hidden scans and folders are not read"
BELOW = "scans below the folder of a DICOM series are not read"
NOT_CHOSEN = "series that were not chosen are not read"
RUN = "run folders are not read"
OWN = "maps and figures that ctmr wrote are no scans"
OUTPUT = "the folder of the output is not read"

logger = logging.getLogger(__name__)
found = logging.getLogger("ctmr.found")  # how many scans; the command line shows it


class Found(NamedTuple):
    """One scan of a tree."""

    path: Path
    kind: Kind
    series: "SeriesFiles | None" = None
    """One of several DICOM series in the folder `path`."""
    part: str = ""
    """What it is called below `path` then, as `s3_1`: SeriesNumber (0020,0011), and which one of that number."""
    header: "SeriesFiles | None" = None
    """What the headers of a series say."""

    @property
    def is_derived(self) -> bool:
        """Whether a series is no scan but was made of one: a projection, a map, a result of ctmr."""
        return self.header is not None and self.header.kind != "scan"

    @property
    def modality(self) -> Modality | None:
        """What the header of a series says."""
        return self.header.modality if self.header is not None else None

    def below(self, root: Path) -> str:
        """The path below a root with slashes: the name that a scan of a tree goes by."""
        name = below_root(self.path, root)
        return f"{name}/{self.part}".removeprefix("./") if self.part else name

    def stem(self, root: Path) -> str:
        """The same without the suffix of an image, a volume file or an archive."""
        if self.path == root:
            return self.part or "."
        stem = stem_below(self.path, root)
        return f"{stem}/{self.part}" if self.part else stem


Choose = Callable[[Sequence["SeriesFiles"]], "list[SeriesFiles]"]


class Fault(NamedTuple):
    """What must be put right before a tree is read, and where."""

    error: DataError
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Listing:
    """What lies in a folder and below it.

    Attributes:
        folder: The root of the walk.
        scans: Sorted by the bytes of the path below the root.
        left_out: Why something is not read -> what.
        faults: For which the whole is refused, except by an audit.
    """

    folder: Path
    scans: list[Found] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def count(self, name: str) -> None:
        """Log how many scans there are; `name` is what the folder is called."""
        places = [scan.path.parent for scan in self.scans if scan.path.parent != self.folder]
        below = f", {len(places)} of them in {_counted(len(set(places)), 'sub-folder')}"
        found.info(
            "%s: %s%s", printable(name), _counted(len(self.scans), "scan"), below if places else ""
        )

    def warn(self, name: str) -> None:
        """Warn of what is left out, a line for each reason."""
        for why, paths in self.left_out.items():
            names = [below_root(path, self.folder) for path in paths]
            logger.warning("%s: %s: %s (%d)", printable(name), why, shown(names), len(names))


def find_scans(
    folder: Path,
    name: str | None = None,
    *,
    output: Path | None = None,
    choose: Choose | None = None,
) -> list[Found]:
    """The scans of a folder and its sub-folders, sorted by the bytes of their relative paths.

    How many there are is logged, and a warning names what is left out.

    Args:
        folder: The root of the walk.
        name: What the log calls it.
        output: A folder that is not read if it lies below.
        choose: Which of the DICOM series in one folder are scans; None takes all but localizers and derived ones.

    Raises:
        DataError: If a folder cannot be listed.
    """
    listing = list_scans(folder, output=output, choose=choose)
    if listing.faults:
        raise listing.faults[0].error
    listing.count(name or str(folder))
    listing.warn(name or str(folder))
    return listing.scans


def list_scans(
    folder: Path, *, output: Path | None = None, choose: Choose | None = None
) -> Listing:
    """All that lies in a folder and at most `MAX_DEPTH` folders below it; links to folders are not followed."""
    listing = Listing(folder)
    rules = _Rules(output.resolve() if output is not None else None, choose or chooser())
    _visit(listing, folder, 0, rules)
    listing.scans.sort(key=lambda scan: os.fsencode(scan.below(folder)))
    for paths in listing.left_out.values():
        paths.sort(key=lambda path: _order(path, folder))
    return listing


def scans_of_series(
    folder: Path,
    series: "Sequence[SeriesFiles]",
    chosen: "Sequence[SeriesFiles]",
    *,
    own_name: bool = False,
) -> list[Found]:
    """The series that were chosen of a folder as scans.

    One that is the only one goes by the name of the folder, unless `own_name`.
    """
    if len(chosen) == 1 and not own_name:
        one = chosen[0]
        return [Found(folder, "series", one if len(series) > 1 else None, "", one)]
    counts = Counter[str]()
    found = []
    for one in series:
        counts[one.name] += 1
        if one in chosen:
            part = f"s{one.name}_{counts[one.name]}"
            found.append(Found(folder, "series", one, part, one))
    return found


def chooser(wanted: Sequence[str] = (), to: Modality | None = None) -> Choose:
    """What chooses among the series of each folder of a tree, by `choose_series`; one wanted may be in another folder."""

    def choose(series: "Sequence[SeriesFiles]") -> "list[SeriesFiles]":
        from ctmr.io.dicom.grouping import choose_series

        if not wanted or "all" in wanted:
            return choose_series(series, wanted, to)
        chosen: list[SeriesFiles] = []
        for name in wanted:
            with contextlib.suppress(UsageError):
                chosen += choose_series(series, (name,), to)
        return [one for one in series if one in chosen]

    return choose


def warn_of_scans_below(series: Path) -> None:
    """Warn of scans below the folder of a DICOM series: they are not read."""
    listing = Listing(series)
    _leave_out_below(listing, series, 0, _Rules(None, chooser()))
    listing.warn(str(series))


def below_root(path: Path, root: Path) -> str:
    """The path below a root with slashes: the name that a scan of a tree goes by."""
    return path.relative_to(root).as_posix()


def stem_below(path: Path, root: Path) -> str:
    """The same without the suffix of an image, a volume file or an archive."""
    return below_root(path.with_name(stem_of(path)), root)


class _Rules(NamedTuple):
    output: Path | None
    choose: Choose
    own_name: bool = False
    """Whether the only series of a folder has a name of its own below it."""


def _visit(listing: Listing, folder: Path, depth: int, rules: _Rules) -> None:
    """Take in a folder that is no link, and what lies below it."""
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)
        os.stat(os.path.join(folder, "."))  # what cannot be entered cannot be looked at
    except OSError as error:
        what = f"cannot list the folder ({error.strerror})"
        _fault(listing, folder, DataError(what, file=folder, fix="check the path"))
        return
    if depth > 0 and is_run(folder):
        _leave_out(listing, RUN, folder)
        return
    folders = {name for name in names if (folder / name).is_dir()}
    files = [name for name in names if name not in folders]
    named = {name for name in files if name[0] != "." and kind_by_name(Path(name))}
    others = [folder / name for name in files if name not in named and name[0] != "."]
    slices = [path for path in others if _is_loose_dicom(path)]
    if slices:
        named -= {name for name in named if is_archive_name(Path(name))}  # it may hold the slices
        pictures = {name for name in named if kind_by_name(Path(name)) == "image"}
        named -= pictures if len(pictures) <= len(slices) else set()  # previews
        _take_series(listing, folder, named, rules._replace(own_name=depth == 0))
        files = sorted(named, key=os.fsencode)  # `list_series` has looked at the others
    if slices and depth > 0:
        _leave_out_below(listing, folder, depth, rules)
        folders = set()
    for name in sorted(folders, key=os.fsencode):
        why = _why_no_folder(folder / name, depth + 1, rules.output)
        if why:
            _leave_out(listing, why, folder / name)
        else:
            _visit(listing, folder / name, depth + 1, rules)
    beside = folders | named | {stem_of(Path(name)) for name in named}
    for name in files:
        _take_in(listing, folder / name, beside, rules)


def _take_series(listing: Listing, folder: Path, beside: set[str], rules: _Rules) -> None:
    """Take in the DICOM series of a folder or archive but scouts; one that cannot be read is left to its reader.

    `beside` are the names of other scans in the folder.
    """
    from ctmr.io.dicom.grouping import list_series

    try:
        series, left_out = list_series(folder)
        chosen = [one for one in rules.choose(series) if one.kind != "localizer"]
    except DataError:
        listing.scans.append(Found(folder, "series"))
        return
    found = scans_of_series(folder, series, chosen, own_name=rules.own_name)
    listing.scans.extend(found)
    for why, paths in left_out.items():
        others = [path for path in paths if path.name not in beside]
        if others:
            listing.left_out.setdefault(f"{why} are not read", []).extend(others)
    for one in series:
        if one not in chosen:
            why = NOT_CHOSEN if one.kind == "scan" else f"{one.kind} series are not read"
            listing.left_out.setdefault(why, []).extend(one.files)


def _take_in(listing: Listing, path: Path, beside: set[str], rules: _Rules) -> None:
    """Take in a file; `beside` are the names and stems of scans in its folder, whose JSON is theirs."""
    kind = kind_by_name(path)
    if path.name[0] == ".":
        if kind:
            _leave_out(listing, HIDDEN, path)
    elif not is_regular(path) and not (kind and is_dangling(path)):
        _leave_out(listing, NO_FILE, path)
    elif kind and is_own_extra(path):
        _leave_out(listing, OWN, path)
    elif kind == "series":
        _take_series(listing, path, set(), rules)
    elif kind:
        listing.scans.append(Found(path, kind))
    elif path.suffix.lower() != ".json" or not (path.name == INFO_NAME or path.stem in beside):
        _leave_out(listing, OTHER, path)


def _why_no_folder(path: Path, depth: int, output: Path | None) -> str | None:
    """Why a sub-folder is not read, if it is not."""
    if path.is_symlink():
        return LINK
    if path.name[0] == ".":
        return HIDDEN
    if output is not None and path.resolve() == output:
        return OUTPUT
    return DEEP if depth > MAX_DEPTH else None


def _leave_out_below(listing: Listing, series: Path, depth: int, rules: _Rules) -> None:
    """Name the scans in the sub-folders of a DICOM series, or of a folder that cannot be read."""
    for path in sorted(series.iterdir()):
        if not path.is_dir():
            continue
        nested = Listing(series)
        why = _why_no_folder(path, depth + 1, rules.output)
        if why:
            _leave_out(listing, why, path)
        else:
            _visit(nested, path, depth + 1, rules)
        for scan in nested.scans:
            _leave_out(listing, BELOW, scan.path)
        for fault in nested.faults:
            listing.left_out.setdefault(BELOW, []).extend(fault.paths)
        for reason, paths in nested.left_out.items():
            if reason != OTHER:
                listing.left_out.setdefault(reason, []).extend(paths)


def _is_loose_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except DataError:  # it cannot be read, and is no scan by name
        return False


def _leave_out(listing: Listing, why: str, path: Path) -> None:
    listing.left_out.setdefault(why, []).append(path)


def _fault(listing: Listing, path: Path, error: DataError) -> None:
    listing.faults.append(Fault(error, (path,)))


def _order(path: Path, root: Path) -> bytes:
    return os.fsencode(below_root(path, root))


def shown(names: Sequence[str]) -> str:
    """The first of some names."""
    return printable(", ".join(names[:SHOWN])) + (", ..." if names[SHOWN:] else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
