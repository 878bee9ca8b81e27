import json

import numpy as np
import pytest

from ctmr import load_model, read_scan
from ctmr.errors import SafetyError
from ctmr.imaging.image import Image
from ctmr.models.quality import (
    WARN_DISTANCE,
    Distribution,
    Usual,
    describe,
    difference,
    head_in,
    judge,
    require_like,
    training_distribution,
    training_ranges,
)
from ctmr.system.rng import stream
from support.identity import ANYWHERE, Identity, Inverse, Shade, smooth_head, translator
from support.pictures import slices

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
    found = describe(np.zeros((16, 16), np.float32))
    for ends in ((low, low + 0.5), (-low - 0.5, -low)):  # 0.125 and a thousandth are allowed
        assert judge([found], Usual({"mean": ends}, 1.0, ANYWHERE), {}).level == level


@pytest.mark.parametrize(("error", "level"), [(None, "ok"), (0.1, "ok"), (0.11, "warn")])
def test_cycle_error_above_the_usual_warns(error, level):
    means = {} if error is None else {"cycle_error": error}
    found = judge([describe(np.zeros((16, 16), np.float32))], Usual({}, 0.1, ANYWHERE), means)
    assert (found.level, found.cycle_error) == (level, error)
    if level == "warn":
        assert found.why == ("cycle error is 0.11, 0.1 is usual at most",)


def test_nothing_is_judged_where_nothing_is_known_of_the_training_images():
    found = judge([describe(np.zeros((16, 16), np.float32))], None, {"cycle_error": 0.9})
    assert (found.level, found.input_distance) == ("unknown", None)
    assert len(found.why) == 1
    assert found.measures() == {"cycle_error": 0.9}
    require_like(found)


def test_head_is_what_is_above_otsus_threshold_or_all_where_nothing_is():
    image = np.full((40, 40, 3), -1.0, np.float32)
    assert head_in(image).all()
    image[10:30, 12:28] = 0.4
    image[18:22, 18:22] = -1  # a hole is part of it
    expected = image[..., 0] > -1
    expected[18:22, 18:22] = True
    expected[np.ix_([10, 29], [12, 27])] = False  # the opening rounds corners off
    assert np.array_equal(head_in(image), expected)


def test_difference_is_a_share_of_the_range_averaged_over_channels():
    first = np.full((2, 3, 3), -1, np.float32)
    second = np.tile(np.array([-1, 0, 1], np.float32), (2, 3, 1))
    assert np.array_equal(difference(first, second), np.full((2, 3), 0.5, np.float32))


# The measures of uncertainty


def square() -> np.ndarray:
    """A white square, 32 pixels wide, on black."""
    array = np.zeros((64, 64))
    array[16:48, 16:48] = 255
    return array


class Dark(Identity):
    """White becomes grey."""

    def forward(self, x):
        return x.clamp(max=0)


def test_cycle_error_is_the_mean_difference_of_there_and_back_in_the_head():
    found = quality_of(translator(generator=Dark), square())
    assert found.cycle_error == pytest.approx(0.5)  # all of the head is off by 1 of 2
    assert quality_of(translator(generator=Inverse), square()).cycle_error == 0


def test_disagreement_is_the_mean_difference_to_the_mirrored_input_in_the_head():
    found = quality_of(translator(generator=Shade), square())
    assert found.disagreement == pytest.approx(0.4)  # either half is brighter in one of both
    assert quality_of(translator(generator=Dark), square()).disagreement == 0


def test_disagreement_is_measured_with_full_quality_only():
    scan = Image(square().astype(np.float32), "grey", 8)
    model = translator(generator=Shade)
    fast, none = (model.translation(scan, "ct", quality=q).quality for q in ("fast", "none"))
    assert set(fast.measures()) == {"cycle_error", "input_distance"}
    assert set(none.measures()) == {"input_distance"}
    full = model.translation(scan, "ct", quality="full").quality
    assert full.measures() == {
        "cycle_error": full.cycle_error,
        "disagreement": full.disagreement,
        "input_distance": full.input_distance,
    }


def test_distance_by_hand():
    # Deviations 2 and 1, no correlation: 4 / 2 and 3 / 1 away, so sqrt(4 + 9).
    found = Distribution((1.0, 2.0), ((0.25, 0.0), (0.0, 1.0)))
    assert found.distance({"mean": 5.0, "edges": -1.0}) == pytest.approx(np.sqrt(13))


def spread_of(count: int) -> list[dict[str, float]]:
    """Features of which the second is nearly the first."""
    rng = stream("spread", count)
    first, second = rng.normal(size=count), 0.1 * rng.normal(size=count)
    return [{"a": a, "b": a + b} for a, b in zip(first, second, strict=True)]


def test_one_training_image_in_a_hundred_lies_beyond_distance_one():
    found = training_distribution(spread_of(2000))
    beyond = [found.distance(row) > 1 for row in spread_of(2001)]
    assert np.mean(beyond) == pytest.approx(0.01, abs=0.006)


def test_unusual_mixture_of_usual_features_is_far_away():
    found, ranges = training_distribution(spread_of(500)), training_ranges(spread_of(500))
    mixture = {"a": 1.0, "b": -1.0}
    assert all(low < mixture[name] < high for name, (low, high) in ranges.items())
    assert found.distance(mixture) > 3
    quality = judge([mixture], Usual(ranges, 1.0, found), {})
    assert quality.level == "warn"
    assert quality.why[0].startswith("distance from the training images is ")
    assert quality.why[0].endswith(f", {WARN_DISTANCE:g} is usual at most")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_or_equal_training_images_have_a_distribution(count):
    image = smooth_head(32, 32) / 127.5 - 1
    found = training_distribution([describe(image)] * count)
    assert found.distance(describe(image)) == pytest.approx(0, abs=1e-6)
    assert found.distance(describe(-image)) > WARN_DISTANCE


def test_median_slice_of_a_volume_counts():
    near, far = ({"mean": value} for value in (0.1, 5.0))
    usual = Usual({"mean": (-1.0, 1.0)}, 1.0, Distribution((0.0,), ((1.0,),)))
    found = judge([near, far, near], usual, {})
    assert (found.level, found.input_distance, found.features) == ("ok", pytest.approx(0.1), near)
    assert judge([near, far, far], usual, {}).level == "warn"


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
    assert found.level != "ok"
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
    assert json.loads(text)["level"] in ("warn", "refuse")


def seen(modality: str, seeds: range) -> list[np.ndarray]:
    """Slices of heads in [-1, 1]."""
    kind = "wide" if modality == "ct" else "mr"
    return [pixels / 127.5 - 1 for seed in seeds for pixels in slices(seed, kind)]


def others(image: np.ndarray) -> dict[str, np.ndarray]:
    """What is no usual slice of a head."""
    rng = stream("others")
    side = len(image)
    squares = np.add.outer(np.arange(side) // 4, np.arange(side) // 4) % 2
    middle = image[side // 4 : -(side // 4), side // 4 : -(side // 4)]
    return {
        "noise": rng.uniform(-1, 1, image.shape),
        "inverted": -image,
        "black": np.full(image.shape, -1.0),
        "white": np.full(image.shape, 1.0),
        "page": np.where(rng.uniform(size=image.shape) < 0.1, -1.0, 1.0),
        "squares": np.where(squares, 1.0, -1.0),
        "ramp": np.tile(np.linspace(-1, 1, side), (side, 1)),
        "twice as large": np.kron(middle, np.ones((2, 2))),
        "dim": (image + 1) * 0.3 - 1,
        "noisy": np.clip(image + rng.normal(0, 0.3, image.shape), -1, 1),
    }


REFUSED = ("noise", "inverted", "white", "page", "squares", "ramp")


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_what_is_no_head_is_flagged_and_heads_are_not(modality):
    features = [describe(image) for image in seen(modality, range(1, 16))]
    usual = Usual(training_ranges(features), 1.0, training_distribution(features))
    held_out = seen(modality, range(20, 30))
    levels = [judge([describe(image)], usual, {}).level for image in held_out]
    assert "refuse" not in levels
    for name, image in others(held_out[1]).items():
        found = judge([describe(image)], usual, {})
        assert found.level == "refuse" if name in REFUSED else found.level != "ok", name
        if found.level == "refuse":
            with pytest.raises(SafetyError, match="scan is unlike the training data"):
                require_like(found)
    false = np.mean(
        [usual.distribution.distance(describe(image)) > WARN_DISTANCE for image in held_out]
    )
    assert false <= 0.05


def test_thin_images_have_features():
    for shape in ((4, 4), (5, 40), (9, 1 + 8)):
        assert all(np.isfinite(value) for value in describe(np.zeros(shape, np.float32)).values())


def test_judgement_is_json(model):
    content = quality_of(model, smooth_head(40, 40)).as_json()
    measures = {"cycle_error", "disagreement", "input_distance"}
    assert set(content) == {"level", "why", *measures, "features"}
    assert all(content[measure] >= 0 for measure in measures)
    assert set(content["features"]) == set(FEATURES)
    json.dumps(content, allow_nan=False)
