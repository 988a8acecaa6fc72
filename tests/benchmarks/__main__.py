"""All benchmarks, one after the other: `python -m tests.benchmarks`. Each has a module of its own.

`python -m tests.benchmarks scale` is those of sweeps of thousands.
"""

import os
import subprocess
import sys

BENCHMARKS = (
    ["bench_losses"],
    ["bench_views"],
    ["bench_trainer"],
    ["bench_trainer", "--ranks", "2"],
    ["bench_checkpoint"],
    ["bench_signal"],
    ["bench_sweep"],
    ["bench_submit"],
    ["bench_plan"],
    ["bench_status"],
    ["bench_goodput"],
    ["bench_snapshot"],
    ["bench_results"],
    ["bench_pixels"],
    ["bench_code_floor"],
    ["bench_protein_floor"],
    ["bench_rivals"],
)

SCALE = ("bench_sweep", "bench_plan", "bench_submit", "bench_status", "bench_results")

for name, *options in BENCHMARKS:
    if sys.argv[1:] == ["scale"] and name not in SCALE:
        continue
    print(f"\n== {' '.join([name, *options])}", flush=True)
    command = [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{name}", *options]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
