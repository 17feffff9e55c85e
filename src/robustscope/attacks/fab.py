"""FAB: the fast adaptive boundary attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import CLEARLY, Search, columns
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls, planes
from robustscope.geometry.losses import margin_loss
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{croce2020minimally,
  title = {Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}"""

Plane = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(rows (b,), points (b, *S)) -> value (b,) and normal (b, *S) of the linearised boundary; asks through the search."""

TINY_LENGTH = 1e-8
BEYOND = 1.001
"""What a step gains, as a multiple of what leads onto the linearised boundary."""
FAR_SIDE = 0.05
"""Share of the way from the estimated boundary to the known adversarial point at which the final search looks."""


@register(
    "fab",
    version=3,
    source="Croce, Hein, 2020, arXiv:1907.02044, Algorithm 1",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"steps": 20, "random_start": True},
    cost=lambda p: (
        1 + p["restarts"] * (2 * p["steps"] + p["search_steps"]),
        p["restarts"] * p["steps"] * (p["num_classes"] - 1),
    ),
)
def fab(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 100,
    restarts: int = 1,
    random_start: bool = False,
    most_pull: float = 0.1,
    extrapolation: float = 1.05,
    backward_share: float = 0.9,
    search_steps: int = 3,
    num_classes: int = 10,
    stop_at_epsilon: bool = False,
) -> AttackResult:
    """Project onto the linearised decision boundary, biased towards ``x``, and step back after each success.

    d1 and d2 are the shortest steps to the nearest linearised boundary inside the bounds, from x_i and from x; then
    x_{i+1} = clip((1 - a) (x_i + e d1) + a (x + e d2)), with e = extrapolation and
    a = min(|d1| / (|d1| + |d2|), most_pull). An adversarial x_{i+1} is drawn back to x + b (x_{i+1} - x), with
    b = backward_share.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, bounds, and the radius that a returned example may have; ``inf`` for the smallest found.
        draws: random numbers of these samples, used by random starts.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: steps for each restart, >= 1.
        restarts: independent runs, >= 1: the first from ``x``, the others from a random point half as far as the best
            example (or as epsilon).
        random_start: whether the first run too starts from a random point.
        most_pull: largest weight a of the step from ``x``, in [0, 1].
        extrapolation: e, the length of a step as a multiple of what the boundary needs, >= 1.
        backward_share: b, between 0 and 1.
        search_steps: forward passes that bring the best point of a run nearer along its line to ``x``, >= 0.
        num_classes: number of classes considered, the true one and the largest other logits of ``x``, >= 2.
        stop_at_epsilon: end the search of a sample with its first example within the radius.

    Returns:
        The nearest adversarial point met for each sample, projected on the threat set where it lies outside; ``x``
        itself where none was found.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Croce & Hein 2020, arXiv:1907.02044, Algorithm 1 and "final search"; search_steps=0 leaves the
        latter out, as AutoAttack does.

    Departures: d1 and d2 lead beyond the boundary by a thousandth of what they gain. In the paper only the
        extrapolation does, and where the values to move are on their bound already nothing of it is left after
        clipping: the point stays on the boundary and never counts. The nearest class is chosen by the distance inside
        the bounds instead of without them; at most ``num_classes`` classes are considered, so that the cost does not
        grow with their number. A target is attacked through the boundary between it and the largest other logit.
    """
    check_positive(restarts=restarts)
    settings = Settings(steps, most_pull, extrapolation, backward_share, search_steps)
    if num_classes < 2:
        raise InvalidValue(f"num_classes={num_classes} was given", "2 or more is allowed", "The default is 10.")
    search = Search(model, x, y, threat, targets, stop_at_epsilon)
    rivals, clean = y[:, None], x.new_empty(0)
    restart = 0

    def plane(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        if targets is not None:
            values, normals, _ = search.gradient(rows, points, margin_loss)
            return values, normals
        others, true = rivals[rows], y[rows][:, None]
        values, normals, _ = search.jacobian(
            rows, points, lambda z, part: z.gather(1, others[part]) - z.gather(1, true[part])
        )
        return nearest_plane(threat, points, values, normals)

    def state() -> resume.State:
        return {"restart": restart, "rivals": rivals, "clean": clean, **search.state()}

    with resume.stage("restarts", state) as saved:
        rivals, clean = first_look(search, num_classes - 1, saved)
        for restart in range(0 if saved is None else int(saved["restart"]), restarts):
            start = begin(search, draws, restart > 0 or random_start, f"start/{restart}")
            walk(search, plane, start, clean, settings)
    return search.result()


def first_look(search: Search, count: int, saved: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Return the ``count`` classes that come closest at the clean inputs, and their margin loss; or take them up."""
    if saved is not None:
        search.restore(saved)
        return saved["rivals"], saved["clean"]
    everyone = search.rows()
    logits, _ = search.logits(everyone, search.x)
    return search.rivals(logits, everyone, count), margin_loss(logits, search.y, search.targets)


@dataclass(frozen=True)
class Settings:
    """How FAB walks; see :func:`fab` for the meaning of each.

    Raises:
        InvalidValue: for numbers out of range.
    """

    steps: int
    most_pull: float
    extrapolation: float
    backward_share: float
    search_steps: int

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, backward_share=self.backward_share, extrapolation=self.extrapolation)
        if not 0 <= self.most_pull <= 1 or self.extrapolation < 1 or self.backward_share >= 1 or self.search_steps < 0:
            raise InvalidValue(
                f"{self} was given",
                "most_pull in [0, 1], extrapolation >= 1, backward_share < 1 and search_steps >= 0 are allowed",
                "The paper uses 0.1, 1.05, 0.9 and 3.",
            )


def begin(search: Search, draws: Draws, random_start: bool, purpose: str) -> tuple[Tensor, Tensor]:
    """Return the rows that are still searched for and their starting points: ``x``, or random ones.

    A random start lies half as far from ``x`` as the best example of the sample or as epsilon, whichever is nearer.
    """
    rows = search.rows()
    centre = search.x[rows]
    if not random_start or not len(rows):
        return rows, centre
    norm, bounds = search.threat.norm, search.threat.bounds
    known = search.distance[rows].to(centre.dtype).minimum(search.threat.radius(search.x)[rows])
    radius = known.minimum(planes.furthest_corner(norm, bounds, centre)) / 2
    if norm == "linf":
        direction = draws.select(rows).uniform(purpose, centre)
    else:
        direction = draws.select(rows).normal(purpose, centre)
    size = balls.length(norm, direction).clamp(min=TINY_LENGTH)
    return rows, (centre + columns(radius / size, centre) * direction).clamp_(*bounds)


def walk(search: Search, plane: Plane, start: tuple[Tensor, Tensor], clean: Tensor, settings: Settings) -> None:
    """Run FAB's iteration from ``start`` = (rows, points), then bring its best points nearer; the search keeps all.

    Args:
        search: asks, counts and keeps.
        plane: the linearised boundary.
        start: rows and first points.
        clean: (B,), margin loss of the clean inputs.
        settings: how to walk.
    """
    rows, current = start
    norm = search.threat.norm
    best, step = Best.none(search), 0

    def state() -> resume.State:
        return {"step": step, "rows": rows, "current": current, **resume.named("best", resume.tensors(best))}

    with resume.stage("walk", state) as saved:
        if saved is not None:
            rows, current = saved["rows"], saved["current"]
            best = Best(search, **resume.under("best", saved))
        centre = search.x[rows]
        for step in range(0 if saved is None else int(saved["step"]), settings.steps):  # noqa: B007
            if not len(rows):
                break
            resume.checkpoint()
            current = _ahead(search, plane, rows, current, settings)
            logits, solved = search.logits(rows, current)
            best.keep(rows[solved], current[solved], balls.length(norm, current - centre)[solved], logits[solved])
            back = columns(solved, current)
            current = torch.where(back, centre + settings.backward_share * (current - centre), current)
            keep = search.unfinished(rows)
            if not keep.all():
                rows, current, centre = rows[keep], current[keep], centre[keep]
    draw_nearer(search, best, clean, settings.search_steps)


def _ahead(search: Search, plane: Plane, rows: Tensor, current: Tensor, settings: Settings) -> Tensor:
    """Return the next points: mixed from the steps to the linearised boundary from ``current`` and from ``x``."""
    norm, bounds, centre = search.threat.norm, search.threat.bounds, search.x[rows]
    values, normals = plane(rows, current)
    at_centre = values + (normals * (centre - current)).flatten(1).sum(1)
    near = planes.to_plane(norm, bounds, current, normals, BEYOND * values)
    far = planes.to_plane(norm, bounds, centre, normals, BEYOND * at_centre)
    one, two = (balls.length(norm, d).clamp(min=TINY_LENGTH) for d in (near, far))
    pull = columns((one / (one + two)).clamp(max=settings.most_pull), current)
    ahead = (1 - pull) * (current + settings.extrapolation * near) + pull * (centre + settings.extrapolation * far)
    return ahead.clamp_(*bounds)


@dataclass
class Best:
    """The nearest adversarial points of one run: points (B, *S), their length (B,) and margin loss (B,)."""

    search: Search
    points: Tensor
    length: Tensor
    loss: Tensor

    @classmethod
    def none(cls, search: Search) -> Best:
        """Start with none."""
        unknown = search.x.new_full((len(search.x),), torch.inf)
        return cls(search, search.x.clone(), unknown, unknown.clone())

    def keep(self, rows: Tensor, points: Tensor, length: Tensor, logits: Tensor) -> None:
        """Keep those of the adversarial ``points`` that are nearer than the best of their rows."""
        nearer = length < self.length[rows] * (1 - CLEARLY)
        targets = None if self.search.targets is None else self.search.targets[rows]
        loss = margin_loss(logits, self.search.y[rows], targets)
        hit = rows[nearer]
        self.points[hit], self.length[hit], self.loss[hit] = points[nearer], length[nearer], loss[nearer]


def draw_nearer(search: Search, best: Best, clean: Tensor, search_steps: int) -> None:
    """Look for the boundary between each best point and ``x`` by false position, each time a little on its far side."""
    rows = search.rows()
    rows = rows[best.length[rows].isfinite()]
    centre, whole = search.x[rows], best.points[rows] - search.x[rows]
    low, high = torch.zeros_like(best.loss[rows]), torch.ones_like(best.loss[rows])
    below, above = clean[rows], best.loss[rows]
    for _ in range(search_steps if len(rows) else 0):
        root = low + (high - low) * (below / (below - above)).clamp(0, 1)
        share = root + FAR_SIDE * (high - root)
        points = (centre + columns(share, centre) * whole).clamp_(*search.threat.bounds)
        logits, solved = search.logits(rows, points)
        loss = margin_loss(logits, search.y[rows], None if search.targets is None else search.targets[rows])
        low, below = torch.where(solved, low, share), torch.where(solved, below, loss)
        high, above = torch.where(solved, share, high), torch.where(solved, loss, above)


def nearest_plane(threat: ThreatModel, points: Tensor, values: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Return value (b,) and normal (b, *S) of the plane nearest to each point, among values (b, C), normals (b, C, *S)."""
    if values.shape[1] == 1:
        return values[:, 0], normals[:, 0]
    choice, _ = planes.nearest(threat.norm, threat.bounds, points, normals, values.abs(), -values.sign())
    rows = torch.arange(len(values), device=values.device)
    return values[rows, choice], normals[rows, choice]
