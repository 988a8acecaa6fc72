"""What is done with a trial that stopped: the facts are read, the decision is written down and carried out.

Slurm requeues preempted jobs and jobs of dead nodes by itself, and rank 0 requeues a job it could save. What is left
is a rank that was killed or crashed: Slurm calls the job FAILED and forgets it. The batch script's EXIT trap runs
this module (no torch, no submitit: it must answer within KillWait), and so does the local queue. What Slurm started
again without asking is looked at before its ranks start.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner import nodes, slurm
from runner.budgets import POLICIES, read_ends, verdict
from runner.causes import UNTOLD, Diagnosis, Evidence, diagnose
from runner.decision import Decision, Facts, decide, weigh
from runner.errors import ConfigError, SubmissionError
from runner.evidence import attempt_of, gather, last_attempt, read_crashes, saved_step, split_launch
from runner.files import append_row, check_private, write_json
from runner.rundir import RunDir
from runner.slurm_text import JobInfo
from runner.submission import read_elements

EXIT_OVER = 3
"""What `begin` ends with when the ranks must not start."""

EXIT_OPEN = 2
"""Others could have changed what a submission holds."""


def read_facts(run: RunDir, launch: str, max_failures: int) -> Facts:
    """What the run folder says about a trial whose launch has ended."""
    own = attempt_of(run, launch)
    saved = saved_step(run, own)
    return Facts(
        launch,
        tuple(rows_since_submission(run, launch)),
        max_failures,
        done=run.result.exists(),
        cancelled=run.cancelled.exists(),
        failed=run.failure.exists(),
        superseded=own is not None and own < last_attempt(run),
        saved_step=saved,
        has_stepped=any(run.checkpoints.glob("step_*")) if run.checkpoints.is_dir() else False,
        now=time.time(),
    )


def rows_since_submission(run: RunDir, launch: str) -> list[dict[str, Any]]:
    """Rows of attempts.jsonl since the trial was last submitted: a retry has its budgets anew."""
    rows, jobs = run.attempt_rows(), run.job_rows()
    since = jobs[-1]["time"] if jobs else 0.0
    older = {job["job_id"] for job in jobs[:-1] if job["cluster"] == "slurm"} - {job["job_id"] for job in jobs[-1:]}
    own = split_launch(launch)[0]

    def is_newer(row: dict[str, Any]) -> bool:
        # The job first: a node's clock may be behind that of the machine that submitted, or ahead of it.
        job = split_launch(row.get("launch", ""))[0]
        return job not in older and (job == own or row["time"] >= since)

    return [row for row in rows if is_newer(row)]


def judge(
    run: RunDir, launch: str, exit_code: int, job_state: str, max_failures: int, logs: Path | None = None
) -> Decision:
    """Decide about a run folder, and write down what was decided: an end row, and failure.json when it is over."""
    facts, evidence = read_facts(run, launch, max_failures), gather(run, launch, exit_code, job_state, logs)
    decision = decide(facts, evidence)
    if decision.cause in ("done", "failed"):
        return decision
    found = decision.diagnosis or Diagnosis(decision.cause, decision.reason, decision.rank)
    own, rows = attempt_of(run, launch), run.attempt_rows()
    last: dict[str, Any] = rows[-1] if rows else {"event": "none", "attempt": 0}
    is_open = last["event"] == "start" and last["launch"] == launch
    if is_open or (not evidence.started and decision.action != "leave"):
        number = last["attempt"] if is_open or own is None else own
        append_row(run.attempts, _end_row(number, launch, decision, found, facts.saved_step))
    if decision.action == "fail":
        write_failure(run, decision, own, exit_code)
    if own is not None and found.rank is not None:
        blame(run, own, found.rank)
    return decision


def _end_row(attempt: int, launch: str, decision: Decision, found: Diagnosis, saved: int | None) -> dict[str, Any]:
    return {
        "event": "end",
        "attempt": attempt,
        "launch": launch,
        "time": time.time(),
        "end_step": found.step,
        "saved_step": saved,
        "cause": decision.cause,
        "rank": found.rank,
        "node": found.node,
        "error": found.reason[:500],
        "signature": found.signature,
        "requeue": decision.action == "requeue",
        "delay_seconds": decision.delay_seconds,
        "signal_to_saved_seconds": None,
    }


def write_failure(run: RunDir, decision: Decision, attempt: int | None, exit_code: int | None) -> None:
    """Write failure.json: the trial is over, because of one rank if that is known."""
    crashes = read_crashes(run, attempt) if attempt is not None else []
    own = next((crash for crash in crashes if crash["rank"] == decision.rank), {})
    document = {
        "cause": decision.cause,
        "rank": decision.rank,
        "node": decision.node,
        "error": decision.reason,
        "traceback": own.get("traceback"),
        "exit_code": exit_code,
        "time": time.time(),
    }
    write_json(run.failure, document)


def blame(run: RunDir, attempt: int, culprit: int) -> None:
    """Say in the crash files of the other ranks whose fault it was."""
    for crash in read_crashes(run, attempt):
        if crash["rank"] != culprit and crash.get("because_of_rank") != culprit:
            write_json(run.crash(attempt, crash["rank"]), {**crash, "because_of_rank": culprit})


def note_node(run: RunDir, cluster: str | None, found: Decision) -> None:
    """Note the fault of a node where other trials of its cluster will find it."""
    if cluster and found.node:
        nodes.record_fault(run, cluster, found.node, found.cause, found.reason)


def settle_lost(run: RunDir, launch: str, previous: JobInfo | None, max_failures: int, logs: Path) -> Decision | None:
    """Look at a job that Slurm has started again without asking; None when its ranks may start as they are.

    Where the launch before could not write down how it ended, that is done now; without a word from the accounts
    or in its log, its node failed.
    """
    rows = rows_since_submission(run, launch)
    if not rows or run.result.exists() or run.cancelled.exists() or run.failure.exists():
        return None
    job, restarts = split_launch(launch)
    last, before = rows[-1], str(rows[-1].get("launch", ""))
    if last["event"] == "end":
        why_not = verdict(read_ends(rows), max_failures, True)[0] if last["cause"] in POLICIES else None
        found = Diagnosis(last["cause"], str(last.get("error", "")), last.get("rank"))
    elif split_launch(before)[0] != job or split_launch(before)[1] >= restarts:
        return None
    else:
        facts = read_facts(run, before, max_failures)
        code, state = (previous.shell_code, previous.state) if previous is not None else (0, UNTOLD)
        evidence = gather(run, before, code, state, logs)
        found = diagnose(evidence)
        why_not = weigh(facts, evidence, found)[0]
    words = f"{found.reason}; {why_not}" if why_not else found.reason
    decision = Decision("fail" if why_not else "requeue", found.cause, words, found.rank, found.node, 0, found)
    if last["event"] == "start":
        append_row(run.attempts, _end_row(last["attempt"], before, decision, found, facts.saved_step))
    if why_not:
        write_failure(run, decision, last["attempt"], None)
    return decision if why_not or last["event"] == "start" else None


def allow(run: RunDir, launch: str, cause: str, step: int | None) -> str | None:
    """Why a launch that was told to leave is not requeued, None if it is; an attempt that had begun saved at `step`.

    What was never submitted has no budget: whoever runs it starts it again by hand.
    """
    if not run.job_rows():
        return None
    facts = replace(read_facts(run, launch, sys.maxsize), saved_step=step)
    return weigh(facts, Evidence(started=step is not None), Diagnosis(cause, "", step=step))[0]


def main(arguments: list[str]) -> int:
    """The batch script's questions: `WHEN MANIFEST INDEX JOB_ID LAUNCH EXIT_CODE MAX_FAILURES`.

    WHEN is `begin` before the ranks of a job that was started again start, and `end` when they have failed.
    """
    when, manifest, index, job_id, launch, exit_code, max_failures = arguments
    runs = find_members(manifest, index)
    if runs is None:
        return EXIT_OPEN
    logs = Path(manifest).parent / "jobs"
    if when == "begin":
        return begin(runs, job_id, launch, int(max_failures), logs)
    # The requeue ends this process too, and what follows it must still be said.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (run,) = runs
    decision = judge(run, launch, int(exit_code), ask_state(job_id, launch), int(max_failures), logs)
    say(run, decision)
    cluster = os.environ.get("SLURM_CLUSTER_NAME")
    note_node(run, cluster, decision)
    if decision.action == "requeue":
        slurm.requeue(job_id)
        postpone(run, job_id, decision.delay_seconds, cluster)
    return 0


def find_members(manifest: str, index: str) -> list[RunDir] | None:
    """The trials in a place of a submission's list; None, and a line why, where others could have written the list."""
    submission = Path(manifest).parent
    try:
        check_private(submission, submission.parents[2])
    except ConfigError as error:
        print(f"runner: {error}", file=sys.stderr, flush=True)
        return None
    return read_elements(Path(manifest))[int(index)]


def ask_state(job_id: str, launch: str) -> str:
    """What Slurm says now of the job of a launch that has ended; waits for a controller that is away.

    Where somebody else has decided, the end of this process ends the wait.
    """
    try:
        job = slurm.show_job(job_id, slurm.ORDER_PATIENCE_SECONDS)
    except SubmissionError as error:
        return f"no answer ({error})"
    # Where this launch was cut off from the controller, the job may run again elsewhere.
    current = launch == f"{job_id}.{job.get('Restarts', '0')}"
    return job.get("JobState", "UNKNOWN") if current else f"launch {launch} was given up for another"


def begin(runs: list[RunDir], job_id: str, launch: str, max_failures: int, logs: Path) -> int:
    """Before the ranks of a job that was started again: 0 when those of a trial of it may start."""
    previous = None
    try:
        previous = slurm.previous_launch(job_id)
    except SubmissionError as error:
        print(f"runner: sacct did not answer: {error}", flush=True)
    decisions = [settle_lost(run, launch, previous, max_failures, logs) for run in runs]
    for run, decision in zip(runs, decisions, strict=True):
        if decision is not None:
            say(run, decision)
            note_node(run, os.environ.get("SLURM_CLUSTER_NAME"), decision)
    return EXIT_OVER if all(decision is not None and decision.action == "fail" for decision in decisions) else 0


def postpone(run: RunDir, job_id: str, delay_seconds: int, cluster: str | None) -> None:
    """Let a job that was just requeued wait, and keep it off nodes that broke other trials."""
    bad = [each.node for each in nodes.read_excluded(nodes.root_of(run), cluster)] if cluster else []
    changes = {"StartTime": f"now+{delay_seconds}"} if delay_seconds else {}
    try:
        if bad:
            changes["ExcNodeList"] = nodes.merge(slurm.show_job(job_id).get("ExcNodeList"), ",".join(bad))
        for key, value in changes.items():
            slurm.update(job_id, key, value)
    except SubmissionError as error:
        # It is requeued all the same, at once.
        print(f"runner: the job could not be changed: {error}", flush=True)


def say(run: RunDir, decision: Decision) -> None:
    wait = f", in {decision.delay_seconds} s" if decision.delay_seconds else ""
    words = f"{decision.action}{wait}, {decision.cause}: {decision.reason}"
    print(f"runner: {run.experiment}/{run.trial}: {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
