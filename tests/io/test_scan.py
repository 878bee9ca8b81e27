"""Which sort of scan a path is."""

from pathlib import Path

import pytest

from ctmr.errors import DataError
from ctmr.io.image_info import ImageInfo, write_image_info
from ctmr.io.scan import info_within, kind_of, read_scan, stem_of


@pytest.mark.parametrize(
    ("name", "stem", "kind"),
    [
        ("a.b.nii.gz", "a.b", "volume"),
        ("A.NII", "A", "volume"),
        ("a.b.png", "a.b", "image"),
        ("a.JPG", "a", "image"),
        ("a.b.mha", "a.b", "volume"),
        ("A.Nrrd", "A", "volume"),
        ("a.mgz", "a", "volume"),
        ("series.1", "series.1", None),
    ],
)
def test_suffix_tells_the_kind(name, stem, kind):
    assert stem_of(Path(name)) == stem
    assert kind_of(Path(name)) == kind


def test_folder_without_a_series_is_no_scan(tmp_path):
    assert kind_of(tmp_path) is None
    with pytest.raises(DataError, match="found a folder that is not a DICOM series"):
        read_scan(tmp_path)


def test_nearest_ctmr_json_holds_up_to_the_root(tmp_path):
    root = tmp_path / "root"
    folder = root / "a" / "b"
    folder.mkdir(parents=True)
    write_image_info(tmp_path, "HU")  # above the root
    assert info_within(folder, root) == ImageInfo()
    files = {"x.png": (1.0, 1.0), "a/x.png": (2.0, 2.0), "a/b/x.png": (3.0, 3.0)}
    write_image_info(root, "HU", (4.0, 4.0), files)
    info = info_within(folder, root)
    assert (info.unit, info.spacing_of("x.png"), info.spacing_of("y.png")) == ("HU", (3, 3), (4, 4))
    assert info_within(folder.parent, root).spacing_of("x.png") == (2.0, 2.0)
    assert info_within(root, root).spacing_of("x.png") == (1.0, 1.0)
    write_image_info(root / "a", "grey", files={"b/x.png": (5.0, 5.0)})
    assert info_within(folder, root) == ImageInfo("grey", files={"x.png": (5.0, 5.0)})
    assert info_within(folder, folder) == ImageInfo()
