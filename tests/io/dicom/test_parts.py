"""Several volumes under one SeriesInstanceUID: each is a scan, if it is whole."""

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread

from ctmr.errors import DataError
from ctmr.io.dicom.grouping import choose_series, list_series, series_rows
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import Derivation, write_series
from support.dicom_series import edit, put


def parts(folder, *each, modality="mr"):
    """Volumes of one place under one UID, told apart by tags; return what the files of each are."""
    volumes = []
    for n, tags in enumerate(each):
        scratch = folder / f"n{n}"
        scratch.mkdir(parents=True)
        volumes.append(put(scratch, 5, modality=modality))
        for k, path in enumerate(find_dicom(scratch)):

            def darker(image, n=n):
                image.PixelData = (image.pixel_array + n).astype("<i2").tobytes()

            edit(path, darker, SOPInstanceUID=f"2.25.5.{n}.{k}", **tags)
            path.rename(folder / f"{k:02d}_{n}.dcm")
        scratch.rmdir()
    return volumes


@pytest.mark.parametrize(
    ("each", "modality", "told_by"),
    [
        ([{"EchoTime": 80}, {"EchoTime": 20}], "mr", ["EchoTime 20", "EchoTime 80"]),
        ([{"EchoNumbers": n} for n in (1, 2, 3)], "mr", [f"EchoNumbers {n}" for n in (1, 2, 3)]),
        (
            [{"TemporalPositionIdentifier": n} for n in (1, 2)],
            "mr",
            ["TemporalPositionIdentifier 1", "TemporalPositionIdentifier 2"],
        ),
        (
            [{"AcquisitionNumber": n} for n in (4, 7)],
            "ct",
            ["AcquisitionNumber 4", "AcquisitionNumber 7"],
        ),
        (
            [{"ImageType": ["ORIGINAL", "PRIMARY", kind]} for kind in ("AXIAL", "OTHER")],
            "ct",
            ["ImageType", "ImageType"],
        ),
        (
            [{"DiffusionBValue": b} for b in (0, 1000)],
            "mr",
            ["DiffusionBValue 0", "DiffusionBValue 1000"],
        ),
    ],
)
def test_each_volume_of_a_series_is_a_scan(tmp_path, each, modality, told_by):
    parts(tmp_path, *each, modality=modality)
    found = list_series(tmp_path).series
    assert [one.told_by for one in found] == told_by
    rows = series_rows(found)
    assert [row[0] for row in rows] == [f"5_{n}" for n in range(1, len(each) + 1)]
    assert [row[-1] for row in rows] == [f"scan, {text}" for text in told_by]
    for one in found:
        series = read_series(one)
        files = sorted(one.files, key=lambda path: dcmread(path).ImagePositionPatient[2])
        image = SimpleITK.ReadImage([str(path) for path in files])
        others = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
        assert np.array_equal(series.volume.array, others)
    assert [one.part for one in choose_series(found, ("5_2",), "mr")] == [2]
    assert len(choose_series(found, ("5",), "mr")) == len(each)
    with pytest.raises(DataError, match=rf"found {len(each)}: 5_1 .*--series NUMBER"):
        read_series(tmp_path)


def test_echoes_of_several_phases_are_told_apart_by_both(tmp_path):
    each = [{"EchoTime": t, "TemporalPositionIdentifier": n} for t in (20, 80) for n in (1, 2)]
    parts(tmp_path, *each)
    found = list_series(tmp_path).series
    assert [one.slices for one in found] == [10] * 4
    assert [int(read_series(one).volume.array.min()) for one in found] == [
        int(read_series(found[0]).volume.array.min()) + n for n in range(4)
    ]


def test_magnitude_is_the_scan_and_phase_is_derived(tmp_path):
    parts(tmp_path, *({"ImageType": ["ORIGINAL", "PRIMARY", kind, "ND"]} for kind in "MP"))
    found = list_series(tmp_path).series
    assert [one.kind for one in found] == ["scan", "derived"]
    assert choose_series(found, (), "ct") == [found[0]]
    assert len(read_series(tmp_path).headers) == 10


def test_part_that_is_not_whole_leaves_the_series_as_it_is(tmp_path):
    parts(tmp_path, {"EchoTime": 20}, {"EchoTime": 80})
    (tmp_path / "03_1.dcm").unlink()
    (found,) = list_series(tmp_path).series
    assert found.part == 0
    with pytest.raises(DataError, match="expected one image at a position"):
        read_series(found)


def test_passes_that_interleave_are_one_volume(tmp_path):
    put(tmp_path, 5)
    for k, path in enumerate(find_dicom(tmp_path)):
        edit(path, AcquisitionNumber=1 + k % 2)
    (found,) = list_series(tmp_path).series
    assert (found.part, found.slices) == (0, 10)


def test_results_of_two_parts_are_two_series(tmp_path):
    parts(tmp_path / "in", {"EchoTime": 20}, {"EchoTime": 80})
    uids = set()
    for one in list_series(tmp_path / "in").series:
        series = read_series(one)
        out = tmp_path / str(one.part)
        about = Derivation("ab" * 32, "mr-to-ct", "1", "")
        write_series(out, series.volume, series, about)
        uids |= {str(dcmread(path).SeriesInstanceUID) for path in find_dicom(out)}
    assert len(uids) == 2
