"""The page of a run: complete, closed to the outside, and safe whatever the files say."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ctmr.config import PRESETS, config_yaml
from ctmr.errors import DataError, UsageError
from ctmr.reporting.run_report import write_report

EVIL = "<img src=x onerror=alert(1)>&\"'"


class Page(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def row(step: int, **other: float) -> dict[str, float]:
    losses = dict.fromkeys(("gan", "cycle", "identity", "loss_d_ct", "loss_d_mr"), 0.25)
    timing = {"seconds_per_step": 0.5, "data_wait": 0.1}
    return {
        "step": step,
        "epoch": step // 40,
        "lr": 0.0002,
        "loss_g": 3.5,
        **losses,
        **timing,
    } | other


def make_run(
    folder: Path, grids: tuple[int, ...] = (0, 10, 20), steps: tuple[int, ...] = ()
) -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "config.yaml").write_text(config_yaml(PRESETS["small"]))
    lines = [json.dumps(row(step)) for step in steps]
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines))
    for step in grids:
        Image.new("L", (8, 8), step % 251).save(folder / "samples" / f"step_{step:06d}.png")
    return folder


def write_metrics(run: Path, metrics: object) -> None:
    if isinstance(metrics, dict):
        about = {"n": 1, "patients": 1, "unit": "HU", "protocol": "", "notice": "", "figures": {}}
        metrics = about | metrics
    (run / "evaluation").mkdir()
    (run / "evaluation" / "metrics.json").write_text(json.dumps(metrics))


def summary(mean: float) -> dict[str, Any]:
    return {"mean": mean, "sd": 2.5, "ci95": [mean - 1, mean + 1]}


def shown_grids(page: Page) -> list[str]:
    return [str(image["alt"]) for image in page.all("img") if str(image["alt"]).startswith("step")]


def test_report_has_all_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "first run", steps=(10, 20))
    path = write_report(run)
    page = Page(path)
    assert path == run / "report.html"
    assert "first run" in page.words
    assert page.words.index("a translated image can add or remove disease") < page.words.index(
        "Sample grids"
    )
    assert "20 steps" in page.words
    assert "0.5 seconds a step (median)" in page.words
    assert "10.0% of the time waiting for data" in page.words
    assert "Generators, equation (4) 3.5 3.5" in page.words
    size, rate = PRESETS["small"].data.size, PRESETS["small"].train.learning_rate
    assert f"data.size {size} Side in pixels of a training crop" in page.words
    assert f"train.learning_rate {rate}" in page.words
    assert {"losses_generators.png", "losses_D_ct.png", "losses_D_mr.png"} <= {
        entry.name for entry in run.iterdir()
    }


def test_every_image_is_inside_the_page(tmp_path: Path) -> None:
    images = Page(write_report(make_run(tmp_path / "run", steps=(10,)))).all("img")
    assert len(images) == 3 + 3
    for image in images:
        header, _, data = str(image["src"]).partition(",")
        assert header == "data:image/png;base64"
        with Image.open(BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()


def test_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "run", steps=(10,))))
    source = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page.source)
    assert not re.search(r"(?i)https?:|//\w|@import|url\(|\bfetch\(|import\(", source)
    assert not page.all("link")
    assert not page.all("iframe")
    assert not any("src" in script for script in page.all("script"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_policy_of_the_page_admits_its_own_script_only(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "run")))
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in str(policy)


def test_slider_goes_over_the_grids_in_order_and_shows_the_last(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "run", grids=(0, 5000, 900, 100000))))
    assert shown_grids(page) == ["step 0", "step 900", "step 5,000", "step 100,000"]
    hidden = ["hidden" in image for image in page.all("img")[:4]]
    assert hidden == [True, True, True, False]
    (slider,) = page.all("input")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == (
        "range",
        "0",
        "3",
        "3",
    )


def test_long_runs_show_forty_grids_with_the_ends_and_the_papers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", grids=tuple(range(0, 20001, 100)))
    shown = shown_grids(Page(write_report(run)))
    assert 40 <= len(shown) <= 44
    assert {"step 0", "step 5,000", "step 10,000", "step 15,000", "step 20,000"} <= set(shown)


def test_large_grids_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", grids=tuple(range(1, 31)))
    largest = max(path.stat().st_size for path in (run / "samples").iterdir())
    monkeypatch.setattr("ctmr.reporting.run_report.MAX_GRID_BYTES", 7 * largest)
    shown = shown_grids(Page(write_report(run)))
    assert len(shown) == 7
    assert (shown[0], shown[-1]) == ("step 1", "step 30")


def test_names_and_values_are_text_never_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / '<img onerror=alert(1)> & "it\'s"\n')
    config = {"seed": 0, EVIL: {EVIL: EVIL}, "data": {"patient_pattern": "</script>(.*)"}}
    (run / "config.yaml").write_text(json.dumps(config))
    (run / "samples" / f"step_{EVIL.replace('/', '')}.png").write_bytes(b"not shown")
    table = {EVIL: summary(1), "baselines": {EVIL: {EVIL: summary(2)}}, "unit": EVIL}
    table["difference"] = {EVIL: summary(1)}
    write_metrics(run, {"protocol": EVIL, "directions": {"ct-to-mr": table}})
    page = Page(write_report(run))
    assert len(page.all("img")) == 3
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert '<img onerror=alert(1)> & "it\'s"\\n' in page.words
    assert "data.patient_pattern </script>(.*)" in page.words
    assert page.words.count(EVIL) >= 6


def test_script_in_any_text_of_a_run_comes_out_escaped(tmp_path: Path) -> None:
    evil = [f"<script>alert({n})</script>" for n in range(100)]
    text = iter(evil)
    run = make_run(tmp_path / "<script>alert<", steps=(10,))
    setting = {next(text): {next(text): next(text)}, "data": {"patient_pattern": next(text)}}
    (run / "config.yaml").write_text(json.dumps(setting))
    leak = {"train": next(text), "test": next(text), "why": next(text)}
    (run / "overlap.json").write_text(json.dumps([leak]))
    key, unknown, answer, program = (next(text) for _ in range(4))
    share = {"share": 0.5, "n": 60, "ci95": [0.4, 0.6]}
    lesion = {key: share for key in ("survives", "invented", "detectable")}
    lesion |= {of: {"survives": share, "invented": share} for of in ("healthy", "truth")}
    spec = {part: next(text) for part in ("name", "unit", "mask", "range")} | {"better": "lower"}
    direction = {
        "unit": next(text),
        key: summary(1),
        unknown: summary(2),
        "baselines": {answer: {key: summary(3)}},
        "others": {program: {key: summary(4)}},
        "difference": {next(text): summary(5)},
        "no_reference": {next(text): summary(6)},
        "uncertainty": {next(text): {"spearman": 0.61, "ci95": [0.4, 0.8], "n": 9}},
    }
    of_lesions = {"unit": "HU", "limit": 1, "lesions": {next(text): lesion}}
    metrics = {
        **{"n": 9, "patients": 9, "unit": "HU", "notice": "research"},
        "protocol": next(text),
        "figures": {"mr-to-ct": {key: spec}},
        "directions": {"mr-to-ct": direction},
        "lesions": {
            **{"heads": 9, "seed": 0, "sequence": "t1"},
            "what": next(text),
            "directions": {"mr-to-ct": of_lesions},
        },
    }
    write_metrics(run, metrics)
    used = evil[: evil.index(next(text))]
    page = Page(write_report(run))
    assert len(page.all("script")) == 1
    assert page.source.count("<script") == 1
    assert "<script>alert< - ctmr run" in page.words
    assert [each for each in used if each not in page.words] == [key]  # its name stands for it


def test_evaluation_stands_with_units_intervals_and_baselines(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    direction = {
        "mae": summary(61.25),
        "mae_bone": summary(120),
        "psnr": summary(27),
        "ssim": summary(0.9),
        "baselines": {"mean image": {"mae": summary(90)}, "monotone map": {"mae": summary(80)}},
        "difference": {"mean image": summary(28.75)},
        "unit": "HU",
    }
    specs = {"mae": {"name": "mean absolute error", "unit": "HU", "mask": "head", "range": "all"}}
    specs["mae"]["better"] = "lower"
    metrics = {
        "n": 24,
        "protocol": "in the head mask",
        "figures": {"mr-to-ct": specs},
    }
    write_metrics(run, {**metrics, "directions": {"mr-to-ct": direction}})
    Image.new("RGB", (8, 8)).save(run / "evaluation" / "comparison.png")
    page = Page(write_report(run))
    assert "n = 24; in the head mask" in page.words
    assert "MRI to CT mean ± standard deviation [95 % interval of the mean]" in page.words
    assert (
        "this model mean image monotone map mean absolute error, HU head; all 61.25" in page.words
    )
    assert "61.25 ± 2.5 [60.25, 62.25] 90 ± 2.5 [89, 91] 80 ± 2.5 [79, 81]" in page.words
    assert "mae_bone, HU 120 ± 2.5 [119, 121] - -" in page.words  # one without a description
    assert "MAE of the mean image less that of this model, patient by patient: 28.75" in page.words
    assert len(page.all("img")) == 3 + 1


def test_what_is_known_without_the_truth_and_of_lesions_stands_below(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    share = {"share": 0.5, "n": 60, "ci95": [0.4, 0.6]}
    lesion = {key: share for key in ("survives", "invented", "detectable")}
    lesion |= {"healthy": {"survives": share, "invented": share}}
    lesion |= {"truth": {"survives": {**share, "share": 1.0}, "invented": {**share, "share": 0.0}}}
    far = {"frechet": 3.5, "frechet_real": 1.5, "kernel": 0.2, "kernel_real": 0.1}
    direction = {
        "no_reference": {"cycle_error": summary(0.05)},
        "distances": far,
        "uncertainty": {
            "cycle_error": {"spearman": 0.61, "ci95": [0.4, 0.8], "n": 24},
            "disagreement": None,
        },
    }
    lesions = {
        "heads": 60,
        "what": "WHAT",
        "seed": 0,
        "sequence": "t1",
        "directions": {"mr-to-ct": {"unit": "HU", "limit": 3.0, "lesions": {"tumour": lesion}}},
    }
    write_metrics(run, {"directions": {"mr-to-ct": direction}, "lesions": lesions})
    words = Page(write_report(run)).words
    assert "cycle_error 0.05" in words
    assert "not FID 3.5 between real images 1.5" in words
    assert "Rank correlation with the MAE of a scan: cycle_error 0.61 [0.40, 0.80]" in words
    assert "60 synthetic heads with and without lesions. WHAT" in words
    assert "50 % [40, 60] of 60" in words


def test_metrics_of_0_1_0_are_shown_as_those_of_today(tmp_path: Path) -> None:
    old = {"naive": "baselines", "answers": "others", "without_truth": "no_reference"}
    old["doubt"] = "uncertainty"
    table = {"copy": {"mae": summary(9)}}
    measured = {
        "unit": "HU",
        "mae": summary(3),
        "naive": table,
        "answers": {"pix2pix": table["copy"]},
    }
    measured |= {
        "difference": {},
        "without_truth": {"cycle_error": summary(0.1)},
        "distances": None,
    }
    measured["doubt"] = {"cycle_error": {"spearman": 0.5, "ci95": [0.4, 0.6], "n": 9}}
    pages = []
    for place, keys in (("old", {}), ("new", old)):
        run = make_run(tmp_path / place / "run")
        direction = {keys.get(key, key): value for key, value in measured.items()}
        write_metrics(run, {"directions": {"mr-to-ct": direction}})
        pages.append(Page(write_report(run)).words)
    assert pages[0] == pages[1]
    assert "this model pix2pix copy mae, HU 3" in pages[0]
    assert "cycle_error 0.50 [0.40, 0.60]" in pages[0]


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        [],
        {"directions": {"mr-to-ct": {"mae": summary(1) | {"mean": "low"}}}},
        {"directions": {"mr-to-ct": 1}},
    ],
)
def test_damaged_metrics_are_refused(tmp_path: Path, metrics: object) -> None:
    run = make_run(tmp_path / "run")
    write_metrics(run, metrics)
    with pytest.raises(DataError, match=r"metrics\.json: not the metrics of ctmr evaluate"):
        write_report(run)


def test_torn_last_line_of_the_log_is_skipped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=(10, 20))
    with (run / "log.jsonl").open("ab") as log:
        log.write(b'{"step": 30, "loss_g": 2\xff')
    assert "20 steps" in Page(write_report(run)).words


def test_waiting_is_weighed_by_the_time_of_its_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    slow = row(30, seconds_per_step=9.0, data_wait=0.5)
    (run / "log.jsonl").write_text(json.dumps(row(20)) + "\n" + json.dumps(slow) + "\n")
    words = Page(write_report(run)).words  # (0.5 * 0.1 + 9 * 0.5) / 9.5
    assert "47.9% of the time waiting for data" in words


def test_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(config_yaml(PRESETS["paper"]))
    page = Page(write_report(run))
    assert "No step is logged yet." in page.words
    assert "Loss curves" not in page.words
    assert not page.all("img")


def test_log_without_timing_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "log.jsonl").write_text('{"step": 5, "loss_g": 1.5}\n')
    assert "Generators, equation (4) 1.5 1.5" in Page(write_report(run)).words


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    first = write_report(make_run(tmp_path / "a" / "run", steps=(10,)))
    second = write_report(make_run(tmp_path / "b" / "run", steps=(10,)))
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()


def test_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing: expected a run folder.*Fix: name the --out"):
        write_report(tmp_path / "nothing")


def test_folder_without_configuration_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a run with config\.yaml, found none.*Fix:"):
        write_report(tmp_path)


def test_matplotlib_is_imported_for_curves_only() -> None:
    code = "import sys, ctmr.reporting.run_report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Leaks


def test_leaks_are_listed_and_escaped(tmp_path):
    run = make_run(tmp_path / "run")
    assert "Leaks" not in Page(write_report(run)).words
    overlaps = [
        {"train": "trainA/b.png", "test": f"testA/{EVIL}{n}.png", "why": "identical"}
        for n in range(60)
    ]
    (run / "overlap.json").write_text(json.dumps(overlaps))
    page = Page(write_report(run))
    assert "60 test images are in the training folders too" in page.words
    assert f"testA/{EVIL}49.png" in page.words
    assert f"testA/{EVIL}50.png" not in page.words
    assert page.all("img") == Page(write_report(run)).all("img")
    assert not any(image.get("src") == "x" for image in page.all("img"))


@pytest.mark.parametrize("text", ["", "{", "{}", '[{"train": 1}]'])
def test_damaged_list_of_leaks_is_named(tmp_path, text):
    run = make_run(tmp_path / "run")
    (run / "overlap.json").write_text(text)
    with pytest.raises(DataError, match=r"overlap\.json") as caught:
        write_report(run)
    assert caught.value.exit_code == 3


def test_figures_of_another_model_are_said_to_be_that(tmp_path):
    run = make_run(tmp_path / "run")
    about = {"sha256": "a" * 64, "engine": "torch", "precision": "float32"}
    write_metrics(run, {"model": about, "directions": {}})
    warning = "Measured on another model"
    assert warning not in Page(write_report(run)).words  # the run has no model yet
    for place, sha256, is_other in (("model", "b", True), ("best", "a", False)):
        (run / place).mkdir()
        (run / place / "model.json").write_text(json.dumps({"sha256": sha256 * 64}))
        assert (warning in Page(write_report(run)).words) == is_other
