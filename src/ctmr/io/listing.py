"""Which scans lie in a folder and below it, and what lies there that is not read: the one walk through a tree."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ctmr.errors import DataError, printable
from ctmr.io.dicom.header import is_dicom
from ctmr.io.dicom.series import find_dicom
from ctmr.io.image_info import INFO_NAME, is_regular
from ctmr.io.scan import Kind, kind_by_name, stem_of
from ctmr.system.ownership import is_own_extra

MOST_DEEP = 8  # folders below the one that is walked through
SHOWN = 3  # names in a warning
RUN_FILES = ("run.lock", "config.yaml")  # a folder with both is a run

# Why something is not read.
OTHER = "files that are no scans by name are skipped"
NO_FILE = "pipes, devices and links that lead nowhere are no regular files"
LINK = "links to folders are not followed"
DEEP = f"folders more than {MOST_DEEP} levels down are not read"
HIDDEN = "hidden scans and folders are not read"
BELOW = "scans below the folder of a DICOM series are not read"
RUN = "run folders are not read"
OWN = "maps and figures that ctmr wrote are no scans"
OUTPUT = "the folder of the output is not read"

logger = logging.getLogger(__name__)
found = logging.getLogger("ctmr.found")  # how many scans; the command line shows it


class Found(NamedTuple):
    """One scan of a tree."""

    path: Path
    kind: Kind


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
            some = printable(", ".join(names[:SHOWN])) + (", ..." if names[SHOWN:] else "")
            logger.warning("%s: %s: %s (%d)", printable(name), why, some, len(names))


def find_scans(folder: Path, name: str | None = None, *, output: Path | None = None) -> list[Path]:
    """The scans of a folder and its sub-folders, sorted by the bytes of their relative paths.

    How many there are is logged, and a warning names what is left out.

    Args:
        folder: The root of the walk.
        name: What the log calls it.
        output: A folder that is not read if it lies below.

    Raises:
        DataError: If a folder cannot be listed, or DICOM files lie among other scans.
    """
    listing = list_scans(folder, output=output)
    if listing.faults:
        raise listing.faults[0].error
    listing.count(name or str(folder))
    listing.warn(name or str(folder))
    return [scan.path for scan in listing.scans]


def list_scans(folder: Path, *, output: Path | None = None) -> Listing:
    """All that lies in a folder and at most `MOST_DEEP` folders below it; links to folders are not followed."""
    listing = Listing(folder)
    _visit(listing, folder, 0, output.resolve() if output is not None else None)
    listing.scans.sort(key=lambda scan: _order(scan.path, folder))
    for paths in listing.left_out.values():
        paths.sort(key=lambda path: _order(path, folder))
    return listing


def warn_of_scans_below(series: Path) -> None:
    """Warn of scans below the folder of a DICOM series: they are not read."""
    listing = Listing(series)
    _leave_out_below(listing, series, 0)
    listing.warn(str(series))


def below_root(path: Path, root: Path) -> str:
    """The path below a root with slashes: the name that a scan of a tree goes by."""
    return path.relative_to(root).as_posix()


def stem_below(path: Path, root: Path) -> str:
    """The same without the suffix of an image or a volume file."""
    return below_root(path.with_name(stem_of(path)), root)


def _visit(listing: Listing, folder: Path, depth: int, output: Path | None) -> None:
    """Take in a folder that is no link, and what lies below it."""
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)
        os.stat(os.path.join(folder, "."))  # what cannot be entered cannot be looked at
    except OSError as error:
        what = f"cannot list the folder ({error.strerror})"
        _fault(listing, folder, DataError(what, file=folder, fix="check the path"))
        return
    if depth > 0 and set(RUN_FILES) <= set(names):
        _leave_out(listing, RUN, folder)
        return
    folders = {name for name in names if (folder / name).is_dir()}
    files = [name for name in names if name not in folders]
    kinds = {name: kind_by_name(Path(name)) for name in files if name[0] != "."}
    named = {name for name, kind in kinds.items() if kind in ("image", "volume")}
    if depth > 0 and _is_series(listing, folder, files, named):
        _leave_out_below(listing, folder, depth)
        return
    for name in sorted(folders, key=os.fsencode):
        why = _why_no_folder(folder / name, depth + 1, output)
        if why:
            _leave_out(listing, why, folder / name)
        else:
            _visit(listing, folder / name, depth + 1, output)
    others = [folder / name for name, kind in kinds.items() if kind is None]
    loose = tuple(path for path in others if depth == 0 and _is_loose_dicom(path))
    if loose:
        listing.faults.append(Fault(_loose(folder, len(loose)), loose))
    scans = {name for name, kind in kinds.items() if kind is not None}
    beside = folders | scans | {stem_of(Path(name)) for name in scans}
    for name in sorted(set(files) - {path.name for path in loose}, key=os.fsencode):
        _take_in(listing, folder / name, beside)


def _is_series(listing: Listing, folder: Path, files: list[str], named: set[str]) -> bool:
    """Whether a sub-folder is a DICOM series, or one that cannot be read; the listing takes it in."""
    try:
        # What is named as another scan is not opened.
        others = (folder / name for name in files if name not in named)
        dicom = any(map(_is_loose_dicom, others)) if named else bool(find_dicom(folder))
    except DataError as error:
        _fault(listing, folder, error)
        return True
    if dicom and named:
        _fault(listing, folder, _mixed(folder))
    elif dicom:
        listing.scans.append(Found(folder, "series"))
    return dicom


def _take_in(listing: Listing, path: Path, beside: set[str]) -> None:
    """Take in a file; `beside` are the names and stems of scans in its folder, whose JSON is theirs."""
    kind = kind_by_name(path)
    if path.name[0] == ".":
        if kind:
            _leave_out(listing, HIDDEN, path)
    elif not is_regular(path):
        _leave_out(listing, NO_FILE, path)
    elif kind and is_own_extra(path):
        _leave_out(listing, OWN, path)
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
    return DEEP if depth > MOST_DEEP else None


def _leave_out_below(listing: Listing, series: Path, depth: int) -> None:
    """Name the scans in the sub-folders of a DICOM series, or of a folder that cannot be read."""
    for path in sorted(series.iterdir()):
        if not path.is_dir():
            continue
        its = Listing(series)
        why = _why_no_folder(path, depth + 1, None)
        if why:
            _leave_out(listing, why, path)
        else:
            _visit(its, path, depth + 1, None)
        for scan in its.scans:
            _leave_out(listing, BELOW, scan.path)
        for fault in its.faults:
            listing.left_out.setdefault(BELOW, []).extend(fault.paths)
        for its_why, paths in its.left_out.items():
            if its_why != OTHER:
                listing.left_out.setdefault(its_why, []).extend(paths)


def _is_loose_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except DataError:  # it cannot be read, and is no scan by name
        return False


def _leave_out(listing: Listing, why: str, path: Path) -> None:
    listing.left_out.setdefault(why, []).append(path)


def _fault(listing: Listing, path: Path, error: DataError) -> None:
    listing.faults.append(Fault(error, (path,)))


def _loose(folder: Path, count: int) -> DataError:
    return DataError(
        f"expected each DICOM series in a sub-folder of its own: found {count} DICOM files"
        " beside each other",
        file=folder,
        fix="move the files of each series into a folder",
    )


def _mixed(folder: Path) -> DataError:
    return DataError(
        "expected DICOM files only, or none, in a sub-folder: found images or volumes"
        " beside DICOM files",
        file=folder,
        fix="move the other files away",
    )


def _order(path: Path, root: Path) -> bytes:
    return os.fsencode(below_root(path, root))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
