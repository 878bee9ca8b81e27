"""Every error that reaches a user, with its code and its exit code; nothing else is raised to one.

CtmrError
├── UsageError        exit 2   a wrong command, option or configuration
├── DataError         exit 3   input that cannot be read or used
├── OutputError       exit 4   output that cannot be written or locked
├── CheckpointError   exit 5   a checkpoint or model that is corrupt, foreign or incompatible
├── DivergedError     exit 6   training produced NaN or infinity
├── ResourceError     exit 7   out of memory, a dead loader worker
├── SafetyError       exit 8   refused because the result would mislead
├── DistributedError  exit 9   a process of a parallel run failed
└── Stopped           exit 130 or 143 (129 of SIGHUP), after a complete checkpoint; 75 without one
"""

import copyreg
from collections.abc import Sequence
from pathlib import Path
from typing import Self

OF_TRAINING = ("torch", "lightning_fabric", "onnx", "matplotlib", "skimage")
"""Modules of the extra `[train]`; translating works without it, and what needs one of them says so."""
SHOWN_NAMES = 3  # of files with one fault
SHOWN_REASONS = 10


class CtmrError(Exception):
    """An error a user can act on: what is wrong, where, and one thing to do.

    Args:
        what: What was expected and what was found, with numbers.
        file: The file or folder concerned.
        fix: One action that resolves it.
    """

    code = "E100"
    exit_code = 1

    def __init__(self, what: str, *, file: Path | str | None = None, fix: str) -> None:
        self.what = what
        self.file = None if file is None else printable(str(file))
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        """The one line printed to the user, without the `error[...]` prefix."""
        place = "" if self.file is None else f"{self.file}: "
        return f"{place}{self.what}. Fix: {self.fix}."

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it without `__init__`, so that it comes whole out of a worker process."""
        return copyreg.__newobj__, (type(self), str(self)), self.__dict__  # type: ignore[attr-defined]

    def at(self, file: Path | str) -> Self:
        """The same error with its file named, if it names none."""
        return self if self.file is not None else type(self)(self.what, file=file, fix=self.fix)

    def as_json(self) -> dict[str, str | int | None]:
        """The same line as an object, for `--json`."""
        return {
            "code": self.code,
            "file": self.file,
            "what": self.what,
            "fix": self.fix,
            "exit": self.exit_code,
        }


class UsageError(CtmrError):
    """A wrong command, option or configuration."""

    code = "E200"
    exit_code = 2


class DataError(CtmrError):
    """Input that cannot be read or used."""

    code = "E300"
    exit_code = 3


class OutputError(CtmrError):
    """Output that cannot be written or locked."""

    code = "E400"
    exit_code = 4


class CheckpointError(CtmrError):
    """A checkpoint or model that is corrupt, foreign or incompatible."""

    code = "E500"
    exit_code = 5


class DivergedError(CtmrError):
    """Training produced NaN or infinity."""

    code = "E600"
    exit_code = 6


class ResourceError(CtmrError):
    """Out of memory, or a worker process that died."""

    code = "E700"
    exit_code = 7


class SafetyError(CtmrError):
    """Refused because the result would mislead."""

    code = "E800"
    exit_code = 8


class DistributedError(CtmrError):
    """A process of a parallel run failed."""

    code = "E900"
    exit_code = 9


class Stopped(CtmrError):
    """Stopped by a signal after a complete checkpoint; exit code 75 if none could be written (not `saved`)."""

    code = "E130"

    def __init__(
        self, what: str, *, file: Path | str, fix: str, signal_number: int, saved: bool = True
    ) -> None:
        super().__init__(what, file=file, fix=fix)
        self.exit_code = 128 + signal_number if saved else 75


class ToldElsewhere(Exception):
    """A process of a parallel run ends because another has ended, which has said why; this one says nothing.

    Args:
        exit_code: Of the other, and so of this one.
    """

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(f"another process has ended with code {exit_code}")


def refuse_all(
    failures: Sequence[tuple[str, CtmrError]], what: str, *, file: Path, fix: str
) -> None:
    """Raise one error of everything that cannot be used, if there is any; of the gravest kind among them.

    Reasons come first, each with the first names and how many more there are.

    Args:
        failures: Name and error of each.
        what: Goes after their number, as "of 20 scans cannot be used".
        file: The folder they lie in.
        fix: One action that resolves it, said where their own differ, or where it is an option. Of their own, the one they
            share is said, else those that are options. A single error is raised as it is.
    """
    if len(failures) == 1:
        raise failures[0][1]
    if failures:
        names: dict[str, list[str]] = {}
        for name, error in failures:
            names.setdefault(error.what, []).append(printable(name))
        reasons = sorted(names.items(), key=lambda item: -len(item[1]))
        listed = [f"{reason} ({_some(found)})" for reason, found in reasons[:SHOWN_REASONS]]
        if reasons[SHOWN_REASONS:]:
            rest = sum(len(found) for _, found in reasons[SHOWN_REASONS:])
            listed.append(f"other reasons ({rest} more)")
        fixes = list(dict.fromkeys(error.fix for _, error in failures))
        told = fixes if len(fixes) == 1 else [text for text in fixes if "--" in text][:SHOWN_NAMES]
        if fix not in told and (len(fixes) > 1 or "--" in fix):
            told.append(fix)
        gravest = max((error for _, error in failures), key=lambda error: error.exit_code)
        raise type(gravest)(
            f"{len(failures)} {what}: {'; '.join(listed)}",
            file=file,
            fix=", or ".join(told),
        )


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped, so that a file name cannot forge a log line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
