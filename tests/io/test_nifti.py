"""NIfTI files: exact against nibabel and SimpleITK, and each damage refused by name."""

import gzip
import itertools
import os
import shutil
import subprocess
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from ctmr.errors import DataError, OutputError, SafetyError
from ctmr.imaging.volume import Forms, Volume
from ctmr.io.nifti import DTYPES, is_nifti_name, read_nifti, write_nifti
from support.nifti_files import LAS, RAS, SHAPE, affine_of, content_of, file_of, image_of, noise

HEADERS = {348: nib.nifti1.header_dtype, 540: nib.nifti2.header_dtype}
ORIENTATIONS = [
    np.eye(3)[:, order] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
EXACT = pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])


def patched(content: bytes, **fields: object) -> bytes:
    """The bytes with fields of the header changed, whatever sense they make."""
    size = int.from_bytes(content[:4], "little")
    order = "<" if size in HEADERS else ">"
    size = size if size in HEADERS else int.from_bytes(content[:4], "big")
    dtype = HEADERS[size].newbyteorder(order)
    header = np.frombuffer(content[:size], dtype)[0].copy()
    for name, value in fields.items():
        header[name] = value
    return header.tobytes() + content[size:]


def volume_of(modality: str | None = "mr", **options: object) -> Volume:
    return Volume(noise(dtype="f4"), affine_of(), modality, **options)


# Names


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII", "a.Nii.GZ", "a.b.nii"])
def test_names_of_nifti_files(name):
    assert is_nifti_name(Path(name))


@pytest.mark.parametrize("name", ["a.gz", "a.hdr", "a.img", "a.nii.bz2", "nii", "a.png", "a.nii/b"])
def test_names_of_other_files(name):
    assert not is_nifti_name(Path(name))


# Values


@EXACT
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_every_type_and_byte_order_is_read_exactly(tmp_path, dtype, kind, order, suffix):
    low = 0 if dtype == "u1" or dtype == "i1" else 3
    array = noise(dtype="i8", low=low)
    array = (array % 128 if dtype in ("u1", "i1") else array).astype(dtype)
    image = kind(array, affine_of(), kind.header_class(endianness=order), dtype=array.dtype)
    image.set_sform(affine_of(), 1)
    path = file_of(tmp_path, image.to_bytes(), f"a{suffix}")
    assert nib.load(path).header.endianness == order
    volume = read_nifti(path)
    is_kept = dtype in ("u1", "i1", "u2", "i2")  # float32 holds them exactly
    assert volume.array.dtype == (dtype if is_kept else np.float32)
    assert volume.in_float().array.dtype == np.float32
    assert np.array_equal(volume.array, array)
    assert np.array_equal(volume.affine, nib.load(path).affine)
    assert volume.modality is None


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2"])
def test_negative_and_greatest_integers_are_read_exactly(tmp_path, dtype):
    limits = np.iinfo(dtype)
    ends = (max(limits.min, -(2**24)), 0, 1, min(limits.max, 2**24))
    array = np.resize(np.array(ends, dtype), SHAPE)
    assert np.array_equal(read_nifti(file_of(tmp_path, content_of(array))).array, array)


@pytest.mark.parametrize("scaling", [(1.0, -1024.0), (2.5, 0.0), (-0.25, 3.0), (1e-3, 7.5)])
def test_slope_and_intercept_are_applied_as_nibabel_does(tmp_path, scaling):
    content = patched(content_of(), scl_slope=scaling[0], scl_inter=scaling[1])
    path = file_of(tmp_path, content)
    assert np.array_equal(read_nifti(path).array, nib.load(path).get_fdata().astype(np.float32))
    assert not np.array_equal(read_nifti(path).array, noise())


@pytest.mark.parametrize("slope", [0.0, np.nan])
@pytest.mark.parametrize("intercept", [0.0, 5.0, np.nan, np.inf])
def test_slope_of_zero_or_nan_means_unscaled_values(tmp_path, slope, intercept):
    path = file_of(tmp_path, patched(content_of(), scl_slope=slope, scl_inter=intercept))
    assert np.array_equal(read_nifti(path).array, noise())
    assert np.array_equal(nib.load(path).get_fdata(), noise())


@pytest.mark.parametrize("scaling", [(np.inf, 0), (-np.inf, 0), (1, np.nan), (1, np.inf)])
def test_scaling_that_is_not_finite_is_refused(tmp_path, scaling):
    path = file_of(tmp_path, patched(content_of(), scl_slope=scaling[0], scl_inter=scaling[1]))
    with pytest.raises(DataError, match=r"expected a finite scl_slope and scl_inter: found -?\w+"):
        read_nifti(path)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted_and_refused(tmp_path, dtype, value):
    array = noise(dtype=dtype)
    array[1, 2, 2] = array[2, 1, 1] = array[3, 2, 1] = value
    with pytest.raises(
        DataError, match="expected finite voxels in the head: found 3 of 60 that are NaN"
    ):
        read_nifti(file_of(tmp_path, content_of(array)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_outside_become_air_with_their_share(tmp_path, caplog, value):
    array = noise(dtype="f4")
    expected = array.copy()
    array[0] = value
    expected[0] = array[1:].min()
    found = read_nifti(file_of(tmp_path, content_of(array)))
    np.testing.assert_array_equal(found.array, expected)
    assert "20 % of the voxels are NaN or infinite, outside the head: taken as air" in caplog.text


def test_voxels_beyond_float32_are_refused(tmp_path):
    array = noise(dtype="f8")
    array[2, 2, 1] = 1e300
    with pytest.raises(DataError, match="found 1 of 60 that are NaN, infinite or beyond float32"):
        read_nifti(file_of(tmp_path, content_of(array)))


@pytest.mark.parametrize(
    ("code", "bits"),
    [(0, 0), (1, 1), (32, 64), (128, 24), (1536, 128), (1792, 128), (2304, 32), (77, 16)],
)
def test_types_that_are_not_real_numbers_are_refused(tmp_path, code, bits):
    path = file_of(tmp_path, patched(content_of(), datatype=code, bitpix=bits))
    with pytest.raises(DataError, match=f"expected real numbers: found datatype {code}. Fix: extr"):
        read_nifti(path)


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 1, 1), (5, 4, 1), (1, 1, 1)])
def test_trailing_axes_of_one_and_single_slices_are_read(tmp_path, shape):
    array = noise(shape)
    volume = read_nifti(file_of(tmp_path, content_of(array)))
    assert np.array_equal(volume.array, array.reshape(shape[:3]))


@pytest.mark.parametrize("shape", [(60,), (15, 4), (5, 4, 1, 3), (5, 4, 3, 1, 2), (1, 1, 1, 1, 3)])
def test_other_numbers_of_dimensions_are_refused(tmp_path, shape):
    path = file_of(tmp_path, content_of(noise(shape)))
    match = rf"expected one 3-D volume: found {len(shape)} dimensions .* Fix: extract one"
    with pytest.raises(DataError, match=match):
        read_nifti(path)


@pytest.mark.parametrize(
    "dim",
    [
        (3, 0, 4, 3, 1, 1, 1, 1),
        (3, 5, -4, 3, 1, 1, 1, 1),
        (4, 5, 4, 3, 0, 1, 1, 1),
        (0, 5, 4, 3, 1, 1, 1, 1),
        (-3, 5, 4, 3, 1, 1, 1, 1),
        (8, 5, 4, 3, 1, 1, 1, 1),
        (32767, 5, 4, 3, 1, 1, 1, 1),
    ],
)
def test_dimensions_without_sense_are_refused(tmp_path, dim):
    with pytest.raises(DataError, match=f"expected one 3-D volume: found {dim[0]} dimensions"):
        read_nifti(file_of(tmp_path, patched(content_of(), dim=dim)))


@pytest.mark.parametrize("unit", [1, 3, 5])
def test_other_units_than_mm_are_refused(tmp_path, unit):
    path = file_of(tmp_path, patched(content_of(), xyzt_units=unit | 8))
    with pytest.raises(DataError, match=rf"expected xyzt_units 2 \(mm\): found {unit}\. Fix: conv"):
        read_nifti(path)


@pytest.mark.parametrize("unit", [0, 2, 8, 10])
def test_unknown_unit_is_taken_for_mm_whatever_that_of_time(tmp_path, unit):
    volume = read_nifti(file_of(tmp_path, patched(content_of(), xyzt_units=unit)))
    assert volume.spacing_mm == (0.5, 0.75, 3.0)


# Bytes


@EXACT
@pytest.mark.parametrize("size", [0, 3, 4, 347, 348, 351, 352, 471])
def test_truncated_file_is_refused_with_both_sizes(tmp_path, size, suffix):
    """352 bytes of header and 120 of voxels, cut before they are compressed."""
    path = file_of(tmp_path, content_of()[:size], f"a{suffix}")
    expected = (
        f"expected 472 bytes as its header says: found {size}"
        if size >= 348
        else f"expected a single NIfTI file: found another file of {size} bytes"
    )
    with pytest.raises(DataError, match=expected):
        read_nifti(path)


CUBE = noise((30, 30, 30))  # 54000 bytes behind a header of 352


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
def test_gzip_cut_short_is_refused(tmp_path, kept):
    packed = gzip.compress(content_of(CUBE))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed[: int(kept * len(packed))])
    with pytest.raises(DataError, match=r"expected (352|54352) bytes of intact gzip|no gzip"):
        read_nifti(path)


@pytest.mark.parametrize("cut", range(1, 9))
def test_gzip_without_its_last_bytes_is_refused_although_the_voxels_are_there(tmp_path, cut):
    path = file_of(tmp_path, gzip.compress(content_of(CUBE))[:-cut], "a.nii.gz")
    with pytest.raises(DataError, match=r"expected 54352 bytes of intact gzip: found 54352, then"):
        read_nifti(path)


@pytest.mark.parametrize("place", [-8, -5, -4, -1])
def test_wrong_checksum_or_length_is_refused(tmp_path, place):
    packed = bytearray(gzip.compress(content_of(CUBE)))
    packed[place] ^= 0x10
    path = file_of(tmp_path, bytes(packed), "a.nii.gz")
    with pytest.raises(
        DataError, match=r"intact gzip: found 54352, then '(CRC check|Incorrect len)"
    ):
        read_nifti(path)


def test_damaged_deflate_stream_is_refused(tmp_path):
    engine = zlib.compressobj(wbits=31)
    packed = engine.compress(content_of(CUBE)[:10000]) + engine.flush(zlib.Z_FULL_FLUSH)
    path = file_of(tmp_path, packed + b"\x07" * 64, "a.nii.gz")  # a block of the reserved type
    match = (
        r"expected 54352 bytes of intact gzip: found [0-9]+, then 'Error -3 .*invalid block type"
    )
    with pytest.raises(DataError, match=match):
        read_nifti(path)


@EXACT
def test_bytes_after_the_voxels_are_refused(tmp_path, suffix):
    path = file_of(tmp_path, content_of() + b"\0", f"a{suffix}")
    with pytest.raises(DataError, match="expected 472 bytes as its header says: found more"):
        read_nifti(path)


def test_bytes_after_the_gzip_stream_are_refused(tmp_path):
    path = file_of(tmp_path, gzip.compress(content_of(CUBE)) + b"junk", "a.nii.gz")
    with pytest.raises(
        DataError, match=r"expected 54352 bytes of intact gzip: found 54352, then .Not"
    ):
        read_nifti(path)


def test_gzip_of_several_members_is_one_file(tmp_path):
    content = content_of()
    packed = gzip.compress(content[:100]) + gzip.compress(content[100:])
    assert np.array_equal(read_nifti(file_of(tmp_path, packed, "a.nii.gz")).array, noise())


@pytest.mark.parametrize(("name", "found"), [("a.nii.gz", "no gzip"), ("a.nii", "gzip")])
def test_suffix_that_is_not_that_of_the_content_is_refused(tmp_path, name, found):
    (tmp_path / name).write_bytes(gzip.compress(content_of()) if found == "gzip" else content_of())
    with pytest.raises(DataError, match=rf"\.nii: found {found}\. Fix: give the file the suffix"):
        read_nifti(tmp_path / name)


def test_suffix_may_be_in_capitals(tmp_path):
    for name in ("a.NII", "a.NII.GZ"):
        assert np.array_equal(read_nifti(file_of(tmp_path, content_of(), name)).array, noise())


@pytest.mark.parametrize(
    "start",
    [
        b"<?xml version='1.0'?><GIFTI/>",
        b"\0\0\0\1" + b"\0\0\1\0" * 3,  # MGH
        b"CDF\1",  # MINC 1
        b"\x89HDF\r\n\x1a\n",  # MINC 2
        bytes(128) + b"DICM",
    ],
)
@EXACT
def test_other_formats_under_the_name_are_refused(tmp_path, start, suffix):
    path = file_of(tmp_path, start.ljust(1000, b"\0"), f"a{suffix}")
    with pytest.raises(DataError, match="expected a single NIfTI file: found another file"):
        read_nifti(path)


@pytest.mark.parametrize("order", ["little", "big"])
def test_analyze_header_is_refused(tmp_path, order):
    path = file_of(tmp_path, (348).to_bytes(4, order).ljust(1000, b"\0"))
    with pytest.raises(DataError, match="expected a single NIfTI file: found another file"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("kind", "magic"), [(nib.Nifti1Image, b"ni1"), (nib.Nifti2Image, b"ni2\0\r\n\x1a\n")]
)
def test_header_of_a_pair_is_refused(tmp_path, kind, magic):
    path = file_of(tmp_path, patched(content_of(kind=kind), magic=magic))
    with pytest.raises(DataError, match=r"found a \.hdr and \.img pair\. Fix: .* single \.nii"):
        read_nifti(path)


@pytest.mark.parametrize("offset", [0, 4, 348, 351, -352, 352.5, 3e9, np.nan, np.inf])
def test_offset_without_sense_is_refused(tmp_path, offset):
    path = file_of(tmp_path, patched(content_of(), vox_offset=offset))
    with pytest.raises(DataError, match="expected vox_offset from 352 to 16777568: found"):
        read_nifti(path)


@EXACT
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_behind_an_extension_are_read(tmp_path, kind, suffix):
    image = image_of(noise(), kind=kind)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"words " * 100))
    path = file_of(tmp_path, image.to_bytes(), f"a{suffix}")
    assert np.array_equal(read_nifti(path).array, noise())


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.nii")
    (tmp_path / "b.nii").mkdir()
    for name, letter in (("a.nii", "p"), ("b.nii", "d")):
        with pytest.raises(DataError, match=f"expected a regular file of at most .* '{letter}'"):
            read_nifti(tmp_path / name)


def test_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.nii: cannot read it \(No such file or directory\)"):
        read_nifti(tmp_path / "a.nii")


def peak_bytes(path: Path, match: str) -> int:
    """Memory taken on the way to a refusal."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=match):
            read_nifti(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_file_over_the_limit_is_refused_unread(tmp_path):
    path = file_of(tmp_path, content_of())
    os.truncate(path, 4 * 2**30 + 1)  # a hole: it takes no space
    assert peak_bytes(path, "at most 4294967296 bytes: found 4294967297 bytes, type '-'") < 1e6
    os.truncate(path, 4 * 2**30)
    assert peak_bytes(path, "expected 472 bytes as its header says: found more") < 1e6


@EXACT
def test_header_that_claims_the_greatest_volume_is_refused(tmp_path, suffix):
    content = patched(content_of(), dim=(3, 32767, 32767, 32767, 1, 1, 1, 1))
    path = file_of(tmp_path, content, f"a{suffix}")
    assert peak_bytes(path, r"expected at most 4294967296 bytes: found \(32767, 327") < 1e6


@pytest.mark.parametrize("code", [2, 4, 64])
def test_limit_counts_float32_too(tmp_path, code):
    """1025 x 1024 x 1024 voxels: 1 GiB of bytes would become over 4 GiB of float32."""
    path = file_of(
        tmp_path, patched(content_of(), datatype=code, dim=(3, 1025, 1024, 1024, 1, 1, 1, 1))
    )
    assert peak_bytes(path, "expected at most 4294967296 bytes: found") < 1e6


def test_limit_holds_for_sizes_that_overflow_64_bits(tmp_path):
    dim = (3, 2**40, 2**40, 2**40, 1, 1, 1, 1)
    path = file_of(tmp_path, patched(content_of(kind=nib.Nifti2Image), dim=dim))
    assert peak_bytes(path, "expected at most 4294967296 bytes: found") < 1e6


def test_gzip_bomb_is_refused_without_its_memory(tmp_path):
    """1 GiB of zeros in 1 MiB behind the header of a small volume."""
    bomb = gzip.compress(content_of()) + gzip.compress(bytes(2**26)) * 16
    assert len(bomb) < 1.2 * 2**20
    path = file_of(tmp_path, bomb, "a.nii.gz")
    del bomb
    assert peak_bytes(path, "expected 472 bytes as its header says: found more") < 10e6


# Geometry


@pytest.mark.parametrize("degrees", [0, 17, 90])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_both_forms_are_read_and_written_back(tmp_path, axes, degrees):
    affine = affine_of(axes, degrees)
    image = image_of(noise(), affine, sform=(affine, 4), qform=(affine, 1))
    volume = read_nifti(file_of(tmp_path, image.to_bytes()))
    source = nib.load(tmp_path / "a.nii")
    assert np.array_equal(volume.affine, source.affine)
    assert np.array_equal(volume.forms.sform, source.header.get_sform())
    assert np.array_equal(volume.forms.qform, source.header.get_qform())
    assert (volume.forms.sform_code, volume.forms.qform_code) == (4, 1)

    write_nifti(tmp_path / "b.nii", replace(volume, modality="mr"), "text")
    written = nib.load(tmp_path / "b.nii")
    assert np.array_equal(written.get_fdata(), noise())
    assert np.array_equal(written.header.get_sform(), source.header.get_sform())
    assert np.allclose(written.header.get_qform(), source.header.get_qform(), atol=1e-6)
    assert np.array_equal(written.header["pixdim"][:4], source.header["pixdim"][:4])
    assert (written.header["sform_code"], written.header["qform_code"]) == (4, 1)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 0), (0, 3), (1, 4), (5, 2)])
def test_codes_are_kept_and_code_0_is_no_form(tmp_path, codes):
    """The matrix under code 0 is another one, and stays as it is."""
    wrong, right = affine_of(RAS), affine_of(LAS)
    forms = [(right if code else wrong, code) for code in codes]
    path = file_of(tmp_path, content_of(affine=right, sform=forms[0], qform=forms[1]))
    volume = read_nifti(path)
    assert volume.axes == ("L", "A", "S")
    assert np.array_equal(volume.affine, nib.load(path).affine)

    write_nifti(tmp_path / "b.nii", replace(volume, modality="mr"), "text")
    header, source = nib.load(tmp_path / "b.nii").header, nib.load(path).header
    assert (header["sform_code"], header["qform_code"]) == codes
    assert np.array_equal(header.get_sform(), source.get_sform())
    assert np.allclose(header.get_qform(), source.get_qform(), atol=1e-6)


def test_nonsense_under_code_0_does_no_harm(tmp_path):
    nonsense = {"quatern_b": np.nan, "pixdim": (7, 0.5, 0.75, 3, 0, 0, 0, 0), "qform_code": 0}
    volume = read_nifti(file_of(tmp_path, patched(content_of(), **nonsense)))
    assert np.array_equal(volume.forms.qform, affine_of())
    nonsense = {"srow_x": np.inf, "sform_code": 0}
    volume = read_nifti(file_of(tmp_path, patched(content_of(), **nonsense)))
    assert np.allclose(volume.forms.sform, affine_of(), atol=1e-6)
    assert (volume.forms.sform_code, volume.forms.qform_code) == (0, 1)


def test_qfac_of_0_means_1(tmp_path):
    affine = affine_of(RAS)
    content = content_of(affine=affine, sform=(affine, 0))
    assert patched(content, pixdim=(1, 0.5, 0.75, 3, 1, 1, 1, 1)) == content
    path = file_of(tmp_path, patched(content, pixdim=(0, 0.5, 0.75, 3, 1, 1, 1, 1)))
    assert np.array_equal(read_nifti(path).affine, affine)


def test_rounding_of_the_quaternion_is_no_contradiction(tmp_path):
    """Near half a turn its fourth part is the root of a rounding error: the worst case, on a large grid."""
    rng = np.random.default_rng(0)
    template = content_of(np.zeros((512, 340, 2), "u1"))
    for _ in range(100):
        turn = nib.quaternions.angle_axis2mat(np.pi - rng.uniform(0, 2e-3), rng.normal(size=3))
        affine = affine_of(turn)
        header = content_of(affine=affine)[:352]
        header = patched(header, dim=(3, 512, 340, 2, 1, 1, 1, 1), datatype=2)
        path = file_of(tmp_path, header + template[352:])
        assert np.allclose(read_nifti(path).affine, affine, atol=1e-5)


FLIPPED = affine_of(RAS)
TURNED = affine_of(LAS, 25)
MOVED = affine_of() + np.pad([[1.2]], ((0, 3), (3, 0)))
FAR = affine_of() + np.pad([[2000.0]], ((0, 3), (3, 0)))
SCALED = affine_of() @ np.diag([1, 1, 1.2, 1])


@pytest.mark.parametrize(
    ("qform", "says"),
    [(FLIPPED, "RAS"), (affine_of(LAS, 65), "..."), (SCALED, "LAS"), (FAR, "LAS")],
)
def test_forms_that_disagree_are_refused(tmp_path, qform, says):
    path = file_of(tmp_path, content_of(sform=(affine_of(), 1), qform=(qform, 1)))
    match = rf"sform says LAS, qform says {says}, up to [0-9.e+]+ mm apart\. Fix: give `--geometry sform or q"
    with pytest.raises(SafetyError, match=match):
        read_nifti(path)


@pytest.mark.parametrize("qform", [TURNED, MOVED])
@pytest.mark.parametrize("code", [2, 3, 4])
def test_sform_of_an_aligned_scan_is_used_where_left_and_right_agree(tmp_path, caplog, qform, code):
    """SPM, FSL and others align a scan by its sform and leave the scanner's qform as it was."""
    path = file_of(tmp_path, content_of(sform=(affine_of(), code), qform=(qform, 1)))
    volume = read_nifti(path)
    assert np.allclose(volume.affine, nib.load(path).affine)  # nibabel prefers the sform too
    assert np.allclose(volume.forms.qform, qform, atol=1e-5)
    assert (volume.forms.qform_code, volume.forms.sform_code) == (1, code)
    assert "agree on left and right: the sform is used" in caplog.text


@pytest.mark.parametrize("excess", [4e-7, 1e-5, 1e-3])
def test_quaternion_a_little_too_long_is_rounded(tmp_path, excess):
    half = affine_of() @ np.diag([1.0, -1, -1, 1])
    path = file_of(tmp_path, content_of(affine=half))
    content = bytearray(path.read_bytes())
    parts = np.frombuffer(content[256:268], "<f4")
    content[256:268] = (parts * np.float32(np.sqrt(1 + excess))).astype("<f4").tobytes()
    path.write_bytes(bytes(content))
    assert np.allclose(read_nifti(path).affine, half, atol=1e-5)


def test_forms_less_than_1_mm_apart_agree(tmp_path):
    near = affine_of() + np.pad([[0.8]], ((0, 3), (3, 0)))
    volume = read_nifti(file_of(tmp_path, content_of(sform=(affine_of(), 4), qform=(near, 1))))
    assert np.array_equal(volume.affine, affine_of())
    assert np.allclose(volume.forms.qform, near, atol=1e-6)


@pytest.mark.parametrize("qform", [FLIPPED, TURNED, MOVED, SCALED])
@pytest.mark.parametrize("geometry", ["sform", "qform"])
def test_form_that_geometry_overrules_is_not_passed_on(tmp_path, geometry, qform):
    path = file_of(tmp_path, content_of(sform=(affine_of(), 4), qform=(qform, 1)))
    trusted = affine_of() if geometry == "sform" else qform
    # pixdim is the qform's, and stays so where the sform is trusted: its own has other sides.
    volume = read_nifti(path, geometry=geometry)
    assert np.allclose(volume.affine, trusted, atol=1e-6)
    write_nifti(tmp_path / "b.nii", replace(volume, modality="ct"), "text")
    written = nib.load(tmp_path / "b.nii")
    assert np.allclose(written.affine, trusted, atol=1e-6)
    codes = (4, 0) if geometry == "sform" else (0, 1)
    assert (written.header["sform_code"], written.header["qform_code"]) == codes
    assert np.allclose(written.header["pixdim"][1:4], nib.affines.voxel_sizes(trusted))
    assert np.allclose(read_nifti(tmp_path / "b.nii").affine, trusted, atol=1e-6)


@pytest.mark.parametrize("geometry", ["sform", "qform"])
def test_geometry_may_name_one_of_two_that_agree_and_both_stay(tmp_path, geometry):
    path = file_of(tmp_path, content_of(sform=(affine_of(), 4), qform=(affine_of(), 1)))
    volume = read_nifti(path, geometry=geometry)
    assert (volume.forms.sform_code, volume.forms.qform_code) == (4, 1)


def test_header_without_a_form_is_refused(tmp_path):
    path = file_of(tmp_path, patched(content_of(), sform_code=0, qform_code=0))
    match = r"left and right are unknown\. Fix: give `--geometry RAS or LAS or LPS` if you know"
    with pytest.raises(SafetyError, match=match):
        read_nifti(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("geometry", "signs"), [("RAS", (1, 1, 1)), ("LAS", (-1, 1, 1)), ("LPS", (-1, -1, 1))]
)
def test_geometry_gives_axes_to_a_header_without(tmp_path, geometry, signs, kind):
    path = file_of(tmp_path, patched(content_of(kind=kind), sform_code=0, qform_code=0))
    volume = read_nifti(path, geometry=geometry)
    assert "".join(volume.axes) == geometry
    # By hand: 5 x 4 x 3 voxels of 0.5 x 0.75 x 3 mm, whose middle is at index (2, 1.5, 1).
    assert np.array_equal(np.diag(volume.affine), [*(np.array([0.5, 0.75, 3]) * signs), 1])
    assert np.array_equal(volume.affine @ [2, 1.5, 1, 1], [0, 0, 0, 1])
    assert (volume.forms.sform_code, volume.forms.qform_code) == (2, 2)
    assert np.array_equal(volume.forms.sform, volume.affine)
    if geometry == "LAS":  # what nibabel takes for granted
        assert np.array_equal(volume.affine, nib.load(path).header.get_base_affine())


@pytest.mark.parametrize("geometry", ["sform", "qform"])
def test_geometry_that_names_a_form_of_code_0_leaves_the_other(tmp_path, geometry, caplog):
    path = file_of(tmp_path, patched(content_of(), **{f"{geometry}_code": 0}))
    assert np.allclose(read_nifti(path, geometry=geometry).affine, affine_of(), atol=1e-6)
    assert f"--geometry {geometry} is for others" in caplog.text
    path = file_of(tmp_path, patched(content_of(), sform_code=0, qform_code=0))
    with pytest.raises(SafetyError, match=r"left and right are unknown\. Fix: .* RAS or LAS or"):
        read_nifti(path, geometry=geometry)


@pytest.mark.parametrize("geometry", ["RAS", "LAS", "LPS"])
def test_geometry_does_not_overrule_a_form_with_axes(tmp_path, geometry, caplog):
    volume = read_nifti(file_of(tmp_path, content_of()), geometry=geometry)
    assert np.allclose(volume.affine, affine_of(), atol=1e-6)
    assert f"--geometry {geometry} is for others" in caplog.text
    path = file_of(tmp_path, content_of(qform=(FLIPPED, 1)))
    with pytest.raises(SafetyError, match="Fix: give `--geometry sform or qform`"):
        read_nifti(path, geometry=geometry)


BROKEN_SFORMS = [
    {"srow_x": 0.0},
    {"srow_x": 0.0, "srow_y": 0.0, "srow_z": 0.0},
    {"srow_y": np.nan},
    {"srow_z": np.inf},
    {"srow_x": (1, 1, 0, 0), "srow_y": (1, 1, 0, 0)},
    {"srow_x": (1, 1, 0, 0), "srow_y": (1, 1.01, 0, 0)},  # two axes 0.3 degrees apart
]
BROKEN_QFORMS = [
    {"quatern_b": np.nan},
    {"quatern_b": 0.9, "quatern_c": 0.9},
    {"qoffset_x": np.inf},
    {"pixdim": (2, 0.5, 0.75, 3, 0, 0, 0, 0)},
    {"pixdim": (np.nan, 0.5, 0.75, 3, 0, 0, 0, 0)},
]
SIZES = [(0, 0.75, 3), (0.5, -0.75, 3), (0.5, 0.75, np.nan), (np.inf, 0.75, 3)]


@pytest.mark.parametrize("fields", BROKEN_SFORMS)
def test_broken_sform_is_refused_and_the_qform_may_be_trusted(tmp_path, fields):
    path = file_of(tmp_path, patched(content_of(), **fields))
    match = r"invertible sform or qform: found no invertible sform\. Fix: give `--geometry qform`"
    with pytest.raises(SafetyError, match=match):
        read_nifti(path)
    with pytest.raises(SafetyError, match="expected an invertible sform: found none"):
        read_nifti(path, geometry="sform")
    volume = read_nifti(path, geometry="qform")
    assert np.allclose(volume.affine, affine_of(), atol=1e-6)
    assert (volume.forms.sform_code, volume.forms.qform_code) == (0, 1)


@pytest.mark.parametrize("fields", BROKEN_QFORMS)
def test_broken_qform_is_refused_and_the_sform_may_be_trusted(tmp_path, fields):
    path = file_of(tmp_path, patched(content_of(), **fields))
    match = r"invertible sform or qform: found no invertible qform\. Fix: give `--geometry sform`"
    with pytest.raises(SafetyError, match=match):
        read_nifti(path)
    volume = read_nifti(path, geometry="sform")
    assert np.array_equal(volume.affine, affine_of())
    assert (volume.forms.sform_code, volume.forms.qform_code) == (1, 0)


@pytest.mark.parametrize("sides", SIZES)
def test_voxel_sizes_without_sense_are_refused_and_the_sform_may_be_trusted(tmp_path, sides):
    path = file_of(tmp_path, patched(content_of(), pixdim=(-1, *sides, 1, 1, 1, 1)))
    match = r"expected voxel sizes over 0 mm: found .* Fix: give `--geometry sform`"
    with pytest.raises(SafetyError, match=match):
        read_nifti(path)
    volume = read_nifti(path, geometry="sform")
    assert np.array_equal(volume.affine, affine_of())
    write_nifti(tmp_path / "b.nii", replace(volume, modality="ct"), "text")
    assert np.allclose(nib.load(tmp_path / "b.nii").header["pixdim"][1:4], (0.5, 0.75, 3))


def test_both_forms_broken_leave_it_to_the_user(tmp_path):
    content = patched(content_of(), **BROKEN_SFORMS[0], **BROKEN_QFORMS[0])
    path = file_of(tmp_path, content)
    with pytest.raises(SafetyError, match=r"sform and no invertible qform\. Fix: .* RAS or LAS or"):
        read_nifti(path)
    assert read_nifti(path, geometry="LPS").axes == ("L", "P", "S")


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("geometry", [None, "RAS"])
def test_voxel_sizes_without_sense_and_no_form_have_no_way_out(tmp_path, sides, geometry):
    fields = {"sform_code": 0, "qform_code": 0, "pixdim": (1, *sides, 1, 1, 1, 1)}
    path = file_of(tmp_path, patched(content_of(), **fields))
    with pytest.raises(SafetyError, match=r"voxel sizes over 0 mm: found .* Fix: convert the scan"):
        read_nifti(path, geometry=geometry)


# Writing


@EXACT
def test_ct_is_written_as_rounded_and_clipped_int16(tmp_path, suffix):
    array = np.array([-1024.5, -1023.5, 0.5, 1.5, 2.4999, 40000, -1e9, -0.5], np.float32)
    volume = Volume(array.reshape(2, 2, 2), affine_of(), "ct")
    write_nifti(tmp_path / f"a{suffix}", volume, "text")
    image = nib.load(tmp_path / f"a{suffix}")
    assert image.get_data_dtype() == np.int16
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    expected = [-1024, -1024, 0, 2, 2, 32767, -32768, 0]
    assert np.asarray(image.dataobj).ravel().tolist() == expected


@EXACT
def test_mr_is_written_as_exact_float32(tmp_path, suffix):
    array = np.random.default_rng(2).normal(0, 1e4, SHAPE).astype(np.float32)
    write_nifti(tmp_path / f"a{suffix}", Volume(array, affine_of(), "mr"), "text")
    image = nib.load(tmp_path / f"a{suffix}")
    assert image.get_data_dtype() == np.float32
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    assert np.array_equal(image.get_fdata(dtype=np.float32), array)
    assert np.array_equal(read_nifti(tmp_path / f"a{suffix}").array, array)


def test_order_of_the_array_in_memory_does_not_matter(tmp_path):
    volume = volume_of()
    write_nifti(tmp_path / "a.nii", volume, "text")
    write_nifti(tmp_path / "b.nii", replace(volume, array=np.asfortranarray(volume.array)), "text")
    turned = np.ascontiguousarray(volume.array[::-1, ::-1])[::-1, ::-1]
    write_nifti(tmp_path / "c.nii", replace(volume, array=turned), "text")
    contents = {(tmp_path / f"{name}.nii").read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_written_header_is_sound_for_nibabel(tmp_path, caplog):
    write_nifti(tmp_path / "a.nii", volume_of(), "made by a test")
    header = nib.Nifti1Header((tmp_path / "a.nii").read_bytes()[:348], check=True)
    assert header.get_xyzt_units() == ("mm", "unknown")
    assert bytes(header["descrip"]).rstrip(b"\0") == b"made by a test"
    assert bytes(header["magic"]).rstrip(b"\0") == b"n+1"
    assert header["vox_offset"] == 352
    assert (header["sform_code"], header["qform_code"]) == (1, 1)
    assert not caplog.records


@pytest.mark.parametrize(
    ("modality", "unit", "window"),
    [
        ("ct", None, (0, 80)),
        ("ct", "HU", (0, 80)),
        ("ct", "grey", (0, 1000)),
        ("mr", None, (0, 1000)),
    ],
)
@EXACT
def test_viewers_are_told_what_to_show(tmp_path, modality, unit, window, suffix):
    write_nifti(tmp_path / f"a{suffix}", volume_of(modality, unit=unit), "text")
    header = nib.load(tmp_path / f"a{suffix}").header
    assert (header["cal_min"], header["cal_max"]) == window
    write_nifti(tmp_path / f"b{suffix}", volume_of(modality), "text", (0, 0.5))
    header = nib.load(tmp_path / f"b{suffix}").header
    assert (header["cal_min"], header["cal_max"]) == (0, 0.5)


CANARIES = ("JOHN^DOE", "19560229", "1.2.826.0.1")


def test_nothing_of_the_source_header_is_written_but_its_geometry(tmp_path):
    image = image_of(noise())
    image.header["descrip"] = CANARIES[0]
    image.header["aux_file"] = CANARIES[1]
    image.header["intent_name"] = CANARIES[2]
    image.header["cal_max"] = 1234.5
    content = patched(image.to_bytes(), db_name=CANARIES[0], slice_duration=77.0)
    extension = nib.nifti1.Nifti1Extension("comment", " ".join(CANARIES).encode())
    other = nib.Nifti1Image.from_bytes(content)
    other.header.extensions.append(extension)
    source = tmp_path / "JOHN^DOE.nii.gz"
    file_of(tmp_path, patched(other.to_bytes(), db_name=CANARIES[0]), source.name)
    packed = gzip.decompress(source.read_bytes())
    assert all(canary.encode() in packed for canary in CANARIES)
    for name in ("JOHN^DOE2.nii", "JOHN^DOE2.nii.gz"):
        write_nifti(tmp_path / name, replace(read_nifti(source), modality="mr"), "text")
        raw = (tmp_path / name).read_bytes()
        plain = gzip.decompress(raw) if name.endswith(".gz") else raw
        assert not any(canary.encode() in raw + plain for canary in CANARIES)
        assert len(plain) == 352 + 4 * 60
        header = nib.Nifti1Header(plain[:348])
        assert (header["cal_max"], header["slice_duration"]) == (1000, 0)


def test_gzip_has_neither_name_nor_time_so_that_the_same_volume_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, volume_of(), "text")
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[3] == 0  # no optional fields (RFC 1952)
    assert content[4:8] == bytes(4)  # no time


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_gzip_is_read_by_other_programs(tmp_path, modality):
    volume = replace(volume_of(), modality=modality)
    write_nifti(tmp_path / "a.nii.gz", volume, "text")
    expected = np.rint(volume.array) if modality == "ct" else volume.array
    assert np.array_equal(nib.load(tmp_path / "a.nii.gz").get_fdata(), expected)
    read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")))
    assert np.array_equal(read.transpose(2, 1, 0), expected)
    if shutil.which("gzip"):
        subprocess.run(["gzip", "-t", str(tmp_path / "a.nii.gz")], check=True)


def test_dimension_over_32767_makes_it_nifti_2(tmp_path):
    for size, kind in ((32767, nib.Nifti1Image), (32768, nib.Nifti2Image)):
        array = np.arange(size, dtype=np.float32).reshape(size, 1, 1)
        write_nifti(tmp_path / "a.nii", Volume(array, affine_of(), "mr"), "text")
        image = nib.load(tmp_path / "a.nii")
        assert type(image) is kind
        assert np.array_equal(image.get_fdata(), array)
        assert np.allclose(image.affine, affine_of(), atol=1e-6)
        assert np.array_equal(read_nifti(tmp_path / "a.nii").array, array)


@pytest.mark.parametrize("degrees", [0, 17])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_volume_without_forms_gets_both_with_code_1(tmp_path, axes, degrees):
    affine = affine_of(axes, degrees)
    write_nifti(tmp_path / "a.nii", Volume(noise(dtype="f4"), affine, "mr"), "text")
    header = nib.load(tmp_path / "a.nii").header
    assert np.allclose(header.get_sform(), affine, atol=1e-5)
    assert np.allclose(header.get_qform(), affine, atol=1e-5)
    assert (header["sform_code"], header["qform_code"]) == (1, 1)
    assert np.allclose(read_nifti(tmp_path / "a.nii").affine, affine, atol=1e-5)


@pytest.mark.parametrize("tilt", [0.05, 20.0, -30.0])
def test_sheared_volume_gets_an_sform_only_and_a_warning(tmp_path, caplog, tilt):
    affine = affine_of()
    affine[1, 2] = 3.0 * np.tan(np.radians(tilt))
    write_nifti(tmp_path / "a.nii", Volume(noise(dtype="f4"), affine, "ct"), "text")
    assert "a.nii: sform only, as its axes are sheared" in caplog.text
    image = nib.load(tmp_path / "a.nii")
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 0)
    assert np.allclose(image.affine, affine, atol=1e-6)
    assert np.allclose(image.header["pixdim"][1:4], nib.affines.voxel_sizes(affine))
    volume = read_nifti(tmp_path / "a.nii")
    assert np.allclose(volume.affine, affine, atol=1e-6)
    write_nifti(tmp_path / "b.nii", replace(volume, modality="ct"), "text")
    assert (tmp_path / "b.nii").read_bytes() == (tmp_path / "a.nii").read_bytes()


def test_rounding_in_a_dicom_header_is_no_shear(tmp_path, caplog):
    affine = affine_of(degrees=17)
    affine[:3, :3] = np.round(affine[:3, :3], 5)
    write_nifti(tmp_path / "a.nii", Volume(noise(dtype="f4"), affine, "ct"), "text")
    assert not caplog.records
    assert nib.load(tmp_path / "a.nii").header["qform_code"] == 1


@EXACT
@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("degrees", [0, 17])
@pytest.mark.parametrize("axes", [ORIENTATIONS[n] for n in (0, 7, 21, 34, 47)])
def test_simpleitk_reads_the_same_voxels_at_the_same_places(
    tmp_path, axes, degrees, modality, suffix
):
    affine = affine_of(axes, degrees)
    volume = Volume(noise(dtype="f4"), affine, modality)
    write_nifti(tmp_path / f"a{suffix}", volume, "text")
    image = SimpleITK.ReadImage(str(tmp_path / f"a{suffix}"))
    voxels = SimpleITK.GetArrayFromImage(image)  # (K, J, I)
    assert np.array_equal(voxels.transpose(2, 1, 0), volume.array)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    assert np.allclose(image.GetSpacing(), volume.spacing_mm, atol=1e-4)
    for index in ((0, 0, 0), (4, 0, 0), (0, 3, 0), (4, 3, 2)):
        place = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(place, (lps @ [*index, 1])[:3], atol=1e-4)


def test_file_of_simpleitk_is_read_at_its_place(tmp_path):
    image = SimpleITK.GetImageFromArray(noise().transpose(2, 1, 0))
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(tmp_path / "a.nii.gz"))
    volume = read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.array, noise())
    place = image.TransformIndexToPhysicalPoint((4, 3, 2))
    found = np.diag([-1, -1, 1, 1]) @ volume.affine @ [4, 3, 2, 1]
    assert np.allclose(found[:3], place, atol=1e-4)


@pytest.mark.parametrize("name", ["a.img", "a.mha", "a.gz", "a", "a.png"])
def test_other_suffix_is_an_output_error(tmp_path, name):
    with pytest.raises(OutputError, match=r"expected \.nii or \.nii\.gz: found .* Fix: rename it"):
        write_nifti(tmp_path / name, volume_of(), "text")
    assert not list(tmp_path.iterdir())


def test_volume_of_unknown_modality_or_with_nan_is_refused(tmp_path):
    holed = noise(dtype="f4")
    holed[0, 0, 0] = np.nan
    for volume in (volume_of(None), replace(volume_of(), array=holed)):
        with pytest.raises(ValueError, match="must be a CT or an MR of finite values: got Volume"):
            write_nifti(tmp_path / "a.nii", volume, "text")


@pytest.mark.parametrize("text", ["x" * 80, "Ähre", "two\nlines", "nul\0"])
def test_description_that_does_not_fit_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="description must be at most 79 ASCII characters: got"):
        write_nifti(tmp_path / "a.nii", volume_of(), text)


def test_longest_description_fits(tmp_path):
    write_nifti(tmp_path / "a.nii", volume_of(), "x" * 79)
    assert bytes(nib.load(tmp_path / "a.nii").header["descrip"]) == b"x" * 79 + b"\0"


def test_forms_of_another_volume_are_refused(tmp_path):
    forms = Forms(FLIPPED, 1, FLIPPED, 1)
    with pytest.raises(ValueError, match="forms must hold the affine"):
        write_nifti(tmp_path / "a.nii", volume_of(forms=forms), "text")


def test_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.nii").mkdir()
    with pytest.raises(OutputError, match="cannot write it"):
        write_nifti(tmp_path / "a.nii", volume_of(), "text")
