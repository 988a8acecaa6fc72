"""What is done with a job of several trials that stopped: the batch script asks, as it asks runner.requeue about one.

As long as the job's supervisor lives it settles everything. What is left is its own end, with or without a word: each
trial that ran is judged for itself, and the job is requeued while one of them is not over.
"""

import os
import signal
import sys
import time
from pathlib import Path

from runner import slurm
from runner.evidence import split_launch
from runner.ownership import back_off_seconds, is_ours, is_over
from runner.processes import is_alive
from runner.requeue import EXIT_OPEN, ask_state, begin, find_members, judge, note_node, postpone, say
from runner.rundir import RunDir
from runner.slurm_text import UNDECIDED

LAST_WORDS_SECONDS = 15
"""The ranks of a supervisor that was killed see it within a second or two, and save."""

POLL_SECONDS = 0.2


def main(arguments: list[str]) -> int:
    """The batch script's questions, with the arguments of `runner.requeue`."""
    when, manifest, index, job_id, launch, exit_code, max_failures = arguments
    runs, submission = find_members(manifest, index), Path(manifest).parent
    if runs is None:
        return EXIT_OPEN
    logs = submission / "jobs"
    if when == "begin":
        return begin(runs, job_id, launch, int(max_failures), logs)
    # The requeue ends this process too, and what follows it must still be said.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job_state, cluster = ask_state(job_id, launch), os.environ.get("SLURM_CLUSTER_NAME")
    is_open = job_state in UNDECIDED
    begun = {run: own for run in runs if (own := last_launch(run, launch))}
    if is_open:
        wait_for_ranks(list(begun))
    for run in runs:
        # Those that waited for their turn beside others have nothing to answer for.
        if not is_over(run) and is_ours(run, submission) and (run in begun or not begun):
            decision = judge(run, begun.get(run, launch), int(exit_code), job_state, int(max_failures), logs)
            say(run, decision)
            note_node(run, cluster, decision)
    left = [run for run in runs if not is_over(run) and is_ours(run, submission)]
    if is_open and left:
        slurm.requeue(job_id)
        # Who has to wait longer does so in the job.
        delay_seconds = min(back_off_seconds(run, time.time()) for run in left)
        postpone(left[0], job_id, round(delay_seconds), cluster)
    return 0


def last_launch(run: RunDir, launch: str) -> str | None:
    """What a trial's last attempt calls its launch, where that was of this launch of the job."""
    started = [str(row["launch"]) for row in run.attempt_rows() if row["event"] == "start"]
    return started[-1] if started and split_launch(started[-1]) == split_launch(launch) else None


def wait_for_ranks(runs: list[RunDir]) -> None:
    """Return once the last attempts of these trials have written how they ended, or cannot any more."""
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    while time.monotonic() < deadline and any(map(_may_still_write, runs)):
        time.sleep(POLL_SECONDS)


def _may_still_write(run: RunDir) -> bool:
    last = run.attempt_rows()[-1]
    return last["event"] == "start" and is_alive(last.get("pid"), last.get("pid_created"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
