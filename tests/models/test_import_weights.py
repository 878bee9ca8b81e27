import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ctmr import load_model
from ctmr.config import overlaid
from ctmr.cyclegan.state import new_state
from ctmr.errors import CheckpointError, DataError, OutputError, UsageError
from ctmr.imaging.image import Image
from ctmr.io.reading import Reading
from ctmr.models.folder import load_weights, read_model
from ctmr.models.import_weights import import_weights
from ctmr.system.rng import torch_stream
from ctmr.training.import_model import import_model
from support.identity import smooth_head
from support.reference import Patches, Resnet, drawn, save, unet


@pytest.fixture
def pair(tmp_path):
    """The files of two tiny generators, G_A and G_B."""
    return two(tmp_path)


def two(folder: Path, make=Resnet, name="G", **options):
    return tuple(
        save(drawn(make(**options), seed), folder / f"latest_net_{name}_{letter}.pth")
        for seed, letter in enumerate("AB")
    )


def pixels(channels: int, side: int = 20) -> torch.Tensor:
    rng = torch_stream(0, "pixels")
    return torch.rand(1, channels, side, side, generator=rng, dtype=torch.float64) * 2 - 1


def refused(file: Path, good: Path) -> CheckpointError:
    """The error of a bad G_A beside a good G_B."""
    with pytest.raises(CheckpointError) as caught:
        import_weights((file, good), None, ct_is="A")
    assert caught.value.exit_code == 5
    assert caught.value.file == str(file)
    return caught.value


# What is imported


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(("blocks", "filters"), [(1, 4), (6, 6), (9, 5)])
def test_imported_networks_compute_what_those_of_the_reference_do(
    tmp_path, channels, dropout, blocks, filters
):
    options = {"channels": channels, "filters": filters, "blocks": blocks, "dropout": dropout}
    theirs = [drawn(Resnet(**options), seed) for seed in (0, 1)]
    files = [save(net, tmp_path / f"{n}.pth") for n, net in enumerate(theirs)]
    found = import_weights((files[0], files[1]), None, ct_is="A")
    assert dataclasses.astuple(found.shape) == (channels, blocks, filters)
    x = pixels(channels)
    with torch.no_grad():
        for network, direction in zip(theirs, ("ct-to-mr", "mr-to-ct"), strict=True):
            ours = found.generators[direction]
            single = (ours(x.float()) - network(x.float())).abs().max()
            assert single <= 1e-4
            double = (ours.double()(x) - network.double()(x)).abs().max()
            assert double <= 1e-9


def test_a_and_b_become_ct_and_mr_and_each_discriminator_judges_what_it_was_trained_on(tmp_path):
    """In the reference D_A is trained on images of B, beside G_A, which makes them."""
    net_g, net_d = two(tmp_path), two(tmp_path, Patches, "D", filters=6)
    for ct_is, order in (("A", ("mr", "ct")), ("B", ("ct", "mr"))):
        found = import_weights(net_g, net_d, ct_is=ct_is)
        assert found.discriminator_filters == 6
        x = pixels(1, 40)
        for seed, to in enumerate(order):
            direction = "ct-to-mr" if to == "mr" else "mr-to-ct"
            with torch.no_grad():
                ours = found.generators[direction].double()(x)
                assert (ours - drawn(Resnet(), seed).double()(x)).abs().max() <= 1e-9
                ours = found.discriminators[to].double()(x)
                judge = drawn(Patches(filters=6), seed).double()
                assert (ours - judge(x)).abs().max() <= 1e-9


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_old_versions_and_wrappers_are_read(tmp_path, pair, prefix, zipped):
    """Before 0.4 an instance norm of PyTorch had running statistics; before 1.6 a file was no archive."""
    more = {}
    for n, width in ((2, 4), (5, 8), (8, 16)):
        more[f"{prefix}model.{n}.running_mean"] = torch.zeros(width)
        more[f"{prefix}model.{n}.running_var"] = torch.ones(width)
        more[f"{prefix}model.{n}.num_batches_tracked"] = torch.tensor(7)
    options = {"_use_new_zipfile_serialization": zipped}
    old = save(drawn(Resnet(), 0), tmp_path / "o.pth", prefix=prefix, more=more, **options)
    found, plain = (import_weights((file, pair[1]), None, ct_is="A") for file in (old, pair[0]))
    weights = plain.generators["ct-to-mr"].state_dict()
    for key, tensor in found.generators["ct-to-mr"].state_dict().items():
        assert torch.equal(tensor, weights[key])


def test_import_draws_no_random_number(pair):
    before = torch.get_rng_state()
    import_weights(pair, None, ct_is="A")
    assert torch.equal(torch.get_rng_state(), before)


# What is refused


class Evil:
    """Makes a file when unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_code_in_a_pickle_is_named_and_never_run(tmp_path, pair, zipped, beside):
    canary, file = tmp_path / "canary", tmp_path / "evil.pth"
    evil = {**drawn(Resnet(), 0).state_dict(), "evil": Evil(canary)} if beside else Evil(canary)
    torch.save(evil, file, _use_new_zipfile_serialization=zipped)
    assert f"{os.mkdir.__module__}.mkdir" in refused(file, pair[1]).what
    assert not canary.exists()
    torch.load(file, weights_only=False)  # it would have been
    assert canary.exists()


def test_a_whole_network_is_refused_with_how_to_save_its_weights(tmp_path, pair):
    torch.save(Resnet(), tmp_path / "whole.pth")
    error = refused(tmp_path / "whole.pth", pair[1])
    assert "support.reference.Resnet" in error.what
    assert "state_dict()" in error.fix


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path, pair, zipped, share):
    whole = tmp_path / "whole.pth"
    save(drawn(Resnet(), 0), whole, _use_new_zipfile_serialization=zipped)
    content = whole.read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(content[: int(share * len(content))])
    assert "truncated" in refused(cut, pair[1]).what


def test_what_is_larger_once_unpacked_is_refused_before_it_is(tmp_path, pair):
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(pair[0]) as source, zipfile.ZipFile(bomb, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("x/data/0", bytes(2_000_000), compress_type=zipfile.ZIP_DEFLATED)
    assert "bytes" in refused(bomb, pair[1]).what


def test_a_tensor_that_is_larger_than_its_file_is_refused(tmp_path, pair):
    weights = drawn(Resnet(), 0).state_dict()
    weights["model.1.weight"] = torch.zeros(1).expand(2**30)
    torch.save(weights, tmp_path / "wide.pth")
    assert "bytes of tensors" in refused(tmp_path / "wide.pth", pair[1]).what


BAD_NETWORKS = {
    "U-Net": unet,
    "batch norm": lambda: Resnet(norm="batch"),
    "no norm": lambda: Resnet(norm="none"),
    "3 in and 1 out": lambda: Resnet(channels=3, out=1),
    "found 2, 2 and 4": lambda: Resnet(channels=2),
    "found 1, 2 and 2": lambda: Resnet(filters=2),
    "found 1, 0 and 4": lambda: Resnet(blocks=0),
    "discriminator": Patches,
    "weights: 0.bias, 0.weight": lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)),
}


@pytest.mark.parametrize("what", BAD_NETWORKS)
def test_other_networks_are_refused_by_what_they_are(tmp_path, pair, what):
    file = save(drawn(BAD_NETWORKS[what](), 0), tmp_path / "other.pth")
    assert what in refused(file, pair[1]).what


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("model.4.weight", torch.full((8, 4, 3, 3), float("nan")), "NaN"),
        ("model.4.weight", torch.zeros(8, 4, 5, 5), "must be (8, 4, 3, 3)"),
        ("model.1.weight", torch.zeros(2, 2), "found (2, 2)"),
        ("model.99.weight", torch.zeros(2, 2), "model.99.weight"),
        ("module.model.1.bias", torch.zeros(4), "twice"),
        ("model.4.weight", "text", "no tensors by name"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, pair, key, value, what):
    file = save(drawn(Resnet(), 0), tmp_path / "odd.pth", more={key: value})
    assert what in refused(file, pair[1]).what


def test_what_is_no_file_of_weights_is_refused(tmp_path, pair):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "text.pth").write_text("hello\n")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, what in {
        "folder.pth": "regular file",
        "text.pth": "truncated, damaged or of another kind",
        "list.pth": "found a list",
        "missing.pth": "cannot read it",
    }.items():
        assert what in refused(tmp_path / name, pair[1]).what


def test_generators_of_two_shapes_are_refused_with_both(tmp_path, pair):
    other = save(drawn(Resnet(blocks=3), 0), tmp_path / "three.pth")
    with pytest.raises(CheckpointError) as caught:
        import_weights((pair[0], other), None, ct_is="B")
    assert "found 1 channels, 3 blocks" in caught.value.what
    assert "1 channels, 2 blocks" in caught.value.what


def test_discriminators_that_do_not_fit_are_refused(tmp_path, pair):
    good = save(drawn(Patches(), 0), tmp_path / "good.pth")
    for network, what in (
        (Resnet(), "found another network"),
        (Patches(channels=3), "found 3 and 4"),
        (Patches(filters=5), "found 4 and 5 filters"),
        (Patches(norm="batch"), "batch norm"),
    ):
        bad = save(drawn(network, 0), tmp_path / "bad.pth")
        with pytest.raises(CheckpointError) as caught:
            import_weights(pair, (good, bad), ct_is="A")
        assert what in caught.value.what
        assert caught.value.file == str(bad)


# The model


def picture(side: int = 64) -> Image:
    return Image(smooth_head(side, side).round(), "grey", 8)


def by_reference(network: torch.nn.Module, image: Image) -> np.ndarray:
    """What the reference does to an 8-bit image of the right size: grey values (H, W), 0 to 255, not rounded."""
    x = torch.from_numpy(image.array)[None, None] / 255 * 2 - 1
    with torch.no_grad():
        return ((network(x)[0, 0] + 1) / 2 * 255).numpy()


def test_pictures_come_out_as_those_of_the_reference(pair, tmp_path):
    made = import_model(pair, tmp_path / "model", ct_is="A", size=64)
    assert (made.discriminators, made.measured) == (False, False)
    translator = load_model(tmp_path / "model", engine="torch", precision="float32")
    for seed, to in enumerate(("mr", "ct")):
        ours = translator.translate(picture(), to)
        assert (ours.unit, ours.depth) == ("grey", 8)
        theirs = by_reference(drawn(Resnet(), seed), picture())
        assert np.abs(ours.array - theirs).max() < 0.1


def test_model_is_shown_an_image_at_the_size_asked_for(pair, tmp_path):
    import_model(pair, tmp_path / "model", ct_is="A", size=40)
    translator = load_model(tmp_path / "model", engine="torch")
    assert translator.preprocessor.prepare(picture(64), "ct").grid == (40, 40)


def test_quality_without_data_is_unknown_with_the_reason(pair, tmp_path):
    import_model(pair, tmp_path / "model", ct_is="A", size=64)
    assert read_model(tmp_path / "model").card.training == {}
    translator = load_model(tmp_path / "model", engine="torch")
    for found in (
        translator.translation(picture(), "mr", quality="full").quality,
        translator.check(picture(), "mr"),
    ):
        assert (found.level, found.input_distance) == ("unknown", None)
        assert found.why == (
            "nothing is known of the training images, so that the input cannot be judged",
        )


def test_quality_with_data_is_measured(pair, tmp_path, tiny_data):
    made = import_model(pair, tmp_path / "model", ct_is="A", size=36, data=tiny_data)
    assert made.measured
    card = read_model(tmp_path / "model").card
    assert set(card.training) == {"ct", "mr"}
    assert card.provenance["images"] == {"ct": 10, "mr": 8}
    translator = load_model(tmp_path / "model", engine="torch")
    noise = np.random.default_rng(0).uniform(0, 255, (64, 64)).astype(np.float32)
    quality = translator.translation(Image(noise, "grey", 8), "mr", quality="none", anyway=True)
    assert quality.quality.level == "refuse"


def test_window_of_the_pictures_makes_hu_known(pair, tmp_path, tiny_data):
    """With it 16-bit CT, volumes and DICOM go through the networks as the pictures did."""
    reading = Reading(ct_values="0:80")
    import_model(pair, tmp_path / "hu", ct_is="A", size=36, data=tiny_data, reading=reading)
    import_model(pair, tmp_path / "grey", ct_is="A", size=36, data=tiny_data)
    hu, grey = (read_model(tmp_path / name).card for name in ("hu", "grey"))
    assert hu.intensities["ct"]["HU"].values == (0.0, 80.0)
    for name, ends in grey.training["ct"].ranges.items():
        assert hu.training["ct"].ranges[name] == pytest.approx(ends, abs=2e-3)
    translator = load_model(tmp_path / "hu", engine="torch", precision="float32")
    picture = Image(smooth_head(36, 36).round(), "grey", 8)
    in_hu = Image(picture.array * np.float32(80 / 255), "HU", 16)
    first, second = (translator.translate(scan, "mr").array for scan in (picture, in_hu))
    assert np.abs(first - second).max() < 0.1
    back = translator.translation(picture, "ct", quality="none", anyway=True).scan
    assert back.unit == "HU"
    assert 0 <= back.array.min() <= back.array.max() <= 80


def test_data_in_hu_need_the_window_of_the_pictures(pair, tmp_path, tiny_data):
    data = tmp_path / "data"
    for folder in ("trainA", "trainB"):
        (data / folder).mkdir(parents=True)
        for path in sorted((tiny_data / folder).iterdir())[:5]:
            (data / folder / path.name).write_bytes(path.read_bytes())
    info = {"unit": "HU", "slope": 10, "intercept": -1000, "spacing_mm": [4, 4]}
    (data / "trainA" / "ctmr.json").write_text(json.dumps(info))
    (data / "trainB" / "ctmr.json").write_text(json.dumps({"spacing_mm": [4, 4]}))
    with pytest.raises(UsageError) as caught:
        import_model(pair, tmp_path / "model", ct_is="A", size=36, data=data)
    assert "--ct-values LOW:HIGH" in caught.value.fix
    reading = Reading(ct_values="-1000:1550")
    import_model(pair, tmp_path / "model", ct_is="A", size=36, data=data, reading=reading)
    import_model(pair, tmp_path / "grey", ct_is="A", size=36, data=tiny_data)
    card, grey = (read_model(tmp_path / name).card for name in ("model", "grey"))
    # The same pictures, told in HU and in grey values.
    assert card.intensities["ct"]["HU"].values == (-1000.0, 1550.0)
    centre = card.training["ct"].distribution.mean
    assert centre == pytest.approx(grey.training["ct"].distribution.mean, abs=0.1)
    assert card.scale.pixel_mm == pytest.approx(4 * 48 / 36, rel=0.3)  # volumes can be translated


def test_volumes_as_data_are_refused(pair, tmp_path, tiny_volumes):
    reading = Reading(ct_values="grey", anyway=True)
    with pytest.raises(DataError, match="found volumes"):
        import_model(
            pair, tmp_path / "model", ct_is="A", size=36, data=tiny_volumes, reading=reading
        )
    assert not (tmp_path / "model").exists()


def test_card_says_where_the_weights_come_from_and_no_path(tmp_path, pair):
    net_d = two(tmp_path, Patches, "D")
    made = import_model(pair, tmp_path / "model", ct_is="B", net_d=net_d)
    assert made.discriminators
    text = (tmp_path / "model" / "model.json").read_text()
    assert "latest_net" not in text
    assert str(tmp_path) not in text
    card = read_model(tmp_path / "model").card
    assert (card.scale.short_side, card.scale.pixel_mm) == (256, None)
    assert card.provenance["ct_is"] == "B"
    assert len(card.provenance["weights"]) == 4
    assert (card.network.blocks, card.network.discriminator_filters) == (2, 4)


def test_training_can_go_on_from_imported_weights(tmp_path, pair, tiny_config, caplog):
    import_model(pair, tmp_path / "model", ct_is="A", net_d=two(tmp_path, Patches, "D"))
    config = overlaid(tiny_config, ["network.blocks=2", "network.upsample=deconvolution"])
    state = new_state(config, torch.device("cpu"))
    load_weights(tmp_path / "model", state, config)
    assert not [record for record in caplog.records if "discriminators" in record.getMessage()]
    x = pixels(1, 40).float()
    with torch.no_grad():
        assert (state.model.G(x) - drawn(Resnet(), 0)(x)).abs().max() <= 1e-4
        assert (state.model.D_Y(x) - drawn(Patches(), 0)(x)).abs().max() <= 1e-4


def test_folder_that_is_not_empty_is_refused_before_a_file_is_read(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    missing = tmp_path / "missing.pth"
    with pytest.raises(OutputError) as caught:
        import_model((missing, missing), tmp_path / "model", ct_is="A")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("size", [35, 2049])
def test_size_is_within_bounds(tmp_path, pair, size):
    with pytest.raises(ValueError, match="36 to 2048"):
        import_model(pair, tmp_path / "model", ct_is="A", size=size)
