import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from ctmr.config import overlaid
from ctmr.data.dataset import loader
from ctmr.data.known import training_samples, typical_pixel_mm
from ctmr.data.prepare import prepare
from ctmr.errors import DataError, UsageError
from ctmr.io.reading import Reading

NOTHING = ["loss.adversary=0", "loss.cycle=0", "loss.identity=0"]
SETTINGS = ["loss.truth=1", "loss.half_real=1", "data.size=48"]


@pytest.fixture(scope="module")
def known_config(tiny_config):
    return overlaid(tiny_config, SETTINGS)


@pytest.fixture(scope="module")
def store(known_config, tiny_data):
    return prepare(tiny_data, known_config.data, reading=Reading(ct_values="-1024:3071"))


@pytest.fixture(scope="module")
def samples(known_config, store, label_maps):
    return training_samples(known_config, store, anatomies=label_maps)[0]


def test_each_sample_has_what_is_known(samples):
    x, y, known = samples[3]
    names = {"truth_ct", "truth_true_mr", "truth_mr", "truth_true_ct"}
    names |= {"half_real_mr", "half_real_true_ct"}
    assert known.keys() == names
    for image in (x, y, *known.values()):
        assert image.shape == (1, 48, 48)
        assert image.dtype == torch.float32
        assert -1 <= image.min() <= image.max() <= 1


def test_real_ct_of_a_half_real_pair_is_its_own_without_the_table(samples):
    for n in range(4):
        x, _, known = samples[n]
        true = known["half_real_true_ct"]
        same = true == x
        assert same[x > -0.7].float().mean() > 0.9  # the head is there
        assert (true[~same] == -1).all()


def test_table_of_a_real_ct_is_not_to_be_learnt(known_config, label_maps, tmp_path):
    """A CT of a disk with a bar 60 mm below it: the bar is air in the translation wanted."""
    y, x = np.mgrid[:108, :108] - 54
    ct = np.where(np.hypot(x, y + 20) < 24, 1050, 24).astype(np.uint16)  # HU + 1024
    ct[96:99, 20:90] = 1300
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        Pillow.fromarray(ct).save(tmp_path / name / "a.png")
    scale = {"unit": "HU", "slope": 1, "intercept": -1024, "spacing_mm": [2.5, 2.5]}
    (tmp_path / "trainA" / "ctmr.json").write_text(json.dumps(scale))
    config = overlaid(known_config, ["data.size=96", "loss.truth=0"])
    samples, _ = training_samples(config, prepare(tmp_path, config.data))
    x, _, known = samples[0]
    true = known["half_real_true_ct"]
    assert x[0, 70:].max() > -0.5  # the bar
    assert true[0, 70:].max() == -1
    assert torch.equal(true[0, :60] > -0.7, x[0, :60] > -0.7)


def test_sample_is_a_function_of_seed_and_number(samples, known_config, store, label_maps):
    again = pickle.loads(pickle.dumps(samples))  # noqa: S301
    other = training_samples(overlaid(known_config, ["seed=9"]), store, anatomies=label_maps)[0]
    for n in (4, 1):
        for name, image in samples[n][2].items():
            assert torch.equal(image, again[n][2][name])
            assert not torch.equal(image, other[n][2][name])


def test_workers_give_the_same(samples):
    alone = list(loader(samples, 2, 1, 3, workers=0))
    helped = list(loader(samples, 2, 1, 3, workers=2))
    for (_, _, one), (_, _, two) in zip(alone, helped, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert all(image.shape == (2, 1, 48, 48) for image in one.values())


def test_nothing_is_known_where_nothing_is_wanted(tiny_config, tiny_data):
    samples, sources = training_samples(tiny_config, prepare(tiny_data, tiny_config.data))
    assert samples[0][2] == {}
    assert sources == {}


def test_anatomies_without_use_are_refused(tiny_config, tiny_data, label_maps):
    store = prepare(tiny_data, tiny_config.data)
    with pytest.raises(UsageError, match=r"loss\.truth"):
        training_samples(tiny_config, store, anatomies=label_maps)


def test_rendered_ct_has_the_values_of_the_data(samples, known_config, tiny_data, label_maps):
    """In a window of 0 to 80 HU bone is as white as can be, and what is darker than water as black."""
    reading = Reading(ct_values="0:80")
    windowed = prepare(tiny_data, known_config.data, reading=reading)
    cut = training_samples(known_config, windowed, anatomies=label_maps)[0]
    for n in range(4):
        hu = samples._ct.to_hu(samples[n][2]["truth_true_ct"].numpy())
        found = cut._ct.to_hu(cut[n][2]["truth_true_ct"].numpy())
        np.testing.assert_allclose(found, hu.clip(0, 80), atol=0.5)


def test_images_without_hu_get_a_window(known_config, tiny_data, label_maps, caplog):
    store = prepare(tiny_data, known_config.data)
    samples = training_samples(known_config, store, anatomies=label_maps)[0]
    assert "estimated" in caplog.text
    assert "--ct-values" in caplog.text
    assert samples.knots is None
    assert samples._ct.low_hu < samples._ct.high_hu


def test_pictures_have_the_pixel_size_of_their_heads(store):
    """Heads of some 40 of 54 pixels: a picture of 190 to 310 mm."""
    assert 190 / 54 <= typical_pixel_mm(store) <= 310 / 54


@pytest.fixture
def marked_pairs(tmp_path):
    """Pairs of images, each with a white pixel at the same place in both."""
    rng = np.random.default_rng(0)
    for modality in ("ct", "mr"):
        (tmp_path / modality).mkdir()
    for n in range(3):
        place = tuple(rng.integers(10, 44, 2))
        for modality in ("ct", "mr"):
            image = np.zeros((54, 54), np.uint8)
            image[5:49, 5:49] = 90
            image[place] = 255
            Pillow.fromarray(image).save(tmp_path / modality / f"p{n}.png")
    return tmp_path


def test_registered_pairs_are_cropped_and_mirrored_alike(known_config, tiny_data, marked_pairs):
    config = overlaid(known_config, ["loss.truth=0", "loss.half_real=0"])
    store = prepare(tiny_data, config.data)
    samples, sources = training_samples(config, store, pairs=marked_pairs)
    assert sources.keys() == {"pairs"}
    places = set()
    for n in range(12):
        known = samples[n][2]
        assert known.keys() == {"pairs_ct", "pairs_true_mr", "pairs_mr", "pairs_true_ct"}
        brightest = [int(known[name].argmax()) for name in ("pairs_ct", "pairs_mr")]
        assert brightest[0] == brightest[1]
        places.add(brightest[0])
    assert len(places) > 3  # crops differ


def test_pairs_of_another_encoding_are_refused(known_config, tiny_data, marked_pairs):
    store = prepare(tiny_data, known_config.data, reading=Reading(ct_values="-1024:3071"))
    config = overlaid(known_config, ["loss.truth=0", "loss.half_real=0"])
    with pytest.raises(DataError, match="values, as the ct training images have"):
        training_samples(config, store, pairs=marked_pairs)


@pytest.mark.parametrize(
    ("settings", "given", "match"),
    [
        (["loss.half_real=0", "loss.truth=0", *NOTHING], {}, "every weight of the loss is 0"),
        (["loss.pairs=0"], {"pairs": "tiny_pairs"}, r"--pairs has no use without loss\.pairs"),
    ],
)
def test_what_teaches_nothing_is_refused(known_config, store, settings, given, match, request):
    config = overlaid(known_config, settings)
    folders = {name: request.getfixturevalue(value) for name, value in given.items()}
    with pytest.raises(UsageError, match=match):
        training_samples(config, store, **folders)


def test_temporary_folder_too_long_for_workers_is_refused(samples, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))
    assert len(list(loader(samples, 1, 0, 1, workers=0))) == 1
    with pytest.raises(UsageError, match=r"(?s)at most 75 bytes.*set TMPDIR"):
        loader(samples, 1, 0, 1, workers=1)
