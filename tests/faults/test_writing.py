"""Every system call of a write fails or is the last: what was there is whole, or what is new is (faults.md R2-R4)."""

import hashlib
import json
import re
import shutil

import pytest
import torch

from ctmr.cyclegan.state import new_state
from ctmr.errors import OutputError
from ctmr.models.folder import read_model, save_model
from ctmr.models.lookup import model_folder
from ctmr.system.files import replacing_folder, set_aside, write_json, write_text
from ctmr.training.checkpoint import checkpoints, resume, save
from ctmr.training.run_folder import RunFolder

ABOUT = {"config": {}, "data": "", "exact": {}}
CALLS = "openat,write,fsync,rename,renameat2,mkdir,unlink,unlinkat,rmdir"
PASSING = ("error=EIO", "error=ENOSPC", "error=EDQUOT", "error=ENOMEM", "error=EINTR")
STAYING = ("error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EROFS", "error=EACCES")
KILL = "signal=SIGKILL"


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def json_file(tmp_path):
    place = tmp_path / "out" / "a.json"
    write_json(place, {"state": "old"})
    return place


def state_of(place):
    return json.loads(place.read_text())["state"]


# One file


@pytest.mark.parametrize("call", CALLS.split(",")[:4])
def test_json_killed_at_any_call_is_old_or_new(sweep, json_file, call):
    def check(_):
        assert state_of(json_file) in ("old", "new")
        write_json(json_file, {"state": "old"})

    assert sweep(lambda: write_json(json_file, {"state": "new"}), call, KILL, check) >= 1


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("error", PASSING)
def test_json_is_written_in_spite_of_an_error_that_passes(sweep, json_file, call, error):
    def check(result):
        assert result.code == 0, result.message
        assert state_of(json_file) == "new"
        assert hidden(json_file.parent) == []
        write_json(json_file, {"state": "old"})

    sweep(lambda: write_json(json_file, {"state": "new"}), call, error, check)


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("error", STAYING)
def test_error_that_stays_ends_with_4_and_leaves_the_old_file(inject, json_file, call, error):
    result = inject(lambda: write_json(json_file, {"state": "new"}), call, error, "1+")
    assert result.fired
    assert result.code == OutputError.exit_code, result.message
    assert (
        "a.json: cannot write it" in result.message or "cannot write its 20 bytes" in result.message
    )
    assert state_of(json_file) == "old"
    assert hidden(json_file.parent) == []


def test_text_of_many_blocks_killed_at_any_write_is_old_or_new(sweep, tmp_path):
    place = tmp_path / "a.txt"
    write_text(place, "old")

    def check(_):
        assert place.read_text() in ("old", "new" * 100_000)
        write_text(place, "old")

    sweep(lambda: write_text(place, "new" * 100_000), "write", KILL, check)


def test_order_is_write_sync_rename_sync_of_the_folder_and_only_then_unlink(inject, saved, trained):
    trained.step = 7
    calls = "write,fsync,rename,unlink"
    trace = inject(lambda: save(saved, trained, ABOUT), calls, "error=EIO", 1000).trace
    place = re.escape(str(saved))
    of_ours = [line for line in trace.splitlines() if str(saved) in line]
    order = [
        next(
            name
            for name, pattern in {
                "write": rf"^write\(\d+<{place}/\.\w+\.tmp>",
                "sync": rf"^fsync\(\d+<{place}/\.\w+\.tmp>",
                "rename": rf'^rename\("{place}/\.\w+\.tmp", "{place}/step_000000007',
                "sync folder": rf"^fsync\(\d+<{place}>",
                "remove old": rf'^unlink\("{place}/step_000000005',
                "temporary": rf'^unlink\("{place}/\.\w+\.tmp"',
            }.items()
            if re.search(pattern, line)
        )
        for line in of_ours
    ]
    once = [name for n, name in enumerate(order) if name not in order[:n]]
    assert once == ["write", "sync", "rename", "sync folder", "temporary", "remove old"]


# A folder


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "out" / "folder"
    write_folder(place, "old")
    return place


def write_folder(place, state):
    with replacing_folder(place) as new:
        for n in range(3):
            write_json(new / f"{n}.json", {"state": state})


def folder_state(place):
    """What all its files say; of a folder that is not there, what was set aside."""
    place = place if place.exists() else set_aside(place)
    files = sorted(place.iterdir())
    assert [file.name for file in files] == ["0.json", "1.json", "2.json"]
    (state,) = {state_of(file) for file in files}
    return state


@pytest.mark.parametrize("call", [*CALLS.split(",")[:4], "renameat2", "mkdir", "unlinkat", "rmdir"])
def test_folder_killed_at_any_call_is_old_or_new_and_there(sweep, folder, call):
    def check(_):
        assert folder.exists()
        assert folder_state(folder) in ("old", "new")
        write_folder(folder, "old")
        for name in hidden(folder.parent):
            shutil.rmtree(folder.parent / name)

    sweep(lambda: write_folder(folder, "new"), call, KILL, check)


def test_folder_killed_at_any_rename_where_there_is_no_exchange_is_old_or_new(
    sweep, folder, monkeypatch
):
    monkeypatch.setattr("ctmr.system.files._exchange", lambda *_: False)

    def check(_):
        assert folder_state(folder) in ("old", "new")
        write_folder(folder, "old")
        assert folder_state(folder) == "old"

    assert sweep(lambda: write_folder(folder, "new"), "rename", KILL, check) == 5


@pytest.mark.parametrize("call", ["mkdir", "renameat2"])
def test_folder_that_cannot_be_written_is_the_old_one(sweep, folder, call):
    def check(result):
        assert result.code in (0, OutputError.exit_code)
        assert folder_state(folder) == ("old" if result.code else "new")
        assert hidden(folder.parent) == []
        write_folder(folder, "old")

    sweep(lambda: write_folder(folder, "new"), call, "error=EIO", check)


# A checkpoint


@pytest.fixture
def trained(tiny_config):
    """A state after a step that changed nothing."""
    state = new_state(tiny_config, torch.device("cpu"))
    for weight in state.model.parameters():
        weight.grad = torch.zeros_like(weight)
    state.optimiser_g.step()
    state.optimiser_d.step()
    state.step = 1
    return state


@pytest.fixture
def saved(trained, tmp_path):
    """A folder with the checkpoints of steps 5 and 6, which differ in the step alone."""
    place = tmp_path / "run" / "checkpoints"
    for trained.step in (5, 6):
        save(place, trained, ABOUT)
    return place


def whole(place):
    """The steps of the checkpoints whose content is that of their name."""
    found = []
    for path in checkpoints(place):
        _, digest, _ = path.name.split(".")
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == digest, path.name
        found.append(int(path.name[5:14]))
    return found


@pytest.mark.parametrize("call", ["openat", "write", "fsync", "rename", "unlink", "statfs"])
def test_checkpoint_killed_at_any_call_leaves_two_whole_ones(sweep, saved, trained, call):
    trained.step = 7

    def check(_):
        assert whole(saved) in ([6, 5], [7, 6], [7, 6, 5])
        with RunFolder(saved.parent).locked():
            assert hidden(saved) == []
        for path in checkpoints(saved):
            path.unlink()
        for trained.step in (5, 6):
            save(saved, trained, ABOUT)
        trained.step = 7

    sweep(lambda: save(saved, trained, ABOUT), call, KILL, check)


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("error", ["error=EIO", "error=ENOSPC"])
def test_checkpoint_that_cannot_be_written_leaves_the_others(inject, saved, trained, call, error):
    trained.step = 7
    result = inject(lambda: save(saved, trained, ABOUT), call, error, "1+")
    assert result.fired
    assert result.code == OutputError.exit_code, result.message
    assert whole(saved) == [6, 5]
    assert hidden(saved) == []


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_checkpoint_is_written_in_spite_of_an_error_that_passes(sweep, saved, trained, call):
    trained.step = 7

    def check(result):
        assert result.code == 0, result.message
        assert whole(saved) == [7, 6]

    sweep(lambda: save(saved, trained, ABOUT), call, "error=EIO", check)


# A model


@pytest.fixture
def model(tiny_run, tmp_path):
    """A copy of a run's model, the folder `model/` of a run."""
    shutil.copytree(tiny_run / "model", tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


@pytest.fixture
def about(model):
    """What `model.json` says beside the hashes, with other steps."""
    content = json.loads((model / "model.json").read_text())
    for key in ("format", "sha256", "notice", "files"):
        del content[key]
    return content | {"provenance": {"steps": 77}}


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("call", ["rename,renameat2", "fsync", "unlinkat"])
def test_model_killed_at_any_call_can_be_read(
    sweep, tiny_run, model, about, trained, monkeypatch, call, exchange
):
    if not exchange:
        monkeypatch.setattr("ctmr.system.files._exchange", lambda *_: False)

    def check(_):
        for named in (model.parent, model):
            assert read_model(named).card.provenance["steps"] in (6, 77)
        with RunFolder(model.parent).locked():
            assert model_folder(model) == model
            assert hidden(model.parent) in ([], [".model.old"])
        shutil.rmtree(model)
        shutil.copytree(tiny_run / "model", model)

    sweep(lambda: save_model(model, trained, about), call, KILL, check)


@pytest.mark.parametrize("call", ["write", "fsync", "renameat2"])
def test_model_that_cannot_be_written_is_the_old_one(inject, model, about, trained, call):
    result = inject(lambda: save_model(model, trained, about), call, "error=ENOSPC", "1+")
    assert result.fired
    assert result.code == OutputError.exit_code, result.message
    assert read_model(model).card.provenance["steps"] == 6
    assert hidden(model.parent) == []


def test_checkpoints_are_resumed_after_a_kill_at_any_rename(sweep, saved, trained, tiny_config):
    trained.step = 7

    def check(_):
        state = new_state(tiny_config, torch.device("cpu"))
        resume(saved, state)
        assert state.step in (6, 7)

    sweep(lambda: save(saved, trained, ABOUT), "rename", KILL, check)
