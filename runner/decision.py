"""Whether a trial that stopped goes on: one pure decision from what its folder and the scheduler say."""

from dataclasses import dataclass
from typing import Any, Literal

from runner.budgets import ONLY_AGAIN, POLICIES, End, read_ends, verdict
from runner.causes import Diagnosis, Evidence, diagnose
from runner.slurm_text import UNDECIDED


@dataclass(frozen=True)
class Decision:
    """What happens to a trial whose processes have ended."""

    action: Literal["done", "leave", "requeue", "fail"]
    """`leave` = somebody else (Slurm, the user) decides, or has decided."""

    cause: str
    reason: str
    rank: int | None = None
    """The rank that brought it about."""

    node: str | None = None
    """The node that did."""

    delay_seconds: int = 0
    """How long the next launch waits."""

    diagnosis: Diagnosis | None = None


@dataclass(frozen=True)
class Facts:
    """What the run folder says about a trial, beside the evidence of how its last launch ended."""

    launch: str
    """The launch that ended, as its start row names it if it got that far."""

    attempts: tuple[dict[str, Any], ...] = ()
    """Rows of attempts.jsonl since the trial was last submitted."""

    max_failures: int = 3
    done: bool = False
    cancelled: bool = False
    failed: bool = False
    superseded: bool = False
    """The trial has a newer attempt than this launch had."""

    saved_step: int | None = None
    """The newest checkpoint of this launch's attempt."""

    has_stepped: bool = False
    now: float = 0.0


def decide(facts: Facts, evidence: Evidence) -> Decision:
    """Decide from facts: the run folder, what the scheduler says of the job, and how the launch ended."""
    if facts.done:
        return Decision("done", "done", "result.json exists")
    if facts.cancelled:
        return Decision("leave", "cancelled", "the user cancelled it")
    if facts.failed:
        return Decision("leave", "failed", "failure.json exists")
    if evidence.job_state not in (*UNDECIDED, "LOCAL"):
        # COMPLETING, CANCELLED, PENDING: a scancel, a requeue or a preemption is already under way
        found = diagnose(evidence)
        reason = f"the scheduler has already decided: {evidence.job_state}"
        return Decision("leave", found.cause, reason, found.rank, found.node, diagnosis=found)
    if facts.superseded:
        # A requeue now would end the newer attempt, which would do the same to ours.
        return Decision("leave", "superseded", "a newer attempt has taken over")
    last = _last_end(facts) if evidence.started else None
    if last is not None and last["requeue"]:
        return Decision("requeue", last["cause"], "saved, but the first request to requeue did not get through")
    found = diagnose(evidence)
    if last is not None and last["cause"] in POLICIES:
        found = Diagnosis(last["cause"], "it saved and left", step=last.get("end_step"))
    if found.cause in ("superseded", "cancelled"):
        return Decision("leave", found.cause, found.reason, found.rank)
    why_not, delay_seconds = weigh(facts, evidence, found)
    if why_not is not None:
        reason = found.reason if why_not.endswith(ONLY_AGAIN) else f"{found.reason}; {why_not}"
        return Decision("fail", found.cause, reason, found.rank, found.node, diagnosis=found)
    return Decision("requeue", found.cause, found.reason, found.rank, found.node, delay_seconds, found)


def _last_end(facts: Facts) -> dict[str, Any] | None:
    """The end row that the launch wrote itself, None for one that could not."""
    last = facts.attempts[-1] if facts.attempts else {"event": "none"}
    return last if last["event"] == "end" else None


def weigh(facts: Facts, evidence: Evidence, found: Diagnosis) -> tuple[str | None, int]:
    """Whether the budget of a class allows another launch: (why not, None if it does; seconds to wait first)."""
    rows = list(facts.attempts)
    if evidence.started and rows and rows[-1]["event"] == "end":
        rows.pop()
    starts = [row["start_step"] for row in rows if row["event"] == "start"]
    begun = starts[-1] if evidence.started and starts else None
    progressed = begun is not None and facts.saved_step is not None and facts.saved_step > begun
    end = End(found.cause, facts.now, begun, progressed, found.step, found.signature)
    has_stepped = facts.has_stepped or any(starts) or bool(found.step) or bool(facts.saved_step)
    return verdict([*read_ends(rows), end], facts.max_failures, has_stepped)
