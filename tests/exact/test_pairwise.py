"""Nearest neighbours of another class and pairs within a radius, against the whole table of distances."""

import pytest
import torch

from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.geometry import pairwise

NORMS = ("linf", "l2", "l1")
ORDER = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}


def sets(n, m, d, seed=0, dtype=torch.float64, grey=0):
    """Random samples; with ``grey`` steps, values on a grid, so that many distances are equal."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    if grey:
        a, b = ((z * grey).round() / grey for z in (a, b))
    ya, yb = (torch.randint(3, (k,), generator=generator) for k in (n, m))
    return a.to(dtype), ya, b.to(dtype), yb


def table(norm, a, b):
    return torch.cdist(a.double(), b.double(), p=ORDER[norm], compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grey", [0, 1, 4])
@pytest.mark.parametrize("d", [1, 7, 300])
def test_the_nearest_is_the_least_of_the_table(norm, dtype, grey, d, monkeypatch):
    monkeypatch.setattr(pairwise, "COLUMNS", 64)
    a, ya, b, yb = sets(70, 150, d, seed=d + grey, dtype=dtype, grey=grey)
    distance, index = pairwise.nearest(norm, a, ya, b, yb)
    whole = table(norm, a, b).masked_fill(ya[:, None] == yb[None], torch.inf)
    torch.testing.assert_close(distance, whole.amin(1), rtol=3e-7 if dtype == torch.float32 else 1e-12, atol=1e-12)
    torch.testing.assert_close(whole.gather(1, index[:, None])[:, 0], distance, rtol=1e-12, atol=1e-12)
    assert (ya != yb[index]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_does_not_depend_on_the_others_that_ask(norm):
    a, ya, b, yb = sets(80, 200, 90, dtype=torch.float32, grey=2)
    distance, index = pairwise.nearest(norm, a, ya, b, yb)
    one = [pairwise.nearest(norm, a[k : k + 1], ya[k : k + 1], b, yb) for k in range(0, 80, 7)]
    assert torch.equal(torch.cat([d for d, _ in one]), distance[::7])
    assert norm == "l2" or torch.equal(torch.cat([i for _, i in one]), index[::7])


@pytest.mark.parametrize("norm", NORMS)
def test_without_another_class_there_is_no_neighbour(norm):
    a, ya, b, yb = sets(5, 9, 4)
    distance, index = pairwise.nearest(norm, a, ya * 0, b, yb * 0)
    assert torch.isinf(distance).all()
    assert (index == -1).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_all_pairs_within_a_radius_and_no_other(norm, share, monkeypatch):
    monkeypatch.setattr(pairwise, "COLUMNS", 64)
    a, _, b, _ = sets(90, 130, 40, dtype=torch.float32)
    b[:20] = a[:20]
    whole = table(norm, a, b)
    radius = float(whole.flatten().quantile(share)) * (1 + 1e-9)
    i, j, d = pairwise.within(norm, a, b, radius)
    assert {*zip(i.tolist(), j.tolist())} == {*map(tuple, (whole <= radius).nonzero().tolist())}
    torch.testing.assert_close(d, whole[i.long(), j.long()], rtol=1e-9, atol=1e-12)
    assert (d[(i == j) & (i < 20)] == 0).all(), "the distance of two equal samples is zero, not nearly"


def test_what_cannot_be_compared_is_refused():
    x = torch.rand(3, 2)
    with pytest.raises(InvalidType, match="uint8"):
        pairwise.check_sets(x, (x * 255).byte())
    for bad in (x[:0], torch.rand(3, 3), torch.full((3, 2), torch.nan), torch.rand(3)):
        with pytest.raises(InvalidValue):
            pairwise.check_sets(x, bad)
    with pytest.raises(InvalidValue, match="l0"):
        pairwise.check_pair_norm("l0")


def test_touching_pairs_touch_in_spite_of_rounding():
    x = torch.tensor([[3 / 255], [255 / 255]])
    apart = float(pairwise.length("linf", x[:1], x[1:]))
    assert abs(apart - 2 * 126 / 255) <= pairwise.rounding("linf", x)
    assert pairwise.rounding("linf", x) < 1e-6
