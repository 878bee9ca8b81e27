import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmr.engine import run_generator
from ctmr.networks import EncoderDecoder, build_generator
from identity import Identity


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
