"""How robust can any classifier be on your data? No model is needed.

python examples/limits_of_your_data.py [DATA] [NORM] [SAMPLES]
"""

from __future__ import annotations

import sys

import torch

import robustscope
from robustscope.data.selection import stratified
from robustscope.geometry.pairwise import check_pair_norm
from robustscope.limits.separation import separation
from robustscope.limits.transport import ClassTransport, transport_classes


def main(data: str = "digits", norm: str = "linf", samples: str | int = 500) -> ClassTransport:
    """Print the separation of the classes and what every classifier loses at some radii."""
    dataset = robustscope.load_data(data)
    ids = stratified(dataset.labels, min(int(samples), len(dataset)), seed=0, purpose="limits")
    x, y = dataset.read(ids), torch.as_tensor(dataset.labels[ids])
    kind = check_pair_norm(norm)
    found = separation(x, y, norm=kind)
    print(f"{found.n} samples of {data}: another class is at least {found.smallest:.4g} away in {norm}")
    for i, j in found.twins.tolist():
        print(f"samples {ids[i]} and {ids[j]} are equal and have different labels")
    radii = tuple(float(q) / 2 for q in found.distance.quantile(torch.tensor([0.0, 0.25, 0.5, 1.0]).double()))
    bound = transport_classes(x, y, norm=kind, epsilons=radii)
    for epsilon, loss in zip(bound.epsilons, bound.loss.tolist(), strict=True):
        print(f"at epsilon {epsilon:.4g} every classifier loses at least {loss:.1%} of these samples")
    return bound


if __name__ == "__main__":
    main(*sys.argv[1:4])
