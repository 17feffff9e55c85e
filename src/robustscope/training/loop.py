"""The loop: any objective of the registry on any network and data set, resumable bit for bit.

Read :meth:`Training.run`, :meth:`Training._epoch` and :meth:`Training._batch`; the rest is what happens between epochs.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustscope.core.draws import Draws, key, permutation
from robustscope.core.errors import ModelError
from robustscope.core.forms import to_dict
from robustscope.core.threads import torch_threads
from robustscope.core.types import ThreatModel
from robustscope.data.base import Dataset
from robustscope.models.randomness import kept_randomness, seed_layers
from robustscope.models.weights import check_device
from robustscope.training import checkpoints, distributed
from robustscope.training.augment import augment
from robustscope.training.cards import OBJECTIVES, Passes, Step, Term
from robustscope.training.dropout import add_dropout
from robustscope.training.export import Architecture, architecture, save_trained, write_record
from robustscope.training.monitor import Reading, look, overfits_catastrophically, stalls
from robustscope.training.network import Network
from robustscope.training.parts import Progress, Row, Tracker, Trained, averaged, optimizer_of, resident_bytes
from robustscope.training.recipe import Recipe
from robustscope.training.samples import Samples, open_samples
from robustscope.training.schedules import SCHEDULES, ramp
from robustscope.training.sparsity import Pruner

VERSION = 1
"""Raised whenever the same recipe would give other weights."""
MOST_ROLLBACKS = 4
PRECISION = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    data: Dataset | None = None,
    module: nn.Module | None = None,
    trackers: Sequence[Tracker] = (),
    progress: Progress | None = None,
    given: Any = None,
) -> Trained:
    """Train a network as a recipe says.

    Args:
        recipe: what to do.
        out: run folder; a training that was interrupted there goes on where its last whole epoch ended. None keeps
            nothing.
        data: training set in memory, instead of the one that the recipe names.
        module: network to start from, in place of the one that the recipe names. It is changed. Such a network is saved as
            weights alone, for there is no description of its layers.
        trackers: called with each row of the history.
        progress: called with (updates done, updates in all) after each batch.
        given: what the objective needs besides the recipe, such as a generator or masks of your own, in place of what its
            parameters name; it must be the same when a training is resumed.

    Returns:
        The network and its history.

    Raises:
        UnknownName, InvalidValue, InvalidType: for what the recipe, the objective or the data do not allow.
        ModelError: when training diverges; the last checkpoint is kept.
        StoreError: if the folder cannot be written.

    Example:
        >>> from robustscope.training import Recipe, train
        >>> recipe = Recipe(data="digits#train", objective="fast", threat="linf:0.15", samples=200, epochs=1)
        >>> sorted(train(recipe).history[0])[:3]
        ['alignment', 'attempt', 'backward']
    """
    with torch_threads(recipe.threads), kept_randomness():
        return Training(recipe, out, data, module, trackers, progress, given).run()


class Training:
    """A training under way: the parts of :func:`train`, and their state."""

    def __init__(
        self,
        recipe: Recipe,
        out: str | Path | None,
        data: Dataset | None,
        module: nn.Module | None,
        trackers: Sequence[Tracker],
        progress: Progress | None,
        given: Any = None,
    ) -> None:
        self.recipe, self.out = recipe, Path(out) if out is not None else None
        self.trackers, self.progress = trackers, progress
        self.objective = OBJECTIVES[recipe.objective]
        self.parameters = self.objective.resolve(recipe.parameters)
        self.threat = ThreatModel.parse(recipe.threat)
        self.device = check_device(recipe.device)
        self.samples: Samples = open_samples(recipe, data, self.device)
        prepare = self.objective.prepare
        self.given = prepare(self.samples, self.parameters) if given is None and prepare else given
        self.architecture: Architecture = architecture(recipe, self.samples.data, module)
        module = self.architecture.module.to(self.device).train()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        self.network = Network(
            module,
            self.threat.bounds,
            recipe.mean,
            recipe.std,
            PRECISION[recipe.precision],
            self.scaler.get_scale,
        )
        self.optimizer = optimizer_of(recipe, module)
        self.rate = SCHEDULES[recipe.schedule](**recipe.schedule_parameters)
        self.average = averaged(recipe, module)
        self.pruner = Pruner(recipe.sparsity, module)
        self.dropout = add_dropout(module, recipe.dropout)
        self.memory: dict[str, Tensor] = {}
        self.epoch = self.attempt = 0
        self.lone = False
        self.notes: dict[str, Tensor | float] = {}
        self.history: list[Row] = []
        self.best: Row = {}
        self.best_weights: dict[str, Tensor] = {}
        self.before = Reading(0.0, 0.0, 0.0, math.nan, 1.0)
        self.good: dict[str, Any] = {}
        self.spent = Passes()
        self.stopped = ""
        self.identity = hashlib.sha256(
            json.dumps([VERSION, recipe.identity(), self.samples.fingerprint, self.objective.version]).encode()
        ).hexdigest()

    # The loop itself.

    def run(self) -> Trained:
        """Train to the end."""
        saved = checkpoints.load(self.out, self.identity) if self.out else None
        if saved is not None:
            checkpoints.put_back(self, saved)
        else:
            if self.out and distributed.rank() == 0:
                checkpoints.write_recipe(self.out, self._asked())
            self.before = self._look()
        self._keep(write=False)
        while self.epoch < self.recipe.epochs and not self.stopped:
            started, loss = time.perf_counter(), self._epoch()
            if loss is not None:
                self._close_epoch(loss, time.perf_counter() - started)
        return self._finish()

    def _epoch(self) -> float | None:
        """Train for one epoch and return the mean loss; None if an alarm has put everything back."""
        name, size, count = f"{self.attempt}/{self.epoch}", self.recipe.batch_size, len(self.samples.ids)
        order = permutation(self.recipe.seed, f"train/{name}", count)
        self.pruner.advance(self.epoch / self.recipe.epochs)
        self.lone = (
            count > size and count % size == 1
        )  # batch norm cannot train on one sample: it joins the batch before
        batches, self.notes = math.ceil(count / size) - self.lone, {}
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        remembered = {key_: tensor.clone() for key_, tensor in self.memory.items()} if distributed.active() else {}
        for batch in range(batches):
            end = count if batch + 1 == batches else (batch + 1) * size
            ids = [self.samples.ids[i] for i in order[batch * size : end]]
            total += self._batch(ids, f"train/{name}", batch, batch / batches)
            if self.progress is not None:
                self.progress(self.epoch * batches + batch + 1, self.recipe.epochs * batches)
            if self.recipe.alarm_every and (batch + 1) % self.recipe.alarm_every == 0 and batch + 1 < batches:
                alarm = self._alarm(self._look())
                if alarm and self._raise_alarm(f"update {batch + 1} of epoch {self.epoch + 1}: {alarm}"):
                    return None
        distributed.add_up([total, *(note for note in self.notes.values() if isinstance(note, Tensor))])
        distributed.average_statistics(self.network.module)
        distributed.merge_changes(self.memory, remembered)
        return (total / count).item()

    def _batch(self, ids: list[int], name: str, batch: int, within: float) -> Tensor:
        """Train on one batch and return the sum of the losses of this process's rows, the mean of several updates."""
        done = (self.epoch + within) / self.recipe.epochs
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self.rate(done) * 0.5**self.attempt
        threat = self._threat(done)
        seed_layers(key(self.recipe.seed, name, f"layers/{distributed.rank()}", batch), self.device)
        mine = distributed.part(len(ids))
        x, y = self.samples.read(ids[mine])
        draws = Draws(self.recipe.seed, tuple(ids[mine]), name)
        x = augment(x, self.recipe.augment, draws.within("augment"))
        step = Step(
            self.epoch,
            self.recipe.epochs,
            torch.arange(mine.start, mine.stop, device=self.device),
            self.recipe.batch_size + self.lone,
            len(self.samples.data),
            self.memory,
            self.given,
        )
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        terms = self.objective.function(
            self.network, x, y, threat, draws=draws.within(self.objective.name), step=step, **self.parameters
        )
        updates = 0
        for term in terms:
            self._descend(term, len(ids))
            total += term.losses.detach().sum()
            updates += term.update
            for note, values in term.notes.items():
                self.notes[note] = self.notes.get(note, 0.0) + values.double().sum()
        return total / updates

    def _threat(self, done: float) -> ThreatModel:
        """Return the threat model when so much of the training is done."""
        return self.threat.scaled(ramp(self.recipe.epsilon_ramp)(done))

    def _descend(self, term: Term, count: int) -> None:
        """Send a loss backward, and update the weights if it asks for that."""
        self.scaler.scale(term.losses.sum() / count).backward()
        self.network.settle()
        if not term.update:
            return
        self.scaler.unscale_(self.optimizer)
        distributed.add_gradients(self.network.module)
        self.pruner.mask_gradients()
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.network.module.parameters(), self.recipe.clip_norm)
        with self.pruner.updating():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None and self.recipe.average == "ema":
            self.average.update_parameters(self.network.module)

    # Between epochs.

    def _close_epoch(self, loss: float, seconds: float) -> None:
        """Measure on held-out samples, heed the alarms, keep the best, write the checkpoint."""
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss of epoch {self.epoch + 1} is {loss}",
                "finite losses are allowed",
                "Lower the learning rate or set clip_norm; the checkpoint of the epoch before is kept.",
            )
        if self.recipe.average == "swa" and self.average is not None and self.epoch >= self.recipe.epochs * 3 // 4:
            self.average.update_parameters(self.network.module)
        now = self._look()
        row = self._row(loss, seconds, now)
        alarm = self._alarm(now)
        row["remark"] = (
            f"catastrophic overfitting: {alarm}"
            if alarm
            else stalls(now, [*self.history[-1:], row], self.samples.data.num_classes)
        )
        if alarm and self._raise_alarm(f"epoch {self.epoch + 1}: {alarm}", row):
            return
        self.history.append(row)
        for tracker in self.trackers:
            tracker(row)
        self._keep_best(row)
        if now.robust > self.before.robust:
            self.before = now
        self.epoch += 1
        waited = self.epoch - self.best["epoch"]
        if self.recipe.patience and waited >= self.recipe.patience:
            self.stopped = f"{self.recipe.best_by} accuracy has not improved for {waited} epochs"
        self._keep()

    def _look(self) -> Reading:
        with self.network.judged(self._averaged_module(), self.recipe.batch_size) as model:
            reading = look(model, self.samples.held, self.threat, self.recipe.validation_steps)
        self.network.module.train()
        return Reading(*distributed.agreed(list(vars(reading).values()), self.device))

    def _averaged_module(self) -> nn.Module | None:
        """Return the averaged weights once there are some."""
        if self.average is None or not int(self.average.n_averaged):
            return None
        self.pruner.apply(self.average.module)
        return self.average.module

    def _row(self, loss: float, seconds: float, now: Reading) -> Row:
        passes = self.passes()
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else resident_bytes()
        return {
            "epoch": self.epoch + 1,
            "attempt": self.attempt,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "epsilon": self._threat((self.epoch + 1) / self.recipe.epochs).epsilon,
            "loss": loss,
            **now.row(),
            "forward": passes.forward,
            "backward": passes.backward,
            "partial": passes.partial,
            "seconds": seconds,
            "peak_bytes": peak,
            **{name: float(note) / len(self.samples.ids) for name, note in self.notes.items()},
            **({"sparsity": self.pruner.share} if self.recipe.sparsity.amount else {}),
        }

    def passes(self) -> Passes:
        """Return the rows of all processes since the beginning."""
        own = self.network.passes
        counts = torch.tensor([own.forward, own.backward, own.partial], dtype=torch.int64, device=self.device)
        distributed.add_up([counts])
        forward, backward, partial = (int(n) for n in counts)
        return Passes(self.spent.forward + forward, self.spent.backward + backward, self.spent.partial + partial)

    def _alarm(self, now: Reading) -> str:
        """Return why this is catastrophic overfitting.

        Training that is not adversarial cannot have it, and while epsilon still rises there is no telling.
        """
        rising = self.epoch + 1 < self.recipe.epsilon_ramp * self.recipe.epochs
        if self.objective.kind != "adversarial" or rising:
            return ""
        return overfits_catastrophically(now, self.before)

    def _raise_alarm(self, why: str, row: Row | None = None) -> bool:
        """Do what the recipe says at catastrophic overfitting; return whether the state of before is back.

        A state that was no better is not worth going back to.
        """
        if self.recipe.alarm == "warn" or overfits_catastrophically(self.before, self.before):
            return False
        spent, attempt, history = self.passes(), self.attempt, [*self.history]
        checkpoints.put_back(self, self.good)
        self.spent, self.attempt = spent, attempt + 1
        if row is not None:
            self.history = [*history, {**row, "undone": True}]
        if self.recipe.alarm == "stop" or self.attempt > MOST_ROLLBACKS:
            self.stopped = f"catastrophic overfitting, {why}"
        else:
            note = {"epoch": self.epoch, "attempt": self.attempt, "remark": f"rolled back, {why}"}
            for tracker in self.trackers:
                tracker(note)
        return True

    def _keep_best(self, row: Row) -> None:
        by = self.recipe.best_by
        sparser = bool(self.best) and row.get("sparsity", 0.0) > self.best.get("sparsity", 0.0)
        if by == "last" or not self.best or sparser or row[by] > self.best[by]:
            module = self._averaged_module() or self.network.module
            self.best = row
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}

    # What outlives the process.

    def _keep(self, *, write: bool = True) -> None:
        """Keep the state to go back to, and write it as a checkpoint, where either is asked for."""
        if self.out or self.recipe.alarm != "warn":
            self.good = checkpoints.capture(self)
        if write and self.out and distributed.rank() == 0:
            checkpoints.save(self.out, self.good)

    def _finish(self) -> Trained:
        module = self.network.module
        for handle in self.dropout:
            handle.remove()
        if self.best_weights:
            module.load_state_dict(self.best_weights)
        module.eval()
        card, passes = None, self.passes()
        if self.out and distributed.rank() == 0:
            card = save_trained(self.out, self.recipe, self.architecture, module, self.best, self.stopped)
            write_record(self.out, self._asked(), self.history, self._facts(passes))
        return Trained(module, tuple(self.history), self.best, passes, self.stopped, card)

    def _asked(self) -> dict[str, Any]:
        """Return the recipe with all parameters of the objective."""
        return {**to_dict(self.recipe), "parameters": self.parameters}

    def _facts(self, passes: Passes) -> dict[str, Any]:
        return {
            "objective": {"source": self.objective.source, "version": self.objective.version},
            "samples": len(self.samples.ids),
            "held_out": len(self.samples.held.y),
            "data": self.samples.fingerprint,
            "weights": sum(weight.numel() for weight in self.network.module.parameters()),
            "best": self.best,
            "passes": vars(passes),
            "stopped": self.stopped,
            "processes": distributed.world(),
            "device": str(self.device),
        }
