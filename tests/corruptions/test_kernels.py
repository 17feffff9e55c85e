"""What makes corruptions fast gives what it stands for: numbers cut from words, transforms, JPEG without a file."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from robustscope.core.draws import Draws
from robustscope.corruptions import corrupt
from robustscope.corruptions.filters import _by_fourier, _by_rows, disc_kernel
from robustscope.corruptions.jpeg import through
from robustscope.corruptions.numbers import normal, sixteen, unit
from robustscope.data.pictures import through_jpeg


def test_numbers_cut_from_words_follow_their_laws():
    """The largest gap to the distribution function over 200,000 numbers is below its 99.9 % quantile."""
    draws, like = Draws(11, (0,)), torch.empty(1, 200_001)
    for found, law in ((normal(draws, "n", like), stats.norm.cdf), (unit(draws, "u", like), stats.uniform(-1, 2).cdf)):
        ordered = law(np.sort(found[0].double().numpy()))
        assert np.abs(ordered - np.arange(1, 200_002) / 200_001).max() < 1.95 / math.sqrt(200_001)
    assert float(normal(draws, "n", like).double().var()) == pytest.approx(1, abs=0.01)
    for cut in (sixteen, normal):
        whole = cut(Draws(0, (3, 9)), "p", torch.empty(2, 3, 5))
        assert torch.equal(cut(Draws(0, (9,)), "p", torch.empty(1, 3, 5)), whole[1:])
        assert not torch.equal(whole[0], whole[1])


def test_defocus_by_rows_and_by_transforms_are_one():
    x = Draws(1, (0, 1)).uniform("x", torch.empty(2, 3, 40, 30).double(), 0.0, 1.0)
    for constants in ((3, 0.1), (10, 0.5)):
        kernel = disc_kernel(*constants)
        quarter = kernel[len(kernel) // 2 :, len(kernel) // 2 :]
        found = torch.stack([_by_fourier(picture, quarter) for picture in x])
        torch.testing.assert_close(found, _by_rows(x, quarter), atol=1e-12, rtol=0)


@pytest.mark.parametrize("quality", [7, 10, 25, 50, 80, 100])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 17, 23), (3, 5, 4), (3, 1, 1), (1, 3, 2), (3, 33, 96)])
def test_jpeg_on_tensors_is_pillows(shape, quality):
    """Noise, black and white, and soft blots, on whole blocks and on parts of them."""
    noise = Draws(7, (0, 1)).integers("x", math.prod(shape), 0, 256).view(2, *shape).float()
    soft = torch.nn.functional.interpolate(noise[..., :3, :3], shape[1:], mode="bilinear").round()
    for x in (noise, (noise > 127) * 255.0, soft):
        due = through_jpeg(x.byte().numpy(), quality)
        for dtype in (torch.float32, torch.float64):
            found = through(x.to(dtype), quality)
            assert found.dtype == dtype
            assert np.array_equal(found.byte().numpy(), due)


def test_large_and_small_pictures_take_the_same_jpeg():
    x = Draws(2, (0,)).integers("x", 3 * 128 * 112, 0, 256).view(1, 3, 128, 112).float() / 255
    found = corrupt("jpeg_compression", x, 2)
    assert torch.equal(found * 255, through((x * 255).round(), 58).div(255) * 255)
