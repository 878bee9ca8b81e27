"""What is measured of which values, and that every figure says what it is."""

import math
from dataclasses import astuple

import numpy as np
import pytest

from ctmr.evaluation.metrics.full_reference import (
    dice,
    hd95,
    mae,
    mae_shifted,
    mae_z,
    ms_ssim,
    nmi,
    psnr,
    ssim,
)
from ctmr.evaluation.protocol import FIGURES, described, score
from ctmr.imaging.head import head_mask
from ctmr.types import BoolArray, Encoding
from support.identity import smooth_head

SIZE = 64
ALWAYS = ["mae", "psnr", "ssim", "ms_ssim", "dice_head", "hd95_head", "mae_shifted"]
TISSUES = ["mae_air", "mae_soft", "mae_bone", "dice_bone", "hd95_bone"]
ENCODINGS: list[Encoding] = ["HU", "8-bit", "16-bit", "MR"]
SPANS = {"HU": (-1024, 3000), "8-bit": (0, 255), "16-bit": (0, 65535), "MR": (0, 1000)}


def heads(low: float = -1000, high: float = 1500) -> tuple[np.ndarray, np.ndarray, BoolArray]:
    """A truth, a result that is a blurred, darker and moved truth, and the mask."""
    truth = smooth_head(SIZE, SIZE, low, high)
    moved = np.roll(truth, (2, 1), (0, 1))
    return (truth + moved) / 2 * 0.95, truth, head_mask(truth, hu=False)


def volume(array: np.ndarray, slices: int = 12) -> np.ndarray:
    return np.repeat(array[..., None], slices, axis=2)


@pytest.mark.parametrize("values", ENCODINGS)
def test_figures_are_those_of_the_metrics(values: Encoding) -> None:
    span = SPANS[values]
    result, truth, mask = heads(*((-1000, 1500) if values == "HU" else span))
    found = score(result, truth, mask, values=values)
    expected = {
        "mae": mae(result, truth, mask),
        "psnr": psnr(result, truth, mask, span),
        "ssim": ssim(result, truth, mask, span),
        "ms_ssim": ms_ssim(result, truth, mask, span),
        "mae_shifted": mae_shifted(result, truth, mask),
    }
    if values != "HU":
        expected |= {"mae_z": mae_z(result, truth, mask), "nmi": nmi(result, truth, mask)}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("values", ENCODINGS)
@pytest.mark.parametrize("axes", [2, 3])
def test_figures_of_each_kind_of_values(values: Encoding, axes: int) -> None:
    arrays = heads()
    if axes == 3:
        arrays = tuple(volume(array) for array in arrays)
    found = score(*arrays, values=values, spacing_mm=(2.0,) * axes)
    assert set(found) == {*ALWAYS, *(TISSUES if values == "HU" else ["mae_z", "nmi"])}
    assert list(found) == [key for key in FIGURES if key in found]
    assert all(type(figure) is float and math.isfinite(figure) for figure in found.values())


def test_each_figure_is_better_for_the_truth_itself() -> None:
    result, truth, mask = heads()
    for values in ENCODINGS:
        worse = score(result, truth, mask, values=values)
        best = score(truth, truth, mask, values=values)
        for key, figure in best.items():
            gain = figure - worse[key]
            assert gain > 0 if FIGURES[key].higher_is_better else gain < 0, (values, key)


def test_tissues_are_told_apart_by_the_truths_hu() -> None:
    truth = np.array([[-1000, -200.5, -200, 0], [200, 200.5, 1500, 1500]], dtype=np.float32)
    result = truth + np.array([[1, 3, 10, 20], [30, 100, 200, 900]], dtype=np.float32)
    mask = np.ones(truth.shape, dtype=bool)
    mask[1, 3] = False
    found = score(result, truth, mask, values="HU", only=["mae_air", "mae_soft", "mae_bone"])
    assert found == {"mae_air": 2, "mae_soft": 20, "mae_bone": 150}


def test_bone_is_above_200_hu_in_the_mask() -> None:
    truth = np.zeros((40, 40), dtype=np.float32)
    truth[10:14, 10:20] = 201
    truth[30:, 30:] = 3000  # a table
    result = truth.copy()
    result[10:14, 10:15] = 200
    mask = np.zeros(truth.shape, dtype=bool)
    mask[5:25, 5:25] = True
    found = score(
        result, truth, mask, values="HU", spacing_mm=(1.0, 0.5), only=["dice_bone", "hd95_bone"]
    )
    assert found["dice_bone"] == pytest.approx(2 * 20 / 60)
    assert found["hd95_bone"] == hd95(result[:25, :25] > 200, truth[:25, :25] > 200, (1.0, 0.5))
    assert found["hd95_bone"] == 2.5


def test_head_is_found_in_the_whole_image() -> None:
    result, truth, mask = heads()
    mask[:, : SIZE // 2] = False
    keys = ["dice_head", "hd95_head"]
    for values in ("HU", "8-bit"):
        expected = [head_mask(image, hu=values == "HU") for image in (result, truth)]
        found = score(result, truth, mask, values=values, spacing_mm=(3.0, 3.0), only=keys)
        assert found == {"dice_head": dice(*expected), "hd95_head": hd95(*expected, (3.0, 3.0))}
        assert 0.8 < found["dice_head"] < 1


@pytest.mark.parametrize(("values", "low", "high"), [("HU", -1000, 500), ("MR", 0, 1000)])
def test_head_of_a_volume_is_that_of_the_volumes_mask(
    values: Encoding, low: float, high: float
) -> None:
    inside = np.linalg.norm(np.indices((40, 40, 20)).T - [19.5, 19.5, 9.5], axis=-1).T < 9
    truth = np.where(inside, high, low).astype(np.float32)
    result = np.roll(truth, 3, 0)
    found = score(
        result,
        truth,
        inside,
        values=values,
        spacing_mm=(4.0, 4.0, 4.0),
        only=["dice_head", "hd95_head"],
    )
    assert 0.6 < found["dice_head"] < 0.95
    assert found["hd95_head"] == 12


def test_distances_are_in_pixels_where_the_spacing_is_not_known() -> None:
    result, truth, mask = heads()
    pixels = score(result, truth, mask, values="HU")
    mm = score(result, truth, mask, values="HU", spacing_mm=(0.5, 0.5))
    for key in ("hd95_bone", "hd95_head"):
        assert mm[key] == pixels[key] / 2 > 0


def test_what_is_not_defined_is_left_out() -> None:
    _, truth, mask = heads(-1000, 150)
    found = score(truth, truth, mask, values="HU")
    assert not {"mae_bone", "dice_bone", "hd95_bone"} & found.keys()
    bony = score(truth + 500, truth, mask, values="HU")
    assert bony["dice_bone"] == 0
    assert bony["hd95_bone"] == pytest.approx(math.hypot(SIZE, SIZE))
    flat = score(np.zeros_like(truth), truth, mask, values="8-bit")
    assert "mae_z" not in flat
    assert flat["dice_head"] == 0


def test_head_that_a_volume_does_not_show_is_empty() -> None:
    truth = volume(smooth_head(SIZE, SIZE, 0, 1000))
    found = score(np.zeros_like(truth), truth, truth > 300, values="MR", only=["dice_head"])
    assert found == {"dice_head": 0}


def test_only_what_is_asked_for_is_measured() -> None:
    arrays = heads()
    assert list(score(*arrays, values="HU", only=("ssim", "mae"))) == ["mae", "ssim"]
    assert list(score(*arrays, values="8-bit", only=("mae", "mae_bone"))) == ["mae"]
    assert score(*arrays, values="HU", only=()) == {}


def test_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"only must hold keys of FIGURES: got \['fid'\]"):
        score(*heads(), values="HU", only=("mae", "fid"))


def test_empty_mask_is_refused() -> None:
    result, truth, mask = heads()
    with pytest.raises(ValueError, match="mask must not be empty"):
        score(result, truth, mask & False, values="HU")


@pytest.mark.parametrize("values", ENCODINGS)
def test_every_figure_says_its_unit_mask_and_range(values: Encoding) -> None:
    result, truth, mask = heads(*((-1000, 1500) if values == "HU" else SPANS[values]))
    content = described(values, in_mm=True)
    assert list(content) == list(score(result, truth, mask, values=values))
    for each in content.values():
        assert each.name
        assert each.mask
        assert each.range
        assert not set("{}") & set("".join(astuple(each)))
    low, high = SPANS[values]
    assert f"{low}..{high}" in content["ssim"].range
    assert content["mae"].unit == {"HU": "HU", "MR": "MR"}.get(values, "grey")
    assert (content["mae"].better, content["ssim"].better) == ("lower", "higher")


def test_distances_say_whether_they_are_in_mm() -> None:
    assert described("HU", in_mm=True)["hd95_bone"].unit == "mm"
    assert described("HU", in_mm=False)["hd95_bone"].unit == "pixels"
