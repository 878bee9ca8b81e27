import re
from pathlib import Path

import pytest

from ctmr.config import overlaid
from ctmr.errors import UsageError
from ctmr.training.run_folder import RESUMABLE, check_config

# Each key with a value that `tiny_config` does not have.
CHANGES = {
    "seed": 4,
    "data.size": 36,
    "data.channels": 3,
    "data.ct_window": "brain",
    "data.flip": False,
    "data.pixel_mm": 2.0,
    "data.match_heights": True,
    "data.patient_pattern": "(x)",
    "network.generator": "resnet34",
    "network.blocks": 2,
    "network.filters": 5,
    "network.upsample": "deconvolution",
    "network.skips": True,
    "network.discriminator_filters": 5,
    "network.initialisation": "uniform",
    "loss.adversary": 0.5,
    "loss.cycle": 5.0,
    "loss.identity": 1.0,
    "loss.structure": 1.0,
    "loss.cycle_noise": 0.1,
    "loss.truth": 1.0,
    "loss.half_real": 0.5,
    "loss.pairs": 2.0,
    "train.start": "bundled",
    "train.steps": 7,
    "train.epochs": 2,
    "train.batch_size": 2,
    "train.learning_rate": 0.1,
    "train.history": 4,
    "train.ema": 0.5,
    "train.precision": "bfloat16",
    "train.checkpoint_every": 4,
    "train.sample_every": 4,
    "train.evaluate_every": 4,
    "train.log_every": 4,
    "train.workers": 2,
    "train.tensorboard": True,
}
FILE = Path("run/config.yaml")


def test_every_setting_is_in_the_table_of_this_test(tiny_config):
    settings = tiny_config.model_dump()
    keys = {"seed"} | {f"{s}.{key}" for s, part in settings.items() if s != "seed" for key in part}
    assert keys == set(CHANGES)


@pytest.mark.parametrize("key", CHANGES)
def test_setting_of_a_resumed_run_is_resumable_or_frozen(tiny_config, key):
    changed = overlaid(tiny_config, [f"{key}={CHANGES[key]}"])
    assert changed != tiny_config
    if key in RESUMABLE:
        check_config(FILE, tiny_config, changed)
        return
    section, _, name = key.rpartition(".")
    old = getattr(getattr(tiny_config, section) if section else tiny_config, name)
    content = re.escape(f"{key}: {old!r} -> {CHANGES[key]!r}")
    with pytest.raises(UsageError, match=rf"^run/config\.yaml: .*{content}\. Fix: leave"):
        check_config(FILE, tiny_config, changed)


def test_all_changed_settings_are_named(tiny_config):
    changed = overlaid(tiny_config, ["seed=9", "loss.cycle=7", "train.workers=1"])
    with pytest.raises(UsageError, match=r"seed: 3 -> 9, loss\.cycle: 4\.0 -> 7\.0\. Fix"):
        check_config(FILE, tiny_config, changed)
