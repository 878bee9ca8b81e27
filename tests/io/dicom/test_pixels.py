"""The pixels of a DICOM slice: units, padding, transfer syntaxes, damage."""

import struct

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite, uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from ctmr.errors import DataError
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from support.dicom_series import edit, edit_all, make, one

# Units


def test_slope_and_intercept_are_those_of_each_slice(tmp_path):
    volume = make(tmp_path)
    for k, path in enumerate(find_dicom(tmp_path)):
        edit(path, RescaleSlope=k + 1, RescaleIntercept=-100 * k)
    found = read_series(tmp_path).volume.array
    assert np.array_equal(found, volume.array * np.arange(1, 7) - 100 * np.arange(6))


def test_mr_is_rescaled_where_the_scanner_says_so(tmp_path):
    volume = make(tmp_path, "mr")
    edit_all(tmp_path, RescaleSlope="0.5", RescaleIntercept="3", RescaleType="US")
    assert np.array_equal(read_series(tmp_path).volume.array, volume.array / 2 + 3)


def raw_slice(tmp_path, pixels, stored, signed, modality="ct", **tags):
    """A series of one slice with these stored pixels, read."""
    make(tmp_path, modality, shape=(pixels.shape[1], pixels.shape[0], 1))
    tags = {"BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": signed, **tags}
    bits = 8 * pixels.dtype.itemsize

    def change(image):
        image.add_new("PixelData", "OW" if bits == 16 else "OB", pixels.tobytes())

    edit(one(tmp_path), change, BitsAllocated=bits, **tags)
    return read_series(tmp_path).volume.array[:, :, 0].T


def test_bits_above_those_stored_are_masked_and_the_sign_extended(tmp_path):
    pixels = np.array([[0xF001, 0x1800, 0x0FFF, 0x07FF]], np.uint16)  # overlay bits above 12
    assert raw_slice(tmp_path / "u", pixels, 12, 0).tolist() == [[1, 2048, 4095, 2047]]
    assert raw_slice(tmp_path / "s", pixels, 12, 1).tolist() == [[1, -2048, -1, 2047]]


def test_eight_bits_are_read(tmp_path):
    pixels = np.array([[0, 127, 128, 255]], np.uint8)
    assert raw_slice(tmp_path / "u", pixels, 8, 0).tolist() == [[0, 127, 128, 255]]
    assert raw_slice(tmp_path / "s", pixels, 8, 1).tolist() == [[0, 127, -128, -1]]


def test_monochrome1_is_inverted_within_the_bits_stored_before_the_rescale(tmp_path):
    pixels = np.array([[0, 1, 4095, 4000]], np.uint16)
    tags = {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": -1000}
    assert raw_slice(tmp_path / "u", pixels, 12, 0, **tags).tolist() == [[3095, 3094, -1000, -905]]
    pixels = np.array([[-2048, 0, 2047, 5]], np.int16)
    found = raw_slice(tmp_path / "s", pixels, 12, 1, **tags)
    assert found.tolist() == [[1047, -1001, -3048, -1006]]


@pytest.mark.parametrize(("modality", "filled"), [("ct", -1024), ("mr", 0)])
def test_padding_becomes_air(tmp_path, modality, filled):
    pixels = np.array([[-2000, -1999, 5, -2001]], np.int16)
    found = raw_slice(tmp_path, pixels, 16, 1, modality, PixelPaddingValue=-2000)
    assert found.tolist() == [[filled, -1999, 5, -2001]]


def test_range_of_padding_becomes_air(tmp_path):
    pixels = np.array([[-2000, -1990, -1989, -2001]], np.int16)
    tags = {"PixelPaddingValue": -1990, "PixelPaddingRangeLimit": -2000}
    assert raw_slice(tmp_path, pixels, 16, 1, **tags).tolist() == [[-1024, -1024, -1989, -2001]]


def test_padding_is_that_of_the_stored_pixels_whatever_its_vr(tmp_path):
    pixels = np.array([[-2000, 7]], np.int16)
    make(tmp_path, shape=(2, 1, 1))

    def change(image):
        image.add_new("PixelPaddingValue", "US", 63536)  # -2000 as unsigned
        image.add_new("PixelData", "OW", pixels.tobytes())

    edit(one(tmp_path), change)
    assert read_series(tmp_path).volume.array.ravel().tolist() == [-1024, 7]


def test_padding_beyond_the_bits_stored_does_not_swallow_bone(tmp_path):
    # 63536 & 0xFFF = 2096, a value of bone; only cells that hold 63536 in all 16 bits are padding.
    pixels = np.array([[2096, 63536, 5]], np.uint16)
    assert raw_slice(tmp_path, pixels, 12, 0, PixelPaddingValue=63536).tolist() == [
        [2096, -1024, 5]
    ]


# Transfer syntaxes


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_compressed_series_equals_the_plain_one(tmp_path, syntax):
    volume = make(tmp_path, shape=(64, 64, 3))
    for path in find_dicom(tmp_path):
        image = dcmread(path)
        image.compress(syntax, generate_instance_uid=False)
        image.save_as(path)
    assert dcmread(one(tmp_path)).file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read_series(tmp_path).volume.array, volume.array)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_other_byte_orders_are_read(tmp_path, syntax):
    volume = make(tmp_path)
    for path in find_dicom(tmp_path):
        image = dcmread(path)
        image.add_new("PixelPaddingValue", "SS", -30000)
        little = syntax.is_little_endian
        if not little:
            image.add_new(
                "PixelData", "OW", np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
            )
        image.file_meta.TransferSyntaxUID = syntax
        for element in image:
            element.value = element.value  # parsed before the byte order changes
        dcmwrite(path, image, implicit_vr=syntax.is_implicit_VR, little_endian=little)
    found = read_series(tmp_path).volume
    assert np.array_equal(found.array, volume.array)
    assert np.allclose(found.affine, volume.affine, atol=1e-9)


def with_syntax(path, syntax, frame=b"\0" * 64):
    image = dcmread(path)
    image.PixelData = encapsulate([frame])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = syntax
    image.save_as(path)


def test_syntax_without_decoder_is_refused_by_name(tmp_path):
    make(tmp_path)
    with_syntax(one(tmp_path), uid.MPEG2MPML)
    with pytest.raises(
        DataError, match=r"found MPEG2 Main.*1\.2\.840\.10008\.1\.2\.4\.100.* without"
    ):
        read_series(tmp_path)


def test_unknown_syntax_is_refused_without_its_text(tmp_path):
    make(tmp_path)
    with_syntax(one(tmp_path), uid.UID("1.2.3.4.5"))
    with pytest.raises(DataError, match="found an unknown one without") as caught:
        read_series(tmp_path)
    assert "1.2.3.4.5" not in str(caught.value)


def test_jpeg_without_its_package_is_refused_by_name(tmp_path, monkeypatch):
    make(tmp_path)
    with_syntax(one(tmp_path), uid.JPEGLSLossless)
    decoder = get_decoder(uid.JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(
        DataError, match=r"JPEG-LS Lossless.*1\.2\.840\.10008\.1\.2\.4\.80.*ctmr\[jpeg\]"
    ):
        read_series(tmp_path)


def rle(*segments):
    """A frame of RLE; `89 00` is 120 zeros, the pixels of a slice."""
    offsets = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    return struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(
        segments
    )


def siz(width, height, components=1, tile=0):
    head = struct.pack(">HH4I", 41, 0, width, height, 0, 0)
    return (
        b"\xff\x4f\xff\x51"
        + head
        + struct.pack(">4IH", tile or width, tile or height, 0, 0, components)
        + b"\0" * 9
    )


def sof(width, height):
    return (
        b"\xff\xd8\xff\xe0\0\4ab\xff\xc3\0\x0b\x10"
        + struct.pack(">HHB", height, width, 1)
        + b"\0" * 9
    )


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (uid.JPEG2000Lossless, siz(30000, 30000)),
        (uid.JPEG2000Lossless, siz(12, 10, 3)),
        (uid.JPEGLosslessSV1, sof(60000, 60000)),
        (uid.JPEGLosslessSV1, b"\xff\xd8\0\0"),
        (uid.RLELossless, b"\0" * 200_000),
        (uid.RLELossless, b"\7" * 64),
        (uid.RLELossless, rle(b"\x81\0", b"\x81\0")),  # 128 bytes for 120 pixels
        (uid.RLELossless, rle(b"\x89\0", b"\x89\0" + b"\x81\0" * 1000)),
        (uid.RLELossless, rle(b"\x89\0", b"\x8a\0")),  # a byte too few
        (uid.RLELossless, rle(b"\x89\0")),
    ],
)
def test_compressed_bomb_is_refused_before_it_is_decoded(tmp_path, syntax, frame):
    make(tmp_path)
    with_syntax(one(tmp_path), syntax, frame)
    with pytest.raises(DataError, match=r"compressed PixelData .* of 10 x 12: found another size"):
        read_series(tmp_path)


def test_jpeg_2000_of_a_tile_for_each_pixel_is_refused(tmp_path):
    make(tmp_path, shape=(80, 80, 1))
    with_syntax(one(tmp_path), uid.JPEG2000Lossless, siz(80, 80, tile=1))
    with pytest.raises(DataError, match=r"compressed PixelData .* of 80 x 80: found another size"):
        read_series(tmp_path)


def test_rle_that_fits_is_read_with_and_without_padding(tmp_path):
    make(tmp_path)
    edit_all(tmp_path, RescaleIntercept=0)
    path = one(tmp_path)
    for segments in ([b"\x89\0", b"\x89\5"], [b"\x80\x89\0\0", b"\x80\x89\5\0"]):
        with_syntax(path, uid.RLELossless, rle(*segments))
        assert (read_series(tmp_path).volume.array[..., 0] == 5).all()


def test_bytes_behind_the_pixels_are_bounded(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr("ctmr.io.dicom.validation.MAX_BESIDE", 10_000)
    edit(one(tmp_path), lambda image: image.add_new("PixelData", "OW", bytes(9_000)))
    read_series(tmp_path)
    edit(one(tmp_path), lambda image: image.add_new("PixelData", "OW", bytes(12_000)))
    with pytest.raises(DataError, match="expected 240 bytes of pixels: found a file of 1"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (uid.JPEG2000Lossless, siz(12, 10)),
        (uid.JPEGLosslessSV1, sof(12, 10)),
    ],
)
def test_damaged_compressed_pixels_are_refused(tmp_path, syntax, frame):
    make(tmp_path)
    with_syntax(one(tmp_path), syntax, frame)
    with pytest.raises(DataError, match="expected an intact DICOM file: found"):
        read_series(tmp_path)


def test_missing_pixels_are_refused(tmp_path):
    make(tmp_path)
    edit(one(tmp_path), PixelData=None)
    with pytest.raises(DataError, match=r"expected 240 bytes of PixelData .*: found 0"):
        read_series(tmp_path)
