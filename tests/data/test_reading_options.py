"""What the reading options do to a store, from CTs that lost their HU to scans let in by --anyway."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctmr.config import DataConfig
from ctmr.data.prepare import prepare
from ctmr.errors import DataError, SafetyError
from ctmr.io.reading import Reading
from ctmr.synthetic.head import synthesise_head

HEAD = synthesise_head(9, shape=(40, 46, 30), spacing_mm=(4.5, 4.5, 5.0))
CT, MR = np.rint(HEAD.ct).astype(np.float32), HEAD.mr.astype(np.float32)
CONFIG = DataConfig(
    size=32, channels=1, ct_window="wide", pixel_mm=6.0, match_heights=False, flip=True
)


def nifti(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.astype(np.float32), HEAD.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def data(root: Path, ct: np.ndarray = CT, mr: np.ndarray = MR) -> Path:
    nifti(root / "trainA" / "a.nii", ct)
    nifti(root / "trainB" / "b.nii", mr)
    return root


def slices(root: Path, out: Path, **options) -> np.ndarray:
    store = prepare(root, CONFIG, out, reading=Reading(**options))
    return np.stack([store.slice("train", "ct", n) for n in range(store.count("train", "ct"))])


def test_ct_without_hu_is_refused_and_with_its_option_gives_the_slices_of_hu(tmp_path):
    expected = slices(data(tmp_path / "hu"), tmp_path / "s1")
    root = data(tmp_path / "lost", np.clip(CT, -1024, None) + 1024)
    with pytest.raises(SafetyError, match=r"expected CT in HU.*--ct-values hu\+1024"):
        prepare(root, CONFIG, tmp_path / "s2")
    found = slices(root, tmp_path / "s2", ct_values="hu+1024")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    said = json.loads((tmp_path / "s2/store.json").read_text())["reading"]
    assert said == {"ct_values": "hu+1024"}


def test_grey_ct_is_trained_on_by_the_percentiles_of_its_head(tmp_path):
    root = data(tmp_path / "grey", np.clip(CT / 80, 0, 1))
    store = prepare(root, CONFIG, tmp_path / "s", reading=Reading(ct_values="grey"))
    assert list(store.intensities["ct"]) == ["grey"]
    scaled = data(tmp_path / "scaled", np.clip(CT / 80, 0, 1) * 300)
    again = prepare(scaled, CONFIG, tmp_path / "t", reading=Reading(ct_values="grey"))
    for n in range(store.count("train", "ct")):
        np.testing.assert_allclose(
            store.slice("train", "ct", n), again.slice("train", "ct", n), atol=1e-3
        )


def test_what_only_anyway_lets_in_is_counted(tmp_path):
    root = data(tmp_path / "data")
    nifti(root / "trainB" / "ct.nii", CT)
    nifti(root / "trainB" / "mask.nii", (MR > 60).astype(float))
    with pytest.raises(SafetyError, match="found the values of a CT in HU"):
        prepare(root, CONFIG, tmp_path / "s")
    store = prepare(root, CONFIG, tmp_path / "s", reading=Reading(anyway=True))
    assert store.manifest.let_in == {"wrong modality or no scan": 2}
    (root / "trainB" / "ct.nii").unlink()
    store = prepare(root, CONFIG, tmp_path / "t")
    assert {entry.name.split("#")[0] for entry in store.entries("train", "mr")} == {"b.nii"}
    assert "let_in" not in json.loads((tmp_path / "t/store.json").read_text())


def test_unreadable_ones_stay_refused(tmp_path):
    root = data(tmp_path / "data")
    (root / "trainB" / "cut.nii").write_bytes((root / "trainB" / "b.nii").read_bytes()[:1000])
    with pytest.raises(DataError, match=r"expected .* bytes as its header says"):
        prepare(root, CONFIG, tmp_path / "s", reading=Reading(anyway=True))


def test_options_belong_to_the_fingerprint(tmp_path):
    root = data(tmp_path / "data")
    plain = prepare(root, CONFIG, tmp_path / "s")
    vouched = prepare(root, CONFIG, tmp_path / "t", reading=Reading(ct_values="hu"))
    assert plain.fingerprint != vouched.fingerprint
