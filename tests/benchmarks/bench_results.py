"""What `runner results` takes, with and without its registry: `python -m tests.benchmarks.bench_results`.

Finished trials of 5 seeds a setting, with 36 metrics each, on a local disk. Processor seconds of one process, the
least of five; a file server adds some wait to every file that is opened, of which the registry spares four a trial.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runner.preflight import resolved
from runner.record_cache import SETTLING_SECONDS
from runner.results import group_over, registry, select
from runner.strict_yaml import dump_yaml
from runner.sweep import trials
from tests.benchmarks.bench_sweep import ten_thousand_trials
from tests.trials import end, slurm_job, start

SEEDS = 5


def make_sweep(folder: Path, count: int) -> None:
    """Written without fsync."""
    config = dump_yaml(resolved(trials(ten_thousand_trials())[0][1]).model_dump(mode="json"))
    assert config.count("gamma: 0\n") == config.count("seed: 0\n") == 1
    metrics = {f"test/retrieval_{way}_recall_at_{at}": (way + at) / 7 for way in range(6) for at in range(6)}
    result = {"state": "done", "step": 500, "metrics": metrics, "fingerprint": "0" * 64, "seconds": {}}
    for index in range(count):
        gamma, seed = index // SEEDS + 0.5, index % SEEDS
        files = {
            "config.yaml": config.replace("gamma: 0\n", f"gamma: {gamma}\n").replace("seed: 0\n", f"seed: {seed}\n"),
            "overrides.yaml": f"method.gamma: {gamma}\ntrain.seed: {seed}\n",
            "attempts.jsonl": "".join(f"{json.dumps(row)}\n" for row in (start(1), end(1, 500, "done"))),
            "jobs.jsonl": json.dumps({"time": 0, "host": "h", "submission": "s", **slurm_job(f"7_{index}")}) + "\n",
            "metrics.jsonl": json.dumps({"step": 500, "time": 0.0, "attempt": 1, **metrics}) + "\n",
            "result.json": json.dumps(result, indent=2),
        }
        path = folder / f"{index:010x}"
        path.mkdir(parents=True)
        for name, text in files.items():
            (path / name).write_text(text)


def least_of(times: int, work: Callable[[], object]) -> float:
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def time_results(folder: Path, times: int = 5) -> dict[str, float]:
    """Processor seconds to read and group a sweep: each time anew, writing the registry, and with it."""

    def read() -> None:
        assert len(group_over(select([folder]).results, "seed")[0].trials) == SEEDS

    def read_and_write() -> None:
        (folder / registry.NAME).unlink(missing_ok=True)
        read()

    fewest, registry.FEWEST_TRIALS = registry.FEWEST_TRIALS, sys.maxsize
    straight = least_of(times, read)
    registry.FEWEST_TRIALS = fewest
    return {"straight": straight, "first": least_of(times, read_and_write), "cached": least_of(times, read)}


def main() -> None:
    for count in (1_000, 10_000):
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "bench"
            make_sweep(folder, count)
            time.sleep(SETTLING_SECONDS)
            seconds = time_results(folder)
            told = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
            size = (folder / registry.NAME).stat().st_size / 1e6
            print(f"results of {count} trials: {told}; registry {size:.1f} MB", flush=True)
            command = [sys.executable, "-m", "runner", "--root", root, "results", "bench", "--over", "seed"]
            before, began = _children_seconds(), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall = time.perf_counter() - began
            told = f"{_children_seconds() - before:.2f} s of processor, {wall:.2f} s of wall clock"
            print(f"runner results --over seed, the whole command: {told}", flush=True)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
