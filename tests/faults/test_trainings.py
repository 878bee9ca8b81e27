"""Real trainings that are killed, starved and interrupted (faults.md R1, R5, R6, R8, R9, R12, R18, R19)."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ctmr.config import config_yaml, overlaid
from ctmr.system.files import read_log
from ctmr.training.checkpoint import checkpoints, is_sound
from ctmr.training.distributed import Runtime
from ctmr.training.train import train
from support.runs import digest

CLI = "from ctmr.cli import main; main()"
STEPS = 40


@pytest.fixture(scope="module")
def config(tiny_config):
    settings = ["steps=40", "checkpoint_every=4", "evaluate_every=20", "sample_every=20"]
    return overlaid(tiny_config, [f"train.{setting}" for setting in settings])


@pytest.fixture(scope="module")
def reference(config, tiny_data, tmp_path_factory):
    """The digest of the run that was never stopped."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train(config, tiny_data, run)
    return digest(run)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def command(config, tiny_data, run, tmp_path):
    """A function that gives the arguments of the training; `--resume` where there is a run."""
    file = tmp_path / "config.yaml"
    file.write_text(config_yaml(config))

    def arguments(*more):
        start = ["--resume"] if (run / "config.yaml").exists() else ["--config", file]
        return ["train", tiny_data, "--out", run, *start, *more]

    return arguments


def started(arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", CLI, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def await_step(process, run, step):
    deadline = time.monotonic() + 120
    while max((row["step"] for row in read_log(run / "log.jsonl")), default=0) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Killed at any moment


def test_run_that_is_killed_again_and_again_ends_like_the_one_never_killed(command, reference, run):
    """At random moments, in start-up too, with other numbers of workers each time."""
    rng = random.Random(0)
    for attempt in range(30):
        workers = rng.choice([0, 0, 1, 2])
        with started(command("--set", f"train.workers={workers}")) as process:
            try:
                process.wait(rng.uniform(1, 9 + attempt))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
            output = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL), output
        for path in checkpoints(run / "checkpoints"):
            assert is_sound(path)
        if process.returncode == 0:
            break
    assert digest(run) == reference
    assert [row["step"] for row in read_log(run / "log.jsonl")] == list(range(1, STEPS + 1))
    assert [row["step"] for row in read_log(run / "evaluations.jsonl")] == [0, 20, 40]


def test_signal_to_the_whole_group_at_random_moments_leaves_a_checkpoint_and_no_process(
    command, reference, run, left_of
):
    rng = random.Random(0)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        with started(command("--set", "train.workers=2")) as process:
            step = max((row["step"] for row in read_log(run / "log.jsonl")), default=0)
            await_step(process, run, min(step + rng.randrange(2, 8), STEPS - 2))
            os.killpg(process.pid, number)
            output = process.communicate(timeout=60)[1]
        assert process.returncode == code, output
        if number != signal.SIGHUP:  # which ends Python's resource tracker with one
            assert "Traceback" not in output
        assert left_of(process.pid, 5) == {}
        last = read_log(run / "log.jsonl")[-1]["step"]
        assert checkpoints(run / "checkpoints")[0].name.startswith(f"step_{last:09d}.")
    with started(command()) as process:
        assert process.wait(120) == 0
    assert digest(run) == reference


def test_stopped_and_continued_process_notices_nothing(command, reference, run):
    """No timeout fires (R9)."""
    with started(command("--set", "train.workers=1")) as process:
        await_step(process, run, 5)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(6)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(120) == 0, process.communicate()
    assert digest(run) == reference


# Workers


def workers_of(session, processes_of):
    """Numbers of the loader workers: those that the fork server made."""
    return [pid for pid, each in processes_of(session, 0).items() if "forkserver" in each][1:]


def test_dead_worker_ends_with_7_names_its_number_and_leaves_no_process(
    command, reference, run, left_of
):
    with started(
        command("--set", "train.workers=2", "--set", "train.checkpoint_every=1")
    ) as process:
        await_step(process, run, 3)
        dead = workers_of(process.pid, left_of)[0]
        os.kill(dead, signal.SIGKILL)
        output = process.communicate(timeout=60)[1]
    assert process.returncode == 7, output
    assert re.search(r"error\[E700\]: the loader worker \d+ died before step \d+", output)
    assert str(dead) in output
    assert left_of(process.pid, 5) == {}
    with started(command()) as process:
        assert process.wait(120) == 0
    assert digest(run) == reference


def test_workers_end_within_5_seconds_of_a_killed_training(command, run, left_of):
    with started(command("--set", "train.workers=2")) as process:
        await_step(process, run, 3)
        assert len(workers_of(process.pid, left_of)) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    assert left_of(process.pid, 5) == {}


# Two in one folder


def test_second_training_in_the_folder_ends_with_4_and_the_next_after_a_kill_goes_on(
    command, reference, run, cli
):
    with started(command()) as process:
        await_step(process, run, 5)
        os.kill(process.pid, signal.SIGSTOP)  # it may not end before the second has begun
        for more in ([], ["--resume"]):
            second = cli(*command()[:4], *more)
            assert second.returncode == (4 if more else 2), second.stderr
        assert f"another process is training in it (pid {process.pid} on" in second.stderr
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert cli(*command()).returncode == 0
    assert digest(run) == reference


# Disks and limits


def test_full_disk_ends_with_4_and_the_run_goes_on_elsewhere(
    config, tiny_data, reference, tmpfs, cli, tmp_path
):
    disk = tmpfs("12m")
    file = tmp_path / "config.yaml"
    file.write_text(config_yaml(config))
    run = disk / "run"
    done = cli("train", tiny_data, "--out", run, "--config", file, "--stop-after", 8)
    assert done.returncode == 0, done.stderr
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(bytes(max(0, free - 200_000)))
    done = cli("train", tiny_data, "--out", run, "--resume")
    assert done.returncode == 4, done.stderr
    assert re.search(r"expected [\d.]+ MB of free space, found 0 MB", done.stderr)
    for path in checkpoints(run / "checkpoints"):
        assert is_sound(path)
    shutil.copytree(run, tmp_path / "elsewhere")
    done = cli("train", tiny_data, "--out", tmp_path / "elsewhere", "--resume")
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "elsewhere") == reference


def test_disk_that_fills_up_while_training_ends_with_4_and_whole_checkpoints(
    config, tiny_data, tmpfs, tmp_path
):
    disk = tmpfs("12m")
    file = tmp_path / "config.yaml"
    file.write_text(config_yaml(config))
    run = disk / "run"
    with started(["train", tiny_data, "--out", run, "--config", file]) as process:
        await_step(process, run, 6)
        with (disk / "ballast").open("wb") as stream:
            try:
                while True:
                    stream.write(bytes(100_000))
                    stream.flush()
            except OSError:
                stream = None
        output = process.communicate(timeout=60)[1]
    assert process.returncode == 4, output
    assert output.splitlines()[-1].startswith("error[E400]: ")
    assert "MB free" in output or "bytes are free" in output
    assert all(is_sound(path) for path in checkpoints(run / "checkpoints"))
    (disk / "ballast").unlink()
    with started(["train", tiny_data, "--out", run, "--resume"]) as process:
        assert process.wait(120) == 0


def test_disk_without_inodes_ends_with_4(config, tiny_data, tmpfs, cli, tmp_path):
    disk = tmpfs("12m", inodes=16)
    file = tmp_path / "config.yaml"
    file.write_text(config_yaml(config))
    done = cli("train", tiny_data, "--out", disk / "run", "--config", file)
    assert done.returncode == 4, done.stderr
    assert "No space left on device" in done.stderr


def test_limit_of_the_file_size_ends_with_4(config, tiny_data, cli, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(config_yaml(config))
    done = cli(
        "train",
        tiny_data,
        "--out",
        tmp_path / "run",
        "--config",
        file,
        limits={resource.RLIMIT_FSIZE: 300_000},
        before=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    assert done.returncode == 4, done.stderr
    assert "File too large" in done.stderr
    (first,) = checkpoints(tmp_path / "run" / "checkpoints")  # of step 0, without moments
    assert is_sound(first)


def test_disk_that_is_mounted_for_reading_is_refused_before_data_are_read(tmpfs, cli, tmp_path):
    disk = tmpfs("1m")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=20)
    done = cli("train", tmp_path / "no data", "--out", disk / "run", "--preset", "small")
    assert done.returncode == 4, done.stderr
    assert "run: cannot write it (Read-only file system)" in done.stderr


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_folder_of_another_user_is_refused(config, tiny_data, inject, mode):
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    Runtime("float32")  # another user cannot import what it needs

    def work():
        os.seteuid(65534)
        train(config, tiny_data, place / "run")

    with tempfile.TemporaryDirectory() as folder:  # every folder above it is open to all
        place = Path(folder)
        place.chmod(mode)
        result = inject(work, "uname", "error=EIO", 1000)
        assert result.code == 4, result.message
        assert "run: cannot write it (Permission denied)" in result.message
        assert list(place.iterdir()) == []


def test_too_little_memory_ends_with_7_and_numbers(config, tiny_data, cli, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(config_yaml(overlaid(config, ["train.batch_size=1024", "network.filters=64"])))
    done = cli(
        *("train", tiny_data, "--out", tmp_path / "run", "--config", file),
        limits={resource.RLIMIT_AS: 6 * 2**30},
    )
    assert done.returncode == 7, done.stderr
    assert re.search(r"error\[E700\]: out of memory: [\d,]+ bytes are free", done.stderr)
    assert "Traceback" not in done.stderr
