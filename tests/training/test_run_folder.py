import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from ctmr.config import PRESETS
from ctmr.errors import OutputError, UsageError
from ctmr.system.files import read_log
from ctmr.training.run_folder import RunFolder
from ctmr.training.signals import StopSignals

HOLDER = """
import sys, time
from pathlib import Path
from ctmr.training.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


# Lock


def test_lock_makes_the_folder_and_says_who_holds_it(folder):
    with folder.locked():
        assert (folder.path / "run.lock").read_text().startswith(f"pid {os.getpid()} on ")


def test_lock_is_held_by_one_at_a_time_and_says_by_whom(folder):
    with folder.locked():
        holder = rf"pid {os.getpid()} on "
        with (
            pytest.raises(OutputError, match=rf"another process is training in it \({holder}"),
            RunFolder(folder.path).locked(),
        ):
            pass
    with folder.locked():
        pass


def test_lock_is_free_again_after_an_error(folder):
    def fail():
        with folder.locked():
            raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        fail()
    with folder.locked():
        pass


def test_lock_of_a_killed_process_is_free_again(folder):
    """The kernel lets go of it: there is no stale lock (faults.md, R19)."""
    command = [sys.executable, "-c", HOLDER, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            with pytest.raises(OutputError, match=f"pid {process.pid} on "), folder.locked():
                pass
        finally:
            process.kill()
    with folder.locked():
        pass


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_run_that_cannot_be_a_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write there .*Fix: choose another --out"):  # noqa: SIM117
        with RunFolder(tmp_path / name).locked():
            pass


def test_half_written_files_of_a_killed_process_are_removed(folder):
    for place in (folder.path, folder.checkpoints, folder.samples):
        place.mkdir(parents=True, exist_ok=True)
        (place / ".0123456789abcdef.tmp").write_text("half")
        (place / "whole.txt").write_text("whole")
    with folder.locked():
        pass
    left = sorted(path.name for path in folder.path.rglob("*") if path.is_file())
    assert left == ["run.lock", "whole.txt", "whole.txt", "whole.txt"]


def test_half_written_folders_of_a_killed_process_are_removed(folder):
    half = folder.path / ".0123456789abcdef.new.tmp"
    half.mkdir(parents=True)
    (half / "model.json").write_text("half")
    with folder.locked():
        assert not half.exists()


@pytest.mark.parametrize("name", ["model", "best"])
def test_model_that_a_killed_process_had_set_aside_is_brought_back(folder, name):
    old = folder.path / f".{name}.old"
    old.mkdir(parents=True)
    (old / "model.json").write_text("whole")
    with folder.locked():
        assert (folder.path / name / "model.json").read_text() == "whole"
        assert not old.exists()


@pytest.mark.parametrize(("number", "refused"), [(errno.ENOLCK, False), (errno.EIO, True)])
def test_file_system_without_locks_is_warned_of_and_a_failing_one_refused(
    folder, monkeypatch, caplog, number, refused
):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    if refused:
        with pytest.raises(OutputError, match=r"run\.lock: cannot lock it"), folder.locked():
            pass
    else:
        with folder.locked():
            pass
        assert "no locks there" in caplog.text


# Configuration


@pytest.mark.parametrize("name", ["run.lock", "log.jsonl"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_an_earlier_run_is_not_trained_over(folder, name, overwrite):
    folder.require_new()
    folder.path.mkdir()
    folder.require_new()
    for each in ("config.yaml", name):
        (folder.path / each).write_text("")
    with pytest.raises(UsageError, match=r"already holds a run\. Fix: add --resume"):
        folder.require_new(overwrite=overwrite)


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "report.html", "losses_D_ct.png"])
def test_file_of_others_in_the_place_of_a_runs_is_replaced_only_if_asked_for(folder, name):
    folder.path.mkdir()
    (folder.path / "notes.txt").write_text("in nobody's way")
    (folder.path / name).write_text("of others")
    with pytest.raises(OutputError, match=f"{name}: .*another, which is kept"):
        folder.require_new()
    folder.require_new(overwrite=True)


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl"])
def test_input_in_the_place_of_a_runs_file_is_never_replaced(folder, name):
    folder.path.mkdir()
    (folder.path / name).write_text("read by the training")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=f"{name}: the output would overwrite an input"):
            folder.require_new(overwrite=overwrite, inputs=[folder.path / name])


def test_config_of_others_is_no_run_once_the_folder_is_locked(folder):
    folder.path.mkdir()
    folder.config.write_text("of others")
    folder.require_new(overwrite=True)
    with folder.locked():
        folder.require_new(overwrite=True)
        folder.write_config(PRESETS["small"])  # as another process would have
        with pytest.raises(UsageError, match="already holds a run"):
            folder.require_new(overwrite=True)


def test_nothing_of_others_is_left_among_the_files_of_a_new_run(folder):
    folder.path.mkdir()
    for name in ("log.jsonl", "overlap.json", "evaluations.jsonl", "report.html", "notes.txt"):
        (folder.path / name).write_text("of others")
    folder.require_new(overwrite=True)
    folder.remove_others()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]
    (folder.path / "overlap.json").mkdir()
    with pytest.raises(OutputError, match=r"overlap\.json: cannot write it"):
        folder.remove_others()


@pytest.mark.parametrize("name", ["model", "best", "samples", "checkpoints", "evaluation"])
def test_folder_of_others_in_the_place_of_a_runs_is_never_replaced(folder, name):
    (folder.path / name).mkdir(parents=True)
    folder.require_new()
    (folder.path / name / "notes.txt").write_text("of others")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="found files of others there"):
            folder.require_new(overwrite=overwrite)


def test_first_checkpoint_of_a_killed_start_is_no_hindrance_but_one_that_was_changed_is(folder):
    content = b"a checkpoint"
    place = folder.path / "checkpoints"
    place.mkdir(parents=True)
    (folder.path / "run.lock").write_text("pid 7 on a-machine\n")
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = place / f"step_000000000.{digest}.ckpt"
    path.write_bytes(content)
    folder.require_new()
    path.write_bytes(b"another")
    with pytest.raises(OutputError, match="found files of others there"):
        folder.require_new()


def test_run_lock_of_others_is_kept(folder):
    folder.path.mkdir()
    (folder.path / "run.lock").write_text("important")
    with pytest.raises(OutputError, match=r"run\.lock: expected the lock of a run"):
        folder.require_new(overwrite=True)
    with (
        pytest.raises(OutputError, match=r"run\.lock: expected the lock of a run"),
        folder.locked(),
    ):
        pass
    assert (folder.path / "run.lock").read_text() == "important"


def test_configuration_comes_back(folder, tiny_config):
    folder.write_config(tiny_config)
    assert folder.read_config() == tiny_config


def test_run_without_a_configuration_is_refused(folder):
    with pytest.raises(UsageError, match=r"expected a run with config\.yaml, found none"):
        folder.read_config()


@pytest.mark.parametrize(
    ("text", "why"), [("a: [", "not plain YAML"), ("seed: 1\n", "field required")]
)
def test_damaged_configuration_is_refused_with_its_name(folder, text, why):
    folder.path.mkdir()
    folder.config.write_text(text)
    with pytest.raises(UsageError, match=rf"config\.yaml: .*{why}"):
        folder.read_config()


# Log


def test_log_has_a_line_for_each_row(folder):
    folder.path.mkdir()
    rows = [{"step": n, "loss_g": 0.1 * n, "lr": 2e-4} for n in (1, 2, 3)]
    for row in rows:
        folder.append_log(row)
    assert read_log(folder.log) == rows
    assert len(folder.log.read_text().splitlines()) == 3


def test_log_that_is_not_there_has_no_rows(folder):
    assert read_log(folder.log) == []


@pytest.mark.parametrize(
    "torn",
    ['{"step": 3, "loss', '{"step": 3}{"step"', "\x00" * 20, "[1, 2]", '"step"', "{}", "", "ÿ"],
)
def test_torn_line_is_skipped(folder, torn):
    folder.path.mkdir()
    folder.log.write_text(f'{{"step": 1}}\n{torn}\n{{"step": 4}}\n', encoding="latin-1")
    assert read_log(folder.log) == [{"step": 1}, {"step": 4}]


def test_log_cut_at_a_step_loses_later_and_torn_lines(folder):
    folder.path.mkdir()
    lines = [json.dumps({"step": n, "loss_g": n / 7}) for n in (2, 4, 6)]
    folder.log.write_text("\n".join(lines) + '\n{"step": 7, "lo')
    folder.cut_log(4)
    assert folder.log.read_text() == "\n".join(lines[:2]) + "\n"
    folder.append_log({"step": 5})
    assert [row["step"] for row in read_log(folder.log)] == [2, 4, 5]


def test_log_that_cannot_be_written_does_not_end_a_training(folder):
    folder.log.mkdir(parents=True)
    folder.append_log({"step": 1})


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_noted_and_ends_nothing(number):
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number


def test_second_interrupt_interrupts_at_once():
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_second_termination_is_still_only_noted():
    with StopSignals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_hangup_is_noted_unless_it_is_ignored_as_under_nohup():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received == signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_request_for_a_checkpoint_is_taken_once():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received is None
        assert [signals.take_request(), signals.take_request()] == [True, False]


def test_folder_that_was_renamed_or_replaced_is_not_there(folder):
    with folder.locked():
        assert folder.is_there()
        folder.path.rename(folder.path.with_name("away"))
        assert not folder.is_there()
        folder.path.mkdir()
        assert not folder.is_there()


def test_handlers_of_the_caller_are_back_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with contextlib.suppress(ValueError), StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_the_callers_signals_stay():
    """Python lets the main thread alone set handlers; a training in another one is not stopped by them."""
    seen = []

    def enter():
        with StopSignals() as signals:
            seen.append(signals.received)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]
    assert signal.getsignal(signal.SIGINT) is before
