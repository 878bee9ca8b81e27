"""The page of an audit: a table of all kinds of finding, and a contact sheet of the worst of each."""

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template

from ctmr.reporting.html import escaped, table
from ctmr.results import AuditReport, Finding
from ctmr.types import LEVELS, Level

MOST_FINDINGS = 24  # of a kind that are shown
FEWEST, MOST_PICTURES = (
    12,
    96,
)  # of a finding, if it is one of many and if it is the only one of its kind
TITLES = {
    "unreadable": "Cannot be read",
    "ctmr_json": "Wrong ctmr.json",
    "not_hu": "CT without HU",
    "exchanged_folders": "Folders exchanged",
    "wrong_modality": "Of the other modality",
    "identical_train_test": "The same pixels in training and test",
    "identical_ct_mr": "The same pixels among CT and MR",
    "identical": "The same pixels twice",
    "near_duplicate": "Copies and near duplicates",
    "patient_train_test": "A patient in training and test",
    "images_and_volumes": "Images beside volumes",
    "empty": "Nothing usable in a folder",
    "saturated": "Saturated",
    "blank": "Blank",
    "frame": "Frames",
    "burnt_in_text": "Letters and rulers",
    "colour": "Colours",
    "skipped": "Skipped",
    "mixed_planes": "Other planes",
    "below_brain": "Below the brain",
    "vertex": "Top of the head",
    "partial_head": "A part of the head",
    "mixed_sizes": "Several sizes",
    "mixed_modes": "Several modes",
    "imbalance": "Imbalance",
}


def audit_page(name: str, report: AuditReport, thumbnails: Mapping[str, bytes]) -> str:
    """The page as HTML, complete in itself.

    Args:
        name: Of the data folder.
        report: What audit.json says.
        thumbnails: JPEG of each readable scan, by its label.
    """
    kinds: dict[str, list[Finding]] = {}
    for finding in report.findings:
        kinds.setdefault(finding.kind, []).append(finding)
    template = (resources.files("ctmr.reporting") / "templates" / "audit.html.template").read_text(
        encoding="utf-8"
    )
    return Template(template).substitute(
        name=escaped(name),
        tiles=_tiles(report),
        summary=_summary(kinds),
        sheets="".join(_sheet(kind, its, thumbnails) for kind, its in kinds.items()),
    )


def _tiles(report: AuditReport) -> str:
    tiles = [(report.errors, "errors"), (report.warnings, "warnings"), (report.notes, "notes")]
    tiles += [(count, f"scans in {folder}") for folder, count in report.scans.items()]
    items = (
        f"<li><b>{escaped(value)}</b><span>{escaped(what)}</span></li>" for value, what in tiles
    )
    return f'<ul class="tiles">{"".join(items)}</ul>'


def _summary(kinds: Mapping[str, Sequence[Finding]]) -> str:
    if not kinds:
        return "<p>Nothing was found.</p>"
    body = "".join(
        f'<tr><th scope="row"><a href="#{escaped(kind)}">{escaped(_title(kind))}</a></th>'
        f"{''.join(_count(its, level) for level in LEVELS)}"
        f"<td>{sum(len(each.files) for each in its)}</td></tr>"
        for kind, its in kinds.items()
    )
    return table((*(f"{level}s" for level in LEVELS), "files"), body)


def _count(findings: Sequence[Finding], level: Level) -> str:
    count = sum(each.level == level for each in findings)
    return f'<td class="{level}">{count}</td>' if count else "<td></td>"


def _sheet(kind: str, findings: Sequence[Finding], thumbnails: Mapping[str, bytes]) -> str:
    """The first findings of a kind, each with its reason and pictures."""
    shown = findings[:MOST_FINDINGS]
    each = max(FEWEST, MOST_PICTURES // len(shown))
    cards = "".join(_card(finding, each, thumbnails) for finding in shown)
    others = len(findings) - len(shown)
    rest = f'<p class="soft">{others} more of this kind are in the JSON file.</p>' if others else ""
    title = f'<h2 id="{escaped(kind)}">{escaped(_title(kind))}</h2>'
    return f'{title}<div class="cards">{cards}</div>{rest}'


def _card(finding: Finding, most: int, thumbnails: Mapping[str, bytes]) -> str:
    files = finding.files[:most]
    figures = "".join(_figure(file, thumbnails.get(file)) for file in files)
    more = len(finding.files) - len(files)
    level, why = escaped(finding.level), escaped(finding.why)
    return (
        f'<section><p><span class="{level}">{level}</span> {why}{f"; {more} more" if more else ""}</p>'
        f'<div class="sheet">{figures}</div></section>'
    )


def _figure(file: str, thumbnail: bytes | None) -> str:
    """A picture with its name; the name alone where there is none."""
    image = ""
    if thumbnail is not None:
        data = base64.b64encode(thumbnail).decode()
        image = f'<img src="data:image/jpeg;base64,{data}" alt="">'
    return f"<figure>{image}<figcaption>{escaped(file)}</figcaption></figure>"


def _title(kind: str) -> str:
    return TITLES.get(kind, kind)
