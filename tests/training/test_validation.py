"""Evaluations while training: the best model is kept, and nothing of the training changes."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from ctmr import load_model
from ctmr.config import Config
from ctmr.errors import DataError
from ctmr.training.train import train
from ctmr.training.validation import MAX_SLICES, MAX_VOLUMES, pairs_to_choose_by


def every(config: Config, steps: int) -> Config:
    """The configuration with an evaluation at that interval."""
    settings = config.train.model_copy(update={"evaluate_every": steps})
    return config.model_copy(update={"train": settings})


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, bytes]:
    """The tensors of the final checkpoint."""
    (newest,) = sorted((run / "checkpoints").glob("*.ckpt"))[-1:]
    with safe_open(newest, "pt") as opened:
        return {key: opened.get_tensor(key).numpy().tobytes() for key in list(opened.keys())}


@pytest.fixture(scope="module")
def with_pairs(tiny_data: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data folder with pairs in `val/`."""
    data = tmp_path_factory.mktemp("selection") / "data"
    shutil.copytree(tiny_data, data)
    shutil.copytree(tiny_pairs, data / "val")
    return data


@pytest.fixture(scope="module")
def run(with_pairs: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps, evaluated on pairs every second."""
    folder = tmp_path_factory.mktemp("selection") / "run"
    train(every(tiny_config, 2), with_pairs, folder)
    return folder


def test_a_line_for_the_start_each_interval_and_the_end(run: Path) -> None:
    found = lines(run)
    assert [line["step"] for line in found] == [0, 2, 4, 6]
    for line in found:
        for direction in ("ct-to-mr", "mr-to-ct"):
            assert line[direction].keys() >= {"mae", "ssim", "cycle_error", "structure_kept"}
        assert line["score"] == pytest.approx(
            (line["ct-to-mr"]["ssim"] + line["mr-to-ct"]["ssim"]) / 2
        )
    assert (run / "evaluations.png").exists()
    assert "figures of the evaluations while training" in (run / "report.html").read_text()


def test_the_model_with_the_highest_score_is_kept(run: Path) -> None:
    best = max(lines(run), key=lambda line: line["score"])
    kept = load_model(run / "best").model.card
    assert kept.provenance["steps"] == best["step"]
    assert load_model(run).model.card.provenance["steps"] == 6


def test_the_model_says_how_well_its_uncertainty_ranks_errors(run: Path) -> None:
    correlations = load_model(run).model.card.correlations
    assert correlations is not None
    assert correlations.keys() == {"ct-to-mr", "mr-to-ct"}
    assert correlations["ct-to-mr"].keys() == {"cycle_error", "disagreement", "input_distance"}


def test_evaluations_change_nothing_of_the_training(
    run: Path, with_pairs: Path, tiny_config: Config, tmp_path: Path
) -> None:
    train(every(tiny_config, 1000), with_pairs, tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 6]
    assert weights(tmp_path / "run") == weights(run)


def test_a_resumed_run_has_the_evaluations_of_one_that_was_not_stopped(
    run: Path, with_pairs: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = every(tiny_config, 2)
    train(config, with_pairs, tmp_path / "run", stop_after=3)
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 2]
    with (tmp_path / "run" / "evaluations.jsonl").open("a") as stream:
        stream.write('{"step": 4, "score": 9}\n')  # as if killed after it, before a checkpoint
    train(config, with_pairs, tmp_path / "run", resume=True)
    assert lines(tmp_path / "run") == lines(run)
    kept = [load_model(place / "best").model.card.sha256 for place in (run, tmp_path / "run")]
    assert kept[0] == kept[1]


def test_without_pairs_the_model_is_chosen_by_held_out_slices(
    tiny_config: Config, tiny_data: Path, tmp_path: Path
) -> None:
    train(every(tiny_config, 3), tiny_data, tmp_path / "run")
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [0, 3, 6]
    for line in found:
        distances = [line[direction]["kernel"] for direction in ("ct-to-mr", "mr-to-ct")]
        assert line["score"] == pytest.approx(-sum(distances) / 2)
        assert "mae" not in line["ct-to-mr"]
    assert load_model(tmp_path / "run").model.card.correlations is None


def test_pairs_that_cannot_be_read_are_named_before_the_first_step(
    with_pairs: Path, tiny_config: Config, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(with_pairs, data)
    broken = [next((data / "val" / kind).iterdir()) for kind in ("ct", "mr")]
    for path in broken:
        path.write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        train(tiny_config, data, tmp_path / "run")
    assert all(f"{path.parent.name}/{path.name}" in caught.value.what for path in broken)
    assert not (tmp_path / "run").exists()


def test_of_many_pairs_few_volumes_and_some_slices_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.training.validation.require_all", lambda pairs: None)
    for suffix, most in ((".png", MAX_SLICES), (".nii", MAX_VOLUMES)):
        for modality in ("ct", "mr"):
            folder = tmp_path / suffix / "val" / modality
            folder.mkdir(parents=True)
            for n in range(60):
                (folder / f"head{n:02}{suffix}").touch()
        chosen = [pair.name for pair in pairs_to_choose_by(tmp_path / suffix, None)]
        assert len(chosen) == most
        assert chosen == sorted(chosen)
        assert (chosen[0], chosen[-1]) == ("head00", "head59")


def test_scores_of_pairs_and_scores_without_are_not_compared(
    with_pairs: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    train(every(tiny_config, 2), with_pairs, tmp_path / "run", stop_after=4)
    train(every(tiny_config, 2), tiny_data, tmp_path / "run", resume=True)  # without val/
    rows = lines(tmp_path / "run")
    assert [(row["step"], row["by"]) for row in rows] == [
        *((step, "ssim") for step in (0, 2, 4)),
        (6, "kernel"),
    ]
    assert rows[-1]["score"] < min(row["score"] for row in rows[:-1])
    assert load_model(tmp_path / "run" / "best").model.card.provenance["steps"] == 6


def test_pairs_that_are_trained_on_are_named(
    with_pairs: Path, tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(with_pairs, data)
    shutil.copy(data / "val" / "mr" / "head01_slice00.png", data / "trainB" / "again.png")
    train(tiny_config, data, tmp_path / "run", stop_after=1)
    assert "1 pairs in val/ hold training scans" in caplog.text
    assert "head01_slice00" in caplog.text


def test_empty_folder_of_pairs_is_none(tiny_data: Path, tmp_path: Path) -> None:
    for modality in ("ct", "mr"):
        (tmp_path / "val" / modality).mkdir(parents=True)
    assert pairs_to_choose_by(tmp_path, None) == []
