"""Objectives that are given something: a generator of each class, or masks."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from objective_bed import Linear, call, rectified
from robustscope.core.draws import Draws
from robustscope.core.errors import RobustscopeError
from robustscope.data.arrays import from_tensors
from robustscope.data.foreground_problems import digits_on_clutter
from robustscope.data.masks import changed
from robustscope.limits.generators import PPCA
from robustscope.models.classifier import Classifier
from robustscope.runs.masks import evaluate_masks
from robustscope.training import OBJECTIVES, Recipe, train
from robustscope.training.cards import Step
from robustscope.training.loop import Training
from robustscope.training.network import Network

RECIPE = Recipe(
    data="digits#train",
    objective="masked",
    threat="linf:0.15",
    model="perceptron",
    model_parameters={"hidden": [16]},
    samples=150,
    validation=30,
    epochs=1,
    batch_size=32,
    optimizer="adam",
    learning_rate=3e-3,
    validation_steps=1,
)


def given(thing, count):
    return Step(0, 1, torch.arange(count), count, count, given=thing)


def test_on_the_plane_of_a_linear_decoder_the_worst_margin_is_the_closed_form():
    # x = mean + V z: the margin falls by radius * |V' w|_1 at worst, at a corner of the codes.
    bed = Linear()
    generator = torch.Generator().manual_seed(2)
    loadings = 0.05 * torch.linalg.qr(torch.randn(6, 3, generator=generator, dtype=torch.float64)).Q
    half = torch.full((2, 6), 0.5, dtype=torch.float64)
    spread = torch.full((2, 3), 0.05**2, dtype=torch.float64)  # W'W: no noise, encoding inverts decoding
    plane = PPCA(half, loadings.expand(2, 6, 3), torch.zeros(2, dtype=torch.float64), spread)
    codes = torch.randn(40, 3, generator=generator, dtype=torch.float64).clamp(-1.5, 1.5)
    x = plane.decode(codes, bed.y)
    sign = 2 * bed.y.double() - 1
    margin = sign * (x @ bed.w - 0.2)
    worst = margin - 0.3 * (loadings.T @ bed.w).abs().sum()
    settings = {"step": given(plane, 40), "steps": 60, "step_size": 0.02}
    (term,) = call("on_manifold", bed.module, x, bed.y, "linf:0", clean_share=0.0, **settings)
    torch.testing.assert_close(term.losses, softplus(-worst), atol=1e-9, rtol=0)
    (term,) = call("on_manifold", bed.module, x, bed.y, "linf:0", clean_share=0.25, **settings)
    torch.testing.assert_close(term.losses, 0.25 * softplus(-margin) + 0.75 * softplus(-worst), atol=1e-9, rtol=0)
    # Codes stop at the limit: with all of it used up there is nowhere to go but back.
    (term,) = call("on_manifold", bed.module, x, bed.y, "linf:0", clean_share=0.0, limit=0.0, **settings)
    at_mean = sign * (0.5 * bed.w.sum() - 0.2)
    torch.testing.assert_close(term.losses, softplus(-at_mean), atol=1e-9, rtol=0)


def test_points_lie_on_the_manifold_and_inside_the_bounds():
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    seen = []
    network.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    recipe = dataclasses.replace(RECIPE, objective="on_manifold", parameters={"latent": 3}, samples=400)
    training = Training(recipe, None, None, None, (), None)
    x, y = training.samples.read(list(training.samples.ids[:50]))
    call("on_manifold", None, x, y, "linf:0", network=network, step=given(training.given, 50), steps=5, latent=3)
    ppca, point = training.given, seen[-2]  # the adversarial points, before the clean ones
    assert point.amin() >= 0
    assert point.amax() <= 1
    inside = ((point > 0) & (point < 1)).flatten(1)  # what the bounds have not cut
    codes = ppca.encode(x, y).clamp(-2, 2)
    spans = ppca.loadings[y].abs().sum(2) * 0.3
    far = ((point - ppca.decode(codes, y)).flatten(1).abs() - spans) * inside
    assert far.amax() < 1e-5


def test_the_generator_is_fitted_on_the_samples_that_are_trained_on():
    recipe = dataclasses.replace(RECIPE, objective="on_manifold", parameters={"latent": 2})
    training = Training(recipe, None, None, None, (), None)
    x, y = training.samples.read(list(training.samples.ids))
    assert torch.equal(training.given.mean, PPCA.fit(x, y, latent=2).mean)
    other = Training(recipe, None, None, None, (), None, training.given)
    assert other.given is training.given


def test_the_background_has_no_gradient_and_the_robust_margin_is_that_of_the_foreground():
    # Linear model: y (w . m x + b) - epsilon |m w|_1, whatever stands in the background.
    bed = Linear()
    mask = torch.tensor([1.0, 0, 1, 0, 0, 1], dtype=torch.float64).expand(40, 6)
    (term,) = call("masked", bed.module, bed.x, bed.y, "linf:0.05", step=given(mask, 40))
    margin = (2.0 * bed.y - 1) * ((mask * bed.x) @ bed.w - 0.2)
    expected = softplus(0.05 * (mask[0] * bed.w).abs().sum() - margin)
    torch.testing.assert_close(term.losses, expected, atol=1e-9, rtol=0)
    clutter = torch.where(mask > 0, bed.x, torch.rand(40, 6, dtype=torch.float64))
    (other,) = call("masked", bed.module, clutter, bed.y, "linf:0.05", step=given(mask, 40))
    torch.testing.assert_close(term.losses, other.losses, atol=0, rtol=0)


def test_an_l2_attack_spends_its_length_on_the_foreground():
    bed, mask = Linear(), torch.tensor([[1.0, 0, 0, 0, 0, 1]], dtype=torch.float64).expand(40, 6)
    settings = {"step": given(mask, 40), "steps": 20, "relative_step_size": 2.0}
    (term,) = call("masked", bed.module, bed.x, bed.y, "l2:0.1", **settings)
    margin = (2.0 * bed.y - 1) * ((mask * bed.x) @ bed.w - 0.2)
    expected = softplus(0.1 * (mask[0] * bed.w).norm() - margin)
    torch.testing.assert_close(term.losses, expected, atol=1e-9, rtol=0)


def test_with_a_mask_of_ones_and_no_radius_it_is_standard_training_bit_for_bit():
    recipe = dataclasses.replace(RECIPE, threat="linf:0")
    everything = train(recipe, given=lambda x, ids: torch.ones_like(x))
    plain = train(dataclasses.replace(recipe, objective="standard"))
    for a, b in zip(everything.module.parameters(), plain.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_masks_come_from_files_functions_and_tensors_alike(tmp_path):
    masks = torch.rand(1297, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    np.save(tmp_path / "masks.npy", masks.numpy())
    recipe = dataclasses.replace(RECIPE, parameters={"steps": 1})
    trained = [
        train(dataclasses.replace(RECIPE, parameters={"mask": f"npy:{tmp_path / 'masks.npy'}", "steps": 1})),
        train(recipe, given=masks[:, None]),
        train(recipe, given=lambda x, ids: masks[list(ids), None]),
    ]
    first, *others = ([weight.clone() for weight in each.module.parameters()] for each in trained)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (torch.ones(10, 1, 8, 8), "10 masks were given"),
        (torch.full((1297, 1, 8, 8), 2.0), "values from 0 to 1"),
        (lambda x, ids: torch.ones(8, 8), "mask of shape"),
        (3, "masks of type int"),
    ],
)
def test_masks_that_do_not_fit_are_refused(thing, text):
    with pytest.raises(RobustscopeError, match=text):
        train(RECIPE, given=thing)


def test_a_mask_that_does_not_exist_is_refused():
    with pytest.raises(RobustscopeError, match="foreground"):
        train(dataclasses.replace(RECIPE, parameters={"mask": "foreground"}))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("masked", {"steps": 3}),
        ("on_manifold", {"steps": 2, "latent": 2}),
        ("on_manifold", {"steps": 2, "latent": 2, "clean_share": 0.0}),
        ("on_manifold", {"latent": 2, "clean_share": 1.0}),
    ],
)
def test_ledgers_count_what_the_cards_say(name, settings):
    card, rows = OBJECTIVES[name], [0]
    training = Training(dataclasses.replace(RECIPE, objective=name, parameters=settings), None, None, None, (), None)
    hook = lambda module, inputs: rows.__setitem__(0, rows[0] + len(inputs[0]))  # noqa: E731
    training.network.module[1].register_forward_pre_hook(hook)
    training._epoch()
    stated = card.passes(card.resolve(settings))
    assert rows[0] == 120 * stated.forward
    assert training.network.passes == dataclasses.replace(
        stated, forward=120 * stated.forward, backward=120 * stated.backward
    )


@pytest.mark.parametrize("name", ["masked", "on_manifold"])
def test_nothing_depends_on_the_batch(name):
    module, x, y = rectified(), torch.rand(9, 6, dtype=torch.float64), torch.tensor([0, 1, 2] * 3)
    thing = (torch.arange(54).view(9, 6) % 2).double() if name == "masked" else PPCA.fit(x, y, latent=1)
    settings = {"steps": 3}
    (whole,) = call(name, module, x, y, "linf:0.1", step=given(thing, 9), **settings)
    parts = [
        call(name, module, x[i : i + 1], y[i : i + 1], "linf:0.1", step=given(thing, 9), ids=(i,), **settings)[0].losses
        for i in range(9)
    ]
    torch.testing.assert_close(torch.cat(parts), whole.losses, atol=1e-12, rtol=0)


def test_on_clutter_the_foreground_is_worth_more_than_a_random_mask_and_than_none():
    (x, y, masks), held = digits_on_clutter("train"), [part[:300] for part in digits_on_clutter("test")]
    kinds = {
        "foreground": masks,
        "random": changed("random", masks, Draws(0, tuple(range(len(x))))),
        "none": masks | True,
    }
    recipe = dataclasses.replace(RECIPE, threat="linf:0.1", model_parameters={"hidden": [64]}, samples="all", epochs=12)
    recipe = dataclasses.replace(recipe, parameters={"steps": 2, "relative_step_size": 0.6}, batch_size=128)
    accuracy = {}
    for kind, mask in kinds.items():
        module = train(recipe, data=from_tensors(x, y), given=mask[:, None]).module
        accuracy[kind] = evaluate_masks(Classifier(module), *held, "linf:0.1", kinds=(kind,))["robust"].mean()
    assert accuracy["foreground"] > accuracy["none"] + 0.05
    assert accuracy["foreground"] > accuracy["random"] + 0.05
