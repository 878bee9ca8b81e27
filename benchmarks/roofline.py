"""The limit: how fast this machine multiplies in convolutions, and which share of it whole generators reach.

    python benchmarks/roofline.py [--size 256] [--rounds 5] [--json]

The peak is the best of several runs of one 3x3 convolution with 256 channels, in channels-last layout, by PyTorch: a
limit that a whole network does not reach, as its other layers do little arithmetic for each number they move.
"""

import argparse
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from ctmr.config import Config, load_config
from ctmr.cyclegan.cyclegan import generator_of
from ctmr.cyclegan.networks import Generator, initialise
from ctmr.errors import UsageError
from ctmr.models.engines import NEEDS, Precision, require_engine
from ctmr.models.torch_engine import choose_precision, network_by
from ctmr.system.rng import torch_stream

PRECISIONS: tuple[Precision, Precision] = ("float32", "bfloat16")
NATIVE = PRECISIONS if choose_precision("auto", "cpu") == "bfloat16" else PRECISIONS[:1]
"""Those that this processor does not emulate."""
RUNS = 30  # of the convolution whose best is the peak
# By how Linux names them. Without the first two, bfloat16 is emulated.
UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2"}
# The reference's generator has nine blocks. Preset, file and changes, as `load_config` takes them.
NINE_BLOCKS = ("network.generator=resnet", "network.blocks=9", "data.channels=1")
GENERATORS: dict[str, tuple[str, Path | None, tuple[str, ...]]] = {
    "9-blocks": ("paper", None, NINE_BLOCKS),
    "paper": ("paper", None, ()),
    "default": ("default", None, ()),
    "small": ("small", None, ()),
    "default-0.1.0": ("default", Path(__file__).with_name("default-0.1.0.yaml"), ()),
    "small-0.1.0": ("small", Path(__file__).with_name("small-0.1.0.yaml"), ()),
    "small-0.1.0 with known": (
        "small",
        Path(__file__).with_name("small-0.1.0.yaml"),
        ("loss.truth=1", "loss.half_real=1"),
    ),
}


def main() -> None:
    """Print the peaks, then the generators of the presets in every engine there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = ",".join(GENERATORS)
    parser.add_argument("--generators", default=names, help=names)
    parser.add_argument("--size", type=int, default=256, help="side of a slice; small takes half")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    peaks = {precision: convolution_peak(precision) for precision in PRECISIONS}
    print(processor())
    for precision, peak in peaks.items():
        print(f"convolutions in {precision}: {peak:.0f} GFLOP/s at most")
    print(
        "\n| generator | GFLOP a slice | engine | precision | ms a slice | GFLOP/s | share of the peak |"
    )
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name in options.generators.split(","):
        config = load_config(*GENERATORS[name])
        size = options.size // 2 if name.startswith("small") else options.size
        for row in rows_of(name, config, size, options.rounds):
            row["share"] = row["gflops"] / peaks[row["precision"]]
            rows.append(row)
            print(
                f"| {name} | {row['gflop']:.1f} | {row['engine']} | {row['precision']} |"
                f" {1000 * row['seconds']:.1f} | {row['gflops']:.0f} | {100 * row['share']:.0f} % |",
                flush=True,
            )
    if options.json:
        print(json.dumps({"peaks": peaks, "rows": rows}))


def rows_of(name: str, config: Config, size: int, rounds: int) -> list[dict[str, Any]]:
    """Median seconds a slice of a generator in each engine that is installed."""
    generator = generator_of(config.network, config.data.channels).eval().requires_grad_(False)
    initialise(generator, config.network.initialisation, torch_stream(0, name))
    shape = (4, config.data.channels, size, size)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    gflop = flops(lambda: generator(torch.from_numpy(images))) / len(images) / 1e9
    rows = []
    for engine in NEEDS:
        for precision in PRECISIONS:
            try:
                require_engine(engine, precision)
            except UsageError:
                continue
            seconds = _seconds(generator, images, engine, precision, rounds) / len(images)
            row = {"generator": name, "engine": engine, "precision": precision, "gflop": gflop}
            rows.append(row | {"seconds": seconds, "gflops": gflop / seconds})
    return rows


def _seconds(
    generator: Generator, images: Any, engine: Any, precision: Precision, rounds: int
) -> float:
    forward = network_by(engine, generator, images.shape[1], precision).forward
    forward(images)
    return statistics.median(timed(lambda: forward(images)) for _ in range(rounds))


def convolution_peak(precision: Precision) -> float:
    """GFLOP/s of the best of `RUNS` runs of a 3x3 convolution of 256 channels on 64x64 pixels."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(dtype)
    torch.nn.utils.convert_conv2d_weight_memory_format(layer, torch.channels_last)
    x = torch.randn(1, 256, 64, 64).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        best = min(timed(lambda: layer(x)) for _ in range(RUNS))
    return 2 * 256 * 256 * 9 * 64 * 64 / best / 1e9


def flops(work: Callable[[], object]) -> float:
    """Floating-point operations of the convolutions in some work, a multiplication with its addition being two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def convolution_seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Seconds that the convolutions of some work take when nothing else is done: each again, in a loop, on random numbers.

    Args:
        work: Is run once, to see which convolutions it does, forward and backward.
        rounds: Of each convolution; the median counts.
    """
    with _Convolutions() as seen:
        work()
    total = 0.0
    with torch.no_grad():
        for (operator, key), times in seen.calls.items():
            arguments = tree_map(_random, seen.arguments[operator, key])
            operator(*arguments)
            again = [timed(lambda: operator(*arguments)) for _ in range(rounds)]  # noqa: B023
            total += times * statistics.median(again)
    return total


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the convolutions that are done, by shapes, layouts and types."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[tuple[Any, str]] = Counter()
        self.arguments: dict[tuple[Any, str], Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (
            torch.ops.aten.convolution.default,
            torch.ops.aten.convolution_backward.default,
        ):
            described = tree_map(_description, args)
            self.calls[func, str(described)] += 1
            self.arguments[func, str(described)] = described
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)  # a leaf, as a tuple would not be
class _Described:
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _description(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return _Described(tuple(value.shape), value.stride(), value.dtype)


def _random(value: Any) -> Any:
    if not isinstance(value, _Described):
        return value
    reach = sum((n - 1) * step for n, step in zip(value.shape, value.stride, strict=True)) + 1
    return torch.randn(reach).to(value.dtype).as_strided(value.shape, value.stride)


def processor() -> str:
    """The processor's name, its cores that can be used, and what it multiplies matrices with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    units = [UNITS[flag] for flag in UNITS if flag in facts.get("flags", "").split()]
    name = facts.get("model name", "unknown processor")
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {units[0] if units else 'no vectors'}"


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
