"""Auto-PGD: projected gradient ascent that chooses its own step sizes."""

from __future__ import annotations

from torch import Tensor

from robustscope.attacks.apgd_runs import Tally, run
from robustscope.attacks.ascent import Goal
from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.core import resume
from robustscope.core.draws import Draws
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{croce2020reliable,
  title = {Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}

@inproceedings{croce2021mind,
  title = {Mind the Box: $l_1$-{APGD} for Sparse Adversarial Attacks on Image Classifiers},
  author = {Croce, Francesco and Hein, Matthias},
  booktitle = {International Conference on Machine Learning},
  year = {2021}
}"""


@register(
    "apgd",
    version=1,
    source="Croce & Hein, 2020, arXiv:2003.01690, Algorithm 1; l1: Croce & Hein, 2021, arXiv:2103.01208, Sec. 4",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    goals=("untargeted", "targeted"),
    stochastic=True,
    quick={"steps": 20},
    # In l1 each of the three phases evaluates its start.
    cost=lambda p: (
        p["restarts"] * p["gradient_samples"] * (p["steps"] + 3),
        p["restarts"] * p["gradient_samples"] * p["steps"],
    ),
)
def apgd(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 100,
    restarts: int = 1,
    loss: LossName = "cross_entropy",
    gradient_samples: int = 1,
    trace: bool = False,
) -> AttackResult:
    """Ascend the loss with momentum, halving a sample's step size and going back to its best point when it stalls.

    linf, l2: z = P(x_k + h s(gradient)), x_(k+1) = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_(k-1))), first h = 2 epsilon.
    At the checkpoints (22, 41, 57, 70, 80, 87, 93, 99 of 100) h is halved and the best point taken up again if fewer
    than three quarters of the steps since the last checkpoint raised the loss, or if h was kept there and no higher
    loss was found since. l1: sparse steps in balls of 3, 2 and 1 epsilon for 30, 30 and 40 percent of the steps; the
    share of values that a step moves follows the sparsity of the best point. A sample stops at its first adversarial
    iterate.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: steps for each restart, >= 1.
        restarts: independent runs, >= 1; the random numbers of a run depend on its number, so that more restarts
            contain fewer.
        loss: "cross_entropy", "margin", "probability_margin" or "dlr"; dlr needs 3 classes, 4 with targets.
        gradient_samples: passes whose losses, gradients and logits are averaged at each iterate, >= 1; more than one
            is expectation over transformation, for models that draw random numbers.
        trace: record the loss of every iterate, (B, restarts * (steps + 1)), in l1 (B, restarts * (steps + 3)).

    Returns:
        The first adversarial iterate of each sample, or the point of the highest loss.

    Raises:
        InvalidValue: for hyper-parameters out of range, or a loss that needs more classes.

    Source: Croce & Hein 2020, arXiv:2003.01690, Algorithm 1 and Sec. 3; Croce & Hein 2021, arXiv:2103.01208, Sec. 4.
        Averaging: Athalye et al. 2018, arXiv:1802.00420, Sec. 4.2.

    Departures: from the official code: the first step is compared with the start, not with zero (which counts it as
        risen for every cross-entropy and for no ratio loss); a window of exactly three quarters rising steps keeps its
        step size, as in the paper; momentum starts again from rest at the best point, where paper and code keep the
        jump; the l2 projection is exact on ball and box together; an l1 step chooses among the values that can still
        move inside the box; starts are uniform in the ball, not on its surface; the last iterate costs no gradient;
        of unsolved samples the best point is returned, not the clean input.
    """
    check_positive(steps=steps, restarts=restarts, gradient_samples=gradient_samples)
    goal = Goal(objective(loss, model.classes(x), targets is not None), y, targets)
    tally, restart = Tally(x), 0
    with resume.stage("restarts", lambda: {"restart": restart, **tally.state()}) as saved:
        if saved is not None:
            tally.restore(saved)
        for restart in range(0 if saved is None else int(saved["restart"]), restarts):
            rows = tally.rows
            if not len(rows):
                break
            found = run(
                model,
                x[rows],
                threat.select(rows),
                goal.select(rows),
                draws.select(rows),
                f"start/{restart}",
                steps=steps,
                samples=gradient_samples,
            )
            tally.add(found, rows)
    return tally.result(trace)
