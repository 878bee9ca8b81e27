"""Several processes that train together: killed, stopped, cut off, restarted (faults.md R9, R18, R22, R23, R24)."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ctmr.config import config_yaml, overlaid
from ctmr.system.files import read_log
from ctmr.training.checkpoint import checkpoints, is_sound
from support.runs import digest

CLI = "from ctmr.cli import main; main()"
STEPS = 40


def steps_of(run):
    return max((row["step"] for row in read_log(run / "log.jsonl")), default=0)


def ranks_of(run):
    """The processes that train in a run: rank -> process."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, KeyError, ValueError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            lines = (place / "environ").read_bytes().split(b"\0")
            environment = dict(line.split(b"=", 1) for line in lines if b"=" in line)
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            if (
                str(run).encode() in words
                and b"TORCHELASTIC_RUN_ID" in environment
                and state != "Z"
            ):
                found[int(environment[b"RANK"])] = int(place.name)
    return found


def gone(run, within):
    """Whether no process trains in a run any more, or not so after that time."""
    deadline = time.monotonic() + within
    while ranks_of(run) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not ranks_of(run)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun(*options):
    """The words that start torchrun with a program of ours."""
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*words, "--master-port", str(free_port()), *options, "-m", "ctmr"]


BY_DEVICES = [sys.executable, "-m", "ctmr"]


@pytest.fixture(scope="module")
def config(tiny_config):
    settings = ["steps=40", "batch_size=2", "checkpoint_every=4", "evaluate_every=100000"]
    return overlaid(tiny_config, [f"train.{setting}" for setting in settings])


@pytest.fixture
def file(config, tmp_path):
    place = tmp_path / "config.yaml"
    place.write_text(config_yaml(config))
    return place


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def started(start, data, run, *more, env=None):
    words = [*start, "train", data, "--out", run, *more]
    if start == BY_DEVICES:
        words += ["--devices", 2]
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )


def await_step(process, run, step):
    deadline = time.monotonic() + 300
    while steps_of(run) < step or len(ranks_of(run)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(process, within=400):
    """Exit code, and what was said on stderr."""
    errors = process.communicate(timeout=within)[1]
    return process.returncode, errors


def errors_in(text):
    return [line for line in text.splitlines() if line.startswith("error[")]


@pytest.fixture(scope="module")
def reference(config, tiny_data, tmp_path_factory):
    """The digest of the run of two processes that was never disturbed."""
    place = tmp_path_factory.mktemp("reference")
    (place / "config.yaml").write_text(config_yaml(config))
    with started(
        BY_DEVICES, tiny_data, place / "run", "--config", place / "config.yaml"
    ) as process:
        code, errors = ended(process)
    assert code == 0, errors
    assert errors_in(errors) == []
    assert "2 processes, 1 thread each" in errors
    return digest(place / "run")


# The same run, whatever happens


def test_loader_workers_change_nothing(config, file, tiny_data, run, reference):
    more = ("--config", file, "--set", "train.workers=2")
    with started(BY_DEVICES, tiny_data, run, *more) as process:
        code, errors = ended(process)
    assert code == 0, errors
    assert digest(run) == reference


def test_run_whose_ranks_are_killed_five_times_ends_like_the_one_never_killed(
    file, tiny_data, run, reference
):
    rng = random.Random(1)
    for _ in range(5):
        more = (
            "--config",
            file,
            "--resume-or-start",
            "--set",
            f"train.workers={rng.choice([0, 1])}",
        )
        with started(BY_DEVICES, tiny_data, run, *more) as process:
            await_step(process, run, min(steps_of(run) + rng.randrange(1, 8), STEPS - 1))
            os.kill(ranks_of(run)[rng.randrange(2)], signal.SIGKILL)
            code, errors = ended(process)
        assert code in (0, 9), errors
        assert all(is_sound(path) for path in checkpoints(run / "checkpoints"))
    with started(BY_DEVICES, tiny_data, run, "--config", file, "--resume-or-start") as process:
        code, errors = ended(process)
    assert code == 0, errors
    assert digest(run) == reference
    assert [row["step"] for row in read_log(run / "log.jsonl")] == list(range(1, STEPS + 1))


def test_restarted_by_torchrun_it_goes_on_and_ends_like_the_one_never_killed(
    file, tiny_data, run, reference
):
    start = torchrun("--max-restarts", "1")
    with started(start, tiny_data, run, "--config", file, "--resume-or-start") as process:
        await_step(process, run, 10)
        os.kill(ranks_of(run)[1], signal.SIGKILL)
        code, errors = ended(process)
    assert code == 0, errors
    assert digest(run) == reference


def test_one_process_goes_on_with_the_run_of_two_and_says_that_exactness_is_lost(
    file, tiny_data, run
):
    with started(BY_DEVICES, tiny_data, run, "--config", file, "--stop-after", "8") as process:
        code, errors = ended(process)
    assert code == 0, errors
    command = [*BY_DEVICES, "train", str(tiny_data), "--out", str(run), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "exactness lost: processes was 2 and is 1" in done.stderr
    assert steps_of(run) == STEPS


# One is lost


@pytest.mark.parametrize(("start", "rank"), [("--devices", 0), ("torchrun", 1)])
def test_killed_rank_ends_all_with_one_line_that_names_it(file, tiny_data, run, start, rank):
    words = BY_DEVICES if start == "--devices" else torchrun()
    with started(words, tiny_data, run, "--config", file, "--steps", 4000) as process:
        await_step(process, run, 3)
        os.kill(ranks_of(run)[rank], signal.SIGKILL)
        code, errors = ended(process, 60)
    assert code == (9 if start == "--devices" else 1), errors
    (line,) = errors_in(errors)
    assert line.startswith("error[E900]")
    assert f"process {rank} of 2 on {socket.gethostname()}" in line
    assert "was lost: killed by SIGKILL. Fix" in line
    assert gone(run, 5)


@pytest.mark.parametrize("start", ["--devices", "torchrun"])
def test_killed_launcher_leaves_no_process(file, tiny_data, run, start):
    words = BY_DEVICES if start == "--devices" else torchrun()
    more = ("--config", file, "--set", "train.workers=1", "--steps", 4000)
    with started(words, tiny_data, run, *more) as process:
        await_step(process, run, 3)
        process.kill()
        process.wait(20)
        assert gone(run, 5)
        process.communicate()


# Signals


def test_signal_to_one_acts_at_one_step_in_all(file, tiny_data, run):
    """A checkpoint that is asked for, a stop that is waited for (R9), then each signal that ends, to a rank or the launcher."""
    more = ("--config", file, "--steps", 4000, "--set", "train.checkpoint_every=100000")
    asked: list[int] = []
    for to, number, code in (
        ("rank 1", signal.SIGTERM, 143),
        ("launcher", signal.SIGINT, 130),
        ("rank 1", signal.SIGHUP, 129),
    ):
        first = steps_of(run)
        with started(BY_DEVICES, tiny_data, run, *more, "--resume-or-start") as process:
            await_step(process, run, first + 3)
            if first == 0:
                asked = [step_of_a_checkpoint_asked_for(process, run)]
                assert_stopped_rank_is_waited_for(process, run)
                assert_second_training_is_refused_once(tiny_data, run)
            os.kill(process.pid if to == "launcher" else ranks_of(run)[1], number)
            found, errors = ended(process)
        assert found == code, errors
        (line,) = errors_in(errors)
        last = steps_of(run)
        assert f"stopped at step {last} of 4000 by signal {int(number)}" in line
        saved = [int(path.name[5:14]) for path in checkpoints(run / "checkpoints")]
        assert saved[0] == last
        assert [step for step in saved if first < step < last] == asked
        asked = []


def step_of_a_checkpoint_asked_for(process, run):
    """All go on after it."""
    os.kill(ranks_of(run)[1], signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while len(checkpoints(run / "checkpoints")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    step = int(checkpoints(run / "checkpoints")[0].name[5:14])
    assert step >= 3
    await_step(process, run, step + 2)
    return step


def assert_stopped_rank_is_waited_for(process, run):
    """No timeout fires."""
    rank = ranks_of(run)[1]
    os.kill(rank, signal.SIGSTOP)
    time.sleep(3)
    before = steps_of(run)
    os.kill(rank, signal.SIGCONT)
    await_step(process, run, before + 2)


def assert_second_training_is_refused_once(data, run):
    """By process 0 alone."""
    command = [*BY_DEVICES, "train", str(data), "--out", str(run), "--resume", "--devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 4, done.stderr
    (line,) = errors_in(done.stderr)
    assert "another process is training in it" in line


# What happens to one happens to all


def test_full_disk_under_process_0_ends_all(file, tiny_data, tmpfs):
    run = tmpfs("3m") / "run"
    more = ("--config", file, "--steps", 4000)
    with started(BY_DEVICES, tiny_data, run, *more) as process:
        await_step(process, run, 2)
        filler = run.parent / "filler"
        with suppress(OSError), filler.open("wb") as stream:
            while True:
                stream.write(b"0" * 4096)
                stream.flush()
        code, errors = ended(process)
    assert code == 4, errors
    assert len(errors_in(errors)) == 1
    assert gone(run, 5)


def by_hand(run, *commands, start=BY_DEVICES):
    """Two processes, each with a command of its own: exit codes and what they said."""
    port = free_port()
    processes = []
    for rank, words in enumerate(commands):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "x"}
        processes.append(
            subprocess.Popen(
                [*map(str, start), "train", "--out", str(run), *map(str, words)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {k: str(v) for k, v in environment.items()},
            )
        )
    return [ended(process) for process in processes]


SPOILT = """
import os
from ctmr.data.dataset import UnpairedSlices
whole = UnpairedSlices.__getitem__
def spoilt(self, n):
    x, y = whole(self, n)
    return (x * float("nan"), y) if n == 7 else (x, y)
if os.environ["RANK"] == "1":
    UnpairedSlices.__getitem__ = spoilt
from ctmr.cli import main
main()
"""


def test_nan_in_one_process_ends_all_with_6(file, tiny_data, run, tmp_path):
    program = tmp_path / "spoilt.py"
    program.write_text(SPOILT)
    words = (tiny_data, "--config", file)
    (first, said), (second, silent) = by_hand(run, words, words, start=[sys.executable, program])
    assert (first, second) == (6, 6), said + silent
    (line,) = errors_in(said)
    assert line.startswith("error[E600]")
    assert errors_in(silent) == []
    assert (run / "diverged_step_4.json").exists()


def test_processes_of_different_settings_end_before_the_first_step(file, tiny_data, run):
    words = (tiny_data, "--config", file)
    (first, said), (second, silent) = by_hand(run, words, (*words, "--set", "loss.cycle=5"))
    assert (first, second) == (9, 9), said + silent
    (line,) = errors_in(said)
    assert "loss.cycle 4.0 and 5.0" in line
    assert errors_in(silent) == []
    assert not (run / "config.yaml").exists()


def test_processes_of_different_data_end_before_the_first_step(file, tiny_data, tmp_path, run):
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    next((other / "trainA").glob("*.png")).unlink()
    more = ("--config", file)
    (first, said), (second, silent) = by_hand(run, (tiny_data, *more), (other, *more))
    assert (first, second) == (9, 9), said + silent
    (line,) = errors_in(said)
    assert "differ: data" in line
    assert errors_in(silent) == []
    assert not (run / "config.yaml").exists()


SLOW = """
import time
from datetime import timedelta
import torch.distributed as dist
from torch.distributed import constants, distributed_c10d
from ctmr.training import processes
from ctmr.training.validation import Selection
limit = timedelta(seconds=4)
constants.default_pg_timeout = distributed_c10d.default_pg_timeout = limit
processes.COME_WITHIN = timedelta(seconds=60)
evaluate = Selection.evaluate
def slow(self, state, about):
    if state.step:
        time.sleep(10)
    return evaluate(self, state, about)
Selection.evaluate = slow
from ctmr.cli import main
main()
"""


def test_evaluation_may_take_longer_than_the_time_limit_of_a_group(file, tiny_data, run, tmp_path):
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    words = [*torchrun()[:-2], str(program)]
    more = ("--config", file, "--steps", 4)
    with started(words, tiny_data, run, *more) as process:
        code, errors = ended(process)
    assert code == 0, errors
    assert json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["step"] == 4


# Two machines, which are two network namespaces


@pytest.fixture
def machines():
    """The words that run a program on each of two machines, joined by a cable; the first has 10.77.0.1."""
    names = [f"ctmr{os.getpid()}{end}" for end in "ab"]
    cable = [f"v{os.getpid()}{end}" for end in "ab"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)

    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and iproute2")
    if (made := ip("netns", "add", names[0])).returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    ip("netns", "add", names[1])
    ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
    for number, (name, end) in enumerate(zip(names, cable, strict=True), 1):
        ip("link", "set", end, "netns", name)
        ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", end)
        ip("-n", name, "link", "set", end, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield [
        ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={end}"]
        for name, end in zip(names, cable, strict=True)
    ]
    for name in names:
        ip("netns", "del", name)


def on_machines(machines, data, run, *more):
    port = free_port()
    for number, machine in enumerate(machines):
        words = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "2",
            "--node-rank",
            number,
        ]
        words += ["--nproc-per-node", "1", "--master-addr", "10.77.0.1", "--master-port", port]
        yield started([*machine, *words, "-m", "ctmr"], data, run, *more)


def test_two_machines_end_like_two_processes_of_one(machines, file, tiny_data, run, reference):
    both = [*on_machines(machines, tiny_data, run, "--config", file)]
    for process in both:
        code, errors = ended(process)
        assert code == 0, errors
    assert digest(run) == reference


@pytest.mark.parametrize("lost", [0, 1])
def test_machine_that_is_lost_is_named_on_the_other(machines, file, tiny_data, run, lost):
    both = [*on_machines(machines, tiny_data, run, "--config", file, "--steps", 4000)]
    await_step(both[0], run, 3)
    os.kill(ranks_of(run)[lost], signal.SIGKILL)
    both[lost].kill()
    began = time.monotonic()
    code, errors = ended(both[1 - lost], 60)
    assert time.monotonic() - began < 60
    assert code == 1, errors
    (line,) = errors_in(errors)
    assert f"process {lost} of 2 on {socket.gethostname()}" in line
    assert "SIGKILL" in line
    both[lost].communicate(timeout=20)
    assert gone(run, 5)
