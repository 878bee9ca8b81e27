"""Sample grids, loss curves and comparisons, found again in the pixels and axes."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ctmr.errors import OutputError
from ctmr.reporting.curves import evaluation_curves, loss_curves
from ctmr.reporting.figures import Case, comparison, sample_grid, save
from ctmr.results import EvaluationLine

LEVELS = (-0.6, -0.2, 0.2, 0.6)  # of the four rows of the paper's grid


def flat(level: float, count: int = 2, shape: tuple[int, ...] = (32, 32)) -> np.ndarray:
    return np.full((count, *shape), level, dtype=np.float32)


def pixels(figure: Figure, folder: Path) -> np.ndarray:
    save(figure, folder / "figure.png")
    with Image.open(folder / "figure.png") as picture:
        return np.asarray(picture.convert("RGB"))


def rows(count: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    noise = rng.uniform(0.9, 1.1, (count, 5))
    keys = ("gan", "cycle", "identity", "loss_d_ct", "loss_d_mr")
    return [
        {
            "step": 10 * (i + 1),
            "epoch": 10 * i // 100,
            "lr": 2e-4,
            **dict(zip(keys, noise[i].tolist(), strict=True)),
            "loss_g": 5.0,
            "seconds_per_step": 0.1,
            "data_wait": 0.0,
        }
        for i in range(count)
    ]


def case(error: float, unit: str = "HU", label: str = "a") -> Case:
    truth = np.zeros((16, 16), dtype=np.float32)
    return Case(label, truth, truth + error, truth, unit, (0, 1), (-100, 100))


def test_sample_grid_has_the_papers_rows_from_top_to_bottom(tmp_path: Path) -> None:
    grid = pixels(sample_grid(*(flat(level) for level in LEVELS), title="step 5000"), tmp_path)
    expected = [round((level + 1) * 127.5) for level in LEVELS]
    column = grid[:, 92 + 100, 0].tolist()  # through the middle of the first images
    where = [column.index(value) for value in expected]
    assert where == sorted(where)
    assert all(column.count(value) >= 6 * 32 for value in expected)
    between = column[where[0] : where[3]]
    assert between.count(0) == pytest.approx(
        3 * 4 * 6, abs=4
    )  # three gaps of 4 image pixels, k = 6


def test_sample_grid_shows_each_pixel_crisp(tmp_path: Path) -> None:
    checks = np.where(np.indices((32, 32)).sum(axis=0) % 2, 1.0, -1.0).astype(np.float32)[None]
    grid = pixels(sample_grid(checks, checks, checks, checks, title=""), tmp_path)
    image = grid[36 : 36 + 6 * 32, 92 : 92 + 6 * 32, 0]
    assert set(np.unique(image)) == {0, 255}
    assert np.array_equal(image[3::6, 3::6] == 255, checks[0] > 0)


def test_sample_grid_keeps_columns_of_translations_beside_their_sources(tmp_path: Path) -> None:
    images = np.concatenate([flat(level, 1) for level in LEVELS])
    grid = pixels(sample_grid(images, images, images, images, title=""), tmp_path)
    for i in range(4):
        for j, level in enumerate(LEVELS):
            y, x = 36 + 6 * (36 * i + 16), 92 + 6 * (36 * j + 16)
            assert grid[y, x].tolist() == [round((level + 1) * 127.5)] * 3


def test_sample_grid_shows_colours_and_unequal_counts(tmp_path: Path) -> None:
    red = np.zeros((3, 256, 256, 3), dtype=np.float32) + np.float32([1, -1, -1])
    grid = pixels(
        sample_grid(red, red, flat(1, 1, (256, 256)), flat(1, 1, (256, 256)), ""), tmp_path
    )
    assert grid[36 + 128, 92 + 2 * 260 + 128].tolist() == [255, 0, 0]
    assert grid[36 + 2 * 260 + 128, 92 + 128].tolist() == [255, 255, 255]
    assert grid[36 + 2 * 260 + 128, 92 + 260 + 128].tolist() == [0, 0, 0]


def test_sample_grid_clips_what_is_out_of_range(tmp_path: Path) -> None:
    grid = pixels(sample_grid(flat(7), flat(-7), flat(0), flat(0), title=""), tmp_path)
    assert grid[36 + 96, 92 + 96, 0] == 255


def test_sample_grid_of_two_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="images of one size"):
        sample_grid(flat(0), flat(0), flat(0, shape=(32, 40)), flat(0, shape=(32, 40)), title="")


def test_sample_grid_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="images of one size"):
        sample_grid(flat(0, 0), flat(0, 0), flat(0), flat(0), title="")


def test_sample_grid_says_what_it_is_not_for() -> None:
    texts = [text.get_text() for text in sample_grid(*[flat(0)] * 4, title="step 7").texts]
    assert texts[:5] == ["CT", "CT to MRI", "MRI", "MRI to CT", "step 7"]
    assert texts[5] == "research use only - translated images can add or remove disease"


def test_loss_curves_have_the_names_of_the_run_folder() -> None:
    assert list(loss_curves(rows(3))) == [
        "losses_generators.png",
        "losses_D_ct.png",
        "losses_D_mr.png",
    ]


def test_training_without_an_adversary_has_curves_of_what_is_known_alone() -> None:
    plain = dict.fromkeys(("gan", "cycle", "identity", "structure", "loss_d_ct", "loss_d_mr"), 0.0)
    known = [{**plain, "step": n, "epoch": 0, "loss_g": 1.0, "half_real": 1.0} for n in range(3)]
    curves = loss_curves(known)
    assert list(curves) == ["losses_generators.png"]
    _, below = curves["losses_generators.png"].axes[:2]
    assert [line.get_label() for line in below.get_lines()] == ["half-real pairs, not in the paper"]


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_loss_curves_of_any_length_are_drawn(count: int, tmp_path: Path) -> None:
    for name, figure in loss_curves(rows(count)).items():
        save(figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
        drawn = [len(line.get_xdata()) for axis in figure.axes for line in axis.lines]  # type: ignore[arg-type]
        assert max(drawn) <= max(2, min(count, 4000))


def test_smoothed_curve_begins_and_ends_at_the_logged_values() -> None:
    logged = rows(1000)
    above, below = loss_curves(logged)["losses_generators.png"].axes
    raw, smooth = (np.asarray(line.get_ydata()) for line in below.lines[:2])
    assert smooth[[0, -1]].tolist() == pytest.approx([logged[0]["gan"], logged[-1]["gan"]])
    assert smooth[100:-100].std() < raw.std() / 3
    assert smooth.mean() == pytest.approx(raw.mean(), rel=0.01)
    assert above.get_ylim()[0] == 0


def test_losses_that_are_missing_or_not_finite_leave_a_gap(tmp_path: Path) -> None:
    logged = rows(3)
    logged[1]["gan"] = math.nan
    for row in logged:
        del row["identity"]
    save(loss_curves(logged)["losses_generators.png"], tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_discriminator_curves_mark_a_quarter() -> None:
    for name in ("losses_D_ct.png", "losses_D_mr.png"):
        axis = loss_curves(rows(5))[name].axes[0]
        dotted = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert [list(line.get_ydata()) for line in dotted] == [[0.25, 0.25]]  # type: ignore[arg-type]


def test_epochs_stand_above_the_steps_at_which_they_begin() -> None:
    axis = loss_curves(rows(35))["losses_D_ct.png"].axes[0]
    (top,) = axis.child_axes
    assert top.get_xticks().tolist() == [10, 110, 210, 310]
    assert [label.get_text() for label in top.get_xticklabels()] == ["0", "1", "2", "3"]


def test_no_epochs_are_drawn_where_none_are_known() -> None:
    logged = [{k: v for k, v in row.items() if k != "epoch"} for row in rows(35)]
    assert not loss_curves(logged)["losses_D_ct.png"].axes[0].child_axes


def test_comparison_shows_source_result_truth_and_error_with_its_unit() -> None:
    figure = comparison([case(50), case(20), case(3, "grey")])
    titles = [axis.get_title() for axis in figure.axes[:4]]
    assert titles == ["source", "result", "truth", "absolute error"]
    bars = [axis for axis in figure.axes[12:]]
    assert [bar.get_ylabel() for bar in bars] == ["HU", "HU", "grey"]
    errors = [figure.axes[4 * row + 3].images[0] for row in range(3)]
    assert [float(np.max(image.get_array())) for image in errors] == [50, 20, 3]  # type: ignore[arg-type]
    assert [image.get_clim()[1] for image in errors] == pytest.approx([50, 50, 3])
    assert figure.axes[1].images[0].get_clim() == (-100, 100)


def test_comparison_of_equal_images_is_drawn(tmp_path: Path) -> None:
    save(comparison([case(0)]), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("label", ["$x_1$", "$\\broken{", "a\nb", "头部", "\udcff.png", "n" * 250])
def test_any_file_name_can_be_a_label(label: str, tmp_path: Path) -> None:
    save(comparison([case(1, label=label)]), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_comparison_without_cases_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        comparison([])


def test_equal_figures_give_equal_bytes_without_a_date(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(loss_curves(rows(100))["losses_generators.png"], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info == {"Software": "ctmr; research use only"}


def test_saving_again_replaces_and_leaves_only_the_list_beside(tmp_path: Path) -> None:
    figure = sample_grid(*[flat(0)] * 4, title="")
    for _ in range(2):
        save(figure, tmp_path / "a.png")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", ".ctmr-outputs.json"}


def test_a_grey_figure_is_a_grey_png_of_its_own_size_or_of_the_dpi_asked_for(
    tmp_path: Path,
) -> None:
    figure = sample_grid(*[flat(0)] * 4, title="")
    save(figure, tmp_path / "a.png")
    save(figure, tmp_path / "b.png", dpi=50)
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        assert a.mode == "L"
        assert a.size == (92 + 6 * 68 + 4 + 16, 36 + 6 * 140 + 28)
        assert b.size == (a.size[0] // 2, a.size[1] // 2)


def test_a_figure_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write it"):
        save(sample_grid(*[flat(0)] * 4, title=""), tmp_path / "file" / "a.png")


def test_evaluations_have_a_panel_for_each_figure_and_direction_and_mark_the_best() -> None:
    logged = [
        EvaluationLine.model_validate(
            {"step": step, "score": 0}
            | {d: {"mae": step, "ssim": 0.5} for d in ("ct-to-mr", "mr-to-ct")}
        )
        for step in (0, 5, 10)
    ]
    figure = evaluation_curves(logged, best=5)
    assert len(figure.axes) == 2 * 2
    first, mark = figure.axes[0].lines
    assert list(first.get_ydata()) == [0, 5, 10]
    assert list(mark.get_xdata()) == [5, 5]
    assert {axis.get_ylabel() for axis in figure.axes} == {"MAE", "SSIM"}
