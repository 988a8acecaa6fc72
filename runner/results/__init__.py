"""Metrics of the trials of one or more sweeps: chosen, grouped, compared, and written in several formats."""

from runner.results.groups import Setting, group_by, group_over, group_seeds
from runner.results.trials import TrialResult, metric_names, read_results, select

__all__ = [
    "Setting",
    "TrialResult",
    "group_by",
    "group_over",
    "group_seeds",
    "metric_names",
    "read_results",
    "select",
]
