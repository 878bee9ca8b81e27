"""Volumes through the whole translation: with a model that changes nothing, nothing may change."""

import itertools
import json
import re
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff
from pydicom import dcmread

from ctmr import CtmrError, load_model, read_scan, synthesise_head, write_scan
from ctmr.errors import DataError, OutputError, SafetyError, UsageError
from ctmr.evaluation.evaluate import evaluate
from ctmr.imaging.head import find_head
from ctmr.imaging.image import Image
from ctmr.imaging.intensity import MR_UNITS, Intensity, ct_window
from ctmr.imaging.resampling import Scale
from ctmr.imaging.volume import Forms, Volume, axial_slices
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.reading import Reading
from ctmr.io.scan import DESCRIPTION
from ctmr.translation.batch import translate_files
from ctmr.translation.translator import Translator
from support.identity import HU, Brighter, Identity, Inverse, smooth_head, translator

MM = 3.5
SHAPE = (58, 67, 31)  # odd sizes, no multiple of 4
SPACING = (MM, MM, 5.0)
ORIENTATIONS = [
    np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


@cache
def phantom(modality: str) -> Volume:
    """A synthetic head in whole HU or MR units of at most 3071, RAS+, with a bead at the patient's right front."""
    head = synthesise_head(11, shape=SHAPE, spacing_mm=SPACING)
    array = head.ct if modality == "ct" else head.mr * (3000 / head.mr.max())
    array = np.rint(array).astype(np.float32)
    array[45:48, 50:53, 20] = 2500
    return Volume(array, head.affine, modality)


def turned(volume: Volume, orientation: np.ndarray) -> Volume:
    """The same scan with its axes stored in another order and direction."""
    array = np.ascontiguousarray(apply_orientation(volume.array, orientation))
    return Volume(
        array, volume.affine @ inv_ornt_aff(orientation, volume.array.shape), volume.modality
    )


def unchanging(mm: float = MM, size: int = 64):
    """An identity model with the window `wide` on both sides."""
    wide = Intensity("MR", HU.values)
    return translator(ct={"HU": HU}, mr={"MR": wide}, scale=Scale(size, mm))


def translate(folder: Path, volume: Volume, to: str, name: str = "scan.nii.gz") -> Path:
    """Write a volume as NIfTI, translate the file with the identity model and return where it is."""
    write_scan(folder / "in" / name, volume)
    translate_files(unchanging(), folder / "in" / name, folder / "out" / name, to, quality="none")
    return folder / "out" / name


# The identity model, NIfTI


@pytest.mark.parametrize("n", range(48))
def test_identity_model_returns_every_orientation(tmp_path, n):
    volume = turned(phantom("mr"), ORIENTATIONS[n])
    result = nib.load(translate(tmp_path, volume, "ct"))
    assert result.shape == volume.array.shape
    assert result.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(result.dataobj), volume.array)
    np.testing.assert_allclose(result.affine, volume.affine, atol=1e-4)
    assert nib.aff2axcodes(result.affine) == volume.axes


def test_identity_model_returns_ct_as_mr_in_float32(tmp_path):
    result = nib.load(translate(tmp_path, phantom("ct"), "mr"))
    assert result.get_data_dtype() == np.float32
    np.testing.assert_allclose(result.get_fdata(), phantom("ct").array, atol=0.01)


def oblique(degrees: float) -> np.ndarray:
    """A rotation about an axis that is none of the patient's."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix


def test_identity_model_returns_an_oblique_volume(tmp_path):
    volume = Volume(phantom("mr").array, oblique(20) @ phantom("mr").affine, "mr")
    result = nib.load(translate(tmp_path, volume, "ct"))
    np.testing.assert_array_equal(np.asarray(result.dataobj), volume.array)
    np.testing.assert_allclose(result.affine, volume.affine, atol=1e-4)


def test_identity_model_returns_a_tilted_volume(tmp_path):
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.deg2rad(12)) * SPACING[2] / MM
    volume = Volume(phantom("mr").array, phantom("mr").affine @ shear, "mr")
    result = nib.load(translate(tmp_path, volume, "ct"))
    np.testing.assert_array_equal(np.asarray(result.dataobj), volume.array)
    np.testing.assert_allclose(result.affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize("codes", [(1, 1), (1, 4), (0, 2), (3, 0)])
def test_both_codes_and_matrices_are_kept(tmp_path, codes):
    volume = turned(phantom("mr"), ORIENTATIONS[21])
    forms = Forms(volume.affine, codes[0], volume.affine, codes[1])
    name = translate(tmp_path, Volume(volume.array, volume.affine, "mr", forms), "ct")
    header = nib.load(name).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == codes


# The identity model, DICOM


@pytest.mark.parametrize("degrees", [0, 20])
def test_identity_model_returns_a_dicom_series(tmp_path, degrees):
    volume = Volume(phantom("mr").array, oblique(degrees) @ phantom("mr").affine, "mr")
    phantom_series(tmp_path / "in", volume, name="a", study="a")
    translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "ct", quality="none")
    before, after = read_series(tmp_path / "in"), read_series(tmp_path / "out")
    np.testing.assert_array_equal(after.volume.array, before.volume.array)
    np.testing.assert_array_equal(after.volume.affine, before.volume.affine)
    assert after.volume.modality == "ct"
    assert json.loads((tmp_path / "out.json").read_text())["unit"] == "HU"


def test_identity_model_returns_a_tilted_dicom_series(tmp_path):
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.deg2rad(12)) * SPACING[2] / MM
    volume = Volume(phantom("ct").array, phantom("ct").affine @ shear, "ct")
    phantom_series(tmp_path / "in", volume, name="a", study="a")
    translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", quality="none")
    before, after = read_series(tmp_path / "in"), read_series(tmp_path / "out")
    np.testing.assert_array_equal(after.volume.array, before.volume.array)
    np.testing.assert_array_equal(after.volume.affine, before.volume.affine)


def test_series_with_a_gap_is_refused_and_translated_slice_by_slice_where_the_user_insists(
    tmp_path,
):
    phantom_series(tmp_path / "in", phantom("ct"), name="a", study="a")
    sorted((tmp_path / "in").iterdir())[10].unlink()
    with pytest.raises(SafetyError, match="spacing"):
        translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr")
    assert not (tmp_path / "out").exists()
    reading = Reading(irregular=True)
    translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", reading=reading)
    before = read_series(tmp_path / "in", irregular=True)
    after = read_series(tmp_path / "out", irregular=True)
    np.testing.assert_array_equal(after.volume.array, before.volume.array)
    positions = [[h.ImagePositionPatient for h in series.headers] for series in (before, after)]
    assert positions[0] == positions[1]
    assert json.loads((tmp_path / "out.json").read_text())["irregular"] is True


def test_localizer_is_left_out_with_a_note(tmp_path, caplog):
    phantom_series(tmp_path / "in", phantom("ct"), name="a", study="a")
    localizer = dcmread(tmp_path / "in" / "slice_0003.dcm")
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    localizer.SOPInstanceUID += ".1"
    localizer.file_meta.MediaStorageSOPInstanceUID = localizer.SOPInstanceUID
    localizer.save_as(tmp_path / "in" / "scout.dcm")
    translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", quality="none")
    assert len(list((tmp_path / "out").iterdir())) == SHAPE[2]
    assert "localizer" in caplog.text
    assert "localizer" in json.loads((tmp_path / "out.json").read_text())["notes"][0]


def test_same_command_twice_gives_the_same_bytes(tmp_path):
    phantom_series(tmp_path / "in", phantom("ct"), name="a", study="a")
    for out in ("one", "two"):
        translate_files(unchanging(), tmp_path / "in", tmp_path / out, "mr", quality="none")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == SHAPE[2]
    for name in names:
        one, two = ((tmp_path / out / name).read_bytes() for out in ("one", "two"))
        assert one == two


def test_series_replaces_an_earlier_translation_whole_and_nothing_else(tmp_path):
    phantom_series(tmp_path / "in", phantom("ct"), name="a", study="a")
    translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", quality="none")
    translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", quality="none")
    (tmp_path / "out" / "slice_9999.dcm").write_bytes(b"of a longer series")
    with pytest.raises(OutputError, match="which is kept"):
        translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", quality="none")
    options = {"quality": "none", "overwrite": True}
    translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", **options)
    assert len(list((tmp_path / "out").iterdir())) == SHAPE[2]
    phantom_series(tmp_path / "other", phantom("ct"), name="b", study="b")
    before = {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}
    with pytest.raises(OutputError, match="which is kept"):
        translate_files(unchanging(), tmp_path / "in", tmp_path / "other", "mr")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="expected a new folder, or an earlier translation"):
        translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", **options)
    assert (tmp_path / "out" / "notes.txt").exists()
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}
    assert not list(tmp_path.glob(".*"))


def test_nifti_is_written_as_dicom_where_its_series_is_named(tmp_path):
    phantom_series(tmp_path / "series", phantom("ct"), name="a", study="a")
    series = read_series(tmp_path / "series")
    write_scan(tmp_path / "ct.nii.gz", turned(series.volume, ORIENTATIONS[13]))
    like = tmp_path / "series"
    out = tmp_path / "out"
    translate_files(unchanging(), tmp_path / "ct.nii.gz", out, "mr", like=like)
    after = read_series(out)
    np.testing.assert_array_equal(after.volume.array, series.volume.array)
    assert after.volume.modality == "mr"
    assert after.headers[0].StudyInstanceUID == series.headers[0].StudyInstanceUID


def test_series_of_another_grid_is_refused_for_like(tmp_path):
    phantom_series(tmp_path / "series", phantom("ct"), name="a", study="a")
    shifted = phantom("ct").affine.copy()
    shifted[0, 3] += 1
    write_scan(tmp_path / "ct.nii.gz", Volume(phantom("ct").array, shifted, "ct"))
    like = tmp_path / "series"
    with pytest.raises(DataError, match="expected the grid of"):
        translate_files(unchanging(), tmp_path / "ct.nii.gz", tmp_path / "out", "mr", like=like)


# Other pixel sizes


def smooth(shape: tuple[int, int, int], mm: float) -> Volume:
    """A ball of brain in a shell of bone on air, blurred over some mm, of 220 mm field."""
    axes = [(np.arange(n) + 0.5) / n * n * s for n, s in zip(shape, (mm, mm, 10.0), strict=True)]
    centre = [axis.mean() for axis in axes]
    i, j, k = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2)
    inside = 1 / (1 + np.exp((radius - 80) / 3))
    array = -1000 + 1040 * inside + 900 * np.exp(-(((radius - 72) / 6) ** 2))
    return Volume(np.rint(array).astype(np.float32), np.diag([mm, mm, 10.0, 1.0]), "ct")


@pytest.mark.parametrize(("shape", "mm"), [((488, 488, 6), 0.45), ((512, 512, 6), 0.43)])
def test_identity_model_stays_within_a_bound_at_finer_pixels(shape, mm):
    volume = smooth(shape, mm)
    result = unchanging(1.0, 220).translate(volume, to="mr")
    assert result.array.shape == shape
    np.testing.assert_array_equal(result.affine, volume.affine)
    error = np.abs(result.array - volume.array)
    assert error.max() < 12  # of 2000 HU; docs/project/results.md states it
    assert error.mean() < 1


def test_pixel_sizes_within_5_percent_are_not_resampled():
    volume = Volume(phantom("mr").array, phantom("mr").affine, "mr")
    done = unchanging(MM * 1.04).translation(volume, "ct", quality="none")
    np.testing.assert_array_equal(np.rint(done.scan.array), volume.array)
    assert done.about["resampled"] is False
    done = unchanging(MM * 1.06).translation(volume, "ct", quality="none")
    assert done.about["resampled"] is True


class Blur(Identity):
    """A generator that sees a neighbourhood of pixels, so that scale matters."""

    def forward(self, x):
        import torch

        return torch.nn.functional.avg_pool2d(x, 9, 1, 4, count_include_pad=False)


def test_half_a_millimetre_and_one_give_the_same_translation():
    model = translator(
        ct={"HU": HU}, mr={"MR": Intensity("MR", HU.values)}, scale=Scale(220, 1.0), generator=Blur
    )
    fine = model.translate(smooth((440, 440, 6), 0.5), to="mr").array
    coarse = model.translate(smooth((220, 220, 6), 1.0), to="mr").array
    average = fine.reshape(220, 2, 220, 2, 6).mean(axis=(1, 3))
    assert np.abs(average - coarse).mean() < 2  # of 2000 HU
    unscaled = translator(
        ct={"HU": HU}, mr={"MR": Intensity("MR", HU.values)}, scale=Scale(220, 0.5), generator=Blur
    )
    other = unscaled.translate(smooth((440, 440, 6), 0.5), to="mr").array
    assert np.abs(other.reshape(220, 2, 220, 2, 6).mean(axis=(1, 3)) - coarse).mean() > 5


def test_wide_axial_pixels_are_warned_of(caplog):
    unchanging().translate(phantom("ct"), to="mr")
    assert "an axial pixel of 3.5 mm" in caplog.text


# Wrong modality


def as_nifti(folder: Path, volume: Volume) -> Path:
    write_scan(folder / "scan.nii.gz", volume)
    return folder / "scan.nii.gz"


def as_dicom(folder: Path, volume: Volume) -> Path:
    phantom_series(folder / "scan", volume, name="a", study="a")
    return folder / "scan"


@pytest.mark.parametrize("write", [as_nifti, as_dicom])
@pytest.mark.parametrize(("given", "to"), [("mr", "mr"), ("ct", "ct")])
def test_wrong_modality_is_refused_before_anything_is_written(tmp_path, write, given, to):
    source = write(tmp_path, phantom(given))
    out = tmp_path / ("out.nii.gz" if write is as_nifti else "out")
    expected = "expected CT" if to == "mr" else "expected MR"
    with pytest.raises(SafetyError, match=expected):
        translate_files(unchanging(), source, out, to)
    assert not out.exists()


def test_wrong_modality_is_translated_where_the_user_insists_and_the_sidecar_says_so(tmp_path):
    source = as_nifti(tmp_path, phantom("mr"))
    out = tmp_path / "out.nii.gz"
    translate_files(unchanging(), source, out, "mr", reading=Reading(anyway=True))
    assert json.loads((tmp_path / "out.json").read_text())["anyway"] is True


def test_translated_nifti_says_that_it_is_synthetic(tmp_path):
    translate(tmp_path, phantom("ct"), "mr")
    content = nib.load(tmp_path / "out" / "scan.nii.gz").header["descrip"].item().decode()
    assert content == DESCRIPTION
    assert content.startswith("SYNTHETIC")


def test_axes_that_the_user_vouched_for_stand_in_the_sidecar(tmp_path):
    source = as_nifti(tmp_path, phantom("ct"))
    image = nib.load(source)
    image.header["qform_code"] = image.header["sform_code"] = 0
    bare = tmp_path / "bare.nii"
    nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(bare)
    with pytest.raises(SafetyError, match="left and right are unknown"):
        translate_files(unchanging(), bare, tmp_path / "out.nii", "mr")
    reading = Reading(geometry="LAS")
    translate_files(unchanging(), bare, tmp_path / "out.nii", "mr", reading=reading)
    assert json.loads((tmp_path / "out.json").read_text())["geometry"] == "LAS"


def test_volume_without_a_head_is_refused(tmp_path):
    source = as_nifti(tmp_path, Volume(np.zeros(SHAPE, np.float32), phantom("mr").affine, "mr"))
    with pytest.raises(DataError, match="expected a head: found none"):
        translate_files(unchanging(), source, tmp_path / "out.nii.gz", "ct")


def test_model_without_a_pixel_size_refuses_volumes():
    model = translator(ct={"HU": HU}, mr={"MR": MR_UNITS})
    with pytest.raises(DataError, match="expected a model that knows a pixel size"):
        model.translate(phantom("ct"), to="mr")


# What is said beside an output


def test_sidecar_states_units_ranges_and_what_was_clipped(tmp_path):
    model = translator(ct={"HU": ct_window("brain")}, mr={"MR": MR_UNITS}, scale=Scale(64, MM))
    write_scan(tmp_path / "ct.nii", phantom("ct"))
    translate_files(model, tmp_path / "ct.nii", tmp_path / "mr.nii", "mr", quality="full")
    content = json.loads((tmp_path / "mr.json").read_text())
    assert content["unit"] == "arbitrary MR units"
    assert content["range"] == [0.0, 1000.0]
    assert content["source_range"] == [0.0, 80.0]
    values = find_head(phantom("ct"), "ct").values
    outside = float(((values < 0) | (values > 80)).mean())
    assert content["source_clipped_share"] == pytest.approx(outside, abs=1e-5)
    assert content["quality"]["cycle_error"] == pytest.approx(0, abs=1e-6)
    assert "not for diagnosis" in content["notice"]


def test_mr_comes_in_by_percentiles_of_its_own_head():
    model = translator(ct={"HU": HU}, mr={"MR": MR_UNITS}, scale=Scale(64, MM))
    one = model.translate(phantom("mr"), to="ct").array
    scaled = Volume(phantom("mr").array * 7, phantom("mr").affine, "mr")
    np.testing.assert_allclose(model.translate(scaled, to="ct").array, one, atol=0.5)


def test_folder_of_scans_of_every_form_is_translated(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    write_scan(source / "a.nii.gz", phantom("ct"))
    write_scan(source / "b.nii", phantom("ct"))
    phantom_series(source / "c", phantom("ct"), name="c", study="c")
    summary = translate_files(unchanging(), source, out, "mr", quality="none")
    assert summary.written == 3
    names = ["a.json", "a.nii.gz", "b.json", "b.nii", "c", "c.json"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_all_bad_scans_are_named_before_any_work(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    write_scan(source / "a.nii.gz", phantom("ct"))
    write_scan(source / "b.nii.gz", phantom("mr"))
    (source / "c.nii").write_bytes(b"no NIfTI")
    with pytest.raises(SafetyError, match="2 of 3 scans cannot be translated") as caught:
        translate_files(unchanging(), source, out, "mr")
    assert "expected CT in HU" in str(caught.value)
    assert "(b.nii.gz)" in str(caught.value)
    assert "(c.nii)" in str(caught.value)
    assert not out.exists()
    summary = translate_files(unchanging(), source, out, "mr", on_error="skip")
    assert summary.skipped == ("b.nii.gz", "c.nii")
    assert (out / "a.nii.gz").exists()


def test_loose_dicom_files_beside_other_scans_are_a_scan_too(tmp_path):
    phantom_series(tmp_path / "in", phantom("ct"), name="c", study="c")
    write_scan(tmp_path / "in" / "a.nii.gz", phantom("ct"))
    done = translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr")
    assert done.written == 2
    (series,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert re.fullmatch(r"s[0-9a-f]+_1", series.name)
    np.testing.assert_array_equal(read_series(series).volume.array.shape, phantom("ct").array.shape)
    assert (tmp_path / "out" / "a.nii.gz").exists()


def test_output_of_another_form_is_refused(tmp_path):
    source = as_nifti(tmp_path, phantom("ct"))
    with pytest.raises(UsageError, match=r"ending in \.nii\.gz, \.nii, .*: found '\.png'"):
        translate_files(unchanging(), source, tmp_path / "out.png", "mr")
    series = as_dicom(tmp_path, phantom("ct"))
    with pytest.raises(UsageError, match="expected a new folder for a DICOM series"):
        translate_files(unchanging(), series, tmp_path / "out.nii", "mr")
    with pytest.raises(UsageError, match=r"written as \.nii\.gz, \.nii, \.mha"):
        write_scan(tmp_path / "a.png", phantom("ct"))


def test_python_reads_translates_and_writes_a_volume(tmp_path):
    write_scan(tmp_path / "ct.nii.gz", phantom("ct"))
    volume = read_scan(tmp_path / "ct.nii.gz")
    assert volume.modality is None
    result = unchanging().translate(volume, to="mr")
    write_scan(tmp_path / "mr.nii.gz", result)
    np.testing.assert_allclose(
        nib.load(tmp_path / "mr.nii.gz").get_fdata(), volume.array, atol=0.01
    )
    assert read_scan(as_dicom(tmp_path, phantom("ct"))).modality == "ct"
    with pytest.raises(CtmrError):
        load_model(tmp_path)


# Uncertainty maps


def test_maps_of_a_volume_lie_on_its_grid_for_every_slice_and_its_measures_are_of_the_head():
    volume = turned(phantom("ct"), ORIENTATIONS[17])
    wide = Intensity("MR", HU.values)
    model = translator(ct={"HU": HU}, mr={"MR": wide}, scale=Scale(64, MM), generator=Brighter)
    done = model.translation(volume, "mr", quality="full")
    assert {share.shape for share in done.maps.values()} == {volume.array.shape}
    np.testing.assert_allclose(done.maps["cycle_error"], 0.2, atol=1e-6)
    np.testing.assert_allclose(done.maps["disagreement"], 0, atol=1e-6)
    assert done.quality.cycle_error == pytest.approx(0.2, abs=1e-6)
    assert done.quality.disagreement == pytest.approx(0, abs=1e-6)
    fast = model.translation(volume, "mr", quality="fast")
    assert fast.maps == {}
    assert fast.quality.cycle_error == pytest.approx(0.2, abs=1e-6)
    assert fast.quality.disagreement is None


def test_measures_of_a_volume_are_the_same_whichever_way_its_axes_run():
    model = translator(ct={"HU": HU}, mr={"MR": MR_UNITS}, scale=Scale(64, MM), generator=Inverse)
    found = []
    for orientation in ORIENTATIONS[::9]:
        done = model.translation(turned(phantom("ct"), orientation), "mr", quality="full")
        found.append(done.quality.measures())
    assert all(each == pytest.approx(found[0]) for each in found)


@pytest.mark.parametrize("form", [as_nifti, as_dicom])
def test_maps_are_written_as_nifti_on_the_grid_of_the_scan(tmp_path, form):
    source = form(tmp_path, phantom("ct"))
    model = translator(ct={"HU": HU}, mr={"MR": MR_UNITS}, scale=Scale(64, MM), generator=Brighter)
    target = tmp_path / "out" / ("mr.nii.gz" if source.is_file() else "mr")
    translate_files(model, source, target, "mr", quality="full")
    assert json.loads((tmp_path / "out/mr.json").read_text())["quality"]["maps"] == [
        "cycle_error",
        "disagreement",
    ]
    read = read_scan(source)
    for measure, value in (("cycle_error", 0.2), ("disagreement", 0.0)):
        image = nib.load(tmp_path / "out/quality" / f"mr_{measure}.nii.gz")
        assert (image.shape, image.get_data_dtype()) == (read.array.shape, np.float32)
        np.testing.assert_allclose(image.affine, read.affine, atol=1e-4)
        np.testing.assert_allclose(image.get_fdata(), value, atol=1e-6)
        assert (image.header["cal_min"], image.header["cal_max"]) == (
            0,
            0.25,
        )  # as a map of an image
        assert image.header["descrip"].item().decode() == (
            f"{measure}, share of range (ctmr): research use only, not for diagnosis"
        )


def test_series_is_not_written_where_maps_go(tmp_path):
    source = as_dicom(tmp_path, phantom("ct"))
    with pytest.raises(UsageError, match="expected another name than 'quality'"):
        translate_files(unchanging(), source, tmp_path / "out/Quality", "mr", quality="full")
    assert not (tmp_path / "out").exists()


def test_own_slices_of_an_mr_volume_do_not_depend_on_the_units_of_its_scanner():
    volume = phantom("mr")
    model = translator(ct={"HU": HU}, mr={"MR": MR_UNITS}, scale=Scale(64, MM))
    mask = volume.array > 100
    other = Volume(volume.array * 3 + 50, volume.affine, "mr")
    slices = model.preprocessor.own_slices(volume, "mr", mask)
    assert slices.shape == (SHAPE[2], SHAPE[1], SHAPE[0])
    np.testing.assert_allclose(slices, model.preprocessor.own_slices(other, "mr", mask), atol=1e-5)
    low, high = np.percentile(volume.array[mask], (0.5, 99.5))
    middle = axial_slices(volume.array)[15]
    expected = np.clip(2 * (middle - low) / (high - low) - 1, -1, 1)
    np.testing.assert_allclose(slices[15], expected, atol=1e-5)
    assert np.array_equal(volume.axial(mask), axial_slices(mask.astype(np.float32)) > 0)


# Corners


def test_model_of_images_writes_mr_volumes_in_mr_units(tmp_path):
    grey = Intensity("grey", (0.0, 255.0))
    model = translator(ct={"HU": HU}, mr={"8-bit": grey}, scale=Scale(64, MM))
    result = model.translation(phantom("ct"), "mr", quality="none")
    assert result.about["range"] == [0.0, 1000.0]
    unit = (phantom("ct").array + 1024) / 4095
    np.testing.assert_allclose(result.scan.array, 1000 * np.clip(unit, 0, 1), atol=0.01)


def test_model_of_volumes_writes_images_in_mr_units(tmp_path):
    image = Image(np.rint(smooth_head(64, 64, -1000, 1500)), "HU", 16, (MM, MM))
    done = unchanging().translation(image, "mr", quality="none", anyway=True)
    assert done.about["unit"] == "arbitrary MR units"
    assert done.scan.array.shape == (64, 64)


def test_preview_beside_a_series_is_left_out_and_named(tmp_path, caplog):
    for name in ("one", "two"):
        phantom_series(tmp_path / "in" / name, phantom("ct"), name=name, study=name)
    (tmp_path / "in/two/thumb.png").write_bytes(b"x")
    assert translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr").written == 2
    assert "files that are not DICOM are not read: two/thumb.png (1)" in caplog.text


def test_two_niftis_like_one_series_get_different_uids(tmp_path):
    phantom_series(tmp_path / "series", phantom("ct"), name="a", study="a")
    ct = read_series(tmp_path / "series").volume
    write_scan(tmp_path / "in/one.nii", ct)
    write_scan(tmp_path / "in/two.nii", Volume(np.minimum(ct.array, 1500), ct.affine, "ct"))
    like = tmp_path / "series"
    translate_files(unchanging(), tmp_path / "in", tmp_path / "out", "mr", like=like)
    one, two = (read_series(tmp_path / "out" / name).headers[0] for name in ("one", "two"))
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert json.loads((tmp_path / "out/one.json").read_text())["like"] is True


def test_like_is_for_niftis_and_for_the_series_they_were_made_of(tmp_path):
    series = as_dicom(tmp_path, phantom("ct"))
    with pytest.raises(UsageError, match="--like is for volume files"):
        translate_files(unchanging(), series, tmp_path / "out", "mr", like=series)
    write_scan(tmp_path / "mr.nii", Volume(phantom("mr").array, phantom("ct").affine, "mr"))
    with pytest.raises(SafetyError, match="found one that shows CT already"):
        translate_files(unchanging(), tmp_path / "mr.nii", tmp_path / "out", "ct", like=series)


def test_working_folder_is_no_place_for_a_series(tmp_path, monkeypatch):
    series = as_dicom(tmp_path, phantom("ct"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match=r"a DICOM series: found '\.'"):
        translate_files(unchanging(), series, Path(), "mr")


def pairs(folder: Path, ct: Volume, mr: Volume, mask: Volume | None = None) -> Path:
    for kind, volume in (("ct", ct), ("mr", mr), ("mask", mask)):
        if volume is not None:
            write_scan(folder / kind / "a.nii.gz", volume)
    return folder


def part(volume: Volume, count: int) -> Volume:
    return Volume(
        np.ascontiguousarray(volume.array[:, :, 16 : 16 + count]), volume.affine, volume.modality
    )


@pytest.mark.parametrize("count", [1, 3, 6, 7])
def test_few_slices_are_measured(tmp_path, count):
    place = pairs(tmp_path, part(phantom("ct"), count), part(phantom("mr"), count))
    found = evaluate(unchanging(), place, direction="mr-to-ct").summary["directions"]["mr-to-ct"]
    assert -1 < found["ssim"]["mean"] < 1
    assert found["mae"]["mean"] > 0


def test_errors_of_pairs_name_the_file(tmp_path):
    ct, mr = phantom("ct"), phantom("mr")
    empty = Volume(np.zeros(SHAPE, np.float32), ct.affine, "mr")
    with pytest.raises(DataError, match=r"mask/a\.nii\.gz: expected a head mask: found no voxel"):
        evaluate(unchanging(), pairs(tmp_path / "1", ct, mr, empty))
    with pytest.raises(SafetyError, match=r"ct/a\.nii\.gz: expected CT in HU"):
        evaluate(unchanging(), pairs(tmp_path / "2", Volume(mr.array, mr.affine, "ct"), mr))
    with pytest.raises(DataError, match=r"mr/a\.nii\.gz: expected the grid of") as caught:
        evaluate(unchanging(), pairs(tmp_path / "3", ct, part(mr, 9)))
    assert "inf" not in str(caught.value)


def test_refused_image_leaves_no_ctmr_json(tmp_path):
    write_scan(tmp_path / "a.png", Image(np.zeros((8, 80), np.float32), "grey", 8))
    model = translator(ct={"HU": HU}, mr={"8-bit": Intensity("grey", (0.0, 255.0))})
    with pytest.raises(DataError):
        translate_files(model, tmp_path / "a.png", tmp_path / "out" / "a.png", "ct")
    assert not (tmp_path / "out").exists()


def test_series_whose_translation_was_killed_is_translated_again(tmp_path, monkeypatch):
    source = as_dicom(tmp_path / "in", phantom("ct"))
    model, out = unchanging(), tmp_path / "out"
    with monkeypatch.context() as patch:  # the series is in place, its sidecar is not written
        patch.setattr(Translator, "correlations", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            translate_files(model, source, out, "mr")
    assert list(out.glob("*.dcm"))
    again = translate_files(model, source, out, "mr", resume=True)
    assert (again.written, again.kept) == (1, 0)
    again = translate_files(model, source, out, "mr", resume=True)
    assert (again.written, again.kept) == (0, 1)
    next(out.glob("*.dcm")).unlink()  # what is left is not what ctmr wrote
    with pytest.raises(OutputError, match="which is kept"):
        translate_files(model, source, out, "mr", resume=True)
    again = translate_files(model, source, out, "mr", resume=True, overwrite=True)
    assert (again.written, again.kept) == (1, 0)


def test_volumes_may_be_larger_than_images(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.io.image_info.MAX_FILE_BYTES", 1000)
    source = as_nifti(tmp_path / "in", phantom("ct"))
    assert source.stat().st_size > 1000
    assert translate_files(unchanging(), source, tmp_path / "out.nii", "mr").written == 1
