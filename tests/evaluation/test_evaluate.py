import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ctmr import evaluate, load_model
from ctmr.errors import DataError, OutputError, SafetyError, UsageError
from ctmr.evaluation.baselines import BASELINES
from ctmr.imaging.image import Image
from ctmr.io.image_info import write_image_info
from ctmr.io.images import write_image
from support.heads import write_data
from support.identity import GREY_8, HU, Identity, Inverse, smooth_head, translator

SIZE = 32
FIGURES = ["mae", "psnr", "ssim", "ms_ssim", "mae_air", "mae_soft", "mae_bone"]


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
    own = [row.figures["mae"] for row in found.rows if row.method == "model"]
    assert own == pytest.approx([30, 30, 10, 10])


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
    assert "dice_bone" in figures
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


# Baselines


def test_baselines_of_the_other_patients_stand_in_the_same_table(tmp_path):
    found = evaluate(translator(), pairs(tmp_path, a=(100, 50), b=(140, 60)))
    figures = found.summary["directions"]["mr-to-ct"]
    # each other patient's CT is 40 away; the identity says 50 and 60
    assert list(figures["baselines"]) == ["copy", "mean image", "monotone map"]
    for method in ("mean image", "monotone map"):
        assert figures["baselines"][method]["mae"]["mean"] == pytest.approx(40, abs=1e-3)
        assert figures["difference"][method]["mean"] == pytest.approx(40 - 65, abs=1e-3)
    assert figures["baselines"]["copy"]["mae"]["mean"] == pytest.approx(figures["mae"]["mean"])
    methods = ["model", "copy", "mean image", "monotone map"]
    assert [row.method for row in found.rows if row.direction == "mr-to-ct"] == 2 * methods


def test_difference_is_above_zero_where_the_model_is_better(tmp_path):
    class Exact(Identity):
        """Gives 110 for everything."""

        def forward(self, x):
            return x * 0 + 2 * 110 / 255 - 1

    test = pairs(tmp_path, a=(110, 50), b=(112, 60))
    found = evaluate(translator(generator=Exact), test, direction="mr-to-ct")
    difference = found.summary["directions"]["mr-to-ct"]["difference"]
    assert difference["mean image"]["mean"] == pytest.approx(2 - (0 + 2) / 2, abs=1e-3)
    assert difference["copy"]["mean"] == pytest.approx((60 + 52) / 2 - (0 + 2) / 2, abs=1e-3)
    assert set(difference["mean image"]) == {"mean", "sd", "ci95"}


def test_difference_is_taken_patient_by_patient(tmp_path):
    test = pairs(tmp_path, p1_a=(100, 100), p1_b=(100, 140), p2_a=(100, 200))
    found = evaluate(translator(patients=r"(p\d)"), test, direction="ct-to-mr")
    # truth 100, 140, 200; the model says 100; the mean of the other patient is 200, 200 and 120
    difference = found.summary["directions"]["ct-to-mr"]["difference"]["mean image"]
    assert difference["mean"] == pytest.approx(((100 + 60) / 2 - 20 + 80 - 100) / 2, abs=1e-3)
    assert difference["ci95"] == pytest.approx([-20, 60], abs=1e-3)


def test_a_patient_alone_has_a_copy_only(tmp_path):
    found = evaluate(translator(), pairs(tmp_path, a=(100, 50)), direction="ct-to-mr")
    assert list(found.summary["directions"]["ct-to-mr"]["baselines"]) == ["copy"]


# Translations by other means


def answered(folder: Path, **values: float) -> Path:
    for name, value in values.items():
        save(folder / "ct" / f"{name}.png", flat(value))
    return folder


def test_answers_by_other_means_stand_in_the_same_table(tmp_path):
    test = pairs(tmp_path / "pairs", a=(100, 50), b=(140, 60))
    other = answered(tmp_path / "other", a=107, b=137)
    found = evaluate(translator(), test, direction="mr-to-ct", answers={"other": other})
    figures = found.summary["directions"]["mr-to-ct"]
    assert figures["others"]["other"]["mae"]["mean"] == pytest.approx(5)
    assert figures["difference"]["other"]["mean"] == pytest.approx(5 - 65)
    assert "other" not in figures["baselines"]


def test_missing_answer_is_named(tmp_path):
    test = pairs(tmp_path / "pairs", a=(100, 50), b=(140, 60))
    other = answered(tmp_path / "other", a=107)
    with pytest.raises(DataError, match="found 1 scans, and none for b") as caught:
        evaluate(translator(), test, direction="mr-to-ct", answers={"other": other})
    assert caught.value.file == str(tmp_path / "other" / "ct")


def test_answer_in_another_unit_is_refused(tmp_path):
    other = answered(tmp_path / "other", a=107)
    with pytest.raises(DataError, match=r"expected HU values .* found 8-bit") as caught:
        evaluate(
            translator(ct={"HU": HU}),
            hu_pairs(tmp_path / "pairs"),
            direction="mr-to-ct",
            answers={"other": other},
        )
    assert caught.value.file == str(tmp_path / "other" / "ct" / "a.png")


@pytest.mark.parametrize("name", ["model", "copy"])
def test_answer_cannot_take_the_name_of_another_row(tmp_path, name):
    test = pairs(tmp_path / "pairs", a=(100, 50))
    with pytest.raises(UsageError, match=f"'{name}' is a row of the table already"):
        evaluate(translator(), test, answers={name: tmp_path / "pairs"})


def test_answers_without_a_truth_are_refused(tmp_path):
    with pytest.raises(UsageError, match="found a data folder, which has none"):
        evaluate(translator(), heads(tmp_path / "data"), answers={"other": tmp_path})


# Without the truth


def heads(folder: Path, count: int = 4) -> Path:
    """A data folder of images like heads: `count` of each modality to test, two to train."""
    rng = np.random.default_rng(5)
    for name, number in (("trainA", 2), ("trainB", 2), ("testA", count), ("testB", count)):
        for n in range(number):
            image = smooth_head(64, 64) + rng.normal(0, 4, (64, 64))
            save(folder / name / f"{name}_{n}.png", np.clip(image, 0, 255))
    return folder


def test_scans_that_do_not_pair_are_measured_without_the_truth(tmp_path):
    found = evaluate(translator(), heads(tmp_path / "data"), out=tmp_path / "out")
    assert (found.summary["n"], found.summary["patients"], found.summary["unit"]) == (8, 8, "")
    for direction in ("ct-to-mr", "mr-to-ct"):
        each = found.summary["directions"][direction]
        assert "mae" not in each
        no_reference = each["no_reference"]
        assert no_reference["cycle_error"]["mean"] == pytest.approx(
            0, abs=1e-6
        )  # the identity comes back
        assert no_reference["copy_correlation"]["mean"] == pytest.approx(1, abs=1e-3)
        assert each["distances"].keys() == {"frechet", "frechet_real", "kernel", "kernel_real"}
        assert each["uncertainty"] == {
            m: None for m in ("cycle_error", "disagreement", "input_distance")
        }
        assert found.summary["figures"][direction].keys() >= no_reference.keys()
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"metrics.json", "metrics.csv", ".ctmr-outputs.json"}


def test_training_scans_are_taken_where_there_are_none_to_test_on(tmp_path, caplog):
    folder = heads(tmp_path, count=0)
    found = evaluate(translator(), folder)
    assert {row.name.partition("/")[0] for row in found.rows} == {"trainA", "trainB"}
    assert "the training scans are evaluated" in caplog.text


def test_result_with_left_and_right_exchanged_ends_with_a_safety_error(tmp_path):
    class Mirror(Identity):
        """Exchanges left and right."""

        def forward(self, x):
            return x.flip(-1)

    rng = np.random.default_rng(1)
    image = smooth_head(64, 64)
    image[20:40, 36:48] = 250  # at one side only
    for kind in ("ct", "mr"):
        save(
            tmp_path / "pairs" / kind / "a.png",
            np.clip(image + rng.normal(0, 2, image.shape), 0, 255),
        )
    with pytest.raises(SafetyError, match="1 of 1 of ct-to-mr that look mirrored"):
        evaluate(translator(generator=Mirror), tmp_path / "pairs", out=tmp_path / "out")
    assert (tmp_path / "out" / "metrics.json").exists()


def test_uncertainty_ranks_the_error_where_it_can_be_ranked(tmp_path):
    class Loses(Identity):
        """Halves what is bright, so that a brighter source comes back worse."""

        def forward(self, x):
            return x * 0.5

    test = pairs(tmp_path, a=(100, 100), b=(160, 160), c=(200, 200), d=(240, 240))
    found = evaluate(translator(generator=Loses), test, direction="ct-to-mr")
    ranks = found.summary["directions"]["ct-to-mr"]["uncertainty"]
    # |x| decides both the error and the cycle error; 100 and 160 lie 27.5 and 32.5 from the middle
    assert ranks["cycle_error"]["spearman"] == pytest.approx(1)
    assert ranks["cycle_error"]["n"] == 4


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
        progress=lambda label: lambda done, total: seen.append((label, done, total)),
    )
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "metrics.csv",
        "comparison.png",
        ".ctmr-outputs.json",
    }
    content = strictly(out / "metrics.json")
    assert content == json.loads(json.dumps(found.summary))
    assert {"n", "unit", "protocol", "directions"} <= content.keys()
    assert content["model"].keys() == {"sha256", "engine", "precision"}
    assert content["model"]["sha256"] == load_model(tiny_run).model.card.sha256
    assert (content["n"], content["unit"]) == (4, "grey")
    assert "SynthRAD" in content["protocol"]
    for figures in content["directions"].values():
        for name in ("mae", "psnr", "ssim"):
            assert set(figures[name]) == {"mean", "sd", "ci95"}
            assert figures[name]["ci95"][0] <= figures[name]["mean"] <= figures[name]["ci95"][1]
        assert set(figures["baselines"]) == set(figures["difference"]) == set(BASELINES)
    with Pillow.open(out / "comparison.png") as image:
        assert image.format == "PNG"
    assert seen == [("comparing", done, 4) for done in (1, 2, 3, 4)]


def test_table_has_a_row_for_each_image_direction_and_method(tmp_path, tiny_run, tiny_pairs):
    found = evaluate(tiny_run, tiny_pairs, out=tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:6] == ["name", "patient", "direction", "method", "mae", "psnr"]
    assert len(rows) == len(found.rows) == 4 * 2 * 4
    keys = {(row["name"], row["direction"], row["method"]) for row in rows}
    assert len(keys) == len(rows)
    first = found.rows[0]
    assert rows[0]["name"] == first.name == "head00_slice00"
    assert float(rows[0]["mae"]) == pytest.approx(first.figures["mae"], rel=1e-5)
    assert "mae_bone" not in rows[0]  # grey values have no bone
    assert rows[1]["cycle_error"] == ""  # a copy is not translated


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
    [(translator(ct={"HU": HU}), "ct"), (translator(ct={"16-bit": GREY_8}), "ct")],
)
def test_image_that_the_model_cannot_take_is_named(tmp_path, model, name):
    folder = pairs(tmp_path, a=(1, 2))
    with pytest.raises(DataError, match="whose range the model does not know") as caught:
        evaluate(model, folder, direction="ct-to-mr" if name == "ct" else "mr-to-ct")
    assert caught.value.file == str(folder / name / "a.png")


def test_all_bad_scans_are_named_before_any_work(tmp_path, monkeypatch):
    folder = pairs(tmp_path / "pairs", **{name: (100, 130) for name in "abcdef"})
    (folder / "ct" / "a.png").write_bytes(b"no image")
    (folder / "mr" / "a.png").write_bytes(b"")
    save(folder / "mr" / "b.png", np.zeros((48, 48)))
    save(folder / "mask" / "c.png", flat(0))
    (folder / "mask" / "d.png").write_bytes(b"no image")
    for name in "abcdef":
        for kind in ("ct", "mr"):
            save(tmp_path / "other" / kind / f"{name}.png", flat(0))
    save(tmp_path / "other" / "mr" / "e.png", np.zeros((48, 48)))
    monkeypatch.setattr("ctmr.evaluation.evaluate.look_at_pairs", None)
    with pytest.raises(DataError) as caught:
        evaluate(translator(), folder, answers={"other": tmp_path / "other"}, out=tmp_path / "out")
    assert caught.value.what.startswith("6 scans of 6 pairs cannot be used: ")
    for name in ("ct/a.png", "mr/a.png", "mr/b.png", "mask/c.png", "mask/d.png", "mr/e.png"):
        assert name in caught.value.what
    assert not (tmp_path / "out").exists()


def test_all_bad_scans_that_do_not_pair_are_named_before_any_work(tmp_path, monkeypatch):
    write_data(tmp_path)
    bad = [tmp_path / "testA" / "head_00.png", tmp_path / "testB" / "head_02.png"]
    for path in bad:
        path.write_bytes(b"no image")
    monkeypatch.setattr("ctmr.evaluation.unpaired.observe", None)
    with pytest.raises(DataError, match="2 of 6 scans cannot be used") as caught:
        evaluate(translator(), tmp_path)
    assert all(f"{path.parent.name}/{path.name}" in caught.value.what for path in bad)


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


def test_data_folder_of_exchanged_modalities_is_refused_with_the_reason(
    tmp_path, tiny_run, tiny_data
):
    for split, source in (("testA", "testB"), ("testB", "testA")):
        shutil.copytree(tiny_data / source, tmp_path / "data" / split)
        shutil.copytree(tiny_data / source, tmp_path / "data" / split.replace("test", "train"))

    def refuse(*_, **__):
        raise SafetyError("expected CT in HU: found other values", fix="exchange the folders")

    model = load_model(tiny_run)
    model.check = refuse
    with pytest.raises(SafetyError, match="none of 6 scans can be translated: expected CT in HU"):
        evaluate(model, tmp_path / "data")


def test_picture_of_other_scans_does_not_stay_beside_new_figures(
    tmp_path, tiny_run, tiny_pairs, tiny_data
):
    out = tmp_path / "out"
    evaluate(tiny_run, tiny_pairs, out=out)
    assert (out / "comparison.png").exists()
    evaluate(tiny_run, tiny_data, out=out)
    assert not (out / "comparison.png").exists()
