import hashlib
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ctmr import load_model
from ctmr.cyclegan.cyclegan import CycleGAN
from ctmr.cyclegan.state import new_state
from ctmr.errors import CheckpointError, OutputError
from ctmr.imaging.image import Image
from ctmr.models.card import UNSEALED, sealed
from ctmr.models.folder import load_weights, read_model, save_model
from ctmr.models.lookup import model_folder
from ctmr.results import Correlation

FILES = (
    "model.json",
    "generator_ct_to_mr.safetensors",
    "generator_mr_to_ct.safetensors",
    "discriminator_ct.safetensors",
    "discriminator_mr.safetensors",
)


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a model folder."""
    return Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))


def card(folder: Path) -> dict:
    return json.loads((folder / "model.json").read_text())


def rewrite(folder: Path, **changes: object) -> None:
    """Change what `model.json` says, with a hash that is right; None leaves a key out."""
    content = card(folder) | changes | {"sha256": UNSEALED.decode()}
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / "model.json").write_bytes(sealed(json.dumps(kept)))


# Which folder


def test_run_and_model_folder_are_one_model(tiny_run):
    assert model_folder(tiny_run) == model_folder(tiny_run / "model") == tiny_run / "model"
    assert {path.name for path in (tiny_run / "model").iterdir()} == {*FILES, "README.md"}


@pytest.mark.parametrize("place", ["", "nothing", "file"])
def test_folder_without_a_model_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"expected a run or a model folder with model\.json"):
        load_model(tmp_path / place)


def test_model_needs_nothing_but_its_folder(tiny_run, folder):
    scan = Image(np.full((40, 40), 99, np.float32), "grey", 8)
    first, second = load_model(tiny_run), load_model(folder)
    assert np.array_equal(
        first.translate(scan, to="mr").array, second.translate(scan, to="mr").array
    )


def test_model_is_read_from_what_was_set_aside_while_a_new_one_is_put_in_place(tiny_run, tmp_path):
    """A process can be killed between two renames, where a file system cannot exchange folders."""
    shutil.copytree(tiny_run / "model", tmp_path / ".model.old")
    for named in (tmp_path, tmp_path / "model"):
        assert model_folder(named) == tmp_path / ".model.old"


# What it says


def test_card_says_what_the_model_is(folder, tiny_config):
    content = card(folder)
    assert content["notice"].startswith("Research use only.")
    assert content["network"] == tiny_config.network.model_dump()
    assert content["data"] == tiny_config.data.model_dump()
    assert content["provenance"]["steps"] == 6
    assert content["provenance"]["config"] == tiny_config.model_dump()
    assert {"ctmr", "torch", "data", "images"} <= content["provenance"].keys()
    assert set(content["files"]) == set(FILES[1:])
    assert set(content["training"]["ct"]) == {"ranges", "cycle_error", "distribution"}


def test_generators_of_the_model_are_the_averaged_ones(tiny_config, tmp_path):
    state = new_state(tiny_config, torch.device("cpu"))
    with torch.no_grad():
        for parameter in state.ema.parameters():
            parameter.fill_(0.25)
    save_model(tmp_path / "model", state, card_of(tiny_config))
    model = read_model(tmp_path)
    for generator in model.generators.values():
        assert all((p == 0.25).all() for p in generator.parameters())
        assert not any(p.requires_grad for p in generator.parameters())
        assert not generator.training
    for name, network in (("D_X", "ct"), ("D_Y", "mr")):
        own = state.model.get_submodule(name).state_dict()
        theirs = model.discriminators[network].state_dict()
        assert all(torch.equal(own[key], theirs[key]) for key in own)


def card_of(config) -> dict:
    """A `model.json` without hashes."""
    anywhere = {"mean": [0.0] * 7, "inverse": [[0.0] * 7] * 7}
    usual = {"ranges": {}, "cycle_error": 1.0, "distribution": anywhere}
    grey = {"8-bit": {"unit": "grey", "values": [0, 255], "levels": [-1, 1]}}
    return {
        "network": config.network.model_dump(),
        "data": config.data.model_dump(),
        "scale": {"short_side": 36, "pixel_mm": None},
        "intensities": {"ct": grey, "mr": grey},
        "training": {"ct": usual, "mr": usual},
        "provenance": {"steps": 0},
    }


def test_equal_models_have_equal_bytes(tiny_config, tmp_path):
    for name in ("first", "second"):
        state = new_state(tiny_config, torch.device("cpu"))
        save_model(tmp_path / name, state, card_of(tiny_config))
    for file in (*FILES, "README.md"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_model_takes_the_place_of_an_older_one_and_of_what_was_set_aside(tiny_config, tmp_path):
    state = new_state(tiny_config, torch.device("cpu"))
    save_model(tmp_path / "model", state, card_of(tiny_config))
    (tmp_path / ".model.old").mkdir()
    (tmp_path / ".model.old" / "torn").write_text("x")
    save_model(tmp_path / "model", state, card_of(tiny_config) | {"provenance": {"steps": 9}})
    assert read_model(tmp_path).card.provenance == {"steps": 9}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_model_that_cannot_be_written_is_an_output_error(tiny_config, tmp_path):
    (tmp_path / "file").write_text("x")
    state = new_state(tiny_config, torch.device("cpu"))
    with pytest.raises(OutputError, match=r"model: cannot write it \(Not a directory\)"):
        save_model(tmp_path / "file" / "model", state, card_of(tiny_config))


# Damage


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_goes_unseen(folder, name):
    file = folder / name
    content = file.read_bytes()
    rng = np.random.default_rng(len(content))
    many = 1500 if name == "model.json" else 64
    for place in (0, 7, 8, len(content) - 1, *rng.integers(len(content), size=many)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_model(folder)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"version https://git-lfs", None])
def test_damaged_weights_are_named(folder, name, content):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    with pytest.raises(
        CheckpointError, match=r"damaged: expected sha256 \w{16}\.\.\., found"
    ) as caught:
        load_model(folder)
    assert caught.value.file == str(file)


@pytest.mark.parametrize("name", FILES[1:])
def test_missing_weights_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match="cannot read it") as caught:
        load_model(folder)
    assert caught.value.file == str(folder / name)
    assert "copy the whole folder" in caught.value.fix


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"7", b'"text"', b"{}", b"[" * 100_000, b'{"format": NaN'],
)
def test_model_json_that_is_none_is_refused(folder, content):
    (folder / "model.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not a model\.json of ctmr"):
        load_model(folder)


@pytest.mark.parametrize("stated", [1, 4, 0, "2", None, 2.5])
def test_other_format_is_refused(folder, stated):
    content = card(folder) | {"format": stated}
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"expected model format 2 or 3, found") as caught:
        load_model(folder)
    assert "version of ctmr that wrote it" in caught.value.fix


def test_edited_model_json_is_refused(folder):
    content = card(folder)
    content["scale"]["short_side"] = 72
    (folder / "model.json").write_text(json.dumps(content, indent=1) + "\n")
    with pytest.raises(CheckpointError, match=r"model\.json: damaged: expected sha256"):
        load_model(folder)
    del content["sha256"]
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(folder)


@pytest.mark.parametrize(
    "key", ["network", "data", "scale", "intensities", "training", "provenance", "files"]
)
def test_missing_block_is_named(folder, key):
    rewrite(folder, **{key: None})
    with pytest.raises(
        CheckpointError, match=rf"not a model\.json of ctmr .*{key}: Field required"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("provenance", "none"),
        ("scale", {"short_side": "many"}),
        ("intensities", {"ct": {}, "us": {}}),
        ("intensities", {"ct": {"8-bit": {"unit": "grey", "values": [1, 0], "levels": [-1, 1]}}}),
        ("training", {"ct": {"ranges": {}}}),
        ("network", {"generator": "vgg"}),
        ("correlations", {"mr-to-us": {}}),
        ("correlations", {"mr-to-ct": {"luck": None}}),
        ("correlations", {"mr-to-ct": {"cycle_error": {"spearman": 0.5}}}),
    ],
)
def test_foreign_block_is_named(folder, key, value):
    rewrite(folder, **{key: value})
    with pytest.raises(CheckpointError, match=rf"not a model\.json of ctmr .*{key}"):
        load_model(folder)


def test_correlations_of_the_measures_of_uncertainty_are_read_where_they_were_measured(folder):
    assert load_model(folder).model.card.correlations is None
    known = {"spearman": 0.5, "ci95": [0.3, 0.7], "n": 24}
    rewrite(folder, correlations={"mr-to-ct": {"cycle_error": known, "disagreement": None}})
    found = load_model(folder)
    assert found.correlations("ct") == {
        "cycle_error": Correlation(0.5, (0.3, 0.7), 24),
        "disagreement": None,
        "input_distance": None,
    }
    assert set(found.correlations("mr").values()) == {None}


def test_rewritten_model_json_with_its_hash_is_read(folder):
    rewrite(folder, provenance={"steps": 1})
    assert load_model(folder).model.card.provenance == {"steps": 1}


@pytest.mark.parametrize(
    ("block", "change", "why"),
    [
        ("network", {"filters": 8}, "must be"),
        ("network", {"blocks": 2}, "missing or unknown keys"),
        ("network", {"generator": "resnet34"}, "missing or unknown keys"),
        ("network", {"discriminator_filters": 8}, "must be"),
        ("data", {"channels": 3}, "must be"),
    ],
)
def test_weights_of_another_architecture_are_refused(folder, block, change, why):
    rewrite(folder, **{block: card(folder)[block] | change})
    with pytest.raises(CheckpointError, match=why):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("network", ["F", "D_X"])
def test_weights_that_are_not_finite_are_refused(tiny_config, tmp_path, network, value):
    state = new_state(tiny_config, torch.device("cpu"))
    for holder in (state.model, state.ema):
        for name, part in holder.named_children():
            if name == network:
                next(part.parameters()).data.view(-1)[3] = value
    save_model(tmp_path / "model", state, card_of(tiny_config))
    with pytest.raises(CheckpointError, match="must be finite, found NaN or infinity"):
        load_model(tmp_path)


def test_file_of_other_content_with_the_right_hash_is_refused(folder):
    content = b"PK\x03\x04 no safetensors"
    name = FILES[1]
    (folder / name).write_bytes(content)
    rewrite(folder, files=card(folder)["files"] | {name: hashlib.sha256(content).hexdigest()})
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(folder)


A = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize("header", [f"{{{A}, {A}}}", "{" + A.replace("F32", "F4") + "}"])
def test_header_that_torch_cannot_take_or_names_twice_is_refused(folder, header):
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(4)
    name = FILES[1]
    (folder / name).write_bytes(content)
    rewrite(folder, files=card(folder)["files"] | {name: hashlib.sha256(content).hexdigest()})
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(folder)


def test_network_that_no_file_holds_takes_no_memory(folder):
    """256 filters and 64 blocks are 5 GB."""
    huge = {"generator": "resnet", "filters": 256, "blocks": 64}
    rewrite(folder, network=card(folder)["network"] | huge)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="missing or unknown keys"):
        load_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_weights_larger_than_the_network_are_not_read(folder):
    with (folder / FILES[1]).open("ab") as stream:
        stream.truncate(10**10)
    with pytest.raises(CheckpointError, match=r"expected at most .* bytes: found 10000000000"):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("provenance", {}),
        ("provenance", {"steps": float("nan")}),
        ("scale", {"short_side": 0}),
        ("scale", {"short_side": 10**9}),
    ],
)
def test_empty_provenance_and_numbers_of_no_use_are_refused(folder, key, value):
    rewrite(folder, **{key: value})
    with pytest.raises(CheckpointError, match=r"not a model\.json of ctmr"):
        load_model(folder)


# --init


def test_init_takes_the_weights_of_all_four_networks(folder, tiny_config):
    state = new_state(tiny_config.model_copy(update={"seed": 99}), torch.device("cpu"))
    load_weights(folder, state, tiny_config)
    model = read_model(folder)
    expected = {
        "G": model.generators["ct-to-mr"],
        "F": model.generators["mr-to-ct"],
        "D_X": model.discriminators["ct"],
        "D_Y": model.discriminators["mr"],
    }
    assert isinstance(state.model, CycleGAN)
    for name, network in expected.items():
        own = state.model.get_submodule(name).state_dict()
        assert all(torch.equal(own[key], value) for key, value in network.state_dict().items())
    for name in ("G", "F"):
        averaged = state.ema.get_submodule(name).state_dict()
        assert all(torch.equal(averaged[k], v) for k, v in expected[name].state_dict().items())
    assert state.step == 0
    assert not state.optimiser_g.state
    assert not state.optimiser_d.state


@pytest.mark.parametrize("change", [("network", {"blocks": 2}), ("data", {"channels": 3})])
def test_init_refuses_a_model_of_other_networks(folder, tiny_config, change):
    section, update = change
    changed = getattr(tiny_config, section).model_copy(update=update)
    config = tiny_config.model_copy(update={section: changed})
    state = new_state(config, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="the configuration asks for"):
        load_weights(folder, state, config)
