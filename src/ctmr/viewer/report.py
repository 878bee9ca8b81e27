"""The policy under which a `report.html` is shown: its own inline parts by their hashes, and nothing else."""

import hashlib
import re
from base64 import b64encode
from pathlib import Path

ENDS_BYTES = 2**17  # style and script stand at the beginning and at the end; pictures between them
_PARTS = {
    "style-src": re.compile(rb"<style>(.*?)</style>", re.DOTALL),
    "script-src": re.compile(rb"<script>(.*?)</script>", re.DOTALL),
}


def policy_of(page: Path) -> str:
    """The policy for a report: no request, no cookie, no frame, and an origin of its own."""
    with page.open("rb") as file:
        text = file.read(ENDS_BYTES)
        size = file.seek(0, 2)
        file.seek(max(len(text), size - ENDS_BYTES))
        text += file.read()
    policy = ["default-src 'none'", "img-src data:", "sandbox allow-scripts"]
    for name, pattern in _PARTS.items():
        hashes = [
            b64encode(hashlib.sha256(part).digest()).decode() for part in pattern.findall(text)
        ]
        policy.append(" ".join([name, *(f"'sha256-{each}'" for each in hashes)]))
    return "; ".join([*policy, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
