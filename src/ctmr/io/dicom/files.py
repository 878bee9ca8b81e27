"""Which files a DICOM series is read from: those of a folder or an archive, or one multi-frame file."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ctmr.errors import CtmrError, DataError, refuse_all
from ctmr.io.dicom.archive import unpacked
from ctmr.io.dicom.header import COPY_AGAIN, read_header
from ctmr.io.dicom.kinds import ENHANCED
from ctmr.io.dicom.recognise import is_archive, is_dicom, start_of
from ctmr.io.fetched import is_dangling, require_fetched

# Suffixes of what lies beside slices and may be empty.
_PLAIN = {
    *(".txt", ".md", ".json", ".xml", ".csv", ".tsv", ".log", ".html", ".htm", ".ini", ".yaml"),
    *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".pdf", ".db", ".inf", ".exe", ".lock", ".done"),
}

Item = TypeVar("Item")
Result = TypeVar("Result")


def is_multi_frame(path: Path) -> bool:
    """Whether it is a file with an enhanced multi-frame CT or MR object, a series by itself.

    Raises:
        DataError: If it is a damaged DICOM file.
    """
    return is_dicom(path) and str(read_header(path).values.get("SOPClassUID", "")) in ENHANCED


@contextlib.contextmanager
def opened(source: Path) -> Iterator[Path]:
    """The folder or file itself; of an archive, a temporary folder with its files.

    Raises:
        DataError: As `archive.unpacked`.
        OutputError: If there is no space for the files of an archive.
    """
    if is_archive(source):
        with unpacked(source) as folder:
            yield folder
    else:
        yield source


def require_whole(dicom: Sequence[Path], others: Sequence[Path], folder: Path) -> None:
    """Refuse files that are no DICOM but were one: named like the series, empty, or nothing but zeros at their start."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in [*filter(is_dangling, entries), *others]:
        require_fetched(path)
    suffixes = {path.suffix.lower() for path in dicom} - {""}
    lost = [
        path
        for path in others
        if path.suffix.lower() in suffixes
        or (path.suffix.lower() not in _PLAIN and not any(start_of(path)))
    ]
    what = "expected a DICOM file, as others here are called so or as it is empty: found none"
    failures = [(path.name, DataError(what, file=path, fix=COPY_AGAIN)) for path in lost]
    what = f"of {len(dicom) + len(others)} files cannot be used"
    refuse_all(failures, what, file=folder, fix=COPY_AGAIN)


def of_all(function: Callable[[Item], Result], items: Iterable[Item], folder: Path) -> list[Result]:
    """`function` of each file of a series; all that fail are named at once."""
    results: list[Result] = []
    failures: dict[tuple[str, str], CtmrError] = {}  # one of all frames of a file that fail alike
    for item in items:
        try:
            results.append(function(item))
        except CtmrError as error:
            failures[Path(error.file or "").name, error.what] = error
    named = [(name, error) for (name, _), error in failures.items()]
    what = f"of {len(results) + len(failures)} files cannot be used"
    refuse_all(named, what, file=folder, fix="put each of them right, or move them away")
    return results
