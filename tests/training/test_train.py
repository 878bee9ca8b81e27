"""One step against the equations of the paper, and whole runs: stopped, killed, damaged and resumed."""

import copy
import hashlib
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from ctmr.config import config_yaml, overlaid
from ctmr.cyclegan import losses
from ctmr.cyclegan.mind import structure
from ctmr.cyclegan.state import new_state
from ctmr.cyclegan.step import train_step, update_average
from ctmr.data.prepare import prepare as prepare_now
from ctmr.errors import CheckpointError, DivergedError, OutputError, Stopped, UsageError
from ctmr.models.folder import load_weights, read_model
from ctmr.system.files import read_log
from ctmr.system.rng import torch_stream
from ctmr.training.checkpoint import checkpoints
from ctmr.training.distributed import Runtime
from ctmr.training.run_folder import RunFolder
from ctmr.training.train import learning_rate, train

CPU = torch.device("cpu")
CLI = "from ctmr.cli import main; main()"

pytestmark = pytest.mark.usefixtures("quick_records")


# Schedule


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 2e-4), (99, 2e-4), (100, 2e-4), (150, 1e-4), (199, 2e-6)]
)
@pytest.mark.parametrize("steps_per_epoch", [1, 10, 2486])
def test_learning_rate_is_that_of_the_paper_at_the_start_of_the_epoch(
    epoch, expected, steps_per_epoch
):
    # From epoch 100 in proportion to what is left: (200 - 150) / 100 = 1/2, (200 - 199) / 100 = 1/100
    rate = learning_rate(epoch * steps_per_epoch, 200 * steps_per_epoch, 2e-4)
    assert rate == pytest.approx(expected, rel=1e-12)


def test_learning_rate_is_constant_then_linear_and_never_zero():
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[:51] == [1.0] * 51
    assert np.diff(rates[50:]) == pytest.approx([-0.02] * 49)
    assert rates[-1] == pytest.approx(0.02)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_learning_rate_of_a_tiny_schedule_is_positive(total):
    rates = [learning_rate(step, total, 1.0) for step in range(total)]
    assert rates[0] == 1.0
    assert min(rates) > 0


# One step


@pytest.fixture(scope="module")
def autocast():
    return Runtime("float32").autocast


@pytest.fixture
def state(tiny_config):
    return new_state(tiny_config, CPU)


@pytest.fixture
def images():
    """x and y, (2, 1, 32, 32) in [-1, 1]."""
    x, y = 2 * torch.rand((2, 2, 1, 32, 32), generator=torch_stream("images")) - 1
    return x, y


def loss_of(tiny_config, **changes):
    return tiny_config.loss.model_copy(update=changes)


def weights_of(*networks):
    return [p.detach().clone() for network in networks for p in network.parameters()]


def moved(before, *networks):
    now = [p for network in networks for p in network.parameters()]
    return [not torch.equal(old, new) for old, new in zip(before, now, strict=True)]


def test_losses_are_those_of_the_equations(state, images, tiny_config, autocast):
    x, y = images
    G, F, D_X, D_Y = (copy.deepcopy(state.model).get_submodule(n) for n in ("G", "F", "D_X", "D_Y"))
    found = train_step(state, x, y, tiny_config.loss, autocast, 0)
    with torch.no_grad():
        gan = 0.5 * (((D_Y(G(x)) - 1) ** 2).mean() + ((D_X(F(y)) - 1) ** 2).mean())  # (1)
        cyc = (F(G(x)) - x).abs().mean() + (G(F(y)) - y).abs().mean()  # (2)
        idt = (F(x) - x).abs().mean() + (G(y) - y).abs().mean()  # (3)
        expected = {
            "gan": gan,
            "cycle": cyc,
            "identity": idt,
            "structure": torch.zeros(()),
            "loss_g": gan + 4 * cyc + 8 * idt,  # (4)
            "loss_d_ct": 0.5 * (((D_X(x) - 1) ** 2).mean() + (D_X(F(y)) ** 2).mean()),  # (5)
            "loss_d_mr": 0.5 * (((D_Y(y) - 1) ** 2).mean() + (D_Y(G(x)) ** 2).mean()),  # (5)
        }
    assert found.keys() == {*expected, "grad_g", "grad_d"}
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-6), name
        assert not found[name].requires_grad


def test_norms_are_those_of_the_gradients_of_each_half(state, images, tiny_config, autocast):
    found = train_step(state, *images, tiny_config.loss, autocast, 0)
    halves = {
        "grad_g": state.model.generator_parameters(),
        "grad_d": state.model.discriminator_parameters(),
    }
    for name, weights in halves.items():
        squares = sum(float((each.grad.double() ** 2).sum()) for each in weights)
        assert found[name].item() == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_step_is_the_papers_update_written_out(state, images, tiny_config, autocast):
    """G and F by Adam on (4) with D fixed, then D_X and D_Y by Adam on (5) with the fakes from before."""
    x, y = images
    peer = copy.deepcopy(state.model)
    G, F, D_X, D_Y = peer.G, peer.F, peer.D_X, peer.D_Y
    settings = {"lr": tiny_config.train.learning_rate, "betas": (0.5, 0.999)}
    adam_g = torch.optim.Adam([*G.parameters(), *F.parameters()], **settings)
    adam_d = torch.optim.Adam([*D_X.parameters(), *D_Y.parameters()], **settings)
    for step in range(
        3
    ):  # the history of three is full after two batches of two: two steps are plain
        fake_y, fake_x = G(x), F(y)
        gan = 0.5 * (((D_Y(fake_y) - 1) ** 2).mean() + ((D_X(fake_x) - 1) ** 2).mean())
        cyc = (F(fake_y) - x).abs().mean() + (G(fake_x) - y).abs().mean()
        idt = (F(x) - x).abs().mean() + (G(y) - y).abs().mean()
        adam_g.zero_grad()
        (gan + 4 * cyc + 8 * idt).backward()
        adam_g.step()
        loss_d = 0.5 * (((D_X(x) - 1) ** 2).mean() + (D_X(fake_x.detach()) ** 2).mean())
        loss_d = loss_d + 0.5 * (((D_Y(y) - 1) ** 2).mean() + (D_Y(fake_y.detach()) ** 2).mean())
        adam_d.zero_grad()
        loss_d.backward()
        adam_d.step()
        state.history_x.capacity = state.history_y.capacity = 0
        train_step(state, x, y, tiny_config.loss, autocast, step)
        for own, theirs in zip(state.model.parameters(), peer.parameters(), strict=True):
            assert torch.allclose(own, theirs, rtol=0, atol=1e-5)
    assert state.step == 3


def test_discriminators_get_no_gradient_from_the_generators_half(
    state, images, tiny_config, autocast
):
    seen = []

    def look(*_):
        generators = [p.grad is not None for p in state.model.generator_parameters()]
        discriminators = [p.grad is not None for p in state.model.discriminator_parameters()]
        seen.append((all(generators), any(discriminators)))

    state.optimiser_g.register_step_pre_hook(look)
    train_step(state, *images, tiny_config.loss, autocast, 0)
    assert seen == [(True, False)]


def test_each_half_moves_its_own_networks_only(state, images, tiny_config, autocast):
    model = state.model
    before_g, before_d = weights_of(model.G, model.F), weights_of(model.D_X, model.D_Y)
    middle, gradients = [], []

    def after_generators(*_):
        assert all(moved(before_g, model.G, model.F))
        assert not any(moved(before_d, model.D_X, model.D_Y))
        middle.extend(weights_of(model.G, model.F))
        gradients.extend(p.grad.clone() for p in model.generator_parameters())

    def after_discriminators(*_):
        now = [p.grad for p in model.generator_parameters()]
        assert all(torch.equal(old, new) for old, new in zip(gradients, now, strict=True))

    state.optimiser_g.register_step_post_hook(after_generators)
    state.optimiser_d.register_step_post_hook(after_discriminators)
    train_step(state, *images, tiny_config.loss, autocast, 0)
    assert not any(moved(middle, model.G, model.F))
    assert all(moved(before_d, model.D_X, model.D_Y))


@pytest.mark.parametrize("generator", ["resnet", "resnet34"])
def test_every_parameter_moves(tiny_config, autocast, generator):
    config = overlaid(tiny_config, [f"network.generator={generator}", "network.skips=true"])
    state = new_state(config, CPU)
    before = weights_of(state.model)
    x, y = torch.rand((2, 1, 1, 64, 64), generator=torch_stream("images")) * 2 - 1
    train_step(state, x, y, config.loss, autocast, 0)
    assert all(moved(before, state.model))


def test_identity_weight_0_gives_identity_0_and_saves_its_forward_passes(
    state, images, tiny_config, autocast
):
    seen = {"G": 0, "F": 0}  # images

    def count(name):
        def hook(_, given, __):
            seen[name] += len(given[0])

        return hook

    state.model.G.register_forward_hook(count("G"))
    state.model.F.register_forward_hook(count("F"))
    found = train_step(state, *images, loss_of(tiny_config, identity=0.0), autocast, 0)
    assert found["identity"].item() == 0
    assert found["loss_g"].item() == pytest.approx((found["gan"] + 4 * found["cycle"]).item())
    batch = len(images[0])
    assert seen == {"G": 2 * batch, "F": 2 * batch}
    train_step(state, *images, tiny_config.loss, autocast, 0)
    assert seen == {"G": 5 * batch, "F": 5 * batch}


def stepped(tiny_config, images, autocast, seed=0, step=0, **changes):
    state = new_state(tiny_config, CPU)
    state.step = step
    found = train_step(state, *images, loss_of(tiny_config, **changes), autocast, seed)
    return found, weights_of(state.model)


def test_cycle_noise_changes_the_cycle_and_is_a_pure_function_of_seed_and_step(
    tiny_config, images, autocast
):
    plain, _ = stepped(tiny_config, images, autocast)
    noisy, weights = stepped(tiny_config, images, autocast, cycle_noise=0.1)
    again, same_weights = stepped(tiny_config, images, autocast, cycle_noise=0.1)
    assert noisy["cycle"] != plain["cycle"]
    for name in ("gan", "identity"):
        assert torch.equal(noisy[name], plain[name])
    assert torch.equal(noisy["cycle"], again["cycle"])
    assert all(torch.equal(a, b) for a, b in zip(weights, same_weights, strict=True))
    for other in ({"seed": 1}, {"step": 1}):
        found, _ = stepped(tiny_config, images, autocast, cycle_noise=0.1, **other)
        assert found["cycle"] != noisy["cycle"]


def test_structure_term_is_added_to_the_generators_loss(tiny_config, images, autocast):
    x, y = images
    plain, _ = stepped(tiny_config, images, autocast)
    found, _ = stepped(tiny_config, images, autocast, structure=2.0)
    model = new_state(tiny_config, CPU).model
    with torch.no_grad():
        term = structure(x, model.G(x), y, model.F(y))
    assert found["loss_g"].item() == pytest.approx((plain["loss_g"] + 2 * term).item(), rel=1e-6)
    assert torch.equal(found["gan"], plain["gan"])


def test_discriminators_are_shown_earlier_fakes(state, images, tiny_config, autocast):
    shown = []
    state.model.D_X.register_forward_pre_hook(
        lambda _, given: shown.append(given[0].detach().clone())
    )
    fakes = []
    for step in range(8):
        with torch.no_grad():
            fakes.extend(state.model.F(images[1]))
        del shown[:]
        train_step(state, *images, tiny_config.loss, autocast, step)
        assert len(shown) == 2  # F(y) in the generators' half, then x and earlier fakes together
        real, earlier = shown[1].chunk(2)
        assert torch.equal(real, images[0])
        for image in earlier:
            assert any(torch.allclose(image, fake, atol=1e-6) for fake in fakes)
    assert len(state.history_x.images) == len(state.history_y.images) == 3


def test_average_moves_towards_the_weights_faster_in_the_first_steps(state):
    def mean():
        return next(state.ema.get_submodule("G").parameters())

    with torch.no_grad():
        for parameter in state.model.parameters():
            nn.init.constant_(parameter, 1.0)
        for parameter in state.ema.parameters():
            nn.init.constant_(parameter, 0.0)
    state.step = 2
    update_average(state, 0.9)  # min(0.9, 2 / 4) = 0.5: 0 -> 0.5
    assert torch.allclose(mean(), torch.tensor(0.5))
    state.step = 1000
    update_average(state, 0.9)  # min(0.9, 1000 / 1002) = 0.9: 0.5 -> 0.5 + 0.1 * 0.5
    assert torch.allclose(mean(), torch.tensor(0.55))
    assert not mean().requires_grad


# What is not in the paper


@pytest.fixture
def known():
    """What is known beside a batch of two images of 32 pixels."""
    names = ("truth_ct", "truth_true_mr", "truth_mr", "truth_true_ct", "half_real_mr")
    names += ("half_real_true_ct",)
    names += ("pairs_ct", "pairs_true_mr", "pairs_mr", "pairs_true_ct")
    values = torch.rand((len(names), 2, 1, 32, 32), generator=torch_stream("known"))
    return dict(zip(names, 2 * values - 1, strict=True))


def distance(made, true):
    """Mean |difference|, and half of that of neighbouring pixels' steps, over both axes."""
    steps = [(made.diff(dim=d) - true.diff(dim=d)).abs().mean() for d in (2, 3)]
    return (made - true).abs().mean() + 0.5 * sum(steps) / 2


def test_known_translations_are_added_to_the_generators_loss(tiny_config, images, known, autocast):
    x, y = images
    weights = {"truth": 2.0, "half_real": 3.0, "pairs": 5.0}
    state = new_state(tiny_config, CPU)
    with torch.no_grad():
        G, F, averaged = state.model.G, state.model.F, state.ema["F"]
        made = averaged(y).clamp(-1, 1)
        expected = {
            "truth": distance(F(known["truth_mr"]), known["truth_true_ct"])
            + distance(G(known["truth_ct"]), known["truth_true_mr"]),
            "half_real": distance(F(known["half_real_mr"]), known["half_real_true_ct"])
            + distance(G(made), y),
            "pairs": distance(F(known["pairs_mr"]), known["pairs_true_ct"])
            + distance(G(known["pairs_ct"]), known["pairs_true_mr"]),
        }
    plain, _ = stepped(tiny_config, images, autocast)
    loss = loss_of(tiny_config, **weights)
    found = train_step(state, x, y, loss, autocast, 0, known=known)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    added = sum(weights[name] * value for name, value in expected.items())
    assert found["loss_g"].item() == pytest.approx((plain["loss_g"] + added).item(), rel=1e-5)
    for name in ("gan", "cycle", "identity"):
        assert torch.equal(found[name], plain[name])


def test_known_ct_counts_in_hu():
    """100 HU too much everywhere, in soft tissue: 0.1 thousands of HU, and 0.15 times 100/300 of the values."""
    knots = ((-1024.0, -1.0), (-100.0, -0.7), (200.0, 0.3), (3071.0, 1.0))
    true = torch.full((1, 1, 8, 8), -0.5)
    made = true + 100 / 300
    assert losses.known_ct(made, true, knots).item() == pytest.approx(0.1 + 0.15 / 3, rel=1e-5)
    assert losses.known_ct(made, true, None).item() == pytest.approx(1 / 3, rel=1e-5)
    hu = torch.tensor([-1024.0, -562.0, -100.0, 50.0, 3071.0])
    values = torch.tensor(np.interp(hu, *zip(*knots, strict=True)))
    assert losses.decoded(values, knots).tolist() == pytest.approx(hu.tolist(), abs=1e-3)
    beyond = losses.decoded(torch.tensor([1.1, -1.1]), knots)
    assert beyond[0] > 3071
    assert beyond[1] < -1024


def test_first_half_of_a_half_real_pair_gets_no_gradient(tiny_config, images, known, autocast):
    """With a CT made by F as its only task G moves and F does not."""
    config = overlaid(tiny_config, [*WITHOUT_ADVERSARY, "train.ema=0"])
    state = new_state(config, CPU)
    before = weights_of(state.model.F)
    seen = {}

    def look(*_):
        seen["F"] = [p.grad is None or not p.grad.any() for p in state.model.F.parameters()]
        seen["G"] = [p.grad is not None and p.grad.any() for p in state.model.G.parameters()]

    state.optimiser_g.register_step_pre_hook(look)
    mr = known["half_real_mr"]
    with torch.no_grad():  # F finds the CT of the rendered MR without error
        only = {"half_real_mr": mr, "half_real_true_ct": state.model.F(mr)}
    train_step(state, *images, config.loss, autocast, 0, known=only)
    assert all(seen["G"])
    assert all(seen["F"])
    assert len(before) == len(seen["F"])


WITHOUT_ADVERSARY = ["loss.adversary=0", "loss.cycle=0", "loss.identity=0", "loss.half_real=1"]


def test_without_an_adversary_the_discriminators_rest(tiny_config, images, known, autocast):
    config = overlaid(tiny_config, WITHOUT_ADVERSARY)
    state = new_state(config, CPU)
    before = weights_of(state.model.D_X, state.model.D_Y)
    passes = []
    for network in (state.model.D_X, state.model.D_Y):
        network.register_forward_hook(lambda *_: passes.append(1))
    found = train_step(state, *images, config.loss, autocast, 0, known=known)
    assert not any(moved(before, state.model.D_X, state.model.D_Y))
    assert passes == []
    assert found["gan"] == found["loss_d_ct"] == found["loss_d_mr"] == found["grad_d"] == 0
    assert state.history_x.images == []


KNOWN = ["loss.truth=1", "loss.half_real=1", "data.size=48"]


def test_run_with_what_is_known_resumes_exactly(
    tiny_config, tiny_data, tiny_pairs, label_maps, tmp_path
):
    """With truth, half-real and registered pairs, and without an adversary."""
    config = overlaid(tiny_config, [*WITHOUT_ADVERSARY, *KNOWN])
    known = {"anatomies": label_maps, "pairs": tiny_pairs}
    train(config, tiny_data, tmp_path / "whole", **known)
    train(config, tiny_data, tmp_path / "parts", stop_after=2, **known)
    workers = overlaid(config, ["train.workers=1"])
    train(workers, tiny_data, tmp_path / "parts", resume=True, **known)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    model = read_model(tmp_path / "whole")
    assert model.discriminators == {}
    row = read_log(tmp_path / "whole" / "log.jsonl")[-1]
    assert min(row[name] for name in ("truth", "half_real", "pairs")) > 0
    with pytest.raises(CheckpointError, match="data"):
        train(config, tiny_data, tmp_path / "parts", resume=True, anatomies=label_maps)


def test_discriminators_start_fresh_where_a_model_has_none(
    tiny_config, tiny_data, label_maps, tmp_path, caplog
):
    config = overlaid(tiny_config, [*WITHOUT_ADVERSARY, *KNOWN])
    train(config, tiny_data, tmp_path / "first", stop_after=1, anatomies=label_maps)
    asked = overlaid(tiny_config, ["data.size=48", "train.steps=1"])
    train(asked, tiny_data, tmp_path / "second", init=tmp_path / "first")
    assert "the model has no discriminators: they start fresh" in caplog.text
    assert set(read_model(tmp_path / "second").discriminators) == {"ct", "mr"}


def test_run_can_start_from_the_bundled_model(bundled, tiny_config, tiny_data, tmp_path):
    network = read_model(bundled).card.network
    settings = [f"network.{key}={getattr(network, key)}" for key in ("generator", "filters")]
    config = overlaid(tiny_config, [*settings, "train.start=bundled", "train.learning_rate=1e-9"])
    train(config, tiny_data, tmp_path / "run", stop_after=1)
    for direction, generator in read_model(tmp_path / "run").generators.items():
        own = read_model(bundled).generators[direction].state_dict()
        for key, value in generator.state_dict().items():
            assert torch.allclose(value, own[key], atol=1e-6)


def test_generators_of_another_shape_are_refused_with_the_settings_that_fit(
    bundled, tiny_config, tiny_data, tmp_path
):
    config = overlaid(tiny_config, ["train.start=bundled"])
    with pytest.raises(CheckpointError) as caught:
        train(config, tiny_data, tmp_path / "run")
    assert "--set network.generator=unet" in str(caught.value)


# Whole runs


def tensors_of(run):
    """All tensors of a run's newest checkpoint."""
    return load_file(checkpoints(run / "checkpoints")[0])


def digest(run):
    """SHA-256 of everything that training changes, from the newest checkpoint."""
    found = hashlib.sha256()
    for name, value in sorted(tensors_of(run).items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()


def forge(run, tensor_change=lambda _: None, header_change=lambda _: None):
    """Change the newest checkpoint of a run, and its name with it."""
    newest = checkpoints(run / "checkpoints")[0]
    with safe_open(newest, "pt") as stored:
        header = json.loads(stored.metadata()["ctmr"])
    tensors = load_file(newest)
    tensor_change(tensors)
    header_change(header)
    content = to_bytes(tensors, {"ctmr": json.dumps(header)})
    newest.unlink()
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = newest.with_name(f"{newest.name.split('.')[0]}.{digest}.ckpt")
    path.write_bytes(content)
    return path


def steps_logged(run):
    return [row["step"] for row in read_log(run / "log.jsonl")]


@pytest.fixture(scope="module")
def config(tiny_config):
    """12 steps of an epoch of 10, with noise, averages and a buffer that is full after three."""
    settings = ["train.steps=12", "loss.cycle_noise=0.05", "train.checkpoint_every=100"]
    return overlaid(tiny_config, settings)


@pytest.fixture(scope="module")
def reference(config, tiny_data, tmp_path_factory):
    """The run that was never stopped."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train(config, tiny_data, run)
    return run


@pytest.fixture(scope="module")
def stopped(config, tiny_data, tmp_path_factory):
    """A run stopped at step 8, with checkpoints of steps 4 and 8; copy it."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    train(overlaid(config, ["train.checkpoint_every=4"]), tiny_data, run, stop_after=8)
    return run


@pytest.fixture
def half(stopped, tmp_path):
    """A copy of the run stopped at step 8."""
    shutil.copytree(stopped, tmp_path / "half")
    return tmp_path / "half"


@pytest.mark.parametrize(
    ("workers", "stops"),
    [
        ((0, 0), (5,)),  # in the middle of an epoch, the buffers full
        ((0, 2, 0), (1, 2)),  # the buffers not full; other numbers of workers
        ((2, 2), (7,)),
        ((2, 0), (10,)),  # at the end of an epoch
    ],
    ids=str,
)
def test_stopped_and_resumed_run_equals_the_one_never_stopped(
    config, reference, tiny_data, tmp_path, workers, stops
):
    run = tmp_path / "run"
    starts = (None, *stops)
    for count, start, stop in zip(workers, starts, (*stops, None), strict=True):
        settings = overlaid(config, [f"train.workers={count}"])
        summary = train(settings, tiny_data, run, resume=start is not None, stop_after=stop)
        assert summary.resumed_from == start
        assert summary.steps == (stop or 12)
    assert digest(run) == digest(reference)
    assert steps_logged(run) == list(range(1, 13))


def test_resume_is_exact_without_averages_noise_and_history_too(tiny_config, tiny_data, tmp_path):
    settings = ["train.ema=0", "train.history=0", "train.batch_size=2", "train.steps=4"]
    config = overlaid(tiny_config, settings)
    train(config, tiny_data, tmp_path / "whole")
    train(config, tiny_data, tmp_path / "parts", stop_after=2)
    train(config, tiny_data, tmp_path / "parts", resume=True)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    kinds = {name.split(".")[0] for name in tensors_of(tmp_path / "whole")}
    assert kinds == {"model", "optimiser_g", "optimiser_d"}


def test_seed_changes_the_result(config, reference, tiny_data, tmp_path):
    train(overlaid(config, ["seed=4"]), tiny_data, tmp_path / "run")
    assert digest(tmp_path / "run") != digest(reference)


def test_samples_and_logs_and_checkpoints_do_not_change_the_weights(
    tiny_config, tiny_run, tiny_data, tmp_path
):
    settings = ["train.sample_every=2", "train.log_every=4", "train.checkpoint_every=6"]
    train(overlaid(tiny_config, settings), tiny_data, tmp_path / "run")
    assert digest(tmp_path / "run") == digest(tiny_run)
    samples = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert samples == [f"step_00000{step}.png" for step in (0, 2, 4, 6)]
    assert sorted(path.name for path in (tiny_run / "samples").iterdir()) == [
        "step_000000.png",
        "step_000006.png",
    ]
    assert steps_logged(tmp_path / "run") == [4, 6]


def test_resumable_settings_may_change_and_the_result_stays(
    config, half, reference, tiny_data, tmp_path
):
    settings = ["checkpoint_every=1", "sample_every=11", "log_every=5", "workers=1"]
    changed = overlaid(config, [f"train.{setting}" for setting in settings])
    train(changed, tiny_data, half, resume=True)
    assert digest(half) == digest(reference)
    assert RunFolder(half).read_config() == changed


def test_frozen_setting_may_not_change_on_resume(config, half, tiny_data):
    before = digest(half)
    changed = overlaid(config, ["loss.cycle=5", "train.steps=13"])
    with pytest.raises(
        UsageError, match=r"config\.yaml: .*loss\.cycle: 4\.0 -> 5\.0, train\.steps: 12 -> 13"
    ):
        train(changed, tiny_data, half, resume=True)
    assert digest(half) == before
    assert RunFolder(half).read_config().loss.cycle == 4.0


def test_changed_data_is_refused_on_resume(config, half, tiny_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    shutil.copyfile(data / "trainA" / "ct_00.png", data / "trainA" / "ct_01.png")
    log = (half / "log.jsonl").read_bytes()
    with pytest.raises(
        CheckpointError, match="the training data or their preparation have changed"
    ):
        train(config, data, half, resume=True)
    assert (half / "log.jsonl").read_bytes() == log


def test_data_moved_elsewhere_are_the_same_data(config, half, reference, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "elsewhere")
    train(config, tmp_path / "elsewhere", half, resume=True)
    assert digest(half) == digest(reference)


@pytest.mark.parametrize(("key", "was"), [("threads", 64), ("torch", "2.9.0")])
def test_change_of_machine_or_versions_on_resume_is_a_warning(
    config, half, tiny_data, caplog, key, was
):
    def change(header):
        header["exact"][key] = was

    forge(half, header_change=change)
    with caplog.at_level(logging.WARNING):
        train(config, tiny_data, half, resume=True, stop_after=9)
    assert f"exactness lost: {key} was {was} and is " in caplog.text


def test_finished_run_that_is_resumed_stays_as_it_is(reference, config, tiny_data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    summary = train(config, tiny_data, run, resume=True)
    assert (summary.steps, summary.resumed_from, summary.seconds_per_step_median) == (12, 12, None)
    assert digest(run) == digest(reference)
    assert steps_logged(run) == list(range(1, 13))


# A damaged or lost checkpoint


@pytest.fixture(scope="module")
def recovered(stopped, config, tiny_data, tmp_path_factory):
    """A run whose newest checkpoint has a flipped byte and whose log goes on behind it, resumed."""
    run = tmp_path_factory.mktemp("recovered") / "run"
    shutil.copytree(stopped, run)
    newest = checkpoints(run / "checkpoints")[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 9, "loss_g": 1.0}) + '\n{"step": 10, "lo')
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("ctmr").addHandler(handler)
    try:
        summary = train(config, tiny_data, run, resume=True)
    finally:
        logging.getLogger("ctmr").removeHandler(handler)
    return run, newest, summary, messages


def test_run_goes_on_from_the_checkpoint_before_the_damaged_one(recovered, reference):
    run, _, summary, _ = recovered
    assert summary.resumed_from == 4
    assert digest(run) == digest(reference)


def test_damaged_checkpoint_is_kept_aside_and_a_warning_names_it(recovered):
    run, newest, _, messages = recovered
    assert (run / "checkpoints" / "bad" / newest.name).is_file()
    assert any(newest.name in message and "damaged" in message for message in messages)


def test_log_of_a_killed_and_resumed_run_has_every_step_once(recovered):
    run = recovered[0]
    assert steps_logged(run) == list(range(1, 13))
    for line in (run / "log.jsonl").read_text().splitlines():
        json.loads(line)


def test_run_without_a_sound_checkpoint_is_not_started_anew(config, half, tiny_data):
    for path in checkpoints(half / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="found none that is sound") as caught:
        train(config, tiny_data, half, resume=True)
    assert caught.value.exit_code == 5


def test_two_checkpoints_are_kept(half):
    names = [path.name[:14] for path in checkpoints(half / "checkpoints")]
    assert names == ["step_000000008", "step_000000004"]


# Divergence


def test_loss_that_is_not_finite_ends_the_training_and_is_not_saved(config, half, tiny_data):
    def spoil(tensors):
        tensors["model.D_Y.body.11.bias"].fill_(1e25)  # its square is infinite

    name = forge(half, tensor_change=spoil).name
    with pytest.raises(DivergedError, match=r"training diverged: step 9, .*loss_g inf") as caught:
        train(overlaid(config, ["train.checkpoint_every=1"]), tiny_data, half, resume=True)
    assert caught.value.exit_code == 6
    assert checkpoints(half / "checkpoints")[0].name == name
    assert all(torch.isfinite(value).all() for value in tensors_of(half).values())
    last = (half / "log.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["step"] == 9
    assert "Infinity" not in last


# What is written


def test_summary_says_what_was_done(tiny_run, tiny_config, tiny_data, tmp_path):
    summary = train(tiny_config, tiny_data, tmp_path / "run", stop_after=2)
    assert summary.run == str(tmp_path / "run")
    assert (summary.steps, summary.resumed_from) == (2, None)
    assert summary.seconds >= 2 * summary.seconds_per_step_median > 0
    assert summary.peak_rss_mb > 50


def test_run_has_the_files_of_the_contract(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    assert names >= {
        "config.yaml",
        "run.lock",
        "log.jsonl",
        "samples",
        "losses_generators.png",
        "losses_D_ct.png",
        "losses_D_mr.png",
        "checkpoints",
        "model",
        "report.html",
    }
    assert not [name for name in names if name.startswith(".")]


def test_log_has_the_keys_of_the_contract_and_the_schedule(reference, config):
    rows = read_log(reference / "log.jsonl")
    keys = "step epoch lr loss_g gan cycle identity loss_d_ct loss_d_mr grad_g grad_d"
    keys += " seconds_per_step data_wait"
    for row in rows:
        assert row.keys() >= set(keys.split())
        assert all(math.isfinite(value) for value in row.values())
        assert row["lr"] == learning_rate(row["step"] - 1, 12, config.train.learning_rate)
        assert row["loss_g"] == pytest.approx(row["gan"] + 4 * row["cycle"] + 8 * row["identity"])
        assert 0 <= row["data_wait"] <= 1
    assert [row["epoch"] for row in rows] == [0] * 10 + [1] * 2


def test_stopping_early_leaves_the_schedule(half, reference):
    rates = [[row["lr"] for row in read_log(run / "log.jsonl")][:8] for run in (half, reference)]
    assert rates[0] == rates[1]
    assert RunFolder(half).read_config().train.steps == 12


def test_observer_sees_every_step_and_the_length_of_the_schedule(tiny_config, tiny_data, tmp_path):
    seen = []
    train(
        overlaid(tiny_config, ["train.log_every=100"]),
        tiny_data,
        tmp_path / "run",
        stop_after=3,
        observer=lambda row, total: seen.append((row["step"], total)),
    )
    assert seen == [(1, 6), (2, 6), (3, 6)]


def test_losses_on_a_gpu_are_read_with_the_lines_of_the_log_only(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    class Queueing(Runtime):
        def __init__(self, precision, device):
            super().__init__(precision, device)
            self.queues = True

    monkeypatch.setattr("ctmr.training.start.Runtime", Queueing)
    seen = []
    config = overlaid(tiny_config, ["train.log_every=2"])
    train(config, tiny_data, tmp_path / "run", observer=lambda row, _: seen.append(row))
    losses = [row["loss_g"] for row in seen]
    assert [row["step"] for row in seen] == [1, 2, 3, 4, 5, 6]
    assert losses[1] == losses[2] != losses[3] == losses[4] != losses[5]
    monkeypatch.undo()
    train(config, tiny_data, tmp_path / "plain")
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("run", "plain")]
    for rows in logs:
        for row in rows:
            assert row.pop("seconds_per_step") > 0
            del row["data_wait"]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_draws_nothing_from_global_generators(
    tiny_config, tiny_data, tiny_run, tmp_path, workers
):
    def states():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    config = overlaid(tiny_config, [f"train.workers={workers}", "loss.cycle_noise=0.1"])
    train(config, tiny_data, tmp_path / "run", init=tiny_run, stop_after=2)
    train(config, tiny_data, tmp_path / "run", resume=True, stop_after=3)
    assert states() == before


# What is refused


def test_run_is_not_trained_over_without_resume(tiny_run, tiny_config, tiny_data):
    before = digest(tiny_run)
    with pytest.raises(UsageError, match=r"already holds a run\. Fix: add --resume"):
        train(tiny_config, tiny_data, tiny_run)
    assert digest(tiny_run) == before


def test_resume_without_a_run_is_refused(tiny_config, tiny_data, tmp_path):
    with pytest.raises(UsageError, match=r"expected a run with config\.yaml, found none"):
        train(tiny_config, tiny_data, tmp_path / "run", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_two_trainings_in_one_folder_are_refused(tiny_config, tiny_data, half, tmp_path, resume):
    run = half if resume else tmp_path / "new"
    with (
        RunFolder(run).locked(),
        pytest.raises(OutputError, match=r"another process is training in it \(pid \d+ on "),
    ):
        train(tiny_config, tiny_data, run, resume=resume)


def test_run_that_another_process_made_while_data_were_prepared_is_not_trained_over(
    tiny_config, tiny_data, tiny_run, tmp_path, monkeypatch
):
    run = tmp_path / "run"

    def slow(*arguments, **options):
        shutil.copytree(tiny_run, run)  # another process was faster
        return prepare_now(*arguments, **options)

    monkeypatch.setattr("ctmr.training.start.prepare", slow)
    with pytest.raises(UsageError, match="already holds a run"):
        train(tiny_config, tiny_data, run)
    assert digest(run) == digest(tiny_run)


@pytest.mark.parametrize(("generator", "size"), [("resnet", 34), ("resnet34", 32)])
def test_size_that_does_not_fit_the_networks_is_refused_before_anything_is_written(
    tiny_config, tiny_data, tmp_path, generator, size
):
    config = overlaid(tiny_config, [f"network.generator={generator}", f"data.size={size}"])
    with pytest.raises(UsageError, match=rf"data\.size must be a multiple of \d+ .*found {size}"):
        train(config, tiny_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resume_and_init_exclude_each_other(tiny_config, tiny_data, tiny_run, half):
    with pytest.raises(
        UsageError, match=r"--resume and --init exclude each other\. Fix: leave out one"
    ):
        train(tiny_config, tiny_data, half, resume=True, init=tiny_run)


@pytest.mark.parametrize("stop_after", [0, -1])
def test_stop_before_the_first_step_is_refused(tiny_config, tiny_data, tmp_path, stop_after):
    with pytest.raises(UsageError, match=f"--stop-after must be at least 1: found {stop_after}"):
        train(tiny_config, tiny_data, tmp_path / "run", stop_after=stop_after)
    assert not (tmp_path / "run").exists()


# Starting from a model


def test_init_takes_all_four_networks_and_a_fresh_optimiser(
    tiny_config, tiny_data, tiny_run, tmp_path
):
    state = new_state(overlaid(tiny_config, ["seed=8"]), CPU)
    load_weights(tiny_run, state, tiny_config)
    model = read_model(tiny_run)
    expected = {
        "G": model.generators["ct-to-mr"],
        "F": model.generators["mr-to-ct"],
        "D_X": model.discriminators["ct"],
        "D_Y": model.discriminators["mr"],
    }
    for name, network in expected.items():
        for key, value in network.state_dict().items():
            assert torch.equal(state.model.get_submodule(name).state_dict()[key], value)
            if name in state.ema:
                assert torch.equal(state.ema.get_submodule(name).state_dict()[key], value)
    assert state.step == 0
    assert not state.optimiser_g.state
    assert not state.optimiser_d.state


def test_training_from_a_model_begins_with_its_weights(tiny_config, tiny_data, tiny_run, tmp_path):
    config = overlaid(tiny_config, ["train.learning_rate=1e-12", "seed=8", "train.steps=1"])
    train(config, tiny_data, tmp_path / "run", init=tiny_run)
    start, after = tensors_of(tiny_run), tensors_of(tmp_path / "run")
    for name, value in after.items():
        if name.startswith("model.D"):
            assert torch.allclose(value, start[name], rtol=0, atol=1e-10)
        elif name.startswith("model."):  # a model's generators are the averaged ones
            assert torch.allclose(value, start[name.replace("model.", "ema.")], rtol=0, atol=1e-10)
        elif name.endswith(".step"):
            assert value == 1
    assert len(read_log(tmp_path / "run" / "log.jsonl")) == 1


# Signals and real processes


def test_signal_ends_the_training_after_a_complete_checkpoint(
    config, reference, tiny_data, tmp_path
):
    def send(row, _):
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="stopped at step 3 of 12 by signal 15") as caught:
        train(config, tiny_data, tmp_path / "run", observer=send)
    assert caught.value.exit_code == 143
    assert checkpoints(tmp_path / "run" / "checkpoints")[0].name.startswith("step_000000003.")
    assert (tmp_path / "run" / "report.html").is_file()
    train(config, tiny_data, tmp_path / "run", resume=True)
    assert digest(tmp_path / "run") == digest(reference)


@pytest.fixture(scope="module")
def process_config(config):
    return overlaid(config, ["train.steps=30", "train.checkpoint_every=3"])


@pytest.fixture(scope="module")
def process_reference(process_config, tiny_data, tmp_path_factory):
    """The run of 30 steps that was never stopped."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train(overlaid(process_config, ["train.checkpoint_every=100"]), tiny_data, run)
    return digest(run)


def interrupted(config, data, run, step, number):
    """Start a training in a process of its own and send it a signal once that step is in its log."""
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.parent / "config.yaml"
    file.write_text(config_yaml(config))
    command = [
        sys.executable,
        "-c",
        CLI,
        "train",
        str(data),
        "--out",
        str(run),
        "--config",
        str(file),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(read_log(run / "log.jsonl")) < step and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(number)
        output = process.communicate(timeout=120)
    return process.returncode, output


def test_killed_process_goes_on_as_if_never_killed(
    process_config, process_reference, tiny_data, tmp_path
):
    run = tmp_path / "run"
    code, _ = interrupted(process_config, tiny_data, run, 5, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert steps_logged(run)[-1] < 30
    command = [sys.executable, "-c", CLI, "train", str(tiny_data), "--out", str(run), "--resume"]
    command += ["--set", "train.checkpoint_every=100", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["resumed_from"] in range(3, 30, 3)
    assert digest(run) == process_reference
    assert steps_logged(run) == list(range(1, 31))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_process_that_is_told_to_stop_leaves_a_checkpoint_and_its_exit_code(
    process_config, process_reference, tiny_data, tmp_path, number, code
):
    run = tmp_path / "run"
    found, (_, errors) = interrupted(process_config, tiny_data, run, 4, number)
    assert found == code, errors
    assert errors.splitlines()[-1].startswith("error[E130]: ")
    assert errors.rstrip().endswith("Fix: go on with --resume.")
    assert "Traceback" not in errors
    last = steps_logged(run)[-1]
    assert checkpoints(run / "checkpoints")[0].name.startswith(f"step_{last:09d}.")
    assert 4 <= last < 30
    train(overlaid(process_config, ["train.checkpoint_every=100"]), tiny_data, run, resume=True)
    assert digest(run) == process_reference
