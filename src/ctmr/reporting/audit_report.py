"""The page of an audit: a table of all kinds of finding, and a contact sheet of the worst of each."""

from collections.abc import Mapping

from ctmr.reporting.html import render
from ctmr.results import AuditReport, Finding
from ctmr.types import LEVELS

MAX_FINDINGS = 24  # of a kind that are shown
MAX_PICTURES_OF_MANY = 12  # pictures of a finding that is one of many
MAX_PICTURES = 96  # of a finding that is the only one of its kind


def audit_page(name: str, report: AuditReport, thumbnails: Mapping[str, bytes]) -> str:
    """The page as HTML, complete in itself.

    Args:
        name: Of the data folder.
        report: What audit.json says.
        thumbnails: JPEG of each readable scan, by its label.
    """
    findings: dict[str, list[Finding]] = {}
    for finding in report.findings:
        findings.setdefault(finding.kind, []).append(finding)
    level_heads = [f"{level}s" for level in LEVELS]
    levels = zip((report.errors, report.warnings, report.notes), level_heads, strict=True)
    scans = [(count, f"scans in {folder}") for folder, count in report.scans.items()]
    return render(
        "audit.html",
        {
            "name": name,
            "totals": [*levels, *scans],
            "levels": LEVELS,
            "level_heads": level_heads,
            "findings": findings,
            "thumbnails": thumbnails,
            "max_findings": MAX_FINDINGS,
            "max_of_many": MAX_PICTURES_OF_MANY,
            "max_pictures": MAX_PICTURES,
        },
    )
