"""A made sweep with everything that a report tells of: seeds, curves, preemptions, failures, hostile words."""

import math
import random
from pathlib import Path

from tests.trials import SUBMITTED, end, make_trial, slurm_job, start

TOP1 = "test/linear_top1"
HOSTILE = '<script>alert(1)</script> & "quotes" $\\frac$ #000000'
"""Taken for markup or for a formula it would run, break the page, or end the drawing."""

TRACEBACK = f"""\
Traceback (most recent call last):
  File "/env/lib/python3.11/site-packages/torch/nn/linear.py", line 3, in forward
    return a & b < c
torch.OutOfMemoryError: {HOSTILE}, WANDB_API_KEY='0123456789abcdef'
"""


def make_sweep(
    root: Path,
    gammas: tuple[float, ...] = (0.0, 0.5, 1.0),
    temperatures: tuple[float, ...] = (0.05, 0.5),
    seeds: int = 3,
    points: int = 20,
    name: str = "sweep",
) -> Path:
    """Every fifth trial was preempted once, every seventh failed, and the last one waits; the folder of the sweep."""
    draw = random.Random(0)
    settings = [(gamma, tau, seed) for gamma in gammas for tau in temperatures for seed in range(seeds)]
    for place, (gamma, tau, seed) in enumerate(settings):
        top1 = 0.5 + gamma / 10 - tau / 20 + draw.gauss(0, 0.01)
        rows = [
            {
                "step": 10 * point,
                "time": SUBMITTED + 2 + point,
                "attempt": 1,
                "train/loss": 3 * math.exp(-4 * point / points) + tau + draw.gauss(0, 0.05),
                **({TOP1: top1 * (1 - math.exp(-5 * point / points))} if point % 5 == 0 else {}),
            }
            for point in range(1, points + 1)
        ]
        overrides = {"method.gamma": gamma, "method.temperature": tau, "train.seed": seed}
        attempts = [start(1), end(1, 500, "done", at=60)]
        last: dict[str, object] = {"result": {TOP1: top1, "train/loss": 1 + tau}}
        if place % 5 == 4:
            saved = {"signal_to_saved_seconds": 0.4}
            attempts = [start(1), end(1, 200, "preempted", True, at=30, **saved), start(2, 200, at=50)]
            attempts.append(end(2, 500, "done", at=90))
        if place % 7 == 6:
            attempts, rows = [start(1), end(1, 200, "out of memory", at=30)], rows[: points // 2]
            last = {"failure": {"cause": "out of memory", "error": HOSTILE, "rank": 0}}
        if place == len(settings) - 1:
            attempts, rows, last = [], [], {}
        job = slurm_job(f"7_{place}") if attempts else None
        trial = f"{place:04x}{name[0]}"
        run = make_trial(
            root,
            trial,
            name,
            overrides=overrides,
            job=job,
            attempts=attempts,
            metrics=rows,
            **last,  # type: ignore[arg-type]
        )
        if "failure" in last:
            run.log(1, 0).write_text(TRACEBACK)
    return root / name


def make_hostile(root: Path) -> Path:
    """Trials, settings and metrics whose names would break a page that took them for markup."""
    for seed in (0, 1):
        for note in (HOSTILE, "plain"):
            make_trial(
                root,
                f"<b>&{seed}{note[0]}",
                "hostile",
                overrides={"data.note": note, "train.seed": seed},
                result={"test/<img src=x onerror=alert(1)>_top1": 0.5 + seed / 10 + len(note) / 100},
            )
    return root / "hostile"


def make_damaged(root: Path) -> Path:
    """A run folder for each file that can be torn, garbled or gone, and one that is whole."""
    whole = {"overrides": {"train.seed": 0}, "attempts": [start(1), end(1, 500, "done")], "result": {TOP1: 0.5}}
    rows = [{"step": 1, "time": SUBMITTED, "attempt": 1, "train/loss": 1.0}]
    runs = {
        name: make_trial(root, name, "damaged", job=slurm_job(), metrics=rows, **whole)  # type: ignore[arg-type]
        for name in ("whole", "result", "config", "metrics", "attempts", "provenance", "overrides", "jobs", "failure")
    }
    runs["result"].result.write_text('{"state": "do')
    runs["config"].config.write_bytes(b"\xff\x00: [")
    runs["metrics"].metrics.write_bytes(b"\x00\xff" * 40 + b'\n{"step": 2, "train/lo')
    runs["attempts"].attempts.write_bytes(runs["attempts"].attempts.read_bytes()[:-20])
    runs["provenance"].provenance.write_text("[1, 2")
    runs["overrides"].overrides.write_text("train: {seed: [")
    runs["jobs"].jobs.write_bytes(b"\x80garbage\n")
    runs["failure"].result.unlink()
    runs["failure"].failure.write_text('{"cause": ')
    return root / "damaged"
