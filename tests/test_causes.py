"""Every end has its class: a labelled corpus of what ranks, logs and schedulers say, each message classed right."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runner.budgets import POLICIES
from runner.causes import Crash, Evidence, diagnose
from runner.signs import classify_words, read_log
from runner.slurm_text import parse_record, parse_sacct

CORPUS = Path(__file__).parent / "causes"
CLASSES = {
    *POLICIES,
    *("cancelled", "superseded", "user code", "configuration", "bad data", "bad checkpoint", "non-finite loss"),
    *("host out of memory", "disk full"),
}


def rows_of(source: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CORPUS / f"{source}.jsonl").read_text().splitlines()]


def class_of(source: str, row: dict[str, Any]) -> str | None:
    """What the runner makes of one message."""
    if source == "exceptions":
        return classify_words(row["types"], row["text"], row.get("errno"))
    if source == "logs":
        return read_log(row["log"]).cause
    log, started = row.get("log", ""), row["started"]
    if "sacct" in row:
        (info,) = parse_sacct(row["sacct"]).values()
        return diagnose(Evidence(info.shell_code, info.state, started, hosts=("n1",), log=log)).cause
    state = parse_record(row["scontrol"])["JobState"]
    return diagnose(Evidence(row["exit_code"], state, started, hosts=("n1",), log=log)).cause


@pytest.mark.parametrize("source", ["exceptions", "logs", "scheduler"])
def test_every_message_of_the_corpus_is_classed_right(source):
    rows = rows_of(source)
    assert len(rows) >= 60
    assert len({json.dumps(row, sort_keys=True) for row in rows}) == len(rows), "each message once"
    assert {row["cause"] for row in rows} <= CLASSES | {None}
    found = [(row["cause"], class_of(source, row), row) for row in rows]
    wrong = [f"{given}, not {label}: {row}" for label, given, row in found if label != given]
    confusion = Counter((label, given) for label, given, _ in found)
    table = "\n".join(
        f"{label!s:20} {given!s:20} {count:4}" for (label, given), count in sorted(confusion.items(), key=str)
    )
    assert not wrong, f"{'label':20} {'found':20} count\n{table}\n\n" + "\n".join(wrong)


def test_the_corpus_has_every_class():
    labels = {row["cause"] for source in ("exceptions", "logs", "scheduler") for row in rows_of(source)}
    assert CLASSES - labels == set()


@pytest.mark.parametrize(
    "row", [row for row in rows_of("logs") if "ranks" in row or "node" in row], ids=lambda row: row["cause"]
)
def test_srun_names_the_rank_and_its_node(row):
    sign = read_log(row["log"])
    assert list(sign.ranks) == row.get("ranks", list(sign.ranks))
    assert sign.node == row.get("node", sign.node)


LOST = "RuntimeError: [pair.cc:538] Connection closed by peer [10.0.0.2]:1023"
WAITED = "RuntimeError: [unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation to complete"
KILLED = "srun: error: n2: task 2: Killed\nsrun: error: n1: tasks 0-1: Exited with exit code 1"


def lost(rank: int, time: float = 2.0) -> Crash:
    return Crash(rank, "peer crash", LOST, time, 7)


@pytest.mark.parametrize(
    ("evidence", "cause", "rank", "node"),
    [
        # The first to name a cause of its own, however late its clock lets it write.
        ({"crashes": (lost(0, 1.0), Crash(1, "user code", "KeyError: 'x'", 3.0), lost(2))}, "user code", 1, None),
        (
            {"crashes": (Crash(2, "I/O error", "OSError: x", 5), Crash(1, "user code", "KeyError", 4))},
            "user code",
            1,
            None,
        ),
        ({"crashes": (lost(0), Crash(1, "node failure", "uncorrectable ECC", 2), lost(2))}, "node failure", 1, "n1"),
        # One that left no word, where the others could.
        ({"crashes": (lost(0), lost(2)), "exit_code": 137}, "killed", 1, None),
        ({"crashes": (lost(0), lost(1)), "exit_code": 137, "log": KILLED}, "killed", 2, None),
        # Several are silent, since srun ends the others at once: it names the first.
        ({"crashes": (lost(0),), "exit_code": 137, "log": KILLED}, "killed", 2, None),
        ({"crashes": (), "exit_code": 137, "log": KILLED}, "killed", 2, None),
        ({"crashes": (), "exit_code": 137}, "killed", None, None),
        ({"crashes": (), "exit_code": 137, "world": 1, "hosts": ("n1",)}, "killed", 0, None),
        # Or those who looked, before they ended, whose process was gone.
        (
            {"crashes": (Crash(0, "peer crash", "PeerError: because of rank 2: killed: without a word"),)},
            "killed",
            2,
            None,
        ),
        # Nobody is silent: the connection itself broke.
        ({"crashes": (lost(0, 2.0), lost(1, 1.0), lost(2, 3.0))}, "peer crash", 1, None),
        # The one they wait for is stopped, and says nothing.
        ({"crashes": (Crash(0, "hang", WAITED, 1.0), Crash(2, "hang", WAITED, 1.1))}, "hang", 1, None),
        ({"crashes": (lost(0), Crash(1, "hang", "HangError: in forward", 9), lost(2))}, "hang", 1, None),
        # What the log of Slurm adds.
        (
            {
                "crashes": (lost(0), lost(1)),
                "log": "slurmstepd: error: Detected 1 oom_kill event in StepId=4.0.\n" + KILLED,
            },
            "host out of memory",
            2,
            None,
        ),
        ({"crashes": (lost(0), lost(1)), "log": "srun: error: n2: task 2: Bus error"}, "I/O error", 2, "n2"),
        (
            {
                "crashes": (Crash(0, "killed", "DataLoader worker", 1),),
                "log": "slurmstepd: error: Detected 1 oom_kill event",
            },
            "host out of memory",
            None,
            None,
        ),
        ({"crashes": (lost(0), lost(1)), "log": "srun: error: Node failure on n2"}, "node failure", 2, "n2"),
        # A launch that cannot begin is its node's fault only if Slurm says so.
        ({"started": False, "exit_code": 140}, "launch failed", None, None),
        (
            {
                "started": False,
                "log": "srun: error: Task launch for 4.0 failed on node n2: Communication connection failure",
            },
            "launch failed",
            None,
            "n2",
        ),
        (
            {"started": False, "hosts": ("n1",), "log": "slurmstepd: error: Unable to create TMPDIR [/x]: Read-only"},
            "launch failed",
            None,
            "n1",
        ),
        (
            {"started": False, "hosts": ("n1",), "log": "slurmstepd: error: execve(): /venv/python: No such file"},
            "launch failed",
            None,
            None,
        ),
        ({"job_state": "NODE_FAIL", "hosts": ("n1", "n1", "n1")}, "node failure", None, "n1"),
        ({"job_state": "NODE_FAIL"}, "node failure", None, None),
    ],
)
def test_the_culprit_is_named(evidence, cause, rank, node):
    facts = {"world": 3, "hosts": ("n1", "n1", "n2"), **evidence}
    found = diagnose(Evidence(**facts))
    assert (found.cause, found.rank, found.node) == (cause, rank, node), found
