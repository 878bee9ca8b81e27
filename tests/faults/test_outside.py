"""What real processes do to the world outside their outputs: nobody is called, no other program runs, no file is left.

Every command but `fetch` runs under strace without a network, with a fresh HOME and as a user who has none.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import stand_ins, tiny

MAIN = stand_ins.program()
TINY = [*tiny.TINY, "--steps", "2"]
# A program that has loaded what calls home before it uses ctmr.
PROGRAM = """
import sys
import openvino_telemetry
import ctmr

for engine in ("openvino", "onnx"):
    translator = ctmr.load_model(sys.argv[1], engine=engine)
    translator.translate(ctmr.read_scan(sys.argv[2]), "mr")
assert sys.modules["openvino_telemetry"] is openvino_telemetry
"""
# A user in no passwd file and without HOME, who may read everything and write only where everyone may.
NOBODY = [
    *("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
]
WATCHED = (
    "socket,connect,sendto,sendmsg,sendmmsg,execve,open,openat,openat2,creat,truncate,unlink,unlinkat,rmdir"
    ",mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mknod,mknodat"
)
# What Python's processes have between them while they run: semaphores, and sockets in the temporary folder, which is tried.
PROCESSES = (Path("/dev/shm"),)
BETWEEN = re.compile(r"pymp-\w{8}|listener-\w{8}|[a-z0-9_]{8}$")
# pydicom imports requests where it is installed, and urllib3 then binds a socket to ::1, to see whether there is IPv6.
IPV6_PROBE = re.compile(r"socket\(AF_INET6, SOCK_STREAM\|SOCK_CLOEXEC, IPPROTO_IP\b")
LOOK_UP = re.compile(r'"/etc/(resolv\.conf|hosts|gai\.conf)"')
CHANGES = re.compile(r"(creat|truncate|unlink|rmdir|mkdir|rename|link|symlink|mknod)")
PLACE = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"')


def works(*command: str) -> bool:
    return (
        bool(shutil.which(command[0]))
        and subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    )


pytestmark = [
    pytest.mark.skipif(not works("strace", "-qq", "true"), reason="needs strace"),
    pytest.mark.skipif(not works("unshare", "-n", "true"), reason="needs the right to unshare -n"),
]


def calls(trace: str) -> Iterator[str]:
    """The system calls that succeeded, each in one line though another thread's came between."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", call):
            call = begun.pop(pid, "") + call[resumed.end() :]
        if " = -1 E" not in call or call.startswith(("socket", "connect", "send")):
            yield call
    yield from begun.values()


def written(call: str, folder: Path) -> list[Path]:
    """The files and folders that a system call makes, changes or removes."""
    name = call.partition("(")[0]
    writes = name.startswith("open") and re.search(r"O_CREAT|O_WRONLY|O_RDWR|O_TRUNC", call)
    if not writes and not CHANGES.match(name):
        return []
    paths = [Path(os.path.normpath(folder / base / path)) for base, path in PLACE.findall(call)]
    return paths[-1:] if name in ("link", "linkat", "symlink", "symlinkat") else paths


@pytest.fixture
def top(tiny_data: Path, tiny_run: Path) -> Iterator[Path]:
    """A folder with `data`, a model in `run`, and `place`, `home` and `tmp`, where everyone may write."""
    # Not a folder of pytest, which is for its user alone.
    top = Path(tempfile.mkdtemp(prefix="outside-"))
    shutil.copytree(tiny_data, top / "data")
    shutil.copytree(tiny_run, top / "place" / "run")
    for name in ("home", "tmp", "trace"):
        (top / name).mkdir()
    subprocess.run(["chmod", "-R", "a+rwX", top], check=True)
    yield top
    shutil.rmtree(top)


@pytest.fixture
def watch(top: Path) -> Callable[..., list[str]]:
    """A function `(words, nobody, cache)` that runs Python in `place` and sees that it keeps to itself.

    `words` are what follows `python -c`; `cache` is where CTMR_CACHE points. Returned are the calls it made.
    """
    place, home, temporary = top / "place", top / "home", top / "tmp"
    trace = top / "trace" / "calls"
    kept = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    kept["TMPDIR"] = str(temporary)

    def run(words: list[object], *, nobody: bool, cache: Path | None = None) -> list[str]:
        env = kept | ({"CTMR_CACHE": str(cache)} if cache else {})
        env |= {} if nobody else {"HOME": str(home)}
        command = ["unshare", "-n", *(NOBODY if nobody else ()), "strace", "-f", "-y", "-qq"]
        command += ["--seccomp-bpf", "-s", "400", "-e", f"trace={WATCHED}", "-o", str(trace)]
        command += [sys.executable, "-c", *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=place, timeout=300
        )
        assert done.returncode in (0, 3), done.stderr  # 3: the findings of an audit
        assert "unexpected" not in done.stderr
        assert "WARNING: Matplotlib" not in done.stderr
        made = list(calls(trace.read_text(errors="replace")))
        assert [call for call in made if LOOK_UP.search(call)] == []
        sockets = [call for call in made if re.match(r"socket\((?!AF_UNIX)", call)]
        assert [call for call in sockets if not IPV6_PROBE.match(call)] == []
        assert [call for call in made if re.search(r"^(connect|send).*AF_INET", call)] == []
        programs = [call for call in made if call.startswith("execve(")]
        assert [call for call in programs if f'execve("{sys.executable}"' not in call] == []
        allowed = (place, cache or home / ".cache" / "ctmr", *PROCESSES, Path(os.devnull))
        outside = [
            call
            for call in made
            for path in written(call, place)
            if not any(path.is_relative_to(each) or path in each.parents for each in allowed)
            and not (path.is_relative_to(temporary) and BETWEEN.match(path.name))
        ]
        assert outside == []
        assert list(temporary.iterdir()) == []
        return made

    return run


TO = ["--model", "run", "--to", "mr", "--anyway"]
COMMANDS = {
    "help": [MAIN, "--help"],
    "demo": [stand_ins.program("small_demo"), "demo", "--out", "demo", "--minutes", "0.0001"],
    "synth": [MAIN, "synth", "heads", "--subjects", "1", "--size", "32", "--format", "dicom"],
    "audit": [MAIN, "audit", "../data", "--out", "audit.json", "--clean", "clean"],
    "prepare": [MAIN, "prepare", "../data", "store", *TINY[:4]],
    "train": [MAIN, "train", "../data", "--out", "new", *TINY],
    "torch": [MAIN, "translate", "../data/trainA", "out", *TO, "--engine", "torch"],
    "openvino": [MAIN, "translate", "../data/trainA", "out", *TO, "--quality", "full"],
    "onnx": [MAIN, "translate", "../data/trainA", "out", *TO, "--engine", "onnx"],
    "evaluate": [MAIN, "evaluate", "run", "../data"],
    "export": [MAIN, "export", "run", "out", "--format", "openvino"],
    "report": [MAIN, "report", "run"],
    "program": [PROGRAM, "run", "../data/trainA/ct_00.png"],
}
NEEDS_CACHE = ("demo", "train")
READS = ("audit", "prepare", "train", "torch", "openvino", "onnx", "evaluate", "program")
# Those that look for a cache, compile, draw by Matplotlib or load an engine.
WITHOUT_HOME = ("demo", "train", "openvino", "report", "program")
RUNS = [(name, False) for name in COMMANDS] + [(name, True) for name in WITHOUT_HOME]


@pytest.mark.parametrize(
    ("name", "nobody"),
    RUNS,
    ids=[f"{name}-{'no home' if nobody else 'home'}" for name, nobody in RUNS],
)
def test_no_command_calls_anyone_or_leaves_a_file(name, nobody, watch, top):
    if nobody and not works(*NOBODY, "true"):
        pytest.skip("needs setpriv")
    # With HOME the cache is where it is by itself; without, one is named for those that cannot do without.
    cache = top / "place" / "cache" if nobody and name in NEEDS_CACHE else None
    made = watch(COMMANDS[name], nobody=nobody, cache=cache)
    if name in READS:  # or the watch sees nothing
        assert any(call.startswith("openat(") and "/data/t" in call for call in made)
    if name == "train" and not nobody:
        watch([*COMMANDS[name], "--resume"], nobody=nobody, cache=cache)


@pytest.mark.skipif(not works(*NOBODY, "true"), reason="needs setpriv")
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}], ids=["none", "root"])
def test_training_without_a_cache_folder_is_told_to_set_one(home, top):
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(top / "tmp"), **home}
    done = subprocess.run(
        [*NOBODY, sys.executable, "-c", *COMMANDS["train"]],
        capture_output=True,
        text=True,
        env=env,
        cwd=top / "place",
        timeout=120,
    )
    assert done.returncode == 4, done.stderr
    last = done.stderr.splitlines()[-1]  # before it the numbers of scans
    assert re.fullmatch(r"error\[E400\]: .* Fix: set CTMR_CACHE .*", last)
    assert not (top / "place" / "new").exists()
    assert list((top / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        ("import socket; socket.getaddrinfo('example.org', 80)", "resolv.conf"),
        ("import socket; socket.socket().connect(('192.0.2.1', 80))", "AF_INET"),
        ("import pathlib; (pathlib.Path.home() / 'id').touch()", "home/id"),
        ("import tempfile; tempfile.mkdtemp()", "/tmp/tmp"),
        ("import os; os.spawnlp(os.P_WAIT, 'true', 'true')", "/true"),
    ],
)
def test_watch_sees_a_call_a_file_and_a_program(watch, script, seen):
    with pytest.raises(AssertionError) as caught:
        watch([f"import contextlib\nwith contextlib.suppress(OSError): {script}"], nobody=False)
    assert seen in str(caught.value)
