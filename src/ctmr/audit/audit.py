"""What is wrong with a data folder, before a day of training is spent on it: JSON, a page, and a cleaned copy."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctmr.audit.checks import find_faults
from ctmr.audit.clean import plan_cleaning, write_clean
from ctmr.audit.inventory import Inventory, take_inventory
from ctmr.audit.leaks import clusters, copies_of, find_leaks
from ctmr.errors import DataError, UsageError, printable
from ctmr.io.reading import DEFAULT, Reading
from ctmr.reporting.audit_report import audit_page
from ctmr.results import AuditReport, Finding
from ctmr.system.files import json_bytes, require_empty
from ctmr.system.ownership import require_own, write_own
from ctmr.types import LEVELS, Progress


def audit(
    data: Path,
    out: Path = Path("audit.json"),
    clean: Path | None = None,
    *,
    patient_pattern: str | None = None,
    reading: Reading = DEFAULT,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> AuditReport:
    """Look at every scan of a data folder and write what was found; the folder itself is not changed.

    Args:
        data: `trainA trainB testA testB` or `train/ct train/mr test/ct test/mr`.
        out: JSON file; a page with the same name and the suffix .html is written beside it.
        clean: New folder for a cleaned copy.
        patient_pattern: Regular expression whose first group, searched in a file's path, names the patient.
        reading: What to believe of scans that say too little.
        overwrite: Replace files in the place of `out` and its page too that ctmr did not write.
        progress: Called with scans done and scans to do.

    Returns:
        What the JSON file says: numbers of errors, warnings and notes, scans in each folder, the findings, and what is
        in the cleaned copy.

    Raises:
        DataError: If both training folders are missing, or nothing to train on is left in the cleaned copy.
        UsageError: If the pattern, `out` or `clean` cannot be used.
        OutputError: If something cannot be written.
    """
    _check(data, out, clean)
    require_own([out, page_of(out)], overwrite=overwrite, inputs=[data])
    inventory = take_inventory(data, patient_pattern, progress, reading=reading)
    copies = copies_of(inventory.pictures)
    same = clusters(inventory.pictures, copies)
    leaks, faults = find_leaks(inventory.pictures, copies), find_faults(inventory, same)
    findings = [*inventory.findings, *leaks, *faults]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    report = _report(inventory, findings)
    page = audit_page(
        data.resolve().name, report, {each.label: each.thumbnail for each in inventory.pictures}
    )
    write_own(out, json_bytes(report.as_json()), overwrite=overwrite)
    write_own(page_of(out), page.encode(), overwrite=overwrite)
    if clean is not None:
        cleaning = plan_cleaning(inventory, findings, same)
        write_clean(clean, cleaning)
        report.cleaned = cleaning.counted()
        write_own(out, json_bytes(report.as_json()), overwrite=overwrite)
    return report


def _report(inventory: Inventory, findings: Sequence[Finding]) -> AuditReport:
    scans = Counter(picture.folder for picture in inventory.pictures)
    levels = Counter(finding.level for finding in findings)
    return AuditReport(
        errors=levels["error"],
        warnings=levels["warning"],
        notes=levels["note"],
        scans={folder: scans[folder] for folder in inventory.folders.values()},
        findings=list(findings),
    )


class Faulty(DataError):
    """A data folder with findings of level error; as JSON it holds all findings."""

    def __init__(self, data: Path, out: Path, report: AuditReport) -> None:
        kinds = {each.kind: None for each in report.findings if each.level == "error"}
        super().__init__(
            f"expected a folder without errors: found {report.errors} ({', '.join(kinds)})",
            file=data,
            fix=f"look at {printable(str(page_of(out)))}; --clean OUT_DIR writes a cleaned copy",
        )
        self.report = report

    def as_json(self) -> dict[str, Any]:
        """The error, and what audit.json says."""
        return super().as_json() | self.report.as_json()


def page_of(out: Path) -> Path:
    """Where the page of a JSON file lies."""
    return out.with_suffix(".html")


def _check(data: Path, out: Path, clean: Path | None) -> None:
    """Refuse outputs in the data folder, before the work is done."""
    if out.suffix != ".json":
        raise UsageError(
            f"expected a file that ends in .json: found {out.suffix!r}",
            file=out,
            fix="change the suffix of --out",
        )
    for path in (out, clean):
        if path is not None and path.resolve().is_relative_to(data.resolve()):
            raise UsageError(
                "an audit writes nothing into the data folder",
                file=path,
                fix="choose a place outside with --out or --clean",
            )
    if clean is not None:
        require_empty(clean)
