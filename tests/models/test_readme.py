"""The page of a model: its front matter by another reader of YAML, what it says and leaves out, and whose it is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from ctmr.config import overlaid
from ctmr.cyclegan.state import new_state
from ctmr.errors import CheckpointError
from ctmr.models import bundle
from ctmr.models.card import UNSEALED, Card, read_card, sealed
from ctmr.models.folder import save_model
from ctmr.models.readme import exported_readme, is_own_readme, model_readme
from ctmr.notice import NOTICE
from ctmr.results import AuditReport, Metrics
from ctmr.training.train import train
from support.identity import bundled_about

HEAD = Path(bundle.__file__).parent / "bundled" / "head"
MARKED = "MUELLER^HANS-19600101"
RANKS = {"mr-to-ct": {"cycle_error": {"spearman": 0.5, "ci95": [0.3, 0.7], "n": 24}}}


def front_matter(page: str) -> dict:
    """What a model hub reads: the YAML between the first two lines of `---`."""
    first, block, _ = page.split("---\n", 2)
    assert first == ""
    return dict(yaml.safe_load(block))


def card_of(**changes: object) -> Card:
    """The card of a model of tiny U-Nets with values in HU."""
    about = bundled_about() | {"provenance": {"steps": 7}} | changes
    return Card.model_validate({"format": 2, "sha256": UNSEALED.decode(), "files": {}, **about})


def metrics_of(sha256: str = UNSEALED.decode()) -> Metrics:
    """An evaluation of one direction by one figure."""
    summary = {"mean": 98.25, "sd": 20.0, "ci95": [89.9, 107.0]}
    about = {"name": "MAE", "unit": "HU", "mask": "head", "range": "all", "better": "lower"}
    share = {"share": 0.25, "n": 60, "ci95": [0.1, 0.4]}
    shares = {"survives": share, "invented": share}
    kind = {**shares, "detectable": share, "healthy": shares, "truth": shares}
    lesions = {"unit": "HU", "limit": 30.0, "lesions": {"bleed": kind}}
    return Metrics.model_validate(
        {
            "model": {"sha256": sha256, "engine": "torch", "precision": "float32"},
            "n": 24,
            "patients": 12,
            "unit": "HU",
            "protocol": "in the head mask",
            "notice": NOTICE,
            "figures": {"mr-to-ct": {"mae": about}},
            "directions": {
                "mr-to-ct": {
                    "unit": "HU",
                    "mae": summary,
                    "others": {MARKED: {"mae": summary}},
                    "baselines": {"mean image": {"mae": summary | {"mean": 217.0}}},
                    "uncertainty": RANKS["mr-to-ct"],
                }
            },
            "lesions": {
                **{"heads": 60, "seed": 0, "sequence": "t1", "what": ""},
                "directions": {"mr-to-ct": lesions},
            },
        }
    )


def audit_of() -> AuditReport:
    why = {"files": [f"train/ct/{MARKED}.nii"], "why": MARKED}
    findings = [{"kind": "saturated", "level": "warning", **why}] * 2
    counts = {"errors": 0, "warnings": 2, "notes": 0}
    return TypeAdapter(AuditReport).validate_python(
        {**counts, "scans": {f"{MARKED}/ct": 10, "train/mr": 8}, "findings": findings}
    )


# What hubs read


def test_front_matter_is_that_of_model_hubs_without_a_licence_nobody_gave():
    found = front_matter(model_readme(card_of()))
    assert found["library_name"] == "ctmr"
    assert found["pipeline_tag"] == "image-to-image"
    assert {"medical-imaging", "ct", "mri"} <= set(found["tags"])
    assert set(found) == {"library_name", "pipeline_tag", "tags"}


def test_licence_is_the_given_one_else_that_of_the_card_in_small_letters():
    stated = card_of(provenance={"licence": "Apache-2.0"})
    assert front_matter(model_readme(stated))["license"] == "apache-2.0"
    assert front_matter(model_readme(stated, licence="CC-BY-4.0"))["license"] == "cc-by-4.0"
    forged = front_matter(model_readme(card_of(), licence="x\ntags: none"))
    assert forged["license"] == "x\ntags: none"
    assert "ctmr" in forged["tags"]


def test_page_is_made_without_torch():
    script = "import sys, ctmr.models.readme; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# What a stranger reads


def test_what_is_not_known_is_said_in_words():
    page = model_readme(card_of())
    for words in (
        NOTICE,
        "Diagnosis, treatment, dose",
        "this page knows nothing of how large its errors are",
        "those of the training are not known",
        "Audit: none is known",
        "no evaluation of this model was there",
        "Not known: there were no held-out pairs",
        "| CT slices or images for training | not known |",
        "| fingerprint (SHA-256) | not known |",
    ):
        assert words in page


def test_model_of_images_without_hu_says_that_no_density_may_be_read():
    grey = {"8-bit": {"unit": "grey", "values": [0, 255], "levels": [-1, 1]}}
    assert "Hounsfield units, -1024 to 3071" in model_readme(card_of())
    page = model_readme(card_of(intensities={"ct": grey, "mr": grey}))
    assert "**not Hounsfield units**" in page
    assert "| CT | 8-bit grey values, 0 to 255; no physical unit |" in page


def test_imported_model_without_data_says_that_nothing_warns():
    page = model_readme(card_of(training={}, provenance={"imported_from": "another *program*"}))
    assert "imported from another \\*program\\*. ctmr did not train them." in page
    assert "Nothing warns of a scan unlike the training data" in page
    assert "Nothing warns" not in model_readme(card_of())


def test_training_says_its_data_and_settings(tiny_run, tiny_config):
    page = (tiny_run / "model" / "README.md").read_text()
    card = read_card(tiny_run / "model" / "model.json")
    assert page == model_readme(card)
    assert card.provenance["data"] in page
    assert "| CT slices or images for training | 10 |" in page
    assert "| MR slices or images for training | 8 |" in page
    assert "| test scans that are, or whose patient is, in the training too | 0 |" in page
    block = page.split("```yaml\n")[1].split("```")[0]
    expected = tiny_config.model_dump()
    del expected["data"]["patient_pattern"]
    assert yaml.safe_load(block) == expected


def test_figures_are_shown_with_protocol_and_n():
    page = model_readme(card_of(), metrics=metrics_of())
    assert "n = 24 scans of 12 patients" in page
    assert "Protocol: in the head mask" in page
    assert "| MAE, HU | lower | 98.25 [89.9, 107] | 217 [89.9, 107] |" in page
    assert "| bleed | 25% of 60 | 25% of 60 |" in page
    assert "| mr-to-ct | cycle_error | 0.50 [0.3, 0.7] | 24 |" in page
    assert "knows nothing of how large its errors are" not in page


def test_figures_of_another_model_are_left_out_with_a_word():
    page = model_readme(card_of(), metrics=metrics_of("1" * 64))
    assert "An evaluation is there, of another state of this model" in page
    assert "98.25" not in page
    assert "cycle_error" not in page


def test_rank_correlations_of_the_training_are_shown():
    measures = RANKS["mr-to-ct"] | {"disagreement": None}
    page = model_readme(card_of(correlations={"mr-to-ct": measures}))
    assert "| mr-to-ct | cycle_error | 0.50 [0.3, 0.7] | 24 |" in page
    assert "| mr-to-ct | disagreement | not known | 0 |" in page


def test_audit_is_counted_by_kind():
    page = model_readme(card_of(), audit=audit_of())
    assert "Audit of 18 scans: 0 errors, 2 warnings, 0 notes." in page
    assert "| saturated | warning | 2 |" in page


def test_page_of_the_package_says_what_its_card_says():
    page, card = (HEAD / "README.md").read_text(), read_card(HEAD / "model.json")
    assert front_matter(page) == front_matter(model_readme(card))
    about = card.provenance
    for stated in (NOTICE, about["maps"], f"seed {about['seed']}", f"{about['steps']} steps"):
        assert stated in page
    counts = about["statistics"]
    for kind in ("rendered", "real"):
        assert f"{counts[kind]['ct']} {kind} CT and {counts[kind]['mr']} MR" in page
    for heading in ("Use", "Not for", "Training data", "Settings", "Figures"):
        assert f"\n## {heading}\n" in page
    results = (Path(__file__).parents[2] / "docs/project/results.md").read_text()
    for figure in ("98 [89.9, 107]", "bleed 5 of 60", "abscess 16 of 60", "0.99, 1.22, 1.32, 1.00"):
        assert figure in results
    assert "98 HU [90, 107]" in page


# What it does not say


def test_no_name_path_or_date_of_a_scan_is_on_a_page(tiny_data, tiny_config, tmp_path):
    data = Path(shutil.copytree(tiny_data, tmp_path / MARKED))
    for image in [*data.rglob("*.png")]:
        image.rename(image.with_name(f"MUELLER-{image.name}"))
    shutil.copy(min((data / "trainA").iterdir()), data / "testA" / "MUELLER-twin.png")
    config = overlaid(tiny_config, ["data.patient_pattern=(MUELLER-head_[0-9]+)", "train.steps=1"])
    train(config, data, tmp_path / "run")
    for page in (tmp_path / "run").rglob("README.md"):
        text = page.read_text()
        assert "| test scans that are, or whose patient is, in the training too | 1" in text
        assert "# data.patient_pattern: set, and not shown" in text
        for mark in ("MUELLER", "HANS", "19600101", str(tmp_path), "trainA"):
            assert mark not in text
    assert (tmp_path / "run" / "model" / "README.md").is_file()
    page = model_readme(card_of(), metrics=metrics_of(), audit=audit_of())
    assert "MUELLER" not in page


def test_scans_named_in_the_card_of_the_package_are_not_on_its_page():
    card = read_card(HEAD / "model.json")
    for page in ((HEAD / "README.md").read_text(), model_readme(card)):
        for named in card.provenance["statistics"]["scans"]:
            assert Path(named.split(" (")[0]).name not in page


def test_texts_of_a_foreign_model_are_no_markup():
    evil = "<script>alert(1)</script> [click](http://x) | `a`\n# not a heading"
    about = {"what": evil, "limits": [evil], "torch": evil, "data": evil, "steps": {"a": evil}}
    page = model_readme(card_of(provenance=about))
    bare = page.replace("\\<", "").replace("\\[", "").replace("\\`", "")
    spans = bare.split("`")
    assert "<script>" not in "".join(spans[::2])  # what is no code
    assert "[click]" not in "".join(spans[::2])
    assert "\n# not" not in page
    assert "| steps | not known |" in page


# Whose it is


@pytest.fixture
def write(tiny_run, tiny_config, tmp_path):
    """A function that writes a model into `tmp_path/model`, after so many steps."""
    about = json.loads((tiny_run / "model" / "model.json").read_text())
    about = {key: about[key] for key in ("network", "data", "scale", "intensities", "training")}
    state = new_state(tiny_config, torch.device("cpu"))

    def write(steps: int) -> Path:
        save_model(tmp_path / "model", state, about | {"provenance": {"steps": steps}})
        return Path(tmp_path / "model" / "README.md")

    return write


def test_page_is_written_anew_with_the_model(write):
    assert "Steps: 1." in write(1).read_text()
    assert is_own_readme(write(1))
    assert "Steps: 2." in write(2).read_text()


def test_page_that_was_changed_stays(write):
    page = write(1)
    changed = page.read_text().replace("Steps: 1.", "Steps: many.")
    page.write_text(changed)
    assert not is_own_readme(page)
    assert write(2).read_text() == changed


def test_page_with_something_added_below_stays(write):
    page = write(1)
    page.write_text(page.read_text() + "My notes.\n")
    write(2)
    assert page.read_text().endswith("My notes.\n")


@pytest.mark.parametrize("content", [b"", b"mine", b"\xff\xfe"])
def test_page_of_the_user_in_the_folder_of_an_older_model_stays(write, content):
    page = write(1)
    page.write_bytes(content)
    assert write(2).read_bytes() == content


def test_link_and_folder_of_that_name_stay(write, tmp_path):
    page = write(1)
    own = page.rename(tmp_path / "own.md")
    page.symlink_to(own)
    before = own.read_bytes()
    write(2)
    assert os.readlink(page) == str(own)
    assert own.read_bytes() == before
    page.unlink()
    page.mkdir()
    (page / "mine").write_text("x")
    write(3)
    assert (page / "mine").read_text() == "x"


# Of an export


def test_export_has_the_evaluation_and_the_audit_of_its_run(tiny_run, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    card = read_card(run / "model" / "model.json")
    (run / "evaluation").mkdir(exist_ok=True)
    for place in (run, run / "model"):
        (place / "evaluation").mkdir(exist_ok=True)
        (place / "evaluation" / "metrics.json").write_text("{}")
    assert "no evaluation of this model was there" in exported_readme(run / "model", card)
    metrics = metrics_of(card.sha256)
    (run / "evaluation" / "metrics.json").write_text(json.dumps(metrics.as_json()))
    (run / "audit.json").write_text(json.dumps(audit_of().as_json()))
    page = exported_readme(run / "model", card, "MIT")
    assert page == model_readme(card, licence="MIT", metrics=metrics, audit=audit_of())
    other = Path(shutil.copytree(run / "model", tmp_path / "other" / "folder"))
    shutil.rmtree(other / "evaluation")
    (tmp_path / "other" / "audit.json").write_text(json.dumps(audit_of().as_json()))
    assert exported_readme(other, card) == model_readme(card)


def test_export_of_the_model_of_the_package_has_its_page():
    card, whole = read_card(HEAD / "model.json"), (HEAD / "README.md").read_text()
    page = exported_readme(HEAD, card)
    assert page.startswith(whole)
    assert front_matter(exported_readme(HEAD, card, "MIT"))["license"] == "mit"


def test_export_of_a_damaged_package_is_named(bundled):
    (bundled / "README.md").rename(bundled / "aside.md")
    try:
        with pytest.raises(CheckpointError, match="cannot read it") as caught:
            exported_readme(bundled, read_card(bundled / "model.json"))
    finally:
        (bundled / "aside.md").rename(bundled / "README.md")
    assert caught.value.file == str(bundled / "README.md")


def test_page_in_a_sealed_card_is_that_of_the_same_card_unsealed():
    """The page does not hold the hash of `model.json`, so that neither waits for the other."""
    text = json.dumps({"format": 2, "sha256": UNSEALED.decode(), "files": {}, **bundled_about()})
    card = Card.model_validate_json(sealed(text))
    assert model_readme(card) == model_readme(card.model_copy(update={"sha256": UNSEALED.decode()}))
