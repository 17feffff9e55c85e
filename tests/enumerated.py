"""Tiny ReLU networks whose least margin over a ball is known, by one linear program for each activation pattern."""

import itertools

import numpy as np
import torch
from scipy.optimize import linprog
from torch import nn

from robustscope.core.draws import Draws
from robustscope.models.classifier import Classifier


def numbers(purpose, *shape, seed=0):
    """Return fixed normal numbers."""
    return Draws(seed, (0,), "tests/certify").normal(purpose, torch.empty(1, *shape, dtype=torch.float64))[0]


def fill(module, seed=0, scale=1.0):
    """Give every parameter fixed numbers of the size scale / sqrt(fan in), in float64."""
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            fan_in = max(tensor[0].numel(), 1)
            tensor.copy_(scale * numbers(name, *tensor.shape, seed=seed) / fan_in**0.5)
    return module.double().eval()


def true_margin(layers, x, y, epsilon):
    """Return the least margin of one sample over the linf ball inside [0, 1]."""
    box = [(max(v - epsilon, 0), min(v + epsilon, 1)) for v in x.tolist()]
    middle, half = np.array(box).mean(1), np.diff(np.array(box), axis=1)[:, 0] / 2
    best = np.inf
    # A piece: slope and offset of the values after some layers, and the half-spaces where its signs are as they are.
    pieces = [(np.eye(len(x)), np.zeros(len(x)), np.zeros((0, len(x))), np.zeros(0))]
    for w, b in layers[:-1]:
        grown = []
        for slope, offset, below, limits in pieces:
            slope, offset = w @ slope, w @ offset + b
            reach, centre = np.abs(slope) @ half, slope @ middle + offset
            choices = [
                ([1] if c + r > 0 else []) + ([0] if c - r < 0 else []) for c, r in zip(centre, reach, strict=True)
            ]
            for signs in map(np.array, itertools.product(*choices)):
                side = 1.0 - 2.0 * signs  # active: -(s x + o) <= 0
                more = np.vstack([below, side[:, None] * slope]), np.concatenate([limits, -side * offset])
                grown.append((slope * signs[:, None], offset * signs, *more))
        pieces = grown
    w, b = layers[-1]
    for slope, offset, below, limits in pieces:
        slope, offset = w @ slope, w @ offset + b
        for j in set(range(len(b))) - {y}:
            solved = linprog(slope[y] - slope[j], A_ub=below, b_ub=limits, bounds=box)
            if solved.success:
                best = min(best, solved.fun + offset[y] - offset[j])
    return best


def tiny_network():
    """Return a classifier, three samples with labels, and their least margins for each of four linf radii."""
    module = fill(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), 3, 2.0)
    x = torch.tensor([[0.5, 0.4, 0.6], [0.1, 0.9, 0.5], [0.7, 0.2, 0.05]], dtype=torch.float64)
    with torch.no_grad():
        module[4].bias.sub_(module(x[:1] + 0.1)[0])  # margins of both signs within the radii below
        y = module(x).argmax(1)
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in module if isinstance(m, nn.Linear)]
    truth = {e: [true_margin(layers, a, int(b), e) for a, b in zip(x, y, strict=True)] for e in (0.05, 0.1, 0.2, 0.3)}
    assert min(map(min, truth.values())) < 0 < max(map(max, truth.values()))
    return Classifier(module), x, y, truth
