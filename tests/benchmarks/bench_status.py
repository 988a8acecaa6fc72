"""What a login node waits for: `python -m tests.benchmarks.bench_status`.

squeue and sacct are programs that answer from a file, so that their calls can be counted for any number of trials.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from runner.rundir import RunDir, find_trials
from runner.status import read_statuses
from runner.watch import Watch, status_table
from tests.trials import make_trial, slurm_job, start

STEPS = range(0, 500, 10)


def took(work: Callable[[], object]) -> str:
    """Seconds of wall clock, and of this process on a CPU, which other processes do not lengthen."""
    began, began_on_cpu = time.perf_counter(), time.process_time()
    work()
    return f"{time.perf_counter() - began:.2f} s ({time.process_time() - began_on_cpu:.2f} s on a CPU)"


def make_sweep(root: Path, count: int) -> list[RunDir]:
    """So many running trials of 50 rows each."""
    now = time.time()
    rows = [{"step": step, "time": now - 500 + step, "attempt": 1, "train/loss": 1 / (step + 1)} for step in STEPS]
    overrides = {"optimizer": {"lr": 0.1}, "train": {"seed": 0, "steps": 500}}
    first = make_trial(root, "template", "other", overrides=overrides, attempts=[start(1)], metrics=rows)
    files = {path.name: path.read_bytes() for path in first.path.iterdir() if path.is_file()}
    for index in range(count):
        run = RunDir(root / "exp" / f"{index:08x}")
        run.path.mkdir(parents=True)
        for name, content in files.items():
            (run.path / name).write_bytes(content.replace(b"seed: 0", f"seed: {index}".encode()))
        job = {"time": now - 600, "host": "h", "submission": "s", **slurm_job(f"{7 + index // 1000}_{index % 1000}")}
        run.jobs.write_text(json.dumps(job) + "\n")
    return find_trials(root / "exp")


def answer(folder: Path, runs: list[RunDir]) -> Path:
    """Put a squeue and a sacct on PATH; each call leaves a line in the file that is returned."""
    ids = [str(json.loads(run.jobs.read_text())["job_id"]) for run in runs]
    # The last hundred have ended, and only the accounts know how.
    lines = [f"{job_id}|RUNNING|n1|1795356856|1795360456|None\n" for job_id in ids[:-100]]
    ended = [f"{job_id}|FAILED|1:0|n1|1795356856|1795360456|None\n" for job_id in ids[-100:]]
    for tool, text in (("squeue", lines), ("sacct", ended)):
        (folder / tool).write_text(f'#!/bin/sh\necho {tool} >> "{folder}/calls"\nexec cat "{folder}/{tool}.txt"\n')
        (folder / tool).chmod(0o755)
        (folder / f"{tool}.txt").write_text("".join(text))
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    return folder / "calls"


def bench(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = make_sweep(Path(folder), count)
        calls = answer(Path(folder), runs)
        console = Console(file=open(os.devnull, "w"), force_terminal=True, width=160, height=50)  # noqa: SIM115

        def count_calls() -> str:
            found = Counter(calls.read_text().split())
            calls.unlink()
            return f"{found['squeue']} squeue, {found['sacct']} sacct"

        def look() -> None:
            console.print(watch.view(watch.refresh(), console))

        def look_again(what: str) -> None:
            reads = watch.read.reads
            seconds = took(look)
            print(f"--watch, {what}: {seconds}, {count_calls()}, {watch.read.reads - reads} folders read again")

        print(f"states of {count} trials: {took(lambda: read_statuses(runs))}, {count_calls()}")
        whole = took(lambda: console.print(status_table(read_statuses(runs))))
        print(f"status of {count} trials, the whole table: {whole}, {count_calls()}")
        time.sleep(2.5)
        watch = Watch(runs)
        print(f"--watch, first refresh of {count}: {took(look)}, {count_calls()}")
        look_again("next refresh")
        for run in runs[: count // 10]:
            with run.metrics.open("a") as file:
                file.write(json.dumps({"step": 500, "time": time.time(), "attempt": 1, "train/loss": 0.1}) + "\n")
        look_again("a tenth changed")


def main() -> None:
    for count in (1000, 10_000):
        bench(count)
    command = [sys.executable, "-m", "runner", "--help"]
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    print(f"runner --help: {1000 * min(taken):.0f} ms, the best of 5")


if __name__ == "__main__":
    main()
