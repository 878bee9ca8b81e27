"""Synthetic heads measured from outside: volumes, thicknesses, folds, physics, determinism."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull

from ctmr.synthetic.head import Head, synthesise_head
from ctmr.synthetic.lesions import LESIONS
from ctmr.synthetic.scanner import TISSUES, draw_protocol, spin_echo
from ctmr.synthetic.tissues import BRAIN, LABELS

SMALL = (48, 56, 44)
COARSE = (4.0, 4.0, 4.0)


def are(head: Head, *names: str) -> npt.NDArray[np.bool_]:
    return np.isin(head.labels, [LABELS.index(name) for name in names])


def small(seed: int, **options: object) -> Head:
    return synthesise_head(seed, shape=SMALL, spacing_mm=COARSE, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def vault() -> Head:
    """The upper 100 mm of one head at 1 mm."""
    return synthesise_head(3, shape=(176, 216, 100))


# -- the truth ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_brain_measures_1100_to_1600_ml(seed: int) -> None:
    head = synthesise_head(seed, shape=(66, 76, 60), spacing_mm=(3, 3, 3))
    millilitres = are(head, *BRAIN).sum() * 3**3 / 1000
    assert 1100 <= millilitres <= 1600


def test_each_tissue_of_a_healthy_head_is_there() -> None:
    head = synthesise_head(0, shape=(96, 112, 90), spacing_mm=(2.0, 2.0, 2.0))
    found = {LABELS[n] for n in np.unique(head.labels)}
    assert found == set(LABELS) - set(LESIONS) - {"oedema"}


def skull_profiles(head: Head) -> list[tuple[float, npt.NDArray[np.floating]]]:
    """Thickness in mm and HU across the bone, along rays from the brain's middle through the vault.

    The thickness is that of the part above 300 HU, corrected for the angle to the surface.
    """
    inside = are(head, "cortical bone", "diploe") | (head.labels >= LABELS.index("dura"))
    blurred = inside.astype(np.float32)
    normal = [ndimage.gaussian_filter(blurred, 3, order=np.eye(3, dtype=int)[a]) for a in range(3)]
    centre = np.argwhere(head.labels >= LABELS.index("csf")).mean(axis=0)
    centre[2] = 15
    rng = np.random.default_rng(0)
    profiles = []
    for ray in rng.normal(size=(150, 3)):
        ray[2] = abs(ray[2])
        ray /= np.linalg.norm(ray)
        points = centre[:, None] + ray[:, None] * np.arange(40, 120, 0.25)
        hu = ndimage.map_coordinates(head.ct, points, order=1, cval=-1000)
        bone = np.flatnonzero(hu > 300)
        if ray[2] < 0.4 or len(bone) == 0:
            continue
        middle = points[:, (bone[0] + bone[-1]) // 2, None]
        n = np.array([ndimage.map_coordinates(g, middle, order=1)[0] for g in normal])
        slant = abs(float(n @ ray)) / float(np.linalg.norm(n))
        profiles.append((0.25 * len(bone) * slant, hu[bone[0] : bone[-1] + 1]))
    return profiles


def test_vault_is_4_to_9_mm_thick(vault: Head) -> None:
    thickness = np.array([mm for mm, _ in skull_profiles(vault)])
    assert len(thickness) > 60
    assert np.percentile(thickness, 2) >= 4
    assert np.percentile(thickness, 98) <= 9
    assert thickness.std() > 0.3  # it varies over the vault


def test_hu_profile_of_the_vault_dips_in_the_diploe(vault: Head) -> None:
    dips = []
    for _, hu in skull_profiles(vault):
        half, quarter = len(hu) // 2, len(hu) // 4
        tables = min(hu[:half].max(), hu[half:].max())
        dips.append(tables - hu[quarter:-quarter].min())
    assert np.median(dips) > 300
    assert np.mean(np.array(dips) > 150) > 0.9


def surface_mm2(inside: npt.NDArray[np.bool_]) -> float:
    """Area by counting voxel faces of 1 mm^2, times 2/3 for random orientation."""
    faces = sum(np.count_nonzero(np.diff(inside.astype(np.int8), axis=a)) for a in range(3))
    return faces * 2 / 3


def test_cortex_is_folded(vault: Head) -> None:
    cerebrum = are(vault, "grey matter", "white matter", "deep grey", "ventricle")
    hull = ConvexHull(np.argwhere(cerebrum)[::7])
    # a smooth brain gives 1; the human gyrification index is about 2.5, two hemispheres included
    assert 1.8 < surface_mm2(cerebrum) / hull.area < 4


def test_cortical_ribbon_is_a_few_mm_thick(vault: Head) -> None:
    grey = are(vault, "grey matter")
    depth = ndimage.distance_transform_edt(grey)
    ridge = grey & (depth == ndimage.maximum_filter(depth, 3))
    assert 2 < 2 * np.median(depth[ridge]) < 4


def test_grey_matter_lies_between_csf_and_white_matter(vault: Head) -> None:
    white = are(vault, "white matter")
    beside = ndimage.binary_dilation(white) & ~white
    assert np.mean(are(vault, "csf")[beside]) < 0.02


def test_mask_is_the_head_with_its_cavities_filled() -> None:
    head = small(1)
    tissue = ~are(head, "air", "sinus air")
    assert np.mean(head.mask[tissue]) > 0.98
    assert np.mean(head.mask[are(head, "sinus air")]) > 0.8
    assert not head.mask[are(head, "air")].any()


# -- seeds and options -------------------------------------------------------------------------


def test_same_seed_gives_the_same_bits() -> None:
    one, two = small(5, lesions=("bleed",)), small(5, lesions=("bleed",))
    for name in ("labels", "ct", "mr", "mask", "affine"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_other_seeds_give_other_heads() -> None:
    maps = [small(seed).labels for seed in range(3)]
    agreement = [np.mean(a == b) for n, a in enumerate(maps) for b in maps[:n]]
    assert max(agreement) < 0.95


def test_t1_and_t2_share_anatomy_and_ct_to_the_bit() -> None:
    t1 = small(6, sequence="t1", lesions=("tumour",))
    t2 = small(6, sequence="t2", lesions=("tumour",))
    assert np.array_equal(t1.labels, t2.labels)
    assert np.array_equal(t1.ct, t2.ct)
    assert t1.lesions[0].centre_mm == t2.lesions[0].centre_mm
    assert not np.array_equal(t1.mr, t2.mr)


def test_mr_is_not_a_table_of_tissues() -> None:
    protocols = [draw_protocol(np.random.default_rng(seed), "t1") for seed in range(10)]
    grey, white = LABELS.index("grey matter"), LABELS.index("white matter")
    ratio = [p.signal()[grey] / p.signal()[white] for p in protocols]
    assert max(ratio) - min(ratio) > 0.05
    assert len({p.field_t for p in protocols}) == 2


@pytest.mark.parametrize("sequence", ["t1", "t2"])
def test_grey_white_contrast_turns_between_t1_and_t2(sequence: str) -> None:
    for seed in range(20):
        signal = draw_protocol(np.random.default_rng(seed), sequence).signal()  # type: ignore[arg-type]
        grey, white, csf = (
            signal[LABELS.index(name)] for name in ("grey matter", "white matter", "csf")
        )
        assert csf < grey < white if sequence == "t1" else white < grey < csf


def test_planes_agree_with_the_whole_volume() -> None:
    whole = synthesise_head(2, shape=(90, 110, 60), spacing_mm=(2.0, 2.0, 2.0))
    top = whole.affine[2, 3] + 2.0 * 59 + 1.0 - 0.06 * 120  # 6 % of the volume lies above
    heights = [top - (whole.affine[2, 3] + 2.0 * k) for k in (10, 30, 45)]
    planes = synthesise_head(2, shape=(90, 110, 1), spacing_mm=(2.0, 2.0, 2.0), heights_mm=heights)
    assert planes.labels.shape == (90, 110, 3)
    assert np.allclose(planes.affine[:2], whole.affine[:2])
    assert planes.affine[2, 3] == pytest.approx(whole.affine[2, 3] + 20)
    assert np.mean(planes.labels == whole.labels[:, :, [10, 30, 45]]) > 0.999


def test_world_places_do_not_depend_on_the_grid() -> None:
    fine, coarse = small(4), synthesise_head(4, shape=(64, 64, 44), spacing_mm=(3.0, 3.5, 4.0))
    centres = []
    for head in (fine, coarse):
        voxel = np.argwhere(head.mask & (np.arange(44) > 12)).mean(axis=0)
        centres.append(head.affine[:3, :3] @ voxel + head.affine[:3, 3])
    assert np.allclose(*centres, atol=1.0)


def test_thick_slices_blend_tissues() -> None:
    thin = synthesise_head(1, shape=(64, 72, 1), spacing_mm=(3, 3, 1), heights_mm=[40])
    thick = synthesise_head(1, shape=(64, 72, 1), spacing_mm=(3, 3, 8), heights_mm=[40])
    brain = ndimage.binary_erosion(are(thin, *BRAIN, "csf")[..., 0], iterations=2)
    assert thick.ct[brain, 0].std() < thin.ct[brain, 0].std()
    assert thick.affine[2, 2] == 8


# -- what the scanners see ---------------------------------------------------------------------


def test_spin_echo_by_hand() -> None:
    # 0.8 (1 - exp(-500/1000)) exp(-20/100) = 0.8 * 0.393469 * 0.818731 = 0.257716
    one = np.ones(1)
    assert spin_echo(0.8 * one, 1000 * one, 100 * one, 500, 20)[0] == pytest.approx(0.257716, 1e-5)
    assert spin_echo(one, one, one, 1e6, 0)[0] == pytest.approx(1.0)


def test_ct_shows_each_tissue_at_its_hu(vault: Head) -> None:
    for name, room in (("white matter", 3), ("ventricle", 4), ("air", 2), ("diploe", 130)):
        inner = ndimage.binary_erosion(are(vault, name), iterations=1 if name == "diploe" else 3)
        assert vault.ct[inner].mean() == pytest.approx(TISSUES[name].hu, abs=room), name


def test_sinuses_show_as_air_in_both() -> None:
    head = synthesise_head(0, shape=(160, 200, 1), spacing_mm=(1, 1, 1), heights_mm=[140, 125, 110])
    sinus = ndimage.binary_erosion(are(head, "sinus air"), np.ones((5, 5, 1)))
    assert sinus.any()
    assert np.median(head.ct[sinus]) < -900
    assert np.median(head.mr[sinus]) < 0.2 * np.median(head.mr[are(head, "white matter")])


def test_bone_is_bright_on_ct_and_dark_on_mr(vault: Head) -> None:
    bone, white = are(vault, "cortical bone"), are(vault, "white matter")
    assert np.median(vault.ct[bone]) > 800
    assert np.median(vault.mr[bone]) < 0.5 * np.median(vault.mr[white])


def test_fat_is_the_brightest_on_t1(vault: Head) -> None:
    fat = ndimage.binary_erosion(are(vault, "fat"))
    assert np.median(vault.mr[fat]) > 1.3 * np.median(vault.mr[are(vault, "white matter")])


def test_noise_in_air_is_rician(vault: Head) -> None:
    air = vault.mr[ndimage.binary_erosion(~vault.mask, iterations=4)].astype(np.float64)
    sigma = np.sqrt(np.mean(air**2) / 2)
    white = vault.protocol.signal()[LABELS.index("white matter")]
    assert sigma == pytest.approx(vault.protocol.gain * white / vault.protocol.snr, rel=0.02)
    # the magnitude of pure noise is Rayleigh: mean sigma sqrt(pi / 2)
    assert air.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)


def test_ct_noise_is_correlated(vault: Head) -> None:
    air = np.asarray(vault.ct[:16, :16, 50:]) + 1000
    assert 1 < air.std() < 12
    assert 0.4 < np.mean(air[1:] * air[:-1]) / np.mean(air**2) < 0.9
    assert abs(np.mean(air[..., 1:] * air[..., :-1])) / np.mean(air**2) < 0.1


def test_bias_field_brightens_one_side() -> None:
    ratios = []
    for seed in range(3):
        head = small(seed)
        white = ndimage.binary_erosion(are(head, "white matter"))
        place = np.argwhere(white) - np.argwhere(white).mean(axis=0)
        slope = np.linalg.lstsq(place, np.log(head.mr[white]), rcond=None)[0]
        ratios.append(np.abs(slope).max() * 30)
    assert max(ratios) > 0.05


LOOKS = {"bleed": (1, 1), "infarct": (-1, 1), "tumour": (1, 1), "calcification": (1, -1)}
"""CT against white matter, and T2 against white matter (the acute bleed aside)."""


@pytest.mark.parametrize("kind", LESIONS)
def test_lesion_looks_as_it_should(kind: str) -> None:
    probe = synthesise_head(9, shape=(2, 2, 1), lesions=(kind,), heights_mm=[100.0])
    (lesion,) = probe.lesions
    assert lesion.kind == kind
    height = 100.0 + probe.affine[2, 3] - lesion.centre_mm[2]
    options = {"shape": (160, 200, 1), "lesions": (kind,), "heights_mm": [height]}
    t1 = synthesise_head(9, **options)  # type: ignore[arg-type]
    t2 = synthesise_head(9, sequence="t2", **options)  # type: ignore[arg-type]
    inside, white = are(t1, kind), are(t1, "white matter")
    assert inside.any()
    on_ct = np.median(t1.ct[inside]) - np.median(t1.ct[white])
    on_t2 = np.median(t2.mr[inside]) - np.median(t2.mr[white])
    assert np.sign(on_ct) == LOOKS[kind][0]
    if kind == "bleed":
        assert 25 < on_ct < 60
    else:
        assert np.sign(on_t2) == LOOKS[kind][1]
    if kind == "tumour":
        oedema = are(t1, "oedema")
        assert oedema.sum() > 0.3 * inside.sum()
        assert np.median(t1.ct[oedema]) < np.median(t1.ct[white])
        assert np.median(t2.mr[oedema]) > np.median(t2.mr[white])
    if kind == "calcification":
        assert on_ct > 100


def test_lesions_lie_where_they_are_said_to_lie() -> None:
    head = synthesise_head(11, shape=(96, 112, 80), spacing_mm=(2, 2, 2), lesions=("infarct",))
    voxels = np.argwhere(are(head, "infarct"))
    centre = head.affine[:3, :3] @ voxels.mean(axis=0) + head.affine[:3, 3]
    assert np.linalg.norm(centre - head.lesions[0].centre_mm) < 0.5 * head.lesions[0].radius_mm


# -- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be >= 0: got -1"),
        ({"shape": (64, 64)}, "shape must be three positive numbers"),
        ({"shape": (64, 0, 64)}, "shape must be three positive numbers"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm must be three positive numbers"),
        ({"sequence": "flair"}, "sequence must be 't1' or 't2': got 'flair'"),
        ({"lesions": ("abscess",)}, "unknown lesion 'abscess': choose from bleed"),
        ({"heights_mm": (20.0, 40.0)}, "heights_mm must fall .* got 20, 40"),
        ({"heights_mm": ()}, "heights_mm must fall"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesise_head(**{"seed": 0, **options})  # type: ignore[arg-type]
