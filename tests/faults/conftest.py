"""The harness of the fault tests: system calls that fail or kill, small disks, limits, real processes.

`make test-faults` runs this folder; `make test` leaves it out.
"""

import contextlib
import mmap
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctmr.errors import CtmrError
from ctmr.system.files import read_log

# A shell's `&` lets a process ignore SIGINT, and its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CLI = "from ctmr.cli import main; main()"
BUG = 99  # exit code of a child whose error is not one of ctmr
KILL = "signal=SIGKILL"


@dataclass(frozen=True)
class Injected:
    """What became of a child process into whose system calls a fault was put.

    Attributes:
        fired: Whether the fault happened.
        code: Exit code: 0, that of a `CtmrError`, `BUG`; negative the signal that killed it.
        message: Message of the error.
        trace: What strace wrote.
    """

    fired: bool
    code: int
    message: str
    trace: str


def _child(work: Callable[[], object], content: mmap.mmap) -> int:
    """Stop until the tracer has come, then do the work; the exit code. What is said goes by no system call."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(20)
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        work()
    except CtmrError as error:
        content.write(str(error).encode())
        return error.exit_code
    except BaseException:
        content.write(traceback.format_exc()[-60_000:].encode())
        return BUG
    return 0


def _await_tracer(pid: int, tracer: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while f"TracerPid:\t{tracer.pid}\n" not in Path(f"/proc/{pid}/status").read_text():
        assert tracer.poll() is None, tracer.communicate()
        assert time.monotonic() < deadline, "strace did not come"
        time.sleep(0.002)


@pytest.fixture(scope="session")
def strace() -> str:
    """The path of strace; the tests that need it are skipped where it is missing or may not trace."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("needs strace: apt-get install strace")
    probe = [path, "-qq", "-e", "trace=uname", "-e", "inject=uname:error=EIO", "uname"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=20)
    if "(INJECTED)" not in done.stderr:
        pytest.skip(f"strace can inject nothing here: {done.stderr.strip()}")
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was tried: the sums of what the tests recorded as properties."""
    counts = Counter[str]()
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        if report.when == "call":
            for name, value in report.user_properties:
                counts[name] += int(str(value))
    if counts:
        content = ", ".join(f"{value:,} {name}" for name, value in sorted(counts.items()))
        terminalreporter.write_line(f"tried: {content}")


@pytest.fixture
def inject(
    strace: str,
    tmp_path_factory: pytest.TempPathFactory,
    record_property: Callable[[str, object], None],
) -> Callable[..., Injected]:
    """A function `(work, call, fault, when)` that does the work in a child with that fault in its calls.

    `call` is a system call or several (`rename`, `openat,fsync`), `fault` is `KILL` or `error=EIO`, `when` as strace takes
    it: `3` the third call, `3+` from the third on. The child is a fork of this process, so that torch is there already.
    """
    place = tmp_path_factory.mktemp("inject")

    def run(work: Callable[[], object], call: str, fault: str, when: int | str = 1) -> Injected:
        content, trace = mmap.mmap(-1, 1 << 18), place / "trace"
        trace.unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
            pid = os.fork()
        if pid == 0:
            code = BUG
            try:
                code = _child(work, content)
            finally:
                os._exit(code)
        os.waitpid(pid, os.WUNTRACED)
        command = [strace, "-f", "-qq", "-y", "-o", str(trace), "-p", str(pid)]
        command += ["-e", f"trace={call}"]
        command += ["-e", f"inject={call}:{fault}:when={when}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            _await_tracer(pid, tracer)
            os.kill(pid, signal.SIGCONT)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            tracer.communicate(timeout=20)
        text = re.sub(r"(?m)^\d+ +", "", trace.read_text(errors="replace"))  # without process IDs
        killed = fault == KILL and code == -signal.SIGKILL
        record_property("processes traced", 1)
        record_property("faults in system calls that fired", int(killed or "(INJECTED)" in text))
        message = content[:].rstrip(b"\0").decode()
        return Injected(killed or "(INJECTED)" in text, code, message, text)

    return run


@pytest.fixture
def sweep(inject: Callable[..., Injected]) -> Callable[..., int]:
    """A function `(work, call, fault, check, onwards=False)`: the fault at the first call, the second, ... until none is left.

    `check` gets each result. Returned is how many faults happened, at least one: a sweep without any proves nothing.
    """

    def run(
        work: Callable[[], object],
        call: str,
        fault: str,
        check: Callable[[Injected], object],
        *,
        onwards: bool = False,
    ) -> int:
        for n in range(1, 400):
            result = inject(work, call, fault, f"{n}+" if onwards else n)
            assert result.code != BUG, result.message
            if not result.fired:
                assert result.code == 0, result.message
                assert n > 1, f"no {call} was called"
                return n - 1
            check(result)
        raise AssertionError("the sweep did not end")

    return run


@pytest.fixture
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs `ctmr` in a process of its own; `limits` are pairs of `resource.RLIMIT_*` and a number."""

    def run(
        *arguments: object,
        env: Mapping[str, str] | None = None,
        limits: Mapping[int, int] | None = None,
        before: Callable[[], object] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        def prepare() -> None:
            for kind, most in (limits or {}).items():
                resource.setrlimit(kind, (most, most))
            if before is not None:
                before()

        return subprocess.run(
            [sys.executable, "-c", CLI, *map(str, arguments)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=180,
            env={**os.environ, **(env or {})},
            preexec_fn=prepare if limits or before else None,
        )

    return run


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function `(size, inodes=0)` that mounts a small disk in memory; unmounted afterwards. Skips without the right to."""
    mounted: list[Path] = []

    def mount(size: str, inodes: int = 0) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=20)


@pytest.fixture
def kill_at() -> Callable[..., tuple[int, str]]:
    """A function `(arguments, run, step, number)`: starts `ctmr`, sends the signal once that step is in the run's log.

    Returned are exit code and stderr. With `group` the signal goes to all its processes, as from a terminal.
    """

    def run(
        arguments: list[object], folder: Path, step: int, number: int, *, group: bool = False
    ) -> tuple[int, str]:
        command = [sys.executable, "-c", CLI, *map(str, arguments)]
        with subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            deadline = time.monotonic() + 120
            while max((row["step"] for row in read_log(folder / "log.jsonl")), default=0) < step:
                if process.poll() is not None or time.monotonic() > deadline:
                    break
                time.sleep(0.005)
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(process.pid, number)
            output = process.communicate(timeout=120)[1]
        return process.returncode, output

    return run


def processes_of(session: int) -> dict[int, str]:
    """The processes of a session that still run: number and command."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = re.sub(r"^.*\) ", "", (place / "stat").read_text()).split()
            if int(state[3]) == session and state[0] != "Z":
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(place.name)] = command.decode(errors="replace")
    return found


@pytest.fixture
def left_of() -> Callable[..., dict[int, str]]:
    """A function `(session, seconds)`: what of its processes is still there when those seconds are over, or before if none."""

    def wait(session: int, seconds: float) -> dict[int, str]:
        deadline = time.monotonic() + seconds
        while (left := processes_of(session)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    return wait
