"""What a training leaves behind when something fails: nothing good is lost, nothing bad is kept."""

import errno
import json
import logging
import os
import shutil
import signal

import pytest
import torch

from ctmr.config import overlaid
from ctmr.cyclegan.state import new_state
from ctmr.errors import DataError, DivergedError, OutputError, Stopped
from ctmr.models.folder import read_model
from ctmr.system.files import read_log
from ctmr.training import checkpoint
from ctmr.training.checkpoint import checkpoints, resume
from ctmr.training.train import train

pytestmark = pytest.mark.usefixtures("quick_records")


@pytest.fixture(scope="module")
def config(tiny_config):
    """Six steps with a checkpoint and a grid at every second, and evaluations at 0, 4 and 6."""
    settings = ["checkpoint_every=2", "evaluate_every=4", "sample_every=2"]
    return overlaid(tiny_config, [f"train.{setting}" for setting in settings])


@pytest.fixture(scope="module")
def whole(config, tiny_data, tmp_path_factory):
    """The run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config, tiny_data, run)
    return run


def steps(run):
    return [int(path.name[5:14]) for path in checkpoints(run / "checkpoints")]


def newest(run):
    return checkpoints(run / "checkpoints")[0].read_bytes()


def evaluations(run):
    return (run / "evaluations.jsonl").read_text()


def at_step(step, act):
    """An observer that does something once."""

    def observe(row, _):
        if row["step"] == step:
            act()

    return observe


def fail(*_, **__):
    raise OutputError("cannot write it (No space left on device)", file="there", fix="free space")


# NaN (faults.md, R10)


@pytest.fixture
def spoilt(monkeypatch):
    """From the fourth step on, a weight is NaN although all losses are finite."""
    from ctmr.training import train as training

    update = training.update_average

    def spoil(state, decay):
        update(state, decay)
        if state.step >= 4:
            with torch.no_grad():
                state.model.F.body[1].weight[0, 0, 0, 0] = float("nan")
            for averaged in state.ema.values():
                next(averaged.parameters()).fill_(float("nan"))

    monkeypatch.setattr(training, "update_average", spoil)


def test_weights_that_are_not_finite_end_an_evaluation_step_with_6_and_nothing_is_overwritten(
    config, tiny_data, tmp_path, spoilt
):
    with pytest.raises(DivergedError, match=r"NaN or infinity in .* at step 4") as caught:
        train(config, tiny_data, tmp_path / "run")
    assert caught.value.exit_code == 6
    assert steps(tmp_path / "run") == [2, 0]
    assert read_model(tmp_path / "run").card.provenance["steps"] == 2
    assert read_model(tmp_path / "run" / "best").card.provenance["steps"] == 0
    assert [row["step"] for row in read_log(tmp_path / "run" / "evaluations.jsonl")] == [0]
    assert (tmp_path / "run" / "diverged_step_4.json").exists()


def test_gradient_that_is_not_finite_ends_the_same_step(config, tiny_data, tmp_path, monkeypatch):
    from ctmr.training import train as training

    step = training.train_step

    def spoil(state, *arguments, **options):
        found = step(state, *arguments, **options)
        return found | {"grad_d": torch.tensor(float("inf"))} if state.step == 3 else found

    monkeypatch.setattr(training, "train_step", spoil)
    run = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"training diverged: step 3, .*grad_d inf"):
        train(config, tiny_data, run)
    assert steps(run) == [2, 0]
    content = json.loads((run / "diverged_step_3.json").read_text())
    assert content["step"] == 3
    assert content["grad_d"] == "inf"
    assert content["lr"] == config.train.learning_rate
    (image,) = content["images"]
    assert image["ct"].startswith("ct_")
    assert image["mr"].startswith("mr_")


def test_absurd_learning_rate_leaves_finite_checkpoints_only(config, tiny_data, tmp_path):
    wild = overlaid(config, ["train.learning_rate=1", "train.ema=0", "train.steps=12"])
    run = tmp_path / "run"
    try:
        train(wild, tiny_data, run)
    except DivergedError:
        assert list(run.glob("diverged_step_*.json"))
    for path in checkpoints(run / "checkpoints"):
        state = new_state(wild, torch.device("cpu"))
        resume(path.parent, state)
        assert all(torch.isfinite(value).all() for value in state.tensors().values())


# An evaluation that fails, or a process that dies between the checkpoint and what follows


def test_error_in_an_evaluation_comes_after_the_checkpoint(
    config, tiny_data, tiny_pairs, whole, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    shutil.copytree(tiny_pairs, data / "val")
    lost = data / "val" / "mr" / "head00_slice00.png"
    away = tmp_path / lost.name
    run = tmp_path / "run"
    with pytest.raises(DataError, match=lost.name):
        train(config, data, run, observer=at_step(3, lambda: lost.rename(away)))
    assert steps(run) == [4, 2]
    away.rename(lost)
    train(config, data, run, resume=True)
    assert newest(run) == newest(whole)
    assert [row["step"] for row in read_log(run / "evaluations.jsonl")] == [0, 4, 6]


@pytest.mark.parametrize("what", ["evaluate", "draw", "write_config"])
def test_run_that_was_killed_before_its_first_step_goes_on(
    config, tiny_data, tiny_run, tmp_path, monkeypatch, what
):
    """With the weights of `init` too, which are in the checkpoint of step 0."""

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    place = {
        "evaluate": "ctmr.training.validation.Selection.evaluate",
        "draw": "ctmr.training.samples.Samples.draw",
        "write_config": "ctmr.training.run_folder.RunFolder.write_config",
    }[what]
    monkeypatch.setattr(place, killed)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(overlaid(config, ["seed=9"]), tiny_data, run, init=tiny_run)
    monkeypatch.undo()
    monkeypatch.setattr("ctmr.training.validation.MAX_SLICES", 4)
    if what == "write_config":  # no run yet: it is started anew, and nothing is left of the first
        train(overlaid(config, ["seed=9"]), tiny_data, run, init=tiny_run, stop_after=1)
        assert steps(run) == [1, 0]
    else:
        summary = train(overlaid(config, ["seed=9"]), tiny_data, run, resume=True, stop_after=1)
        assert summary.resumed_from == 0
    train(overlaid(config, ["seed=9"]), tiny_data, tmp_path / "b", init=tiny_run, stop_after=1)
    assert newest(run) == newest(tmp_path / "b")


@pytest.mark.parametrize("what", ["evaluate", "save_model", "draw"])
@pytest.mark.parametrize("step", [4, 6])
def test_what_a_killed_process_had_no_time_for_is_done_when_the_run_goes_on(
    config, tiny_data, whole, tmp_path, monkeypatch, what, step
):
    class Killed(BaseException):
        pass

    place = {
        "evaluate": "ctmr.training.validation.Selection.evaluate",
        "save_model": "ctmr.training.recorder.save_model",
        "draw": "ctmr.training.samples.Samples.draw",
    }[what]

    def kill():
        def killed(*_):
            raise Killed

        monkeypatch.setattr(place, killed)

    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(config, tiny_data, run, observer=at_step(step, kill))
    assert steps(run)[0] == step
    monkeypatch.undo()
    train(config, tiny_data, run, resume=True)
    assert newest(run) == newest(whole)
    assert evaluations(run) == evaluations(whole)
    for name in ("model", "best"):
        cards = [read_model(each / name).card for each in (run, whole)]
        assert cards[0].files == cards[1].files
    grids = [sorted(path.name for path in (each / "samples").iterdir()) for each in (run, whole)]
    assert grids[0] == grids[1]


# What may fail


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("ctmr.training.samples.Samples.draw", "sample grid"),
        ("ctmr.training.recorder.write_report", "report"),
        ("ctmr.reporting.figures.save", "curves of its evaluations"),
    ],
)
def test_pictures_and_pages_that_cannot_be_written_are_a_warning_and_no_end(
    config, tiny_data, whole, tmp_path, monkeypatch, caplog, place, what
):
    monkeypatch.setattr(place, fail)
    with caplog.at_level(logging.WARNING):
        train(config, tiny_data, tmp_path / "run")
    assert newest(tmp_path / "run") == newest(whole)
    assert evaluations(tmp_path / "run") == evaluations(whole)
    assert f"the training goes on without its {what}" in caplog.text.replace(
        "the curves", "its curves"
    )


def test_warning_of_what_fails_at_every_step_comes_once(
    config, tiny_data, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("ctmr.training.samples.Samples.draw", fail)
    with caplog.at_level(logging.WARNING):
        train(config, tiny_data, tmp_path / "run")
    assert caplog.text.count("without its sample grid") == 1


def test_lines_of_other_forms_in_log_and_evaluations_are_skipped(
    config, tiny_data, whole, tmp_path
):
    run = tmp_path / "run"
    train(config, tiny_data, run, stop_after=4)
    for name in ("log.jsonl", "evaluations.jsonl"):
        with (run / name).open("a") as stream:
            stream.write('{"step": "7"}\n{"step": 2}\n{"step": null}\n{"step": true}\n{"ste')
    train(config, tiny_data, run, resume=True)
    assert newest(run) == newest(whole)
    assert [row["step"] for row in read_log(run / "evaluations.jsonl")] == [0, 4, 6]


# A folder that is gone (R7), space and places (R5, R6)


@pytest.mark.parametrize("replaced", [False, True])
def test_state_is_rescued_when_the_run_folder_is_gone(
    config, tiny_data, whole, tmp_path, monkeypatch, replaced
):
    run, away = tmp_path / "run", tmp_path / "away"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def remove():
        run.rename(away)
        if replaced:
            run.mkdir()

    with pytest.raises(OutputError, match="the run folder is gone; the state of step 3") as caught:
        train(config, tiny_data, run, observer=at_step(3, remove))
    assert caught.value.exit_code == 4
    assert not run.exists() or list(run.iterdir()) == []
    (saved,) = (tmp_path / "temporary").rglob("*.ckpt")
    assert str(saved) in caught.value.what
    shutil.rmtree(run, ignore_errors=True)
    away.rename(run)
    shutil.move(saved, run / "checkpoints")
    assert train(config, tiny_data, run, resume=True).resumed_from == 3
    assert newest(run) == newest(whole)


def test_too_little_space_is_refused_before_data_are_prepared(
    config, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr("ctmr.training.start.prepare", lambda *_, **__: pytest.fail("prepared"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"expected \d+ MB of free space, found 0 MB"):
        train(config, tiny_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_space_that_is_asked_for_at_the_start_is_that_of_the_last_checkpoint(config, whole):
    state = new_state(config, torch.device("cpu"))
    size = len(newest(whole)) * checkpoint.FREE_SPACE
    assert checkpoint.space_needed(state) == pytest.approx(size, rel=0.15)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_place_that_cannot_be_written_is_refused_before_data_are_prepared(
    config, tiny_data, tmp_path, monkeypatch, number
):
    monkeypatch.setattr("ctmr.training.start.prepare", lambda *_, **__: pytest.fail("prepared"))

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=rf"run: cannot write it \({os.strerror(number)}\)"):
        train(config, tiny_data, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_bad_images_are_refused_before_there_is_a_run_folder(config, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    for n in range(3):
        (tmp_path / "data" / "trainA" / f"ct_0{n}.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        train(config, tmp_path / "data", tmp_path / "run")
    assert all(f"ct_0{n}.png" in str(caught.value) for n in range(3))
    assert not (tmp_path / "run").exists()


# Signals (R8)


def send(number):
    return lambda: os.kill(os.getpid(), number)


def test_request_for_a_checkpoint_writes_one_and_the_training_goes_on(
    config, tiny_data, whole, tmp_path
):
    seen = []

    def observe(row, _):
        if row["step"] == 3:
            send(signal.SIGUSR1)()
        seen.append(steps(tmp_path / "run"))

    train(config, tiny_data, tmp_path / "run", observer=observe)
    assert seen[2] == [2, 0]
    assert seen[3] == [3, 2]
    assert seen[4] == [4, 3]
    assert newest(tmp_path / "run") == newest(whole)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_while_data_are_prepared_stops_at_once(
    config, tiny_data, tmp_path, monkeypatch, number, code
):
    monkeypatch.setattr("ctmr.training.start.prepare", lambda *_, **__: send(number)())
    with pytest.raises(
        Stopped, match=rf"stopped before its first step by signal {number}"
    ) as caught:
        train(config, tiny_data, tmp_path / "run")
    assert caught.value.exit_code == code
    assert not (tmp_path / "run").exists()


def test_signal_during_an_evaluation_is_answered_at_its_end(
    config, tiny_data, whole, tmp_path, monkeypatch
):
    from ctmr.training.validation import Selection

    evaluate = Selection.evaluate

    def interrupted(self, state, about):
        if state.step == 4:
            send(signal.SIGHUP)()
        return evaluate(self, state, about)

    monkeypatch.setattr(Selection, "evaluate", interrupted)
    run = tmp_path / "run"
    with pytest.raises(Stopped, match="stopped at step 4 of 6 by signal 1") as caught:
        train(config, tiny_data, run)
    assert caught.value.exit_code == 129
    train(config, tiny_data, run, resume=True)
    assert newest(run) == newest(whole)


def test_second_interrupt_in_the_middle_of_a_save_leaves_nothing_corrupt(
    config, tiny_data, whole, tmp_path, monkeypatch
):
    fsync = os.fsync
    calls = []

    def interrupt(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            send(signal.SIGINT)()
            send(signal.SIGINT)()
        fsync(descriptor)

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(
            config,
            tiny_data,
            run,
            observer=at_step(4, lambda: monkeypatch.setattr(os, "fsync", interrupt)),
        )
    monkeypatch.undo()
    train(config, tiny_data, run, resume=True)
    assert newest(run) == newest(whole)
    assert evaluations(run) == evaluations(whole)


def test_stop_whose_checkpoint_cannot_be_written_ends_with_75(
    config, tiny_data, tmp_path, monkeypatch
):
    def stop():
        monkeypatch.setattr("ctmr.training.checkpoint.write_bytes", fail)
        send(signal.SIGTERM)()

    run = tmp_path / "run"
    with pytest.raises(
        Stopped, match=r"stopped at step 3 by signal 15 without a checkpoint .*No space left"
    ) as caught:
        train(config, tiny_data, run, observer=at_step(3, stop))
    assert caught.value.exit_code == 75
    assert steps(run) == [2, 0]


# Loader workers that end (R12)


def test_worker_that_a_signal_took_along_does_not_keep_the_checkpoint_from_being_written(
    config, tiny_data, whole, tmp_path, monkeypatch
):
    from ctmr.errors import ResourceError
    from ctmr.training import train as training

    loader = training.loader

    def dying(*arguments, **options):
        for n, batch in enumerate(loader(*arguments, **options)):
            if n == 3:
                send(signal.SIGTERM)()
                raise ResourceError("the loader worker 7 died before step 4", fix="none")
            yield batch

    monkeypatch.setattr(training, "loader", dying)
    run = tmp_path / "run"
    with pytest.raises(Stopped, match="stopped at step 3 of 6 by signal 15"):
        train(config, tiny_data, run)
    assert steps(run) == [3, 2]
    monkeypatch.undo()
    train(config, tiny_data, run, resume=True)
    assert newest(run) == newest(whole)


def test_leaks_of_the_data_are_in_the_run_and_its_report(tiny_config, tiny_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    shutil.copy(data / "trainA" / "ct_03.png", data / "testA" / "again.png")
    train(tiny_config, data, tmp_path / "run", stop_after=1)
    overlaps = json.loads((tmp_path / "run" / "overlap.json").read_text())
    assert overlaps == [
        {"train": "trainA/ct_03.png", "test": "testA/again.png", "why": "identical"}
    ]
    assert "testA/again.png" in (tmp_path / "run" / "report.html").read_text()
    train(tiny_config, tiny_data, tmp_path / "clean", stop_after=1)
    assert not (tmp_path / "clean" / "overlap.json").exists()
