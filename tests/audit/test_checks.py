import dataclasses

import numpy as np
import pytest

from ctmr.audit.checks import find_faults
from ctmr.audit.inventory import Inventory
from support.pictures import look, picture, slices

FOLDERS = {("train", "ct"): "trainA", ("train", "mr"): "trainB"}
BOTH = FOLDERS | {("test", "ct"): "testA", ("test", "mr"): "testB"}
CT = [look(each) for seed in (50, 51, 52) for each in slices(seed, "ct")]
MR = [look(each) for seed in (53, 54, 55) for each in slices(seed, "mr")]


def found_in(pictures, folders=None):
    folders = folders or {
        place: name for place, name in BOTH.items() if any(p.folder == name for p in pictures)
    }
    inventory = Inventory(tuple(pictures), (), len(pictures), folders)
    return find_faults(inventory, np.arange(len(pictures)))


def of_kind(pictures, kind, **more):
    return [finding for finding in found_in(pictures, **more) if finding.kind == kind]


def pictures_of(folder, looks, **about):
    return [picture(f"{folder}/{n:02d}.png", looks=each, **about) for n, each in enumerate(looks)]


def test_folders_of_what_they_say_have_no_findings():
    assert found_in(pictures_of("trainA", CT) + pictures_of("trainB", MR)) == []


def test_ct_among_mr_and_mr_among_ct_are_found_surest_first():
    pictures = pictures_of("trainA", [*CT[:10], MR[11]]) + pictures_of("trainB", [*MR[:10], CT[11]])
    found = of_kind(pictures, "wrong_modality")
    assert {finding.files for finding in found} == {("trainA/10.png",), ("trainB/10.png",)}
    assert {finding.why[:13] for finding in found} == {"looks like MR", "looks like CT"}
    chances = [int(finding.why.partition("chance ")[2].rstrip("%)")) for finding in found]
    assert chances == sorted(chances, reverse=True)
    assert {finding.level for finding in found} == {"error"}


def test_exchanged_folders_are_one_finding():
    pictures = pictures_of("trainA", MR[:6]) + pictures_of("trainB", CT[:6])
    assert of_kind(pictures, "wrong_modality") == []
    (finding,) = of_kind(pictures, "exchanged_folders")
    assert finding.level == "error"
    assert finding.files == ("trainA", "trainB")


def test_folder_of_the_other_modality_is_one_finding():
    pictures = pictures_of("trainA", CT[:6]) + pictures_of("trainB", CT[6:])
    (finding,) = of_kind(pictures, "wrong_modality")
    assert finding.files == ("trainB",)


def test_blank_pictures_are_named():
    pictures = [*pictures_of("trainA", CT), picture("trainA/blank.png"), *pictures_of("trainB", MR)]
    (finding,) = found_in(pictures)
    assert (finding.kind, finding.level) == ("blank", "warning")
    assert finding.files == ("trainA/blank.png",)


def test_saturated_pictures_are_one_finding_a_folder_worst_first():
    pictures = [
        picture("trainA/a.png", ends=(0.01, 0.05)),
        picture("trainA/b.png", ends=(0.05, 0.30)),
        picture("trainA/c.png", ends=(0.19, 0.019)),
        picture("trainB/d.png", ends=(0.5, 0.0)),
    ]
    ct, mr = of_kind(pictures, "saturated")
    assert ct.files == ("trainA/b.png", "trainA/a.png")
    assert ct.why.startswith("2 of 3: in the median 18% of the head at the highest value")
    assert "HU cannot be recovered" in ct.why
    assert mr.files == ("trainB/d.png",)
    assert "HU" not in mr.why


@pytest.mark.parametrize(
    ("mark", "kind"), [("frame", "frame"), ("letters", "burnt_in_text"), ("colour", "colour")]
)
def test_marks_are_findings(mark, kind):
    pictures = [picture("trainB/a.png", marks=(mark,)), picture("trainB/b.png")]
    (finding,) = of_kind(pictures, kind)
    assert finding.files == ("trainB/a.png",)
    assert finding.why.startswith("1 of 2: ")


def test_sizes_and_modes_are_counted_for_each_folder():
    pictures = [picture(f"trainA/{n}.png") for n in range(3)]
    pictures += [picture("trainA/large.png", shape=(512, 400), stored="8-bit RGB")]
    (sizes,), (modes,) = of_kind(pictures, "mixed_sizes"), of_kind(pictures, "mixed_modes")
    assert sizes.files == modes.files == ("trainA",)
    assert sizes.why == "2 sizes, from 64 x 64 to 512 x 400; 3 of 4 are 64 x 64"
    assert modes.why == "3 8-bit grey, 1 8-bit RGB"
    assert {sizes.level, modes.level} == {"note"}


def changed(looks, **descriptors):
    return looks[0]._replace(**descriptors), looks[1]


def test_slices_that_are_not_axial_or_off_the_brain_are_named():
    upright = changed(CT[0], cut_below=0.9, tapered=0.9, tall=1.1, solid=0.9)
    pictures = pictures_of("trainA", [*CT, upright]) + pictures_of("trainB", MR)
    (planes,) = of_kind(pictures, "mixed_planes")
    assert planes.files == ("trainA/12.png",)
    base = changed(CT[0], black=0.3, spread=1.0, middle=0.5, edges=0.15, fine=0.08, near=0.4)
    (below,) = of_kind(pictures_of("trainA", [*CT, base]), "below_brain")
    assert below.files == ("trainA/12.png",)
    assert of_kind(pictures_of("trainB", [*MR, base]), "below_brain") == []


def volume(label, **about):
    each = picture(label, **about)
    return dataclasses.replace(each, source=dataclasses.replace(each.source, kind="volume"))


def test_volumes_of_another_plane_or_of_a_part_are_named():
    pictures = [volume(f"trainB/{n}.nii", plane="axial") for n in range(3)]
    pictures += [volume("trainB/s.nii", plane="sagittal", part="the top is cut off")]
    (planes,), (part,) = of_kind(pictures, "mixed_planes"), of_kind(pictures, "partial_head")
    assert planes.files == part.files == ("trainB/s.nii",)
    assert planes.why == "1 of 4: volumes were taken 3 in axial slices, 1 in sagittal slices"
    assert part.why == "1 of 4: the first of them: the top is cut off"


def test_volumes_are_not_judged_by_their_looks():
    pictures = [volume(f"trainA/{n}.nii", looks=each) for n, each in enumerate(MR)]
    (finding,) = found_in(pictures)
    assert (finding.kind, finding.level) == ("empty", "warning")  # there is no MR


def test_images_beside_volumes_are_an_error():
    (finding,) = of_kind([picture("trainA/a.png"), volume("trainB/b.nii")], "images_and_volumes")
    assert finding.why.startswith("1 images and 1 volumes")
    assert finding.level == "error"


def test_imbalance_and_empty_folders_are_told():
    pictures = [picture(f"trainA/{n}.png") for n in range(5)] + [
        picture("trainB/a.png"),
        picture("trainB/b.png"),
    ]
    (finding,) = of_kind(pictures, "imbalance")
    assert (finding.why, finding.files) == ("5 CT and 2 MR", ("trainA", "trainB"))
    assert of_kind(pictures[1:], "imbalance") == []
    empty = of_kind(pictures, "empty", folders=BOTH)
    assert [(each.files, each.level) for each in empty] == [
        (("testA",), "warning"),
        (("testB",), "warning"),
    ]
    (finding,) = of_kind(pictures[:5], "empty", folders=FOLDERS)
    assert (finding.files, finding.level) == (("trainB",), "error")
