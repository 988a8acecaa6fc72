"""Hand a batch script to Slurm once, however often it has to be asked.

After a time-out the job may be in the queue all the same, or get there later: a controller that is back reads what it
was sent meanwhile. Slurm knows each job by the path of its script, which is new for every submission, so whoever has
to try again looks for it first, and for a second one afterwards. One that comes later still finds in the submission
that another job is meant (`dispatch.exit_trap`).
"""

import sys
import time
from pathlib import Path

from runner import slurm
from runner.client import UnansweredError, call, pauses

PATIENCE_SECONDS = 120.0
"""A controller that fails over is back within two minutes."""


def submit_script(script: Path, patience_seconds: float = PATIENCE_SECONDS) -> str:
    """The number of the job, or of the array.

    Raises: UnansweredError when it is not known whether Slurm has it, SubmissionError when Slurm refuses it.
    """
    deadline, doubtful = time.monotonic() + patience_seconds, False
    for pause in pauses():
        try:
            number = _sbatch(script)
        except UnansweredError as error:
            left_seconds = deadline - time.monotonic() - pause
            if left_seconds <= 0:
                raise
            if not doubtful:
                words = f"trying again for up to {left_seconds + pause:.0f} s"
                print(f"runner: {error}; {words}", file=sys.stderr, flush=True)
            doubtful = True
            time.sleep(pause)
            number = next(iter(find_jobs(script, left_seconds)), "")
        if number:
            if doubtful:
                slurm.cancel(other for other in find_jobs(script, 0) if other != number)
            return number
    raise AssertionError("pauses do not end")


def find_jobs(script: Path, patience_seconds: float) -> list[str]:
    """The numbers of the jobs of a script, the oldest first; raises UnansweredError when Slurm does not say."""
    scripts = slurm.scripts(patience_seconds)
    return sorted({job_id.partition("_")[0] for job_id, path in scripts.items() if path == str(script)}, key=int)


def _sbatch(script: Path) -> str:
    done = call("sbatch", "--parsable", str(script))
    # Sites tell their users things here.
    print(done.stderr, end="", file=sys.stderr)
    return done.stdout.strip().partition(";")[0]
