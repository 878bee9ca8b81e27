"""MR signal of each tissue under the sequences that hospitals use, by their signal equations."""

from typing import Literal, get_args

import numpy as np

from ctmr.synthetic.anatomies import CODE, TISSUE_NAMES
from ctmr.synthetic.scanner import TISSUES, Tissue, spin_echo
from ctmr.synthetic.shapes import Array

Contrast = Literal["t1", "t1-agent", "t2", "flair", "pd", "random"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)
SHARES = (0.28, 0.20, 0.13, 0.14, 0.06, 0.19)
"""How often each of `CONTRASTS` is drawn."""

# Chosen between their neighbours in `TISSUES`, as its lines marked ~.
_MORE: dict[str, Tissue] = {
    "mucosa": Tissue(40, 8, 0.95, (1100, 1300), (80, 75)),
    "spinal cord": Tissue(32, 1, 0.8, (800, 950), (78, 75)),
    "choroid plexus": Tissue(45, 10, 0.95, (1300, 1600), (110, 100)),
    "tendon": Tissue(60, 5, 0.4, (700, 800), (6, 5)),
}
_TABLE = [
    (TISSUES | _MORE).get(name, TISSUES["fat"] if name == "orbital tissue" else TISSUES["muscle"])
    for name in TISSUE_NAMES
]
HU = np.array([tissue.hu for tissue in _TABLE], np.float32)
# Tissues that take up contrast agent, with how much of it.
_UPTAKE = {"blood vessel": 1.0, "dura": 0.8, "mucosa": 0.6, "choroid plexus": 0.8, "tumour": 0.6}
_AIR = [CODE["air"], CODE["sinus air"]]
_DARK = [CODE["cortical bone"], CODE["calcification"]]
_FAT = [CODE["fat"], CODE["orbital tissue"]]
# The target of CT -> MR: T1-weighted, without agent, of one scanner for all heads, its fat dimmed as coils do.
TARGET_TR_MS, TARGET_TE_MS, TARGET_FAT = 550.0, 10.0, 1.2


def draw_contrast(rng: np.random.Generator) -> Contrast:
    """One of `CONTRASTS`, as often as `SHARES` says."""
    return CONTRASTS[int(rng.choice(len(CONTRASTS), p=SHARES))]


def draw_signals(rng: np.random.Generator, contrast: Contrast) -> Array:
    """Signal of each tissue, white matter about 1, for a random protocol of a contrast; air is 0."""
    strength = int(rng.integers(2))
    jitter = np.exp(rng.normal(0, (0.05, 0.08, 0.08), (len(_TABLE), 3)))
    pd, t1, t2 = (_relaxation(strength) * jitter).T
    signal: Array
    if contrast == "random":
        signal = rng.uniform(0.05, 1.3, len(_TABLE))
        signal[_DARK] = rng.uniform(0, 0.12, 2)
        signal[CODE["tendon"]] *= 0.5
    elif contrast in ("t1", "t1-agent"):
        if contrast == "t1-agent":
            for name, uptake in _UPTAKE.items():
                t1[CODE[name]] = 1 / (1 / t1[CODE[name]] + uptake * rng.uniform(1, 3) / 1000)
            pd[CODE["blood vessel"]] = 0.9
        signal = _t1_weighted(rng, pd, t1, t2)
    else:
        signal = _t2_weighted(rng, contrast, pd, t1, t2)
    signal *= np.exp(rng.normal(0, 0.06, len(signal)))
    if rng.uniform() < (0.15 if contrast == "t1-agent" else 0.4):  # blood that has flowed away
        signal[CODE["blood vessel"]] *= rng.uniform(0, 0.4)
    if (
        contrast != "random"
    ):  # gradient echoes and distance from the coil dim fat, saturation removes it
        signal[_FAT] *= rng.uniform(0.1, 0.4) if rng.uniform() < 0.12 else rng.uniform(0.5, 1)
    signal[_AIR] = 0
    level = signal[CODE["white matter"]] if contrast != "random" else 0.7
    scaled: Array = (signal / max(level, 0.05)).astype(np.float32)
    return scaled


def _t1_weighted(rng: np.random.Generator, pd: Array, t1: Array, t2: Array) -> Array:
    if rng.uniform() < 0.4:
        return spin_echo(pd, t1, t2, rng.uniform(400, 700), rng.uniform(8, 18))
    ti, tr = rng.uniform(750, 1100), rng.uniform(1500, 2400)
    signal = inversion_recovery(pd, t1, t2, ti, tr, rng.uniform(2, 5))
    softer: Array = signal ** rng.uniform(0.6, 1)  # long trains of echoes lessen the contrast
    return softer


def _t2_weighted(
    rng: np.random.Generator, contrast: Contrast, pd: Array, t1: Array, t2: Array
) -> Array:
    t2 = t2.copy()
    t2[_FAT] *= rng.uniform(1, 2)  # bright in a train of echoes
    if contrast == "t2":
        return spin_echo(pd, t1, t2, rng.uniform(3000, 6000), rng.uniform(80, 120))
    if contrast == "pd":
        return spin_echo(pd, t1, t2, rng.uniform(2000, 3500), rng.uniform(10, 30))
    ti, tr = rng.uniform(2000, 2600), rng.uniform(7000, 10000)
    return inversion_recovery(pd, t1, t2, ti, tr, rng.uniform(80, 130))


def inversion_recovery(
    pd: Array, t1: Array, t2: Array, ti_ms: float, tr_ms: float, te_ms: float
) -> Array:
    """Magnitude PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2) of an inversion recovery."""
    recovered = 1 - 2 * np.exp(-ti_ms / t1) + np.exp(-tr_ms / t1)
    signal: Array = pd * np.abs(recovered) * np.exp(-te_ms / t2)
    return signal


def target_signals() -> Array:
    """Signal of each tissue in the MR that CT -> MR aims at, white matter 1."""
    pd, t1, t2 = (np.mean([_relaxation(0), _relaxation(1)], axis=0)).T
    signal = spin_echo(pd, t1, t2, TARGET_TR_MS, TARGET_TE_MS)
    signal /= signal[CODE["white matter"]]
    signal[_FAT] = TARGET_FAT
    signal[_AIR] = 0
    return np.asarray(signal, np.float32)


def _relaxation(strength: int) -> Array:
    """Proton density, T1 and T2 (tissues, 3) at 1.5 T (0) or 3 T (1)."""
    return np.array([(t.pd, t.t1_ms[strength], t.t2_ms[strength]) for t in _TABLE])
