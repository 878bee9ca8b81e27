"""Volume files, pictures and trees as pipelines and challenges leave them, each through the whole program."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from scipy import ndimage

from ctmr.data.store import open_store
from ctmr.io.dicom.header import hashed
from ctmr.synthetic.head import synthesise_head
from ctmr.types import MODALITIES, SPLITS
from support.heads import head as picture
from support.heads import save_grey
from support.volume_files import changed, seen_by_others
from support.whole_program import CT, HEAD, MR, TINY, called, file_of, seen, series_of

Spoil = Callable[[Path], None]
ALIGNED = HEAD.affine + np.array([[0, 0, 0, 8], [0, 0, 0, -18], [0, 0, 0, 9], [0, 0, 0, 0]])
OTHER = synthesise_head(61, shape=CT.shape, spacing_mm=(5.0, 5.0, 12.0))
TEST_CT = np.rint(OTHER.ct).astype(np.float32)
TEST_MR = np.rint(OTHER.mr * (900 / OTHER.mr.max())).astype(np.float32)
MIRRORED = HEAD.affine @ np.diag([-1, 1, 1, 1])
PREPARED = TINY[:6]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("ctmr.evaluation.evaluate.HEADS", 2)


def translate(run: Path, source: Path, out: Path, to: str, *options: str, code: int = 0) -> str:
    words = ("--model", run, "--to", to, "--quality", "none")
    return called("translate", source, out, *words, *options, code=code)


def data_of(root: Path, heads: int = 1) -> Path:
    """A data folder of sound volumes, and pairs of the same in `test`."""
    for split in ("train", "test"):
        for n in range(heads):
            file_of(root / f"{split}/ct/h{n}.nii", (CT if split == "train" else TEST_CT) + n)
            file_of(root / f"{split}/mr/h{n}.nii", (MR if split == "train" else TEST_MR) + n)
    return root


# K8: options of reading


def forms(
    sform: np.ndarray | None, sform_code: int, qform: np.ndarray | None, qform_code: int
) -> Spoil:
    def spoil(path: Path) -> None:
        image = nib.Nifti1Image.from_bytes(path.read_bytes())
        image = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
        image.set_sform(sform, sform_code)
        image.set_qform(qform, qform_code)
        nib.save(image, path)

    return spoil


def quaternion(excess: float) -> Spoil:
    """A quaternion whose norm is a little above 1, as some programs round it: half a turn about x."""

    def spoil(path: Path) -> None:
        half = np.diag([5.0, -5.0, -12.0, 1.0])
        forms(half, 1, half, 1)(path)
        content = bytearray(path.read_bytes())
        content[256:260] = np.float32(np.sqrt(1 + excess)).tobytes()
        path.write_bytes(bytes(content))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "affine"),
    [
        (forms(ALIGNED, 2, HEAD.affine, 1), ALIGNED),
        (forms(ALIGNED, 4, HEAD.affine, 1), ALIGNED),
        (forms(HEAD.affine, 1, None, 0), HEAD.affine),
        (quaternion(4e-7), np.diag([5.0, -5.0, -12.0, 1.0])),
    ],
    ids=["aligned", "template", "sform only", "quaternion"],
)
def test_header_whose_left_and_right_agree_needs_no_option(
    tmp_path, tiny_volume_run, spoil, affine
):
    path = file_of(tmp_path / "a.nii", MR)
    spoil(path)
    translate(tiny_volume_run, path, tmp_path / "out.nii", "ct")
    found = nib.load(tmp_path / "out.nii")
    np.testing.assert_allclose(found.affine, affine, atol=1e-3)
    np.testing.assert_allclose(found.header.get_sform(), affine, atol=1e-3)


def no_space(path: Path) -> None:
    changed(path, b"left-posterior-superior", b"scanner-xyz")


@pytest.mark.parametrize(
    ("name", "spoil", "option", "affine"),
    [
        ("h0.nii", forms(MIRRORED, 1, HEAD.affine, 1), "sform", MIRRORED),
        ("h0.nii", forms(MIRRORED, 1, HEAD.affine, 1), "qform", HEAD.affine),
        ("h0.nii", forms(None, 0, None, 0), "LAS", None),
        ("h0.nrrd", no_space, "RAS", None),
    ],
    ids=["sform", "qform", "no form", "no space"],
)
def test_geometry_is_asked_for_and_taken_by_every_command(
    tmp_path, tiny_volume_run, name, spoil, option, affine
):
    data = data_of(tmp_path / "data")
    for place, array in (("train/mr", MR), ("test/mr", TEST_MR)):
        (data / place / "h0.nii").unlink()
        spoil(file_of(data / place / name, array))
    if affine is None:  # the CT of the pair has the axes that the user vouches for
        sides = np.diag([-5.0 if option == "LAS" else 5.0, 5.0, 12.0, 1.0])
        (data / "test/ct/h0.nii").unlink()
        spoil(file_of(data / "test/ct" / name, TEST_CT, sides))
    else:
        file_of(data / "test/ct/h0.nii", TEST_CT, affine)
    given = ("--geometry", option)
    wanted = "--geometry RAS or LAS or LPS" if affine is None else "--geometry sform or qform"
    source = data / "test/mr" / name
    for command, *words in (
        ("translate", source, tmp_path / f"out_{name}", "--model", tiny_volume_run, "--to", "ct"),
        ("prepare", data, tmp_path / "store", *PREPARED),
        ("evaluate", tiny_volume_run, data / "test", "--out", tmp_path / "found"),
    ):
        assert wanted in called(command, *words, code=8)
        called(command, *words, *given)
    called("audit", data, "--out", tmp_path / "a.json", code=3)
    called("audit", data, "--out", tmp_path / "b.json", *given)
    store = json.loads((tmp_path / "store/store.json").read_text())
    assert store["reading"] == {"geometry": option}
    assert json.loads((tmp_path / "out_h0.json").read_text())["geometry"] == option
    if affine is not None:
        np.testing.assert_allclose(nib.load(tmp_path / f"out_{name}").affine, affine, atol=1e-3)


def test_scans_that_need_different_options_are_told_both(tmp_path, tiny_volume_run):
    forms(MIRRORED, 1, HEAD.affine, 1)(file_of(tmp_path / "in/a.nii", MR))
    forms(None, 0, None, 0)(file_of(tmp_path / "in/b.nii", MR))
    paths = series_of(tmp_path / "in/c", MR)
    paths[5].unlink()
    said = translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "ct", code=8)
    assert "3 of 3 scans cannot be translated" in said
    assert "--geometry" in said
    assert "--irregular" in said


# K11: masks, label maps and maps of probabilities beside scans


INSIDE = ndimage.binary_fill_holes(MR > 60)
LEVELS = np.digitize(ndimage.gaussian_filter(MR, 1), [40, 120, 200, 280, 360])
MAPS = {
    "mask.nii.gz": INSIDE.astype(np.uint8),
    "white.mha": (INSIDE * 255).astype(np.uint8),
    "aseg.mgz": np.array([0, 2, 41, 3, 42, 1017])[LEVELS].astype(np.int32),
    "labels.nrrd": LEVELS.clip(0, 3).astype(np.int16),
    "prob.nii": ndimage.gaussian_filter(INSIDE.astype(np.float32), 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_beside_scans_are_left_out_and_counted_by_every_command(
    tmp_path, tiny_volume_run, caplog, name
):
    data = data_of(tmp_path / "data")
    for place in ("train/mr", "test/mr", "test/ct"):
        file_of(data / place / f"h1_{name}", MAPS[name])
    counted = "left out 1 masks, label maps or maps of probabilities"
    called("prepare", data, tmp_path / "store", *PREPARED)
    assert counted in caplog.text
    caplog.clear()
    called("evaluate", tiny_volume_run, data / "test", "--out", tmp_path / "found")
    assert counted in caplog.text
    assert json.loads((tmp_path / "found/metrics.json").read_text())["n"] == 1
    called("audit", data, "--out", tmp_path / "audit.json")
    findings = json.loads((tmp_path / "audit.json").read_text())["findings"]
    named = [file for each in findings if each["kind"] == "no_scan" for file in each["files"]]
    assert f"train/mr/h1_{name}" in named
    caplog.clear()
    translate(tiny_volume_run, data / "test/mr", tmp_path / "out", "ct")
    assert f"h1_{name}" in caplog.text
    assert [path.name for path in (tmp_path / "out").glob("h*") if path.suffix != ".json"] == [
        "h0.nii"
    ]


def test_training_folder_of_masks_alone_is_refused(tmp_path):
    data = data_of(tmp_path / "data")
    for name, array in MAPS.items():
        file_of(data / "train/mr" / name, array)
    (data / "train/mr/h0.nii").unlink()
    said = called("train", data, "--out", tmp_path / "run", *TINY, code=3)
    assert "found only masks and label maps" in said


# K14: formats


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.mgz", "a.mgh", "a.nii.gz"])
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_every_format_gives_the_translation_of_the_nifti_file(
    tmp_path, tiny_volume_run, name, modality
):
    values = (CT if modality == "ct" else MR).astype(np.int16)
    to = "mr" if modality == "ct" else "ct"
    for path in (tmp_path / "plain.nii", tmp_path / name):
        file_of(path, values)
        translate(tiny_volume_run, path, tmp_path / f"out_{path.name}", to)
    made, right = tmp_path / f"out_{name}", seen(tmp_path / "out_plain.nii")
    if name.endswith(".nii.gz"):
        assert np.array_equal(seen(made), right)
        return
    array, affine = seen_by_others(made)
    assert array.std() > 0
    np.testing.assert_allclose(array, right, atol=1)
    np.testing.assert_allclose(affine, HEAD.affine, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "zlib"}])
def test_signed_tiff_in_hu_is_trained_on_and_translated(tmp_path, options):
    data, run = tmp_path / "data", tmp_path / "run"
    for n in range(4):
        grey = picture(n, "ct", 48, 48).astype(np.int16)
        (data / "trainA").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(data / f"trainA/c{n}.tif", grey * 12 - 1000, **options)
        save_grey(data / f"trainB/m{n}.png", picture(10 + n, "mr", 48, 48))
    called("train", data, "--out", run, *TINY)
    card = json.loads((run / "model/model.json").read_text())
    assert list(card["intensities"]["ct"]) == ["HU"]
    words = ("--anyway",)
    translate(run, data / "trainA/c0.tif", tmp_path / "mr.png", "mr", *words)
    assert np.asarray(Pillow.open(tmp_path / "mr.png")).shape == (48, 48)
    translate(run, data / "trainB/m0.png", tmp_path / "out/ct.tif", "ct", *words)
    info = json.loads((tmp_path / "out/ctmr.json").read_text())
    hu = tifffile.imread(tmp_path / "out/ct.tif") * info.get("slope", 1) + info.get("intercept", 0)
    assert info["unit"] == "HU"
    assert hu.shape == (48, 48)
    assert -1024 <= hu.min() < hu.max() <= 3071


# K15: what is said


@pytest.mark.parametrize(
    ("ct", "mr"), [("p{}_ct", "p{}_T1w"), ("CT_{}", "MR_{}"), ("{}-ct-reg", "{}-t1")]
)
def test_pairs_that_match_nothing_are_named_and_the_fix_works(tmp_path, tiny_volume_run, ct, mr):
    for n in range(4):
        file_of(tmp_path / f"in/ct/{ct.format(n)}.nii", CT + n)
        file_of(tmp_path / f"in/mr/{mr.format(n)}.nii", MR + n)
    words = ("evaluate", tiny_volume_run, tmp_path / "in", "--out", tmp_path / "found")
    said = called(*words, code=3)
    assert f"found 4 in ct/ ({ct.format(0)}, " in said
    assert f"{mr.format(2)}, ...), none in both" in said
    assert "give the CT and the MR of a patient one name" in said
    for n in range(4):
        for folder, pattern in (("ct", ct), ("mr", mr)):
            path = tmp_path / f"in/{folder}/{pattern.format(n)}.nii"
            path.rename(path.with_name(f"p{n}.nii"))
    called(*words)
    assert json.loads((tmp_path / "found/metrics.json").read_text())["n"] == 4


@pytest.mark.parametrize("name", ["b.nii", "b.mha", "b.nii.gz"])
def test_reason_comes_before_three_names_and_a_count(tmp_path, tiny_volume_run, name):
    for n in range(6):
        path = file_of(tmp_path / f"in/{n}{name}", MR)
        path.write_bytes(path.read_bytes()[:2000])
    said = translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "ct", code=3)
    reason, _, names = said.partition("(0b")
    assert "6 of 6 scans cannot be translated: expected" in reason
    assert "and 3 more)" in names
    assert "5b" not in said
    assert "the path" not in said
    for path in (tmp_path / "in").iterdir():
        file_of(path, MR)
    translate(tiny_volume_run, tmp_path / "in", tmp_path / "out", "ct")


# K16: trees


def split_by_hand(patients: list[str]) -> dict[str, str]:
    numbers = {patient: int(hashed(patient), 16) for patient in patients}
    test = {p for p, number in numbers.items() if number % 10 == 0} or {
        min(numbers, key=numbers.get)
    }
    return {patient: "test" if patient in test else "train" for patient in patients}


def patients_of(store: Path) -> set[tuple[str, str]]:
    opened = open_store(store)
    folders = [(split, modality) for split in SPLITS for modality in MODALITIES]
    return {(entry.patient, each[0]) for each in folders for entry in opened.entries(*each)}


@pytest.mark.parametrize(
    ("ct", "mr"),
    [
        ("sub-{0}/ct/sub-{0}_ct.nii.gz", "sub-{0}/anat/sub-{0}_T1w.nii.gz"),
        ("{0}/ct.nii.gz", "{0}/mr.nii.gz"),
        ("{0}/CT", "{0}/T1_MPRAGE"),
        ("site/{0}_ct.mha", "site/{0}_t1.nrrd"),
    ],
    ids=["BIDS", "patient folders", "archive", "challenge"],
)
def test_tree_is_prepared_and_evaluated_as_it_is(tmp_path, tiny_volume_run, caplog, ct, mr):
    patients, tree = ["01", "02", "03"], tmp_path / "tree"
    for n, patient in enumerate(patients, 1):
        for pattern, array, number in ((ct, CT, n), (mr, MR, 10 + n)):
            path = tree / pattern.format(patient)
            if path.suffix:
                file_of(path, array)
            else:
                series_of(path, array, number, patient)
    called("prepare", tree, tmp_path / "store", *PREPARED)
    found = patients_of(tmp_path / "store")
    dicom, flat = "." not in ct, ct.startswith("site")
    if flat:
        assert found == {("site", "train")}
        assert "one patient, so nothing to test on" in caplog.text
        given = ("--set", r"data.patient_pattern=(\d\d)_")
        called("prepare", tree, tmp_path / "again", *PREPARED, *given)
        found = patients_of(tmp_path / "again")
    names = [hashed(patient) for patient in patients] if dicom else patients
    assert found == set(split_by_hand(names).items())
    if flat:
        return
    called("evaluate", tiny_volume_run, tree, "--out", tmp_path / "found")
    metrics = json.loads((tmp_path / "found/metrics.json").read_text())
    # Files say no frame of reference, so that there is no truth.
    assert ("mae" in metrics["directions"]["mr-to-ct"]) == dicom
    assert ("so there is no truth" in caplog.text) != dicom
