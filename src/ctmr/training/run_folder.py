"""A run's folder: its lock, its log and its configuration."""

import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ctmr.config import Config, config_yaml, differing_keys, parse_config
from ctmr.errors import OutputError, UsageError, printable
from ctmr.system.disks import lock
from ctmr.system.files import (
    cannot_write,
    is_draft,
    read_log,
    read_regular,
    recover,
    remove_drafts,
    write_text,
)
from ctmr.system.ownership import (
    CHECKPOINT_NAME,
    RUN_CONFIG,
    RUN_FILES,
    RUN_FOLDERS,
    RUN_LOCK,
    digest_of,
    require_own,
)
from ctmr.system.yaml import read_yaml

logger = logging.getLogger(__name__)

MAX_LOCK_BYTES = 1000
_LOCK = re.compile(rb"(pid \d+ on .*\n)?")

# Settings that a resumed run may change: they do not touch the weights.
RESUMABLE = frozenset(
    "train." + key
    for key in (
        "checkpoint_every",
        "sample_every",
        "evaluate_every",
        "log_every",
        "workers",
        "tensorboard",
    )
)


class RunFolder:
    """The files of one run: `config.yaml run.lock overlap.json log.jsonl samples/ checkpoints/ model/ best/ report.html`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / RUN_LOCK
        self.config = path / RUN_CONFIG
        self.log = path / "log.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.best = path / "best"
        self.overlap = path / "overlap.json"
        self.evaluations = path / "evaluations.jsonl"
        self.evaluation_curves = path / "evaluations.png"
        self._identity: tuple[int, int] | None = None  # once it is locked
        self._foreign: tuple[int, int] | None = None  # a config.yaml of others that may be replaced

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go of it when the process ends in any way.

        Not by filelock: its 3.x empties the file first, a foreign one or a holder's; its 4.x, on file systems without
        locks, takes any such file for a held lock.

        Raises:
            OutputError: If another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = self.lock.open("a+", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"cannot write there ({error.strerror})", file=self.path, fix="choose another --out"
            ) from error
        with stream:
            try:
                missing = lock(stream.fileno(), wait=False)
                if missing is not None:
                    logger.warning(
                        "%s: no locks there (%s), so that only one process may train in it",
                        printable(str(self.path)),
                        missing,
                    )
            except BlockingIOError as error:
                stream.seek(0)
                raise OutputError(
                    f"another process is training in it ({stream.read().strip()})",
                    file=self.path,
                    fix="wait for it, or choose another --out",
                ) from error
            except OSError as error:
                raise OutputError(
                    f"cannot lock it ({error.strerror})",
                    file=self.lock,
                    fix="choose an --out on a file system that has locks",
                ) from error
            _require_lock(self.lock)
            try:
                stream.truncate(0)
                stream.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
                stream.flush()
                self._tidy()
                self._identity = _identity(self.path)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            yield

    def _tidy(self) -> None:
        """Remove what a killed process left half written, and bring back what it was about to replace."""
        recover(self.model)
        recover(self.best)
        for place in (self.path, self.checkpoints, self.samples):
            remove_drafts(place)

    def is_there(self) -> bool:
        """Whether the folder that was locked is still at its path."""
        try:
            return _identity(self.path) == self._identity
        except OSError:
            return False

    def holds_run(self) -> bool:
        """Whether there is a run that can be gone on with, or whose checkpoints should be there.

        Raises:
            OutputError: If the folder cannot be looked into.
        """
        try:
            there = self.config.exists() and _identity(self.config) != self._foreign
            return there and (self.lock.exists() or self.log.exists())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def require_new(self, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
        """Refuse to train over an earlier run, or over files that ctmr did not write.

        Args:
            overwrite: Replace single files of others in the place of a run's files; never folders.
            inputs: Files and folders that are read.

        Raises:
            UsageError: If the folder holds a run, or a file of a run would replace an input.
            OutputError: If something of others is in the place of a run's files, or the folder cannot be looked into.
        """
        taken = self.holds_run()
        try:
            folders = [self.path / name for name in RUN_FOLDERS]
            full = [place for place in folders if _holds_others(place)]
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if taken:
            raise UsageError(
                "already holds a run",
                file=self.path,
                fix="add --resume to go on with it, or choose another --out",
            )
        if full:
            raise OutputError(
                "a run keeps its files under this name: found files of others there",
                file=full[0],
                fix="choose another --out",
            )
        if os.path.lexists(self.lock):
            _require_lock(self.lock)
        files = [self.config, *(self.path / name for name in RUN_FILES)]
        require_own(files, overwrite=overwrite, inputs=inputs)
        if self.config.exists():
            self._foreign = _identity(
                self.config
            )  # beside it there will be a lock, of this process

    def remove_others(self) -> None:
        """Remove the files that a new run would add to or leave, which `require_new` has let pass.

        Raises:
            OutputError: If one cannot be removed.
        """
        for path in (self.path / name for name in RUN_FILES):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error

    def read_config(self) -> Config:
        """The run's configuration.

        Raises:
            UsageError: If there is none, or it is damaged.
        """
        if not self.config.exists():
            raise UsageError(
                "expected a run with config.yaml, found none",
                file=self.path,
                fix="start it without --resume",
            )
        return parse_config(read_yaml(self.config), source=str(self.config))

    def write_config(self, config: Config) -> None:
        """Write `config.yaml`."""
        write_text(self.config, config_yaml(config))

    def append_log(self, row: Mapping[str, Any]) -> None:
        """Add a line to `log.jsonl`; a log that cannot be written does not end a training."""
        with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def cut_log(self, step: int) -> None:
        """Keep the lines up to `step`; what a killed run logged after its last checkpoint comes again."""
        kept = [row for row in read_log(self.log) if row["step"] <= step]
        write_text(self.log, "".join(json.dumps(row) + "\n" for row in kept))


def _require_lock(place: Path) -> None:
    """Refuse a `run.lock` that ctmr did not write.

    Raises:
        OutputError: If it says something else.
    """
    try:
        content = read_regular(place, MAX_LOCK_BYTES)
    except OSError as error:
        raise cannot_write(place, error) from error
    if not _LOCK.fullmatch(content):
        raise OutputError(
            "expected the lock of a run: found another file, which is kept",
            file=place,
            fix="choose another --out, or move that file away",
        )


def _holds_others(place: Path) -> bool:
    """Whether something is there but an empty folder, or first checkpoints of a start that was killed."""
    if not place.is_dir():
        return os.path.lexists(place)
    for path in place.iterdir():
        named = CHECKPOINT_NAME.fullmatch(path.name)
        if is_draft(path):
            continue
        if named is None or not (digest_of(path) or "").startswith(named.group(2)):
            return True
    return False


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def check_config(file: Path, old: Config, new: Config) -> None:
    """Refuse to resume with settings that would make it another run.

    Raises:
        UsageError: Naming each setting that may not change, its old and its new value.
    """
    changed = differing_keys(old, new)
    frozen = {key: values for key, values in changed.items() if key not in RESUMABLE}
    if frozen:
        listed = ", ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in frozen.items())
        raise UsageError(
            f"a resumed run keeps its settings; changed are {listed}",
            file=file,
            fix="leave them as they were, or start a new run with --init",
        )
