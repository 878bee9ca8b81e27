import numpy as np

from ctmr.audit.leaks import clusters, copies_of, find_leaks
from support.pictures import look, picture, slices


def found_in(pictures):
    return find_leaks(pictures, copies_of(pictures))


def test_equal_pictures_in_training_and_test_are_an_error():
    pictures = [picture("trainB/a.png", digest="x"), picture("testB/b.png", digest="x")]
    (finding,) = found_in([*pictures, picture("testB/c.png")])
    assert (finding.kind, finding.level) == ("identical_train_test", "error")
    assert finding.files == ("trainB/a.png", "testB/b.png")


def test_equal_pictures_in_a_folder_are_a_warning_and_among_ct_and_mr_an_error():
    (finding,) = found_in([picture(f"trainB/{n}.png", digest="x") for n in range(3)])
    assert (finding.kind, finding.level, len(finding.files)) == ("identical", "warning", 3)
    (finding,) = found_in(
        [picture("trainA/a.png", digest="x"), picture("trainB/b.png", digest="x")]
    )
    assert (finding.kind, finding.level) == ("identical_ct_mr", "error")


def test_copies_are_one_finding_with_all_that_show_the_same():
    original = slices(40, "mr")[1]
    pictures = [
        picture("trainB/a.png", looks=look(original)),
        picture("trainB/b.png", looks=look(0.7 * original)),
        picture("testB/c.png", looks=look(original[:, ::-1])),
        picture("testB/other.png", looks=look(slices(41, "mr")[1])),
    ]
    (finding,) = found_in(pictures)
    assert (finding.kind, finding.level) == ("near_duplicate", "error")
    assert finding.files == ("trainB/a.png", "trainB/b.png", "testB/c.png")
    assert "some mirrored" in finding.why
    assert "in training and in test folders" in finding.why
    (finding,) = found_in(pictures[:2])
    assert finding.level == "warning"
    assert "mirrored" not in finding.why


def test_pictures_equal_to_a_copy_belong_to_its_finding():
    original = slices(42, "mr")[1]
    looks, others = look(original), look(0.7 * original)
    pictures = [
        picture("trainB/a.png", digest="x", looks=looks),
        picture("trainB/b.png", digest="x", looks=looks),
        picture("testB/c.png", looks=others),
    ]
    by_kind = {finding.kind: finding for finding in found_in(pictures)}
    assert by_kind["identical"].files == ("trainB/a.png", "trainB/b.png")
    assert by_kind["near_duplicate"].files == ("trainB/a.png", "trainB/b.png", "testB/c.png")
    # Only the first of equal pictures is compared.
    assert [copy[:2] for copy in copies_of(pictures)] == [(0, 2)]


def test_patient_on_both_sides_is_an_error_that_does_not_name_it():
    pictures = [
        picture("trainA/a.png", patient="Doe"),
        picture("testB/b.png", patient="Doe"),
        picture("trainB/c.png", patient="Roe"),
        picture("trainB/d.png", patient="Roe"),
        picture("testB/e.png"),
    ]
    (finding,) = found_in(pictures)
    assert (finding.kind, finding.level) == ("patient_train_test", "error")
    assert finding.files == ("trainA/a.png", "testB/b.png")
    assert "Doe" not in finding.why


def test_clusters_join_equal_alike_and_of_one_patient_in_a_chain():
    original = slices(43, "ct")[1]
    pictures = [
        picture("trainA/a.png", looks=look(original)),
        picture("trainA/b.png", looks=look(0.7 * original), patient="p"),
        picture("testA/c.png", patient="p", digest="x"),
        picture("testA/d.png", digest="x"),
        picture("testA/e.png"),
        picture("testA/f.png"),
    ]
    found = clusters(pictures, copies_of(pictures))
    assert len(set(found[:4])) == 1
    assert len(set(found)) == 3


def test_nothing_has_no_leaks():
    assert found_in([]) == []
    assert clusters([], []).shape == (0,)
    assert isinstance(clusters([], []), np.ndarray)
