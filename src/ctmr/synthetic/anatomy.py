"""One random head: which tissue lies at which millimetre, before any scanner looks at it.

A subject is a pose, a size, a smooth deformation of the average head of `synthetic/organs.py`, a pattern of
cortical folds and a few thicknesses. Its surfaces are evaluated on a coarse lattice in the world
and upsampled to any voxel grid, so a few axial planes cost little and agree with the whole volume.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctmr.synthetic import organs
from ctmr.synthetic.lesions import Lesion
from ctmr.synthetic.shapes import (
    Array,
    Lattice,
    Points,
    common,
    gradient_norm,
    plane_waves,
    wave_field,
    wave_values,
)


@dataclass(frozen=True, eq=False)
class Subject:
    """What makes one head differ from the next."""

    turn: npt.NDArray[np.float64]
    """Rotation (3, 3) from the average head to the world."""
    shift_mm: npt.NDArray[np.float64]
    """World position of the average head's origin (3,)."""
    stretch: npt.NDArray[np.float64]
    """Size along each axis over that of the average head (3,)."""
    bend_mm: float
    """Standard deviation of the smooth deformation."""
    waves: dict[str, Array]
    """The random fields of this head, as plane waves."""
    skull_mm: float
    """Mean thickness of the vault."""
    table_mm: float
    """Thickness of each table of the skull."""
    scalp_mm: float
    """Thickness of skin and fat over the vault."""
    cortex_mm: float
    """Thickness of the cortical ribbon."""
    gap_mm: float
    """Width of the CSF layer between dura and cortex."""
    sulcus_mm: float
    """Half the width of a sulcus at its bottom."""
    ventricles: float
    """Size of the ventricles over the average."""
    tilt: float
    """Size of the right lateral ventricle against the left."""
    sinuses: float
    """Size of the air sinuses over the average."""
    brain_ml: float
    """Brain volume that the size is set for."""
    lesions: tuple[Lesion, ...] = ()
    """In world coordinates."""


def draw_subject(rng: np.random.Generator) -> Subject:
    """A random head; its size is that of the average until it is set for `brain_ml`."""
    pitch, roll, yaw = np.radians(rng.normal(0, (4.0, 2.5, 3.0)).clip(-9, 9))
    return Subject(
        turn=_rotation(pitch, roll, yaw),
        shift_mm=rng.normal(0, (3.0, 4.0, 3.0)),
        stretch=rng.normal(1, (0.03, 0.03, 0.025)).clip(0.93, 1.07),
        bend_mm=float(rng.uniform(0.9, 1.8)),
        waves={
            **{f"bend_{axis}": plane_waves(rng, (110, 200), 8) for axis in "xyz"},
            "wobble": plane_waves(rng, (45, 90), 12),
            "bumps": plane_waves(rng, (16, 30), 16),
            "cells": plane_waves(rng, (9, 13), 16),
            "folds": plane_waves(rng, (16, 23), 20),
            "texture": plane_waves(rng, (25, 70), 16),
            "texture_2": plane_waves(rng, (25, 70), 16),
        },
        skull_mm=float(rng.uniform(5.8, 7.2)),
        table_mm=float(rng.uniform(1.5, 1.9)),
        scalp_mm=float(rng.uniform(4.5, 7.0)),
        cortex_mm=float(rng.uniform(2.5, 3.0)),
        gap_mm=float(rng.uniform(1.4, 3.2)),
        sulcus_mm=float(rng.uniform(0.35, 0.8)),
        ventricles=float(np.clip(np.exp(rng.normal(0.12, 0.28)), 0.7, 1.9)),
        tilt=float(rng.normal(0, 0.08)),
        sinuses=float(rng.uniform(0.75, 1.15)),
        brain_ml=float(np.clip(rng.normal(1335, 90), 1190, 1520)),
    )


def _rotation(pitch: float, roll: float, yaw: float) -> npt.NDArray[np.float64]:
    """Rotation matrix (3, 3) about x, then y, then z, radians."""
    (cp, cr, cy), (sp, sr, sy) = np.cos((pitch, roll, yaw)), np.sin((pitch, roll, yaw))
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    turn: npt.NDArray[np.float64] = about_z @ about_y @ about_x
    return turn


# -- surfaces on a coarse lattice --------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Surfaces:
    """The large surfaces of one subject on a lattice (z, y, x)."""

    average: Points
    """Each node's place in the average head."""
    scale: float
    """World mm per mm of the average head."""
    hull: organs.Hull
    cavity: Array
    """Depth below the inner table in mm."""
    skull_mm: Array
    """Thickness of the skull."""
    skin: Array
    """Depth below the skin in mm."""
    envelope: Array
    """Depth below the smooth envelope of each hemisphere in mm."""

    def brain(self) -> Array:
        """Depth in mm inside the envelope of the whole brain."""
        below = np.maximum(self.hull.cerebellum, self.hull.stem) * self.scale
        depth: Array = np.maximum(self.envelope, below)
        return depth


def surfaces(subject: Subject, lattice: Lattice) -> Surfaces:
    """Skin, skull and brain envelope of a subject."""
    c = _average_points(subject, lattice)
    scale = float(subject.stretch.mean())
    parts = organs.hull(c, subject.gap_mm / scale)
    slope = gradient_norm(parts.cavity, lattice.step_mm)
    cavity = parts.cavity / np.maximum(slope, np.float32(0.35))
    wobble = wave_field(subject.waves["wobble"], lattice)
    side = np.abs(c.x)
    temple = np.exp(-(((c.z + 14) / 24) ** 2) - ((c.y + 2) / 36) ** 2) * (side > 40)
    inion = np.exp(-(((c.z + 30) / 18) ** 2) - ((c.y + 108) / 25) ** 2 - (c.x / 25) ** 2)
    base = 1 / (1 + np.exp((c.z + 24) / 4))
    skull = subject.skull_mm + 0.55 * np.clip(wobble, -2.5, 2.5)
    skull = skull * (1 - 0.3 * temple) * (1 - 0.35 * base) + 3 * inion
    wall = skull + subject.scalp_mm + 0.4 * wobble + 5 * temple
    skin = organs.head_surface(c, cavity / scale, wall / scale) * scale
    parted = np.maximum(side - 1.3, organs.core(c))  # fissure between the hemispheres
    envelope = np.minimum(parts.cerebrum, parted) * scale
    return Surfaces(c, scale, parts, cavity, skull, skin, envelope)


def _average_points(subject: Subject, lattice: Lattice) -> Points:
    """Places in the average head: pose and size undone, then a smooth random deformation."""
    world = lattice.points()
    u = [a - np.float32(s) for a, s in zip(world, subject.shift_mm, strict=True)]
    inverse = (subject.turn / subject.stretch).T.astype(np.float32)  # (turn diag(stretch))^-1
    bend = np.float32(subject.bend_mm)
    return Points(
        *(
            row[0] * u[0]
            + row[1] * u[1]
            + row[2] * u[2]
            + bend * wave_field(subject.waves[f"bend_{axis}"], lattice)
            for row, axis in zip(inverse, "xyz", strict=True)
        )
    )


def coarse_fields(subject: Subject, lattice: Lattice) -> dict[str, Array]:
    """All smooth fields from which tissues are painted, by name, on a lattice, depths in mm."""
    s = surfaces(subject, lattice)
    c, scale = s.average, s.scale
    noise = {
        name: wave_field(subject.waves[name], lattice)
        for name in ("wobble", "bumps", "cells", "texture", "texture_2")
    }
    bumps, wobble = noise["bumps"], noise["wobble"]
    middle = np.clip(organs.core(c) / 4, 0, 1) * np.exp(-((c.x / 22) ** 4))  # no sulci there
    leaf = 0.62 * np.hypot(c.x, c.y + 40) - 0.75 * c.z + 0.8 * bumps
    vein = common(3.6 - np.hypot(c.x, s.cavity / scale - 1.5), 40 - c.y, c.z + 20)
    base = _rows(c, -np.inf, 10)
    b = Points(c.x[base], c.y[base], c.z[base])
    at_base = {
        "bones": organs.bones(b),
        "air": organs.air(b, subject.sinuses, noise["cells"][base]),
        "orbit": organs.orbit_fat(b),
        "eye": organs.eyeball(b),
        "lens": organs.lens(b),
        "strings": organs.orbit_strings(b),
    }
    inner = _rows(c, -45, 45)
    d = Points(c.x[inner], c.y[inner], c.z[inner])
    inside = {
        "callosum": organs.callosum(d),
        "cleft": organs.sylvian(d, bumps[inner]),
        "deep grey": organs.deep_grey(d),
        "ventricle": organs.ventricles(d, subject.ventricles, subject.tilt),
    }
    in_average = {
        **{name: _padded(depth, base, bumps.shape) for name, depth in at_base.items()},
        **{name: _padded(depth, inner, bumps.shape) for name, depth in inside.items()},
        "muscle": organs.muscles(c, s.skin / scale, bumps),
        "midline": c.x,
        "cerebellum": s.hull.cerebellum,
        "leaf": leaf,
        "stem": s.hull.stem,
        "vein": vein,
    }
    return {
        "skin": s.skin,
        "cavity": s.cavity,
        "skull_mm": s.skull_mm,
        "envelope": s.envelope,
        "fold": _folds(subject, lattice, s.envelope),
        "fold_mm": 16 + 4 * wobble - 6 * np.exp(-((c.x / 14) ** 2)) - 40 * middle,
        "bumps": bumps,
        "texture": noise["texture"],
        "texture_2": noise["texture_2"],
        **{name: depth * np.float32(scale) for name, depth in in_average.items()},
    }


def _rows(c: Points, low: float, high: float) -> slice:
    """Layers of the lattice with nodes between two heights of the average head."""
    rows = np.flatnonzero(((c.z > low) & (c.z < high)).any(axis=(1, 2)))
    return slice(rows[0], rows[-1] + 1) if len(rows) else slice(0, 0)


def _padded(depth: Array, rows: slice, shape: tuple[int, ...]) -> Array:
    """A field of some layers, deep outside (-30 mm) on the others."""
    out = np.full(shape, -30, np.float32)
    out[rows] = depth
    return out


def _folds(subject: Subject, lattice: Lattice, envelope: Array) -> Array:
    """Signed distance in mm to the nearest sulcal sheet.

    The sheets are the zero level of a band-limited random field. It is looked up nearer to the
    envelope than the node lies, so that the sheets run inwards, and divided by its slope.
    """
    step = lattice.step_mm
    near = (envelope > -3 * step) & (envelope < 32)
    normal = np.gradient(envelope, step)
    nz, ny, nx = normal[0][near], normal[1][near], normal[2][near]
    back = (np.clip(envelope[near], -3, 26) - 6) * 0.7 / (nx * nx + ny * ny + nz * nz + 0.03)
    world = lattice.points()
    feet = Points(*(a[near] - back * n for a, n in zip(world, (nx, ny, nz), strict=True)))
    field = np.full(envelope.shape, 8, np.float32)
    field[near] = wave_values(subject.waves["folds"], feet)
    slope = gradient_norm(field, step)
    signed = field / np.sqrt(slope * slope + np.float32(0.06**2))
    return np.where(near, np.clip(signed, -8, 8), np.float32(8))
