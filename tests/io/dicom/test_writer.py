"""Writing a DICOM series: what a synthetic image says of itself, what it keeps, and what other readers make of it."""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import warnings
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset, dcmread, uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from ctmr.errors import OutputError
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.header import PATIENT, PLACE, STUDY
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import Derivation, phantom_series, write_series

ABOUT = Derivation("ab" * 32, "mr-to-ct", "0.1.0", "")
DIRECTIONS = ["ct-to-mr", "mr-to-ct"]
ALLOWED = {
    *(*PATIENT, *STUDY, *PLACE, "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"),
    *("SeriesNumber", "Modality", "ImageType", "SyntheticData", "SeriesDescription"),
    *("ImageComments", "DerivationDescription", "DerivationCodeSequence", "SourceImageSequence"),
    *("ContributingEquipmentSequence", "Manufacturer", "ManufacturerModelName"),
    *("SoftwareVersions", "InstanceNumber", "KVP", "ScanOptions", "EchoTime", "RepetitionTime"),
    *("EchoTrainLength", "ScanningSequence", "SequenceVariant", "MRAcquisitionType"),
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("RescaleType", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "PixelData"),
}
# dicom3tools of 2022 does not know this attribute yet (DICOM PS3.3 C.7.6.1.1.9).
UNKNOWN_TO_DCIODVFY = "(0x0008,0x001c)"


def matrix(tilt=0.0, turn=0.0):
    """RAS+, as of an axial series; K tilted about x, then all turned about x and y."""
    sides = np.diag([-0.9, -1.1, 2.5])
    sides[1, 2] = np.tan(np.radians(tilt)) * 2.5
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    about_y = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    affine = np.eye(4)
    affine[:3, :3] = about_y @ about_x @ sides
    affine[:3, 3] = [40.25, 31.5, -22.125]
    return affine


def make(folder, modality="mr", affine=None, shape=(12, 10, 6), **names):
    array = np.random.default_rng(5).integers(0, 1500, shape).astype(np.float32)
    volume = Volume(array, matrix() if affine is None else affine, modality)
    phantom_series(folder, volume, **{"name": "P1", "study": "S1", **names})
    return read_series(folder)


def written(tmp_path, about=ABOUT, **options):
    """A source series and the headers of its translation (the same values)."""
    source = make(tmp_path / "in", **options)
    paths = write_series(tmp_path / "out", source.volume, source, about)
    return source, [dcmread(path) for path in paths]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("tilt", "turn"), [(0, 0), (12, 0), (0, 25), (-18.5, 10)])
def test_values_and_geometry_come_back(tmp_path, direction, tilt, turn):
    source = make(tmp_path / "in", affine=matrix(tilt, turn))
    volume = Volume(source.volume.array - 700.25, source.volume.affine)
    write_series(tmp_path / "out", volume, source, replace(ABOUT, direction=direction))
    back = read_series(tmp_path / "out")
    assert np.array_equal(back.volume.array, np.rint(volume.array))
    assert np.array_equal(back.volume.affine, source.volume.affine)
    assert np.allclose(back.volume.affine, matrix(tilt, turn), atol=1e-6)
    assert back.volume.modality == direction[-2:]
    assert back.patient == source.patient


def test_uneven_series_comes_back_on_its_own_positions(tmp_path):
    make(tmp_path / "in")
    find_dicom(tmp_path / "in")[2].unlink()
    source = read_series(tmp_path / "in", irregular=True)
    paths = write_series(tmp_path / "out", source.volume, source, ABOUT)
    for path, header in zip(paths, source.headers, strict=True):
        assert dcmread(path).ImagePositionPatient == header.ImagePositionPatient
    assert not read_series(tmp_path / "out", irregular=True).even


def test_values_are_rounded_half_to_even_and_clipped_with_a_warning(tmp_path, caplog):
    source = make(tmp_path / "in", shape=(6, 1, 1))
    values = np.array([0.5, 1.5, -2.5, 40000, -40000, 7], np.float32).reshape(6, 1, 1)
    with caplog.at_level(logging.WARNING):
        write_series(tmp_path / "out", Volume(values, source.volume.affine), source, ABOUT)
    found = read_series(tmp_path / "out").volume.array.ravel()
    assert found.tolist() == [0, 2, -2, 32767, -32768, 7]
    assert "2 voxels beyond 16 bits clipped" in caplog.text


def test_files_are_named_by_number_in_the_order_of_the_slices(tmp_path):
    source = make(tmp_path / "in", shape=(4, 4, 3))
    paths = write_series(tmp_path / "out", source.volume, source, ABOUT)
    assert [path.name for path in paths] == ["slice_0001.dcm", "slice_0002.dcm", "slice_0003.dcm"]
    assert sorted((tmp_path / "out").iterdir()) == paths
    assert [dcmread(path).InstanceNumber for path in paths] == [1, 2, 3]


def test_written_twice_it_is_the_same_to_the_byte(tmp_path):
    source = make(tmp_path / "in")
    first = write_series(tmp_path / "a", source.volume, source, ABOUT)
    second = write_series(tmp_path / "b", source.volume, read_series(tmp_path / "in"), ABOUT)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_image_says_that_it_is_synthetic(tmp_path, direction):
    source, images = written(tmp_path, replace(ABOUT, direction=direction))
    target = direction[-2:].upper()
    for image, header in zip(images, source.headers, strict=True):
        assert image.ImageType == ["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"]
        assert image.SyntheticData == "YES"
        assert image.SeriesDescription == f"SYNTHETIC {target} - NOT FOR DIAGNOSTIC USE"
        assert "ctmr 0.1.0" in image.DerivationDescription
        assert "ab" * 32 in image.DerivationDescription
        assert "NOT FOR DIAGNOSTIC USE" in image.ImageComments
        assert image.DerivationCodeSequence[0].CodingSchemeDesignator == "99CTMR"
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert image.SourceImageSequence[0].ReferencedSOPClassUID == uid.MRImageStorage
        assert image.ContributingEquipmentSequence[0].SoftwareVersions == "0.1.0"
        assert image.Manufacturer == "ctmr"
        assert image.Modality == target


def test_ct_has_its_units_and_mr_has_none(tmp_path):
    _, [ct, *_] = written(tmp_path / "ct")
    assert ct.SOPClassUID == uid.CTImageStorage
    assert (ct.RescaleSlope, ct.RescaleIntercept, ct.RescaleType) == (1, 0, "HU")
    assert (ct.WindowCenter[0], ct.WindowWidth[0]) == (40, 80)
    assert ct["KVP"].is_empty
    _, [mr, *_] = written(tmp_path / "mr", replace(ABOUT, direction="ct-to-mr"), modality="ct")
    assert mr.SOPClassUID == uid.MRImageStorage
    assert mr.ScanningSequence == "RM"
    assert "RescaleSlope" not in mr
    assert mr.WindowWidth == pytest.approx(1500 * 0.98, rel=0.03)
    for image in (ct, mr):
        assert (image.BitsAllocated, image.BitsStored, image.HighBit) == (16, 16, 15)
        assert image.PixelRepresentation == 1


def test_series_is_new_and_study_and_frame_are_the_same(tmp_path):
    source, images = written(tmp_path)
    header = source.headers[0]
    assert {image.StudyInstanceUID for image in images} == {header.StudyInstanceUID}
    assert {image.FrameOfReferenceUID for image in images} == {header.FrameOfReferenceUID}
    assert len({image.SeriesInstanceUID for image in images} - {header.SeriesInstanceUID}) == 1
    sources = {header.SOPInstanceUID for header in source.headers}
    assert len({image.SOPInstanceUID for image in images} - sources) == len(images)
    assert images[0].SeriesNumber == header.SeriesNumber + 9000


def test_uid_is_a_hash_by_hand(tmp_path):
    source, images = written(tmp_path, replace(ABOUT, options="x"))
    parts = (source.headers[0].SOPInstanceUID, "ab" * 32, "mr-to-ct", "x")
    number = int(hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32], 16)
    assert images[0].SOPInstanceUID == f"2.25.{number}"


@pytest.mark.parametrize(
    "change", [{"model_sha256": "cd" * 32}, {"options": "y"}, {"direction": "ct-to-mr"}]
)
def test_uids_change_with_whatever_changes_the_result(tmp_path, change):
    source = make(tmp_path / "in")
    one = write_series(tmp_path / "a", source.volume, source, ABOUT)[0]
    other = write_series(tmp_path / "b", source.volume, source, replace(ABOUT, **change))[0]
    assert dcmread(one).SOPInstanceUID != dcmread(other).SOPInstanceUID
    assert dcmread(one).SeriesInstanceUID != dcmread(other).SeriesInstanceUID


@pytest.mark.parametrize(
    ("number", "expected"), [("7", 9007), ("", 9000), (None, 9000), ("2147483600", 9000)]
)
def test_series_number_grows_by_9000_while_it_fits(tmp_path, number, expected):
    make(tmp_path / "in")
    for path in find_dicom(tmp_path / "in"):
        image = dcmread(path)
        image.SeriesNumber = number
        if number is None:
            del image.SeriesNumber
        image.save_as(path)
    source = read_series(tmp_path / "in")
    path = write_series(tmp_path / "out", source.volume, source, ABOUT)[0]
    assert dcmread(path).SeriesNumber == expected


def spoil(folder, **values):
    """Set header values as bytes, unchecked."""
    for path in find_dicom(folder):
        image = dcmread(path)
        for keyword, value in values.items():
            tag = Tag(tag_for_keyword(keyword))
            vr = dictionary_VR(tag)
            image[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        image.set_original_encoding(False, True, image._character_set)
        image.save_as(path)


def test_texts_are_copied_to_the_byte_in_any_character_set(tmp_path):
    name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B "
    broken = b"\xff\xfe\x80 x"
    make(tmp_path / "in")
    spoil(
        tmp_path / "in",
        SpecificCharacterSet=b"\\ISO 2022 IR 87 ",
        PatientName=name,
        StudyDescription=broken,
    )
    source = read_series(tmp_path / "in")
    path = write_series(tmp_path / "out", source.volume, source, ABOUT)[0]
    content = path.read_bytes()
    assert name in content
    assert broken in content
    assert b"\\ISO 2022 IR 87" in content


def test_numbers_longer_than_the_standard_allows_are_shortened(tmp_path):
    make(tmp_path / "in", shape=(4, 4, 1))
    spoil(tmp_path / "in", ImagePositionPatient=b"-93.69545538324861\\1\\2.0000000000000001")
    source = read_series(tmp_path / "in")
    path = write_series(tmp_path / "out", source.volume, source, ABOUT)[0]
    raw = dcmread(path).get_item("ImagePositionPatient").value
    assert max(map(len, raw.split(b"\\"))) <= 16
    assert np.allclose(read_series(tmp_path / "out").volume.affine, source.volume.affine, atol=1e-9)


@pytest.mark.parametrize("text", [b"JOHN DOE OF SMITHTOWN ", b"JOHN DOE", b"1.5\\DOE ", b"nan "])
@pytest.mark.parametrize(
    "keyword", ["GantryDetectorTilt", "SliceThickness", "LossyImageCompressionRatio"]
)
def test_texts_in_the_place_of_numbers_are_left_out(tmp_path, keyword, text):
    make(tmp_path / "in", "mr")
    spoil(tmp_path / "in", LossyImageCompression=b"01", **{keyword: text})
    source = read_series(tmp_path / "in")
    path = write_series(tmp_path / "out", source.volume, source, ABOUT)[0]
    assert not dcmread(path).get(keyword)
    assert b"DOE" not in path.read_bytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"Laterality": b"L "}, {"Laterality": "L"}),
        ({"Laterality": b"B "}, {"Laterality": None}),
        ({"BodyPartExamined": b""}, {"Laterality": ""}),
        (
            {"PatientIdentityRemoved": b"YES "},
            {"DeidentificationMethod": "not stated by the source"},
        ),
        ({"PatientIdentityRemoved": b""}, {"PatientIdentityRemoved": None}),
        ({"LossyImageCompression": b"00"}, {"LossyImageCompression": None}),
        (
            {"LossyImageCompression": b"01", "LossyImageCompressionRatio": b"8 "},
            {"LossyImageCompression": "01", "LossyImageCompressionRatio": 8},
        ),
        ({"BurnedInAnnotation": b"YES "}, {"BurnedInAnnotation": "YES"}),
    ],
)
def test_what_holds_for_the_source_is_kept(tmp_path, before, after):
    make(tmp_path / "in", shape=(4, 4, 1))
    spoil(tmp_path / "in", **before)
    source = read_series(tmp_path / "in")
    image = dcmread(write_series(tmp_path / "out", source.volume, source, ABOUT)[0])
    for keyword, value in after.items():
        assert image.get(keyword) == value


def test_frame_of_reference_is_made_where_the_source_has_none(tmp_path):
    make(tmp_path / "in")
    for path in find_dicom(tmp_path / "in"):
        image = dcmread(path)
        del image.FrameOfReferenceUID
        image.save_as(path)
    source = read_series(tmp_path / "in")
    paths = write_series(tmp_path / "out", source.volume, source, ABOUT)
    assert len({dcmread(path).FrameOfReferenceUID for path in paths}) == 1


def test_file_has_an_empty_preamble_and_names_no_other_tool(tmp_path):
    written(tmp_path)
    path = find_dicom(tmp_path / "out")[0]
    content = path.read_bytes()
    assert content[:128] == bytes(128)
    assert b"PYDICOM" not in content
    image = dcmread(path)
    assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert image.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian


def test_only_listed_texts_of_the_source_reach_the_output(tmp_path, caplog, capfd):
    """40 canaries in patient, study, device, private and nested values; CT and MR; no log line."""
    make(tmp_path / "in")
    kept = ["PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber"]
    kept += ["ReferringPhysicianName", "StudyID", "StudyDescription"]
    dropped = [
        *("InstitutionName", "InstitutionAddress", "StationName", "OperatorsName"),
        *("PerformingPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy"),
        *("OtherPatientIDs", "OtherPatientNames", "PatientAddress", "PatientBirthName"),
        *("PatientMotherBirthName", "PatientTelephoneNumbers", "MilitaryRank", "Occupation"),
        *("AdditionalPatientHistory", "PatientComments", "PatientReligiousPreference"),
        *("ProtocolName", "SeriesDescription", "ImageComments", "DeviceSerialNumber"),
        *("RequestingPhysician", "RequestedProcedureDescription", "CurrentPatientLocation"),
        *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DerivationDescription"),
    ]
    planted = {keyword: f"CANARY{n:02d}" for n, keyword in enumerate(kept + dropped)}
    for path in find_dicom(tmp_path / "in"):
        image = dcmread(path)
        for keyword, text in planted.items():
            setattr(image, keyword, text)
        block = image.private_block(0x0019, "CANARY36", create=True)
        block.add_new(1, "LO", "CANARY37")
        request = Dataset()
        request.ScheduledProcedureStepID = "CANARY38"
        image.RequestAttributesSequence = [request]
        image.add_new(0x60000022, "LO", "CANARY39")
        image.preamble = b"CANARY40" * 16
        image.save_as(path)
    assert len(planted) + 5 >= 40
    source = read_series(tmp_path / "in")
    allowed = {planted[keyword] for keyword in kept}
    with caplog.at_level(logging.DEBUG):
        for direction in DIRECTIONS:
            out = tmp_path / direction
            paths = write_series(out, source.volume, source, replace(ABOUT, direction=direction))
            for path in paths:
                found = set(re.findall(r"CANARY\d\d", path.read_bytes().decode("latin-1")))
                assert found == allowed
                image = dcmread(path)
                assert {element.keyword for element in image} <= ALLOWED
                assert not any(element.tag.is_private for element in image)
        with pytest.raises(ValueError, match="shape") as caught:
            write_series(
                tmp_path, Volume(np.zeros((1, 1, 1), np.float32), np.eye(4)), source, ABOUT
            )
    content = [caplog.text, str(caught.value), repr(source.volume), source.patient]
    assert "CANARY" not in "".join([*content, *capfd.readouterr()])


def test_shape_other_than_the_source_is_a_mistake(tmp_path):
    source = make(tmp_path / "in")
    volume = Volume(source.volume.array[:, :, 1:], source.volume.affine)
    with pytest.raises(
        ValueError, match=r"shape of its source: got \(12, 10, 5\) and \(12, 10, 6\)"
    ):
        write_series(tmp_path / "out", volume, source, ABOUT)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite_is_a_mistake_and_nothing_is_written(tmp_path, value):
    source = make(tmp_path / "in")
    array = source.volume.array.copy()
    array[3, 3, 5] = value
    with pytest.raises(ValueError, match="values must be finite"):
        write_series(tmp_path / "out", Volume(array, source.volume.affine), source, ABOUT)
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    source = make(tmp_path / "in")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot write it"):
        write_series(tmp_path / "out", source.volume, source, ABOUT)


# Phantoms


def test_phantom_ct_and_mr_share_study_frame_and_patient(tmp_path):
    ct = make(tmp_path / "ct", "ct").headers[0]
    mr = make(tmp_path / "mr", "mr").headers[0]
    other = make(tmp_path / "other", "ct", study="S2").headers[0]
    assert ct.StudyInstanceUID == mr.StudyInstanceUID != other.StudyInstanceUID
    assert ct.FrameOfReferenceUID == mr.FrameOfReferenceUID != other.FrameOfReferenceUID
    assert ct.SeriesInstanceUID != mr.SeriesInstanceUID
    assert ct.PatientID == mr.PatientID == "P1"


def test_phantom_looks_original_and_says_that_it_is_synthetic(tmp_path):
    make(tmp_path)
    image = dcmread(find_dicom(tmp_path)[0])
    assert image.ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert image.SyntheticData == "YES"


def test_phantom_is_the_same_to_the_byte_when_made_again(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    for one, other in zip(find_dicom(tmp_path / "a"), find_dicom(tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_phantom_of_unknown_modality_or_skewed_pixels_is_a_mistake(tmp_path):
    array = np.zeros((4, 4, 2), np.float32)
    with pytest.raises(ValueError, match="volume must be CT or MR"):
        phantom_series(tmp_path, Volume(array, matrix()), name="P1", study="S1")
    skewed = matrix()
    skewed[0, 1] = 0.3
    with pytest.raises(ValueError, match="axes I and J must be perpendicular"):
        phantom_series(tmp_path, Volume(array, skewed, "ct"), name="P1", study="S1")


# Other readers


@pytest.mark.parametrize(("tilt", "turn"), [(0, 0), (12, 0), (0, 25)])
def test_simpleitk_reads_the_same_hu_on_the_same_places(tmp_path, tilt, turn):
    source, _ = written(tmp_path, affine=matrix(tilt, turn))
    reader = SimpleITK.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(os.fspath(tmp_path / "out"))
    reader.SetFileNames(names)
    image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).T, source.volume.array)
    for index in [(0, 0, 0), (11, 0, 0), (0, 9, 0), (3, 4, 5)]:
        if tilt and index[2]:
            continue  # an image of SimpleITK has no shear
        lps = image.TransformIndexToPhysicalPoint(index)
        ras = source.volume.affine @ [*index, 1]
        assert np.allclose(ras[:3], [-lps[0], -lps[1], lps[2]], atol=1e-4)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_dciodvfy_finds_no_error(tmp_path, modality):
    make(tmp_path / "in", modality, shape=(8, 8, 2), name="Doe^Jane")
    find_dicom(tmp_path / "in")
    source = read_series(tmp_path / "in")
    for direction in DIRECTIONS:
        about = replace(ABOUT, direction=direction)
        write_series(tmp_path / direction, source.volume, source, about)
    for folder in ("in", *DIRECTIONS):
        for path in find_dicom(tmp_path / folder):
            done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
            lines = (done.stdout + done.stderr).splitlines()
            errors = [line for line in lines if line.startswith("Error")]
            assert [line for line in errors if UNKNOWN_TO_DCIODVFY not in line] == []


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="needs dcm2niix")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_dcm2niix_reads_the_same_values_on_the_same_places(tmp_path, direction):
    about = replace(ABOUT, direction=direction)
    source, _ = written(tmp_path, about, affine=matrix(0, 25), shape=(24, 20, 6))
    (tmp_path / "nifti").mkdir()
    command = ["dcm2niix", "-b", "n", "-z", "n", "-f", "out", "-o", tmp_path / "nifti"]
    subprocess.run([*command, tmp_path / "out"], capture_output=True, check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = nibabel.load(tmp_path / "nifti" / "out.nii")
        array = np.asarray(image.dataobj)
    own = source.volume
    for index in [(0, 0, 0), (23, 0, 0), (0, 19, 0), (5, 7, 5)]:
        place = own.affine @ [*index, 1]
        there = np.linalg.solve(image.affine, place)[:3]
        assert np.allclose(there, np.rint(there), atol=1e-3)
        assert array[tuple(np.rint(there).astype(int))] == own.array[index]
