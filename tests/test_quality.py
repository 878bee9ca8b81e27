import json

import numpy as np
import pytest

from ctmr import load_model, read_scan
from ctmr.errors import SafetyError
from ctmr.images import Image
from ctmr.quality import Usual, describe, judge
from identity import Inverse, smooth_head, translator

FEATURES = (
    "mean",
    "deviation",
    "dark_share",
    "bright_share",
    "centre_mean",
    "centre_deviation",
    "edges",
)


def quality_of(model, array: np.ndarray, to="mr"):
    image = Image(array.astype(np.float32), "grey", 8)
    return model.translation(image, to, quality="full", anyway=True).quality


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run)


def test_features_of_an_image_worked_by_hand():
    image = np.full((8, 8), -1.0, np.float32)
    image[2:6, 2:6] = 1  # the centre: a quarter of the pixels
    found = describe(image)
    assert tuple(found) == FEATURES
    assert found["mean"] == -0.5
    assert found["deviation"] == pytest.approx(np.sqrt(0.75))
    assert (found["dark_share"], found["bright_share"]) == (0.75, 0.25)
    assert (found["centre_mean"], found["centre_deviation"]) == (1, 0)
    # 4 columns change by 2 at 2 of 7 places, of 8 x 7 differences, along each axis
    assert found["edges"] == pytest.approx(2 * (4 * 2 * 2) / (8 * 7))


def test_channels_are_averaged():
    image = np.random.default_rng(0).uniform(-1, 1, (16, 20, 3)).astype(np.float32)
    assert describe(image) == describe(image.mean(axis=-1))


@pytest.mark.parametrize(("low", "level"), [(0.12, "ok"), (0.13, "warn")])
def test_range_ends_a_quarter_of_its_width_outside(low, level):
    image = np.zeros((16, 16), np.float32)
    for ends in ((low, low + 0.5), (-low - 0.5, -low)):  # 0.125 and a thousandth are allowed
        assert judge(image, Usual({"mean": ends}, 1.0), None).level == level


@pytest.mark.parametrize(("error", "level"), [(None, "ok"), (0.1, "ok"), (0.11, "warn")])
def test_cycle_error_above_the_usual_warns(error, level):
    found = judge(np.zeros((16, 16), np.float32), Usual({}, 0.1), error)
    assert (found.level, found.cycle_error) == (level, error)
    if level == "warn":
        assert found.why == ("cycle error is 0.11, 0.1 is usual at most",)


def test_cycle_error_is_half_the_mean_difference_of_there_and_back():
    array = np.zeros((64, 64))
    array[:32] = 255

    class Dark(Inverse):
        def forward(self, x):
            return x.clamp(max=0)  # white becomes grey

    found = quality_of(translator(generator=Dark), array)
    assert found.cycle_error == pytest.approx(0.25)  # half the pixels are off by 1 of 2
    assert quality_of(translator(generator=Inverse), array).cycle_error == 0


@pytest.mark.parametrize("to", ["mr", "ct"])
def test_training_images_are_ok(model, tiny_data, to):
    folder = tiny_data / ("trainA" if to == "mr" else "trainB")
    for path in sorted(folder.iterdir()):
        found = model.translation(read_scan(path), to, quality="none").quality
        assert (found.level, found.why) == ("ok", ()), path.name


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        (lambda image: 255 - image, "mean"),
        (lambda image: image * 0, "deviation"),
        (lambda image: image * 0 + 255, "bright_share"),
        (lambda image: image * 0 + 128, "edges"),
        (lambda image: np.random.default_rng(0).integers(0, 256, image.shape), "edges"),
        (lambda image: np.roll(image, 24, axis=(0, 1)), "centre_mean"),
        (lambda image: image * 0.3, "mean"),
    ],
)
def test_image_unlike_the_training_images_warns_with_the_feature(model, tiny_data, change, feature):
    image = read_scan(tiny_data / "trainA" / "ct_00.png").array
    found = quality_of(model, change(image))
    assert found.level == "warn"
    why = [reason for reason in found.why if reason.startswith(f"{feature} is ")]
    assert len(why) == 1
    assert "training images have" in why[0]


def test_mr_given_as_ct_is_refused_and_warns_where_the_user_insists(model, tiny_data):
    scan = read_scan(tiny_data / "trainB" / "mr_00.png")
    with pytest.raises(
        SafetyError, match="expected CT: found an image unlike the CT and like the MR"
    ):
        model.translation(scan, "mr", quality="full")
    with pytest.raises(SafetyError, match="unlike the CT and like the MR"):
        model.check(scan, "mr")
    assert model.translation(scan, "mr", quality="full", anyway=True).quality.level == "warn"


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("size", [(16, 16), (16, 100), (64, 64)])
def test_blank_image_has_no_nan(model, value, size):
    scan = Image(np.full(size, value, np.float32), "grey", 8)
    done = model.translation(scan, "ct", quality="full", anyway=True)
    assert np.isfinite(done.scan.array).all()
    text = json.dumps(done.quality.as_json(), allow_nan=False)  # refuses NaN
    assert json.loads(text)["level"] == "warn"


def test_thin_images_have_features():
    for shape in ((4, 4), (5, 40), (9, 1 + 8)):
        assert all(np.isfinite(value) for value in describe(np.zeros(shape, np.float32)).values())


def test_judgement_is_json(model):
    said = quality_of(model, smooth_head(40, 40)).as_json()
    assert set(said) == {"level", "why", "cycle_error", "features"}
    assert set(said["features"]) == set(FEATURES)
    json.dumps(said, allow_nan=False)
