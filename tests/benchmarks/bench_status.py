"""What a login node waits for: `python -m tests.benchmarks.bench_status`. Seconds of wall clock, the best of five."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runner.rundir import find_trials
from runner.status import Job, read_statuses
from tests.trials import make_trial, slurm_job, start

TRIALS = 1000


def best_of(times: int, work: Callable[[], object]) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    questions = []

    def ask(job_ids: list[str]) -> dict[str, Job]:
        questions.append(len(job_ids))
        return {job_id: Job("running") for job_id in job_ids}

    with tempfile.TemporaryDirectory() as folder:
        for index in range(TRIALS):
            rows = [{"step": step, "time": step, "train/loss": 1.0} for step in range(0, 500, 10)]
            job = slurm_job(f"7_{index}")
            make_trial(Path(folder), f"{index:08x}", job=job, attempts=[start(1)], metrics=rows)
        seconds = best_of(5, lambda: read_statuses(find_trials(Path(folder) / "exp"), ask))
    print(f"status of {TRIALS} running trials: {seconds:.2f} s, one question about {questions[0]} jobs")
    command = [sys.executable, "-m", "runner", "--help"]
    seconds = best_of(5, lambda: subprocess.run(command, check=True, capture_output=True))
    print(f"runner --help: {1000 * seconds:.0f} ms")


if __name__ == "__main__":
    main()
