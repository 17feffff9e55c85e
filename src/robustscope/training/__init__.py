"""Floor 3: training robust networks; one loop, one file for each objective."""

from robustscope.training import objectives as _objectives  # noqa: F401  (registers every objective)
from robustscope.training.cards import OBJECTIVES, ObjectiveCard, Passes, Step, Term, register
from robustscope.training.loop import Trained, train
from robustscope.training.network import Network
from robustscope.training.recipe import Recipe, Sparsity, load_recipe, recipes

__all__ = [
    "OBJECTIVES",
    "Network",
    "ObjectiveCard",
    "Passes",
    "Recipe",
    "Sparsity",
    "Step",
    "Term",
    "Trained",
    "load_recipe",
    "recipes",
    "register",
    "train",
]
