"""Implicit shapes in mm (depth fields, positive inside), random waves, and cubic upsampling."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Axis = npt.NDArray[np.floating[Any]]
Point = tuple[float, float, float]


class Points(NamedTuple):
    """Coordinates in mm, three arrays that broadcast to one shape."""

    x: Array
    y: Array
    z: Array


class Lattice(NamedTuple):
    """Regular nodes aligned with the axes, coordinates in mm; fields on it are (z, y, x)."""

    x: Axis
    y: Axis
    z: Axis
    step_mm: float

    def points(self) -> Points:
        """All nodes, three arrays (z, y, x)."""
        z, y, x = np.meshgrid(*(a.astype(np.float32) for a in self[2::-1]), indexing="ij")
        return Points(x, y, z)


def enclosing_lattice(low: Iterable[float], high: Iterable[float], step_mm: float) -> Lattice:
    """Nodes at multiples of `step_mm` that reach two steps beyond a box, so that boxes share nodes."""
    x, y, z = (
        step_mm * np.arange(np.floor(a / step_mm) - 2, np.ceil(b / step_mm) + 3)
        for a, b in zip(low, high, strict=True)
    )
    return Lattice(x, y, z, step_mm)


def ellipsoid(at: Points, centre: Point, radii: Point) -> Array:
    """Depth below an ellipsoid, to first order near its surface."""
    u = [(a - np.float32(c)) / np.float32(r) for a, c, r in zip(at, centre, radii, strict=True)]
    squares = [v * v for v in u]
    size = np.sqrt(squares[0] + squares[1] + squares[2]) + np.float32(1e-3)
    slope = np.sqrt(sum(v * np.float32(1 / r**2) for v, r in zip(squares, radii, strict=True)))
    depth: Array = size * (1 - size) / (slope + np.float32(1e-3 / max(radii)))
    return depth


def capsule(at: Points, start: Point, end: Point, radii: tuple[float, float]) -> Array:
    """Depth inside a tube from `start` to `end` whose radius runs from `radii[0]` to `radii[1]`."""
    axis = np.subtract(end, start).astype(np.float32)
    u = [a - np.float32(s) for a, s in zip(at, start, strict=True)]
    along = np.clip((u[0] * axis[0] + u[1] * axis[1] + u[2] * axis[2]) / (axis @ axis), 0, 1)
    v = [a - along * b for a, b in zip(u, axis, strict=True)]
    radius = np.float32(radii[0]) + np.float32(radii[1] - radii[0]) * along
    depth: Array = radius - np.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    return depth


def tube(at: Points, path: Sequence[Point], radii: Sequence[float]) -> Array:
    """Depth inside the union of the tubes between consecutive points of `path`."""
    ends = zip(path, path[1:], radii, radii[1:], strict=False)
    return union(*(capsule(at, a, b, (r, s)) for a, b, r, s in ends))


def union(*depths: Array) -> Array:
    """Depth below the surface of the union."""
    out = depths[0].copy()
    for depth in depths[1:]:
        np.maximum(out, depth, out=out)
    return out


def common(*depths: Array) -> Array:
    """Depth below the surface of the intersection."""
    out = depths[0].copy()
    for depth in depths[1:]:
        np.minimum(out, depth, out=out)
    return out


def smooth_union(a: Array, b: Array, radius: float) -> Array:
    """Union whose concave edge is rounded over `radius` mm."""
    gap = np.maximum(np.float32(radius) - np.abs(a - b), 0)
    out: Array = np.maximum(a, b) + gap * gap / np.float32(4 * radius)
    return out


def gradient_norm(field: Array, step_mm: float) -> Array:
    """Length of the gradient, in units of the field per mm."""
    z, y, x = np.gradient(field, step_mm)
    norm: Array = np.sqrt(x * x + y * y + z * z)
    return norm


def plane_waves(rng: np.random.Generator, length_mm: tuple[float, float], count: int) -> Array:
    """Wave vectors and phases (count, 4) of a random field with wavelengths within `length_mm`."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    k = 2 * np.pi * direction / rng.uniform(*length_mm, size=(count, 1))
    out: Array = np.column_stack((k, rng.uniform(0, 2 * np.pi, count))).astype(np.float32)
    return out


def wave_field(waves: Array, on: Lattice) -> Array:
    """Sum of plane waves (z, y, x), unit variance: Re exp(i kx x) exp(i ky y) exp(i kz z + i phase)."""
    x, y, z = (np.exp(1j * np.outer(a, k)) for a, k in zip(on[:3], waves.T[:3], strict=True))
    zy = (z * np.exp(1j * waves[:, 3]))[:, None] * y  # (z, y, count)
    left = np.concatenate((zy.real, -zy.imag), axis=-1).astype(np.float32)
    right = np.concatenate((x.real, x.imag), axis=-1).astype(np.float32)
    field: Array = left @ right.T * np.float32(np.sqrt(2 / len(waves)))
    return field


def wave_values(waves: Array, at: Points) -> Array:
    """The field of `wave_field` at any points."""
    out = np.zeros(at.x.shape, np.float32)
    for kx, ky, kz, phase in waves:
        out += np.cos(kx * at.x + ky * at.y + kz * at.z + phase)
    out *= np.float32(np.sqrt(2 / len(waves)))
    return out


def cubic_weights(at: Axis, nodes: Axis) -> Array:
    """Weights (len(at), len(nodes)) of cubic convolution from regular nodes (Keys 1981, a = -1/2)."""
    step = nodes[1] - nodes[0]
    t = np.abs(at[:, None] - nodes) / step
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0))
    out: Array = (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)).astype(np.float32)
    return out


def upsample(fields: Array, wz: Array, wy: Array, wx: Array) -> Array:
    """Fields (F, z, y, x) on coarse nodes -> (F, Z, Y, X) through one matrix of weights an axis."""
    count, nz = fields.shape[:2]
    out = np.matmul(wz, fields.reshape(count, nz, -1)).reshape(count, len(wz), *fields.shape[2:])
    across = np.empty((*out.shape[:2], len(wy), out.shape[3]), np.float32)
    for rows, near in _bands(wy):
        np.matmul(wy[rows, near], out[:, :, near], out=across[:, :, rows])
    fine = np.empty((*across.shape[:3], len(wx)), np.float32)
    for rows, near in _bands(wx):
        np.matmul(across[..., near], wx[rows, near].T, out=fine[..., rows])
    return fine


def _bands(weights: Array, size: int = 32) -> list[tuple[slice, slice]]:
    """Blocks of rows, each with the few columns that matter to it: small products, no idle zeros."""
    bands = []
    for start in range(0, len(weights), size):
        near = np.flatnonzero(weights[start : start + size].any(axis=0))
        rows = slice(start, min(start + size, len(weights)))
        bands.append((rows, slice(near[0], near[-1] + 1) if len(near) else slice(0, 1)))
    return bands
