"""How much a job may take: of uploads, of an archive, and of a process that reads what strangers sent."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

MAX_FILES = 5000  # of a job
MAX_BYTES = 4 * 2**30  # of a job
MAX_RATIO = 200  # of the bytes of a member to those it takes in its archive
FREE_RATIO_BYTES = 2**20  # below which no ratio is looked at
IDLE_S = 15.0  # without a byte
TOTAL_S = 300.0  # of one upload
LINGER_S = 10.0  # in which the rest of a refused upload is read,
LINGER_IDLE_S = 0.5  # unless so long nothing comes

MAX_ADDRESS_BYTES = 4 * 2**30
MAX_CPU_S = 4 * 3600
MAX_OPEN = 256
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # clone flags of Linux


def confine() -> None:
    """Limit this process, take the network from it where the system lets it, and make its files its owner's alone.

    To be called before anything starts a thread: no namespace of a user is given to a process that has several.
    """
    os.umask(0o077)
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    limits = {
        resource.RLIMIT_CPU: MAX_CPU_S,
        resource.RLIMIT_NOFILE: MAX_OPEN,
        resource.RLIMIT_FSIZE: MAX_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    if not Path("/dev/nvidiactl").exists():  # CUDA maps more than there is
        limits[resource.RLIMIT_AS] = MAX_ADDRESS_BYTES
    for what, limit in limits.items():
        most = resource.getrlimit(what)[1]
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(what, (limit, limit))
    if sys.platform == "linux":
        _leave_network()


def _leave_network() -> None:
    """Go into a network of its own, in which there is nothing."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_NETWORK) != 0:
            libc.unshare(_NEW_USER | _NEW_NETWORK)
