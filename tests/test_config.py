import math

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ctmr.config import (
    PRESETS,
    Config,
    config_yaml,
    differing_keys,
    load_config,
    overlaid,
    parse_config,
    schedule_steps,
    with_steps,
)
from ctmr.cyclegan.cyclegan import check_size, generator_of
from ctmr.errors import UsageError
from ctmr.system.yaml import read_yaml
from ctmr.training.run_folder import RESUMABLE

SMALL = PRESETS["small"]

# Key -> smallest and largest value allowed; None where the end itself is not allowed.
RANGES = {
    "seed": (0, 2**63 - 1),
    "data.size": (32, 2048),
    "data.pixel_mm": (0.1, 10.0),
    "network.blocks": (1, 64),
    "network.filters": (4, 256),
    "network.discriminator_filters": (4, 256),
    "loss.adversary": (0.0, 1000.0),
    "loss.cycle": (0.0, 1000.0),
    "loss.identity": (0.0, 1000.0),
    "loss.structure": (0.0, 1000.0),
    "loss.cycle_noise": (0.0, 1.0),
    "loss.truth": (0.0, 1000.0),
    "loss.half_real": (0.0, 1000.0),
    "loss.pairs": (0.0, 1000.0),
    "train.steps": (1, 100_000_000),
    "train.epochs": (1, 100_000),
    "train.batch_size": (1, 1024),
    "train.learning_rate": (None, 1.0),
    "train.history": (0, 10_000),
    "train.ema": (0.0, None),
    "train.checkpoint_every": (1, 100_000_000),
    "train.sample_every": (1, 100_000_000),
    "train.evaluate_every": (1, 100_000_000),
    "train.log_every": (1, 100_000_000),
    "train.workers": (0, 64),
}
LIMITS = {"train.learning_rate": 0.0, "train.ema": 1.0}  # ends that are not allowed themselves
CHOICES = {
    "data.channels": (1, 3),
    "data.ct_window": ("wide", "brain", "piecewise"),
    "data.flip": (False, True),
    "data.match_heights": (False, True),
    "data.patient_pattern": (None, "(p[0-9]+)"),
    "network.generator": ("resnet", "resnet34", "resnet50", "unet"),
    "network.upsample": ("deconvolution", "nearest"),
    "network.skips": (False, True),
    "network.initialisation": ("normal", "uniform"),
    "train.start": ("random", "bundled"),
    "train.precision": ("auto", "float32", "bfloat16"),
    "train.tensorboard": (False, True),
}


def flat(settings, prefix=""):
    found = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


KEYS = sorted(flat(SMALL.model_dump()))


def with_value(key, value):
    """The settings of the preset `small` with one changed."""
    settings = SMALL.model_dump()
    *sections, name = key.split(".")
    place = settings
    for section in sections:
        place = place[section]
    place[name] = value
    return settings


def set_to(key, value):
    return flat(parse_config(with_value(key, value), source="here").model_dump())[key]


def refused(key, value):
    with pytest.raises(UsageError, match=rf"^here: {key} = .*Fix: change {key}"):
        parse_config(with_value(key, value), source="here")


# Values


def test_every_key_is_in_the_tables_of_this_test():
    assert sorted([*RANGES, *CHOICES]) == KEYS


@pytest.mark.parametrize("key", RANGES)
def test_number_may_be_at_the_ends_of_its_range(key):
    for end in RANGES[key]:
        if end is not None:
            assert set_to(key, end) == end


@pytest.mark.parametrize("key", RANGES)
def test_number_outside_its_range_is_refused(key):
    low, high = RANGES[key]
    step = 1 if isinstance(high, int) else 1e-9
    refused(key, LIMITS[key] if low is None else low - step)
    refused(
        key,
        LIMITS[key] if high is None else high + max(step, 1e-6 * high * isinstance(high, float)),
    )


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [1], {"a": 1}, b"1"], ids=repr)
def test_value_of_no_use_is_refused(key, value):
    refused(key, value)


@pytest.mark.parametrize(
    "key",
    [
        key
        for key in KEYS
        if key not in ("data.flip", "data.match_heights", "network.skips", "train.tensorboard")
    ],
)
def test_bool_is_not_taken_for_a_number_or_a_name(key):
    refused(key, True)
    refused(key, False)


@pytest.mark.parametrize("key", [key for key, (_, high) in RANGES.items() if isinstance(high, int)])
def test_float_and_text_are_not_taken_for_a_whole_number(key):
    refused(key, 64.0)
    refused(key, "64")


@pytest.mark.parametrize("key", RANGES)
@pytest.mark.parametrize("value", [10**400, -(10**30)], ids=["huge", "negative"])
def test_huge_number_is_refused_in_a_short_line(key, value):
    with pytest.raises(UsageError, match=key) as caught:
        parse_config(with_value(key, value), source="here")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("key", ["loss.cycle", "train.learning_rate"])
def test_whole_number_is_taken_for_a_float(key):
    value = set_to(key, 1)
    assert value == 1.0
    assert isinstance(value, float)


@pytest.mark.parametrize("key", CHOICES)
def test_choice_takes_its_values_and_no_other(key):
    for value in CHOICES[key]:
        assert set_to(key, value) == value
    for value in (2, 1.0, "none", "Wide", ""):
        if not (key == "data.patient_pattern" and isinstance(value, str)):
            refused(key, value)


@pytest.mark.parametrize(
    "key", [key for key in KEYS if key not in ("train.steps", "data.patient_pattern")]
)
def test_null_is_refused_where_there_is_no_default(key):
    refused(key, None)


@pytest.mark.parametrize("key", ["seed", "loss", "loss.cycle", "data.size"])
def test_missing_key_is_named(key):
    settings = SMALL.model_dump()
    *sections, name = key.split(".")
    place = settings
    for section in sections:
        place = place[section]
    del place[name]
    with pytest.raises(UsageError, match=rf"^here: {key}: field required\. Fix: change {key}"):
        parse_config(settings, source="here")


def test_unknown_key_of_a_whole_configuration_is_refused():
    settings = SMALL.model_dump()
    settings["loss"]["identy"] = 1.0
    with pytest.raises(UsageError, match=r"loss\.identy = 1\.0: extra inputs are not permitted"):
        parse_config(settings, source="here")


def test_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        SMALL.train.batch_size = 2


def test_every_setting_is_documented_and_every_number_has_both_ends():
    sections = [
        Config,
        *(type(getattr(SMALL, name)) for name in ("data", "network", "loss", "train")),
    ]
    for section in sections:
        for name, field in section.model_fields.items():
            if name not in ("data", "network", "loss", "train"):
                assert field.description, name
    assert all(len(ends) == 2 for ends in RANGES.values())


# Files and --set


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.batchsize=2", "train.batch_size"),
        ("loss.lambda_cycle=2", "loss.cycle"),
        ("dat.size=64", "data"),
        ("sed=1", "seed"),
        ("data.sizes=64", "data.size"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_one(key, nearest):
    name = key.partition("=")[0].removesuffix(".size")
    with pytest.raises(
        UsageError, match=rf"unknown key '{name}' in --set\. Fix: did you mean '"
    ) as caught:
        load_config("small", overrides=[key])
    assert caught.value.fix == f"did you mean '{nearest}'"


def test_unknown_key_in_a_file_is_refused_with_the_file(tmp_path):
    file = tmp_path / "paper.yaml"
    file.write_text("train:\n  batchsize: 2\n")
    with pytest.raises(
        UsageError, match=r"'train\.batchsize' in .*paper\.yaml.*'train\.batch_size'"
    ):
        load_config("small", file)


def test_unknown_preset_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"unknown preset 'papper': expected paper, .*'paper'"):
        load_config("papper")


@pytest.mark.parametrize("item", ["data.size", "", "small"])
def test_override_without_a_value_is_refused(item):
    with pytest.raises(UsageError, match="expected key=value, found"):
        load_config("small", overrides=[item])


@pytest.mark.parametrize("item", ["data=3", "loss=", "train=[1]"])
def test_group_of_settings_is_not_a_value(item):
    with pytest.raises(UsageError, match=r"is a group of settings, found .*Fix: set one of"):
        load_config("small", overrides=[item])


@pytest.mark.parametrize("item", ["data.size.x=1", "seed.x=1"])
def test_setting_is_not_a_group(item):
    key = item.rpartition(".")[0]
    with pytest.raises(UsageError, match=rf"{key} = {{'x': 1}}: input should be"):
        load_config("small", overrides=[item])


@pytest.mark.parametrize(
    ("item", "key", "value"),
    [
        ("train.learning_rate=2e-4", "train.learning_rate", 2e-4),
        ("train.learning_rate=1", "train.learning_rate", 1.0),
        ("train.steps=1000", "train.steps", 1000),
        ("train.steps=null", "train.steps", None),
        ("data.flip=false", "data.flip", False),
        ("data.ct_window=brain", "data.ct_window", "brain"),
        ("data.patient_pattern='=(.*)'", "data.patient_pattern", "=(.*)"),
        (r"data.patient_pattern=(p\d+)_", "data.patient_pattern", r"(p\d+)_"),
    ],
)
def test_override_is_read_as_yaml(item, key, value):
    assert flat(load_config("small", overrides=[item]).model_dump())[key] == value


@pytest.mark.parametrize("value", ["1e999", ".nan", "-.inf", "true", "1e-400x"])
def test_override_of_no_use_is_refused(value):
    with pytest.raises(UsageError, match=r"--set: train\.learning_rate = "):
        load_config("small", overrides=[f"train.learning_rate={value}"])


def test_file_overlays_the_preset_and_overrides_overlay_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 4\nloss: {cycle: 2, identity: 1}\n")
    config = load_config("small", file, ["loss.cycle=3"])
    assert (config.seed, config.loss.cycle, config.loss.identity) == (4, 3.0, 1.0)
    assert config.data == SMALL.data


def test_overlaid_changes_one_setting():
    changed = overlaid(SMALL, ["train.workers=2"])
    assert differing_keys(SMALL, changed) == {"train.workers": (SMALL.train.workers, 2)}


@pytest.mark.parametrize("name", PRESETS)
def test_configuration_as_yaml_comes_back_unchanged(tmp_path, name):
    file = tmp_path / "config.yaml"
    file.write_text(config_yaml(PRESETS[name]))
    assert parse_config(read_yaml(file), source="file") == PRESETS[name]
    assert load_config("default", file) == PRESETS[name]


@given(
    st.floats(0, 1000, allow_nan=False),
    st.floats(1e-300, 1),
    st.integers(0, 2**63 - 1),
    st.one_of(st.none(), st.from_regex(r"\A[ -~]{0,9}\([ -~]{0,9}\)\Z")),
)
def test_any_value_as_yaml_comes_back_unchanged(cycle, rate, seed, pattern):
    settings = with_value("loss.cycle", cycle)
    settings["train"]["learning_rate"], settings["seed"] = rate, seed
    settings["data"]["patient_pattern"] = pattern
    config = parse_config(settings, source="here")
    assert parse_config(yaml.safe_load(config_yaml(config)), source="here") == config


def test_differing_keys_names_old_and_new():
    other = overlaid(SMALL, ["loss.cycle=7", "seed=9"])
    assert differing_keys(SMALL, other) == {
        "loss.cycle": (SMALL.loss.cycle, 7.0),
        "seed": (SMALL.seed, 9),
    }
    assert differing_keys(SMALL, SMALL) == {}


def test_resumable_settings_exist_and_those_of_the_data_and_networks_are_frozen():
    assert set(KEYS) >= RESUMABLE
    assert not {key for key in RESUMABLE if not key.startswith("train.")}


# Length


def test_steps_set_the_schedule_and_epochs_take_their_place():
    assert with_steps(SMALL, 500, None).train.steps == 500
    by_epochs = with_steps(with_steps(SMALL, 500, None), None, 3)
    assert (by_epochs.train.steps, by_epochs.train.epochs) == (None, 3)
    assert with_steps(SMALL, None, None) == SMALL


@pytest.mark.parametrize(
    ("steps", "epochs", "source"), [(0, None, "--steps"), (None, -1, "--epochs")]
)
def test_length_outside_its_range_is_refused_with_the_option(steps, epochs, source):
    with pytest.raises(UsageError, match=f"^{source}: train"):
        with_steps(SMALL, steps, epochs)


@pytest.mark.parametrize(
    ("steps", "epochs", "batch_size", "images", "expected"),
    [
        (None, 200, 1, 10, 2000),
        (None, 3, 4, 10, 8),  # 30 images make 7.5 batches
        (None, 1, 1, 2486, 2486),
        (123, 200, 4, 10, 123),
    ],
)
def test_epoch_is_as_long_as_the_larger_folder(steps, epochs, batch_size, images, expected):
    config = with_steps(overlaid(SMALL, [f"train.batch_size={batch_size}"]), None, epochs)
    assert schedule_steps(with_steps(config, steps, None), images) == expected


# Presets

PAPER = {
    # issue 2, the paper's table
    "data.channels": 3,
    "data.flip": True,
    "data.match_heights": False,
    "data.pixel_mm": 1.0,
    "loss.cycle": 4.0,
    "loss.identity": 8.0,
    "train.epochs": 200,
    "train.batch_size": 1,
    "train.learning_rate": 0.0002,
    # where the paper is silent: as in Zhu et al. 2017, and nothing that is not in the paper
    "data.size": 256,
    "network.filters": 64,
    "network.upsample": "deconvolution",
    "network.discriminator_filters": 64,
    "network.initialisation": "normal",
    "network.skips": False,
    "loss.structure": 0.0,
    "loss.cycle_noise": 0.0,
    "train.history": 50,
    "train.steps": None,
    "train.ema": 0.0,
    "train.precision": "float32",
}


@pytest.mark.parametrize("key", PAPER)
def test_preset_paper_has_the_value_of_the_paper(key):
    assert flat(PRESETS["paper"].model_dump())[key] == PAPER[key]


def test_preset_paper_takes_resnet34_in_one_of_its_two_readings():
    network = PRESETS["paper"].network
    assert network.generator == "resnet34" or (network.generator, network.blocks) == ("resnet", 16)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_a_size_that_its_networks_can_take(name):
    check_size(PRESETS[name])
    assert parse_config(PRESETS[name].model_dump(), source=name) == PRESETS[name]


@pytest.mark.parametrize("name", ["default", "small"])
def test_presets_for_use_have_one_channel_an_average_and_no_checkerboards(name):
    preset = PRESETS[name]
    assert preset.data.channels == 1
    assert preset.train.ema > 0.9
    assert preset.train.precision == "auto"
    assert preset.network.upsample == "nearest"


def test_preset_small_is_for_176_pixels():
    assert SMALL.data.size == 176


def test_generator_of_the_default_preset_costs_at_most_7_gmac_at_256_pixels():
    default = PRESETS["default"]
    with torch.device("meta"):
        generator = generator_of(default.network, default.data.channels)
    counted = []

    def count(layer, inputs, output):
        outward = isinstance(layer, nn.ConvTranspose2d)
        pixels = (inputs[0] if outward else output).numel()
        other = layer.out_channels if outward else layer.in_channels
        counted.append(pixels * other * math.prod(layer.kernel_size))

    for layer in generator.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    generator(torch.empty(1, 1, 256, 256, device="meta"))
    assert 0 < sum(counted) <= 7e9
