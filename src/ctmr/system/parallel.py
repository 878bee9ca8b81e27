"""Child processes that end when the one they work for does, and that leave its signals to it."""

import os
import select
import signal
import threading


def serve(parent: int) -> None:
    """Make this process, a worker, end with `parent`; to be called first in it.

    Neither the fork server that made it nor a closed pipe tells a worker that its parent was killed, since other workers hold
    the pipe too. Ctrl-C and a closed terminal go to all processes of a group, and are the parent's to answer.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "pidfd_open"):  # Linux
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    try:
        watched = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)
    except OSError:  # a kernel without it
        return
    select.select([watched], [], [])  # readable once the process has ended
    os._exit(1)
