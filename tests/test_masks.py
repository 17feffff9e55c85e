"""Foreground masks: exact on linear networks, the same on restricted ones, fixed and attacked; summaries by hand."""

import pandas as pd
import pytest
import torch
from torch import nn

from doors import assert_three_parts
from robustscope.analyses.masks import mask_summary
from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.errors import CorruptRun, InvalidValue
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data.masks import KINDS, changed
from robustscope.models.classifier import Classifier
from robustscope.models.foreground import (
    carries_masks,
    gradient_inside,
    masked,
    masked_rows,
    numbered,
    over_backgrounds,
    saliency_masks,
    self_masked,
    with_masks,
)
from robustscope.models.loading import fingerprint
from robustscope.reports.masks import render_masks
from robustscope.runs import masks as runs_masks
from robustscope.runs.masks import ALL, evaluate_masks

GENERATOR = torch.Generator().manual_seed(5)
X = 0.3 + 0.4 * torch.rand(40, 2, 5, 4, generator=GENERATOR)
MASKS = torch.rand(40, 5, 4, generator=GENERATOR) < 0.4
MASKS[:, 0, 0] = True


ONE_STEP = {"steps": 1, "random_start": False, "relative_step_size": 1.0, "loss": "margin"}  # exact where all is linear


def linear(dtype=torch.float32, scale=1.0) -> tuple[Classifier, torch.Tensor]:
    """Return a classifier of two classes, and the difference of their weights (2, 5, 4)."""
    layer = nn.Linear(40, 2, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    layer.weight.data.copy_(scale * torch.randn(2, 40, generator=generator))
    layer.weight.data -= layer.weight.data.mean(1, keepdim=True)  # the mean of a picture says nothing
    layer.bias.data.zero_()
    return Classifier(nn.Sequential(nn.Flatten(), layer).eval()), (layer.weight[1] - layer.weight[0]).detach().view(
        2, 5, 4
    )


def network(seed=0) -> Classifier:
    module = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(120, 3)).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return Classifier(module.eval())


def ask(model, x):
    return model.gradient(lambda logits, rows: logits.logsumexp(1) - logits[:, 0], x)[1]


# Classifiers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_nothing_off_the_mask_has_a_gradient_or_an_effect(fill):
    model, x = network(), X.double()
    rows = masked_rows(model, fill=fill)
    gradient = ask(rows, with_masks(x, MASKS))
    assert (gradient[:, 2] == 0).all(), "the mask itself cannot be moved"
    assert (gradient[:, :2][~MASKS[:, None].expand(-1, 2, -1, -1)] == 0).all()
    assert (gradient[:, :2][MASKS[:, None].expand(-1, 2, -1, -1)] != 0).all()
    noise = torch.where(MASKS[:, None], 0.0, torch.rand(x.shape, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(rows.logits(with_masks(x + noise, MASKS)), rows.logits(with_masks(x, MASKS)))
    for i in range(3):
        one = masked(model, MASKS[i], fill=fill)
        assert torch.allclose(ask(one, x[i : i + 1])[0], gradient[i, :2], rtol=1e-12, atol=1e-14)
        background = torch.where(MASKS[i], x[i : i + 1], torch.tensor(fill).double())
        assert torch.equal(one.logits(x[i : i + 1]), model.logits(background))


def test_normalisation_comes_after_the_mask():
    module = nn.Sequential(nn.Flatten(), nn.Linear(40, 2)).eval()
    model = Classifier(module, mean=(0.5, 0.2), std=(0.3, 0.1))
    black = torch.where(MASKS[0], X[:1], 0.0)
    assert torch.equal(masked(model, MASKS[0]).logits(X[:1]), model.logits(black))


def test_masks_enter_the_fingerprint():
    model, _ = linear()
    marks = {fingerprint(masked(model, mask).module, bounds=(0, 1)) for mask in MASKS[:3]}
    marks |= {fingerprint(masked(model, MASKS[0], fill=0.5).module, bounds=(0, 1))}
    assert len(marks) == 4


@pytest.mark.parametrize("bounds", [Bounds(0.0, 1.0), Bounds(-1.0, 1.0), Bounds(0.0, 255.0)])
def test_a_carried_mask_survives_every_perturbation_below_half_the_range(bounds):
    assert carries_masks("linf", 0.49 * (bounds.upper - bounds.lower), bounds)
    assert not carries_masks("linf", 0.5 * (bounds.upper - bounds.lower), bounds)
    assert not carries_masks("l2", 0.1, bounds)
    module = nn.Sequential(nn.Flatten(), nn.Linear(40, 2)).eval()
    model = Classifier(module, bounds=bounds)
    x = with_masks(X, MASKS, bounds)
    moved = x.clone()
    moved[:, 2] += 0.49 * (bounds.upper - bounds.lower) * torch.where(MASKS, -1.0, 1.0)
    assert torch.equal(masked_rows(model).logits(moved), masked_rows(model).logits(x))


@pytest.mark.parametrize(
    "call",
    [
        lambda: masked(linear()[0], MASKS[0].float()),
        lambda: masked(linear()[0], MASKS[0], fill=1.5),
        lambda: masked_rows(linear()[0], fill=-1.0),
        lambda: masked_rows(linear()[0]).logits(torch.rand(2, 40)),
        lambda: with_masks(X, MASKS[:3]),
        lambda: saliency_masks(linear()[0], X, share=0.0),
        lambda: saliency_masks(linear()[0], X, smooth=2),
        lambda: changed("grown", MASKS, Draws(0, tuple(range(40)))),
        lambda: evaluate_masks(linear()[0], X, torch.zeros(40, dtype=torch.int64), None, "linf:0.1"),
        lambda: evaluate_masks(linear()[0], X, torch.zeros(40, dtype=torch.int64), MASKS, "linf:0.1", kinds=()),
        lambda: evaluate_masks(linear()[0], X, torch.zeros(40, dtype=torch.int64), MASKS, "linf:0.1", kinds=["all"]),
    ],
)
def test_faults_are_named(call):
    with pytest.raises(InvalidValue) as caught:
        call()
    assert_three_parts(caught.value)


# Robustness behind masks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "dual", "epsilon"), [("linf", 1, 0.02), ("l2", 2, 0.1)])
def test_the_robust_margin_of_a_linear_network_is_that_of_its_masked_weights(norm, dual, epsilon):
    model, weights = linear(torch.float64)
    x = X.double()
    y = (torch.arange(40) % 2).long()
    rows = evaluate_masks(model, x, y, MASKS, f"{norm}:{epsilon}", kinds=("none", *KINDS), method=("pgd", ONE_STEP))
    draws = Draws(0, tuple(range(40)), "masks")
    for kind in ("none", *KINDS):
        masks = torch.ones_like(MASKS) if kind == "none" else changed(kind, MASKS, draws)
        hidden = weights * masks[:, None]
        margin = torch.where(y == 1, 1, -1) * (hidden * x).flatten(1).sum(1)
        reach = epsilon * hidden.flatten(1).norm(dual, dim=1)
        assert (margin - reach).abs().min() > 1e-6, "no sample may lie on the edge"
        mine = rows[rows["kind"] == kind]
        assert mine["clean_correct"].tolist() == (margin > 0).tolist()
        assert mine["robust"].tolist() == (margin > reach).tolist()
        assert 3 < sum(mine["robust"]) < sum(mine["clean_correct"]), "the test decides something"
        assert mine["dimension"].tolist() == (2 * masks.flatten(1).sum(1)).tolist()


@pytest.mark.parametrize(("norm", "dual", "epsilon"), [("linf", 1, 0.02), ("l2", 2, 0.1)])
def test_with_the_foreground_attacked_alone_a_linear_network_keeps_its_margin_and_loses_reach(norm, dual, epsilon):
    """y (w x + b) - epsilon |m * w|: the margin of the whole picture, the reach of the mask."""
    model, weights = linear(torch.float64)
    x, y = X.double(), (torch.arange(40) % 2).long()
    kind = "foreground attacked"
    mine = evaluate_masks(model, x, y, MASKS, f"{norm}:{epsilon}", kinds=(kind,), method=("pgd", ONE_STEP))
    margin = torch.where(y == 1, 1, -1) * (weights * x).flatten(1).sum(1)
    reach = epsilon * (weights * MASKS[:, None]).flatten(1).norm(dual, dim=1)
    assert (margin - reach).abs().min() > 1e-6, "no sample may lie on the edge"
    assert mine["clean_correct"].tolist() == (margin > 0).tolist()
    assert mine["robust"].tolist() == (margin > reach).tolist()
    everything = epsilon * weights.flatten().norm(dual)
    assert sum(margin > everything) < sum(mine["robust"]) < sum(mine["clean_correct"]), "the test decides something"
    assert mine["dimension"].tolist() == (2 * MASKS.flatten(1).sum(1)).tolist()


@pytest.mark.parametrize("bounds", [Bounds(0.0, 1.0), Bounds(-1.0, 1.0)])
def test_numbered_pictures_keep_their_clean_backgrounds(bounds):
    model = Classifier(network().module, bounds=bounds)
    x = X.double()
    far = 0.49 * (bounds.upper - bounds.lower) * (2 * torch.rand(40, 3, 5, 4, dtype=torch.float64) - 1)
    order = torch.randperm(40)[:17]
    given = (numbered(x, bounds) + far).clamp(*bounds)[order]
    due = model.logits(torch.where(MASKS[order, None], given[:, :2], x[order]))
    assert torch.equal(over_backgrounds(model, MASKS, x).logits(given), due)
    gradient = ask(over_backgrounds(model, MASKS, x), given)
    assert (gradient[:, :2] == 0)[~MASKS[order, None].expand(-1, 2, -1, -1)].all()
    assert (gradient[:, 2] == 0).all()
    assert numbered(x[:1], bounds).shape == (1, 2, 5, 4)


def test_a_mask_before_the_perturbation_leaks():
    """The wrong order, masked pictures of which the background may be perturbed too, must not pass for the right one."""
    model, weights = linear(torch.float64)
    y = (torch.arange(40) % 2).long()
    reach = 0.05 * (weights * MASKS[:, None]).abs().flatten(1).sum(1)
    margin = torch.where(y == 1, 1, -1) * (weights * MASKS[:, None] * X.double()).flatten(1).sum(1)
    leaky = attack("pgd", model, (X * MASKS[:, None]).double(), y, "linf:0.05", **ONE_STEP)
    wrong = (margin > 0) & ~leaky.verdict.success
    assert wrong.sum() < (margin > reach).sum()


def test_the_masked_attack_is_the_attack_on_the_masked_coordinates():
    model, mask = network(), MASKS[3]
    place = mask[None].expand(2, -1, -1).flatten().nonzero()[:, 0]

    class Restricted(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model.module

        def forward(self, z):
            return self.network(z.new_zeros(len(z), 40).index_copy(1, place, z).view(-1, 2, 5, 4))

    x = X.double()
    y = model.logits(torch.where(mask, x, 0.0)).argmax(1)
    options = {"steps": 12, "random_start": False, "loss": "cross_entropy"}
    whole = attack("pgd", masked(model, mask), x, y, "linf:0.01", **options)
    part = attack("pgd", Classifier(Restricted().eval()), x.flatten(1)[:, place], y, "linf:0.01", **options)
    assert torch.equal(whole.result.x_adv.flatten(1)[:, place], part.result.x_adv)
    assert torch.equal(whole.verdict.success, part.verdict.success)
    assert 3 < int(whole.verdict.success.sum()) < 40


def test_together_and_mask_by_mask_are_the_same(monkeypatch):
    model, x = network(), X.double()
    y = model.logits(x * MASKS[:, None]).argmax(1)
    arguments = (model, x, y, MASKS, "linf:0.08")
    options = {"kinds": (*KINDS, "foreground attacked"), "method": ("pgd", {"steps": 8, "random_start": False})}
    together = evaluate_masks(*arguments, **options)
    monkeypatch.setattr(runs_masks, "carries_masks", lambda *_: False)
    pd.testing.assert_frame_equal(evaluate_masks(*arguments, **options), together)
    assert 0.1 < together["robust"].mean() < 0.9


@pytest.mark.parametrize("threat", ["linf:0.08", "l2:0.2"])
def test_rows_do_not_depend_on_the_cut(threat):
    model, x = network(), X.double()
    y = model.logits(x * MASKS[:, None]).argmax(1)
    options = {"kinds": ("none", "random", "shifted", "saliency"), "method": ("pgd", {"steps": 4})}
    whole = evaluate_masks(model, x, y, MASKS, threat, **options)
    parts = [
        evaluate_masks(model, x[s], y[s], MASKS[s], threat, draws=Draws(0, tuple(range(40))[s]), **options)
        for s in (slice(0, 7), slice(7, 40))
    ]
    joined = pd.concat(parts).sort_values(["kind", "sample"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(joined, whole.sort_values(["kind", "sample"]).reset_index(drop=True))


def test_the_attacked_saliency_mask_is_computed_from_the_perturbed_input():
    model, x = network(), X.double()
    whole = self_masked(model, share=0.3)
    own = saliency_masks(model, x, share=0.3)
    assert (own.flatten(1).sum(1) == 6).all()
    assert torch.equal(whole.logits(x), model.logits(x * own[:, None]))
    gradient = ask(whole, x)
    assert (gradient[~own[:, None].expand(-1, 2, -1, -1)] == 0).all()
    assert torch.equal(gradient, ask(masked_rows(model), with_masks(x, own))[:, :2])
    moved = x + 0.2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(saliency_masks(model, moved, share=0.3), own)
    assert torch.equal(whole.logits(moved), model.logits(moved * saliency_masks(model, moved, share=0.3)[:, None]))
    y = whole.logits(x).argmax(1)
    rows = evaluate_masks(model, x, y, None, "linf:0.05", kinds=ALL[-2:], share=0.3, method=("pgd", {"steps": 5}))
    assert rows["dimension"].tolist() == [12] * 40 + [40] * 40
    assert rows["clean_correct"].all()


def test_the_saliency_of_a_linear_network_is_its_weights():
    model, weights = linear()
    best = set(weights.abs().sum(0).flatten().topk(5).indices.tolist())
    masks = saliency_masks(model, X, share=0.25, smooth=1)
    assert {tuple(sorted(mask.flatten().nonzero()[:, 0].tolist())) for mask in masks} == {tuple(sorted(best))}
    inside = gradient_inside(model, X, torch.zeros(40, dtype=torch.int64), MASKS)
    expected = (weights.square() * MASKS[:, None]).flatten(1).sum(1) / weights.square().sum()
    assert torch.allclose(inside, expected, atol=1e-6)
    assert torch.isfinite(gradient_inside(linear(scale=1e-25)[0], X, torch.zeros(40, dtype=torch.int64), MASKS)).all()


# Summaries -------------------------------------------------------------------------------------------------------------


def summary_rows() -> pd.DataFrame:
    cells = {"none": ("1111", "0100"), "foreground": ("1110", "1110"), "random": ("1101", "1000")}
    parts = [
        pd.DataFrame(
            {
                "kind": kind,
                "sample": range(4),
                "share": 1.0 if kind == "none" else 0.25,
                "dimension": 48 if kind == "none" else 12,
                "clean_correct": [c == "1" for c in clean],
                "robust": [c == "1" for c in robust],
            }
        )
        for kind, (clean, robust) in cells.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_the_summary_by_hand():
    none, foreground, random = mask_summary(summary_rows())
    assert [row["robust"]["value"] for row in (none, foreground, random)] == [0.25, 0.75, 0.25]
    assert [row["clean"]["value"] for row in (none, foreground, random)] == [1.0, 0.75, 0.75]
    assert (foreground["share"], foreground["dimension"]) == (0.25, 12)
    assert (none["gain"]["value"], foreground["gain"]["value"], random["gain"]) == (0.0, 0.5, None)
    assert foreground["gain"]["low"] < 0.5 < foreground["gain"]["high"]
    text = render_masks(mask_summary(summary_rows()), "a|b")
    assert "| foreground | 25.0\xa0% | 12 | 75.0\xa0% (3/4;" in text
    assert "Caution" not in text
    assert "Caution" in render_masks(mask_summary(summary_rows().replace("none", "saliency")), "title")


def test_faults_of_rows_are_named():
    for rows, error in (
        (summary_rows()[:0], InvalidValue),
        (summary_rows().drop(columns="share"), InvalidValue),
        (summary_rows()[1:], CorruptRun),
    ):
        with pytest.raises(error) as caught:
            mask_summary(rows)
        assert_three_parts(caught.value)


def test_a_radius_for_each_sample_goes_along():
    model, x = network(), X.double()
    y = model.logits(x * MASKS[:, None]).argmax(1)
    threat = ThreatModel("linf", tuple(0.2 * (i % 2) for i in range(40)))
    rows = evaluate_masks(model, x, y, MASKS, threat, kinds=("foreground",), method=("pgd", {"steps": 5}))
    assert rows["robust"][::2].all()
    assert not rows["robust"][1::2].all()
