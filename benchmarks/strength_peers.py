"""Attacks of other tools for ``strength.py``, which runs this file in the environment where those tools are.

PEER_PYTHON benchmarks/strength_peers.py JOB.pt RESULT.pt
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from strength_watch import ORDERS, Watched, by_radius, measure, smallest_radius

Run = Callable[[Watched], Any]


def mend_imports() -> None:
    """Let torchattacks and adv-lib import: a torchvision built for another torch, and visdom for plots."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        mend_imports.kept = library
    except ImportError:
        pass
    try:
        import visdom  # noqa: F401
    except ImportError:
        sys.modules["visdom"] = types.ModuleType("visdom")
        sys.modules["visdom"].Visdom = type("Visdom", (), {})


def foolbox(norm: str) -> dict[str, Run]:
    """Return the attacks of Foolbox for a norm."""
    import foolbox as fb

    a = fb.attacks

    def minimum(attack: Any) -> Run:
        return lambda w: attack(fb.PyTorchModel(w, bounds=(0, 1)), w.x, w.y, epsilons=None)

    def fixed(attack: Any) -> Run:
        def run(w: Watched) -> None:
            model = fb.PyTorchModel(w, bounds=(0, 1))
            smallest_radius(w, by_radius(w, lambda x, y, radius: attack(model, x, y, epsilons=[radius])[1][0]))

        return run

    if norm == "linf":
        return {
            "fmn": minimum(a.LInfFMNAttack(steps=1000)),
            "deepfool": minimum(a.LinfDeepFoolAttack(steps=100)),
            "pgd": fixed(a.LinfPGD(steps=100)),
        }
    if norm == "l2":
        return {
            "ddn": minimum(a.DDNAttack(steps=1000)),
            "fmn": minimum(a.L2FMNAttack(steps=1000)),
            "cw": minimum(a.L2CarliniWagnerAttack(binary_search_steps=9, steps=110)),
            "deepfool": minimum(a.L2DeepFoolAttack(steps=100)),
            "pgd": fixed(a.L2PGD(steps=100)),
        }
    if norm == "l1":
        return {
            "fmn": minimum(a.L1FMNAttack(steps=1000)),
            "ead": minimum(a.EADAttack(binary_search_steps=9, steps=110, decision_rule="L1")),
            "sparse_descent": fixed(a.SparseL1DescentAttack(steps=100)),
        }
    return {"fmn": minimum(a.L0FMNAttack(steps=1000))}


def torchattacks(norm: str) -> dict[str, Run]:
    """Return the attacks of torchattacks for a norm."""
    import torchattacks as ta

    def minimum(make: Callable[[Watched], Any]) -> Run:
        return lambda w: make(w)(w.x, w.y)

    def fixed(make: Callable[[Watched, float], Any]) -> Run:
        return lambda w: smallest_radius(w, by_radius(w, lambda x, y, radius: make(w, radius)(x, y)))

    if norm in ("linf", "l2"):
        name = {"linf": "Linf", "l2": "L2"}[norm]
        found = {
            "apgd_ce": fixed(lambda w, e: ta.APGD(w, norm=name, eps=e, steps=100)),
            "apgdt": fixed(lambda w, e: ta.APGDT(w, norm=name, eps=e, steps=20)),
            "fab": minimum(lambda w: ta.FAB(w, norm=name, eps=1.0 if norm == "linf" else 5.0, steps=165)),
        }
        if norm == "linf":
            return found
        return {**found, "cw": minimum(lambda w: ta.CW(w, steps=1000))}
    if norm == "l1":
        return {
            "eadl1": minimum(lambda w: ta.EADL1(w, max_iterations=110, beta=0.01)),
            "fab": minimum(lambda w: ta.FAB(w, norm="L1", eps=50.0, steps=165)),
        }
    return {"sparsefool": minimum(lambda w: ta.SparseFool(w, steps=20))}


def adv_lib(norm: str) -> dict[str, Run]:
    """Return the attacks of adv-lib for a norm."""
    import adv_lib.attacks as a

    p = ORDERS[norm]

    def minimum(attack: Callable[..., Tensor], **more: Any) -> Run:
        return lambda w: attack(w, w.x, w.y, **more)

    def fixed(attack: Callable[..., Tensor], **more: Any) -> Run:
        return lambda w: smallest_radius(
            w, lambda rows, radii: attack(w, w.x[rows], w.y[rows], eps=radii, norm=p, **more)
        )

    found = {"fmn": minimum(a.fmn, norm=p, steps=1000)}
    if norm != "l0":
        found |= {
            "apgd_ce": fixed(a.apgd, loss_function="ce"),
            "apgd_targeted": fixed(a.apgd_targeted, n_iter=20),
            "fab": minimum(a.fab, norm=p, n_iter=180),
            "fab_targeted": minimum(a.fab, norm=p, n_iter=70, targeted_restarts=True),
        }
    if norm == "linf":
        found["pdpgd"] = minimum(a.pdpgd, norm=p, num_steps=1000)
        found["cw"] = minimum(a.carlini_wagner_linf)
        found["deepfool"] = minimum(a.df, norm=p)
    elif norm == "l2":
        found["ddn"] = minimum(a.ddn, steps=1000, levels=None)
        found["alma"] = minimum(a.alma, num_steps=1000, distance="l2")
        found["pdgd"] = minimum(a.pdgd, num_steps=1000)
        found["pdpgd"] = minimum(a.pdpgd, norm=p, num_steps=1000)
        found["cw"] = minimum(a.carlini_wagner_l2, max_iterations=110)
        found["superdeepfool"] = minimum(a.sdf)
        found["trust_region"] = minimum(a.tr, p=2, adaptive=True)
    elif norm == "l1":
        found["alma"] = minimum(a.alma, num_steps=1000, distance="l1", lr_init=0.5, α=0.5)
        found["pdpgd"] = minimum(a.pdpgd, norm=p, num_steps=1000)
    else:
        found["sigma_zero"] = minimum(a.sigma_zero, num_steps=1000)
        found["pdpgd"] = minimum(a.pdpgd, norm=p, num_steps=1000)
        found["vfga"] = minimum(a.vfga, targeted=False)
    return found


def art(norm: str) -> dict[str, Run]:
    """Return the attacks of ART for a norm."""
    from art.attacks import evasion as e
    from art.estimators.classification import PyTorchClassifier

    def wrapped(w: Watched) -> PyTorchClassifier:
        loss = torch.nn.CrossEntropyLoss()
        return PyTorchClassifier(
            w, loss, tuple(w.x.shape[1:]), nb_classes=10, clip_values=(0.0, 1.0), device_type="cpu"
        )

    def minimum(make: Callable[[PyTorchClassifier], Any]) -> Run:
        return lambda w: make(wrapped(w)).generate(w.x.numpy(), w.y.numpy())

    def fixed(make: Callable[[PyTorchClassifier, float], Any]) -> Run:
        def run(w: Watched) -> None:
            classifier = wrapped(w)

            def attack(x: Tensor, y: Tensor, radius: float) -> Tensor:
                return torch.from_numpy(np.asarray(make(classifier, radius).generate(x.numpy(), y.numpy())))

            smallest_radius(w, by_radius(w, attack))

        return run

    apgd = partial(e.AutoProjectedGradientDescent, norm=ORDERS[norm], nb_random_init=1, batch_size=256, verbose=False)
    found = {"apgd": fixed(lambda c, r: apgd(c, eps=r, eps_step=2 * r, loss_type="cross_entropy"))}
    if norm == "l2":
        found["deepfool"] = minimum(lambda c: e.DeepFool(c, batch_size=256, verbose=False))
        found["cw"] = minimum(lambda c: e.CarliniL2Method(c, max_iter=100, batch_size=256, verbose=False))
    if norm == "l1":
        found["ead"] = minimum(
            lambda c: e.ElasticNet(c, max_iter=110, decision_rule="L1", batch_size=256, verbose=False)
        )
    if norm == "l0":
        return {"jsma": minimum(lambda c: e.SaliencyMapMethod(c, batch_size=256, verbose=False))}
    return found


TOOLS = {"foolbox": foolbox, "torchattacks": torchattacks, "adv_lib": adv_lib, "art": art}
PACKAGES = {"adv_lib": "adv-lib", "art": "adversarial-robustness-toolbox"}


def main() -> None:
    job = torch.load(sys.argv[1], weights_only=True)
    torch.set_num_threads(job["threads"])
    mend_imports()
    warnings.simplefilter("ignore")
    found = {}
    for name, attack in TOOLS[job["tool"]](job["norm"]).items():
        if name in job["done"] or (job["only"] and name not in job["only"]):
            continue
        torch.manual_seed(job["seed"])
        np.random.seed(job["seed"])  # noqa: NPY002  (some tools draw from it)
        found[name] = measure(job, attack)
        torch.save(found, sys.argv[2])


if __name__ == "__main__":
    main()
