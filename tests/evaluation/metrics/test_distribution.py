"""Distances between sets of images: worked by hand, unbiased, and in the right order."""

from dataclasses import asdict

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

from ctmr.evaluation.metrics.distribution import compare, features, frechet, frechet_of, kernel
from ctmr.system.rng import stream
from support.heads import head

PATIENTS = [f"p{n // 3}" for n in range(36)]  # 12 patients with 3 images each


@pytest.fixture(scope="module")
def heads() -> np.ndarray:
    images = [head(n, "mr", 40, 40) for n in range(len(PATIENTS))]
    return np.stack(images).astype(np.float32) / 127.5 - 1


def of(images: np.ndarray) -> np.ndarray:
    return features(images.astype(np.float32), np.ones(images.shape, np.bool_))


# Frechet


def test_frechet_distance_of_gaussians_by_hand() -> None:
    # One dimension: (m1 - m2)^2 + (s1 - s2)^2 = 9 + 4. With a diagonal covariance, the sum over dimensions: 9 + 4 + 0 + 1.
    def diagonal(mean: list[float], deviation: list[float]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(mean), np.diag(np.square(deviation))

    assert frechet_of(diagonal([1], [3]), diagonal([4], [5])) == pytest.approx(13)
    assert frechet_of(diagonal([1, 0], [3, 1]), diagonal([4, 0], [5, 2])) == pytest.approx(14)
    assert frechet_of(diagonal([1, 0], [3, 0]), diagonal([1, 0], [3, 0])) == pytest.approx(0)


def test_frechet_distance_of_gaussians_is_the_definition() -> None:
    rng = stream("definition")
    gaussians = []
    for _ in range(2):
        root = rng.normal(size=(5, 5))
        gaussians.append((rng.normal(size=5), root @ root.T))
    (m1, c1), (m2, c2) = gaussians
    expected = np.square(m1 - m2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_of(*gaussians) == pytest.approx(expected)
    assert frechet_of(*gaussians) == pytest.approx(frechet_of(*gaussians[::-1]))


def test_frechet_distance_of_large_sets_is_that_of_their_gaussians() -> None:
    rng = stream("large")
    first = rng.normal(size=(20000, 2)) * (3, 1) + (1, 0)
    second = rng.normal(size=(20000, 2)) * (5, 2) + (4, 0)
    assert frechet(first, second) == pytest.approx(14, rel=0.03)


def test_fewer_images_than_features_have_a_finite_distance() -> None:
    rng = stream("few")
    assert np.isfinite(frechet(rng.normal(size=(3, 48)), rng.normal(size=(2, 48))))


# Kernel


def test_kernel_distance_of_two_pairs_by_hand() -> None:
    # One feature: k(a, b) = (a b + 1)^3. {0, 1} and {1, 2}: within 1 and 27, across 1, 1, 8, 27 (mean 37 / 4).
    first, second = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert kernel(first, second) == pytest.approx(1 + 27 - 2 * 37 / 4)


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    def all_pairs(x: np.ndarray, y: np.ndarray) -> float:
        return float(((x @ y.T / x.shape[1] + 1) ** 3).mean())

    unbiased, biased = [], []
    for n in range(800):
        rng = stream("unbiased", n)
        x, y = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
        unbiased.append(kernel(x, y))
        # The estimator that counts each image with itself too.
        biased.append(all_pairs(x, x) + all_pairs(y, y) - 2 * all_pairs(x, y))
    error = np.std(unbiased) / np.sqrt(len(unbiased))
    assert abs(np.mean(unbiased)) < 3 * error
    assert np.mean(biased) > 20 * error
    assert min(unbiased) < 0 < max(unbiased)


# Sets of images


@pytest.mark.parametrize("which", ["frechet", "kernel"])
@pytest.mark.parametrize(
    "changes",
    [
        [lambda i, s=s: gaussian_filter(i, (0, s, s)) for s in (0.6, 1.0, 2.0)],
        [
            lambda i, s=s: np.clip(i + s * stream("noise").normal(size=i.shape), -1, 1)
            for s in (0.1, 0.2, 0.4)
        ],
        [lambda i, s=s: np.clip(i + s, -1, 1) for s in (0.1, 0.2, 0.4)],
    ],
    ids=["blurred", "noisy", "brighter"],
)
def test_the_more_images_are_spoilt_the_farther_they_are(heads, changes, which) -> None:
    real = of(heads)
    found = [compare(real, of(change(heads)), PATIENTS, PATIENTS) for change in changes]
    distances = [getattr(each, which) for each in found]
    yardstick = getattr(found[0], f"{which}_real")
    assert yardstick < distances[0] < distances[1] < distances[2]


def test_images_that_are_real_are_as_far_as_real_ones(heads) -> None:
    real = of(heads)
    found = compare(real, real, PATIENTS, PATIENTS)
    assert found.frechet == pytest.approx(found.frechet_real)
    assert found.kernel == pytest.approx(found.kernel_real)


def test_order_of_the_images_does_not_matter(heads) -> None:
    real, translated = of(heads), of(heads[:, :, ::-1] * 0.9)
    order = stream("order").permutation(len(heads))
    moved = compare(real[order], translated[::-1], [PATIENTS[n] for n in order], PATIENTS[::-1])
    unmoved = compare(real, translated, PATIENTS, PATIENTS)
    assert asdict(moved) == pytest.approx(asdict(unmoved))


def test_sets_may_be_of_different_patients_and_sizes(heads) -> None:
    real = of(heads)
    names = [f"q{n}" for n in range(6)]
    alike, spoilt = real[:6] + 1e-3, of(gaussian_filter(heads[:6], (0, 2, 2)))
    near, far = (compare(real, each, PATIENTS, names) for each in (alike, spoilt))
    assert near.kernel < far.kernel
    assert near.frechet < far.frechet


def test_patients_are_never_compared_with_themselves() -> None:
    # Each patient's image lies far from those of all others, and the translation is the image itself.
    real = np.array([[0.0], [0.0], [1.0], [1.0]])
    found = compare(real, real, ["a", "a", "b", "b"], ["a", "a", "b", "b"])
    # 0 and 1 become -1 and 1 in units of their deviation, and every image has another patient's 2 away.
    assert found.frechet == pytest.approx(4, abs=1e-4)
    assert found.frechet_real == pytest.approx(4, abs=1e-4)


@pytest.mark.parametrize("patients", [["a"] * 4, ["a", "b", "c"], ["a", "b"]])
def test_too_few_patients_or_images_have_no_distance(patients) -> None:
    rows = stream("few").normal(size=(len(patients), 3))
    assert compare(rows, rows, patients, patients) is None


def test_rows_without_a_patient_are_refused() -> None:
    rows, four = np.zeros((4, 3)), ["a", "a", "b", "b"]
    with pytest.raises(ValueError, match="a patient for each row: got 3"):
        compare(rows, rows, four[:3], four)
    with pytest.raises(ValueError, match="a patient for each row: got 4"):
        compare(rows, rows[:3], four, four)
