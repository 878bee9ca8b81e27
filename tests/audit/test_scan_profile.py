import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ctmr.audit.scan_profile import Picture, Unusable, take_picture
from ctmr.data.sources import Source
from ctmr.imaging.image import Image
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.image_info import ImageInfo
from ctmr.io.images import write_image
from ctmr.io.scan import write_scan
from ctmr.synthetic.head import synthesise_head
from support.dicom_series import affine, edit_all
from support.pictures import save, slices

GREY = ImageInfo()


def source(path, modality="ct", kind="image", info=GREY):
    data = path.parent.parent
    label = path.relative_to(data).as_posix()
    return Source(data, "train", modality, path, kind, label, None, info)


def taken(path, *about, **more):
    found = take_picture(source(path, *about, **more))
    assert isinstance(found, Picture), found
    return found


def test_grey_and_rgb_files_of_one_picture_have_one_digest(tmp_path):
    pixels = slices(1, "mr")[0]
    grey = taken(save(tmp_path / "b" / "grey.png", pixels))
    rgb = taken(save(tmp_path / "b" / "rgb.tif", np.repeat(pixels[..., None], 3, axis=-1)))
    assert grey.digest == rgb.digest
    assert (grey.stored, rgb.stored) == ("8-bit grey", "8-bit RGB")
    assert (grey.label, grey.folder) == ("b/grey.png", "b")
    other = taken(save(tmp_path / "b" / "other.png", slices(1, "mr")[1]))
    assert other.digest != grey.digest


def test_same_values_in_another_shape_have_another_digest(tmp_path):
    flat = np.zeros((32, 64))
    one, other = (save(tmp_path / "b" / f"{n}.png", a) for n, a in enumerate((flat, flat.T)))
    assert taken(one).digest != taken(other).digest


def test_shares_at_the_ends_are_those_of_the_head(tmp_path):
    pixels = np.zeros((64, 64))
    pixels[8:56, 8:56] = 100
    pixels[8:56, 8:20] = 255
    found = taken(save(tmp_path / "a" / "x.png", pixels))
    assert found.ends[1] == pytest.approx(12 / 48, abs=0.03)
    assert found.ends[0] < 0.03


@pytest.mark.parametrize(
    "pixels", [np.zeros((40, 40)), np.full((40, 40), 128), np.eye(40) * 3 + np.eye(40, k=3)]
)
def test_picture_of_nothing_has_no_descriptors(tmp_path, pixels):
    found = taken(save(tmp_path / "a" / "x.png", pixels))
    assert found.descriptors is None
    assert found.print is None
    assert found.ends == (0.0, 0.0)


def test_marks_are_found_and_the_frame_does_not_hide_the_head(tmp_path):
    pixels = np.repeat(slices(1, "ct")[0][..., None], 3, axis=-1)
    plain = taken(save(tmp_path / "a" / "plain.png", pixels))
    assert plain.marks == ()
    pixels = np.pad(pixels, ((6, 6), (6, 6), (0, 0)))
    pixels[:1] = pixels[-1:] = 255
    pixels[:, :1] = pixels[:, -1:] = 255
    pixels[2:5, 2:12, 0] = 200
    found = taken(save(tmp_path / "a" / "drawn.png", pixels))
    assert found.marks == ("colour", "frame")
    assert found.descriptors.level == pytest.approx(plain.descriptors.level, abs=0.05)


def test_picture_in_hu_is_seen_through_a_window(tmp_path):
    head = synthesise_head(3, shape=(64, 64, 1), spacing_mm=(3.6, 3.6, 5.0), heights_mm=(70.0,))
    hu = np.ascontiguousarray(head.ct[::-1, ::-1, 0].T)
    path = tmp_path / "a" / "x.png"
    path.parent.mkdir()
    write_image(path, Image(hu, "HU", 16))
    found = taken(path, info=ImageInfo("HU", 1.0, -1024.0))
    assert found.stored == "16-bit HU"
    assert found.descriptors.full > 0.05  # bone is white in the window
    assert found.ends[1] < 0.01  # and not clipped in the file


def test_thumbnail_is_a_small_jpeg(tmp_path):
    found = taken(save(tmp_path / "a" / "x.png", slices(2, "ct")[0]))
    image = Pillow.open(io.BytesIO(found.thumbnail))
    assert (image.format, max(image.size)) == ("JPEG", 96)


def test_unreadable_file_says_why_without_its_path(tmp_path):
    path = tmp_path / "a" / "x.png"
    path.parent.mkdir()
    path.write_bytes(b"hello")
    found = take_picture(source(path))
    assert isinstance(found, Unusable)
    assert found.fault == "unreadable"
    assert "found another file" in found.why
    assert str(tmp_path) not in found.why


def head_volume(modality, thickness=5.0, slices=28, top=0):
    """A head with its top under the last slice, or cut off by some."""
    head = synthesise_head(4, shape=(48, 48, slices), spacing_mm=(4.5, 4.5, thickness))
    array = head.ct if modality == "ct" else head.mr
    keep = slice(0, array.shape[2] - top)
    return Volume(np.ascontiguousarray(array[:, :, keep]), head.affine, modality)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_volume_is_seen_at_the_level_of_the_ventricles(tmp_path, modality):
    path = tmp_path / "x" / "head.nii.gz"
    path.parent.mkdir()
    write_scan(path, head_volume(modality))
    found = taken(path, modality, "volume")
    assert found.shape == (48, 48, 28)
    assert (found.stored, found.plane, found.part) == ("volume", None, None)
    assert found.descriptors is not None


def test_plane_and_part_of_a_volume_are_told(tmp_path):
    path = tmp_path / "x" / "thick.nii.gz"
    path.parent.mkdir()
    write_scan(path, head_volume("ct", thickness=9.0, slices=9))
    found = taken(path, "ct", "volume")
    assert found.plane == "axial"
    assert found.part.endswith("mm from top to bottom")
    turned = head_volume("ct", thickness=9.0, slices=16)
    matrix = turned.affine[:, [0, 2, 1, 3]]
    write_scan(path, Volume(np.ascontiguousarray(turned.array.transpose(0, 2, 1)), matrix, "ct"))
    assert taken(path, "ct", "volume").plane == "axial"
    write_scan(path, head_volume("ct", top=10))
    assert taken(path, "ct", "volume").part == "the top is cut off"


def test_volume_of_another_modality_or_without_hu_cannot_be_used(tmp_path):
    path = tmp_path / "x" / "head.nii"
    path.parent.mkdir()
    write_scan(path, head_volume("ct"))
    found = take_picture(source(path, "mr", "volume"))
    assert (found.fault, "values of a CT" in found.why) == ("wrong_modality", True)
    write_scan(path, head_volume("mr"))
    found = take_picture(source(path, "ct", "volume"))
    assert (found.fault, "expected CT in HU" in found.why) == ("not_hu", True)


def test_volume_in_which_no_head_is_found_has_no_descriptors(tmp_path):
    path = tmp_path / "a" / "x.nii.gz"
    path.parent.mkdir()
    write_scan(path, Volume(np.zeros((24, 24, 12), np.float32), affine(), "mr"))
    assert taken(path, "mr", "volume").descriptors is None


def test_series_has_a_hash_of_its_patient_and_its_modality_by_header(tmp_path):
    folder = tmp_path / "x" / "series"
    volume = head_volume("mr")
    phantom_series(folder, Volume(volume.array, affine(), "mr"), name="CANARY", study="S")
    edit_all(folder, PatientID="CANARY-7", BurnedInAnnotation="YES")
    found = taken(folder, "mr", "series")
    assert found.patient is not None
    assert "CANARY" not in found.patient
    assert found.marks == ("letters",)
    wrong = take_picture(source(folder, "ct", "series"))
    assert (wrong.fault, wrong.why) == ("wrong_modality", "expected CT: the header says MR")


def test_picture_travels_between_processes_whole(tmp_path):
    import pickle

    found = taken(save(tmp_path / "a" / "x.png", slices(1, "ct")[0]))
    again = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own bytes, as between processes
    assert again.descriptors == found.descriptors
    assert again.source == found.source
    assert isinstance(again.source.path, Path)
