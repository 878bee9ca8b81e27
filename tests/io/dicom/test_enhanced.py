"""Enhanced multi-frame objects: the same volume as their frames one by one, and a classic series as result."""

import shutil
import subprocess

import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset, dcmread, uid
from pydicom.sequence import Sequence

from ctmr.errors import DataError, SafetyError
from ctmr.io.dicom.grouping import list_series
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import Derivation, write_series
from ctmr.io.scan import kind_of, read_scan
from support.dicom_series import SHARED, affine, edit, enhanced, make, one, turned

SHUFFLED = [3, 1, 0, 5, 2, 4]


@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("shared", [(), SHARED, (*SHARED, "PixelValueTransformationSequence")])
def test_enhanced_object_is_read_as_its_frames_one_by_one(modality, shared, tmp_path):
    volume = make(tmp_path / "single", modality, affine(turned(12, 7)))
    enhanced(tmp_path / "single", tmp_path / "multi", order=SHUFFLED, shared=shared)
    series = read_series(tmp_path / "multi")
    assert np.array_equal(series.volume.array, volume.array)
    np.testing.assert_allclose(series.volume.affine, volume.affine, atol=1e-6)
    assert series.volume.modality == modality
    assert len(series.headers) == volume.array.shape[2]


def test_simpleitk_sees_the_same_voxels_at_the_same_places(tmp_path):
    make(tmp_path / "single", matrix=affine(turned(-20, 11)))
    path = enhanced(tmp_path / "single", tmp_path / "multi")
    image = SimpleITK.ReadImage(str(path))
    volume = read_series(tmp_path / "multi").volume
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), volume.array)
    for corner in ((0, 0, 0), (11, 0, 0), (0, 9, 0), (0, 0, 5), (11, 9, 5)):
        place = image.TransformContinuousIndexToPhysicalPoint([float(c) for c in corner])
        found = (volume.affine @ [*corner, 1])[:3]
        np.testing.assert_allclose(found * (-1, -1, 1), place, atol=1e-4)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_compressed_frames_are_read(syntax, tmp_path):
    volume = make(tmp_path / "single", shape=(64, 64, 6))
    enhanced(tmp_path / "single", tmp_path / "multi", order=SHUFFLED, compress=syntax)
    assert np.array_equal(read_series(tmp_path / "multi").volume.array, volume.array)


def test_slope_of_each_frame_is_applied_to_it(tmp_path):
    volume = make(tmp_path / "single", "mr")

    def scale(image):
        for k, group in enumerate(image.PerFrameFunctionalGroupsSequence):
            group.PixelValueTransformationSequence[0].RescaleSlope = k + 1

    enhanced(tmp_path / "single", tmp_path / "multi", change=scale)
    scaled = volume.array * np.arange(1, 7)
    assert np.array_equal(read_series(tmp_path / "multi").volume.array, scaled)


def test_group_of_a_frame_goes_before_the_shared_one(tmp_path):
    make(tmp_path / "single")

    def contradict(image):
        spacing = Dataset()
        spacing.PixelSpacing, spacing.SliceThickness = [7, 7], 7
        image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = Sequence([spacing])

    enhanced(tmp_path / "single", tmp_path / "multi", change=contradict, shared=())
    spacing = read_series(tmp_path / "multi").volume.spacing_mm
    np.testing.assert_allclose(spacing, (0.9, 1.1, 2.5), atol=1e-6)


def about() -> Derivation:
    return Derivation("0" * 64, "ct-to-mr", "1", "")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy")
def test_result_is_a_classic_series_without_errors(tmp_path):
    make(tmp_path / "single")
    enhanced(tmp_path / "single", tmp_path / "multi", order=SHUFFLED)
    series = read_series(tmp_path / "multi")
    (tmp_path / "out").mkdir()
    paths = write_series(tmp_path / "out", series.volume, series, about())
    source = dcmread(tmp_path / "multi" / "enhanced.dcm")
    frames = []
    for path in paths:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
        errors = [
            row for row in (done.stdout + done.stderr).splitlines() if row.startswith("Error")
        ]
        assert [row for row in errors if "(0x0008,0x001c)" not in row] == []  # SyntheticData is new
        image = dcmread(path)
        assert image.SOPClassUID == uid.MRImageStorage
        assert "PerFrameFunctionalGroupsSequence" not in image
        origin = image.SourceImageSequence[0]
        assert origin.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert origin.ReferencedSOPClassUID == uid.EnhancedCTImageStorage
        frames.append(origin.ReferencedFrameNumber)
        group = source.PerFrameFunctionalGroupsSequence[frames[-1] - 1]
        assert group.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
    assert frames == [SHUFFLED.index(k) + 1 for k in range(6)]
    assert len({dcmread(path).SOPInstanceUID for path in paths}) == 6
    written = read_series(tmp_path / "out").volume
    assert np.array_equal(written.array, series.volume.array)
    np.testing.assert_allclose(written.affine, series.volume.affine, atol=1e-6)


def test_series_of_several_enhanced_files_is_one_volume(tmp_path):
    volume = make(tmp_path / "single")
    for n, frames in enumerate(([0, 2, 4], [1, 3, 5])):
        path = enhanced(tmp_path / "single", tmp_path / str(n), order=frames)
        edit(path, SOPInstanceUID=f"2.25.{n + 1}")
        (tmp_path / "multi").mkdir(exist_ok=True)
        path.rename(tmp_path / "multi" / f"{n}.dcm")
    assert np.array_equal(read_series(tmp_path / "multi").volume.array, volume.array)


@pytest.mark.parametrize(
    ("macro", "keyword", "values"),
    [
        ("FrameContentSequence", "TemporalPositionIndex", [1, 2]),
        ("FrameContentSequence", "StackID", ["1", "2"]),
        ("MRDiffusionSequence", "DiffusionBValue", [0.0, 1000.0]),
        ("MREchoSequence", "EffectiveEchoTime", [10.0, 80.0]),
    ],
)
def test_several_volumes_in_one_file_are_refused_naming_what_differs(
    macro, keyword, values, tmp_path
):
    make(tmp_path / "single", "mr")

    def change(image):
        for k, group in enumerate(image.PerFrameFunctionalGroupsSequence):
            if macro not in group:
                setattr(group, macro, [Dataset()])
            setattr(getattr(group, macro)[0], keyword, values[k // 6])

    enhanced(tmp_path / "single", tmp_path / "multi", order=[*range(6), *range(6)], change=change)
    with pytest.raises(
        DataError, match=rf"12 at 6 places, which differ in {keyword} .*2 values"
    ) as e:
        read_series(tmp_path / "multi")
    assert "--series cannot choose" in e.value.fix


def test_frames_of_two_orientations_are_refused(tmp_path):
    make(tmp_path / "single")

    def turn(image):
        group = image.PerFrameFunctionalGroupsSequence[2]
        group.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    enhanced(tmp_path / "single", tmp_path / "multi", shared=(), change=turn)
    with pytest.raises(SafetyError, match="ImageOrientationPatient"):
        read_series(tmp_path / "multi")


@pytest.mark.parametrize(
    ("macro", "error"),
    [
        ("PlanePositionSequence", DataError),
        ("PlaneOrientationSequence", SafetyError),
        ("PixelMeasuresSequence", SafetyError),
        ("PixelValueTransformationSequence", SafetyError),
    ],
)
def test_missing_functional_group_is_refused(macro, error, tmp_path):
    make(tmp_path / "single")

    def drop(image):
        for group in image.PerFrameFunctionalGroupsSequence:
            del group[macro]

    enhanced(tmp_path / "single", tmp_path / "multi", shared=(), change=drop)
    with pytest.raises(error):
        read_series(tmp_path / "multi")


@pytest.mark.parametrize("frames", [0, 5, 7, 20_001, 10**9])
def test_number_of_frames_must_be_that_of_the_groups(frames, tmp_path):
    make(tmp_path / "single")
    path = enhanced(tmp_path / "single", tmp_path / "multi")
    edit(path, NumberOfFrames=frames)
    with pytest.raises(DataError, match="expected"):
        read_series(path.parent)


def test_pixels_cut_off_are_refused(tmp_path):
    make(tmp_path / "single")
    path = enhanced(tmp_path / "single", tmp_path / "multi")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError):
        read_series(path.parent)


def test_very_many_items_are_refused_before_they_are_parsed(tmp_path):
    make(tmp_path / "single")

    def fill(image):
        image.SharedFunctionalGroupsSequence[0].FrameContentSequence = [Dataset()] * 10_000

    path = enhanced(tmp_path / "single", tmp_path / "multi", change=fill)
    with pytest.raises(DataError, match="items of sequences for 6 frames: found 100"):
        read_series(path.parent)


def test_no_text_of_the_groups_is_said(tmp_path):
    make(tmp_path / "single")

    def name(image):
        for k, group in enumerate(image.PerFrameFunctionalGroupsSequence):
            group.FrameContentSequence[0].StackID = f"DOE^JOHN{k}"

    enhanced(tmp_path / "single", tmp_path / "multi", change=name)
    with pytest.raises(DataError, match="StackID") as caught:
        read_series(tmp_path / "multi")
    assert "DOE" not in str(caught.value)


def test_enhanced_file_beside_single_slices_of_another_series_is_refused(tmp_path):
    make(tmp_path / "single")
    path = enhanced(tmp_path / "single", tmp_path / "multi")
    edit(path, SeriesInstanceUID="2.25.99")
    path.rename(one(tmp_path / "single").parent / "multi.dcm")
    with pytest.raises(DataError):
        read_series(tmp_path / "single")


def test_one_multi_frame_file_is_a_scan_and_one_slice_is_none(tmp_path):
    volume = make(tmp_path / "single")
    path = enhanced(tmp_path / "single", tmp_path / "multi").rename(tmp_path / "no suffix")
    assert kind_of(path) == "series"
    assert np.array_equal(read_scan(path).array, volume.array)
    slice_path = one(tmp_path / "single")
    assert kind_of(slice_path) is None
    with pytest.raises(DataError, match=r"found one file of it\. Fix: give its folder"):
        read_scan(slice_path)


def test_frames_are_no_copies_though_they_have_one_uid(tmp_path):
    make(tmp_path / "single")
    enhanced(tmp_path / "single", tmp_path / "multi")
    series = read_series(tmp_path / "multi")
    assert series.notes == ()
    assert {str(header.SOPInstanceUID) for header in series.headers} == {"2.25.4711"}


@pytest.mark.parametrize(
    ("repetition", "echo", "inversion", "contrast", "pulse", "weighting"),
    [
        (8, 3, 900, None, "GRADIENT", "t1"),
        (4000, 100, None, None, "SPIN", "t2"),
        (9000, 120, 2500, None, "SPIN", "flair"),
        (600, 20, None, None, "GRADIENT", "t2star"),
        (4000, 100, None, "PROTON_DENSITY", "SPIN", "pd"),
        (4000, 20, None, "UNKNOWN", "SPIN", "pd"),
        (None, None, None, "T1", None, "t1"),
        (None, None, None, None, None, None),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_weighting_is_told_by_the_functional_groups(
    repetition, echo, inversion, contrast, pulse, weighting, shared, tmp_path
):
    said = {
        "MRTimingAndRelatedParametersSequence": ("RepetitionTime", repetition),
        "MREchoSequence": ("EffectiveEchoTime", echo),
        "MRModifierSequence": ("InversionTimes", inversion and [inversion]),
        "MRImageFrameTypeSequence": ("AcquisitionContrast", contrast),
    }

    def add(image):
        groups = image.SharedFunctionalGroupsSequence
        for group in groups if shared else image.PerFrameFunctionalGroupsSequence:
            for macro, (keyword, value) in said.items():
                item = Dataset()
                if value is not None:
                    setattr(item, keyword, value)
                setattr(group, macro, Sequence([item]))
        if pulse is not None:
            image.EchoPulseSequence = pulse

    make(tmp_path / "single", "mr")
    enhanced(tmp_path / "single", tmp_path / "multi", change=add)
    (found,) = list_series(tmp_path / "multi").series
    assert found.weighting == weighting
