"""Every registered transformation keeps its form, and each does exactly what its paper says."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import robustscope
from robustscope.contracts.explained import sections
from robustscope.contracts.trial import other_global_numbers
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue, UnknownName
from robustscope.core.types import Bounds
from robustscope.defenses import DEFENSES
from robustscope.defenses.apply import transform, transformation
from robustscope.defenses.quilting import nearest, patch_database, places, seam
from robustscope.defenses.tv_minimisation import minimise
from robustscope.models.classifier import Classifier
from robustscope.models.defended import defend
from robustscope.models.randomness import random_state, same_random_state

CARDS = [pytest.param(card, id=card.name) for card in DEFENSES]
SHAPES = [(1, 8, 8), (3, 9, 7)]


def pictures(n=5, shape=(1, 8, 8), dtype=torch.float32, bounds=Bounds(0.0, 1.0)):
    unit = Draws(0, tuple(range(n)), "pictures").uniform("x", torch.empty(n, *shape, dtype=dtype), 0.0, 1.0)
    unit[0, 0, 0, :2] = torch.tensor([0.0, 1.0], dtype=dtype)
    return unit * (bounds.upper - bounds.lower) + bounds.lower


def facts(card, x):
    data = {"patches": patch_database(x, 5, 50)} if "patches" in card.needs else {}
    return {**card.quick, **data}


# What every one of them must keep.


@pytest.mark.parametrize("shape", SHAPES, ids=["grey", "colour"])
@pytest.mark.parametrize("card", CARDS)
def test_form_bounds_and_manners(card, shape, capsys):
    for dtype, bounds in itertools.product((torch.float32, torch.float64), (Bounds(0.0, 1.0), Bounds(-1.0, 2.0))):
        x = pictures(5, shape, dtype, bounds)
        given = x.clone()
        before = random_state()
        out = transform(card.name, x, bounds=bounds, **facts(card, x))
        assert same_random_state(before, random_state())
        assert (out.shape, out.dtype, out.requires_grad) == (x.shape, dtype, False)
        assert torch.equal(x, given)
        assert out.data_ptr() != x.data_ptr()
        assert torch.isfinite(out).all()
        if card.stays_in_bounds:
            assert out.min() >= bounds.lower
            assert out.max() <= bounds.upper
        assert len(transform(card.name, x[:0], bounds=bounds, **facts(card, x))) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("card", CARDS)
def test_draws_decide_and_batches_do_not(card):
    x = pictures(6, (1, 8, 8), torch.float64)
    made = transformation(card.name, **facts(card, x))
    draws = Draws(3, tuple(range(20, 26)))
    with other_global_numbers(1):
        whole = made.apply(x, draws)
    with other_global_numbers(2):
        assert torch.equal(whole, made.apply(x, draws))
    other = made.apply(x, Draws(4, draws.ids))
    assert torch.equal(whole, other) is not card.stochastic
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    torch.testing.assert_close(made.apply(x[order], draws.select(order)), whole[order], rtol=0, atol=1e-12)
    for size in (1, 4):
        parts = [made.apply(x[rows], draws.select(rows)) for rows in torch.arange(6).split(size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    if card.stochastic:
        twins = x[:1].expand(3, -1, -1, -1)
        apart = made.apply(twins, Draws(3, (0, 1, 2)))
        assert not (torch.equal(apart[0], apart[1]) and torch.equal(apart[1], apart[2]))
        same = made.apply(twins, Draws(3, (7, 7, 7)))
        assert torch.equal(same[0], same[2])


@pytest.mark.parametrize("card", CARDS)
def test_the_declared_derivative_exists(card):
    x = pictures(2, (1, 8, 8), torch.float64)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3).double()).eval())
    guarded = defend(model, transformation(card.name, **facts(card, x)), verdict_draws=2, gradient_draws=2)
    _, gradients, _ = guarded.gradient(lambda z, rows: z[:, 0], x)
    assert gradients.any()
    if card.backward == "identity":
        torch.testing.assert_close(gradients[0].flatten(), model.module[1].weight[0].detach())
    else:
        own = transformation(card.name, **facts(card, x)).function
        draws = Draws(0, (0,), "t")
        assert torch.autograd.gradcheck(lambda z: own(z, draws), x[:1].clamp(0.1, 0.9).requires_grad_())


@pytest.mark.parametrize("card", CARDS)
def test_it_explains_itself(card):
    parts = sections(card.function.__doc__)
    assert parts[""].strip().split("\n")[0].endswith(".")
    for name in inspect.signature(card.function).parameters:
        assert f"{name}:" in parts["Args"], name
    assert card.source
    assert card.bibtex
    assert {"Returns", "Raises", "Source"} <= set(parts)
    card.resolve(card.quick)


def test_what_does_not_fit_is_refused():
    x = pictures()
    for name, given in (
        ("bit_depth", {"depth": 0}),
        ("jpeg", {"quality": 0}),
        ("crop_rescale", {"share": 0.0}),
        ("gaussian_noise", {"sigma": 0.0}),
        ("tv_minimisation", {"drop_rate": 1.0}),
        ("tv_minimisation", {"weight": 0.0}),
        ("tv_minimisation", {"sweeps": 0}),
        ("quilting", {"patches": torch.zeros(4, 1, 9, 9)}),
        ("quilting", {"patches": torch.zeros(4, 3, 5, 5)}),
        ("quilting", {"patches": torch.zeros(4, 1, 5, 5), "overlap": 5}),
        ("quilting", {"patches": torch.zeros(4, 1, 5, 5), "neighbours": 0}),
    ):
        with pytest.raises(InvalidValue):
            transform(name, x, **given)
    for name in ("jpeg", "crop_rescale", "tv_minimisation"):
        with pytest.raises(InvalidValue, match="pictures"):
            transform(name, torch.rand(2, 9))
    with pytest.raises(InvalidValue, match="C among"):
        transform("jpeg", torch.rand(2, 2, 8, 8))
    with pytest.raises(UnknownName, match="patches"):
        transform("quilting", x)
    with pytest.raises(InvalidType, match="patches"):
        transform("quilting", x, patches=[1])
    with pytest.raises(UnknownName, match="bit_depth"):
        transform("bit_dept", x)
    with pytest.raises(UnknownName, match="depth"):
        transform("bit_depth", x, bits=3)
    with pytest.raises(InvalidValue):
        patch_database(x, 9)


# What each of them computes.


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_bit_depth(depth):
    x = torch.linspace(-1, 2, 1001, dtype=torch.float64)[None]
    bounds = Bounds(-1.0, 2.0)
    once = transform("bit_depth", x, bounds=bounds, depth=depth)
    assert torch.equal(transform("bit_depth", once, bounds=bounds, depth=depth), once)
    assert len(once.unique()) == min(2**depth, 1001)
    half = 3.0 / (2 * (2**depth - 1))
    assert (once - x).abs().max() <= half + 1e-12
    if depth < 8:
        assert (once - x).abs().max() > 0.95 * half


def test_jpeg_is_what_pillow_does():
    x = pictures(3, (3, 16, 16), torch.float64)
    best, worst = (transform("jpeg", x, quality=q) for q in (95, 5))
    assert (best - x).abs().mean() < (worst - x).abs().mean()
    assert torch.equal((best * 255).round() / 255, best)
    flat = torch.full((1, 1, 8, 8), 128 / 255, dtype=torch.float64)
    assert torch.equal(transform("jpeg", flat), flat)
    grey = pictures(2, (1, 16, 16), torch.float64)
    assert (transform("jpeg", grey, quality=95) - grey).abs().mean() < 0.02


def test_crops_of_a_ramp_are_ramps_from_where_the_window_lies():
    x = torch.arange(12.0, dtype=torch.float64).div(12).expand(40, 1, 12, 12)
    out = transform("crop_rescale", x, share=0.5)
    lefts = set()
    for picture in out[:, 0]:
        torch.testing.assert_close(picture, picture[:1].expand(12, -1))
        left = round(float(picture[0, 0]) * 12)
        lefts.add(left)
        position = ((torch.arange(12).double() + 0.5) / 2 - 0.5).clamp(0, 5)
        torch.testing.assert_close(picture[0], (left + position) / 12)
    assert lefts == set(range(7)), "every window is met, the last included"
    assert torch.equal(transform("crop_rescale", x, share=1.0), x)


def test_the_crop_ensemble_of_a_model_that_knows_no_place_is_one_answer():
    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)

    x = torch.rand(4, 1, 1, 1, dtype=torch.float64).expand(4, 1, 10, 10)
    model = Classifier(Mean().eval())
    for draws in (1, 30):
        guarded = defend(model, transformation("crop_rescale"), verdict_draws=draws)
        torch.testing.assert_close(guarded.logits(x), model.logits(x), rtol=0, atol=1e-12)


def test_noise_has_its_size():
    x = torch.full((50, 1, 8, 8), 0.5, dtype=torch.float64)
    gap = transform("gaussian_noise", x, sigma=0.3) - x
    assert abs(float(gap.std()) - 0.3) < 0.01
    assert abs(float(gap.mean())) < 0.02


@pytest.mark.parametrize("weight", [0.03, 0.3, 4.0])
def test_a_step_shrinks_as_a_taut_string_does(weight):
    """With every value kept, each side moves by weight / length towards the other until they meet."""
    x = torch.cat([torch.zeros(4), torch.ones(8)]).double()
    left, right = weight / 4, 1 - weight / 8
    due = right * x + left * (1 - x) if left < right else torch.full_like(x, 8 / 12)
    for picture in (x.view(1, 1, 1, 12), x.view(1, 1, 12, 1)):
        z = minimise(picture, torch.ones_like(picture), weight, 1500, 2)
        torch.testing.assert_close(z.flatten(), due, rtol=0, atol=1e-5)


def test_constants_stay_whatever_is_forgotten():
    x = torch.tensor([0.2, 0.9], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 3, 6, 5).contiguous()
    torch.testing.assert_close(transform("tv_minimisation", x), x, rtol=0, atol=1e-12)


def energy(z, x, kept, weight):
    across = torch.zeros_like(z)
    down = torch.zeros_like(z)
    across[..., :-1], down[..., :-1, :] = z[..., 1:] - z[..., :-1], z[..., 1:, :] - z[..., :-1, :]
    return (kept * (z - x).square() / 2 + weight * (across.square() + down.square()).sqrt()).flatten(1).sum(1)


def test_total_variation_is_minimal():
    x = pictures(4, (1, 6, 7), torch.float64)
    kept = (Draws(0, (0, 1, 2, 3)).uniform("m", x) > 0).double()
    z = minimise(x, kept, 0.1, 2000, 2)
    least = energy(z, x, kept, 0.1)
    for scale in (0.1, 0.01, 0.001):
        for number in range(20):
            other = z + scale * Draws(number, (0, 1, 2, 3)).normal("step", x)
            assert (energy(other, x, kept, 0.1) > least).all()
    short = energy(minimise(x, kept, 0.1, 30, 2), x, kept, 0.1)
    assert (short <= 1.02 * least).all()


def test_what_is_forgotten_does_not_matter():
    x = pictures(3, (3, 8, 8), torch.float64)
    draws = Draws(0, (0, 1, 2)).within("tv_minimisation")
    dropped = (draws.uniform("mask", x[:, :1], 0.0, 1.0) < 0.5).expand_as(x)
    assert 0.3 < dropped.double().mean() < 0.7
    changed = torch.where(dropped, 1 - x, x)
    assert torch.equal(transform("tv_minimisation", x), transform("tv_minimisation", changed))


# Quilting.


def test_quilting_with_its_own_patches_returns_the_picture():
    for shape in ((1, 8, 8), (3, 11, 7)):
        x = pictures(1, shape, torch.float64)
        patches = patch_database(x, 5)
        for overlap in (0, 2, 4):
            out = transform("quilting", x, patches=patches, neighbours=1, overlap=overlap)
            assert torch.equal(out, x)


def test_the_whole_picture_is_covered_by_clean_patches():
    x = pictures(4, (1, 11, 13), torch.float64)
    patches = 2 + pictures(30, (1, 5, 5), torch.float64)
    out = transform("quilting", x, patches=patches, overlap=1)
    assert (out >= 2).all(), "the right and the lower border too"
    assert set(out.flatten().tolist()) <= set(patches.flatten().tolist())
    for length, side, step in itertools.product(range(5, 14), (3, 5), (1, 2, 3)):
        found = places(length, side, step)
        assert {i for start in found for i in range(start, start + side)} == set(range(length))


def test_neighbours_are_the_nearest_and_all_are_drawn():
    blocks, patches = torch.rand(6, 12, dtype=torch.float64), torch.rand(40, 12, dtype=torch.float64)
    due = torch.cdist(blocks, patches).argsort(1)[:, :4]
    assert torch.equal(nearest(blocks, patches, 4), due)
    x = pictures(1, (1, 5, 5), torch.float64).expand(200, 1, 5, 5)
    patches = pictures(30, (1, 5, 5), torch.float64)
    out = transform("quilting", x, patches=patches, neighbours=3).flatten(1)
    used = {int((patches.flatten(1) == row).all(1).nonzero()[0]) for row in out}
    assert used == set(nearest(x[:1].flatten(1), patches.flatten(1), 3)[0].tolist())


def test_seams_are_the_cheapest_of_all_ways():
    cost = torch.rand(8, 5, 3, dtype=torch.float64)
    ways = [w for w in itertools.product(range(3), repeat=5) if all(abs(a - b) <= 1 for a, b in itertools.pairwise(w))]
    found = seam(cost)
    for one, path in zip(cost, found.tolist(), strict=True):
        prices = {w: sum(float(one[line, at]) for line, at in enumerate(w)) for w in ways}
        assert tuple(path) == min(prices, key=prices.get)


def test_a_seam_hides_where_two_patches_agree():
    left, right = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    left[..., 2:] = torch.tensor([[5.0, 1.0], [1.0, 5.0], [5.0, 1.0], [1.0, 5.0]])
    right[..., :2] = torch.tensor([[5.0, 9.0], [9.0, 5.0], [5.0, 9.0], [9.0, 5.0]])
    right[..., 2:] = 7
    from robustscope.defenses.quilting import _joined

    canvas = torch.zeros(1, 1, 4, 4)
    canvas[..., :2] = left[..., 2:]
    out = _joined(canvas, right, 0, 2)
    assert out[0, 0].tolist() == [[5, 9, 7, 7], [1, 5, 7, 7], [5, 9, 7, 7], [1, 5, 7, 7]]


def test_the_database_is_made_of_windows():
    x = pictures(3, (3, 7, 6), torch.float64)
    whole = patch_database(x, 4)
    assert whole.shape == (3 * 4 * 3, 3, 4, 4)
    assert torch.equal(whole[1 * 12 + 2 * 3 + 1], x[1, :, 2:6, 1:5])
    few = patch_database(x, 4, 10, seed=1)
    assert few.shape == (10, 3, 4, 4)
    assert all((whole == patch).flatten(1).all(1).any() for patch in few)
    assert not torch.equal(few, patch_database(x, 4, 10, seed=2))


def test_digits_survive_every_transformation():
    data = robustscope.load_data("digits")
    x, y = data.read(range(60)), torch.as_tensor(data.labels[:60])
    model = robustscope.load_model("bundled:digits_standard").classifier
    train = robustscope.load_data("digits#train").read(range(200))
    clean = {}
    for card in DEFENSES:
        given = {"patches": patch_database(train, 3, 500)} if card.needs else {}
        given |= {"share": 0.875} if card.name == "crop_rescale" else {}
        given |= {"drop_rate": 0.2} if card.name == "tv_minimisation" else {}
        guarded = defend(model, transformation(card.name, **given), verdict_draws=5)
        clean[card.name] = float((guarded.logits(x).argmax(1) == y).double().mean())
    assert min(clean.values()) > 0.6, clean
    assert np.mean(list(clean.values())) > 0.85, clean
