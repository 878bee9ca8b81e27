"""How much memory there is, so that what needs more is refused before it starts."""

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

from ctmr.errors import ResourceError

try:
    import psutil
except ImportError:  # a system that it is not made for
    psutil = None  # type: ignore[assignment]
try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

_MIN_CHECKED_BYTES = 2**26  # bytes that are not worth the question
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def free_bytes() -> int | None:
    """Bytes that this process can still take: what system, container and its own limit leave; None if not known."""
    if psutil is None:
        return None
    free = [psutil.virtual_memory().available, *_cgroups_free()]
    if sys.platform == "linux":
        process = psutil.Process()
        limit = process.rlimit(psutil.RLIMIT_AS)[0]
        if limit != psutil.RLIM_INFINITY:
            free.append(limit - process.memory_info().vms)
    return max(0, min(free))


def peak_bytes() -> int | None:
    """The most memory that this process has had so far; None if not known."""
    if resource is not None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    if psutil is not None:
        return getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    return None


def _cgroups_free() -> Iterator[int]:
    """What the memory limits of the control groups leave, of this process's and of those that it lies in.

    In a container its own group is the root of the mount, whatever path the kernel names.
    """
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        place, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")  # version 2
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            place /= "memory"
        if controllers in ("", "memory"):
            below = Path(path.strip("/"))
            for group in (below, *below.parents):
                with contextlib.suppress(OSError, ValueError):  # no limit, or not to be seen
                    yield _free_in(place / group, *names)


def _free_in(group: Path, limit: str, used: str, reclaimable: str) -> int:
    """The limit of a control group less what is used; files that were read and are not in use count as free.

    Raises:
        OSError: If it has no such files.
        ValueError: If it has no limit: `max`.
    """
    free = int((group / limit).read_text()) - int((group / used).read_text())
    statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return free + int(statistics.get(reclaimable, 0))


def require_memory(needed: int, path: Path) -> None:
    """Refuse a file that takes more memory than there is.

    Raises:
        ResourceError: With the bytes it needs and those that are free.
    """
    free = free_bytes() if needed > _MIN_CHECKED_BYTES else None
    if free is not None and needed > free:
        raise ResourceError(
            f"expected {needed:,} bytes of free memory, which it takes: found {free:,}",
            file=path,
            fix="free memory, or take a machine with more",
        )


def is_want_of_memory(error: BaseException) -> bool:
    """Whether Python, the system or torch, which has names and texts of its own for it, has no memory left."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
    return isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM or of_torch
