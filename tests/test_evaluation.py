import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ctmr import evaluate, load_model
from ctmr.errors import DataError, OutputError
from ctmr.images import Image, write_image, write_image_info
from identity import GREY_8, HU, Identity, Inverse, translator

SIZE = 32
FIGURES = ["mae", "psnr", "ssim", "mae_air", "mae_soft", "mae_bone"]


def save(path: Path, array: np.ndarray, unit: str = "grey") -> None:
    write_image(path, Image(array.astype(np.float32), unit, 16 if unit == "HU" else 8))


def flat(value: float) -> np.ndarray:
    return np.full((SIZE, SIZE), float(value))


def pairs(folder: Path, **values: tuple[float, float]) -> Path:
    """Pairs of images of one value, from `name=(ct, mr)`, with masks that take the whole image."""
    for name, (ct, mr) in values.items():
        save(folder / "ct" / f"{name}.png", flat(ct))
        save(folder / "mr" / f"{name}.png", flat(mr))
        save(folder / "mask" / f"{name}.png", flat(1))
    return folder


def mae(found, direction: str) -> dict:
    return found.summary["directions"][direction]["mae"]


# Figures worked by hand


def test_error_of_the_identity_is_the_difference_of_the_pair(tmp_path):
    found = evaluate(translator(), pairs(tmp_path, a=(100, 130), b=(100, 90)))
    for direction in ("ct-to-mr", "mr-to-ct"):
        figures = found.summary["directions"][direction]
        assert figures["mae"]["mean"] == pytest.approx(20)  # 30 and 10
        assert figures["mae"]["sd"] == pytest.approx(np.sqrt(200))
        assert figures["mae"]["ci95"] == pytest.approx([10, 30])
        psnr = [20 * np.log10(255 / 30), 20 * np.log10(255 / 10)]
        assert figures["psnr"]["mean"] == pytest.approx(np.mean(psnr))
        assert set(figures) == {"unit", "mae", "psnr", "ssim", "naive", "difference"}
    assert [row.figures["mae"] for row in found.rows] == pytest.approx([30, 30, 10, 10])


def test_other_generator_gives_another_error(tmp_path):
    found = evaluate(translator(generator=Inverse), pairs(tmp_path, a=(100, 130)))
    assert mae(found, "ct-to-mr")["mean"] == pytest.approx(255 - 100 - 130)


def test_equal_images_are_perfect(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (64, 64))
    for kind in ("ct", "mr"):
        save(tmp_path / kind / "a.png", array)
    figures = evaluate(translator(), tmp_path).summary["directions"]["ct-to-mr"]
    assert figures["mae"]["mean"] < 1e-3
    assert figures["psnr"]["mean"] == 100  # the cap
    assert figures["ssim"]["mean"] == pytest.approx(1)


def test_error_counts_in_the_mask_only(tmp_path):
    folder = pairs(tmp_path, a=(100, 100))
    mr = flat(100)
    mr[:, 16:] = 160
    mask = flat(0)
    mask[:, 12:20] = 1
    save(folder / "mr" / "a.png", mr)
    save(folder / "mask" / "a.png", mask)
    # half the mask is off by 60; resampling moves the edge's pixels a little
    found = evaluate(translator(), folder, direction="ct-to-mr")
    assert mae(found, "ct-to-mr")["mean"] == pytest.approx(30)


def test_patients_count_alike_however_many_images_they_have(tmp_path):
    folder = pairs(tmp_path, p1_a=(100, 110), p1_b=(100, 120), p1_c=(100, 130), p2_a=(100, 160))
    whole = evaluate(translator(), folder)
    assert mae(whole, "ct-to-mr")["mean"] == pytest.approx((10 + 20 + 30 + 60) / 4)
    assert (whole.summary["n"], whole.summary["patients"]) == (4, 4)
    found = evaluate(translator(patients=r"(p\d)"), folder)
    assert (found.summary["n"], found.summary["patients"]) == (4, 2)
    assert mae(found, "ct-to-mr")["mean"] == pytest.approx((20 + 60) / 2)
    assert mae(found, "ct-to-mr")["sd"] == pytest.approx(np.std([20, 60], ddof=1))
    assert {row.patient for row in found.rows} == {"p1", "p2"}


def hu_pairs(folder: Path) -> Path:
    """One pair whose CT has a quarter each of air, soft tissue and bone, and another quarter of soft tissue."""
    ct = flat(0)
    ct[:16, :16], ct[16:, 16:] = -1000, 1000
    save(folder / "ct" / "a.png", ct, "HU")
    write_image_info(folder / "ct", "HU")
    save(folder / "mr" / "a.png", flat(127.5))
    save(folder / "mask" / "a.png", flat(1))
    return folder


def test_tissues_are_told_apart_by_the_truths_hu(tmp_path):
    found = evaluate(translator(ct={"HU": HU}), hu_pairs(tmp_path))
    answer = HU.from_unit(GREY_8.to_unit(np.array([128.0], np.float32)))[
        0
    ]  # 127.5 is stored as 128
    figures = found.summary["directions"]["mr-to-ct"]
    expected = {"air": answer + 1000, "soft": answer, "bone": answer - 1000}
    for name, error in expected.items():
        assert figures[f"mae_{name}"]["mean"] == pytest.approx(abs(error), abs=0.01)
    assert figures["unit"] == "HU"
    assert list(figures)[1:7] == FIGURES
    assert "mae_bone" not in found.summary["directions"]["ct-to-mr"]
    assert found.summary["unit"] == "grey | HU"


def test_psnr_of_hu_is_clipped_and_mae_is_not(tmp_path):
    folder = pairs(tmp_path, a=(0, 255))  # 3071 HU
    save(folder / "ct" / "a.png", flat(-1024), "HU")
    write_image_info(folder / "ct", "HU")
    figures = evaluate(translator(ct={"HU": HU}), folder).summary["directions"]["mr-to-ct"]
    assert figures["mae"]["mean"] == pytest.approx(4095)
    assert figures["psnr"]["mean"] == pytest.approx(0)  # 3000 - -1024 is the whole range


@pytest.mark.parametrize("direction", ["ct-to-mr", "mr-to-ct"])
def test_one_direction_may_be_asked_for(tmp_path, direction):
    found = evaluate(translator(), pairs(tmp_path, a=(1, 2)), direction=direction)
    assert list(found.summary["directions"]) == [direction]
    assert {row.direction for row in found.rows} == {direction}


# Naive answers


def test_naive_answers_stand_in_the_same_table(tmp_path):
    fit = pairs(tmp_path / "fit", x=(100, 50), y=(140, 60))
    found = evaluate(translator(), pairs(tmp_path / "test", a=(110, 50), b=(150, 60)), fit=fit)
    figures = found.summary["directions"]["mr-to-ct"]
    # the mean CT is 120, the map says 50 -> 100 and 60 -> 140, the identity 50 and 60
    assert figures["naive"]["mean image"]["mae"]["mean"] == pytest.approx(20, abs=1e-3)
    assert figures["naive"]["monotone map"]["mae"]["mean"] == pytest.approx(10, abs=1e-3)
    assert figures["mae"]["mean"] == pytest.approx(75)
    assert figures["difference"]["mean image"]["mean"] == pytest.approx(-55, abs=1e-3)
    assert figures["difference"]["monotone map"]["ci95"] == pytest.approx([-80, -50], abs=1e-3)
    methods = ["model", "mean image", "monotone map"]
    assert [row.method for row in found.rows if row.direction == "mr-to-ct"] == 2 * methods


def test_difference_is_above_zero_where_the_model_is_better(tmp_path):
    class Exact(Identity):
        """Gives 110 for everything."""

        def forward(self, x):
            return x * 0 + 2 * 110 / 255 - 1

    fit = pairs(tmp_path / "fit", x=(100, 50), y=(140, 60))
    test = pairs(tmp_path / "test", a=(110, 50), b=(110, 60))
    found = evaluate(translator(generator=Exact), test, fit=fit, direction="mr-to-ct")
    difference = found.summary["directions"]["mr-to-ct"]["difference"]
    assert difference["mean image"]["mean"] == pytest.approx(10, abs=1e-3)
    assert difference["monotone map"]["mean"] == pytest.approx((10 + 30) / 2, abs=1e-3)
    assert set(difference["mean image"]) == {"mean", "sd", "ci95"}


def test_difference_is_taken_patient_by_patient(tmp_path):
    fit = pairs(tmp_path / "fit", x=(100, 50))
    test = pairs(tmp_path / "test", p1_a=(100, 100), p1_b=(100, 140), p2_a=(100, 200))
    found = evaluate(translator(patients=r"(p\d)"), test, fit=fit, direction="ct-to-mr")
    # truth 100, 140, 200; the model says 100, the mean image 50
    difference = found.summary["directions"]["ct-to-mr"]["difference"]["mean image"]
    assert difference["mean"] == pytest.approx(((50 + 50) / 2 + 50) / 2, abs=1e-3)
    assert difference["sd"] == pytest.approx(0, abs=1e-3)


def test_fit_on_another_kind_of_images_is_refused(tmp_path):
    fit = pairs(tmp_path / "fit", x=(100, 50))
    with pytest.raises(DataError, match="expected pairs of one kind"):
        evaluate(translator(ct={"HU": HU}), hu_pairs(tmp_path / "test"), fit=fit)


# Files


def strictly(path: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_files_of_an_evaluation(tmp_path, tiny_run, tiny_pairs):
    seen = []
    found = evaluate(
        str(tiny_run),
        tiny_pairs,
        out=tmp_path / "new" / "out",
        fit=tiny_pairs,
        progress=lambda done, total: seen.append((done, total)),
    )
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "metrics.csv",
        "comparison.png",
    }
    said = strictly(out / "metrics.json")
    assert said == json.loads(json.dumps(found.summary))
    assert {"n", "unit", "protocol", "directions"} <= said.keys()
    assert (said["n"], said["unit"]) == (4, "grey")
    assert "head mask" in said["protocol"]
    for figures in said["directions"].values():
        for name in ("mae", "psnr", "ssim"):
            assert set(figures[name]) == {"mean", "sd", "ci95"}
            assert figures[name]["ci95"][0] <= figures[name]["mean"] <= figures[name]["ci95"][1]
        assert set(figures["naive"]) == set(figures["difference"]) == {"mean image", "monotone map"}
    with Pillow.open(out / "comparison.png") as image:
        assert image.format == "PNG"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_table_has_a_row_for_each_image_direction_and_method(tmp_path, tiny_run, tiny_pairs):
    found = evaluate(tiny_run, tiny_pairs, out=tmp_path, fit=tiny_pairs)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["name", "patient", "direction", "method", *FIGURES]
    assert len(rows) == len(found.rows) == 4 * 2 * 3
    keys = {(row["name"], row["direction"], row["method"]) for row in rows}
    assert len(keys) == len(rows)
    first = found.rows[0]
    assert rows[0]["name"] == first.name == "head00_slice00"
    assert float(rows[0]["mae"]) == pytest.approx(first.figures["mae"], rel=1e-5)
    assert rows[0]["mae_bone"] == ""  # grey values have no bone


def test_nothing_is_written_unless_asked_for(tmp_path, tiny_run, monkeypatch):
    folder = pairs(tmp_path / "pairs", a=(1, 2))
    monkeypatch.chdir(tmp_path)
    evaluate(tiny_run, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


def test_same_evaluation_twice_gives_the_same_bytes(tmp_path, tiny_run, tiny_pairs):
    for place in ("first", "second"):
        evaluate(tiny_run, tiny_pairs, out=tmp_path / place)
    for name in ("metrics.json", "metrics.csv", "comparison.png"):
        first, second = ((tmp_path / place / name).read_bytes() for place in ("first", "second"))
        assert first == second


def test_model_may_be_a_path_or_a_translator(tiny_run, tiny_pairs):
    ways = (tiny_run, str(tiny_run / "model"), load_model(tiny_run))
    first, second, third = (evaluate(way, tiny_pairs).summary for way in ways)
    assert first == second == third


# What cannot be evaluated


def test_pair_of_two_sizes_is_refused(tmp_path):
    folder = pairs(tmp_path, a=(1, 2))
    save(folder / "mr" / "a.png", np.zeros((40, 32)))
    with pytest.raises(DataError, match=r"expected two scans of one size"):
        evaluate(translator(), folder)


def test_folder_without_common_names_is_refused(tmp_path):
    folder = pairs(tmp_path, a=(1, 2))
    (folder / "mr" / "a.png").rename(folder / "mr" / "b.png")
    with pytest.raises(DataError, match="none in both"):
        evaluate(translator(), folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [(translator(ct={"HU": HU}), "ct"), (translator(mr={"16-bit": GREY_8}), "mr")],
)
def test_image_that_the_model_cannot_take_is_named(tmp_path, model, name):
    folder = pairs(tmp_path, a=(1, 2))
    with pytest.raises(DataError, match="whose range the model does not know") as caught:
        evaluate(model, folder, direction="ct-to-mr" if name == "ct" else "mr-to-ct")
    assert caught.value.file == str(folder / name / "a.png")


def test_truth_in_other_values_than_the_translation_is_refused(tmp_path):
    folder = pairs(tmp_path, a=(1, 2))
    with pytest.raises(DataError, match=r"expected HU values.*found 8-bit") as caught:
        evaluate(translator(ct={"HU": HU}), folder, direction="mr-to-ct")
    assert caught.value.file == str(folder / "ct" / "a.png")
    assert "ctmr.json" in caught.value.fix


def test_place_that_cannot_be_written_is_named(tmp_path):
    folder = pairs(tmp_path / "pairs", a=(1, 2))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write it"):
        evaluate(translator(), folder, out=tmp_path / "file" / "out")
