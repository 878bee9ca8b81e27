"""What the values of a CT are, and what a user can vouch for."""

import numpy as np
import pytest
from scipy import ndimage

from ctmr.errors import SafetyError, UsageError
from ctmr.imaging.ct_values import advice, looks_like_offset_hu, rim_of, window_of, with_ct_values
from ctmr.imaging.image import Image
from ctmr.imaging.modality import as_modality
from ctmr.imaging.volume import Volume
from ctmr.synthetic.head import synthesise_head

HEAD = synthesise_head(5, shape=(64, 76, 60), spacing_mm=(3.0, 3.0, 3.0))
CT = HEAD.ct.astype(np.float32)
MR = HEAD.mr.astype(np.float32)
INSIDE = ndimage.binary_erosion(ndimage.binary_fill_holes(CT > -300), iterations=4)
BRAIN = INSIDE & (CT < 120)


def volume(array):
    return Volume(np.asarray(array, np.float32), HEAD.affine)


LOST = {
    "offset": (np.clip(CT + 1024, 0, None), "hu+1024"),
    "offset, air at 20": (np.clip(CT + 1024, 20, None), "hu+1024"),
    "brain only": (np.where(BRAIN, CT, 0), "hu"),
    "brain only, 1 outside": (np.where(BRAIN, CT, 1), "hu"),
    "soft tissue window": (np.clip(CT, -100, 300), "hu"),
    "0 to 1": (np.clip(CT / 80, 0, 1), "grey"),
    "0 to 255": (np.rint(np.clip((CT + 20) / 100, 0, 1) * 255), "grey"),
}


@pytest.mark.parametrize("name", LOST)
def test_advice_for_a_ct_not_in_hu_works_when_followed(name):
    array, value = LOST[name]
    with pytest.raises(SafetyError, match="expected CT in HU") as caught:
        as_modality(volume(array), "ct")
    assert f"--ct-values {value}" in caught.value.fix
    followed = as_modality(with_ct_values(volume(array), value), "ct")
    assert followed.modality == "ct"
    assert followed.encoding == ("grey" if value == "grey" else "HU")


def test_offset_comes_off():
    found = with_ct_values(volume(np.clip(CT + 1024, 0, None)), "hu+1024")
    assert np.allclose(found.array, np.clip(CT, -1024, None), atol=1e-3)


@pytest.mark.parametrize("outside", [0.0, 7.0, -100.0])
def test_constant_rim_of_a_head_that_was_cut_out_becomes_air(outside):
    array = np.where(BRAIN, CT, outside).astype(np.float32)
    array[32, 38, 30] = outside  # fluid inside, which is not joined to the rim
    found = with_ct_values(volume(array), "hu").array
    assert rim_of(array) == outside
    assert (found[~INSIDE] == -1024).all()
    assert found[32, 38, 30] == outside
    inner = ndimage.binary_erosion(BRAIN, iterations=2)
    assert (found[inner & (outside != CT)] > -200).all()


def test_air_stays_as_it_is():
    assert np.array_equal(with_ct_values(volume(CT), "hu").array, CT)
    array = np.where(BRAIN, CT, -1024).astype(np.float32)
    assert np.array_equal(with_ct_values(volume(array), "hu").array, array)


@pytest.mark.parametrize("scale", [1.0, 255.0, 4095.0])
def test_window_gives_back_the_hu_within_it(scale):
    low, high = -50.0, 350.0
    array = np.clip((CT - low) / (high - low), 0, 1) * scale
    found = with_ct_values(volume(array), "-50:350").array
    within = (low < CT) & (high > CT) & INSIDE
    assert np.allclose(found[within], CT[within], atol=0.01)
    assert found[INSIDE].max() == pytest.approx(high)
    assert found[0, 0, 0] == -1024


@pytest.mark.parametrize(("depth", "white"), [(8, 255.0), (16, 65535.0)])
def test_window_of_an_image_is_that_of_its_bits(depth, white):
    grey = np.array([[0, white / 2, white]], np.float32)
    found = with_ct_values(Image(grey, "grey", depth), "0:80")
    assert found.unit == "HU"
    assert np.allclose(found.array, [[0, 40, 80]], atol=1e-4)


def test_image_that_has_hu_keeps_them():
    image = Image(np.zeros((2, 2), np.float32), "HU", 16)
    assert with_ct_values(image, "hu+1024") is image


@pytest.mark.parametrize(
    "text", ["", "HU", "80", "80:0", "0:80:1", "nan:80", "0:inf", "a:b", "5:5"]
)
def test_other_words_are_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"--ct-values.*LOW:HIGH.*0:80"):
        window_of(text)


def test_mr_is_not_taken_for_a_ct_with_an_offset():
    for middle in (300, 700, 1024, 1100, 2000):
        scaled = MR * np.float32(middle / np.median(MR[INSIDE]))
        assert not looks_like_offset_hu(scaled)
        assert as_modality(volume(scaled), "mr").modality == "mr"


def test_ct_with_an_offset_is_no_mr_unless_the_user_says_so():
    offset = volume(np.clip(CT + 1024, 0, None))
    with pytest.raises(SafetyError, match=r"values of a CT in HU \+ 1024") as caught:
        as_modality(offset, "mr")
    assert "--anyway" in caught.value.fix
    assert as_modality(offset, "mr", anyway=True).modality == "mr"


@pytest.mark.parametrize("name", LOST)
def test_ct_of_any_values_is_no_mr(name):
    """By its values, or in any window by its bright skull."""
    array = LOST[name][0]
    if name == "brain only, 1 outside":
        array = np.where(BRAIN, CT, 0)
    with pytest.raises(SafetyError, match="expected MR: found") as caught:
        as_modality(volume(array), "mr")
    assert "--anyway" in caught.value.fix
    assert as_modality(volume(array), "mr", anyway=True).modality == "mr"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sequence", ["t1", "t2"])
def test_mr_is_not_taken_for_a_ct(seed, sequence):
    head = synthesise_head(seed, shape=(64, 76, 60), spacing_mm=(3.0, 3.0, 3.0), sequence=sequence)
    mr = head.mr.astype(np.float32)
    for array in (mr, mr - mr.mean(), mr / mr.max(), np.where(INSIDE, mr, 0)):
        assert as_modality(Volume(array, head.affine), "mr").modality == "mr"


def test_advice_names_the_rim():
    looks, fix = advice(np.where(BRAIN, CT, 0).astype(np.float32))
    assert looks == "looks like HU with the head cut out, 0 around it"
    assert fix == "give --ct-values hu"
