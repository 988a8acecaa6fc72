"""How long 10,000 trials take from an experiment to typed models, their ids and the plug-ins' options.

CPU seconds of one process, the least of five runs.

python -m tests.benchmarks.bench_sweep
"""

import time
from pathlib import Path
from typing import Any

from runner import named
from runner.experiment import Experiment
from runner.schema import Document
from runner.sweep import trials

BASE: dict[str, Any] = {
    "name": "bench",
    "method": {"name": "scl", "gamma": 1.0, "alpha": 1.0},
    "encoder": {"name": "resnet18", "stem": "small"},
    "data": {"name": "cifar10", "root": "~/data", "download": False},
    "views": {"global_views": 2, "local_views": 4},
    "optimizer": {"name": "adamw", "lr": 3e-4, "weight_decay": 1e-5, "groups": {"head": {"lr": 1e-3}}},
    "schedule": {"name": "cosine", "warmup_steps": 500},
    "train": {"epochs": 100, "batch_size": 256, "precision": "bf16", "max_grad_norm": 1.0, "seed": 0},
    "evaluate": {"every_epochs": 5, "probes": ["linear", "knn"]},
    "checkpoint": {"every_minutes": "auto", "keep": 3},
    "tracking": {"every_steps": 50, "wandb": {"mode": "offline"}},
    "resources": {"ranks": 2},
}


def ten_thousand_trials() -> Experiment:
    """A grid of two parameters and seeds."""
    return _experiment(
        {
            "grid": {
                "method.gamma": [index / 25 for index in range(25)],
                "optimizer.lr": [1e-5 * (index + 1) for index in range(40)],
            },
            "seeds": list(range(10)),
        }
    )


def ten_thousand_samples() -> Experiment:
    """Random search, where every trial has groups of its own."""
    parameters = {"optimizer.lr": {"loguniform": [1e-5, 1e-2]}, "method.gamma": {"uniform": [0, 1]}}
    return _experiment({"random": {"samples": 10_000, "parameters": parameters}})


def time_sweep(experiment: Experiment) -> tuple[float, int]:
    """(CPU seconds, trials) to expand, validate and hash an experiment."""
    began = time.process_time()
    count = len(trials(experiment))
    return time.process_time() - began, count


def _experiment(sweep: dict[str, Any]) -> Experiment:
    return Experiment("bench", BASE, sweep, Document({**BASE, "sweep": sweep}, {}, Path("bench.yaml")))


def time_plug_ins(experiment: Experiment) -> float:
    """CPU seconds to validate the plug-ins' options of all trials."""
    pairs = trials(experiment)
    began = time.process_time()
    named.resolve_trials(pairs, experiment.document)
    return time.process_time() - began


def main() -> None:
    for family, name in (("methods", "scl"), ("encoders", "resnet18"), ("data", "cifar10")):
        named.load(family, name)  # importing torch is no part of the sweep
    for experiment in (ten_thousand_trials(), ten_thousand_samples()):
        seconds, count = min(time_sweep(experiment) for _ in range(5))
        plug_ins = min(time_plug_ins(experiment) for _ in range(5))
        kind = next(iter(experiment.sweep or {}))
        told = f"expanded, validated and hashed in {seconds:.2f} s, plug-ins' options in {plug_ins:.2f} s more"
        print(f"{kind}: {count} trials {told}")


if __name__ == "__main__":
    main()
