"""FAB-T: FAB towards one class after the other, as AutoAttack runs it."""

from __future__ import annotations

from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.fab import BIBTEX, Settings, begin, first_look, walk
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import Search
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.models.classifier import Classifier


@register(
    "fab_targeted",
    version=2,
    source="Croce, Hein, 2020, arXiv:2003.01690, Sec. 5, of the attack in arXiv:1907.02044",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("linf", "l2", "l1"),
    stochastic=True,
    quick={"steps": 20, "num_targets": 2, "random_start": True},
    cost=lambda p: (
        1 + p["restarts"] * p["num_targets"] * (2 * p["steps"] + p["search_steps"]),
        p["restarts"] * p["num_targets"] * p["steps"],
    ),
)
def fab_targeted(
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
    num_targets: int = 9,
    most_pull: float = 0.1,
    extrapolation: float = 1.05,
    backward_share: float = 0.9,
    search_steps: int = 3,
    stop_at_epsilon: bool = False,
) -> AttackResult:
    """Run FAB against the boundary between the true class and one other class at a time.

    The other classes are those of the largest logits of ``x``, in that order. Any wrong class is a success. The cost
    of a step does not grow with the number of classes: one gradient each.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, bounds, and the radius that a returned example may have; ``inf`` for the smallest found.
        draws: random numbers of these samples, used by random starts.
        targets: unused; the attack chooses its own, and is untargeted as a whole.
        steps: steps for each class and restart, >= 1.
        restarts: independent runs over all classes, >= 1: the first from ``x``, the others from random points.
        random_start: whether the first run too starts from random points.
        num_targets: number of other classes, >= 1; all of them where there are fewer.
        most_pull: largest weight of the step from ``x``, in [0, 1]; see :func:`robustscope.attacks.fab.fab`.
        extrapolation: length of a step as a multiple of what the boundary needs, >= 1.
        backward_share: share of the perturbation that is kept after a success, between 0 and 1.
        search_steps: forward passes that bring the best point of a run nearer along its line to ``x``, >= 0.
        stop_at_epsilon: end the search of a sample with its first example within the radius.

    Returns:
        The nearest adversarial point met for each sample, projected on the threat set where it lies outside; ``x``
        itself where none was found.

    Raises:
        InvalidValue: for hyper-parameters out of range.

    Source: Croce & Hein 2020, arXiv:2003.01690, Sec. 5 (FAB-T), of the attack in arXiv:1907.02044, Algorithm 1.

    Departures: those of :func:`robustscope.attacks.fab.fab`, except for the choice of the class. Restarts are the outer loop and classes the inner one, so that more restarts contain fewer. AutoAttack
        passes a sample on to the next class only while it has no example within epsilon, as ``stop_at_epsilon`` does;
        without it every class is tried and the nearest example of all is returned.
        AutoAttack also leaves out the paper's final search (search_steps=0).
    """
    check_positive(restarts=restarts)
    settings = Settings(steps, most_pull, extrapolation, backward_share, search_steps)
    if num_targets < 1:
        raise InvalidValue(f"num_targets={num_targets} was given", "1 or more is allowed", "AutoAttack uses 9.")
    search = Search(model, x, y, threat, stop_at_epsilon=stop_at_epsilon)
    rivals, clean, turn = y[:, None], x.new_empty(0), 0

    def state() -> resume.State:
        return {"turn": turn, "rivals": rivals, "clean": clean, **search.state()}

    with resume.stage("turns", state) as saved:
        rivals, clean = first_look(search, num_targets, saved)
        for turn in range(0 if saved is None else int(saved["turn"]), restarts * rivals.shape[1]):
            restart, number = divmod(turn, rivals.shape[1])

            def plane(rows: Tensor, points: Tensor, rival: Tensor = rivals[:, number]) -> tuple[Tensor, Tensor]:
                return boundary(search, rows, points, rival)

            start = begin(search, draws, restart > 0 or random_start, f"start/{restart}/{number}")
            walk(search, plane, start, clean, settings)
    return search.result()


def boundary(search: Search, rows: Tensor, points: Tensor, rival: Tensor) -> tuple[Tensor, Tensor]:
    """Return Z_rival - Z_y and its gradient."""
    true, other = search.y[rows], rival[rows]

    def difference(logits: Tensor, part: Tensor) -> Tensor:
        return (logits.gather(1, other[part][:, None]) - logits.gather(1, true[part][:, None]))[:, 0]

    values, normals, _ = search.ascent(rows, points, difference)
    return values, normals
