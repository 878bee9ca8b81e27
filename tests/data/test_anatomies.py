import hashlib
import io
import urllib.error
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.data import anatomies
from ctmr.data.anatomies import SHA256, fetch_anatomies
from ctmr.errors import DataError, OutputError
from ctmr.synthetic import anatomies as rooms
from ctmr.synthetic.anatomies import CODE, cached_anatomies, read_anatomy, unpack
from ctmr.synthetic.data_folder import _map_of, _people
from support.label_maps import write_map


@pytest.fixture
def downloads(monkeypatch):
    """Stands for the network: what each address gives; the hashes are those of the two maps in it."""
    maps = {"training_seg_01.nii.gz": b"one", "training_seg_02.nii.gz": b"two"}
    answers = {anatomies.SOURCE.format(name=name): content for name, content in maps.items()}

    def urlopen(url, timeout):
        if url not in answers:
            raise urllib.error.URLError("unknown host")
        return io.BytesIO(answers[url])

    monkeypatch.setattr(anatomies.urllib.request, "urlopen", urlopen)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in maps.items()}
    monkeypatch.setattr(anatomies, "SHA256", hashes)
    return answers


def test_maps_are_fetched_and_checked(downloads, tmp_path):
    out = fetch_anatomies(tmp_path / "maps")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "training_seg_01.nii.gz": b"one",
        "training_seg_02.nii.gz": b"two",
    }


def test_command_says_the_licence(downloads, tmp_path):
    result = CliRunner().invoke(app, ["fetch", "anatomies", str(tmp_path / "maps")])
    assert result.exit_code == 0
    assert "Apache" in result.output


def test_other_file_is_refused_and_nothing_is_left(downloads, tmp_path):
    downloads[next(reversed(downloads))] = b"another"
    with pytest.raises(DataError, match="sha256"):
        fetch_anatomies(tmp_path / "maps")
    assert not list((tmp_path / "maps").glob("*"))


def test_without_network_it_says_where_to_get_them(downloads, tmp_path):
    downloads.clear()
    with pytest.raises(DataError, match="unknown host") as caught:
        fetch_anatomies(tmp_path / "maps")
    assert "github.com/BBillot/SynthSeg" in str(caught.value)


def test_place_that_is_taken_is_refused(downloads, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError):
        fetch_anatomies(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_twenty_maps_are_known():
    assert len(SHA256) == 20
    assert all(len(value) == 64 for value in SHA256.values())


def test_map_is_read_in_ras(tmp_path, monkeypatch):
    """Voxels at high I of a file that runs to the left come to lie at low I."""
    monkeypatch.setitem(rooms._MAP_LABELS, "deep grey", (7,))
    monkeypatch.setitem(rooms._MAP_LABELS, "white matter", (2,))
    anatomy = read_anatomy(write_map(tmp_path / "a.nii.gz"))
    where = np.argwhere(unpack(anatomy.packed).tissue == CODE["deep grey"])
    assert where[:, 0].max() < anatomy.packed.shape[0] / 2 - 10


@pytest.mark.parametrize("content", [b"", b"not a map"])
def test_file_that_is_no_map_is_refused(tmp_path, content):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(DataError):
        read_anatomy(tmp_path / "a.nii.gz")


def test_scan_in_place_of_a_map_is_refused(tmp_path):
    write_map(tmp_path / "a.nii.gz", (1, 2, 3, 4, 5, 6))
    with pytest.raises(DataError, match="label map of a whole head"):
        read_anatomy(tmp_path / "a.nii.gz")


def test_folder_of_maps_becomes_a_data_folder_without_faces(tmp_path, monkeypatch):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "maps").mkdir()
    write_map(tmp_path / "maps" / "a.nii.gz")
    arguments = ["synth", str(tmp_path / "out"), "--subjects", "1", "--size", "96"]
    arguments += ["--anatomies", str(tmp_path / "maps"), "--format", "nifti"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    ct = nib.load(next((tmp_path / "out" / "test" / "ct").glob("*.nii.gz")))
    mr = nib.load(next((tmp_path / "out" / "test" / "mr").glob("*.nii.gz")))
    np.testing.assert_allclose(ct.affine, mr.affine)
    assert nib.aff2axcodes(ct.affine) == ("L", "P", "S")
    hu = ct.get_fdata()
    volume_ml = (hu > -500).sum() * abs(np.linalg.det(ct.affine)) / 1000
    assert (
        150 < volume_ml < 4 / 3 * np.pi * 5.5**3
    )  # a ball of 5 cm, its scalp thinner, its face gone
    files = list((tmp_path / "cache" / "anatomies").iterdir())
    again = cached_anatomies(str(tmp_path / "maps"))
    assert len(files) == 1
    assert again[0].name == "a.nii.gz"


def test_lesions_of_maps_are_refused(tmp_path):
    arguments = ["synth", str(tmp_path / "out"), "--lesions", "1", "--anatomies", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_test_heads_come_from_other_maps():
    people = _people(12, 0, 0.0)
    maps = [Path(f"{n}.nii.gz") for n in range(6)]
    trained = {_map_of(p, maps) for p in people if p.split.startswith("train")}
    tested = {_map_of(p, maps) for p in people if not p.split.startswith("train")}
    assert not trained & tested
    assert len(trained) > 1
