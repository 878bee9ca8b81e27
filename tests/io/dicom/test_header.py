"""One DICOM file: what is none, what is damaged, and that no text of it leaks."""

import logging
import os
import struct
import threading
import traceback
import warnings

import pytest
from pydicom import Dataset, dcmread, uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from ctmr.errors import CtmrError, DataError, SafetyError
from ctmr.io.dicom.header import COPY_AGAIN
from ctmr.io.dicom.recognise import find_dicom, is_dicom
from ctmr.io.dicom.series import read_series
from ctmr.system.privacy import quiet
from support.dicom_series import edit, make, one


def test_deflated_file_is_refused_before_it_is_inflated(tmp_path):
    make(tmp_path)
    path = one(tmp_path)
    image = dcmread(path)
    image.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    image.save_as(path)
    with pytest.raises(DataError, match="not deflated"):
        read_series(tmp_path)


def test_fifo_is_no_dicom_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    assert not is_dicom(tmp_path / "pipe.dcm")
    assert not is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "none")
    assert find_dicom(tmp_path) == []


def test_dicomdir_is_left_alone(tmp_path):
    make(tmp_path)
    index = Dataset()
    index.SOPClassUID, index.SOPInstanceUID = uid.MediaStorageDirectoryStorage, "2.25.9"
    index.file_meta = dcmread(one(tmp_path)).file_meta
    index.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    item = Dataset()
    item.ReferencedFileID = ["ETC", "PASSWD"]
    index.DirectoryRecordSequence = Sequence([item])
    index.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert not is_dicom(tmp_path / "DICOMDIR")
    assert read_series(tmp_path).notes == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_unreadable_file_is_refused(tmp_path):
    make(tmp_path)
    one(tmp_path).chmod(0)
    with pytest.raises(DataError, match="expected a readable file"):
        read_series(tmp_path)


def test_truncated_file_is_refused_wherever_it_is_cut(tmp_path):
    make(tmp_path, shape=(12, 10, 1))
    path = one(tmp_path)
    content = path.read_bytes()
    for size in range(132, len(content), 32):
        path.write_bytes(content[:size])
        with pytest.raises((DataError, SafetyError), match="expected"):
            read_series(tmp_path)
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"240 bytes of PixelData \(7FE0,0010\): found 220"):
        read_series(tmp_path)


def test_deep_nesting_is_refused_or_skipped_without_a_crash(tmp_path):
    make(tmp_path)
    path = one(tmp_path)
    content = path.read_bytes()
    nested = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    nested += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    at = content.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    path.write_bytes(content[:at] + nested * 3000 + content[at:])
    with pytest.raises(DataError, match="found RecursionError"):
        read_series(tmp_path)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyDate"])
def test_text_that_is_none_is_refused(tmp_path, keyword):
    make(tmp_path)
    edit(one(tmp_path), lambda image: image.add_new(keyword, "UT", "x" * 2000))
    with pytest.raises(DataError, match="found ValueError"):
        read_series(tmp_path)


def test_sequence_in_the_place_of_a_text_is_refused(tmp_path):
    make(tmp_path)
    path = one(tmp_path)
    image = dcmread(path)
    image.add_new("PatientID", "SQ", [Dataset()])
    image["PatientID"].is_undefined_length = True
    image.save_as(path)
    with pytest.raises(DataError, match="found ValueError"):
        read_series(tmp_path)


def test_no_error_nor_log_holds_header_values(tmp_path, caplog, capfd):
    # Values that pydicom warns of or fails on, with their text.
    spoilt = {
        "RescaleSlope": b"CANARY ",
        "PixelSpacing": b"CANARY\\1 ",
        "ImageType": b"canary lower",
        "Rows": b"CANARY",
        "NumberOfFrames": b"CANARY",
        "SOPInstanceUID": b"CANARY",
        "PatientName": b"\x1b$)CANARY ",
        "StudyDate": b"CANARY",
    }
    for keyword, value in spoilt.items():
        make(tmp_path / keyword)
        image = dcmread(one(tmp_path / keyword))
        tag = tag_for_keyword(keyword)
        vr = dictionary_VR(keyword)
        image[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
        image.set_original_encoding(False, True, image.original_character_set)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.save_as(one(tmp_path / keyword))
        assert b"canary" in one(tmp_path / keyword).read_bytes().lower()
    make(tmp_path / "charset")
    path = one(tmp_path / "charset")
    edit(path, SpecificCharacterSet="ISO_IR 100")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"CANARY 100"))
    caplog.clear()
    content = []
    with caplog.at_level(logging.DEBUG):
        for keyword in (*spoilt, "charset"):
            content.append(refusal(tmp_path / keyword))
    content += [caplog.text, *capfd.readouterr()]
    assert "expected" in content[0]
    assert "canary" not in "".join(content).lower()
    assert logging.getLogger("pydicom").propagate


def refusal(folder):
    """The whole traceback of a refused series, empty if it is read."""
    try:
        read_series(folder)
    except CtmrError as error:
        return "".join(traceback.format_exception(error))
    return ""


def test_images_and_dicom_files_silence_warnings_one_at_a_time():
    before = list(warnings.filters)
    inside = threading.Event()

    def read_an_image():
        with quiet():
            inside.set()

    thread = threading.Thread(target=read_an_image)
    with quiet():
        thread.start()
        assert not inside.wait(0.1)
    thread.join()
    assert inside.is_set()
    assert warnings.filters == before


@pytest.mark.parametrize("cut", [0, 40, 200, 700])
def test_damaged_slice_that_is_moved_away_leaves_a_series_that_is_read(tmp_path, cut):
    make(tmp_path)
    path = find_dicom(tmp_path)[5]
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError) as caught:
        read_series(tmp_path)
    assert caught.value.fix == COPY_AGAIN
    path.unlink()
    assert len(read_series(tmp_path).headers) == 5
    find_dicom(tmp_path)[2].unlink()
    assert len(read_series(tmp_path, irregular=True).headers) == 4
