"""How long a login node waits for the plan of 10,000 trials that all have a run folder.

Seconds of wall clock and of CPU, the least of three runs. Slurm is asked once; its answer costs nothing here. The
folders are in memory where there is a place for that: a disk whose files were read before costs the same.

python -m tests.benchmarks.bench_plan
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from runner import named
from runner.experiment import Experiment
from runner.files import append_row
from runner.grouped_yaml import GroupTexts
from runner.orphans import settle_orphans
from runner.plan import Plan
from runner.profile import Profile
from runner.rundir import RunDir
from runner.status import Job
from runner.strict_yaml import dump_yaml
from runner.survey import World, make_plan, read_world
from runner.sweep import trials
from tests.benchmarks.bench_sweep import ten_thousand_samples, ten_thousand_trials
from tests.trials import end, slurm_job, start

T = TypeVar("T")
MEMORY = "/dev/shm"
SUBMISSIONS = 4
SITE = Profile(cluster="slurm")
RESULT = {"state": "done", "step": 500, "metrics": {f"test/metric_{i}": 0.5 for i in range(20)}, "seconds": {}}


def make_folders(folder: Path, pairs: list[Any], done: float, failed: float) -> None:
    """A run folder for each trial, of several submissions; shares of them are done and have failed."""
    texts = GroupTexts()
    for index, (variant, trial) in enumerate(pairs):
        number, share = index * SUBMISSIONS // len(pairs), index / len(pairs)
        run, submission = RunDir(folder / variant.trial_id), folder / ".submissions" / f"20260101-000000.1.{number}"
        run.logs.mkdir(parents=True)
        run.config.write_text("".join(texts.of(trial).values()))
        run.overrides.write_text(dump_yaml(variant.overrides))
        job = {"time": 0, "submission": str(submission), "host": "login", **slurm_job(f"{7 + number}_{index}")}
        append_row(run.jobs, job, sync=False)
        run.attempts.write_text("".join(f"{json.dumps(row)}\n" for row in [start(1), end(1, 250, "killed"), start(2)]))
        run.metrics.write_text("".join(f'{{"step": {step}, "train/loss": 1.0}}\n' for step in range(0, 500, 10)))
        if share < done:
            run.result.write_text(json.dumps(RESULT))
        elif share < done + failed:
            run.failure.write_text(json.dumps({"cause": "user code", "error": "x"}))
        if not submission.exists():
            (submission / "jobs").mkdir(parents=True)
            (submission / "profile.yaml").write_text(dump_yaml(SITE.model_dump(mode="json")))
        with (submission / "trials.txt").open("a") as file:
            file.write(f"{run.path}\n")


def time_plan(experiment: Experiment, folder: Path) -> tuple[dict[str, tuple[float, float]], Plan]:
    """{step: (seconds, CPU seconds)} of a plan, and the plan."""
    taken: dict[str, tuple[float, float]] = {}
    questions: list[int] = []

    def timed(name: str, work: Callable[[], T]) -> T:
        began, cpu_began = time.perf_counter(), time.process_time()
        result = work()
        taken[name] = time.perf_counter() - began, time.process_time() - cpu_began
        return result

    def ask(job_ids: list[str]) -> dict[str, Job]:
        questions.append(len(job_ids))
        return {job_id: Job("running") for job_id in job_ids}

    def read() -> World:
        return read_world(folder, ask)

    timed("lost jobs", lambda: settle_orphans(folder))
    pairs = timed("expand, validate and hash", lambda: trials(experiment))
    timed("plug-ins' options", lambda: named.resolve_trials(pairs, experiment.document))
    world = timed("read folders and ask", read)
    plan = timed("compare", lambda: make_plan("bench", pairs, SITE, folder, world))
    assert len(questions) <= 1 and len(plan.items) == len(pairs)
    return taken, plan


def main() -> None:
    for family, name in (("methods", "scl"), ("encoders", "resnet18"), ("data", "cifar10")):
        named.load(family, name)  # importing torch is no part of the plan
    for experiment, done, failed in ((ten_thousand_trials(), 0.8, 0.1), (ten_thousand_samples(), 0.0, 0.0)):
        with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as root:
            folder = Path(root) / "bench"
            make_folders(folder, trials(experiment), done, failed)
            runs = [time_plan(experiment, folder) for _ in range(3)]
        taken, plan = min(runs, key=lambda run: sum(wall for wall, _ in run[0].values()))
        print(f"{next(iter(experiment.sweep or {}))}: {plan.summary()}")
        total = tuple(sum(each) for each in zip(*taken.values(), strict=True))
        for name, (wall, cpu) in {**taken, "together": total}.items():
            print(f"  {name:26} {wall:5.2f} s  ({cpu:.2f} s CPU)")


if __name__ == "__main__":
    main()
