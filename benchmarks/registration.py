#!/usr/bin/env python3
"""Register the MR of a head to its CT, with and without a synthetic CT in between: errors in mm.

    registration.py [--heads 6] [--offsets 2] [--mm 15] [--degrees 12] [--sequence t1|t2] [--model MODEL] [--out FILE.json]

The CT and the MR of a synthetic head lie on two grids in one space. The MR is moved by a random rigid offset, in its header
only: by up to so many mm along each axis, and up to so many degrees about a random axis through the head. SimpleITK looks for the
offset, each time with the same optimiser and pyramid: by mutual information of the MR and the CT, by three measures of the CT
that a model makes of the MR and the CT, and, as a bound, with the true CT on the grid of the MR. The error is the mean distance, over the voxels of the head, from where the true offset
puts them to where the found one does. Heads have the seeds 0, 1, ...; offset N of head S the seed (S, N).
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ctmr import load_model
from ctmr.imaging.volume import LPS, Volume
from ctmr.synthetic.head import Head, synthesise_head
from ctmr.system.files import write_json
from ctmr.types import Matrix

CT_GRID: dict[str, Any] = {"shape": (224, 256, 60), "spacing_mm": (0.9, 0.9, 3.0)}
MR_GRID: dict[str, Any] = {"shape": (180, 208, 45), "spacing_mm": (1.1, 1.1, 4.0)}
SUCCESS_MM = 2.0
SHARE = 0.05  # of the voxels, by which a measure is computed
POINTS = 5000  # of the head, by which the error is

Measure = Callable[[sitk.ImageRegistrationMethod], None]


def mutual_information(method: sitk.ImageRegistrationMethod) -> None:
    """Mattes' mutual information of 50 bins."""
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=50)


def mean_squares(method: sitk.ImageRegistrationMethod) -> None:
    """The mean squared difference."""
    method.SetMetricAsMeanSquares()


def correlation(method: sitk.ImageRegistrationMethod) -> None:
    """The correlation coefficient."""
    method.SetMetricAsCorrelation()


# What is registered to the CT, and by which measure.
WAYS: dict[str, tuple[str, Measure]] = {
    "MR, mutual information": ("mr", mutual_information),
    "synthetic CT, mutual information": ("synthetic", mutual_information),
    "synthetic CT, mean squares": ("synthetic", mean_squares),
    "synthetic CT, correlation": ("synthetic", correlation),
    "true CT, mean squares": ("true", mean_squares),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--offsets", type=int, default=2, help="of each head")
    parser.add_argument("--mm", type=float, default=15.0, help="largest shift along an axis")
    parser.add_argument("--degrees", type=float, default=12.0, help="largest turn")
    parser.add_argument("--sequence", choices=("t1", "t2"), default="t1")
    parser.add_argument(
        "--model", default="head", help="a MODEL; the bundled one where none is named"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the same sums in the same order
    rows = measured(options)
    print(f"| way | median, mm | mean, mm | worst, mm | within {SUCCESS_MM:g} mm |")
    print("|---|---|---|---|---|")
    for name in ("not registered", *WAYS):
        errors = np.array([row[name] for row in rows])
        count = f"{(errors <= SUCCESS_MM).sum()} of {len(errors)}"
        middle = f"{np.median(errors):.2f} | {errors.mean():.2f}"
        print(f"| {name} | {middle} | {errors.max():.2f} | {count} |")
    if options.out is not None:
        write_json(options.out, rows)


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row an offset: head, offset, and the error of each way in mm."""
    translator = load_model(options.model)
    rows = []
    for seed in range(options.heads):
        head, other = (
            synthesise_head(seed, sequence=options.sequence, **grid) for grid in (CT_GRID, MR_GRID)
        )
        ct = Volume(head.ct, head.affine, "ct")
        mr = Volume(other.mr, other.affine, "mr")
        scans = {
            "mr": mr,
            "synthetic": translator.translate(mr, to="ct"),
            "true": Volume(other.ct, other.affine, "ct"),
        }
        points = points_of(head)
        for number in range(options.offsets):
            most = options.mm, options.degrees
            offset = random_offset((seed, number), points.mean(axis=0), *most)
            row: dict[str, Any] = {"head": seed, "offset": number}
            row["not registered"] = error_mm(np.eye(4), offset, points)
            for name, (kind, measure) in WAYS.items():
                moving = replace(scans[kind], affine=offset @ scans[kind].affine)
                row[name] = error_mm(registered(ct, moving, measure), offset, points)
            rows.append(row)
            print(row, flush=True)
    return rows


def points_of(head: Head) -> Matrix:
    """Evenly chosen voxels of a head in mm (N, 3), RAS+."""
    places = np.argwhere(head.mask)
    places = places[:: max(1, len(places) // POINTS)]
    return np.asarray(places @ head.affine[:3, :3].T + head.affine[:3, 3])


def random_offset(seed: tuple[int, int], centre: Matrix, mm: float, degrees: float) -> Matrix:
    """A rigid motion (4, 4) in RAS+ mm: a turn about a random axis through the centre, then a shift."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.radians(rng.uniform(-degrees, degrees))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    offset = np.eye(4)
    offset[:3, :3] = turn
    offset[:3, 3] = centre - turn @ centre + rng.uniform(-mm, mm, 3)
    return offset


def registered(fixed: Volume, moving: Volume, measure: Measure) -> Matrix:
    """The rigid motion (4, 4) in RAS+ mm that takes places in `fixed` to those in `moving`, found by SimpleITK."""
    images = fixed.to_sitk(), moving.to_sitk()
    method = sitk.ImageRegistrationMethod()
    measure(method)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SHARE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=1e-3, numberOfIterations=200, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0, 0.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    start = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    start = sitk.Euler3DTransform(start)
    start.SetTranslation((0.0, 0.0, 0.0))  # the headers are believed: no shift to begin with
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(*images)
    found = np.eye(4)
    found[:3, :3] = np.reshape(start.GetMatrix(), (3, 3))
    found[:3, 3] = start.TransformPoint((0.0, 0.0, 0.0))
    return np.asarray(LPS @ found @ LPS)


def error_mm(found: Matrix, true: Matrix, points: Matrix) -> float:
    """Mean distance in mm between where two motions put points (N, 3)."""
    difference = found - true
    moved = points @ difference[:3, :3].T + difference[:3, 3]
    return float(np.linalg.norm(moved, axis=1).mean())


if __name__ == "__main__":
    main()
