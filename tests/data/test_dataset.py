import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from ctmr.config import PRESETS
from ctmr.data.dataset import UnpairedSlices, loader
from ctmr.data.prepare import prepare
from ctmr.errors import DataError, ResourceError

CONFIG = PRESETS["small"].data.model_copy(update={"size": 32})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """7 CT and 3 MR slices; each is a gradient to the right whose level names the slice."""
    folder = tmp_path_factory.mktemp("dataset")
    for name, count in (("trainA", 7), ("trainB", 3)):
        (folder / name).mkdir()
        for n in range(count):
            gradient = np.tile(np.arange(48, dtype=np.uint8), (40, 1)) + np.uint8(10 + 25 * n)
            Pillow.fromarray(gradient).save(folder / name / f"{n}.png")
    return prepare(folder, CONFIG, folder / "store")


@pytest.fixture
def dataset(store):
    return UnpairedSlices(store, CONFIG, seed=7)


def same(a, b) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_sample_is_a_ct_and_an_mr_crop_in_the_unit_range(dataset):
    x, y = dataset[0]
    assert x.shape == y.shape == (1, 32, 32)
    assert x.dtype == y.dtype == torch.float32
    assert -1 <= min(x.min(), y.min()) < max(x.max(), y.max()) <= 1


def test_sample_is_a_pure_function_of_seed_and_number(store, dataset):
    again = UnpairedSlices(store, CONFIG, seed=7)
    assert all(same(dataset[n], again[n]) for n in (40, 3, 40, 0))
    other = UnpairedSlices(store, CONFIG, seed=8)
    assert not all(same(dataset[n], other[n]) for n in range(5))


def test_epoch_is_as_long_as_the_larger_folder(dataset):
    assert dataset.images == 7
    for epoch in range(3):
        numbers = range(7 * epoch, 7 * epoch + 7)
        assert sorted(dataset.index(n, "ct") for n in numbers) == list(range(7))
        assert sorted(dataset.index(n, "mr") for n in numbers[:3]) == [0, 1, 2]
        assert sorted(dataset.index(n, "mr") for n in numbers[3:6]) == [0, 1, 2]


def test_each_repeat_of_the_smaller_folder_has_its_own_order(dataset):
    orders = {tuple(dataset.index(7 * epoch + n, "mr") for n in range(6)) for epoch in range(20)}
    assert any(order[:3] != order[3:] for order in orders)
    assert len(orders) > 10


def test_new_epoch_has_a_new_order_and_new_pairs(dataset):
    epochs = [
        [(dataset.index(n, "ct"), dataset.index(n, "mr")) for n in range(7 * e, 7 * e + 7)]
        for e in range(2)
    ]
    assert [ct for ct, _ in epochs[0]] != [ct for ct, _ in epochs[1]]
    assert set(epochs[0]) != set(epochs[1])


def test_every_pair_and_every_slice_comes_up_in_the_long_run(dataset):
    pairs = Counter((dataset.index(n, "ct"), dataset.index(n, "mr")) for n in range(7 * 300))
    assert len(pairs) == 21
    # 100 expected of each; about 10 is one standard deviation
    assert min(pairs.values()) > 50
    assert max(pairs.values()) < 150


def test_crops_reach_every_place_and_half_are_mirrored(dataset, store):
    slices = [store.slice("train", "ct", index)[..., 0] for index in range(7)]
    lefts, mirrored = set(), 0
    for n in range(200):
        row = dataset[n][0][0, 0].numpy()
        if row[0] > row[-1]:
            mirrored, row = mirrored + 1, row[::-1]
        whole = slices[dataset.index(n, "ct")][0]
        places = [
            left for left in range(whole.size - 31) if np.array_equal(whole[left : left + 32], row)
        ]
        assert len(places) == 1
        lefts |= set(places)
    assert lefts == set(range(12))  # 48 x 0.9 = 43 columns
    assert 70 < mirrored < 130


def test_no_image_is_mirrored_unless_asked_for(store):
    plain = UnpairedSlices(store, CONFIG.model_copy(update={"flip": False}), seed=7)
    assert all(image[0, 0, 0] < image[0, 0, -1] for n in range(50) for image in plain[n])


def test_ct_and_mr_are_cropped_and_mirrored_independently(dataset):
    signs = {
        tuple(bool(image[0, 0, 0] < image[0, 0, -1]) for image in dataset[n]) for n in range(40)
    }
    assert len(signs) == 4


def test_negative_number_is_refused(dataset):
    with pytest.raises(IndexError, match="must not be negative: got -1"):
        dataset[-1]


def test_batches_are_the_samples_of_their_steps(dataset):
    batches = list(loader(dataset, 2, 3, 6, workers=0))
    assert len(batches) == 3
    for step, (x, y) in enumerate(batches, start=3):
        assert x.shape == y.shape == (2, 1, 32, 32)
        for b in range(2):
            assert same((x[b], y[b]), dataset[2 * step + b])


def test_workers_give_the_same_batches_and_leave_the_global_generator_alone(dataset):
    state = torch.get_rng_state()
    alone = list(loader(dataset, 2, 0, 12, workers=0))
    helped = list(loader(dataset, 2, 0, 12, workers=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(alone) == len(helped) == 12
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_store_that_is_gone_is_named_before_the_workers_start(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "store")
    gone = UnpairedSlices(prepare(tmp_path / "store", CONFIG), CONFIG, seed=0)
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(DataError, match="cannot read it"):
        loader(gone, 1, 0, 1, workers=2)


class Failing(UnpairedSlices):
    """Raises an error at a sample."""

    def __getitem__(self, n):
        if n == 3:
            raise DataError("expected a slice, found none", file="data/a.png", fix="restore it")
        return super().__getitem__(n)


@pytest.mark.parametrize("workers", [0, 1])
def test_error_at_a_sample_keeps_its_type_and_file_and_comes_at_its_batch(dataset, workers):
    """`DataLoader` alone would make a RuntimeError of it (faults.md, R13)."""
    failing = Failing(dataset.store, CONFIG, seed=7)
    batches = loader(failing, 2, 0, 4, workers)
    assert len(next(batches)[0]) == 2
    with pytest.raises(DataError, match=r"^data/a\.png: expected a slice, found none") as caught:
        next(batches)
    assert (caught.value.exit_code, caught.value.fix) == (3, "restore it")


def test_dead_worker_is_a_resource_error_with_its_number_and_the_step(dataset):
    batches = loader(dataset, 1, 10, 1000, workers=1)
    next(batches)
    (worker,) = [
        int(path.name) for path in Path("/proc").glob("[0-9]*") if is_worker(path, os.getpid())
    ]
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(ResourceError, match=rf"worker {worker} died before step \d+") as caught:
        list(batches)
    assert caught.value.exit_code == 7


def is_worker(place, session_of):
    """Whether a process is a loader worker of that one: a child of its fork server."""
    try:
        parent = int((place / "stat").read_text().rsplit(") ", 1)[1].split()[1])
        grandparent = int(Path(f"/proc/{parent}/stat").read_text().rsplit(") ", 1)[1].split()[1])
        return grandparent == session_of and b"forkserver" in (place / "cmdline").read_bytes()
    except (OSError, IndexError):
        return False
