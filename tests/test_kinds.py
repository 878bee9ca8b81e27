"""Further members of kinds of scan that once were refused or read wrongly, each through the whole program."""

import logging
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from scipy import ndimage

from ctmr.config import Config, overlaid
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.synthetic.head import synthesise_head
from support.heads import head as picture
from support.heads import save_grey, write_data
from support.stand_ins import program
from support.whole_program import CT, HEAD, MR, TINY, called, file_of, pixels_of, seen

OUTSIDE = ~ndimage.binary_dilation(HEAD.mask, iterations=2)
BRAIN = ndimage.binary_erosion(ndimage.binary_fill_holes(HEAD.mask), iterations=3) & (CT < 100)


def translated(path: Path, run: Path, to: str, *options: str) -> np.ndarray:
    """The translation of a volume, as SimpleITK reads it."""
    out = path.with_name(f"{to}_{path.name}")
    words = ("--model", run, "--to", to, "--quality", "none")
    called("translate", path, out, *words, *options)
    return seen(out)


# K4: a CT whose values are not HU


def scaled(low: float, high: float, bottom: float, top: float) -> np.ndarray:
    """A window in HU as other values."""
    return bottom + (np.clip(CT, low, high) - low) * ((top - bottom) / (high - low))


@pytest.mark.parametrize(
    ("name", "values", "option", "meant"),
    [
        ("offset.nii", CT + 1024, "hu+1024", CT),
        ("offset.mha", (CT + 1024).clip(0).astype(np.uint16), "hu+1024", CT),
        ("offset.nrrd", (CT + 1024).astype(np.int16), "hu+1024", CT),
        ("brain.nii.gz", np.where(BRAIN, CT, 0), "hu", np.where(BRAIN, CT, -1024)),
        ("brain.nrrd", np.where(BRAIN, CT, -100), "hu", np.where(BRAIN, CT, -1024)),
        ("unit.nii", scaled(-1000, 1000, 0, 1), "-1000:1000", CT.clip(-1000, 1000)),
        ("signed.mha", scaled(-1000, 2000, -1, 1), "-1000:2000", CT.clip(-1000, 2000)),
        ("bytes.nii", scaled(-100, 300, 0, 255).astype(np.uint8), "-100:300", CT.clip(-100, 300)),
    ],
)
def test_ct_that_is_not_in_hu_is_translated_as_that_in_hu_with_its_option(
    tmp_path, tiny_volume_run, name, values, option, meant
):
    path = file_of(tmp_path / name, values)
    words = ("translate", path, tmp_path / "no.nii", "--model", tiny_volume_run, "--to", "mr")
    said = called(*words, code=8)
    assert f"--ct-values {'LOW:HIGH' if ':' in option else option}" in said
    assert not (tmp_path / "no.nii").exists()
    made = translated(path, tiny_volume_run, "mr", "--ct-values", option)
    right = translated(
        file_of(tmp_path / "right.nii", meant), tiny_volume_run, "mr", "--ct-values", "hu"
    )
    assert right.std() > 0
    assert np.abs(made - right).mean() < 0.01 * np.ptp(right)


@pytest.mark.parametrize(
    "values",
    [CT, CT + 1024, scaled(0, 80, 0, 255), scaled(-1000, 1000, -1, 1), scaled(-100, 300, 0, 1)],
    ids=["hu", "offset", "brain window", "normalised", "unit"],
)
def test_ct_among_mr_volumes_is_found_by_its_looks(tmp_path, values):
    for n in range(2):
        file_of(tmp_path / f"data/trainA/c{n}.nii", CT + n)
        file_of(tmp_path / f"data/trainB/m{n}.nii", MR + n)
    file_of(tmp_path / "data/trainB/odd.nii", values.astype(np.float32))
    said = called("train", tmp_path / "data", "--out", tmp_path / "run", *TINY, code=8)
    assert "odd" in said
    assert not (tmp_path / "run").exists()
    said = called("audit", tmp_path / "data", "--out", tmp_path / "audit.json", code=3)
    assert "wrong_modality" in said


# K9: NaN or infinity around the head


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nan.nii.gz", np.nan),
        ("nan.mha", np.nan),
        ("infinite.nrrd", np.inf),
        ("negative.nii", -np.inf),
        ("nan.mgz", np.nan),
    ],
)
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_missing_values_around_the_head_are_air(
    tmp_path, tiny_volume_run, caplog, name, value, modality
):
    values, to = (CT, "mr") if modality == "ct" else (MR, "ct")
    holed = np.where(OUTSIDE, np.float32(value), values)
    path = file_of(tmp_path / name, holed)
    words = ("--model", tiny_volume_run, "--to", to, "--quality", "none")
    called("translate", path, tmp_path / "out.nii", *words)
    assert f"{100 * OUTSIDE.mean():.3g} % of the voxels are NaN or infinite" in caplog.text
    plain = file_of(tmp_path / "plain.nii", np.where(OUTSIDE, values[~OUTSIDE].min(), values))
    assert np.array_equal(seen(tmp_path / "out.nii"), translated(plain, tiny_volume_run, to))


def test_missing_values_within_the_head_are_refused(tmp_path, tiny_volume_run):
    middle = tuple(int(n) for n in np.argwhere(BRAIN).mean(axis=0))
    for name, value in (("a.nii", np.nan), ("b.mha", np.inf), ("c.nrrd", -np.inf)):
        holed = MR.copy()
        holed[middle] = value
        path = file_of(tmp_path / name, holed)
        words = ("--model", tiny_volume_run, "--to", "ct")
        assert name in called("translate", path, tmp_path / "out.nii", *words, code=3)


def test_volumes_with_missing_background_are_trained_on(tmp_path):
    for n in range(2):
        file_of(tmp_path / f"data/trainA/c{n}.nii", np.where(OUTSIDE, np.float32(np.nan), CT + n))
        file_of(tmp_path / f"data/trainB/m{n}.mha", np.where(OUTSIDE, np.float32(np.inf), MR + n))
    called("train", tmp_path / "data", "--out", tmp_path / "run", *TINY)
    assert (tmp_path / "run/model/model.json").is_file()


# K10: where the head is


FINE = synthesise_head(51, shape=(68, 80, 44), spacing_mm=(3.0, 3.0, 4.0))
FINE_MR = (FINE.mr * (900 / FINE.mr.max())).astype(np.float32)
FILLED = ndimage.binary_fill_holes(FINE_MR > 60)


def z_scored(mask: np.ndarray | None = None) -> np.ndarray:
    """MR with mean 0 and deviation 1, of the whole or within a mask, outside of which it is 0."""
    inside = FINE_MR[mask] if mask is not None else FINE_MR
    scores = (FINE_MR - inside.mean()) / inside.std()
    return scores if mask is None else np.where(mask, scores, 0).astype(np.float32)


@pytest.mark.parametrize(
    "values",
    [
        z_scored(),
        z_scored(FILLED),
        np.where(FILLED, FINE_MR, 300).astype(np.float32),
        FINE_MR - 500,
        (FINE_MR / 900).astype(np.float32),
    ],
    ids=["z-scored", "z-scored in the head", "grey background", "negative", "unit"],
)
def test_mr_of_another_scale_or_background_gives_the_ct_of_the_plain_one(
    tmp_path, tiny_volume_run, values
):
    odd = file_of(tmp_path / "odd.nii", values, FINE.affine)
    made = translated(odd, tiny_volume_run, "ct")
    plain = file_of(tmp_path / "plain.nii", FINE_MR, FINE.affine)
    right = translated(plain, tiny_volume_run, "ct")
    spread = float(right[FINE.mask].std())
    assert spread > 5
    # Where the background is lost, the darkest tissue takes the place of air: the greys move by 5 % of their range.
    limit = 0.35 if (values == values[0, 0, 0]).mean() > 0.2 else 0.001
    assert np.abs(made - right)[FINE.mask].mean() < limit * spread
    assert np.corrcoef(made[FINE.mask], right[FINE.mask])[0, 1] > 0.9


@pytest.mark.parametrize(
    "values",
    [np.zeros_like(MR), np.full_like(MR, 700), np.where(np.indices(MR.shape).sum(0) < 3, 900, 0)],
    ids=["empty", "constant", "corner"],
)
def test_volume_without_a_head_is_told_by_every_command(tmp_path, tiny_volume_run, values):
    data = tmp_path / "data"
    for n in range(2):
        file_of(data / f"trainA/c{n}.nii", CT + n)
        file_of(data / f"trainB/m{n}.nii", MR + n)
    path = file_of(data / "trainB/odd.nii", values.astype(np.float32))
    assert "odd" in called("prepare", data, tmp_path / "store", *TINY[:6], code=3)
    assert "odd" in called("train", data, "--out", tmp_path / "run", *TINY, code=3)
    called("audit", data, "--out", tmp_path / "audit.json", code=3)
    assert "trainB/odd.nii" in (tmp_path / "audit.json").read_text()
    called("translate", path, tmp_path / "o.nii", "--model", tiny_volume_run, "--to", "ct", code=3)


# K17: an MR picture of another depth than the model was trained on


@pytest.fixture(scope="module")
def deep_run(tmp_path_factory, tiny_config: Config) -> Path:
    """A run trained on 16-bit pictures of 12 bits' values."""
    from ctmr.training.train import train

    folder = tmp_path_factory.mktemp("deep")
    data = write_data(folder / "data")
    for path in data.rglob("*.png"):
        deep = np.asarray(Pillow.open(path)).astype(np.uint16) * 16
        Pillow.fromarray(deep).save(path)
    train(overlaid(tiny_config, ["train.steps=2"]), data, folder / "run")
    return folder / "run"


GREY = picture(77, "mr", 48, 48)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("full.png", GREY.astype(np.uint16) * 257),
        ("twelve.png", GREY.astype(np.uint16) * 16),
        ("offset.png", GREY.astype(np.uint16) + 20_000),
        ("full.tif", GREY.astype(np.uint16) * 257),
    ],
)
def test_deep_mr_picture_gives_the_ct_of_the_8_bit_one(tmp_path, tiny_run, caplog, name, pixels):
    words = ("--model", tiny_run, "--to", "ct", "--quality", "none", "--anyway")
    called("translate", save_grey(tmp_path / name, pixels), tmp_path / f"out_{name}", *words)
    assert "mapped by its own percentiles" in caplog.text
    called("translate", save_grey(tmp_path / "a.png", GREY), tmp_path / "out_a.png", *words)
    made, plain = (np.asarray(Pillow.open(tmp_path / f"out_{n}"), float) for n in (name, "a.png"))
    assert made.shape == plain.shape == GREY.shape
    assert np.abs(made - plain).mean() < 0.15 * plain.std()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_8_bit_mr_picture_is_taken_by_a_model_of_16_bits(tmp_path, deep_run, caplog, name):
    words = ("--model", deep_run, "--to", "ct", "--quality", "none", "--anyway")
    called("translate", save_grey(tmp_path / name, GREY), tmp_path / "out.png", *words)
    assert caplog.text.count("mapped by its own percentiles") == 1
    deep = save_grey(tmp_path / "deep.png", GREY.astype(np.uint16) * 16)
    called("translate", deep, tmp_path / "out_deep.png", *words)
    made, plain = (Pillow.open(tmp_path / name) for name in ("out.png", "out_deep.png"))
    assert made.mode == plain.mode == "I;16"
    away = np.abs(np.asarray(made, float) - np.asarray(plain, float)).mean()
    assert away < 0.15 * np.asarray(plain, float).std()


def test_ct_picture_of_another_depth_stays_refused(tmp_path, tiny_run, deep_run):
    ct = picture(78, "ct", 48, 48)
    for run, pixels in ((tiny_run, ct.astype(np.uint16) * 257), (deep_run, ct)):
        path = save_grey(tmp_path / "ct.png", pixels)
        words = ("translate", path, tmp_path / "out.png", "--model", run, "--to", "mr")
        said = called(*words, code=3)
        assert "whose range the model does not know" in said


# K7: two echoes under one SeriesInstanceUID


def test_echoes_of_one_series_are_translated_one_by_one(tmp_path, tiny_volume_run, caplog):
    for n, (echo, share) in enumerate(((80, 0.5), (3, 1.0))):
        volume = Volume(np.rint(MR * np.float32(share)), HEAD.affine, "mr")
        for path in phantom_series(tmp_path / f"{n}", volume, name="A", study="S"):
            header = pydicom.dcmread(path)
            header.EchoTime, header.RepetitionTime, header.ScanningSequence = echo, 2500, "SE"
            header.SOPInstanceUID = f"{header.SOPInstanceUID}.{n}"[-64:]
            (tmp_path / "in").mkdir(exist_ok=True)
            header.save_as(tmp_path / "in" / f"{n}_{path.name}")
    words = ("--model", tiny_volume_run, "--to", "ct", "--quality", "none")
    caplog.set_level(logging.INFO, "ctmr.found")
    called("translate", tmp_path / "in", tmp_path / "one", *words)
    assert "scan, EchoTime 3" in caplog.text
    assert "scan, EchoTime 80" in caplog.text
    called("translate", tmp_path / "in", tmp_path / "all", *words, "--series", "all")
    called("translate", tmp_path / "in", tmp_path / "second", *words, "--series", "2_2")
    first, second = (pixels_of(tmp_path / "all" / name) for name in ("s2_1", "s2_2"))
    assert not np.array_equal(first, second)
    assert np.array_equal(pixels_of(tmp_path / "second"), second)
    assert np.array_equal(pixels_of(tmp_path / "one"), first)
    uids = {pydicom.dcmread(path).SeriesInstanceUID for path in (tmp_path / "all").rglob("*.dcm")}
    assert len(uids) == 2


# K15: what is said


def test_warning_about_one_scan_is_printed_once(tmp_path, tiny_volume_run):
    path = file_of(tmp_path / "moved.nii", MR)
    image = nib.load(path)
    moved = HEAD.affine.copy()
    moved[0, 3] += 2
    image.set_sform(moved, 2)
    image.set_qform(HEAD.affine, 1)
    nib.save(image, tmp_path / "aligned.nii")
    words = ("translate", tmp_path / "aligned.nii", tmp_path / "out.nii", "--to", "ct")
    options = ("--model", tiny_volume_run, "--quality", "none")
    command = [sys.executable, "-c", program(), *map(str, (*words, *options))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("the sform is used") == 1
