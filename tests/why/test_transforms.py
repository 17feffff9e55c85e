"""Changes of pictures: published tables, sums that must come out exactly, inverses."""

import itertools
import math

import pytest
import torch

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data import transforms
from robustscope.data.datasets import load_data

DOUBLE = torch.float64


def noise(*shape, seed=0, dtype=DOUBLE):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def test_the_table_of_saturation():
    x = torch.tensor([[0, 0.1, 0.25, 0.5, 0.75, 1]], dtype=DOUBLE)
    table = {
        1: [0, 0.18, 0.375, 0.5, 0.625, 1],
        2: [0, 0.1, 0.25, 0.5, 0.75, 1],
        4: [0, 0.0528, 0.1464, 0.5, 0.8536, 1],
        16: [0, 0.0138, 0.0415, 0.5, 0.9585, 1],
        math.inf: [0, 0, 0, 0.5, 1, 1],
        1e-3: [0, 0.5, 0.5, 0.5, 0.5, 1],  # greys all but the ends
    }
    for level, row in table.items():
        assert torch.allclose(transforms.saturate(x, level), torch.tensor([row], dtype=DOUBLE), atol=5.1e-5)
    shifted = transforms.saturate(4 * x - 2, 4, Bounds(-2, 2))
    assert torch.allclose(shifted, 4 * transforms.saturate(x, 4) - 2)


def test_gamma_by_hand():
    assert torch.allclose(transforms.adjust_gamma(torch.tensor([[0, 0.5, 1.0]]), 2), torch.tensor([[0, 0.25, 1.0]]))
    back = transforms.adjust_gamma(transforms.adjust_gamma(noise(2, 5), 3), 1 / 3)
    assert torch.allclose(back, noise(2, 5))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_smoothing_by_brute_force(kernel, dtype):
    x = noise(2, 3, 5, 6, dtype=dtype)
    found = transforms.smooth(x, kernel)
    assert found.dtype == dtype
    for i in range(5):
        for j in range(6):
            rows = [min(max(i + a - (kernel - 1) // 2, 0), 4) for a in range(kernel)]
            columns = [min(max(j + a - (kernel - 1) // 2, 0), 5) for a in range(kernel)]
            assert torch.allclose(found[:, :, i, j], x[:, :, rows][:, :, :, columns].mean((2, 3)), atol=1e-6)
    assert torch.allclose(transforms.smooth(torch.full((1, 1, 4, 4), 0.3), kernel), torch.full((1, 1, 4, 4), 0.3))


def test_the_room_of_an_adversary():
    threat = ThreatModel("linf", 0.3)
    sides = {0.0: 0.3, 1.0: 0.3, 0.2: 0.5, 0.5: 0.6}
    for value, side in sides.items():
        assert transforms.log_volume(torch.tensor([[value]]), threat).exp().item() == pytest.approx(side)
    x = torch.tensor([list(sides)])
    assert transforms.log_volume(x, threat).item() == pytest.approx(sum(map(math.log, sides.values())) / 4)
    grey = transforms.log_volume(transforms.saturate(noise(1, 50), 0.5), threat)
    binary = transforms.log_volume(transforms.saturate(noise(1, 50), math.inf), threat)
    assert binary.item() == pytest.approx(math.log(0.3))
    assert grey > binary
    two = transforms.log_volume(torch.full((2, 3), 0.5), ThreatModel("linf", (0.1, 0.2)))
    assert two.exp().tolist() == pytest.approx([0.2, 0.4])


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_tiles_are_moved_whole(grid):
    x, draws = noise(3, 2, 8, 12), Draws(0, (4, 5, 6))
    orders = transforms.tile_orders(draws, "tiles", grid)
    assert orders.sort(1).values.equal(torch.arange(grid**2).expand(3, -1))
    found = transforms.shuffle_tiles(x, orders)
    assert torch.equal(transforms.shuffle_tiles(found, orders.argsort(1)), x)
    assert torch.equal(found.flatten(2).sort(2).values, x.flatten(2).sort(2).values)
    rows, columns = 8 // grid, 12 // grid
    for place in range(grid**2):
        for b in range(3):
            (i, j), (k, m) = divmod(place, grid), divmod(int(orders[b, place]), grid)
            mine = found[b, :, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            assert torch.equal(mine, x[b, :, k * rows : (k + 1) * rows, m * columns : (m + 1) * columns])
    assert torch.equal(found, x) == (grid == 1)


def test_every_order_of_tiles_is_as_likely():
    orders = transforms.tile_orders(Draws(0, tuple(range(2400))), "tiles", 2)
    kinds, counts = orders.unique(dim=0, return_counts=True)
    assert len(kinds) == 24
    assert ((counts - 100).double() ** 2 / 100).sum() < 49.7  # chi-square with 23 degrees, p = 0.001


@pytest.mark.parametrize(
    ("side", "counts"),
    [
        (32, {1: 1, 2: 9, 4: 45, 8: 193, 12: 437, 16: 793, 20: 995, 24: 1024}),
        (28, {1: 1, 2: 9, 4: 45, 8: 193, 12: 437, 16: 719, 20: 784}),
        (224, {28: 2449}),
    ],
)
def test_the_counts_of_frequencies(side, counts):
    for radius, count in counts.items():
        assert int(transforms.frequency_mask(side, side, radius).sum()) == count


@pytest.mark.parametrize("sides", [(31, 33), (32, 32), (8, 9)])
@pytest.mark.parametrize("radius", [1, 2.5, 4])
def test_frequencies_are_split_exactly(sides, radius):
    x = noise(2, 3, *sides)
    low, high = transforms.split_frequencies(x, radius)
    assert torch.allclose(low + high, x, atol=1e-15)
    assert torch.allclose(low.mean((2, 3)), x.mean((2, 3)))
    assert high.mean((2, 3)).abs().max() < 1e-14
    energy = [part.square().sum() for part in (low, high, x)]
    assert torch.allclose(energy[0] + energy[1], energy[2], rtol=1e-13)  # Parseval: nothing leaks
    again, nothing = transforms.split_frequencies(low, radius)
    assert torch.allclose(again, low, atol=1e-14)
    assert nothing.abs().max() < 1e-14


def test_a_mask_between_two_frequencies_is_caught():
    """The authors' program centres the mask at N/2 also for odd N: the part it discards is not small."""
    x = noise(1, 1, 31, 31)
    place = torch.arange(31, dtype=DOUBLE) - 15.5
    mask = place[:, None].square() + place.square() < 16
    low = torch.fft.ifft2(torch.fft.ifftshift(torch.fft.fftshift(torch.fft.fft2(x), (-2, -1)) * mask, (-2, -1)))
    assert low.imag.abs().max() > 0.01
    energy = low.real.square().sum() + (x - low.real).square().sum()
    assert abs(energy / x.square().sum() - 1) > 1e-4


@pytest.mark.parametrize("periods", [0, 3, 5, 8])
def test_a_wave_is_low_if_and_only_if_its_frequency_is(periods):
    wave = torch.cos(2 * math.pi * periods * torch.arange(16, dtype=DOUBLE) / 16 + 0.3).expand(1, 1, 16, 16)
    for radius in (2, 3, 4, 5.5, 9):
        low, high = transforms.split_frequencies(wave, radius)
        assert torch.allclose(low if periods < radius else high, wave, atol=1e-14)
    assert transforms.split_frequencies(noise(1, 1, 16, 16), 12)[1].abs().max() < 1e-14  # above sqrt(2) * 8


@pytest.mark.parametrize("sides", [(16, 16), (15, 12)])
def test_phases_stay_and_amplitudes_are_given(sides):
    x = noise(2, 3, *sides)
    found = transforms.flatten_amplitudes(x)
    before, after = torch.fft.fft2(x), torch.fft.fft2(found)
    before[..., 0, 0] = after[..., 0, 0] = 1
    assert torch.allclose(before / before.abs(), after / after.abs(), atol=1e-9)
    size = after.abs()
    assert torch.allclose(size[..., 0, 1] / size[..., 0, 2], torch.tensor(2.0, dtype=DOUBLE))  # 1/f
    for moment in (torch.mean, torch.std):
        assert torch.allclose(moment(found, (2, 3)), moment(x, (2, 3)))
    assert torch.allclose(transforms.flatten_amplitudes(found), found)
    assert torch.allclose(transforms.flatten_amplitudes(torch.full((1, 1, 4, 4), 0.2)), torch.full((1, 1, 4, 4), 0.2))


def test_amplitudes_stay_and_phases_are_drawn():
    x, draws = noise(2, 3, 8, 9), Draws(0, (1, 2))
    found = transforms.scramble_phases(x, draws, "phases")
    assert torch.allclose(torch.fft.fft2(found).abs(), torch.fft.fft2(x).abs())
    assert torch.allclose(found.mean((2, 3)), x.mean((2, 3)))
    assert (found - x).abs().mean() > 0.05
    turned = torch.fft.fft2(found) / torch.fft.fft2(x)
    assert torch.allclose(turned[:, 0], turned[:, 2])  # one field for all channels
    alone = transforms.scramble_phases(x[1:], draws.select(torch.tensor([1])), "phases")
    assert torch.allclose(alone, found[1:])


def test_none_is_taken():
    none = torch.zeros(0, 1, 4, 4)
    orders = transforms.tile_orders(Draws(0, ()), "tiles", 2)
    found = [
        transforms.smooth(none, 3),
        transforms.shuffle_tiles(none, orders),
        transforms.flatten_amplitudes(none),
        transforms.scramble_phases(none, Draws(0, ()), "phases"),
        *transforms.split_frequencies(none, 2),
    ]
    assert all(each.shape == none.shape for each in found)


def test_smoothing_digits_brings_classes_together():
    """What Ding et al. suspect: smoothing shrinks the distance of classes, and binarising takes the adversary's room."""
    data = load_data("digits")
    x = data.read(range(200))
    gap = lambda z: torch.cdist(z.flatten(1), z.flatten(1)).mean()  # noqa: E731
    assert gap(transforms.smooth(x, 3)) < 0.8 * gap(x)
    threat = ThreatModel("linf", 0.15)
    means = [transforms.log_volume(transforms.saturate(x, level), threat).mean() for level in (1, 2, 8, math.inf)]
    assert all(a > b for a, b in itertools.pairwise(means))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: transforms.smooth(torch.rand(2, 5), 3), InvalidValue, r"\(B, C, H, W\)"),
        (lambda: transforms.smooth(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 3), InvalidType, "uint8"),
        (lambda: transforms.smooth(torch.rand(1, 1, 5, 5), 0), InvalidValue, "kernel=0"),
        (lambda: transforms.saturate(torch.rand(1, 3), 0), InvalidValue, "level=0"),
        (lambda: transforms.saturate(torch.rand(1, 3), math.nan), InvalidValue, "level=nan"),
        (lambda: transforms.adjust_gamma(torch.rand(1, 3), math.inf), InvalidValue, "gamma=inf"),
        (lambda: transforms.log_volume(torch.rand(1, 3), ThreatModel("l2", 1)), InvalidValue, "linf"),
        (lambda: transforms.log_volume(torch.rand(1, 3), ThreatModel("linf", 0)), InvalidValue, "epsilon"),
        (
            lambda: transforms.shuffle_tiles(torch.rand(1, 1, 8, 12), torch.arange(9)[None]),
            InvalidValue,
            "allowed: 2, 4",
        ),
        (lambda: transforms.split_frequencies(torch.rand(1, 1, 4, 4), -1), InvalidValue, "radius=-1"),
    ],
)
def test_what_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
