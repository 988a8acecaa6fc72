"""The trainer computes what a hand-written loop computes, on any number of ranks, interrupted or not."""

import json
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from runner import checkpoint, lineage, named
from runner.batch import Batch
from runner.errors import ConfigError, NonFiniteLossError
from runner.experiment import load_trial
from runner.export import export
from runner.files import read_json, read_rows
from runner.group import Group
from runner.loader import Plan
from runner.method import BreakAllEpochs, BreakEpoch, Task
from runner.methods.scl import SCL
from runner.preemption import Preemption
from runner.rundir import RunDir
from runner.state import seed_everything
from runner.views import make_views
from tests.experiments import fingerprint, prepare_run, train_here, train_on_ranks, train_rank
from tests.ranks import run_ranks


@pytest.fixture(autouse=True)
def restore_torch():
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def final_weights(run: RunDir) -> dict[str, torch.Tensor]:
    name, _ = lineage.newest_valid(run)
    assert name is not None
    return checkpoint.load(run, Group(), name, []).shared["method"]


def train_by_hand(run: RunDir) -> dict[str, torch.Tensor]:
    """The same trial as a plain loop of torch."""
    trial = load_trial(run.config)
    options = named.resolve_trial(trial)
    torch.set_num_threads(1)
    seed_everything(trial.train.seed, rank=0)
    data = named.load("data", trial.data.name).build(options.data, "train")
    encoder = named.load("encoders", trial.encoder.name).build(options.encoder, 1)
    method = named.load("methods", trial.method.name).build(options.method, encoder, Task(trial.train.steps))
    plain = [p for n, p in method.named_parameters() if p.requires_grad and n in ("log_scale", "bias")]
    decayed = [p for n, p in method.named_parameters() if p.requires_grad and n not in ("log_scale", "bias")]
    decay = trial.optimizer.weight_decay
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}], fused=True
    )
    plan = Plan(len(data), trial.train.batch_size, trial.train.accumulate, trial.train.seed)
    warmup, steps = 5, trial.train.steps
    for step in range(steps):
        factor = (step + 1) / (warmup + 1)
        if step >= warmup:
            factor = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
        for group in optimizer.param_groups:
            group["lr"] = trial.optimizer.lr * factor
        window = plan.window(step)
        for ids in map(torch.from_numpy, window):
            views, _ = make_views(
                data.images[ids],
                ids,
                trial.views,
                seed=0,
                epoch=plan.epoch(step),
                mean=data.mean,
                std=data.std,
            )
            output = method(Batch(views), step)
            (output.loss / len(window)).backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), trial.train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        method.after_fit_step(step + 1)
    return method.state_dict()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_equal_those_of_a_hand_written_loop(tmp_path, accumulate):
    # 250 samples in batches of 24: the last window of an epoch is short when there are two micro-batches.
    run = prepare_run(tmp_path, train={"accumulate": accumulate}, data={"limit": 250})
    assert train_here(run) == 1
    by_hand, weights = train_by_hand(run), final_weights(run)
    assert set(by_hand) == set(weights)
    for name, value in by_hand.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-7, msg=name)


def test_the_run_folder_holds_what_it_promises(tmp_path):
    run = prepare_run(tmp_path, evaluate={"probes": ["knn"], "every_steps": 10})
    train_here(run)
    rows = read_rows(run.metrics)
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert [("test/knn_top1" in row) for row in rows] == [False, True, False, True]
    assert all(row["attempt"] == 1 and row["train/loss"] > 0 for row in rows)
    result = json.loads(run.result.read_text())
    assert result["state"] == "done" and result["step"] == 20 and len(result["fingerprint"]) == 64
    assert result["metrics"]["test/knn_top1"] == rows[-1]["test/knn_top1"]
    assert [row["event"] for row in run.attempt_rows()] == ["start", "end"]
    assert run.attempt_rows()[1]["cause"] == "done"


def rehearsal(step: int, name: str = "USR2") -> dict:
    return {"at_step": step, "signal": name}


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_interrupted_equals_uninterrupted(tmp_path, precision, accumulate):
    train = {"precision": precision, "accumulate": accumulate}
    evaluate = {"probes": ["knn"], "every_steps": 10}
    straight = prepare_run(tmp_path / "straight", train=train, evaluate=evaluate)
    assert train_here(straight) == 1
    # mid-epoch, and just before an evaluation, which the signal overtakes or not
    for step in (7, 9):
        run = prepare_run(tmp_path / str(step), train=train, evaluate=evaluate, rehearse=rehearsal(step))
        assert train_here(run) == 2
        resumed = run.attempt_rows()[2]
        assert step <= resumed["start_step"] < 20, "when the signal is noticed depends on the machine"
        assert resumed["resumed_from"] == f"step_{resumed['start_step']:08d}.00001"
        assert fingerprint(run) == fingerprint(straight)
        strip = ("time", "attempt")
        assert [{k: v for k, v in row.items() if k not in strip} for row in read_rows(run.metrics)] == [
            {k: v for k, v in row.items() if k not in strip} for row in read_rows(straight.metrics)
        ]


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    straight = prepare_run(tmp_path / "straight")
    train_here(straight)
    run = prepare_run(tmp_path / "workers", train={"workers": 2}, rehearse=rehearsal(7))
    assert train_here(run) == 2
    assert fingerprint(run) == fingerprint(straight)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_interrupted_equals_uninterrupted_on_ranks(tmp_path, world):
    # Steps of milliseconds: the ranks compare their flags at intervals, and leave some steps after the signal.
    groups = {"evaluate": {"probes": ["knn"]}, "train": {"steps": 120, "batch_size": 12}}
    straight = prepare_run(tmp_path / "straight", **groups)
    assert train_on_ranks(straight, world) == ["GO_ON"]
    run = prepare_run(tmp_path / "cut", **groups)
    assert train_on_ranks(run, world, {3: world - 1, 30: 0}) == ["REQUEUE", "REQUEUE", "GO_ON"]
    starts = [row["start_step"] for row in run.attempt_rows() if row["event"] == "start"]
    assert starts[0] == 0 < starts[1] < starts[2] < 120
    assert [row["step"] for row in read_rows(run.metrics)] == list(range(5, 121, 5))
    assert fingerprint(run) == fingerprint(straight)


@pytest.mark.ddp
@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(tmp_path):
    # Batch norm's statistics are those of a rank's share, so this network does without.
    groups = {"encoder": {"norm": "group"}, "method": {"projector_batch_norm": False}}
    one, two = prepare_run(tmp_path / "one", **groups), prepare_run(tmp_path / "two", **groups)
    train_here(one)
    train_on_ranks(two, 2)
    losses = [[row["train/loss"] for row in read_rows(run.metrics)] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    name, _ = lineage.newest_valid(two)
    weights = checkpoint.load(two, Group(0, 2), name, []).shared["method"]
    for key, value in final_weights(one).items():
        torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_a_kill_costs_no_more_than_the_steps_since_the_last_save(tmp_path):
    straight = prepare_run(tmp_path / "straight")
    train_here(straight)
    run = prepare_run(tmp_path / "killed", checkpoint={"every_steps": 4}, rehearse=rehearsal(14, "KILL"))
    child = os.fork()
    if child == 0:
        train_here(run)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not run.result.exists()
    # A row of a step that will be done again, with another value, must not survive.
    with run.metrics.open("a") as file:
        file.write('{"step": 13, "time": 0, "attempt": 1, "train/loss": -1}\n{"step": 14, "ti')
    assert train_here(run) == 1
    assert run.attempt_rows()[-2]["start_step"] == 12
    assert [row["step"] for row in read_rows(run.metrics)] == [5, 10, 15, 20]
    assert fingerprint(run) == fingerprint(straight)


def test_interrupted_inside_an_evaluation_resumes_and_evaluates_once(tmp_path, monkeypatch):
    straight = prepare_run(tmp_path / "straight", evaluate={"probes": ["linear"]})
    train_here(straight)
    run = prepare_run(tmp_path / "cut", evaluate={"probes": ["linear"]})
    seen, raised, raise_flag = [], threading.Event(), Preemption.raise_flag

    def signal_once(self, index):
        seen.append(index)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert raised.wait(60), "a thread hears of the signal"

    monkeypatch.setattr(Preemption, "raise_flag", lambda self, signum: (raise_flag(self, signum), raised.set()))
    monkeypatch.setattr(SCL, "before_eval_step", signal_once)
    assert train_here(run) == 2
    first_end, second_start = run.attempt_rows()[1:3]
    assert first_end["cause"] == "preempted" and second_start["start_step"] == 20
    assert [row["step"] for row in read_rows(run.metrics)] == [5, 10, 15, 20]
    assert fingerprint(run) == fingerprint(straight)
    assert read_json(run.result)["metrics"] == read_json(straight.result)["metrics"]


def negate(self):
    """Twice, nothing has happened; stands for weights that are put in for an evaluation, such as a mean."""
    with torch.no_grad():
        for parameter in self.parameters():
            parameter.neg_()


def test_what_an_evaluation_puts_in_is_taken_out_before_an_interruption_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(SCL, "before_eval", negate)
    monkeypatch.setattr(SCL, "after_eval", negate)
    test_interrupted_inside_an_evaluation_resumes_and_evaluates_once(tmp_path, monkeypatch)


def test_a_hook_may_leave_a_data_set_or_all_probes_out(tmp_path, monkeypatch):
    batches = []

    def leave_out(self, index):
        batches.append(index)
        if len(batches) == wanted:
            raise BreakEpoch

    monkeypatch.setattr(SCL, "before_eval_step", leave_out)
    monkeypatch.setattr(SCL, "may_break_off", True)
    found = []
    for wanted in (1, 2, 99):  # one batch of training samples, then one of each data set
        batches.clear()
        data = {"more": {"name": "fashion_mnist_sample", "limit": 64}}
        run = prepare_run(tmp_path / str(wanted), evaluate={"probes": ["knn"], "data": data}, train={"steps": 5})
        train_here(run)
        found.append(sorted({name.partition("/")[0] for name in read_json(run.result)["metrics"]} - {"train"}))
    assert found == [[], ["more"], ["more", "test"]]


def test_a_measurement_may_be_nan_whenever_it_is_saved(tmp_path, monkeypatch):
    """Such as a share of nothing: only a loss that is no number ends a trial."""
    monkeypatch.setattr(SCL, "compute_loss", share_of_nothing(SCL.compute_loss))
    for number, every_steps in enumerate((None, 1)):
        run = prepare_run(tmp_path / str(number), checkpoint={"every_steps": every_steps}, train={"steps": 5})
        train_here(run)
        assert math.isnan(read_rows(run.metrics)[-1]["train/share"])


def share_of_nothing(real):
    def compute_loss(self, batch, step):
        found = real(self, batch, step)
        losses, measured = found if isinstance(found, tuple) else (found, {})
        return losses, {**measured, "share": torch.tensor(math.nan if step == 2 else 0.5)}

    return compute_loss


@pytest.mark.parametrize("evaluate", [{}, {"probes": ["linear"], "every_steps": 5}])
def test_a_loss_that_is_not_finite_ends_the_trial_with_its_cause(tmp_path, evaluate):
    run = prepare_run(tmp_path, optimizer={"lr": 1e30}, checkpoint={"every_steps": 2}, evaluate=evaluate)
    with pytest.raises(NonFiniteLossError, match=r"the loss became (nan|inf)"):
        train_here(run)
    crash = read_json(run.crash(1, 0))
    assert crash["cause"] == "non-finite loss" and "NonFiniteLossError" in Path(crash["traceback"]).read_text()
    for name in lineage.list_names(run):
        weights = checkpoint.load(run, Group(), name, []).shared["method"]
        assert all(torch.isfinite(w).all() for w in weights.values() if w.is_floating_point()), "no poisoned state"


def test_hooks_come_in_order(tmp_path, monkeypatch):
    calls: list[str] = []
    names = "before_fit before_fit_epoch before_fit_step after_fit_epoch before_eval after_eval after_fit"
    for name in names.split():
        monkeypatch.setattr(SCL, name, lambda self, *when, name=name: calls.append(name))
    real = SCL.after_fit_step
    monkeypatch.setattr(SCL, "after_fit_step", lambda self, step: (calls.append("after_fit_step"), real(self, step)))
    run = prepare_run(
        tmp_path,
        train={"steps": 3},
        schedule={"warmup_steps": 0},
        data={"limit": 48},
        evaluate={"probes": ["knn"]},
    )
    train_here(run)
    step = ["before_fit_step", "after_fit_step"]
    assert calls == [
        "before_fit",
        *("before_fit_epoch", *step, *step, "after_fit_epoch"),
        *("before_fit_epoch", *step),
        *("before_eval", "after_eval"),
        "after_fit",
    ]


@contextmanager
def breaking_off(rank: int) -> Iterator[None]:
    """A hook of one rank ends the first epoch after 4 steps of 5, and the run after 40."""
    real = SCL.after_fit_step

    def break_off(self, step):
        real(self, step)
        if self.group.rank == rank and step in (4, 40):
            raise BreakEpoch if step == 4 else BreakAllEpochs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SCL, "after_fit_step", break_off)
        patch.setattr(SCL, "may_break_off", True)
        yield


BROKEN_OFF: dict[str, Any] = {
    "train": {"steps": 60},
    "data": {"limit": 120},
    "tracking": {"every_steps": 1},
    "checkpoint": {"keep": 9},
}


def test_a_hook_may_break_off_an_epoch_or_the_run(tmp_path):
    run = prepare_run(tmp_path, **BROKEN_OFF)
    with breaking_off(0):
        train_here(run)
    assert read_json(run.result)["step"] == 40
    assert [row["step"] for row in read_rows(run.metrics)] == list(range(1, 41))
    assert checkpoint.load(run, Group(), lineage.newest_valid(run)[0], []).shared["skipped"] == 1 + 4


def test_a_method_that_says_it_never_breaks_off_must_not(tmp_path):
    run = prepare_run(tmp_path, **BROKEN_OFF)
    # Undone in the reverse order: else what this puts back would outlive the test.
    with breaking_off(0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(SCL, "may_break_off", False)
        with pytest.raises(ConfigError, match="SCL: a hook raised BreakEpoch or BreakAllEpochs"):
            train_here(run)


def train_until_broken_off(group: Group, folder: str, signals: list[int]) -> list[str]:
    """Attempts of one rank of several; rank 1 alone breaks off, and is signalled at these steps."""
    with breaking_off(1):
        return [train_rank(group, folder, step, 1, number) for number, step in enumerate([*signals, -1])]


@pytest.mark.ddp
def test_a_wish_of_one_rank_counts_at_its_step_whatever_the_clock_says(tmp_path):
    straight, cut = (prepare_run(tmp_path / name, **BROKEN_OFF) for name in ("straight", "cut"))
    assert run_ranks(2, train_until_broken_off, str(straight.path), [])[0] == ["GO_ON"]
    assert run_ranks(2, train_until_broken_off, str(cut.path), [3])[0] == ["REQUEUE", "GO_ON"]
    assert fingerprint(cut) == fingerprint(straight)
    for run in (straight, cut):
        assert read_json(run.result)["step"] == 40
        assert checkpoint.load(run, Group(world=2), lineage.newest_valid(run)[0], []).shared["skipped"] == 1 + 4


def evaluate_until_enough(group: Group, folder: str) -> list[str]:
    """Rank 1 alone leaves the first data set out of each evaluation, and has had enough after the second."""
    seen = {"batches": 0, "evaluations": 0}

    def before_eval(self):
        seen["batches"] = 0

    def before_eval_step(self, index):
        seen["batches"] += 1
        if self.group.rank == 1 and seen["batches"] == 2:
            raise BreakEpoch

    def after_eval(self):
        seen["evaluations"] += 1
        if self.group.rank == 1 and seen["evaluations"] == 2:
            raise BreakAllEpochs

    with pytest.MonkeyPatch.context() as patch:
        for hook in (before_eval, before_eval_step, after_eval):
            patch.setattr(SCL, hook.__name__, hook)
        patch.setattr(SCL, "may_break_off", True)
        return [train_rank(group, folder, -1, 1, 0)]


@pytest.mark.ddp
def test_a_wish_of_one_rank_in_an_evaluation_counts_for_all(tmp_path):
    evaluate = {
        "probes": ["knn"],
        "every_steps": 5,
        "data": {"more": {"name": "fashion_mnist_sample", "limit": 64}},
    }
    run = prepare_run(tmp_path, evaluate=evaluate)
    assert run_ranks(2, evaluate_until_enough, str(run.path))[0] == ["GO_ON"]
    result = read_json(run.result)
    assert result["step"] == 10 and [row["step"] for row in read_rows(run.metrics)] == [5, 10]
    assert {name.partition("/")[0] for name in result["metrics"]} == {"train", "more"}


def test_an_evaluation_breaks_nothing_off_of_a_method_that_says_it_never_does(tmp_path, monkeypatch):
    def before_eval(self):
        raise BreakAllEpochs

    monkeypatch.setattr(SCL, "before_eval", before_eval)
    run = prepare_run(tmp_path, evaluate={"probes": ["knn"], "every_steps": 5})
    with pytest.raises(ConfigError, match="SCL: a hook raised BreakEpoch or BreakAllEpochs"):
        train_here(run)


def test_init_from_starts_with_the_exported_weights_and_is_not_needed_again(tmp_path):
    first = prepare_run(tmp_path / "first")
    train_here(first)
    export(first, tmp_path / "model.pt")
    second, cut = (
        prepare_run(tmp_path / name, train={"steps": 6}, init_from=str(tmp_path / "model.pt"))
        for name in ("second", "cut")
    )
    train_here(second)
    train_here(cut, stop_after=3)
    (tmp_path / "model.pt").rename(tmp_path / "elsewhere.pt")
    train_here(cut)
    assert fingerprint(cut) == fingerprint(second)
    (tmp_path / "elsewhere.pt").rename(tmp_path / "model.pt")
    assert read_rows(second.metrics)[0]["train/loss"] < read_rows(first.metrics)[0]["train/loss"]
    third = prepare_run(tmp_path / "third", init_from=str(tmp_path / "model.pt"), encoder={"widths": [8, 24]})
    with pytest.raises(ConfigError, match=r"init_from: .* does not fit: encoder\."):
        train_here(third)
