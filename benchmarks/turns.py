"""Programs measured in turn, each time in a process of its own: A B A B, so that a slow minute of the machine meets all.

A program prints JSON as its last line, with its `seconds`; anything else there is passed on.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Command = Sequence[str | Path]

# Starts a program and prints its seconds and peak memory in kB. A process has at least the peak of the one that started it,
# and this one is small.
STARTER = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.call(sys.argv[1:])
seconds = time.perf_counter() - started
print("\\n%f %d" % (seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), flush=True)
sys.exit(code)
"""


@dataclass
class Measured:
    """What the runs of one program gave.

    Attributes:
        seconds: That each run printed, or else took as a whole process.
        peak_mb: Highest memory of any of its processes so far.
        printed: What the last run printed.
    """

    seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    printed: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median of the runs' seconds."""
        return statistics.median(self.seconds)


def in_turn(programs: Mapping[str, Command], rounds: int) -> dict[str, Measured]:
    """Run every program once in each round."""
    found = {name: Measured() for name in programs}
    for n in range(rounds):
        for name, command in programs.items():
            print(f"round {n + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            _run(command, found[name])
    return found


def _run(command: Command, into: Measured) -> None:
    with tempfile.TemporaryFile("w+") as output:
        words = [sys.executable, "-I", "-S", "-c", STARTER, *map(str, command)]
        done = subprocess.run(words, stdout=output, stderr=output, check=False)
        output.seek(0)
        *lines, measured = filter(None, output.read().splitlines())
    if done.returncode != 0:
        text = "\n".join(lines)
        raise SystemExit(f"{' '.join(map(str, command[:3]))} ... failed:\n{text[-2000:]}")
    seconds, peak_kb = map(float, measured.split())
    last = lines[-1] if lines else ""
    into.printed = json.loads(last) if last.startswith("{") else {}
    into.seconds.append(float(into.printed.get("seconds", seconds)))
    into.peak_mb = max(into.peak_mb, peak_kb / 1024)


def print_table(
    title: str, found: Mapping[str, Measured], base: str, *, peaks: Mapping[str, float]
) -> None:
    """A Markdown table: seconds, how many times as fast as `base`, memory, arithmetic and its share of the peak.

    Args:
        title: Head of the first column.
        found: Of `in_turn`; `gflop`, `precision` and `convolutions`, the seconds of these alone, are what a program said.
        base: The program that others are compared with.
        peaks: GFLOP/s of convolutions by precision; see `roofline.convolution_peak`.
    """
    over = any("convolutions" in each.printed for each in found.values())
    heads = [title, "seconds", "times as fast", "peak MB", "GFLOP/s", "share of the peak"]
    heads += ["over its convolutions"] if over else []
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, each in found.items():
        rate = each.printed["gflop"] / each.median if "gflop" in each.printed else None
        cells = (
            name,
            f"{each.median:.3f} [{min(each.seconds):.3f}, {max(each.seconds):.3f}]",
            f"{found[base].median / each.median:.2f}",
            f"{each.peak_mb:.0f}",
            f"{rate:.0f}" if rate else "-",
            f"{100 * rate / peaks[each.printed['precision']]:.0f} %" if rate else "-",
            *_over_convolutions(each, over),
        )
        print(f"| {' | '.join(cells)} |")


def _over_convolutions(each: Measured, wanted: bool) -> tuple[str, ...]:
    if not wanted:
        return ()
    alone = each.printed.get("convolutions")
    return (f"{each.median / alone:.2f}" if alone else "-",)


def as_json(found: Mapping[str, Measured], peaks: Mapping[str, float]) -> str:
    """All of it on one line."""
    return json.dumps({"peaks": peaks, **{name: vars(each) for name, each in found.items()}})
