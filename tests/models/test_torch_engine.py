import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmr.cyclegan.networks import EncoderDecoder, build_generator
from ctmr.errors import ResourceError
from ctmr.models.engines import Network, run_batch
from ctmr.models.torch_engine import run_generator
from support.identity import Identity


class Recorder(Identity):
    """The identity, which remembers what it saw."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return x


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]))
def test_any_shape_comes_back_as_it_was(height, width, channels):
    image = np.random.default_rng(height).uniform(-1, 1, (height, width, channels))
    image = image.astype(np.float32)
    recorder = Recorder()
    assert np.array_equal(run_generator(recorder, image), image)
    shape = recorder.seen.shape
    assert shape[:2] == (1, channels)
    assert all(side % 4 == 0 and side >= 16 for side in shape[2:])
    assert all(
        given <= side < max(16, given + 4) + 1
        for given, side in zip((height, width), shape[2:], strict=True)
    )


def test_border_is_mirrored_without_a_seam():
    image = np.arange(1, 12, dtype=np.float32)[None, :, None].repeat(16, axis=0) / 20
    recorder = Recorder()
    run_generator(recorder, image)
    row = recorder.seen[0, 0, 0].numpy() * 20
    assert np.allclose(row, [2, 1, *range(1, 12), 11, 10, 9])


@pytest.mark.parametrize("size", [(20, 20), (65, 97)])
def test_encoder_gets_its_smallest_and_its_multiple(size):
    generator = build_generator(
        "resnet34", channels=1, filters=4, blocks=1, upsample="nearest", skips=False
    ).eval()
    assert isinstance(generator, EncoderDecoder)
    result = run_generator(generator, np.zeros((*size, 1), np.float32))
    assert result.shape == (*size, 1)
    assert result.dtype == np.float32
    assert np.isfinite(result).all()


WANTS = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory"),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", WANTS, ids=lambda error: type(error).__name__)
def test_images_for_which_memory_does_not_suffice_are_translated_half_of_them_at_a_time(error):
    seen = []

    def forward(images):
        if len(images) > 2:
            raise error
        seen.append(len(images))
        return images

    images = np.random.default_rng(0).uniform(-1, 1, (7, 20, 24, 1)).astype(np.float32)
    assert np.array_equal(run_batch(Network(forward, 4, 16), images), images)
    assert seen == [1, 2, 2, 2]


@pytest.mark.parametrize("error", WANTS, ids=lambda error: type(error).__name__)
def test_image_for_which_memory_does_not_suffice_is_a_resource_error_with_numbers(error):
    def forward(_):
        raise error

    with pytest.raises(
        ResourceError, match=r"an image of 20 x 24 pixels: found [\d,]+ bytes free"
    ) as caught:
        run_batch(Network(forward, 4, 16), np.zeros((4, 20, 24, 1), np.float32))
    assert caught.value.exit_code == 7


def test_other_errors_of_a_generator_are_not_taken_for_want_of_memory():
    def forward(_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_batch(Network(forward, 4, 16), np.zeros((4, 20, 24, 1), np.float32))
