"""Which files ctmr wrote: only these are replaced, unless the user asks for more with `--overwrite`.

A translation, and its maps, are known by their sidecar: it names their hashes, and while they are written also those of
what they replace, so that after a kill a file is the old one, the new one, or not there. Other files stand with their
hash in the list of their folder, `.ctmr-outputs.json`. Sidecars and lists bear a hash of themselves, the seal. The files
of a run are known by its `run.lock` and `config.yaml`.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ctmr.errors import OutputError, UsageError, printable
from ctmr.system.disks import lock
from ctmr.system.files import (
    cannot_write,
    content_digest,
    make_folder,
    persistently,
    read_regular,
    replacing,
    write_bytes,
)

LIST_NAME = ".ctmr-outputs.json"
MAPS_NAME = "quality"  # of the folder beside translations in which their uncertainty maps lie
RUN_LOCK, RUN_CONFIG = "run.lock", "config.yaml"
# What a run keeps under these names is its own.
RUN_FOLDERS = ("checkpoints", "samples", "model", "best", "evaluation")
CHECKPOINT_NAME = re.compile(r"step_(\d{9})\.([0-9a-f]{16})\.ckpt")  # step and hash
LOSS_CURVES = ("losses_generators.png", "losses_D_ct.png", "losses_D_mr.png")
RUN_FILES = (
    *("overlap.json", "log.jsonl", "evaluations.jsonl", "evaluations.png", "report.html"),
    *LOSS_CURVES,
)
_IN_FOLDERS = re.compile(
    r"samples/step_\d{6,}\.png|evaluation/(metrics\.(json|csv)|comparison\.png)"
)
MAX_SEALED_BYTES = 100_000_000  # of a list; a sidecar has some kB
_UNSEALED = b"0" * 64
_SEAL = re.compile(rb'\{\s*"seal": "([0-9a-f]{64})"')

Kind = Literal["scans", "files"]
Put = Callable[[str, bytes, Kind], None]

logger = logging.getLogger(__name__)


def sealed(record: Mapping[str, Any]) -> bytes:
    """A JSON object whose first key, `seal`, is the hash of its bytes with zeros in place of that hash."""
    text = json.dumps({"seal": _UNSEALED.decode(), **record}, indent=1, allow_nan=False)
    content = text.encode() + b"\n"
    return content.replace(_UNSEALED, hashlib.sha256(content).hexdigest().encode(), 1)


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object in a file that `sealed` made and nobody has changed since; else None."""
    try:
        content = read_regular(path, MAX_SEALED_BYTES)
        seal = _SEAL.match(content)
        if seal is None:
            return None
        start, end = seal.span(1)
        unsealed = content[:start] + _UNSEALED + content[end:]
        if hashlib.sha256(unsealed).hexdigest().encode() != seal.group(1):
            return None
        record: dict[str, Any] = json.loads(content)
        del record["seal"]
    except (OSError, ValueError, RecursionError):
        return None
    return record


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, or over the names and contents of all files in a folder; None if that cannot be read."""
    try:
        if not path.is_dir():
            return content_digest(path).hex()
        whole = hashlib.sha256()
        for file in sorted(path.rglob("*"), key=os.fsencode):
            if file.is_symlink() or not file.is_dir():
                name = os.fsencode(file.relative_to(path))
                whole.update(name + b"\0" + content_digest(file))
        return whole.hexdigest()
    except OSError:
        return None


def require_own(
    paths: Iterable[Path],
    *,
    overwrite: bool,
    inputs: Iterable[Path] = (),
    sidecars: Mapping[Path, Path] | None = None,
) -> None:
    """Refuse, before any work, to replace an input, or a file that ctmr did not write.

    Args:
        paths: Files that are going to be written; a translated series is a folder.
        overwrite: Files of others may be replaced too.
        inputs: Files and folders that are read; what is one of these under another name or link is never replaced.
        sidecars: Of translations and their maps.

    Raises:
        UsageError: If an input would be replaced.
        OutputError: If a file of others would be, with all such files counted; if one stands where a folder is needed;
            or if the list of a folder, in which what has no sidecar will stand, is not one of ctmr.
    """
    paths, beside = list(paths), sidecars or {}
    require_no_input(paths, inputs)
    for folder in {path.parent for path in paths}:
        _require_folder(folder)
    for folder in {path.parent for path in {*paths}.difference(beside, beside.values())}:
        if not is_run(folder):
            require_list(folder / LIST_NAME)
    if overwrite:
        return
    there = [path for path in paths if os.path.lexists(path)]
    others = [path for path in there if not is_own(path, beside.get(path))]
    if others:
        more = ", ".join(printable(path.name) for path in others[1:3])
        count = f", and {len(others) - 1} more ({more}{', ...' if others[3:] else ''})"
        raise OutputError(
            "expected no file there, or one that ctmr wrote: found another, which is kept"
            + (count if others[1:] else ""),
            file=others[0],
            fix="choose another place for the output, or replace it with --overwrite",
        )


def is_own(path: Path, sidecar: Path | None = None) -> bool:
    """Whether ctmr wrote what is there, and nobody changed it since.

    Args:
        path: A file, or the folder of a translated series.
        sidecar: Of a translation or its map; without it those beside the path are looked at.
    """
    if is_of_run(path) or read_sealed(path) is not None:
        return True
    known = known_digests(path, sidecar)
    while digest_of(path) not in known:
        before, known = known, known_digests(path, sidecar)
        if before == known:
            return False
        # Another process has written it meanwhile.
    return True


def known_digests(path: Path, sidecar: Path | None = None) -> set[str]:
    """The hashes under which ctmr wrote a file, by the list of its folder and by its sidecar."""
    known: set[str] = set()
    record = read_sealed(path.parent / LIST_NAME) or {}
    for kind in ("scans", "files"):
        known.update(_entries(record, kind).get(path.name, ()))
    for beside in _sidecars_of(path) if sidecar is None else [sidecar]:
        record = read_sealed(beside) or {}
        name = os.path.relpath(path, beside.parent)
        for key in ("outputs", "replaced"):
            digests = record.get(key)
            if isinstance(digests, dict) and isinstance(digests.get(name), str):
                known.add(digests[name])
    return known


def is_own_extra(path: Path) -> bool:
    """Whether ctmr wrote this file and it is no scan: an uncertainty map, a preview, a figure, a sidecar."""
    listed = read_sealed(path.parent / LIST_NAME) or {}
    hashes = set(_entries(listed, "files").get(path.name, ()))
    for beside in _sidecars_of(path):
        record = read_sealed(beside)
        if record is None:
            continue
        name = os.path.relpath(path, beside.parent)
        outputs = record.get("outputs")
        if isinstance(outputs, dict) and name in outputs and record.get("result") != name:
            hashes.add(outputs[name])
    return bool(hashes) and digest_of(path) in hashes


def is_of_run(path: Path) -> bool:
    """Whether a path is that of a file which a run keeps in its folder."""
    for run in path.parents[:2]:
        name = path.relative_to(run).as_posix()
        if (name in RUN_FILES or _IN_FOLDERS.fullmatch(name)) and is_run(run):
            return True
    return False


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / RUN_LOCK).is_file() and (folder / RUN_CONFIG).is_file()


def write_own(path: Path, content: bytes, *, overwrite: bool = False, kind: Kind = "files") -> None:
    """Write a file whole, and put it on the list of its folder; nothing that ctmr did not write is replaced.

    Args:
        path: Where it goes; the file of a run needs no list.
        content: Its bytes.
        overwrite: Replace a file of others too.
        kind: `scans` are read as scans, `files` are not.

    Raises:
        OutputError: If a file of others is there, or it cannot be written.
    """
    if is_of_run(path):
        return write_bytes(path, content)
    with listing(path.parent) as put:
        require_own([path], overwrite=overwrite)
        put(path.name, content, kind)


@contextlib.contextmanager
def listing(folder: Path) -> Iterator[Put]:
    """Hold the list of a folder, for this process alone; yields a function that writes a file and lists it.

    Raises:
        OutputError: If the list is not one of ctmr, or cannot be written.
    """
    place = folder / LIST_NAME
    try:
        make_folder(folder)
        with _locked(place) as replace:
            record = _read_list(place)

            def put(name: str, content: bytes, kind: Kind) -> None:
                digest = hashlib.sha256(content).hexdigest()
                now = digest_of(folder / name)
                entries = {each: _entries(record, each) for each in ("scans", "files")}
                earlier = known_digests(folder / name)
                for listed in entries.values():
                    listed.pop(name, None)
                # What stands there now stays known, in case the process is killed before the new one does.
                entries[kind][name] = [digest, *([now] if now in earlier - {digest} else [])]
                record.update(
                    {each: dict(sorted(listed.items())) for each, listed in entries.items()}
                )
                replace(sealed(record))
                write_bytes(folder / name, content)
                if len(entries[kind][name]) > 1:
                    del entries[kind][name][1:]
                    replace(sealed(record))

            try:
                yield put
            finally:
                if place.stat().st_size == 0:
                    place.unlink()
    except OSError as error:
        raise cannot_write(place, error) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Hold a file, made if it is not there, against other processes; yields a function that replaces its content.

    The new content is a new file, and the lock goes over to it.

    Raises:
        OSError: If it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(path, flags, 0o666)
        missing = lock(descriptor, wait=True)
        if missing is not None:
            logger.warning(
                "%s: no locks there (%s), so that only one process may write into the folder",
                printable(str(path)),
                missing,
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)  # another process replaced it while this one waited
    with contextlib.ExitStack() as held:
        held.callback(os.close, descriptor)

        def replace(content: bytes) -> None:
            with replacing(path, held) as temporary:
                temporary.write_bytes(content)

        yield lambda content: persistently(lambda: replace(content))


def _read_list(place: Path) -> dict[str, Any]:
    record = read_sealed(place)
    if record is None:
        require_list(place)
        return {"notice": "the files that ctmr wrote here, each with its SHA-256"}
    return record


def require_list(place: Path) -> None:
    """Refuse a list that is there and not one of ctmr.

    Raises:
        OutputError: If it is another file; an empty one was left by a process that was killed.
    """
    empty = place.is_file() and place.stat().st_size == 0
    if os.path.lexists(place) and not empty and read_sealed(place) is None:
        raise OutputError(
            "expected the list of files that ctmr wrote here: found another file, or one that was changed",
            file=place,
            fix="choose another place for the output, or move that file away",
        )


def _entries(record: Mapping[str, Any], kind: str) -> dict[str, list[str]]:
    """The part of a list: name -> hashes."""
    found = record.get(kind)
    return dict(found) if isinstance(found, dict) else {}


def _sidecars_of(path: Path) -> list[Path]:
    """Where the sidecar of a file would be, if the file were a translation, its preview or its map."""
    names = [path.name]
    while "." in names[-1].lstrip("."):
        names.append(names[-1].rpartition(".")[0])
    beside = [path.with_name(name + ".json") for name in names]
    if path.parent.name == MAPS_NAME:  # STEM_measure.png, where a measure can have a `_` too
        parts = names[-1].split("_")
        stems = ["_".join(parts[:n]) for n in range(1, len(parts))]
        beside += [path.parent.parent / f"{stem}.json" for stem in stems]
    return beside


def _require_folder(folder: Path) -> None:
    place = (folder, *folder.absolute().parents)
    there = next(each for each in place if os.path.lexists(each))
    if not there.is_dir():
        raise OutputError(
            "expected a folder, or nothing: found a file, which is kept",
            file=there,
            fix="choose another place for the output",
        )


def require_no_input(paths: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to replace what is read, under any of its names and links.

    Raises:
        UsageError: If a path is one of the inputs, or of the files in them.
    """
    there = [path for path in paths if os.path.lexists(path)]
    if not there:
        return
    read = {_identity(file) for place in inputs for file in (place, *_below(place))}
    for path in there:
        identities = {_identity(file) for file in (path, *_below(path))} - {None}
        if identities & read:
            raise UsageError(
                "the output would overwrite an input", file=path, fix="choose another OUTPUT"
            )


def _below(place: Path) -> Iterator[Path]:
    return (file for file in place.rglob("*") if file.is_file()) if place.is_dir() else iter(())


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file is under all its names; None of one that is not there."""
    try:
        found = path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return None
        raise
    return found.st_dev, found.st_ino
