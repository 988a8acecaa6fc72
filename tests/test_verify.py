"""`runner verify-resume`: every shipped method ends bit for bit the same, on 1 to 4 ranks, and a flaw is named."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from runner import named
from runner.faults import Fault, Proof
from runner.journal import Difference, compare
from runner.local_ranks import LEFT, LocalRanks
from runner.processes import is_running
from runner.rundir import find_trials
from runner.verify import Verdict, draw_faults, verify_resume
from tests.experiments import prepare_run, run_cli, write_experiment
from tests.slurm_cluster import wait_for

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
STEPS = 24


@pytest.fixture(autouse=True)
def restore_torch():
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def verify(path: Path, folder: Path, *overrides: str, **options: Any) -> Verdict:
    verdict = verify_resume(path, list(overrides), folder / "runs", **{"kills": 4, "steps": STEPS, **options})
    assert verdict.difference is None, verdict.difference
    assert len(verdict.interruptions) == options.get("kills", 4)
    assert sum(cut.start_step > 0 for cut in verdict.interruptions) >= 2, "attempts that had resumed themselves"
    assert any(cut.end_step is None and cut.resumed_step > cut.start_step for cut in verdict.interruptions), (
        "a kill after progress that was saved"
    )
    return verdict


COMBINATIONS = [
    # ranks, precision, accumulate, workers
    (1, "bf16", 2, 2),
    (2, "fp16", 2, 0),
    (3, "bf16", 1, 0),
    (4, "no", 2, 0),
]
ALL = [(r, p, a, w) for r in (1, 2, 3, 4) for p in ("no", "bf16", "fp16") for a in (1, 2) for w in (0, 2)]


def check(folder: Path, ranks: int, precision: str, accumulate: int, workers: int) -> None:
    # 250 samples: the last window of an epoch is short. Evaluations at step 9, 18 and 24; epochs of five steps.
    path = write_experiment(
        folder,
        train={
            "steps": STEPS,
            "batch_size": 48,
            "precision": precision,
            "accumulate": accumulate,
            "workers": workers,
        },
        data={"limit": 250},
        evaluate={"probes": ["knn"], "every_steps": 9},
        resources={"ranks": ranks},
    )
    verify(path, folder, seed=ranks)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "precision", "accumulate", "workers"), COMBINATIONS)
def test_ranks_and_precisions(tmp_path, ranks, precision, accumulate, workers):
    check(tmp_path, ranks, precision, accumulate, workers)


@pytest.mark.ddp
@pytest.mark.nightly
@pytest.mark.parametrize(("ranks", "precision", "accumulate", "workers"), ALL)
def test_all_ranks_and_precisions(tmp_path, ranks, precision, accumulate, workers):
    check(tmp_path, ranks, precision, accumulate, workers)


def method_experiment(name: str) -> tuple[Path, list[str]]:
    """A small experiment of a shipped method, from the project's own files."""
    if named.kind_of("methods", name) == "records":
        return EXPERIMENTS / name / "debug.yaml", []
    options = ", projector_widths: [64, 32]" if name == "wmse" else ""  # whitening wants more rows than dimensions
    overrides = [f"method={{name: {name}{options}}}", "evaluate={probes: [knn], every_steps: 9}", "data.limit=256"]
    return EXPERIMENTS / "ssl" / "debug.yaml", overrides


@pytest.mark.slow
@pytest.mark.parametrize("name", named.names("methods"))
def test_every_method(tmp_path, name):
    path, overrides = method_experiment(name)
    verify(path, tmp_path, *overrides, kills=3)


@pytest.mark.slow
def test_the_command(tmp_path):
    path = write_experiment(tmp_path, train={"steps": 20})
    done = run_cli("verify-resume", path, "--kills", 2, "--json", "--root", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["equal"] is True and document["steps"] == 20 and len(document["interruptions"]) == 2
    assert not find_trials(tmp_path / "runs" / "tiny"), "the experiment's own trials are left alone"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--kills", "99"], "--kills: 99 is not allowed; 20 steps have room for 9"),
        (["--ranks", "7"], "train.batch_size: 24 is not allowed; must be divisible by 7"),
        (["optimizer.lr=-1"], "optimizer.lr: -1 is not allowed"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, told):
    done = run_cli("verify-resume", write_experiment(tmp_path), *words, "--root", tmp_path / "runs")
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("runner: ")


@pytest.mark.parametrize("world", [1, 3])
def test_interruptions_fit_into_the_steps_that_are_left(world):
    for seed in range(200):
        rng = random.Random(seed)
        kills, planned, at, save_every = rng.randint(1, 8), rng.randint(40, 90), 0, rng.randint(1, 4)
        for number in range(kills):
            faults = draw_faults(
                number,
                kills=kills,
                steps_left=planned - at,
                world=world,
                save_every=save_every,
                evaluates=True,
                rng=rng,
            )
            last = faults[-1]
            assert last.rank is None or 0 <= last.rank < world
            assert 1 <= last.nth < planned - at
            at += last.nth


def test_the_first_difference_is_named():
    same = {1: {"a": "0", "b": "0"}, 2: {"a": "1", "b": "1"}}
    other = {1: {"a": "0", "b": "0"}, 2: {"a": "1", "b": "2"}}
    assert compare([same, same], [same, same]) is None
    assert compare([same, same], [same, other]) == Difference(1, 2, "b", 0)
    assert compare([same], [{1: same[1]}]) == Difference(0, 2, "a", 1), "a step that is missing"


@pytest.mark.ddp
@pytest.mark.slow
def test_a_lost_rank_takes_the_others_with_it(tmp_path):
    run = prepare_run(tmp_path, resources={"ranks": 2})
    with LocalRanks(run, 2, "one", proof=Proof((Fault("backward", "KILL", 1, 3),))) as ranks:
        codes = ranks.wait(60)
    assert codes[1] == -9 and codes[0] not in (0, LEFT)


@pytest.mark.ddp
@pytest.mark.slow
def test_nothing_outlives_a_command_that_is_killed(tmp_path):
    """Neither ranks, nor their loader workers, nor the server that forks them."""
    path = write_experiment(tmp_path, train={"steps": 100_000, "workers": 1}, resources={"ranks": 2})
    words = ["-m", "runner", "verify-resume", str(path), "--steps", "100000", "--root", str(tmp_path / "runs")]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        try:
            above = psutil.Process(command.pid)
            below = wait_for(
                lambda: above.children(recursive=True),
                120,
                "the server, its tracker, two ranks and a worker of each",
                until=lambda found: len(found) >= 6,
            )
            again = run_cli("verify-resume", path, "--root", tmp_path / "runs")
        finally:
            command.kill()
    assert again.returncode == 2 and f"in use by process {command.pid}; wait for it" in again.stderr
    wait_for(lambda: any(is_running(process.pid) for process in below), 30, "all to end", until=lambda left: not left)
