"""The small networks of the benchmarks, for tests: benchmarks/ is no package."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("small_nets", Path(__file__).parents[1] / "benchmarks" / "small_nets.py")
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
mlp, pooled_cnn, train = _MODULE.mlp, _MODULE.pooled_cnn, _MODULE.train
