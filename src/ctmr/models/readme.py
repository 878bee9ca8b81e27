"""The page that travels with a model, `README.md`: what is known of it, and what nobody may do with it."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ctmr.config import Config
from ctmr.errors import printable
from ctmr.models.bundle import bundled_page, is_bundled
from ctmr.models.card import MAX_HEADER_BYTES, Card
from ctmr.notice import NOTICE
from ctmr.results import AuditReport, Correlation, DirectionMetrics, Metrics, Share, Summary
from ctmr.system.files import read_regular
from ctmr.system.ownership import is_run
from ctmr.types import DIRECTIONS, MODALITIES, NAMES, Direction, Modality

Kind = TypeVar("Kind")
Result = TypeVar("Result", bound=BaseModel)

README_NAME = "README.md"
TAGS = ("ctmr", "medical-imaging", "ct", "mri", "head", "image-translation", "research-only")
MAX_TEXT = 500  # characters of a text that a model states of itself
UNKNOWN = "not known"
_SEAL = re.compile(rb"<!-- Written by ctmr[^>]* ([0-9a-f]{64}) -->\n\Z")
_SEAL_TEXT = (
    "<!-- Written by ctmr, and anew with the model until you change it; sha256 above: {} -->\n"
)


def model_readme(
    card: Card,
    *,
    licence: str | None = None,
    metrics: Metrics | None = None,
    audit: AuditReport | None = None,
) -> str:
    """The page of a model, with the front matter of model hubs; it names no scan, no path and no date.

    Args:
        card: Of the model.
        licence: Of the weights, an SPDX identifier; that of `card.provenance` where None.
        metrics: An evaluation of this model; one of another is left out, with a word.
        audit: What an audit of its training data found.

    Returns:
        Markdown, sealed: see `is_own_readme`.
    """
    sections = (
        _front_matter(card, licence),
        _title(card),
        _use(card),
        _limits(card, metrics),
        _values(card),
        _data(card, audit),
        _settings(card),
        _figures(card, metrics),
        _ranks(card, metrics),
        _origin(card),
    )
    return _sealed("\n".join("\n".join(lines) + "\n" for lines in sections) + "\n")


def is_own_readme(path: Path) -> bool:
    """Whether a page is one that ctmr wrote and nobody has changed since; no link is."""
    if path.is_symlink():
        return False
    try:
        content = read_regular(path, MAX_HEADER_BYTES)
    except OSError:
        return False
    seal = _SEAL.search(content)
    if seal is None:
        return False
    return hashlib.sha256(content[: seal.start()]).hexdigest().encode() == seal.group(1)


def exported_readme(folder: Path, card: Card, licence: str | None = None) -> str:
    """The page of an export of the model in a folder: with the `evaluation/` and `audit.json` of its run, if they are there.

    Args:
        folder: Where the model that is exported lies; of a model of the package, its own page is taken.
        card: Of that model, not of the export: an evaluation is known by its hash.
        licence: Of the weights, an SPDX identifier; that of `card.provenance` where None.

    Raises:
        CheckpointError: If the page of a model of the package cannot be read.
    """
    if is_bundled(folder):
        page = "\n".join(_front_matter(card, licence)) + "\n\n" + bundled_page(folder.name)
        return _sealed(page)
    run = folder.parent if is_run(folder.parent) else folder
    places = dict.fromkeys(place / "evaluation" / "metrics.json" for place in (folder, run))
    found = [metrics for place in places if (metrics := _read(place, Metrics)) is not None]
    metrics = next((each for each in found if _measured(card, each)), found[0] if found else None)
    audit = _read(run / "audit.json", AuditReport)
    return model_readme(card, licence=licence, metrics=metrics, audit=audit)


def _sealed(text: str) -> str:
    return text + _SEAL_TEXT.format(hashlib.sha256(text.encode()).hexdigest())


def _read(path: Path, kind: type[Result]) -> Result | None:
    try:
        return kind.model_validate_json(read_regular(path, MAX_HEADER_BYTES))
    except (OSError, ValidationError):
        return None


# -- sections: lines of Markdown -----------------------------------------------------------------


def _front_matter(card: Card, licence: str | None) -> list[str]:
    """What model hubs read; they write licences in small letters, in which SPDX sees no difference."""
    licence = licence or _stated(card, "licence", str)
    fields: dict[str, Any] = {"library_name": "ctmr", "pipeline_tag": "image-to-image"}
    fields |= {"license": licence.lower()} if licence else {}
    fields["tags"] = list(TAGS)
    return ["---", yaml.safe_dump(fields, sort_keys=False, width=1000) + "---"]


def _title(card: Card) -> list[str]:
    what = _stated(card, "what", str)
    lines = ["# Translation of head scans between CT and MR", "", f"**{NOTICE}**", ""]
    if what:
        return [*lines, f"{_prose(what)}."]
    networks = f"Two networks (`{card.network.generator}`), one for each direction"
    source = _stated(card, "imported_from", str)
    if source:
        return [*lines, f"{networks}, imported from {_prose(source)}. ctmr did not train them."]
    images, steps = _stated(card, "images", dict) or {}, _stated(card, "steps", int)
    counts = " and ".join(f"{_number(images.get(m))} {NAMES[m]}" for m in MODALITIES)
    return [
        *lines,
        f"{networks}. Slices or images they learnt from: {counts}. Steps: {_number(steps)}.",
    ]


def _use(card: Card) -> list[str]:
    return [
        "## Use",
        "",
        "For research on the translation of axial slices of heads: to study methods, or to train further. Look at",
        "every result beside its source.",
        "",
        "```bash",
        "ctmr translate SCAN OUT --model FOLDER --to ct",
        "```",
        "",
        "FOLDER is the one that holds this page; `--to mr` goes the other way.",
        "The JSON beside a result says how far the scan is from the training data, and how unsure the result is."
        if card.training
        else "Nothing warns of a scan unlike the training data, as their statistics are not known (level `unknown`).",
    ]


def _limits(card: Card, metrics: Metrics | None) -> list[str]:
    lines = [
        "Diagnosis, treatment, dose, or any other decision about a person.",
        "Finding or excluding disease: a translation can remove a lesion, and draw one where there is none.",
        "Taking a translated image for a measured one. What the source does not show is guessed.",
        "Scans unlike those it learnt from: other contrasts, ages, scanners or parts of the body. This page does not"
        " know which those were.",
        "Making scans anonymous: a translated head shows the same face.",
    ]
    if not _has_hu(card):
        lines.append(
            "Reading densities: its CT are grey values of images, **not Hounsfield units**. No threshold, dose or"
            " bone mask may be taken from them."
        )
    if _measured(card, metrics) is None:
        lines.append(
            "Relying on its accuracy: this page knows nothing of how large its errors are."
        )
    limits = _stated(card, "limits", list) or []
    lines += [f"Said of this model: {_prose(each)}." for each in limits if isinstance(each, str)]
    return ["## Not for", "", *(f"- {line}" for line in lines)]


def _values(card: Card) -> list[str]:
    scale = card.scale
    size = f"{scale.short_side} pixels on the short side"
    rows = [(NAMES[m], each) for m in MODALITIES for each in _encodings(card, m)]
    return [
        "## What goes in and comes out",
        "",
        *_table(("modality", "values"), rows),
        "",
        f"Slices are brought to {size if scale.pixel_mm is None else f'{scale.pixel_mm:g} mm a pixel'}, and back"
        f" onto their own grid. Channels: {card.data.channels}."
        + (" Each is translated twice, once mirrored, and averaged." if card.mirror else ""),
    ]


def _encodings(card: Card, modality: Modality) -> Iterator[str]:
    for encoding, intensity in card.intensities.get(modality, {}).items():
        span = f"{intensity.low:g} to {intensity.high:g}"
        if encoding == "HU":
            yield f"Hounsfield units, {span}; what lies beyond is clipped"
        elif intensity.percentiles is not None:
            low, high = intensity.percentiles
            kind = "volumes" if encoding in ("MR", "grey") else f"{encoding} images"
            yield f"{kind}: the {low:g} and {high:g} percentiles of the head in, {span} out; no physical unit"
        else:
            yield f"{encoding} grey values, {span}; no physical unit"


def _data(card: Card, audit: AuditReport | None) -> list[str]:
    images = _stated(card, "images", dict) or {}
    rows = [
        (f"{NAMES[m]} slices or images for training", _number(images.get(m))) for m in MODALITIES
    ]
    data = _stated(card, "data", str) or _stated(card, "maps", str)
    rows.append(("fingerprint (SHA-256)", _code(data) if data else UNKNOWN))
    overlap = _stated(card, "overlap", dict)
    shared = None if overlap is None else sum(n for n in overlap.values() if isinstance(n, int))
    rows.append(("test scans that are, or whose patient is, in the training too", _number(shared)))
    let_in = _stated(card, "let_in", dict)
    forced = None if let_in is None else sum(n for n in let_in.values() if isinstance(n, int))
    rows.append(("scans that only `--anyway` let in", _number(forced)))
    rows.append(("persons, scanners, diseases, consent, licence of the scans", UNKNOWN))
    return ["## Training data", "", *_table(("what", "found"), rows), "", *_audited(audit)]


def _audited(audit: AuditReport | None) -> list[str]:
    if audit is None:
        return ["Audit: none is known for this model (`ctmr audit DATA` makes one)."]
    kinds: dict[tuple[str, str], int] = {}
    for finding in audit.findings:
        kinds[finding.level, finding.kind] = kinds.get((finding.level, finding.kind), 0) + 1
    rows = [(_prose(kind), level, str(count)) for (level, kind), count in kinds.items()]
    counts = f"{audit.errors} errors, {audit.warnings} warnings, {audit.notes} notes"
    return [
        f"Audit of {sum(audit.scans.values())} scans: {counts}.",
        *(["", *_table(("finding", "level", "count"), rows)] if rows else []),
    ]


def _settings(card: Card) -> list[str]:
    lines = ["## Settings", ""]
    try:
        settings = Config.model_validate(card.provenance.get("config")).model_dump()
    except ValidationError:
        lines += ["Of the networks and their input; those of the training are not known.", ""]
        settings = {"network": card.network.model_dump(), "data": card.data.model_dump()}
    pattern = settings["data"].pop("patient_pattern")
    hidden = (
        "# data.patient_pattern: set, and not shown, as it may hold a name\n" if pattern else ""
    )
    shown = hidden + yaml.safe_dump(settings, sort_keys=False)
    return [*lines, "```yaml", shown + "```"]


def _figures(card: Card, metrics: Metrics | None) -> list[str]:
    lines = ["## Figures", ""]
    measured = _measured(card, metrics)
    if measured is None:
        other = metrics is not None
        what = (
            "An evaluation is there, of another state of this model, so that its figures are left out."
            if other
            else "Not known: no evaluation of this model was there when the page was written."
        )
        return [*lines, f"{what} `ctmr evaluate FOLDER PAIRS` measures it."]
    lines += [
        f"n = {measured.n} scans of {measured.patients} patients. Mean over patients [95 % interval].",
        f"Protocol: {_prose(measured.protocol)}",
    ]
    for direction, found in measured.directions.items():
        lines += ["", f"### {direction}", "", *_figures_of(measured, direction, found)]
    if measured.lesions is None:
        return [*lines, "", "What becomes of lesions: not measured in this evaluation."]
    for direction, lesions in measured.lesions.directions.items():
        rows = [
            (_prose(kind), _share(each.survives), _share(each.invented))
            for kind, each in lesions.lesions.items()
        ]
        names = ("lesion", "survives", "slices with something invented")
        title = f"Lesions of {measured.lesions.heads} synthetic heads, {direction}:"
        lines += ["", title, "", *_table(names, rows)]
    return lines


def _figures_of(metrics: Metrics, direction: Direction, found: DirectionMetrics) -> list[str]:
    tables = {"model": found.figures, **found.baselines}
    known = metrics.figures.get(direction, {})
    rows = []
    for key in found.figures:
        about = known.get(key)
        name = f"{about.name}, {about.unit}" if about else key
        better = about.better if about else "neither"
        cells = [_summary(table.get(key)) for table in tables.values()]
        rows.append((_prose(name), better, *cells))
    if not rows:
        return ["No figure against a truth: there were no pairs."]
    return _table(("figure", "better", *map(_prose, tables)), rows)


def _ranks(card: Card, metrics: Metrics | None) -> list[str]:
    lines = ["## Does the stated uncertainty rank true errors?", ""]
    measured = _measured(card, metrics)
    rows: list[tuple[str, ...]] = []
    for direction in DIRECTIONS:
        known: Mapping[Any, Correlation | None] = (card.correlations or {}).get(direction, {})
        if not any(known.values()) and measured and direction in measured.directions:
            known = measured.directions[direction].uncertainty
        for measure, found in known.items():
            rank = UNKNOWN if found is None else f"{found.spearman:.2f} {_interval(found.ci95)}"
            rows.append((direction, _prose(measure), rank, str(found.n) if found else "0"))
    if not rows:
        return [*lines, "Not known: there were no held-out pairs to measure it on."]
    names = ("direction", "measure", "Spearman's rank correlation [95 % interval]", "n")
    return [*lines, *_table(names, rows)]


def _origin(card: Card) -> list[str]:
    stated = ("steps", "ctmr", "torch", "machine", "processor", "device", "precision", "threads")
    rows = []
    for key in stated:
        value = card.provenance.get(key)
        rows.append((key, _code(value) if isinstance(value, str | int | float) else UNKNOWN))
    return ["## Made with", "", *_table(("what", "value"), rows)]


# -- parts of lines ------------------------------------------------------------------------------


def _measured(card: Card, metrics: Metrics | None) -> Metrics | None:
    """The evaluation, if it is one of this model."""
    if metrics is None or metrics.model is None or metrics.model.sha256 != card.sha256:
        return None
    return metrics


def _has_hu(card: Card) -> bool:
    return "HU" in card.intensities.get("ct", {})


def _stated(card: Card, key: str, kind: type[Kind]) -> Kind | None:
    """What the provenance says under a key, if it is of that kind."""
    value = card.provenance.get(key)
    return value if isinstance(value, kind) else None


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(names)
    lines = [heads, ["---"] * len(heads), *map(list, rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _number(value: object) -> str:
    return str(value) if isinstance(value, int) else UNKNOWN


def _summary(found: Summary | None) -> str:
    return UNKNOWN if found is None else f"{found.mean:.4g} {_interval(found.ci95)}"


def _interval(ci95: tuple[float, float]) -> str:
    return f"[{ci95[0]:.3g}, {ci95[1]:.3g}]"


def _share(found: Share) -> str:
    return "none to count" if found.share is None else f"{found.share:.0%} of {found.n}"


def _code(value: object) -> str:
    """A text as a span of code, which no character can end."""
    text = printable(str(value))[:MAX_TEXT].replace("`", "'").replace("|", "/")
    return f"`{text}`"


def _prose(value: object) -> str:
    """A text in which nothing is markup (CommonMark 0.31, 2.4)."""
    return re.sub(r"([\\`*\[\]<>|&#])", r"\\\1", printable(str(value))[:MAX_TEXT])
