"""What a CT and a spin-echo MR scanner make of a map of tissues: tables, protocols, physics."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy

from ctmr.synthetic.shapes import Array
from ctmr.synthetic.tissues import LABELS

Sequence = Literal["t1", "t2"]
"""T1- or T2-weighted spin echo."""


class Tissue(NamedTuple):
    """What the scanners see of one tissue."""

    hu: float
    """CT number in HU."""
    hu_texture: float
    """Standard deviation of its slow variation within a head in HU."""
    pd: float
    """Proton density, water = 1."""
    t1_ms: tuple[float, float]
    """T1 at 1.5 T and at 3 T."""
    t2_ms: tuple[float, float]
    """T2 at 1.5 T and at 3 T."""


# Sources, by letter at the end of each line:
#   P  HU: the radclass.mudr.org table, from Buzug 2008, Heymsfield 2005 and Prokop 2003: fat -50 to
#      -100, white matter 20 to 30, grey matter 37 to 45, blood 45 to 65, haematoma 40 to 90, bone
#      700 to 3000. Water is 0; CSF lies a little above, muscle at the usual 55.
#   W  T1 of white and grey matter, putamen and caudate: Wright et al. 2008, MAGMA 21:121.
#   S  T2 of white and grey matter, T1 and T2 of muscle and blood: Stanisz et al. 2005, MRM 54:507.
#   B  T1 and T2 of fat and marrow: de Bazelaire et al. 2004, Radiology 230:652.
#   K  proton density of brain, CSF, fat, muscle: Kwan et al. 1999, IEEE TMI 18:1085 (BrainWeb).
#   C  T1 and T2 of CSF in the sulci and in the ventricles at 3 T: PMC10696635 (MRM 2023), used at
#      both field strengths.
#   ~  no single source: chosen between its neighbours so that the tissue looks as radiology books
#      show it (infarct: late; bleed: acute; cortical bone: short T2, hence dark).
TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000, 0, 0.0, (1000, 1000), (10, 10)),
    "skin": Tissue(30, 8, 0.7, (900, 1000), (35, 35)),  # ~
    "fat": Tissue(-95, 6, 1.0, (343, 382), (58, 68)),  # P K B
    "muscle": Tissue(55, 5, 1.0, (1008, 1412), (44, 50)),  # P K S
    "cortical bone": Tissue(1450, 110, 0.12, (250, 250), (1, 1)),  # P ~
    "diploe": Tissue(480, 120, 0.45, (549, 586), (49, 49)),  # ~ B
    "sinus air": Tissue(-990, 0, 0.0, (1000, 1000), (10, 10)),
    "eye": Tissue(10, 1, 1.0, (4000, 4000), (700, 700)),  # ~
    "lens": Tissue(90, 2, 0.7, (1000, 1200), (30, 30)),  # ~
    "dura": Tissue(55, 3, 0.5, (900, 1000), (30, 30)),  # ~
    "csf": Tissue(8, 1.5, 1.0, (4310, 4310), (1890, 1890)),  # P K C
    "grey matter": Tissue(39, 1.0, 0.86, (1197, 1607), (95, 99)),  # P K W S
    "white matter": Tissue(28, 1.0, 0.77, (646, 838), (72, 69)),  # P K W S
    "deep grey": Tissue(40, 1.0, 0.84, (1090, 1350), (80, 75)),  # ~ W
    "brain stem": Tissue(31, 1.0, 0.79, (760, 980), (78, 75)),  # ~
    "ventricle": Tissue(8, 1.0, 1.0, (4450, 4450), (2370, 2370)),  # P K C
    "blood vessel": Tissue(58, 2, 0.3, (1441, 1932), (60, 50)),  # P S, dimmed by flow
    "bleed": Tissue(70, 4, 0.8, (650, 750), (45, 35)),  # P ~
    "infarct": Tissue(17, 2, 0.92, (1700, 2100), (170, 160)),  # ~
    "tumour": Tissue(44, 4, 0.9, (1500, 1900), (130, 125)),  # ~
    "oedema": Tissue(20, 2, 0.92, (1500, 1900), (160, 150)),  # ~
    "calcification": Tissue(350, 60, 0.35, (700, 800), (18, 18)),  # ~
}


@dataclass(frozen=True, eq=False)
class Protocol:
    """How one head was scanned; arrays are indexed by label."""

    field_t: float
    """Field strength, 1.5 or 3 T."""
    tr_ms: float
    te_ms: float
    pd: Array
    t1_ms: Array
    t2_ms: Array
    hu: Array
    gain: float
    """MR units of a fully relaxed voxel of water."""
    bias: float
    """Standard deviation of the logarithm of the bias field."""
    snr: float
    """Signal of white matter over the noise of one channel."""
    ct_blur_mm: float
    """Standard deviation of the CT's point spread in the plane."""
    ct_noise_hu: float
    """Noise of a slice of 2.5 mm."""

    def signal(self) -> Array:
        """Spin-echo signal of each label, water fully relaxed = 1."""
        return spin_echo(self.pd, self.t1_ms, self.t2_ms, self.tr_ms, self.te_ms)


def draw_protocol(rng: np.random.Generator, sequence: Sequence) -> Protocol:
    """A random protocol; the draws do not depend on `sequence`, so both share scanner and CT."""
    strength = int(rng.integers(2))
    u = rng.uniform(size=7)
    tissues = [TISSUES[name] for name in LABELS]
    jitter = np.exp(rng.normal(0, (0.03, 0.05, 0.05), size=(len(LABELS), 3)))  # pd, t1, t2
    hu = np.array([t.hu for t in tissues])
    spread = np.where(hu < -900, 0, np.maximum(1, 0.04 * np.abs(hu)))
    if sequence == "t1":
        tr, te = 400 + 250 * u[0], 9 + 8 * u[1]
    else:
        tr, te = 3000 + 2500 * u[0], 80 + 35 * u[1]
    return Protocol(
        field_t=(1.5, 3.0)[strength],
        tr_ms=float(tr),
        te_ms=float(te),
        pd=(np.array([t.pd for t in tissues]) * jitter[:, 0]).astype(np.float32),
        t1_ms=(np.array([t.t1_ms[strength] for t in tissues]) * jitter[:, 1]).astype(np.float32),
        t2_ms=(np.array([t.t2_ms[strength] for t in tissues]) * jitter[:, 2]).astype(np.float32),
        hu=(hu + spread * rng.normal(size=len(hu))).astype(np.float32),
        gain=float(1000 * np.exp(2 * u[2] - 1)),
        bias=float(0.05 + 0.13 * u[3]),
        snr=float(18 + 30 * u[4]),
        ct_blur_mm=float(0.45 + 0.25 * u[5]),
        ct_noise_hu=float(2.5 + 3.5 * u[6]),
    )


def spin_echo(pd: Array, t1_ms: Array, t2_ms: Array, tr_ms: float, te_ms: float) -> Array:
    """Spin-echo signal S = PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    signal: Array = pd * (1 - np.exp(-tr_ms / t1_ms)) * np.exp(-te_ms / t2_ms)
    return signal


def expose(
    layers: Iterable[tuple[int, Array]], protocol: Protocol, texture: Array, texture_2: Array
) -> tuple[npt.NDArray[np.uint8], Array, Array]:
    """One slice before noise: tissues laid over each other, averaged over the planes it holds.

    Args:
        layers: Label and share of every voxel (planes, J, I), later ones on top.
        protocol: Scanner settings and tissue parameters.
        texture: Slow variation of HU and T1 within tissues (planes, J, I), unit variance.
        texture_2: The same for proton density.

    Returns:
        Labels of the middle plane, mean HU and mean signal, each (J, I).
    """
    signals = protocol.signal()
    labels = np.zeros(texture.shape, np.uint8)
    ct, mr = np.full(texture.shape, protocol.hu[0], np.float32), np.zeros(texture.shape, np.float32)
    for label, share in layers:
        labels[share >= 0.5] = label
        ct += share * (protocol.hu[label] - ct)
        mr += share * (signals[label] - mr)
    spread = np.array([TISSUES[name].hu_texture for name in LABELS], np.float32)
    ct += spread[labels] * texture
    mr *= 1 + np.float32(0.03) * (_change_with_t1(protocol)[labels] * texture + texture_2)
    signal = scipy.ndimage.gaussian_filter(mr.mean(axis=0), 0.35, mode="nearest", truncate=3)
    return labels[len(labels) // 2], ct.mean(axis=0), signal


def _change_with_t1(protocol: Protocol) -> Array:
    """d ln S / d ln T1 = -r exp(-r) / (1 - exp(-r)) with r = TR / T1, of each label."""
    r = protocol.tr_ms / protocol.t1_ms
    change: Array = -r * np.exp(-r) / (1 - np.exp(-r))
    return change


def ct_plane(
    hu: Array, protocol: Protocol, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> Array:
    """One axial plane (J, I) with point spread and the short-range noise of a soft kernel."""
    sigma = (protocol.ct_blur_mm / spacing_mm[1], protocol.ct_blur_mm / spacing_mm[0])
    out = scipy.ndimage.gaussian_filter(hu, sigma, mode="nearest", truncate=3)
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    kernel = np.array((0.25, 0.5, 0.25), np.float32) / np.float32(np.sqrt(0.375))  # keeps variance
    for axis in (0, 1):
        noise = scipy.ndimage.correlate1d(noise, kernel, axis=axis)
    thickness = np.sqrt(2.5 / np.clip(spacing_mm[2], 1, 6))
    out += np.float32(protocol.ct_noise_hu * thickness) * noise
    plane: Array = np.clip(out, -1024, 3071)
    return plane


def mr_plane(signal: Array, protocol: Protocol, rng: np.random.Generator) -> Array:
    """Magnitude of one plane (J, I) with Gaussian noise in both channels: Rician, in MR units."""
    white = protocol.signal()[LABELS.index("white matter")]
    sigma = np.float32(white / protocol.snr)
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    plane: Array = np.float32(protocol.gain) * np.sqrt(real * real + imaginary * imaginary)
    return plane
