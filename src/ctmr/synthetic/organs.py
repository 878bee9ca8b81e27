"""The parts of an average head as implicit shapes: depth in mm below each surface, positive inside.

Coordinates are x to the right, y to the front, z up, in mm, with the origin between the thalami
and the proportions of MNI space. Positions and sizes were read by eye off the grid of two free
templates, MNI152 T1 and the CT template of Rorden et al. 2012 (NeuroImage 61:957).
"""

from typing import NamedTuple

import numpy as np

from ctmr.synthetic.shapes import (
    Array,
    Points,
    capsule,
    common,
    ellipsoid,
    smooth_union,
    tube,
    union,
)


class Hull(NamedTuple):
    """The large surfaces inside the skull."""

    cavity: Array
    """Below the inner table of the skull."""
    cerebrum: Array
    """Below the smooth envelope of the cerebrum, before the hemispheres are parted."""
    cerebellum: Array
    stem: Array


def mirrored(c: Points) -> Points:
    """Both sides folded onto the right."""
    return Points(np.abs(c.x), c.y, c.z)


def hull(c: Points, gap_mm: float) -> Hull:
    """Inner surface of the skull and the smooth envelopes of the three parts of the brain."""
    cavity, stem = _cavity(c), _stem(c)
    ax = np.abs(c.x)
    back, front = np.maximum(-45 - c.y, 0), np.maximum(c.y + 40, 0)
    tent = 3 - 0.37 * ax - 0.55 * back - 0.9 * front  # height of the tentorium
    ridge = -8 - 0.77 * np.maximum(ax - 12, 0) - c.y
    below_tent = np.minimum(0.88 * (tent - c.z), 0.8 * ridge)
    sides = ellipsoid(mirrored(c), (25, -64, -34), (31, 37, 30))
    lobes = smooth_union(sides, ellipsoid(c, (0, -64, -20), (18, 34, 34)), 4)
    cisterns = np.minimum(stem + 3, -5 - c.z)
    return Hull(
        cavity,
        cerebrum=common(cavity - gap_mm, -below_tent - 0.7, -cisterns),
        cerebellum=common(lobes, cavity - gap_mm, below_tent - 0.7),
        stem=np.minimum(stem, cavity - 2),
    )


def _cavity(c: Points) -> Array:
    """Depth inside the skull: vault, temporal and posterior fossae, clivus and spinal canal."""
    m = mirrored(c)
    egg = 1 - 0.09 * np.tanh((c.y + 25) / 45)  # wide at the back, narrow in front
    across = (m.x / (68 * egg)) ** 2 + ((c.z - 2) / 78) ** 2
    vault = (1 - (across**1.15 + (np.abs(c.y + 17) / 89) ** 2.3) ** (1 / 2.3)) * 78
    orbit_roof = 9 * np.exp(-(((m.x - 33) / 18) ** 2) - ((c.y - 55) / 24) ** 2)
    floor = -26 + orbit_roof + 0.002 * np.maximum(c.y - 15, 0) ** 2
    upper = np.minimum(vault, c.z - floor)
    temporal = ellipsoid(m, (40, -8, -20), (27, 40, 28))
    behind = ellipsoid(c, (0, -60, -34), (56, 44, 32))
    clivus = capsule(c, (0, -24, -25), (0, -38, -62), (17, 13))
    canal = capsule(c, (0, -42, -60), (0, -52, -220), (11, 9))
    lower = smooth_union(behind, union(clivus, canal), 5)
    inside = smooth_union(smooth_union(upper, temporal, 5), lower, 6)
    return common(inside, -_petrous(m))


def _petrous(m: Points) -> Array:
    return capsule(m, (16, -14, -40), (58, -36, -46), (6, 11))


def _stem(c: Points) -> Array:
    """Midbrain with its peduncles, pons, medulla and cord."""
    return union(
        tube(c, ((0, -28, 0), (0, -30, -14), (0, -31, -20)), (10, 11, 11)),
        capsule(mirrored(c), (12, -18, 0), (8, -22, -18), (8, 7)),
        ellipsoid(c, (0, -27, -31), (16, 13, 15)),
        tube(c, ((0, -34, -42), (0, -42, -62), (0, -52, -220)), (9, 6.5, 5)),
    )


def core(c: Points) -> Array:
    """Depth inside the region round callosum and thalami that no fissure parts."""
    return ellipsoid(c, (0, -5, 4), (400, 36, 24))


def callosum(c: Points) -> Array:
    """Depth inside the bundle that joins the hemispheres over the ventricles."""
    inside = core(c)
    return common(inside - 0.5, 6.5 - inside, 15 - np.abs(c.x), c.z + 1 - 0.1 * c.y)


def head_surface(c: Points, cavity: Array, wall_mm: Array) -> Array:
    """Depth below the skin; `wall_mm` is the thickness of skull and scalp over the cavity."""
    along = ((np.abs(c.x) / 74) ** 2.6 + (np.abs(c.y + 14) / 89) ** 2.6) ** (1 / 2.6)
    cheeks = (1 - np.sqrt(along**2 + ((c.z + 50) / 85) ** 2)) * 76
    jaw = ellipsoid(c, (0, 26, -95), (56, 52, 64))
    neck = capsule(c, (0, -40, -60), (0, -52, -260), (62, 58))
    vault = np.minimum(cavity + wall_mm, c.z + 75)
    out = smooth_union(smooth_union(vault, union(cheeks, jaw), 14), neck, 20)
    nose = capsule(c, (0, 76, -36), (0, 92, -64), (5, 8))
    ear = ellipsoid(mirrored(c), (79, -32, -44), (6, 17, 28))
    return union(smooth_union(out, nose, 14), ear)


def ventricles(c: Points, size: float, tilt: float) -> Array:
    """Depth inside the lateral, third and fourth ventricles; `tilt` > 0 enlarges the right."""
    m, s = mirrored(c), size
    body = ((9, 35, 2), (7, 20, 12), (9, 2, 20), (13, -22, 22), (23, -38, 12))
    horns = union(
        tube(m, body, (2, 5 * s, 4.5 * s, 4.5 * s, 6 * s)),
        tube(m, ((23, -38, 12), (25, -56, 7), (22, -74, 4)), (5.5 * s, 4 * s, 1.2)),
        tube(m, ((24, -38, 8), (32, -32, -8), (31, -12, -17)), (5 * s, 3 * s, 1.5)),
    )
    third = np.minimum(0.6 + 1.2 * s - m.x, ellipsoid(c, (0, -10, -1), (60, 13, 10)))
    fourth = ellipsoid(c, (0, -44, -32), (6 + 2 * s, 5, 11))
    aqueduct = capsule(c, (0, -30, -4), (0, -38, -22), (1.0, 1.2))
    return union(horns + 8 * tilt * np.tanh(c.x / 5), third, fourth, aqueduct)


def deep_grey(c: Points) -> Array:
    """Depth inside thalamus, caudate, putamen and pallidum."""
    m = mirrored(c)
    caudate = ((13, 21, 2), (14, 12, 12), (17, -6, 22), (22, -24, 20))
    return union(
        ellipsoid(m, (11.5, -18, 7), (9.5, 15.5, 10)),
        tube(m, caudate, (7, 6.5, 4.5, 2.5)),
        capsule(m, (22, 14, 0), (29, -12, 4), (7.5, 5.5)),
        ellipsoid(m, (19, -3, 0), (5, 8, 7)),
    )


def sylvian(c: Points, bumps: Array) -> Array:
    """Depth inside the lateral fissure and the cleft over the insula, both filled with CSF."""
    ax = np.abs(c.x)
    line = (c.z + 2 + 0.42 * (c.y - 8)) * 0.92 + 1.8 * bumps
    lateral = np.minimum(1.5 * (1 - ((c.y + 8) / 38) ** 2) - np.abs(line), ax - 39)
    bowl = 40 - 0.012 * line**2 - 0.01 * (c.y + 2) ** 2 + 1.2 * bumps
    insula = 1.7 * (1 - (line / 17) ** 2 - ((c.y + 2) / 24) ** 2) - np.abs(ax - bowl)
    return union(lateral, insula)


def bones(c: Points) -> Array:
    """Depth inside the bones outside the vault: base, petrous, mastoids, face, jaws, spine."""
    m = mirrored(c)
    orbit = _orbit_cone(m, 1)
    orbit_wall = common(orbit + 2.0, 1.5 - orbit, 70 - c.y - 0.4 * m.x)
    maxilla = ellipsoid(m, (28, 42, -66), (17, 20, 20))
    zygoma = ((50, 48, -48), (62, 34, -52), (69, 8, -50), (66, -18, -46))
    jaw = ((52, -8, -62), (50, -4, -98), (40, 22, -114), (22, 50, -120), (0, 60, -120))
    return union(
        _petrous(m),
        ellipsoid(m, (56, -40, -54), (13, 15, 20)),
        ellipsoid(c, (0, 6, -42), (15, 20, 15)),  # sphenoid
        capsule(c, (0, -8, -42), (0, -24, -62), (7, 5)),  # clivus
        ellipsoid(c, (0, 70, -22), (30, 10, 16)),  # brow
        orbit_wall,
        common(maxilla + 0.5, 2.5 - maxilla),
        tube(m, zygoma, (5, 4, 2.6, 3)),
        ellipsoid(c, (0, 44, -86), (24, 30, 3)),  # palate
        tube(m, ((26, 30, -92), (20, 52, -92), (6, 64, -92)), (4.5, 4.5, 4.5)),  # teeth
        tube(m, jaw, (3, 5.5, 6.5, 7, 7.5)),
        capsule(c, (0, -24, -78), (0, -32, -220), (8, 9)),  # vertebrae
        capsule(m, (22, -42, -78), (24, -50, -220), (6, 6)),
    )


def air(c: Points, size: float, cells: Array) -> Array:
    """Depth inside sinuses, nose, mastoid cells, ear canals and throat; `cells` makes thin walls."""
    m = mirrored(c)
    between_walls = np.abs(cells) * 4 - 0.9
    celled = union(
        ellipsoid(m, (8, 42, -40), (8, 26, 13)),  # ethmoid
        np.minimum(ellipsoid(c, (0, 48, -64), (15, 34, 22)), m.x - 1.0),  # nose
        ellipsoid(m, (57, -40, -54), (10, 12, 16)),  # mastoid
    )
    return union(
        ellipsoid(m, (9, 73, -16), (14 * size, 5, 13 * size)),  # frontal
        ellipsoid(m, (7, 8, -40), (6.5, 14 * size, 10 * size)),  # sphenoid
        ellipsoid(m, (28, 42, -66), (14 * size, 17, 17)),  # maxillary
        np.minimum(celled, between_walls),
        capsule(m, (84, -26, -46), (54, -25, -44), (3.5, 3)),  # ear canal
        tube(c, ((0, 16, -68), (0, 2, -84), (0, -4, -110), (0, -2, -220)), (9, 8, 7, 9)),
    )


def muscles(c: Points, skin: Array, streaks: Array) -> Array:
    """Depth inside the temporal muscles and the deep parts of face and neck, crossed by fat."""
    temporal = np.minimum(ellipsoid(mirrored(c), (66, 6, -14), (16, 42, 44)), skin - 3.5)
    deep = common(skin - 7, -38 - c.z, np.abs(streaks) * 6 - 1.2)
    return union(temporal, deep)


def orbit_fat(c: Points) -> Array:
    """Depth inside the orbits."""
    m = mirrored(c)
    return common(_orbit_cone(m, 0), 74 - c.y - 0.3 * m.x)


def _orbit_cone(m: Points, wall_mm: float) -> Array:
    return capsule(m, (34, 60, -38), (15, 22, -34), (20 + wall_mm, 4 + wall_mm))


def eyeball(c: Points) -> Array:
    """Depth inside the eyes."""
    return ellipsoid(mirrored(c), (33, 58, -38), (12.3, 12.3, 12.3))


def lens(c: Points) -> Array:
    """Depth inside the lenses."""
    return ellipsoid(mirrored(c), (33, 66, -38), (5, 2.2, 5))


def orbit_strings(c: Points) -> Array:
    """Depth inside the optic nerves and the four straight muscles of each eye."""
    m, apex = mirrored(c), (15.0, 24.0, -34.0)
    nerve = capsule(m, (32, 47, -38), apex, (2.2, 2.0))
    ends = ((22, 54, -38), (44, 52, -38), (33, 54, -27), (33, 54, -49))
    middles = ((19, 38, -37), (34, 38, -37), (27, 38, -28), (27, 38, -44))
    pairs = zip(ends, middles, strict=True)
    return union(nerve, *(tube(m, (a, b, apex), (1.5, 2.6, 1.5)) for a, b in pairs))
