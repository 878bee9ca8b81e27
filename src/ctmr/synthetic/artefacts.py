"""What scanners add to the slice they see: noise, kernels, coils, motion, tables, metal."""

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image as Pillow

from ctmr.synthetic.planes import smooth
from ctmr.synthetic.shapes import Array

Image = npt.NDArray[np.float32]


def ct_scanner(rng: np.random.Generator, ct: Image, head: npt.NDArray[np.bool_]) -> Image:
    """Kernel, noise, cupping, table and dental metal."""
    shape = ct.shape
    if rng.uniform() < 0.4:
        ct = ct + np.float32(rng.uniform(0, 0.6)) * (ct - scipy.ndimage.gaussian_filter(ct, 1.2))
    ct = ct + np.where(head, np.float32(rng.uniform(0, 8)) * smooth(rng, shape, 5)[0], 0)
    noise = rng.standard_normal(shape, np.float32)
    noise = scipy.ndimage.gaussian_filter(noise, rng.uniform(0, 1.2), truncate=3)
    ct += np.float32(rng.uniform(1, 14) / max(float(noise.std()), 1e-3)) * noise
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    if rng.uniform() < 0.5:
        rows = np.flatnonzero(head.any(axis=1))
        below = float(rows[-1]) if len(rows) else shape[0] / 2
        bow = rng.uniform(0, 0.006) * (x - shape[1] / 2 - rng.normal(0, 10)) ** 2
        depth = y - (below + rng.uniform(-14, 12)) + bow
        wall = (
            (abs(depth) < rng.uniform(0.6, 2.5))
            & ~head
            & (abs(x - shape[1] / 2) < rng.uniform(0.2, 0.5) * shape[1])
        )
        ct[wall] = rng.uniform(-800, 200)
        if rng.uniform() < 0.5:
            ct[
                (depth > 2)
                & (depth < rng.uniform(6, 30))
                & ~head
                & (abs(x - shape[1] / 2) < 0.4 * shape[1])
            ] += rng.uniform(5, 120)
    if rng.uniform() < 0.04:
        ct = _metal(rng, ct, head, x, y)
    clipped: Image = np.clip(ct, -1024, 3071).astype(np.float32)
    return clipped


def _metal(
    rng: np.random.Generator, ct: Image, head: npt.NDArray[np.bool_], x: Array, y: Array
) -> Image:
    rows, columns = np.nonzero(head)
    if not len(rows):
        return ct
    place = int(rng.integers(len(rows)))
    dx, dy = x - columns[place], y - rows[place]
    away = np.sqrt(dx * dx + dy * dy) + 1
    rays = np.interp(np.arctan2(dy, dx), np.linspace(-np.pi, np.pi, 60), rng.normal(0, 1, 60))
    ct = ct + np.where(head, 1500 * rays / away, 0)
    ct[away < rng.uniform(2, 6)] = 3071
    return ct


def mr_scanner(
    rng: np.random.Generator, mr: Array, pixel_mm: float, head: npt.NDArray[np.bool_]
) -> Image:
    """Texture, coil, resolution, motion, wrap-around, noise and gamma."""
    shape = mr.shape
    out = mr * (
        1
        + rng.uniform(0, 0.06) * smooth(rng, shape, 60)[0]
        + rng.uniform(0, 0.06) * smooth(rng, shape, 24)[0]
    )
    out = scipy.ndimage.gaussian_filter(out, rng.uniform(0.3, 0.8) / pixel_mm, truncate=3)
    if rng.uniform() < 0.3:
        out = _coarse(out, (rng.uniform(1, 2.4), rng.uniform(1, 2.4)))
    out = out * np.exp(rng.uniform(0, 0.35) * smooth(rng, shape, 4)[0])
    if rng.uniform() < 0.12:  # ghosts of a head that moved
        ghosts = [np.roll(out, int(shift), axis=0) for shift in rng.integers(-40, 40, 3)]
        out = out + rng.uniform(0.01, 0.06) * sum(ghosts[1:], ghosts[0])
    if rng.uniform() < 0.04:
        out = out + np.roll(out, shape[0] // 2, axis=int(rng.integers(2))) * rng.uniform(0, 0.3)
    sigma = rng.uniform(0.005, 0.06)
    real, imaginary = sigma * rng.standard_normal((2, *shape), np.float32)
    out = np.sqrt((out + real) ** 2 + imaginary**2)
    if rng.uniform() < 0.25:
        out[out < rng.uniform(0.02, 0.1)] = 0  # air set to zero by software
    if rng.uniform() < 0.3:  # cut out by a mask with a margin, as shared data often are
        out[scipy.ndimage.distance_transform_edt(~head) > rng.uniform(1, 28)] = 0
    top = max(float(out.max()), 1e-3)
    shaped: Image = (top * (out / top) ** np.exp(rng.normal(0, 0.12))).astype(np.float32)
    return shaped


def _coarse(image: Array, steps: tuple[float, float]) -> Array:
    rows, columns = (max(8, round(n / s)) for n, s in zip(image.shape, steps, strict=True))
    small = Pillow.fromarray(image.astype(np.float32)).resize(
        (columns, rows), Pillow.Resampling.BOX
    )
    return np.asarray(small.resize(image.shape[::-1], Pillow.Resampling.BICUBIC))
