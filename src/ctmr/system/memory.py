"""How much memory there is, so that what needs more is refused before it starts."""

import errno
import resource
from pathlib import Path

from ctmr.errors import ResourceError

_SMALL = 2**26  # bytes that are not worth the question


def free_bytes() -> int | None:
    """Bytes that this process can still take: what the system has, and what its limit leaves; None if not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        free = next(int(its.split()[1]) * 1024 for its in lines if its.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):  # another system than Linux
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free = min(free, max(0, limit - pages * resource.getpagesize()))
    return free


def require_memory(needed: int, path: Path) -> None:
    """Refuse a file that takes more memory than there is.

    Raises:
        ResourceError: With the bytes it needs and those that are free.
    """
    free = free_bytes() if needed > _SMALL else None
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
