import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.errors import OutputError, ResourceError, UsageError
from ctmr.io.codecs import COMMENT
from ctmr.io.images import read_image
from ctmr.io.scan import read_scan
from ctmr.synthetic.data_folder import FIELD_OF_VIEW_MM, HEIGHTS_MM, SLICE_MM, write_heads
from ctmr.synthetic.head import synthesise_head
from ctmr.synthetic.lesions import LESIONS

SIZE, SEED = 48, 1
SLICES = len(HEIGHTS_MM)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training subject of each modality, two to test and two to choose by, half of them with lesions."""
    out = tmp_path_factory.mktemp("synth") / "heads"
    arguments = ["--subjects", "1", "--size", str(SIZE), "--seed", str(SEED), "--lesions", "0.5"]
    result = CliRunner().invoke(app, ["synth", str(out), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed["out"] == str(out)
    assert printed["images"] == {folder: len(names(out / folder)) for folder in printed["images"]}
    return out


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def subjects(folder: Path) -> set[str]:
    return {name.partition("_")[0] for name in names(folder)}


def about(heads: Path) -> list[dict]:
    return json.loads((heads / "subjects.json").read_text())["subjects"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The layout


def test_layout_is_that_of_a_data_folder_with_pairs_to_test_and_to_choose_by(heads):
    folders = {str(path.relative_to(heads)) for path in heads.rglob("*") if path.is_dir()}
    kinds = ("ct", "mr", "mask")
    assert folders == {
        *("train", "train/ct", "train/mr", "test", "val"),
        *(f"{group}/{kind}" for group in ("test", "val") for kind in kinds),
    }
    for folder, count in (("train/ct", 1), ("train/mr", 1), ("test/ct", 2), ("val/ct", 2)):
        assert len(names(heads / folder)) == count * SLICES
    for group in ("test", "val"):
        assert names(heads / group / "ct") == names(heads / group / "mr")
        assert names(heads / group / "ct") == names(heads / group / "mask")


def test_no_subject_is_in_two_groups(heads):
    groups = [subjects(heads / folder) for folder in ("train/ct", "train/mr", "test/ct", "val/ct")]
    assert [len(group) for group in groups] == [1, 1, 2, 2]
    assert len(set.union(*groups)) == 6


def test_subjects_json_says_who_is_where(heads):
    for group, folder in (("train-ct", "train/ct"), ("train-mr", "train/mr"), ("test", "test/ct")):
        assert {s["name"] for s in about(heads) if s["group"] == group} == subjects(heads / folder)


def test_no_label_map_is_shared(heads):
    seeds = [subject["seed"] for subject in about(heads)]
    assert len(set(seeds)) == len(seeds) == 6
    masks = {
        read_image(path).array.tobytes()
        for group in ("test", "val")
        for path in (heads / group / "mask").glob("*_slice-05.png")
    }
    assert len(masks) == 4


def test_fields_of_view_differ_and_are_said(heads):
    spacings = [subject["spacing_mm"] for subject in about(heads)]
    assert len(set(spacings)) == 6
    assert all(FIELD_OF_VIEW_MM[0] <= SIZE * mm <= FIELD_OF_VIEW_MM[1] for mm in spacings)
    for subject in about(heads):
        if subject["group"] == "test":
            for kind in ("ct", "mr", "mask"):
                scan = read_scan(heads / "test" / kind / f"{subject['name']}_slice-00.png")
                assert scan.spacing_mm == (subject["spacing_mm"],) * 2


# The images


def test_ct_is_read_back_in_hu(heads):
    for path in (heads / "train/ct").glob("*_slice-05.png"):
        ct = read_scan(path)
        assert (ct.unit, ct.depth, ct.array.shape) == ("HU", 16, (SIZE, SIZE))
        corner = ct.array[:4, :4]
        assert np.abs(corner.mean() + 1000) < 30
        assert ct.array.max() > 700  # bone
        brain = ct.array[SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4]
        assert -20 < np.median(brain) < 80


def test_mr_has_8_bits_and_uses_them(heads):
    for path in (heads / "train/mr").glob("*_slice-05.png"):
        mr = read_scan(path)
        assert (mr.unit, mr.depth) == ("grey", 8)
        assert 200 <= mr.array.max() <= 255
        assert mr.array[:4, :4].mean() < 40


def test_mask_takes_the_head_and_no_air(heads):
    for path in (heads / "test/mask").glob("*_slice-05.png"):
        mask = read_image(path).array
        assert set(np.unique(mask)) == {0, 255}
        ct = read_scan(heads / "test/ct" / path.name).array
        assert ct[mask > 0].mean() > -100
        assert ct[mask == 0].mean() < -800


def test_face_is_at_the_top_and_the_patients_right_at_the_left(heads):
    subject = about(heads)[0]
    head = synthesise_head(
        subject["seed"],
        shape=(SIZE, SIZE, SLICES),
        spacing_mm=(subject["spacing_mm"], subject["spacing_mm"], SLICE_MM),
        lesions=[lesion["kind"] for lesion in subject["lesions"]],
        heights_mm=HEIGHTS_MM,
    )  # I to the right, J to the front, K up
    ct = read_scan(heads / "train/ct" / f"{subject['name']}_slice-04.png").array
    for row, column in ((10, 20), (24, 9), (30, 40)):
        expected = head.ct[SIZE - 1 - column, SIZE - 1 - row, 4]
        assert ct[row, column] == pytest.approx(max(expected, -1024), abs=0.5)


def test_slices_go_upwards(heads):
    for name in sorted(subjects(heads / "test/mask")):
        areas = [
            (read_image(heads / "test/mask" / f"{name}_slice-{i:02d}.png").array > 0).sum()
            for i in range(SLICES)
        ]
        assert areas[-1] < areas[SLICES // 2]  # the vault is narrower than the middle


def test_lesions_are_said_with_their_place(heads):
    lesions = [lesion for subject in about(heads) for lesion in subject["lesions"]]
    with_lesions = [subject for subject in about(heads) if subject["lesions"]]
    assert len(with_lesions) == 4
    for lesion in lesions:
        assert set(lesion) == {"kind", "centre_mm", "radius_mm"}
        assert lesion["kind"] in LESIONS
        assert len(lesion["centre_mm"]) == 3
    assert all(1 <= len(subject["lesions"]) <= 2 for subject in with_lesions)


def test_images_say_that_they_are_synthetic(heads):
    with Pillow.open(next((heads / "test/ct").glob("*.png"))) as image:
        assert image.info["Comment"] == COMMENT


# Seeds


def test_same_seed_gives_the_same_files(heads, tmp_path):
    out = tmp_path / "new" / "again"
    out.mkdir(parents=True)  # an empty folder will do
    seen = []
    counts = write_heads(
        out,
        subjects=1,
        seed=SEED,
        lesions=0.5,
        size=SIZE,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert tree(out) == tree(heads)
    assert counts["val/mask"] == 2 * SLICES
    assert seen == [(done, 6) for done in range(1, 7)]


# What is refused


@pytest.mark.parametrize(
    ("argument", "value", "ends"),
    [
        ("subjects", 0, "1 to 100000"),
        ("lesions", 1.5, "0 to 1"),
        ("lesions", float("nan"), "0 to 1"),
        ("size", 16, "32 to 1024"),
        ("size", 5000, "32 to 1024"),
        ("seed", -1, "0 to 2147483648"),
    ],
)
def test_argument_out_of_range_is_a_usage_error(tmp_path, argument, value, ends):
    with pytest.raises(UsageError, match=f"{argument} must be {ends}: got {value}") as caught:
        write_heads(tmp_path / "out", **{"subjects": 1, argument: value})
    assert caught.value.fix == f"change --{argument}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["full", "full/file"])
def test_place_that_is_taken_is_refused(tmp_path, place):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(OutputError, match="expected a new or empty folder"):
        write_heads(tmp_path / place, subjects=1, size=32)
    assert tree(tmp_path) == {"full/file": b"mine"}


def test_place_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot write it"):
        write_heads(tmp_path / "file" / "out", subjects=1, size=32)


def test_killed_process_is_a_resource_error(tmp_path):
    def kill(done: int, total: int) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(ResourceError, match="a process that made heads was killed") as caught:
        write_heads(tmp_path / "out", subjects=4, size=32, progress=kill)
    assert "--size" in caught.value.fix
    assert not (tmp_path / "out" / "subjects.json").exists()


def test_full_disk_in_a_process_ends_the_command_with_4(tmp_path):
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "from ctmr.cli import main; main()"
    )
    command = [sys.executable, "-c", limited, "synth", "out", "--subjects", "1", "--size", "64"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 4, result.stderr
    assert result.stderr.startswith("error[E400]: out/")
    assert "bytes (File too large)" in result.stderr
    assert "Traceback" not in result.stderr
