"""What a store keeps beside its slices, as it was given: pairs to choose by, registered pairs, label maps of heads."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from ctmr.errors import DataError
from ctmr.system.files import is_draft

VAL, PAIRS, ANATOMIES = "val", "pairs", "anatomies"
Copies = dict[str, str]
"""Path below the store -> SHA-256."""


def copied_files(folders: Mapping[str, Path]) -> dict[str, Path]:
    """The files of some folders by the path that each has in a store.

    Args:
        folders: By the name of their copy.

    Raises:
        DataError: If a folder is none.
    """
    files: dict[str, Path] = {}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise DataError("expected a folder: found none", file=folder, fix="check the path")
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not is_draft(path):
                files[f"{name}/{path.relative_to(folder).as_posix()}"] = path
    return files


def hashes_of(files: Mapping[str, Path]) -> Copies:
    """SHA-256 of each file.

    Raises:
        DataError: If one cannot be read.
    """
    return {name: sha256_of(path) for name, path in files.items()}


def write_copies(store: Path, files: Mapping[str, Path]) -> None:
    """Copy the files into a store.

    Raises:
        OSError: If one cannot be copied.
    """
    for name, path in files.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, store / name)


def require_copies(store: Path, copies: Copies) -> None:
    """Refuse a store whose copies are not those that were written, no more and no less.

    Raises:
        DataError: Naming the first that differs.
    """
    there = [store / name for name in (VAL, PAIRS, ANATOMIES) if (store / name).is_dir()]
    found = copied_files({folder.name: folder for folder in there})
    for name in sorted(copies.keys() ^ found.keys()):
        raise DataError(
            "the store lacks this file" if name in copies else "the store does not know this file",
            file=store / name,
            fix="prepare the data again",
        )
    for name, sha256 in copies.items():
        if sha256_of(store / name) != sha256:
            raise DataError(
                "damaged: another content than was stored",
                file=store / name,
                fix="prepare the data again",
            )


def kept(data: Path, name: str) -> Path | None:
    """The copy of that name in a store; None if it has none."""
    return data / name if (data / name).is_dir() else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"cannot read it ({error.strerror})", file=path, fix="check the disk"
        ) from error
