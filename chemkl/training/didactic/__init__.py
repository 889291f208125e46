"""Policies over a few tokens, trained by sampling: the worlds of Figs 1-5 of arXiv 2510.20817."""

from chemkl.training.didactic.experiments import Experiment, experiments
from chemkl.training.didactic.learning import learn, policy_of
from chemkl.training.didactic.tables import distribution_table, quantity_table, sweep_table

__all__ = [
    "Experiment",
    "distribution_table",
    "experiments",
    "learn",
    "policy_of",
    "quantity_table",
    "sweep_table",
]
