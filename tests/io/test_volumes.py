"""Volume files of every format: the same voxels at the same places as other libraries see, and what is refused."""

import gzip
import tracemalloc
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from ctmr import read_scan, write_scan
from ctmr.errors import DataError, OutputError, SafetyError, UsageError
from ctmr.imaging.volume import Volume
from ctmr.io.volumes import WRITTEN, read_volume_file, volume_bytes
from support.nifti_files import affine_of, noise
from support.volume_files import bomb, changed, foreign_file, seen_by_others

OTHERS = (".mha", ".nrrd", ".mgz", ".mgh")
AXES = [
    np.diag(signs)[:, list(order)]
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", OTHERS)
def test_file_of_another_program_is_read_exactly(suffix, compressed, tmp_path):
    path = foreign_file(tmp_path / f"a{suffix}", compressed=compressed)
    volume = read_volume_file(path)
    assert np.array_equal(volume.array, noise())
    np.testing.assert_allclose(volume.affine, affine_of(degrees=20), atol=1e-5)
    assert volume.modality is None


@pytest.mark.parametrize("suffix", OTHERS)
def test_all_48_orientations_lie_where_others_see_them(suffix, tmp_path):
    for n, axes in enumerate(AXES):
        path = foreign_file(tmp_path / f"{n}{suffix}", affine=affine_of(axes, 12.0))
        array, affine = seen_by_others(path)
        volume = read_volume_file(path)
        assert np.array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
        again = tmp_path / f"again{n}{suffix}"
        write_scan(again, Volume(volume.array, volume.affine, "ct"))
        array, affine = seen_by_others(again)
        assert np.array_equal(array, volume.array)
        np.testing.assert_allclose(affine, volume.affine, atol=1e-5)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_every_type_is_read_exactly(suffix, dtype, tmp_path):
    array = noise(low=0).clip(0, 120).astype(dtype)
    volume = read_volume_file(foreign_file(tmp_path / f"a{suffix}", array))
    assert np.array_equal(volume.array, array.astype(np.float32))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4"])
def test_every_type_of_mgz_is_read_exactly(dtype, tmp_path):
    array = noise(low=0).clip(0, 120).astype(dtype)
    volume = read_volume_file(foreign_file(tmp_path / "a.mgz", array))
    assert np.array_equal(volume.array, array.astype(np.float32))


@pytest.mark.parametrize("suffix", WRITTEN)
def test_ct_is_written_as_rounded_and_clipped_int16_and_mr_as_float32(suffix, tmp_path):
    array = np.array([-0.5, 0.5, 1.5, 40_000, -40_000, 7], np.float32).reshape(1, 2, 3)
    path = tmp_path / f"a{suffix}"
    write_scan(path, Volume(array, affine_of(), "ct"))
    expected = np.array([0, 0, 2, 32_767, -32_768, 7]).reshape(1, 2, 3)
    assert np.array_equal(read_scan(path).array, expected)
    write_scan(path, Volume(array, affine_of(), "mr"))
    assert np.array_equal(read_scan(path).array, array)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_equal_volumes_give_equal_bytes_that_say_they_are_synthetic(suffix, tmp_path):
    volume = Volume(noise().astype(np.float32), affine_of(), "ct")
    path = tmp_path / f"a{suffix}"
    write_scan(path, volume)
    content = path.read_bytes()
    write_scan(path, volume)
    assert path.read_bytes() == content
    shown = gzip.decompress(content) if suffix in (".nii.gz", ".mgz") else content
    assert b"SYNTHETIC (ctmr): research use only, not for diagnosis" in shown


@pytest.mark.parametrize("suffix", OTHERS)
def test_tilted_volume_keeps_its_sheared_axes(suffix, tmp_path):
    affine = affine_of()
    affine[1, 2] = 0.8
    write_scan(tmp_path / f"a{suffix}", Volume(noise().astype(np.float32), affine, "ct"))
    np.testing.assert_allclose(read_scan(tmp_path / f"a{suffix}").affine, affine, atol=1e-5)


@pytest.mark.parametrize("suffix", OTHERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_file_is_refused(suffix, share, tmp_path):
    path = foreign_file(tmp_path / f"a{suffix}", noise((20, 20, 20)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError):
        read_volume_file(path)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("compressed", [True, False])
def test_bytes_behind_the_voxels_are_refused(suffix, compressed, tmp_path):
    path = foreign_file(tmp_path / f"a{suffix}", compressed=compressed)
    changed(path, b"5 4 3\n", b"5 4 2\n")
    with pytest.raises(DataError, match=r"expected \d+ bytes of voxels"):
        read_volume_file(path)


@pytest.mark.parametrize("suffix", OTHERS)
def test_wrong_checksum_is_refused(suffix, tmp_path):
    path = foreign_file(tmp_path / f"a{suffix}", noise((20, 20, 20)))
    content = bytearray(path.read_bytes())
    at = len(content) - (1 if suffix == ".mha" else 8)
    content[at] ^= 1
    path.write_bytes(bytes(content))
    if suffix == ".mgh":
        read_volume_file(path)  # it has none
    else:
        with pytest.raises(DataError, match="intact compressed data"):
            read_volume_file(path)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mgz"])
@pytest.mark.parametrize("sides", [(2_000_000_000, 2_000_000_000, 9), (4096, 4096, 65)])
def test_header_beyond_the_limit_is_refused_before_any_memory_is_taken(suffix, sides, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(bomb(suffix, sides, 10))
    with pytest.raises(DataError, match=f"at most {4 * 2**30} bytes"):
        read_volume_file(path)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mgz"])
def test_data_that_inflate_beyond_the_header_are_refused_without_their_memory(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(bomb(suffix, (16, 16, 16), 2**27))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="or more behind them"):
            read_volume_file(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mha", b"NDims = 3", b"NDims = 4"),
        (".mha", b"DimSize = 5 4 3", b"DimSize = 5 4"),
        (".mha", b"DimSize = 5 4 3", b"DimSize = 5 4 0"),
        (".mha", b"DimSize = 5 4 3", b"DimSize = 5 4 x"),
        (".mha", b"MET_SHORT", b"MET_SHORT_ARRAY"),
        (".mha", b"BinaryData = True", b"BinaryData = False"),
        (".mha", b"ElementSpacing", b"ElementNumberOfChannels = 3\nElementSpacing"),
        (".mha", b"ElementSpacing", b"DistanceUnits = cm\nElementSpacing"),
        (".mha", b"ElementSpacing", b"Offset = 1 1 1\nElementSpacing"),
        (".mha", b"ElementDataFile", b"Other"),
        (".nrrd", b"NRRD0004", b"NRRD0009"),
        (".nrrd", b"dimension: 3", b"dimension: 4"),
        (".nrrd", b"type: short", b"type: block"),
        (".nrrd", b"encoding: gzip", b"encoding: hex"),
        (".nrrd", b"endian: little", b"byte skip: 7"),
        (".nrrd", b"endian: little", b"# none"),
        (".nrrd", b"endian: little", b'endian: little\nspace units: "m" "m" "m"'),
        (".nrrd", b"sizes: 5 4 3", b"sizes: 5 4 3\nsizes: 5 4 3"),
        (".nrrd", b"sizes: 5 4 3", b"sizes: 5 -4 -3"),
    ],
)
def test_headers_that_mean_something_else_are_refused(suffix, old, new, tmp_path):
    path = changed(foreign_file(tmp_path / f"a{suffix}"), old, new)
    with pytest.raises(DataError) as caught:
        read_volume_file(path)
    assert caught.value.fix


@pytest.mark.parametrize("suffix", OTHERS)
def test_voxels_that_are_not_finite_are_refused(suffix, tmp_path):
    array = noise().astype(np.float32)
    array[1, 1, 1] = np.nan
    with pytest.raises(DataError, match="expected finite voxels in the head: found 1 of 60"):
        read_volume_file(foreign_file(tmp_path / f"a{suffix}", array))


@pytest.mark.parametrize("suffix", OTHERS)
def test_voxels_that_are_not_finite_outside_become_air(suffix, tmp_path, caplog):
    array = noise().astype(np.float32)
    array[0] = np.nan
    found = read_volume_file(foreign_file(tmp_path / f"a{suffix}", array)).array
    assert np.array_equal(found[1:], array[1:])
    assert (found[0] == array[1:].min()).all()
    assert "outside the head: taken as air" in caplog.text


@pytest.mark.parametrize(
    ("old", "new"), [(b"1 0 0 0 1 0 0 0 1", b"1 0 0 0 0 0 0 0 1"), (b"0.5 0.75 3", b"0 0.75 3")]
)
def test_axes_that_span_no_space_are_refused(old, new, tmp_path):
    path = foreign_file(tmp_path / "a.mha", affine=affine_of(np.diag([-1, -1, 1])))
    with pytest.raises(SafetyError):
        read_volume_file(changed(path, old, new))


def without_axes(suffix: str, folder: Path) -> Path:
    """A file whose header does not say how the axes run."""
    path = foreign_file(folder / f"a{suffix}", affine=affine_of(), compressed=False)
    content = path.read_bytes()
    if suffix == ".mha":
        lines = [row for row in content.split(b"\n", 15) if not row.startswith(b"TransformMatrix")]
        content = b"\n".join(lines)
    elif suffix == ".nrrd":
        head, voxels = content.split(b"\n\n", 1)
        rows = [row for row in head.split(b"\n") if not row.startswith(b"space")]
        content = b"\n".join([*rows, b"spacings: 0.5 0.75 3"]) + b"\n\n" + voxels
    else:
        plain = bytearray(gzip.decompress(content))
        plain[28:30] = bytes(2)  # goodRASFlag
        content = gzip.compress(bytes(plain))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mgz"])
def test_header_without_axes_is_refused_and_geometry_gives_them(suffix, tmp_path):
    path = without_axes(suffix, tmp_path)
    with pytest.raises(SafetyError, match="left and right are unknown") as caught:
        read_volume_file(path)
    assert "--geometry RAS or LAS or LPS" in caught.value.fix
    volume = read_volume_file(path, geometry="LPS")
    np.testing.assert_allclose(
        volume.affine, [[-0.5, 0, 0, 1], [0, -0.75, 0, 1.125], [0, 0, 3, -3], [0, 0, 0, 1]]
    )
    assert np.array_equal(volume.array, noise())


@pytest.mark.parametrize("suffix", OTHERS)
def test_geometry_is_not_used_where_the_header_has_axes(suffix, tmp_path, caplog):
    path = foreign_file(tmp_path / f"a{suffix}")
    for geometry in ("RAS", "sform"):  # which is of NIfTI
        volume = read_volume_file(path, geometry=geometry)
        np.testing.assert_allclose(volume.affine, affine_of(degrees=20), atol=1e-5)
    assert caplog.text.count("--geometry RAS is for others") == 1


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed"])
def test_nrrd_of_a_space_that_is_not_of_the_patient_is_refused(space, tmp_path):
    path = foreign_file(tmp_path / "a.nrrd")
    changed(path, b"left-posterior-superior", space.encode())
    with pytest.raises(SafetyError, match="left and right are unknown"):
        read_volume_file(path)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1)), ("LPS", (-1, -1, 1))],
)
def test_nrrd_space_says_what_the_numbers_mean(space, signs, tmp_path):
    path = foreign_file(tmp_path / "a.nrrd", affine=np.diag([-1.0, -2, 3, 1]))
    changed(path, b"left-posterior-superior", space.encode())
    stated = np.diag([1.0, 2, 3, 1])  # in LPS, as SimpleITK writes it
    np.testing.assert_allclose(read_volume_file(path).affine, np.diag([*signs, 1]) @ stated)


@pytest.mark.parametrize("first", [True, False])
def test_axis_without_direction_is_dropped_where_it_has_one_entry(first, tmp_path):
    path = foreign_file(tmp_path / "a.nrrd", affine=np.diag([-1.0, -2, 3, 1]), compressed=False)
    changed(path, b"dimension: 3", b"dimension: 4")
    changed(path, b"kinds: domain domain domain\n", b"")
    directions = b"(1,0,0) (0,2,0) (0,0,3)"
    if first:
        changed(path, b"sizes: 5 4 3", b"sizes: 1 5 4 3")
        changed(path, directions, b"none " + directions)
    else:
        changed(path, b"sizes: 5 4 3", b"sizes: 5 4 3 1")
        changed(path, directions, directions + b" none")
    volume = read_volume_file(path)
    assert np.array_equal(volume.array, noise())
    np.testing.assert_allclose(volume.affine, np.diag([-1, -2, 3, 1]))
    changed(path, b"sizes: 1 5 4 3" if first else b"sizes: 5 4 3 1", b"sizes: 3 5 4 3")
    with pytest.raises(DataError, match="expected one 3-D volume"):
        read_volume_file(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_every_binary_encoding_of_nrrd_is_read(encoding, tmp_path):
    import bz2

    path = foreign_file(tmp_path / "a.nrrd", compressed=False)
    head, voxels = path.read_bytes().split(b"\n\n", 1)
    packed = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}[encoding](voxels)
    head = head.replace(b"encoding: raw", f"encoding: {encoding}".encode())
    path.write_bytes(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + packed)
    assert np.array_equal(read_volume_file(path).array, noise())


def test_big_endian_voxels_are_read(tmp_path):
    for suffix, old, new in (
        (".mha", b"ByteOrderMSB = False", b"ByteOrderMSB = True"),
        (".nrrd", b"endian: little", b"endian: big"),
    ):
        path = foreign_file(tmp_path / f"a{suffix}", noise().byteswap(), compressed=False)
        assert np.array_equal(read_volume_file(changed(path, old, new)).array, noise())


@pytest.mark.parametrize(("suffix", "whole"), [(".mhd", ".mha"), (".nhdr", ".nrrd")])
def test_header_of_a_pair_is_refused_and_the_fix_works(suffix, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foreign_file(tmp_path / f"scan{suffix}")
    with pytest.raises(DataError, match="voxels are in another file") as caught:
        read_scan(tmp_path / f"scan{suffix}")
    eval(caught.value.fix.split("`")[1], {"SimpleITK": SimpleITK})
    assert np.array_equal(read_scan(tmp_path / f"scan{whole}").array, noise())


@pytest.mark.parametrize("place", ["/etc/hostname", "../secret.raw", "LIST", "%03d.raw 1 3 1"])
def test_path_in_a_header_is_never_followed(place, tmp_path):
    (tmp_path / "secret.raw").write_bytes(bytes(120))
    (tmp_path / "in").mkdir()
    for suffix, line in ((".mha", b"ElementDataFile = LOCAL"), (".nrrd", b"endian: little")):
        path = foreign_file(tmp_path / "in" / f"a{suffix}", compressed=False)
        key = b"ElementDataFile = " if suffix == ".mha" else b"endian: little\ndata file: "
        changed(path, line, key + place.encode())
        with pytest.raises(DataError, match="voxels are in another file") as caught:
            read_volume_file(path)
        assert place not in caught.value.what


def test_volume_is_not_written_with_another_suffix(tmp_path):
    volume = Volume(noise().astype(np.float32), affine_of(), "ct")
    for name in ("a.mhd", "a.nhdr"):
        with pytest.raises(UsageError, match=r"\.nii\.gz, \.nii, \.mha, \.nrrd, \.mgz, \.mgh"):
            write_scan(tmp_path / name, volume)
        with pytest.raises(OutputError):
            volume_bytes(tmp_path / name, volume, "x")
    assert list(tmp_path.iterdir()) == []


def test_suffix_must_be_that_of_the_content(tmp_path):
    content = foreign_file(tmp_path / "a.mgh").read_bytes()
    for name in ("b.mgz", "b.mha", "b.nrrd", "b.nii"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            read_volume_file(tmp_path / name)


@pytest.mark.parametrize("suffix", OTHERS)
def test_no_text_of_a_header_is_written_or_said(suffix, tmp_path):
    name = b"DOE^JANE"
    path = foreign_file(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    if suffix == ".mha":
        content = content.replace(b"BinaryData =", b"Comment = " + name + b"\nBinaryData =", 1)
    elif suffix == ".nrrd":
        lines = b"content: " + name + b"\nPatientName:=" + name + b"\nendian"
        content = content.replace(b"endian", lines, 1)
    else:
        plain = gzip.decompress(content) if suffix == ".mgz" else content
        plain = plain[:100] + name + plain[100 + len(name) :] + name
        content = gzip.compress(plain) if suffix == ".mgz" else plain
    path.write_bytes(content)
    volume = read_volume_file(path)
    again = tmp_path / f"again{suffix}"
    write_scan(again, Volume(volume.array, volume.affine, "ct"))
    written = again.read_bytes()
    assert name not in (gzip.decompress(written) if suffix == ".mgz" else written)
    path.write_bytes(content[:-40])
    with pytest.raises(DataError) as caught:
        read_volume_file(path)
    assert name.decode() not in str(caught.value)
