"""Deliberately broken attacks, each with the check that must catch it and words that the message must hold."""

import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustscope.attacks import AttackCard
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult
from robustscope.geometry import balls
from robustscope.geometry.losses import cross_entropy
from robustscope.geometry.rules import is_adversarial


def climb(model, x, y, threat, start, targets, steps, direction=None, sign=1.0):
    """A plain ascent without early stopping: every sample sends steps rows forward and backward."""
    direction = direction or (lambda gradient: balls.steepest(threat.norm, gradient, count=4))
    size = 0.25 * threat.radius(x).reshape(-1, *([1] * (x.dim() - 1)))
    current = start
    for _ in range(steps):
        _, gradient, _ = model.gradient(
            lambda z, rows: cross_entropy(z, y[rows], None if targets is None else targets[rows]), current
        )
        current = balls.project(threat, x, current + sign * size * direction(gradient))
    count = torch.full((len(x),), steps, dtype=torch.int64)
    return AttackResult(current, count, count.clone())


def sound(model, x, y, threat, *, draws, targets=None, steps: int = 12, restarts: int = 1):
    """The reference: restarts of a plain ascent, of which the first success is kept."""
    best, forward = None, torch.zeros(len(x), dtype=torch.int64)
    for restart in range(restarts):
        result = climb(model, x, y, threat, balls.sample(threat, x, draws, f"start/{restart}"), targets, steps)
        forward += result.forward
        if best is None:
            best, done = result.x_adv, is_adversarial(model.logits(result.x_adv), y, targets)
        else:
            best = torch.where(done.reshape(-1, *([1] * (x.dim() - 1))), best, result.x_adv)
            done = is_adversarial(model.logits(best), y, targets)
        forward += 1
    return AttackResult(best, forward, forward - restarts)


BROKEN = []


def breaks(check, says, norm="linf", **facts):
    """List a broken attack with the check that must catch it and a word of its message."""

    def decorate(function):
        BROKEN.append(pytest.param(function, check, says, norm, facts, id=f"{function.__name__}-{check}"))
        return function

    return decorate


def card_of(function, **facts):
    given = {"stochastic": True, "norms": ("linf", "l2", "l1"), "goals": ("untargeted", "targeted"), "source": "tests"}
    return AttackCard(name=function.__name__, function=function, version=1, **{**given, **facts})


def with_x_adv(result, x_adv):
    return AttackResult(x_adv, result.forward, result.backward)


# The twenty of the design.


@breaks("leaves_global_randomness_alone", "torch's generator")
@breaks("same_seed_same_result", "two results for one seed")
def global_noise(model, x, y, threat, *, draws, targets=None):
    start = balls.project(threat, x, x + torch.randn_like(x) * threat.radius(x).view(-1, 1, 1, 1))
    return climb(model, x, y, threat, start, targets, 3)


@breaks("leaves_global_randomness_alone", "NumPy's generator")
def numpy_noise(model, x, y, threat, *, draws, targets=None):
    np.random.random(3)
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("batch_size_does_not_matter", "batch of their own")
@breaks("order_does_not_matter", "another order")
def noise_keyed_by_batch_row(model, x, y, threat, *, draws, targets=None):
    rows = Draws(draws.seed, tuple(range(len(x))), draws.scope)
    return sound(model, x, y, threat, draws=rows, targets=targets)


@breaks("stays_in_threat_set", "left its threat set")
@breaks("stays_in_threat_set", "left its threat set", norm="l2")
@breaks("agrees_with_certificates", "", norm="l1")
def one_percent_more(model, x, y, threat, *, draws, targets=None):
    return sound(model, x, y, threat.scaled(1.01), draws=draws, targets=targets)


@breaks("stays_in_threat_set", "values in")
def forgotten_clamp(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    _, gradient, _ = model.gradient(lambda z, rows: cross_entropy(z, y[rows]), x)
    free = x + gradient.sign() * threat.radius(x).reshape(-1, *([1] * (x.dim() - 1)))
    return AttackResult(free, result.forward + 1, result.backward + 1)


@breaks("leaves_inputs_alone", "changed x in place")
def in_place_edit(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    x += (result.x_adv - x) * 0.5
    return result


@breaks("leaves_model_alone", "mode of")
def train_mode_left_on(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    model.module.train()
    return result


@breaks("leaves_model_alone", "gradient of")
def gradients_left(model, x, y, threat, *, draws, targets=None):
    leaf = x.clone().requires_grad_(True)
    cross_entropy(model.module(leaf), y).sum().backward()
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("batch_size_does_not_matter", "batch of their own", norm="l2")
def batch_coupled_step(model, x, y, threat, *, draws, targets=None):
    start = balls.sample(threat, x, draws, "start")
    return climb(model, x, y, threat, start, targets, 5, direction=lambda g: g / g.norm().clamp(min=1e-12))


@breaks("is_silent", "printed 'step 1")
def prints(model, x, y, threat, *, draws, targets=None):
    print("step 1 of 10")
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("counts_its_queries", "the classifier counted")
def miscount(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    return AttackResult(result.x_adv, result.forward - 1, result.backward)


MEMORY = {"running": False, "calls": 0}


@breaks("recovers_after_a_failing_model", "call after an exception")
def sticky_failure_state(model, x, y, threat, *, draws, targets=None):
    scale = 0.5 if MEMORY["running"] else 1.0
    MEMORY["running"] = True
    result = sound(model, x, y, threat.scaled(scale), draws=draws, targets=targets)
    MEMORY["running"] = False
    return result


@breaks("survives_flat_gradients", "NaN", norm="l2")
def nan_on_flat_gradients(model, x, y, threat, *, draws, targets=None):
    start = balls.sample(threat, x, draws, "start")
    return climb(
        model, x, y, threat, start, targets, 3, direction=lambda g: g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    )


@breaks("reaches_targets", "reached its target for")
def ignored_targets(model, x, y, threat, *, draws, targets=None):
    return sound(model, x, y, threat, draws=draws)


@breaks("beats_noise", "more than noise")
@breaks("solves_the_linear_problem", "at 1.10 times")
def descent_for_ascent(model, x, y, threat, *, draws, targets=None):
    return climb(model, x, y, threat, balls.sample(threat, x, draws, "start"), targets, 10, sign=-1.0)


@breaks("keeps_form", "torch.float32")
def float32_cast(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    return with_x_adv(result, result.x_adv.float())


@breaks("keeps_form", "carry a graph")
def kept_graph(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    return with_x_adv(result, result.x_adv.clone().requires_grad_(True) * 1.0)


@breaks("solves_the_linear_problem", "at 1.10 times")
def one_weak_step(model, x, y, threat, *, draws, targets=None):
    return climb(model, x, y, threat, balls.sample(threat, x, draws, "start"), targets, 1)


@breaks("takes_one_sample_and_none", "shape")
def squeeze(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    return with_x_adv(result, result.x_adv.squeeze())


@breaks("leaves_global_randomness_alone", "torch's generator")
def reseeding(model, x, y, threat, *, draws, targets=None):
    torch.manual_seed(draws.seed)
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("leaves_model_alone", "hooks of")
def hooks_left(model, x, y, threat, *, draws, targets=None):
    model.module[0].register_forward_hook(lambda *_: None)
    return sound(model, x, y, threat, draws=draws, targets=targets)


# Further ones, so that every check and every branch has its broken attack.


@breaks("leaves_inputs_alone", "share memory")
def returns_the_input_itself(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    return result if threat.radius(x).any() else with_x_adv(result, x.view_as(x))


@breaks("leaves_inputs_alone", "changed y in place")
def label_edit(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    y.zero_()
    return result


@breaks("leaves_inputs_alone", "left a gradient on x")
def gradient_on_x(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    x.requires_grad_(True)
    return result


@breaks("leaves_model_alone", "requires_grad of")
def frozen_weights(model, x, y, threat, *, draws, targets=None):
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("leaves_model_alone", "values of")
def changed_statistics(model, x, y, threat, *, draws, targets=None):
    with torch.no_grad():
        for buffer in model.module.buffers():
            buffer.add_(1)
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("recovers_after_a_failing_model", "hid an exception")
def swallowed_exception(model, x, y, threat, *, draws, targets=None):
    try:
        return sound(model, x, y, threat, draws=draws, targets=targets)
    except RuntimeError:
        return AttackResult(x.clone(), torch.zeros_like(y), torch.zeros_like(y))


@breaks("recovers_after_a_failing_model", "hooks of")
def hook_left_by_an_exception(model, x, y, threat, *, draws, targets=None):
    handle = model.module.register_forward_hook(lambda *_: None)
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    handle.remove()
    return result


@breaks("is_silent", "warned: careful")
def warns(model, x, y, threat, *, draws, targets=None):
    warnings.warn("careful", stacklevel=1)
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("is_silent", "printed 'raw")
def writes_past_python(model, x, y, threat, *, draws, targets=None):
    os.write(2, b"raw bytes\n")
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("same_seed_same_result", "two results for one seed")
def counts_its_calls(model, x, y, threat, *, draws, targets=None):
    MEMORY["calls"] += 1
    return sound(model, x, y, threat, draws=draws.within(str(MEMORY["calls"])), targets=targets)


@breaks("same_seed_same_result", "declares stochastic=True")
def ignores_the_seed(model, x, y, threat, *, draws, targets=None):
    return sound(model, x, y, threat, draws=replace(draws, seed=7), targets=targets)


@breaks("same_seed_same_result", "declares stochastic=False", stochastic=False)
def claims_to_be_deterministic(model, x, y, threat, *, draws, targets=None):
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("order_does_not_matter", "another order")
@breaks("batch_size_does_not_matter", "batch of their own")
def first_row_decides(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    shift = (result.x_adv - x)[:1].mean() if len(x) else 0.0
    return with_x_adv(result, balls.project(threat, x, result.x_adv - shift))


@breaks("batch_size_does_not_matter", "cuts its inputs")
def depends_on_the_classifier_s_cut(model, x, y, threat, *, draws, targets=None):
    return sound(model, x, y, threat, draws=draws.within(str(model.batch_size)), targets=targets)


@breaks("zero_epsilon_returns_x", "with epsilon 0")
def least_step(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    return with_x_adv(result, (result.x_adv + 1e-6).clamp(*threat.bounds))


@breaks("takes_one_sample_and_none", "raised", norm="l2")
def fails_on_nothing(model, x, y, threat, *, draws, targets=None):
    x.max()
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("more_restarts_never_hurt", "lost")
def only_the_last_restart(model, x, y, threat, *, draws, targets=None, restarts: int = 1):
    start = balls.sample(threat, x, draws, f"start/{restarts}")
    return climb(model, x, y, threat, start, targets, 1 + (restarts == 1) * 6)


@breaks("counts_its_queries", "sent")
def bypasses_the_classifier(model, x, y, threat, *, draws, targets=None):
    with torch.no_grad():
        model.module(x)
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("counts_its_queries", "access='decisions'", access="decisions")
@breaks("counts_its_queries", "forecasts at most", cost=lambda parameters: (3, 3))
def understated_needs(model, x, y, threat, *, draws, targets=None):
    return sound(model, x, y, threat, draws=draws, targets=targets)


@breaks("agrees_with_certificates", "certified samples")
def leaves_the_set_by_far(model, x, y, threat, *, draws, targets=None):
    return sound(model, x, y, threat.scaled(1.3), draws=draws, targets=targets)


@breaks("keeps_form", "counts of torch.int32")
def narrow_counts(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    return AttackResult(result.x_adv, result.forward.int(), result.backward)


@breaks("keeps_form", "trace of shape")
def bad_trace(model, x, y, threat, *, draws, targets=None):
    result = sound(model, x, y, threat, draws=draws, targets=targets)
    return replace(result, trace=torch.zeros(len(x)))


@breaks("keeps_form", "returned a Tensor")
def bare_tensor(model, x, y, threat, *, draws, targets=None):
    return sound(model, x, y, threat, draws=draws, targets=targets).x_adv


@breaks("explains_itself", "the parameter 'steps' is not documented")
@breaks("explains_itself", "the error 'ValueError' is not documented")
@breaks("explains_itself", "no section 'Source'")
@breaks("explains_itself", "the card names no source", source="")
@breaks("explains_itself", "which is no check", known_failures={"keeps_from": "typo"})
@breaks("explains_itself", "'seteps'", quick={"seteps": 3})
def unexplained(model, x, y, threat, *, draws, targets=None, steps: int = 3):
    """Attack.

    Args:
        model, x, y, threat, draws, targets: as ever.
    """
    if steps < 1:
        raise ValueError(steps)
    return sound(model, x, y, threat, draws=draws, targets=targets)
