"""Lesions through a translator: generators that copy, erase and invent are found out, and the truth passes."""

from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest
import torch

from ctmr.errors import DataError
from ctmr.evaluation.lesion_test import lesion_table
from ctmr.imaging.intensity import MR_UNITS
from ctmr.imaging.resampling import Scale
from ctmr.reporting.evaluation_section import lesion_rows
from ctmr.results import Lesions
from ctmr.synthetic.lesions import LESIONS
from ctmr.translation.translator import Translator
from support import identity

SIZE, HEADS = 64, 2
SCALE = Scale(SIZE, 3.5)


class Flat(identity.Identity):
    """A generator that draws the same grey everywhere, as if it drew a mean image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


class Blob(identity.Identity):
    """A generator that copies, and draws a bright spot into every brain."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x.clone()
        middle, left = x.shape[2] // 2, x.shape[3] // 2 - 8
        out[:, :, middle : middle + 4, left : left + 4] = 1
        return out


def translator(
    to_ct: type[identity.Identity], to_mr: type[identity.Identity], **encodings: Any
) -> Translator:
    """A translator with these generators, at 64 pixels of 3.5 mm."""
    model = identity.translator(ct={"HU": identity.HU}, scale=SCALE, **encodings).model
    card = model.card.model_copy(update={"data": model.card.data.model_copy(update={"size": SIZE})})
    generators: Any = {"mr-to-ct": to_ct().eval(), "ct-to-mr": to_mr().eval()}
    return Translator(replace(model, generators=generators, card=card))


@pytest.fixture(scope="module")
def of_images() -> Lesions:
    """What is found of a model of images that copies MR to CT, and draws CT as a grey plane."""
    return lesion_table(translator(identity.Identity, Flat), heads=HEADS)


@pytest.fixture(scope="module")
def of_volumes() -> Lesions:
    """What is found of a model of volumes that draws blobs into CT."""
    return lesion_table(translator(Blob, Flat, mr={"MR": MR_UNITS}), heads=1)


def shares(found: Lesions, direction: str, *keys: str) -> dict[str, float | None]:
    """A share of each kind of lesion."""
    which = attrgetter(".".join((*keys, "share")))
    return {kind: which(each) for kind, each in found.directions[direction].lesions.items()}


@pytest.mark.parametrize("which", ["of_images", "of_volumes"])
def test_of_the_truth_every_lesion_survives_and_nothing_is_invented(
    which: str, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(which)
    for direction in ("mr-to-ct", "ct-to-mr"):
        survive = shares(found, direction, "truth", "survives")
        assert set(survive.values()) <= {1.0, None}
        assert 1.0 in survive.values()
        assert set(shares(found, direction, "truth", "invented").values()) == {0.0}


def test_a_copy_keeps_what_has_the_same_contrast_in_both_and_loses_the_rest(
    of_images: Lesions,
) -> None:
    survive = shares(of_images, "mr-to-ct", "survives")
    assert survive["infarct"] > 0.5  # darker than brain on T1 and on CT
    assert survive["calcification"] == 0  # dark on T1, bright on CT
    assert survive["tumour"] == 0  # dark on T1, bright on CT
    assert shares(of_images, "mr-to-ct", "healthy", "survives")["infarct"] < 0.5


def test_of_a_grey_plane_nothing_survives(of_images: Lesions) -> None:
    assert set(shares(of_images, "ct-to-mr", "survives").values()) <= {0.0, None}
    assert set(shares(of_images, "ct-to-mr", "healthy", "survives").values()) <= {0.0, None}


def test_a_copy_of_volumes_lies_where_the_truth_does(of_volumes: Lesions) -> None:
    assert shares(of_volumes, "mr-to-ct", "survives")["infarct"] == 1


def test_a_blob_in_every_head_is_invented_in_every_head(of_volumes: Lesions) -> None:
    assert set(shares(of_volumes, "mr-to-ct", "healthy", "invented").values()) == {1.0}
    assert set(shares(of_volumes, "mr-to-ct", "invented").values()) == {1.0}


def test_a_copy_invents_nothing_that_a_plain_one_does_not(of_images: Lesions) -> None:
    sick = shares(of_images, "mr-to-ct", "invented")
    healthy = shares(of_images, "mr-to-ct", "healthy", "invented")
    assert sick == pytest.approx(healthy, abs=0.5)


def test_every_share_has_its_number_and_its_interval(of_images: Lesions) -> None:
    assert of_images.heads == HEADS
    assert "20 mm2" in of_images.what
    assert set(of_images.directions) == {"mr-to-ct", "ct-to-mr"}
    assert of_images.directions["mr-to-ct"].unit == "HU"
    assert of_images.directions["ct-to-mr"].unit == "grey"
    for direction in of_images.directions.values():
        assert tuple(direction.lesions) == LESIONS
        assert direction.limit > 0
        for each in direction.lesions.values():
            assert each.invented.n == each.detectable.n == HEADS
            assert each.survives.n <= HEADS
            low, high = each.invented.ci95
            assert 0 <= low <= each.invented.share <= high <= 1


def test_the_table_has_a_row_for_each_kind_and_direction(of_images: Lesions) -> None:
    head, rows = lesion_rows(of_images)
    assert len(rows) == 2 * len(LESIONS)
    assert {len(row) for row in rows} == {len(head)}


@pytest.mark.parametrize(
    "encodings",
    [
        {"ct": {"8-bit": identity.GREY_8}},
        {"ct": {"HU": identity.HU}, "mr": {"16-bit": identity.GREY_12}},
        {"ct": {"HU": identity.HU}, "mr": {"8-bit": identity.GREY_8, "MR": MR_UNITS}},
    ],
)
def test_a_model_of_other_values_than_synthetic_heads_have_is_refused(
    encodings: dict[str, Any],
) -> None:
    model = identity.translator(**encodings)
    with pytest.raises(DataError, match=r"expected a model of CT in HU .* found CT"):
        lesion_table(model, heads=1)


def test_less_than_one_head_is_refused() -> None:
    with pytest.raises(ValueError, match="heads must be at least 1: got 0"):
        lesion_table(translator(Flat, Flat), heads=0)
