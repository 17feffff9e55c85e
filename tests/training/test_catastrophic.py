"""Catastrophic overfitting of a real network: provoked, noticed within the epoch, undone."""

import dataclasses
from pathlib import Path

import pytest

from robustscope.training import Recipe, train

SHARED = Path(__file__).resolve().parents[3] / "shared"
CARD = SHARED / "models" / "mnist_fastat_pgd_madry.json"
RECIPE = Recipe(
    data=f"mnist:{SHARED / 'data' / 'mnist'}#train",
    objective="fgsm",
    threat="linf:0.3",
    model=str(CARD),
    samples=2200,
    validation=200,
    epochs=2,
    batch_size=100,
    optimizer="adam",
    learning_rate=5e-3,
    weight_decay=0.0,
    schedule="flat",
    threads=1,
)
pytestmark = pytest.mark.skipif(not CARD.is_file(), reason="the shared models are not here")


def test_one_step_training_breaks_a_robust_network_unseen_by_one_step():
    rows = train(RECIPE).history
    assert rows[1]["fgsm"] > 0.8
    assert rows[1]["robust"] < 0.1
    assert "catastrophic overfitting" in rows[1]["remark"]


def test_the_alarm_goes_off_within_the_epoch_and_the_weights_come_back():
    notes = []
    recipe = dataclasses.replace(RECIPE, alarm="rollback", alarm_every=5)
    trained = train(recipe, trackers=[notes.append])
    undone = [note["remark"] for note in notes if note.get("remark", "").startswith("rolled back")]
    assert undone[0].startswith("rolled back, update 5 of epoch 2")
    # At each of the halved rates it comes back later, until the loop gives up; nothing of it is left.
    assert trained.best["robust"] > 0.6
    assert trained.best["fgsm"] - trained.best["robust"] < 0.2
