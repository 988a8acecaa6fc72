"""Whatever interrupts a trial costs what it should, on the work that other systems were measured with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.rundir import RunDir
from tests.benchmarks import rival_cells
from tests.benchmarks.bench_rivals import CELLS, UNINTERRUPTED, Outcome, Passage, Work, events_table, play, times_table
from tests.slurm_cluster import skip_without_slurm


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Work, RunDir]]:
    skip_without_slurm()
    outcome, work, run = play(UNINTERRUPTED, tmp_path_factory.mktemp("rivals") / "uninterrupted", None)
    assert outcome.state == "done"
    yield work, run


@pytest.mark.nightly
@pytest.mark.slurm
@pytest.mark.ddp
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell(name: str, tmp_path: Path, reference: tuple[Work, RunDir]) -> None:
    cell = CELLS[name]
    outcome, _, _ = play(cell, tmp_path / "work", reference)
    if cell.cancelled:
        assert (outcome.state, outcome.restarts) == ("CANCELLED", 0), "it stays cancelled"
        return
    assert outcome.state == "done" and outcome.differences == ()
    assert outcome.restarts == len(cell.strikes), "each event struck"
    for (_, _, what), passage in zip(cell.strikes, outcome.passages, strict=True):
        lost = passage.left_step - (passage.resumed_step or 0)
        assert passage.repeated_steps == lost
        assert lost == (passage.left_step - 100 if what == "kill" else 0), "only a kill costs steps"


def test_the_others_are_quoted_for_every_cell():
    assert rival_cells.CELLS.keys() == CELLS.keys()
    assert {len(cells) for cells in rival_cells.CELLS.values()} == {len(rival_cells.SYSTEMS)}


def test_tables_have_a_row_for_every_event():
    passage = Passage(154, 155, 1, 0.25, 11.0, 20.0, None)
    outcomes = {name: Outcome("done", 1, (passage,) * len(cell.strikes), (), 60.0) for name, cell in CELLS.items()}
    assert outcomes["twice"].summary == "yes / 154, 154 / 1, 1 / bitwise"
    assert Outcome("done", 1, (passage,), ("x",), 60.0).summary == "yes / 154 / 1 / differs"
    assert Outcome("FAILED", 0, (passage,), (), 60.0).summary == "FAILED"
    events, times = events_table(outcomes), times_table(outcomes)
    assert len(events) == 2 + len(CELLS) and len(times) == 2 + sum(len(cell.strikes) for cell in CELLS.values())
    assert {line.count("|") for line in events} == {8} and {line.count("|") for line in times} == {7}
