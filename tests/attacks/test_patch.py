"""The patch attack against linear models, where the best rectangle and its content are known in closed form."""

import pytest
import torch
from torch import nn

from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.threats import Patch
from robustscope.models.classifier import Classifier


def linear(n=24, shape=(2, 6, 7), dtype=torch.float64, width=2):
    """A binary linear model, samples, and the gain of the best rectangle of each: the sum over it of what each value
    can win."""
    draws = Draws(0, tuple(range(n)), "test")
    x = draws.uniform("x", torch.empty(n, *shape, dtype=dtype), 0.0, 1.0)
    w = Draws(0, (0,), "test").normal("w", torch.empty(1, *shape, dtype=dtype))[0]
    gains = torch.maximum(w * (1 - x), -w * x).sum(1)  # what moves the score up
    losses = torch.maximum(-w * (1 - x), w * x).sum(1)  # and down
    return (
        x,
        w,
        *(
            torch.nn.functional.avg_pool2d(part[:, None], (3, width), 1).flatten(1).amax(1) * 3 * width
            for part in (gains, losses)
        ),
    )


def model_of(w, bias):
    """Two logits whose difference is w · x + bias."""
    layer = nn.Linear(w.numel(), 2, dtype=w.dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros_like(w.flatten()), w.flatten()]))
        layer.bias.copy_(torch.tensor([0.0, bias], dtype=w.dtype))
    return Classifier(nn.Sequential(nn.Flatten(), layer).eval())


@pytest.mark.parametrize("side", [0, 1])
def test_reaches_the_closed_form_and_not_more(side):
    x, w, gains, losses = linear()
    scores = (x * w).flatten(1).sum(1)
    reach = gains if side == 0 else losses
    for i in range(len(x)):
        for factor, due in ((1.02, True), (0.98, False)):
            # A bias puts this sample at a distance of reach * factor below (above) the boundary.
            bias = float(-scores[i] - reach[i] / factor if side == 0 else -scores[i] + reach[i] / factor)
            label = torch.tensor([side])
            outcome = attack("patch", model_of(w, bias), x[i : i + 1], label, Patch(3, 2), steps=12, restarts=1)
            assert bool(outcome.verdict.success) == due, (i, factor)


def test_the_content_is_the_best_corner_when_nothing_breaks():
    x, w, gains, _ = linear(n=8)
    scores = (x * w).flatten(1).sum(1)
    model = model_of(w, -1e3)
    found = attack("patch", model, x, torch.zeros(8, dtype=torch.int64), Patch(3, 2), steps=12, restarts=3).result
    assert torch.allclose((found.x_adv * w).flatten(1).sum(1) - scores, gains)
    assert found.forward.tolist() == [1 + 3 * 13] * 8
    assert found.backward.tolist() == [1 + 3 * 12] * 8


def test_vectors_are_pictures_of_height_one():
    x, w, gains, _ = linear(n=6, shape=(1, 3, 2))
    flat = x.flatten(1)
    model = model_of(w, -1e3)
    found = attack("patch", model, flat, torch.zeros(6, dtype=torch.int64), Patch(1, 6), restarts=1).result.x_adv
    assert torch.allclose((found * w.flatten()).sum(1) - (flat * w.flatten()).sum(1), gains)


def test_a_missing_gradient_leaves_random_places():
    class Step(nn.Module):
        """Counts bright values in the lower right corner; its gradient is zero everywhere."""

        def forward(self, x):
            bright = (x[:, 0, 4:, 4:] > 0.5).flatten(1).double().sum(1) + 0 * x.flatten(1).sum(1)
            return torch.stack([torch.full_like(bright, 0.5), bright], 1)

    x = torch.zeros(12, 1, 6, 6, dtype=torch.float64)
    y = torch.zeros(12, dtype=torch.int64)
    outcome = attack("patch", Classifier(Step().eval()), x, y, "patch:3,3", steps=1, restarts=12)
    assert outcome.verdict.success.double().mean() > 0.7


def test_targets_are_reached_with_room_enough():
    x, w, _, _ = linear(n=4)
    layer = nn.Linear(w.numel(), 3, dtype=w.dtype)
    with torch.no_grad():
        layer.weight.copy_(Draws(1, (0, 1, 2), "test").normal("w", torch.empty(3, w.numel(), dtype=w.dtype)))
    model = Classifier(nn.Sequential(nn.Flatten(), layer).eval())
    y = model.logits(x).argmax(1)
    for step in (1, 2):
        assert attack("patch", model, x, y, "patch:6,7", targets=(y + step) % 3).verdict.success.all()


def test_bad_parameters_are_refused():
    x, w, _, _ = linear(n=2)
    for facts in ({"steps": 0}, {"restarts": 0}, {"relative_step_size": 0.0}):
        with pytest.raises(InvalidValue):
            attack("patch", model_of(w, 0.0), x, torch.zeros(2, dtype=torch.int64), "patch:2,2", **facts)
    with pytest.raises(InvalidValue, match="choose among: noise_uniform, patch"):
        attack("pgd", model_of(w, 0.0), x, torch.zeros(2, dtype=torch.int64), "patch:2,2")
