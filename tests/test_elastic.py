"""On another number of ranks a resumed trial sees the same samples and ends with the same weights, to rounding."""

from typing import Any

import pytest
import torch

from runner import checkpoint, lineage
from runner.elastic import dropout_note, merge
from runner.encoders import bag_of_tokens
from runner.errors import CheckpointError, ConfigError
from runner.experiment import load_trial
from runner.faults import Fault, Proof
from runner.files import read_rows
from runner.group import Group
from runner.loader import Plan, iterate
from runner.local_ranks import DONE, LEFT, LocalRanks
from runner.reshape import plan_reshape, reshape
from runner.rundir import RunDir
from tests.experiments import prepare_run, train_here

STEPS, CUT_AT = 100, 41
GROUPS: dict[str, Any] = {
    "train": {"steps": STEPS, "batch_size": 24},
    "encoder": {"norm": "group"},
    "method": {"projector_batch_norm": False},
    "tracking": {"every_steps": 7},
}


@pytest.fixture(autouse=True)
def restore_torch():
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def train(run: RunDir, world: int, launch: str, faults: tuple[Fault, ...] = ()) -> list[int]:
    with LocalRanks(run, world, launch, proof=Proof(faults, prompt=True)) as ranks:
        return ranks.wait(120)


def weights_of(run: RunDir) -> dict[str, torch.Tensor]:
    name, refused = lineage.newest_valid(run)
    assert name is not None
    whole, _ = checkpoint.load_parts(run, name, refused)
    weights: dict[str, torch.Tensor] = whole.shared["method"]
    return weights


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4), (4, 2)])
def test_weights_are_those_of_one_rank_after_a_hundred_steps(tmp_path, before, after):
    one = prepare_run(tmp_path / "one", **GROUPS)
    train_here(one)
    run = prepare_run(tmp_path / "moved", **GROUPS, resources={"ranks": before})
    cut = Fault("step.end", "USR2", before - 1, CUT_AT)
    assert set(train(run, before, "first", (cut,))) == {LEFT}
    with pytest.raises(ConfigError, match=f"--ranks {after}: trial .* has a checkpoint of {before} rank.*--elastic"):
        plan_reshape([run], after, is_elastic=False)
    for one_run, trial in plan_reshape([run], after, is_elastic=True).items():
        reshape(one_run, trial)
    assert load_trial(run.config).resources.ranks == after
    assert set(train(run, after, "second")) == {DONE}
    start = [row for row in run.attempt_rows() if row["event"] == "start"][-1]
    assert start["start_step"] >= CUT_AT and start["exact"] == f"no, because world_size was {before}, is {after}"
    for name, expected in weights_of(one).items():
        torch.testing.assert_close(weights_of(run)[name], expected, rtol=0, atol=1e-5, msg=name)
    losses = [[row["train/loss"] for row in read_rows(each.metrics)] for each in (one, run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5), "rows that span the move, too"


def test_ranks_share_the_same_samples_out_in_the_same_order():
    from runner.dataset import Records

    data = Records(columns={"ids": torch.arange(100)[:, None]}, labels=None, classes=())
    plan = Plan(samples=100, batch_size=24, accumulate=2, seed=3)
    whole = [[part.ids.tolist() for part in step] for step in iterate(data, plan, Group(), 2, 9)]
    for world in (2, 3, 4):
        by_rank = [list(iterate(data, plan, Group(rank=rank, world=world), 2, 9)) for rank in range(world)]
        for step, parts in enumerate(whole):
            for index, ids in enumerate(parts):
                assert [i for rank in by_rank for i in rank[step][index].ids.tolist()] == ids


def test_a_share_of_its_own_is_refused(tmp_path):
    run = prepare_run(tmp_path, train={"steps": 8, "batch_size": 24})
    train_here(run)
    with pytest.raises(
        ConfigError, match=r"--ranks 2: trial .*: another number of ranks is not allowed: encoder\S* normal"
    ):
        plan_reshape([run], 2, is_elastic=True)
    with pytest.raises(
        ConfigError, match=r"--ranks 5: trial .*: train.batch_size: 24 is not allowed; must be divisible by 5"
    ):
        plan_reshape([run], 5, is_elastic=True)
    assert load_trial(run.config).resources.ranks == 1


def test_buffers_that_differ_between_ranks_cannot_be_merged():
    parts = [
        {"buffers": {"queue": torch.full((2,), float(rank))}, "meters": {"rows": []}, "rng": {}} for rank in (0, 1)
    ]
    with pytest.raises(CheckpointError, match="buffer queue of rank 1 is not that of rank 0"):
        merge(parts, seed=0, rank=0, step=5)


def test_new_ranks_get_generators_of_their_own_and_leave_ours_alone():
    part: dict[str, Any] = {"buffers": {}, "meters": {"rows": []}, "rng": {}}
    before = torch.get_rng_state()
    states = [merge([part], seed=0, rank=rank, step=step)["rng"]["torch"] for rank, step in ((0, 5), (1, 5), (0, 6))]
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(torch.equal(states[0], other) for other in states[1:])


def test_masks_that_each_rank_draws_are_named():
    whole = bag_of_tokens.Config(dropout=0.0, token_dropout=0.0)
    assert dropout_note(bag_of_tokens.build(whole, 9)) is None
    for option, part in (("dropout", "body"), ("token_dropout", "leave_out")):
        made = bag_of_tokens.build(whole.model_copy(update={option: 0.1}), 9)
        assert dropout_note(made).startswith(part) and dropout_note(made).endswith("draws other masks")
