import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmr import load_model, read_scan, write_scan
from ctmr.errors import CheckpointError, DataError, OutputError
from ctmr.imaging.image import Image
from ctmr.imaging.intensity import Intensity
from ctmr.imaging.resampling import Scale, resize
from ctmr.io.image_info import write_image_info
from ctmr.io.images import read_image, write_image
from ctmr.translation.batch import translate_files
from ctmr.translation.translator import Translator
from support.identity import GREY_8, GREY_12, HU, Shade, smooth_head, translator

sides = st.integers(16, 150)
directions = pytest.mark.parametrize("to", ["ct", "mr"])


def grey(height: int, width: int, top: int = 255, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top + 1, (height, width)).astype(np.float32)


def range_of(image: Image) -> float:
    return {"HU": HU.high - HU.low, "8-bit": 255.0, "16-bit": 65535.0}[image.encoding]


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Translator:
    return load_model(tiny_run)


# Size, depth, channels


@directions
@settings(deadline=None, max_examples=25)
@given(height=sides, width=sides)
def test_translation_has_the_size_of_the_scan(trained, to, height, width):
    if max(height, width) > 7.9 * min(height, width):
        return
    scan = Image(smooth_head(height, width), "grey", 8)
    result = trained.translation(scan, to, quality="none", anyway=True).scan
    assert result.array.shape == (height, width)
    assert (result.encoding, result.array.dtype) == ("8-bit", np.float32)
    assert 0 <= result.array.min() <= result.array.max() <= 255


@pytest.mark.parametrize("channels", [1, 3])
@directions
def test_colour_comes_out_as_it_went_in(channels, to):
    identity = translator(channels=channels, scale=Scale(40))
    colour = np.stack([grey(40, 44, seed=n) for n in range(3)], axis=-1)
    result = identity.translate(Image(colour, "grey", 8), to=to)
    assert result.array.shape == (40, 44, 3)
    luma = (299 * colour[..., 0] + 587 * colour[..., 1] + 114 * colour[..., 2]) / 1000
    expected = colour if channels == 3 else np.repeat(luma[..., None], 3, axis=-1)
    assert np.abs(result.array - expected).max() < 1e-3


def test_model_of_three_channels_translates_grey_images_to_grey_ones():
    identity = translator(channels=3, scale=Scale(40))
    array = grey(40, 44)
    result = identity.translate(Image(array, "grey", 8), to="ct")
    assert result.array.shape == (40, 44)
    assert np.abs(result.array - array).max() < 1e-3


def test_colour_scan_becomes_one_channel_of_hu():
    identity = translator(channels=3, scale=Scale(40), ct={"HU": HU})
    colour = np.repeat(grey(40, 44)[..., None], 3, axis=-1)
    result = identity.translate(Image(colour, "grey", 8), to="ct")
    assert (result.unit, result.depth, result.array.shape) == ("HU", 16, (40, 44))
    assert np.abs(result.array - HU.from_unit(GREY_8.to_unit(colour[..., 0]))).max() < 0.01


# Scale


@directions
@pytest.mark.parametrize("size", [(64, 64), (64, 91), (77, 64)])
def test_identity_model_returns_the_pixels_at_its_own_scale(tmp_path, to, size):
    array = grey(*size)
    write_image(tmp_path / "in" / "a.png", Image(array, "grey", 8))
    translate_files(translator(scale=Scale(64)), tmp_path / "in", tmp_path / "out", to)
    assert np.array_equal(read_image(tmp_path / "out" / "a.png").array, array)


@pytest.mark.parametrize("spacing", [0.8, 1.3])
def test_identity_model_returns_the_pixels_at_its_own_pixel_size(spacing):
    array = grey(70, 90)
    identity = translator(scale=Scale(64, pixel_mm=spacing))
    scan = Image(array, "grey", 8, spacing_mm=(spacing, spacing))
    result = identity.translate(scan, to="ct")
    assert np.array_equal(np.rint(result.array), array)
    assert result.spacing_mm == (spacing, spacing)


# A smooth head brought from 3/4 to twice as many pixels as the model's and back: bicubic interpolation loses
# this much of the range at most, on average and in any pixel.
BOUND_MEAN, BOUND_MOST = 0.005, 0.06


@settings(deadline=None, max_examples=40)
@given(height=st.integers(48, 128), width=st.integers(48, 128))
def test_identity_model_stays_within_a_bound_at_other_sizes(height, width):
    scan = Image(smooth_head(height, width), "grey", 8)
    error = np.abs(translator().translate(scan, to="ct").array - scan.array) / 255
    assert error.mean() < BOUND_MEAN
    assert error.max() < BOUND_MOST


@pytest.mark.parametrize("size", [128, 512])
@directions
def test_one_slice_in_two_resolutions_gives_one_translation(trained, size, to):
    large = trained.translate(Image(smooth_head(size, size), "grey", 8), to=to)
    small = trained.translate(Image(smooth_head(size // 2, size // 2), "grey", 8), to=to)
    brought = resize(large.array, size // 2, size // 2)
    assert np.abs(brought - small.array).mean() <= 0.02 * range_of(small)
    assert small.array.std() > 1  # not a constant image


def test_512_and_256_pixels_give_one_translation_at_the_size_of_the_presets():
    identity = translator(scale=Scale(287))
    large = identity.translate(Image(smooth_head(512, 512), "grey", 8), to="mr")
    small = identity.translate(Image(smooth_head(256, 256), "grey", 8), to="mr")
    assert np.abs(resize(large.array, 256, 256) - small.array).mean() <= 0.02 * 255


def test_scan_with_a_spacing_is_brought_to_the_models_pixel_size():
    card = translator(scale=Scale(64, pixel_mm=2.0))
    array = grey(100, 80)
    seen = [
        card.preprocessor.prepare(Image(array, "grey", 8, spacing), "ct").batch([0]).shape[1:]
        for spacing in ((1.0, 1.0), (1.5, 2.0), None)
    ]
    assert seen == [
        (50, 40, 1),
        (75, 80, 1),
        (80, 64, 1),
    ]  # mm / 2; without spacing by the short side


def test_spacing_is_of_no_use_to_a_model_without_pixel_size():
    identity = translator(scale=Scale(64))
    seen = identity.preprocessor.prepare(Image(grey(100, 80), "grey", 8, (3.0, 3.0)), "ct").batch(
        [0]
    )
    assert seen.shape[1:] == (80, 64, 1)


@pytest.mark.parametrize("spacing", [(0.01, 0.01), (60.0, 60.0), (1.0, 30.0)])
def test_scan_of_impossible_extent_is_refused(spacing):
    identity = translator(scale=Scale(64, pixel_mm=2.0))
    with pytest.raises(DataError, match="at least 8") as caught:
        identity.translate(Image(grey(40, 40), "grey", 8, spacing), to="ct")
    assert "spacing_mm in ctmr.json" in caught.value.fix


# Grey values


def test_hu_become_grey_values_and_keep_their_spacing():
    identity = translator(ct={"HU": HU}, mr={"16-bit": GREY_12}, scale=Scale(40))
    hu = grey(40, 50, 4095) - 1024
    result = identity.translate(Image(hu, "HU", 16, (0.5, 0.7)), to="mr")
    assert (result.unit, result.depth, result.spacing_mm) == ("grey", 16, (0.5, 0.7))
    assert np.array_equal(np.rint(result.array), hu + 1024)


def test_hu_written_by_a_translation_are_read_back_within_half_a_unit(tmp_path):
    identity = translator(ct={"HU": HU}, mr={"8-bit": GREY_8}, scale=Scale(48))
    array = grey(48, 60)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, Image(array, "grey", 8))
    write_image_info(tmp_path / "in", "grey", files={"a.png": (0.5, 0.7)})
    translate_files(identity, tmp_path / "in", tmp_path / "out", "ct")
    content = json.loads((tmp_path / "out" / "ctmr.json").read_text())
    assert content == {
        "unit": "HU",
        "slope": 1.0,
        "intercept": -1024.0,
        "files": {"a.png": {"spacing_mm": [0.5, 0.7]}},
    }
    first, second = read_scan(tmp_path / "out" / "a.png"), read_scan(tmp_path / "out" / "b.png")
    assert (first.unit, first.spacing_mm, second.spacing_mm) == ("HU", (0.5, 0.7), None)
    expected = HU.from_unit(GREY_8.to_unit(array))
    assert expected.max() > 3000
    assert np.abs(first.array - expected).max() <= 0.5
    back = tmp_path / "back"
    translate_files(identity, tmp_path / "out", back, "mr")
    assert np.array_equal(read_image(back / "a.png").array, array)
    assert read_scan(back / "a.png").spacing_mm == (0.5, 0.7)


def test_translation_stays_in_the_range_of_the_target():
    identity = translator(ct={"16-bit": Intensity("grey", (100.0, 3000.0))})
    edges = np.zeros((50, 50), np.float32)
    edges[20:30] = 255  # bicubic interpolation overshoots here
    result = identity.translate(Image(edges, "grey", 8), to="ct").array
    assert (result.min(), result.max()) == (100, 3000)


def test_16_bit_range_of_the_training_images_is_stored_and_used(tmp_path, tiny_config):
    from ctmr.training.train import train

    data = tmp_path / "data"
    for folder, low in (("trainA", 200), ("trainB", 1000)):
        for n in range(3):
            array = np.rint(smooth_head(40, 40, low, low + 4000 + n))
            write_image(data / folder / f"{n}.png", Image(array, "grey", 16))
    train(tiny_config, data, tmp_path / "run", stop_after=1)
    model = load_model(tmp_path / "run")
    (ct,) = model.model.card.intensities["ct"].values()
    assert 200 <= ct.low < 260
    assert 4100 < ct.high <= 4202
    scan = Image(np.rint(smooth_head(60, 60, 200, 4200)), "grey", 16)
    unit = model.preprocessor.prepare(scan, "ct").batch([0])
    assert unit.min() == -1
    assert unit.max() > 0.99  # a 12-bit image fills the range
    result = model.translate(scan, to="mr")
    (mr,) = model.model.card.intensities["mr"].values()
    assert result.depth == 16
    assert mr.low <= result.array.min() < result.array.max() <= mr.high


@pytest.mark.parametrize(
    ("scan", "found"),
    [(Image(grey(40, 40), "grey", 16), "16-bit"), (Image(grey(40, 40), "HU", 16), "HU")],
)
def test_ct_of_values_that_the_model_does_not_know_is_refused(scan, found):
    with pytest.raises(DataError, match=f"expected CT with 8-bit values.*found {found}") as caught:
        translator().translate(scan, to="mr")
    assert "convert" in caught.value.fix


@pytest.mark.parametrize(("known", "depth"), [("8-bit", 16), ("16-bit", 8)])
def test_mr_of_another_depth_is_mapped_by_its_own_percentiles(known, depth, caplog):
    """An MR has no unit: the same picture with other grey values gives the same translation."""
    caplog.set_level(logging.INFO)
    maps = {"8-bit": GREY_8, "16-bit": GREY_12}
    model = translator(ct={"HU": HU}, mr={known: maps[known]})
    picture = grey(64, 64)
    low, high = np.percentile(picture, (0.05, 99.95))
    expected = HU.from_unit(np.interp(picture, (low, high), (-1, 1)).astype(np.float32))
    result = model.translate(Image(picture, "grey", depth), to="ct")
    assert np.allclose(result.array, expected, atol=1)
    assert "mapped by its own percentiles" in caplog.text
    again = model.translate(Image(picture * 0.5, "grey", depth), to="ct")
    assert np.allclose(again.array, expected, atol=1)


def test_model_of_hu_says_how_to_state_them():
    with pytest.raises(DataError, match="expected CT with HU values") as caught:
        translator(ct={"HU": HU}).translate(Image(grey(40, 40), "grey", 16), to="mr")
    assert "ctmr.json" in caught.value.fix


@pytest.mark.parametrize(
    ("depth", "known", "expected"),
    [
        (8, ("8-bit", "16-bit"), "8-bit"),
        (16, ("8-bit", "16-bit"), "16-bit"),
        (8, ("16-bit",), "16-bit"),
        (16, ("8-bit",), "8-bit"),
        (8, ("HU", "8-bit"), "HU"),
    ],
)
def test_depth_of_the_translation_is_the_scans_where_the_model_knows_it(depth, known, expected):
    maps = {"HU": HU, "8-bit": GREY_8, "16-bit": GREY_12}
    identity = translator(
        ct={name: maps[name] for name in known}, mr={"8-bit": GREY_8, "16-bit": GREY_12}
    )
    result = identity.translate(Image(grey(40, 40), "grey", depth), to="ct")
    assert result.encoding == expected


# Uncertainty maps


@pytest.mark.parametrize("colour", [False, True])
def test_maps_of_an_image_lie_on_its_grid_and_average_to_the_measures(colour):
    array = np.zeros((64, 64), np.float32)
    array[8:56, 8:56] = 200
    scan = Image(np.repeat(array[..., None], 3, axis=-1) if colour else array, "grey", 8)
    done = translator(generator=Shade).translation(scan, "ct", quality="full")
    assert set(done.maps) == {"cycle_error", "disagreement"}
    # There and back the left half is brighter twice; of the mirrored image, the other half is.
    left = np.broadcast_to(np.arange(64) < 32, (64, 64))
    np.testing.assert_allclose(done.maps["cycle_error"], np.where(left, 0.8, 0), atol=1e-6)
    np.testing.assert_allclose(done.maps["disagreement"], 0.4, atol=1e-6)
    assert done.quality.cycle_error == pytest.approx(0.4)
    assert done.quality.disagreement == pytest.approx(0.4)


@directions
@pytest.mark.parametrize("size", [(50, 60), (130, 97)])
def test_maps_at_another_scale_are_brought_back_and_stay_shares(trained, size, to):
    scan = Image(smooth_head(*size), "grey", 8)
    done = trained.translation(scan, to, quality="full", anyway=True)
    for share in done.maps.values():
        assert share.shape == size
        assert share.dtype == np.float32
        assert 0 <= share.min() < share.max() <= 1


@pytest.mark.parametrize("quality", ["none", "fast"])
def test_there_are_maps_with_full_quality_only(trained, quality):
    assert (
        trained.translation(Image(smooth_head(50, 50), "grey", 8), "mr", quality=quality).maps == {}
    )


def test_own_slices_of_an_image_are_its_grey_values_on_its_own_grid():
    array = grey(40, 50)
    colour = Image(np.repeat(array[..., None], 3, axis=-1), "grey", 8)
    for scan in (Image(array, "grey", 8), colour):
        slices = translator().preprocessor.own_slices(scan, "ct", array > 0)
        np.testing.assert_allclose(slices, GREY_8.to_unit(array)[None], atol=1e-6)


# The model


def test_all_forms_of_model_give_one_translator(tiny_run, tmp_path):
    whole, folder = load_model(tiny_run), load_model(str(tiny_run / "model"))
    assert repr(whole) == repr(folder)
    assert whole.model.card == folder.model.card
    assert repr(whole).startswith("Translator(resnet, Scale(short_side=36")
    with pytest.raises(CheckpointError, match=r"expected a run or a model folder"):
        load_model(tmp_path)


def test_same_scan_gives_the_same_translation(trained):
    scan = Image(smooth_head(50, 60), "grey", 8)
    first, second = trained.translate(scan, to="mr"), trained.translate(scan, to="mr")
    assert np.array_equal(first.array, second.array)


def test_scan_is_not_changed(trained):
    array = smooth_head(50, 60)
    trained.translate(Image(array, "grey", 8), to="mr")
    assert np.array_equal(array, smooth_head(50, 60))


# read_scan, write_scan


def test_scan_written_beside_another_is_read_back(tmp_path):
    hu = Image(np.rint(smooth_head(30, 40, -1000, 2000)), "HU", 16, (0.4, 0.6))
    write_scan(tmp_path / "a.png", hu)
    write_scan(str(tmp_path / "b.tif"), Image(hu.array[:20], "HU", 16))
    for name, array, spacing in (("a.png", hu.array, (0.4, 0.6)), ("b.tif", hu.array[:20], None)):
        scan = read_scan(str(tmp_path / name))
        assert (scan.unit, scan.spacing_mm) == ("HU", spacing)
        assert np.array_equal(scan.array, array)


def test_grey_scan_without_spacing_is_one_file_and_the_list_of_what_ctmr_wrote(tmp_path):
    write_scan(tmp_path / "a.png", Image(grey(20, 30), "grey", 8))
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", ".ctmr-outputs.json"}


@pytest.mark.parametrize("units", [("grey", "HU"), ("HU", "grey")])
def test_scan_of_another_unit_is_not_written_beside(tmp_path, units):
    for name, unit in zip(("a.png", "b.png"), units, strict=True):
        scan = Image(grey(20, 30), unit, 16)
        if name == "a.png":
            write_scan(tmp_path / name, scan)
            before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        else:
            with pytest.raises(OutputError, match="would lie beside others of"):
                write_scan(tmp_path / name, scan)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_scan_that_cannot_be_written_leaves_no_ctmr_json(tmp_path):
    with pytest.raises(OutputError, match="needs a suffix"):
        write_scan(tmp_path / "a.jpg", Image(grey(20, 30), "HU", 16))
    assert not list(tmp_path.iterdir())


# Models that know the size of heads, and mirror


def test_mirrored_translation_is_averaged_where_the_model_asks_for_it():
    scan = Image(np.zeros((64, 64), np.float32), "grey", 8)
    once, twice = (
        translator(generator=Shade, mirror=mirror).translation(scan, "ct", quality="full")
        for mirror in (False, True)
    )
    halves = once.scan.array[:, :32].mean(), once.scan.array[:, 32:].mean()
    assert halves == (102, 0)  # brighter by 0.4 of the range
    np.testing.assert_allclose(twice.scan.array, 51, atol=1e-4)
    assert twice.quality.disagreement == once.quality.disagreement == pytest.approx(0.4)


@pytest.mark.parametrize(("side_px", "guessed"), [(128, 1.0), (64, 310 / 256), (240, 190 / 256)])
def test_picture_without_a_spacing_is_scaled_by_its_head(side_px, guessed):
    array = np.zeros((256, 256), np.float32)
    first = (256 - side_px) // 2
    array[first : first + side_px, first : first + side_px] = 200
    model = translator(scale=Scale(287, 1.0), head_mm2=128.0**2)
    scan = Image(array, "grey", 8)
    about = model.translation(scan, "ct", quality="none").about
    assert about["guessed_mm"] == pytest.approx(guessed, rel=0.03)
    made = model.preprocessor.prepare(scan, "mr")
    assert made.grid[0] == pytest.approx(256 * guessed, rel=0.03)
    told = model.preprocessor.prepare(dataclasses.replace(scan, spacing_mm=(2.0, 2.0)), "mr")
    assert (told.grid, told.guessed_mm) == ((512, 512), None)
    assert made.restore([made.batch([0])]).array.shape == (256, 256)


def test_picture_is_judged_in_a_window_about_its_head():
    array = np.zeros((200, 300), np.float32)
    array[20:120, 150:250] = 200
    model = translator(scale=Scale(287, 1.0), head_mm2=100.0**2)
    scan = Image(array, "grey", 8, (1.0, 1.0))
    made = model.preprocessor.prepare(scan, "mr")
    seen = made.window(made.batch([0])[0])[..., 0]
    assert seen.shape == (104, 104)  # 1.04 times the head
    assert (seen[2:-2, 2:-2] > 0).mean() > 0.97
