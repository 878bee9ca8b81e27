import errno
import hashlib
import json
import logging
import os
import random
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from ctmr.config import overlaid
from ctmr.cyclegan.state import load_strictly, new_state
from ctmr.cyclegan.step import train_step, update_average
from ctmr.errors import CheckpointError, DivergedError, OutputError
from ctmr.system.rng import torch_stream
from ctmr.training import checkpoint
from ctmr.training.checkpoint import checkpoints, is_sound, resume, save
from ctmr.training.distributed import Runtime

ABOUT = {"data": "fingerprint", "config": {"seed": 3}, "exact": {"torch": "2.13.0"}}
CPU = torch.device("cpu")

# One tensor of each kind that a checkpoint holds.
KINDS = (
    "model.G.body.1.weight",
    "model.F.body.1.weight",
    "model.D_X.body.0.weight",
    "model.D_Y.body.0.bias",
    "ema.G.body.1.weight",
    "ema.F.body.1.weight",
    "optimiser_g.0.step",
    "optimiser_g.3.exp_avg",
    "optimiser_g.3.exp_avg_sq",
    "optimiser_d.2.step",
    "optimiser_d.0.exp_avg",
    "optimiser_d.0.exp_avg_sq",
    "history_x.0",
    "history_y.2",
)


@pytest.fixture(scope="module")
def autocast():
    return Runtime("float32").autocast


@pytest.fixture(scope="module")
def advance(tiny_config, autocast):
    """A function that trains a state for some steps, on images that depend on the step alone."""

    def run(state, steps):
        for _ in range(steps):
            images = torch.rand((2, 1, 1, 32, 32), generator=torch_stream("images", state.step))
            train_step(state, *(2 * images - 1), tiny_config.loss, autocast, 0)
            update_average(state, tiny_config.train.ema)
        return state

    return run


@pytest.fixture(scope="module")
def trained(tiny_config, advance):
    """A state after five steps, with both histories full; not to be changed."""
    return advance(new_state(tiny_config, CPU), 5)


@pytest.fixture
def fresh(tiny_config):
    return new_state(tiny_config, CPU)


@pytest.fixture
def saved(trained, tmp_path):
    """A folder with the checkpoint of `trained`."""
    save(tmp_path / "checkpoints", trained, ABOUT)
    return tmp_path / "checkpoints"


def parts(path):
    """The tensors and the header of a checkpoint."""
    with safe_open(path, "pt") as stored:
        names = list(stored.keys())
        return {name: stored.get_tensor(name) for name in names}, json.loads(
            stored.metadata()["ctmr"]
        )


def forge(folder, tensors, header):
    """Put a checkpoint of that content in place of those there are, its hash correct."""
    content = to_bytes(tensors, {"ctmr": json.dumps(header)})
    return forge_bytes(folder, content, header.get("step", 5))


def forge_bytes(folder, content, step=5):
    for path in checkpoints(folder):
        path.unlink()
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = folder / f"step_{step:09d}.{digest}.ckpt"
    path.write_bytes(content)
    return path


def refused(saved, fresh, match, tensors=None, header=None):
    """Resume a forged checkpoint; it is refused, and the state is what it was."""
    old_tensors, old_header = parts(checkpoints(saved)[0])
    forge(saved, tensors or old_tensors, header or old_header)
    before = {key: value.clone() for key, value in fresh.tensors().items()}
    with pytest.raises(CheckpointError, match=match) as caught:
        resume(saved, fresh)
    assert caught.value.exit_code == 5
    assert fresh.step == 0
    assert equal(fresh.tensors(), before)


def contents(state, folder):
    """All that a state's checkpoint holds."""
    return parts(save(folder, state, ABOUT))[0]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Saving


def test_new_state_is_at_step_0_with_averages_equal_to_the_weights(fresh, tiny_config):
    assert fresh.step == 0
    for name in ("G", "F"):
        averaged = fresh.ema.get_submodule(name).state_dict()
        assert equal(averaged, fresh.model.get_submodule(name).state_dict())
    assert not any(parameter.requires_grad for parameter in fresh.ema.parameters())
    for optimiser in (fresh.optimiser_g, fresh.optimiser_d):
        (group,) = optimiser.param_groups
        assert group["betas"] == (0.5, 0.999)
        assert group["lr"] == tiny_config.train.learning_rate
        assert not optimiser.state


def test_averaged_generators_translate_if_they_are_kept(fresh, tiny_config):
    assert fresh.translators() == (fresh.ema.get_submodule("G"), fresh.ema.get_submodule("F"))
    plain = new_state(overlaid(tiny_config, ["train.ema=0"]), CPU)
    assert plain.translators() == (plain.model.G, plain.model.F)
    assert len(plain.ema) == 0


def test_checkpoint_is_named_by_step_and_hash(trained, tmp_path):
    path = save(tmp_path / "new" / "checkpoints", trained, ABOUT)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"step_000000005.{digest[:16]}.ckpt"
    assert checkpoints(path.parent) == [path]
    assert sorted(path.parent.iterdir()) == [path]


def test_same_state_makes_the_same_bytes(trained, tmp_path):
    first, second = (save(tmp_path / name, trained, ABOUT) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_everything_comes_back_exactly(saved, fresh, trained, tmp_path):
    about = resume(saved, fresh)
    assert fresh.step == 5
    content = about.model_dump()
    assert content | ABOUT == content
    assert equal(contents(fresh, tmp_path / "a"), contents(trained, tmp_path / "b"))
    kinds = {name.split(".")[0] for name in contents(fresh, tmp_path / "a")}
    assert kinds == {"model", "ema", "optimiser_g", "optimiser_d", "history_x", "history_y"}


def test_state_that_came_back_goes_on_like_the_one_that_stayed(
    tiny_config, advance, tmp_path, trained, fresh
):
    save(tmp_path / "half", trained, ABOUT)
    resume(tmp_path / "half", fresh)
    whole = advance(new_state(tiny_config, CPU), 9)
    assert equal(contents(advance(fresh, 4), tmp_path / "a"), contents(whole, tmp_path / "b"))


def test_fresh_state_can_be_saved_and_comes_back(fresh, tiny_config, tmp_path):
    save(tmp_path, fresh, ABOUT)
    other = new_state(overlaid(tiny_config, ["seed=77"]), CPU)
    resume(tmp_path, other)
    assert other.step == 0
    assert equal(other.model.state_dict(), fresh.model.state_dict())
    assert not other.optimiser_g.state


def test_newest_two_are_kept(fresh, tmp_path):
    for step in (1, 2, 10, 9, 100):
        fresh.step = step
        save(tmp_path, fresh, ABOUT)
    assert [path.name[:14] for path in checkpoints(tmp_path)] == [
        "step_000000100",
        "step_000000010",
    ]


def test_sound_checkpoint_is_kept_where_the_one_above_it_is_damaged(fresh, tmp_path):
    """Never fewer than two that are sound (faults.md, R26)."""
    for fresh.step in (1, 2):
        save(tmp_path, fresh, ABOUT)
    checkpoints(tmp_path)[0].write_bytes(b"damaged")
    for step, kept in ((3, [3, 2, 1]), (4, [4, 3])):
        fresh.step = step
        save(tmp_path, fresh, ABOUT)
        assert [int(path.name[5:14]) for path in checkpoints(tmp_path)] == kept


def test_old_checkpoint_that_cannot_be_removed_stays_with_a_warning(
    fresh, tmp_path, monkeypatch, caplog
):
    for fresh.step in (1, 2):
        save(tmp_path, fresh, ABOUT)
    unlink = Path.unlink

    def fail(self, *arguments, **options):
        if self.suffix == ".ckpt":
            raise OSError(errno.EIO, "Input/output error")
        unlink(self, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", fail)
    fresh.step = 3
    save(tmp_path, fresh, ABOUT)
    assert len(checkpoints(tmp_path)) == 3
    assert "an old checkpoint stays" in caplog.text


def test_folder_that_cannot_be_made_is_an_output_error(fresh, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write its [0-9,]+ bytes"):
        save(tmp_path / "file" / "checkpoints", fresh, ABOUT)


def test_other_files_are_no_checkpoints_and_are_left_alone(fresh, tmp_path):
    names = ["step_1.ckpt", "step_000000001.0123.ckpt", "notes.txt", ".0123.tmp"]
    for name in names:
        (tmp_path / name).write_text("")
    save(tmp_path, fresh, ABOUT)
    assert len(checkpoints(tmp_path)) == 1
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_failure_to_write_leaves_the_earlier_checkpoints(fresh, tmp_path, monkeypatch, number):
    def fail(_):
        raise OSError(number, os.strerror(number))

    for fresh.step in (1, 2):
        save(tmp_path, fresh, ABOUT)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", fail)
    fresh.step = 3
    with pytest.raises(OutputError, match=os.strerror(number)):
        save(tmp_path, fresh, ABOUT)
    assert sorted(tmp_path.iterdir()) == before


def test_checkpoint_is_written_only_where_there_is_space(fresh, tmp_path, monkeypatch):
    size = save(tmp_path, fresh, ABOUT).stat().st_size
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, int(2.1 * size)))
    with pytest.raises(
        OutputError, match=r"a checkpoint needs \d+ MB free, found \d+ MB.*--resume"
    ):
        save(tmp_path, fresh, ABOUT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, int(2.3 * size)))
    save(tmp_path, fresh, ABOUT)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_state_that_is_not_finite_is_not_saved(tiny_config, saved, value):
    spoilt = new_state(tiny_config, CPU)
    spoilt.step = 6
    with torch.no_grad():
        spoilt.model.F.body[1].weight[0, 0, 0, 0] = value
    before = checkpoints(saved)
    with pytest.raises(
        DivergedError, match=r"NaN or infinity in \['model\.F\.body\.1\.weight'\] at step 6"
    ):
        save(saved, spoilt, ABOUT)
    assert checkpoints(saved) == before


# Damage


def test_every_flipped_bit_is_noticed(saved):
    (path,) = checkpoints(saved)
    content = path.read_bytes()
    rng = random.Random(0)
    for bit in [0, 7, 8 * len(content) - 1, *(rng.randrange(8 * len(content)) for _ in range(64))]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert not is_sound(path)
    path.write_bytes(content)
    assert is_sound(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda _: b"",
        lambda _: b"<!DOCTYPE html><html><body>404</body></html>",
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12\n",
    ],
    ids=["half", "one byte less", "one byte more", "empty", "web page", "LFS pointer"],
)
def test_damaged_checkpoint_is_put_aside_with_a_warning_and_the_one_before_is_taken(
    saved, fresh, tiny_config, advance, damage, caplog
):
    newer = save(saved, advance(new_state(tiny_config, CPU), 6), ABOUT)
    newer.write_bytes(damage(newer.read_bytes()))
    with caplog.at_level(logging.WARNING):
        resume(saved, fresh)
    assert fresh.step == 5
    assert (saved / "bad" / newer.name).exists()
    assert newer not in checkpoints(saved)
    (record,) = caplog.records
    assert f"{newer.name}: damaged: expected sha256" in record.getMessage()
    assert "going back to the checkpoint before" in record.getMessage()


@pytest.mark.parametrize("kind", ["folder", "unreadable"])
def test_checkpoint_that_cannot_be_read_is_passed_over_and_stays(
    saved, fresh, tiny_config, advance, monkeypatch, caplog, kind
):
    newer = save(saved, advance(new_state(tiny_config, CPU), 6), ABOUT)
    if kind == "folder":
        newer.unlink()
        newer.mkdir()
    else:
        opened = Path.open

        def fail(self, *arguments, **options):
            if self == newer:
                raise OSError(errno.EIO, "Input/output error")
            return opened(self, *arguments, **options)

        monkeypatch.setattr(Path, "open", fail)
    with caplog.at_level(logging.WARNING):
        resume(saved, fresh)
    assert fresh.step == 5
    assert f"{newer.name}: cannot be read" in caplog.text
    assert newer.exists()
    assert not (saved / "bad").exists()


def test_damaged_checkpoint_that_cannot_be_put_aside_is_passed_over(saved, fresh, trained, caplog):
    (saved / "bad").write_text("in the way")
    trained.step = 6
    save(saved, trained, ABOUT).write_bytes(b"")
    trained.step = 5
    with caplog.at_level(logging.WARNING):
        resume(saved, fresh)
    assert fresh.step == 5
    assert "cannot move it to" in caplog.text


def test_nothing_is_parsed_before_the_hash_is_right(saved, fresh, monkeypatch):
    for path in checkpoints(saved):
        path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(checkpoint, "safe_open", lambda *_: pytest.fail("parsed"))
    with pytest.raises(CheckpointError, match="found none that is sound"):
        resume(saved, fresh)


def test_no_sound_checkpoint_is_an_error_and_never_a_fresh_start(saved, fresh, trained):
    for step in (6, 7):
        trained.step = step
        save(saved, trained, ABOUT)
    trained.step = 5
    for path in checkpoints(saved):
        path.write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="expected a checkpoint, found none that is sound"
    ) as caught:
        resume(saved, fresh)
    assert caught.value.exit_code == 5
    assert fresh.step == 0


def test_folder_without_checkpoints_is_an_error(fresh, tmp_path):
    with pytest.raises(CheckpointError, match="found none that is sound"):
        resume(tmp_path / "checkpoints", fresh)


# Content


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_that_lacks_a_tensor_is_refused_with_its_name(saved, fresh, kind):
    tensors, header = parts(checkpoints(saved)[0])
    del tensors[kind]
    forge(saved, tensors, header)
    name = kind.split(".")[0] if kind.startswith("history") else kind
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        resume(saved, fresh)


@pytest.mark.parametrize(
    "kind", ["model", "ema", "optimiser_g", "optimiser_d", "history_x", "history_y"]
)
def test_checkpoint_that_lacks_a_part_is_refused_with_its_name(saved, fresh, kind):
    tensors, header = parts(checkpoints(saved)[0])
    left = {name: value for name, value in tensors.items() if not name.startswith(kind + ".")}
    assert len(left) < len(tensors)
    forge(saved, left, header)
    with pytest.raises(CheckpointError, match=kind):
        resume(saved, fresh)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_matters_for_what_follows(saved, tiny_config, advance, tmp_path, kind):
    """A changed value in any part of the state changes the state four steps later."""
    before, header = parts(checkpoints(saved)[0])
    states = []
    for shift in (0.0, 0.5):
        tensors = {**before, kind: before[kind] + shift}
        forge(saved, tensors, header)
        states.append(new_state(tiny_config, CPU))
        resume(saved, states[-1])
    one, other = (contents(advance(state, 4), tmp_path / str(n)) for n, state in enumerate(states))
    part = kind.rsplit(".", 1)[0] if kind.startswith("history") else kind.split(".")[0]
    changed = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
    assert part.split(".")[0] in changed
    if not kind.startswith("ema"):
        assert "model" in changed


def test_unknown_tensor_is_refused_with_its_name(saved, fresh):
    tensors, header = parts(checkpoints(saved)[0])
    forge(saved, {**tensors, "scaler.0": torch.zeros(1)}, header)
    with pytest.raises(CheckpointError, match=r"missing or unknown keys \['scaler\.0'\]"):
        resume(saved, fresh)


@pytest.mark.parametrize(
    "extra", ["model.H.weight", "ema.D_X.weight", "optimiser_g.999.step", "history_x.3"]
)
def test_tensor_too_many_is_refused(saved, fresh, extra):
    tensors, header = parts(checkpoints(saved)[0])
    forge(saved, {**tensors, extra: torch.zeros(1)}, header)
    with pytest.raises(CheckpointError, match=extra.split(".")[0]):
        resume(saved, fresh)


def test_checkpoint_of_another_architecture_is_refused_with_keys_that_differ(saved, tiny_config):
    other = new_state(overlaid(tiny_config, ["network.blocks=2"]), CPU)
    with pytest.raises(CheckpointError, match=r"missing or unknown keys \['ema\.F\.body\."):
        resume(saved, other)


def test_checkpoint_of_other_channels_is_refused_with_both_shapes(saved, tiny_config):
    other = new_state(overlaid(tiny_config, ["data.channels=3"]), CPU)
    with pytest.raises(
        CheckpointError, match=r"must be \(\d+, 3, .* torch\.float32, found \(\d+, 1, "
    ):
        resume(saved, other)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda value: value[:1], r"model\.G\.body\.1\.weight must be .*, found \(1, "),
        (lambda value: value.double(), r"model\.G\.body\.1\.weight must be .*, found .*float64"),
        (lambda value: value * float("nan"), r"model\.G\.body\.1\.weight must be finite"),
        (lambda value: value + float("inf"), r"model\.G\.body\.1\.weight must be finite"),
    ],
    ids=["shape", "type", "nan", "inf"],
)
def test_weights_that_do_not_fit_are_refused(saved, fresh, change, why):
    tensors, header = parts(checkpoints(saved)[0])
    key = "model.G.body.1.weight"
    forge(saved, {**tensors, key: change(tensors[key]).contiguous()}, header)
    with pytest.raises(CheckpointError, match=why):
        resume(saved, fresh)


@pytest.mark.parametrize("key", ["optimiser_g.3.exp_avg", "optimiser_d.0.exp_avg_sq"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda value: value[..., :1], r"must be .* torch\.float32, found .*1\) torch\.float32"),
        (lambda value: value.double(), r"must be .*float32, found .*float64"),
        (lambda value: value * float("nan"), "must be finite, found NaN or infinity"),
    ],
    ids=["shape", "type", "nan"],
)
def test_moments_that_do_not_fit_are_refused(saved, fresh, key, change, why):
    tensors, _ = parts(checkpoints(saved)[0])
    wrong = {**tensors, key: change(tensors[key]).contiguous()}
    refused(saved, fresh, rf"{key.replace('.', '[.]')} {why}", wrong)


def test_moment_of_another_shape_for_its_count_of_steps_is_refused(saved, fresh):
    tensors, _ = parts(checkpoints(saved)[0])
    wrong = {**tensors, "optimiser_g.0.step": torch.full((1,), 5.0)}
    refused(saved, fresh, r"optimiser_g\.0\.step must be \(\) torch", wrong)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda value: value[:, :16], r"must be \(1, 32, 32\) .*, found \(1, 16, 32\)"),
        (lambda value: value.repeat(3, 1, 1), r"must be \(1, 32, 32\) .*, found \(3, 32, 32\)"),
        (lambda value: value.double(), r"must be .*float32, found .*float64"),
        (lambda value: value * float("inf"), "must be finite"),
    ],
    ids=["height", "channels", "type", "inf"],
)
def test_earlier_fakes_that_do_not_fit_are_refused(saved, fresh, change, why):
    tensors, _ = parts(checkpoints(saved)[0])
    wrong = {**tensors, "history_y.1": change(tensors["history_y.1"]).contiguous()}
    refused(saved, fresh, rf"history_y\.1 {why}", wrong)


def test_earlier_fakes_in_bfloat16_come_back_as_they_were(saved, fresh):
    tensors, header = parts(checkpoints(saved)[0])
    half = tensors["history_y.1"].bfloat16()
    forge(saved, {**tensors, "history_y.1": half}, header)
    resume(saved, fresh)
    assert torch.equal(fresh.history_y.images[1], half)


def test_more_earlier_fakes_than_the_history_holds_are_refused(saved, fresh):
    tensors, header = parts(checkpoints(saved)[0])
    more = {**tensors, "history_x.3": tensors["history_x.0"].clone()}
    refused(
        saved,
        fresh,
        "history_x must hold up to 3 images, found 4",
        more,
        header | {"history": [4, 3]},
    )


def test_first_five_tensors_that_do_not_fit_are_named(saved, fresh):
    tensors, _ = parts(checkpoints(saved)[0])
    names = sorted(name for name in tensors if name.startswith("model.G"))[:7]
    wrong = tensors | {name: tensors[name].double() for name in names}
    with pytest.raises(CheckpointError) as caught:
        resume_of(saved, wrong, fresh)
    assert sum(name in str(caught.value) for name in names) == 5


def resume_of(saved, tensors, state):
    forge(saved, tensors, parts(checkpoints(saved)[0])[1])
    resume(saved, state)


@pytest.mark.parametrize("key", ["format", "step", "history", "config", "data", "exact"])
def test_checkpoint_that_says_too_little_is_refused_with_what_is_missing(saved, fresh, key):
    _, header = parts(checkpoints(saved)[0])
    refused(
        saved,
        fresh,
        f"not a checkpoint of ctmr .*{key}",
        header={k: value for k, value in header.items() if k != key},
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", -1),
        ("step", 5.0),
        ("step", "5"),
        ("step", True),
        ("step", None),
        ("history", [3]),
        ("history", [3, 3, 3]),
        ("history", [3, 2.5]),
        ("history", 3),
        ("config", []),
        ("data", 7),
        ("exact", None),
        ("scaler", 1.0),
    ],
)
def test_checkpoint_that_says_something_else_is_refused(saved, fresh, key, value):
    tensors, header = parts(checkpoints(saved)[0])
    content = to_bytes(tensors, {"ctmr": json.dumps(header | {key: value})})
    forge_bytes(saved, content)
    with pytest.raises(CheckpointError, match=f"not a checkpoint of ctmr .*{key}"):
        resume(saved, fresh)


def test_step_that_is_not_that_of_the_name_is_refused(saved, fresh):
    tensors, header = parts(checkpoints(saved)[0])
    forge_bytes(saved, to_bytes(tensors, {"ctmr": json.dumps(header | {"step": 4})}), step=5)
    with pytest.raises(CheckpointError, match="it says step 4"):
        resume(saved, fresh)


def test_changed_step_changes_what_follows(saved, tiny_config, advance, tmp_path):
    """The step decides the images, the draws from the histories and the averages."""
    tensors, header = parts(checkpoints(saved)[0])
    states = []
    for step in (5, 6):
        forge(saved, tensors, header | {"step": step})
        states.append(new_state(tiny_config, CPU))
        resume(saved, states[-1])
    one, other = (contents(advance(state, 3), tmp_path / str(n)) for n, state in enumerate(states))
    assert not equal(one, other)


def test_order_of_the_earlier_fakes_matters_for_what_follows(saved, tiny_config, advance, tmp_path):
    tensors, header = parts(checkpoints(saved)[0])
    exchanged = tensors | {
        "history_x.0": tensors["history_x.2"],
        "history_x.2": tensors["history_x.0"],
    }
    states = []
    for each in (tensors, exchanged):
        forge(saved, each, header)
        states.append(new_state(tiny_config, CPU))
        resume(saved, states[-1])
    one, other = (contents(advance(state, 8), tmp_path / str(n)) for n, state in enumerate(states))
    assert any(not torch.equal(one[key], other[key]) for key in one if key.startswith("model.D_X"))


def test_load_strictly_names_the_first_five_keys_that_differ(fresh, tmp_path):
    weights = fresh.model.G.state_dict()
    extra = {f"x{n}": torch.zeros(1) for n in range(7)}
    with pytest.raises(
        CheckpointError, match=r"keys \['x0', 'x1', 'x2', 'x3', 'x4'\]\. Fix: use the"
    ):
        load_strictly(fresh.model.F, {**weights, **extra}, tmp_path / "a.safetensors")
    load_strictly(fresh.model.F, weights, tmp_path / "a.safetensors")
    assert equal(fresh.model.F.state_dict(), weights)


def test_checkpoint_of_a_later_format_is_refused_with_both_formats(saved, fresh):
    tensors, header = parts(checkpoints(saved)[0])
    forge(saved, tensors, {**header, "format": checkpoint.FORMAT + 1})
    with pytest.raises(
        CheckpointError, match=r"expected checkpoint format 1, found 2\. Fix: use the"
    ):
        resume(saved, fresh)


@pytest.mark.parametrize(
    "content",
    [b"", b"not tensors", to_bytes({"a": torch.zeros(1)}), to_bytes({}, {"ctmr": "{not json"})],
    ids=["empty", "text", "no header", "header torn"],
)
def test_file_that_is_whole_but_no_checkpoint_is_refused(saved, fresh, content):
    forge_bytes(saved, content)
    with pytest.raises(CheckpointError, match="not a checkpoint of ctmr"):
        resume(saved, fresh)


def test_pickle_is_never_run(saved, fresh, tmp_path):
    canary = tmp_path / "canary"
    pickled = tmp_path / "evil.pt"
    torch.save(Evil(canary), pickled)
    forge_bytes(saved, pickled.read_bytes())
    with pytest.raises(CheckpointError, match="not a checkpoint of ctmr"):
        resume(saved, fresh)
    assert not canary.exists()


class Evil:
    """Makes a file when unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")
