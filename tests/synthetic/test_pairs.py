import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes

from ctmr.synthetic import pairs
from ctmr.synthetic.anatomies import CODE, Anatomy, _anatomy, unpack
from ctmr.synthetic.contrasts import (
    CONTRASTS,
    SHARES,
    draw_signals,
    inversion_recovery,
    target_signals,
)
from ctmr.synthetic.pairs import render_pair
from ctmr.synthetic.planes import draw_plane
from ctmr.synthetic.rendered_head import rendered_head
from ctmr.system.rng import stream

SHAPE = (144, 128)


@pytest.fixture(scope="session")
def ball() -> Anatomy:
    """A round head of 45 mm: skin, soft tissue, skull, CSF, grey and white matter."""
    x, y, z = np.mgrid[-50:51, -50:51, -50:51]
    radius = np.sqrt(x * x + y * y + z * z)
    tissue = np.zeros(radius.shape, np.uint8)
    layers = (
        ("skin", 45),
        ("soft tissue", 43),
        ("cortical bone", 36),
        ("csf", 30),
        ("grey matter", 28),
        ("white matter", 24),
    )
    for name, outer in layers:
        tissue[radius < outer] = CODE[name]
    tissue[(np.abs(x - 12) < 4) & (np.abs(y) < 4) & (np.abs(z) < 20)] = CODE["ventricle"]
    return _anatomy("ball", tissue)


def test_distances_are_those_of_a_ball(ball):
    at = unpack(ball.packed)
    middle = tuple(n // 2 for n in ball.packed.shape[:2])
    plane = at.skin[:, :, 6 + 45][:, middle[1]]  # through the centre
    rows = np.flatnonzero(at.tissue[:, :, 6 + 45][:, middle[1]])
    centre = (rows[0] + rows[-1]) / 2
    for k in (rows[0], rows[0] + 5, rows[-1] - 10):
        assert plane[k] == pytest.approx(45 - abs(k - centre), abs=0.8)
    bone = at.tissue == CODE["cortical bone"]
    assert (at.bone[bone] > 0).all()
    assert (at.bone[~bone] < 0).all()
    assert (at.cavity[at.tissue == CODE["white matter"]] > 0).all()


def test_sample_depends_on_seed_and_number_alone(ball):
    first = [render_pair([ball], SHAPE, 3, n) for n in range(3)]
    again = [render_pair([ball], SHAPE, 3, n) for n in (2, 0, 1)]
    for one, other in zip(first, (again[1], again[2], again[0]), strict=True):
        for name in ("ct", "mr", "true_ct", "true_mr"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert not np.array_equal(first[0].mr, render_pair([ball], SHAPE, 4, 0).mr)


def test_both_show_the_same_plane(ball):
    """Where the true CT has its bone the true MR is dark, and both are air outside the head."""
    seen = 0
    for n in range(30):
        pair = render_pair([ball], SHAPE, 1, n)
        bone = pair.true_ct > 900
        if bone.sum() < 200:
            continue
        seen += 1
        assert np.median(pair.true_mr[bone]) < 0.5
        outside = ~pair.head
        assert np.median(pair.true_ct[outside]) == -1000
        assert np.median(pair.true_mr[outside]) == 0
        assert pair.ct.min() >= -1024
        assert pair.ct.max() <= 3071
        assert pair.mr.min() >= 0
        inside = np.corrcoef(pair.ct[pair.head], pair.true_ct[pair.head])[0, 1]
        assert inside > 0.8
    assert seen >= 10


def test_both_show_one_side(ball, monkeypatch):
    """The ventricle, which lies on one side of the head, lies at one place in both: dark in the MR, watery in the CT."""
    monkeypatch.setattr(pairs, "LESION_SHARE", 0.0)
    seen = 0
    for n in range(40):
        pair = render_pair([ball], SHAPE, 6, n)
        inside = _deep(pair)
        in_mr, in_ct = (pair.true_mr < 0.5) & inside, (pair.true_ct < 18) & inside
        if min(in_mr.sum(), in_ct.sum()) < 30:
            continue
        seen += 1
        assert np.argwhere(in_mr).mean(axis=0) == pytest.approx(
            np.argwhere(in_ct).mean(axis=0), abs=3
        )
    assert seen >= 5


def test_rendered_head_keeps_right_and_left(ball):
    """The ventricle of the ball lies at +12 mm, to the right."""
    head = rendered_head(ball, 0, shape=(110, 110, 60), spacing_mm=(1.0, 1.0, 2.0))
    x = head.affine[0, 0] * np.argwhere(head.labels == CODE["ventricle"])[:, 0] + head.affine[0, 3]
    assert np.median(x) == pytest.approx(12, abs=6)


def test_head_of_the_plane_has_the_size_of_the_anatomy(ball):
    areas = []
    for n in range(40):
        plane = draw_plane(stream(0, n), ball, SHAPE)
        at = unpack(plane.sample(ball.packed))
        assert at.tissue.shape == (4, *SHAPE)
        areas.append((at.tissue[0] > 0).sum() * (plane.pixel_mm / plane.zoom) ** 2)
    assert max(areas) == pytest.approx(np.pi * 45**2, rel=0.25)


def test_lesion_that_the_source_cannot_show_is_left_out_of_the_target(ball, monkeypatch):
    """With equal signals in the MR its CT has no lesion, although the CT scanner saw one."""
    monkeypatch.setattr(pairs, "LESION_SHARE", 1.0)
    monkeypatch.setattr(pairs, "LESION_KINDS", ("bleed",))
    monkeypatch.setattr(pairs, "_remove", lambda *_: None)

    def flat(rng, contrast):
        signal = np.ones(len(CODE), np.float32)
        signal[[CODE["air"], CODE["sinus air"]]] = 0
        return signal

    def bleeds(image, pair):
        return int(((image > 58) & (image < 90) & _deep(pair)).sum())

    shown = hidden = in_source = 0
    for n in range(25):
        pair = render_pair([ball], SHAPE, 2, n)
        shown += bleeds(pair.true_ct, pair)
        with monkeypatch.context() as patch:
            patch.setattr(pairs, "draw_signals", flat)
            blind = render_pair([ball], SHAPE, 2, n)
        hidden += bleeds(blind.true_ct, blind)
        in_source += int((blind.ct > 62)[_deep(blind)].sum())
    assert shown > 200
    assert in_source > 200
    assert hidden < 0.02 * shown


def _deep(pair):
    brain = (pair.true_ct > -20) & (pair.true_ct < 120) & pair.head
    bone = pair.true_ct > 300
    inside = binary_fill_holes(bone) & ~bone
    return binary_erosion(inside & brain, iterations=4)


def test_what_the_source_had_removed_is_air_in_the_target_too(ball, monkeypatch):
    monkeypatch.setattr(pairs, "LESION_SHARE", 0.0)
    whole = {n: render_pair([ball], SHAPE, 8, n) for n in range(10)}
    whole = {n: pair for n, pair in whole.items() if (pair.true_ct > 300).sum() > 500}
    assert len(whole) >= 5
    monkeypatch.setattr(pairs, "STRIPPED_SHARE", 1.0)
    for n, before in whole.items():
        pair = render_pair([ball], SHAPE, 8, n)
        assert (pair.true_ct > 300).sum() < 0.02 * (before.true_ct > 300).sum()
        gone = before.head & ~binary_dilation(pair.head, iterations=3)
        assert gone.sum() > 200
        assert np.median(pair.true_ct[gone]) == np.median(pair.true_mr[gone]) - 1000 == -1000
        assert np.median(pair.ct[gone]) < -900
        assert np.median(pair.mr[gone]) < 0.2


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_signals_are_those_of_the_contrast(contrast):
    at = {
        name: np.median([draw_signals(stream(7, k), contrast)[CODE[name]] for k in range(60)])
        for name in ("air", "csf", "grey matter", "white matter", "cortical bone", "blood vessel")
    }
    assert at["air"] == 0
    assert at["cortical bone"] < 0.2
    if contrast in ("t1", "t1-agent"):
        assert at["csf"] < at["grey matter"] < at["white matter"]
        assert (at["blood vessel"] > at["white matter"]) == (contrast == "t1-agent")
    if contrast == "t2":
        assert at["csf"] > at["grey matter"] > at["white matter"]
    if contrast == "flair":
        assert at["csf"] < at["white matter"] < at["grey matter"]


def test_inversion_recovery_by_hand():
    """PD 0.8, T1 1000 ms, T2 100 ms, TI 700, TR 3000, TE 20: 0.8 |1 - 2 e^-0.7 + e^-3| e^-0.2."""
    found = inversion_recovery(np.array(0.8), np.array(1000.0), np.array(100.0), 700, 3000, 20)
    assert found == pytest.approx(0.8 * (1 - 2 * 0.496585 + 0.049787) * 0.818731, rel=1e-4)


def test_target_is_a_t1_with_dark_bone():
    signal = target_signals()
    order = ("air", "cortical bone", "csf", "grey matter", "white matter", "fat")
    values = [float(signal[CODE[name]]) for name in order]
    assert values == sorted(values)
    assert values[-2] == 1
    assert sum(SHARES) == pytest.approx(1)
