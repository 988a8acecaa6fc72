"""The ranks of a launch find each other, however often it was started before, and nobody waits for ever."""

import itertools
import json
import socket
import threading
import time
from datetime import timedelta

import psutil
import pytest
from torch._C._distributed_c10d import TCPStore

from runner import rendezvous
from runner.errors import RunnerError
from runner.files import write_json
from runner.preemption import Interrupted, Verdict
from runner.rendezvous import LOOPBACK, Place, meet
from runner.rundir import RunDir


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "exp" / "trial"
    path.mkdir(parents=True)
    return RunDir(path)


class Meeting(threading.Thread):
    """One rank on its way to the others."""

    def __init__(self, run, rank, world=2, check=lambda: None, launch="7.0", **place):
        super().__init__(daemon=True)
        self.arguments = run, Place(rank, world, rank, launch=launch, **place), check
        self.attempt = self.store = self.error = None
        self.start()

    def run(self):
        try:
            self.attempt, self.store = meet(*self.arguments)
        except Exception as error:
            self.error = error

    def result(self):
        self.join(60)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.attempt, self.store


def check_together(ranks):
    """All hold one attempt, and one store."""
    found = [rank.result() for rank in ranks]
    assert {attempt.number for attempt, _ in found} == {found[0][0].number}
    assert [attempt.rank for attempt, _ in found] == list(range(len(ranks)))
    found[-1][1].set("word", "of the last rank")
    assert found[0][1].get("word") == b"of the last rank"
    return found[0][0]


def test_ranks_meet(run):
    assert check_together([Meeting(run, rank, 3) for rank in range(3)]).number == 1
    assert json.loads(run.launch_note("7.0").read_text()) == {"attempt": 1}, "the address is of no use any more"


def test_the_attempt_is_one_whatever_the_order(run):
    late = [Meeting(run, 2, 3), Meeting(run, 1, 3)]
    assert check_together([Meeting(run, 0, 3), *reversed(late)]).number == 1


def test_one_rank_needs_no_store(run):
    attempt, store = meet(run, Place(launch="7.0"), lambda: None)
    assert attempt.number == 1 and store is None
    assert json.loads(run.launch_note("7.0").read_text()) == {"attempt": 1}, "which attempt a launch had"


def another_store():
    """A store of somebody else, who got the port since."""
    store = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))
    return store, store.port


def nobody():
    with socket.create_server((LOOPBACK, 0)) as listener:
        return None, listener.getsockname()[1]


@pytest.mark.parametrize("holder", [nobody, another_store])
def test_word_of_an_earlier_start_is_passed_over(run, monkeypatch, holder):
    monkeypatch.setattr(rendezvous, "JOIN_TIMEOUT_SECONDS", 0.5)
    _kept, port = holder()
    run.launch_note("7.0").parent.mkdir()
    write_json(run.launch_note("7.0"), {"attempt": 41, "host": "x", "port": port, "nonce": "00"})
    tried = threading.Event()
    monkeypatch.setattr(rendezvous, "_try_to_join", tried_before(rendezvous._try_to_join, tried))
    late = Meeting(run, 1)
    assert tried.wait(30), "rank 1 has tried the old word"
    assert check_together([Meeting(run, 0), late]).number == 1


def tried_before(join, tried):
    def try_to_join(*arguments):
        found = join(*arguments)
        tried.set()
        return found

    return try_to_join


def test_a_torn_or_foreign_note_is_passed_over(run):
    run.launch_note("7.0").parent.mkdir()
    run.launch_note("7.0").write_text('{"attempt": 1, "po')
    ranks = [Meeting(run, 1)]
    ranks.insert(0, Meeting(run, 0))
    check_together(ranks)


def test_each_launch_meets_for_itself(run):
    launches = {name: [Meeting(run, rank, launch=name) for rank in range(2)] for name in ("7.0", "7.1")}
    assert {check_together(ranks).number for ranks in launches.values()} == {1, 2}


@pytest.mark.parametrize(
    ("there", "missing"),
    [(1, r"rank 1 waited 1 s for rank 0 of launch 7\.0"), (0, r"rank 0 waited 1 s for ranks \[1, 2\] of launch 7\.0")],
)
def test_a_rank_that_never_comes_is_named(run, monkeypatch, there, missing):
    monkeypatch.setattr(rendezvous, "MEETING_TIMEOUT_SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(RunnerError, match=missing):
        Meeting(run, there, 3).result()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("there", [0, 1])
def test_a_signal_ends_the_wait(run, there):
    asked = []

    def check():
        asked.append(there)
        if len(asked) == 3:
            raise Interrupted(Verdict.REQUEUE)

    with pytest.raises(Interrupted):
        Meeting(run, there, check=check).result()


def signal_while_waiting(monkeypatch, signalled, calm_calls):
    """Signal one rank at its `calm_calls + 1`st look after it has met the others."""
    wait, calls = rendezvous._wait_for_all, itertools.count()

    def check():
        if next(calls) >= calm_calls:
            raise Interrupted(Verdict.REQUEUE)

    def wait_for_all(store, place, deadline, calm):
        wait(store, place, deadline, check if place.rank == signalled else calm)

    monkeypatch.setattr(rendezvous, "_wait_for_all", wait_for_all)


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_rank_ends_the_wait_of_those_that_have_met(run, monkeypatch, signalled):
    signal_while_waiting(monkeypatch, signalled, 1)
    for rank in [Meeting(run, rank, 3) for rank in range(2)]:
        with pytest.raises(Interrupted):
            rank.result()


def test_all_go_on_or_all_leave_when_the_signal_comes_with_the_last_rank(run, monkeypatch):
    ends = set()
    for launch in range(20):
        with monkeypatch.context() as patch:
            signal_while_waiting(patch, launch % 2, launch % 3)
            ranks = [Meeting(run, rank, launch=f"{launch}.0") for rank in range(2)]
            for rank in ranks:
                rank.join(60)
            errors = {type(rank.error) for rank in ranks}
            assert len(errors) == 1, [rank.error for rank in ranks]
            ends |= errors
    assert ends == {type(None), Interrupted}


def listening(processes):
    """Addresses and ports at which these processes listen."""
    found = set()
    for process in processes:
        connections = process.net_connections("inet")
        found |= {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}
    return found


def test_on_one_host_the_store_listens_on_loopback_only(run):
    before = listening([psutil.Process()])
    ranks = [Meeting(run, rank) for rank in range(2)]
    check_together(ranks)
    (new,) = listening([psutil.Process()]) - before
    assert new[0] in (LOOPBACK, f"::ffff:{LOOPBACK}")
