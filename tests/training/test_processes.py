"""Two processes on one batch give what one process gives, to float tolerance."""

import dataclasses
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from robustscope.training import Recipe, train

RECIPE = {
    "data": "digits#train",
    "objective": "fast",
    "threat": "linf:0.15",
    "model_parameters": {"width": 4},
    "samples": 130,
    "validation": 30,
    "epochs": 2,
    "batch_size": 33,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "validation_steps": 2,
    "threads": 1,
}
SCRIPT = """
import json, sys
from robustscope.training import Recipe, train
from robustscope.training.distributed import joined, rank
with joined("cpu"):
    trained = train(Recipe(**json.loads(sys.argv[1])), sys.argv[2] if len(sys.argv) > 2 else None)
    if rank() == 0:
        print(json.dumps([trained.passes.forward, trained.passes.backward]))
"""


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_train_as_one(tmp_path):
    import json

    alone = train(Recipe(**RECIPE))
    port = str(free_port())
    running = []
    for number in range(2):
        facts = {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number), "MASTER_ADDR": "127.0.0.1"}
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, json.dumps(RECIPE), str(tmp_path)],
                env={**os.environ, **facts, "MASTER_PORT": port},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert json.loads(said[0][0].splitlines()[-1]) == [alone.passes.forward, alone.passes.backward]
    together = load_file(tmp_path / "model.safetensors")
    for name, tensor in alone.module.state_dict().items():
        torch.testing.assert_close(together[name], tensor, atol=1e-5, rtol=1e-4)


def test_one_process_alone_joins_nothing(monkeypatch):
    from robustscope.training import distributed

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined("cpu"):
        assert (distributed.world(), distributed.rank()) == (1, 0)
        assert distributed.part(33) == slice(0, 33)


def test_parts_of_a_batch_are_all_of_it(monkeypatch):
    from robustscope.training import distributed

    monkeypatch.setattr(distributed, "world", lambda: 3)
    for count in (1, 2, 3, 10, 33):
        rows = []
        for number in range(3):
            monkeypatch.setattr(distributed, "rank", lambda number=number: number)
            part = distributed.part(count)
            rows += range(part.start, part.stop)
        assert rows == list(range(count))


def test_a_recipe_is_its_identity():
    recipe = Recipe(**RECIPE)
    assert recipe.identity() == dataclasses.replace(recipe, device="cuda").identity()
    assert recipe.identity() != dataclasses.replace(recipe, seed=1).identity()
