"""How long `runner submit` takes for 1,000 trials, on a real Slurm of this machine whose partition takes no job.

Seconds of wall clock of the whole command, and of CPU, the least of five; and of these what comes before the first
byte is written: what is looked at on the login node.

python -m tests.benchmarks.bench_submit [--trials N]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.acceptance import check_cluster, check_modules
from runner.ahead import check_sources
from runner.config import ResourcesConfig
from runner.dispatch import batch_script
from runner.experiment import load_experiment
from runner.limits import read_cluster, read_limits
from runner.named import resolve_trials
from runner.preflight import check_root, check_space
from runner.profile import load_profile
from runner.sweep import trials
from tests.experiments import write_experiment
from tests.slurm_cluster import environment_of, own_cluster

TIMES = 5


def time_command(*command: str) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of a command of python's and its children, a process of its own."""
    began, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    wall, after = time.perf_counter() - began, os.times()
    assert done.returncode == 0, done.stderr
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def time_submit(root: Path, path: Path) -> tuple[float, float]:
    """As `time_command`, of a whole submission; its jobs are cancelled."""
    taken = time_command("-m", "runner", "submit", str(path), "--on", "onebox", "--root", str(root))
    subprocess.run(["scancel", "--me"], check=True)
    return taken


def time_checks(folder: Path, path: Path) -> float:
    """Wall seconds of all that is looked at before anything is written."""
    experiment = load_experiment(path, [])
    pairs = trials(experiment)
    resolved = resolve_trials(pairs, experiment.document)
    site, root = load_profile("onebox"), folder / "runs"
    began = time.perf_counter()
    check_root(root)
    check_sources([(trial, options) for (_, trial), options in zip(pairs, resolved, strict=True)], site)
    check_space(root, len(pairs), 0)
    check_modules(site)
    cluster = read_cluster()
    resources = ResourcesConfig()
    check_cluster(site, cluster, {resources: batch_script(resources, 1, site, root / "tiny" / ".submissions" / "NEW")})
    read_limits(site, len(pairs), cluster)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    count = parser.parse_args().trials
    with (
        own_cluster(nodes=1, accounting=True, enforce_limits=True) as cluster,
        environment_of(cluster),
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        subprocess.run(["scontrol", "update", "partitionname=low", "state=down"], check=True)
        path = write_experiment(folder, sweep={"seeds": list(range(count))})
        taken = [time_submit(folder / f"runs{number}", path) for number in range(TIMES)]
        torch = [time_command("-c", "import torch") for _ in range(TIMES)]
        checks = min(time_checks(folder, path) for _ in range(TIMES))
    wall, cpu, torch_wall, torch_cpu = (min(column) for rows in (taken, torch) for column in zip(*rows, strict=True))
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"submit {count} trials: {wall:.2f} s, CPU {cpu:.2f} s")
    print(f"of these the import of torch: {torch_wall:.2f} s, CPU {torch_cpu:.2f} s; checks: {checks:.2f} s")
    print(f"(processes that want each CPU at the end: {load:.1f})")


if __name__ == "__main__":
    main()
