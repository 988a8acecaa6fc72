"""A submission that waits for other trials: Slurm holds its jobs back, and each looks at what came of the others.

Slurm knows that a job has ended and not whether its trial is done, and a retry is another job. So jobs wait for any end
of the others' (`afterany`), and begin only where all of those trials have a result.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runner.errors import SubmissionError
from runner.files import write_json
from runner.requeue import EXIT_OPEN, EXIT_OVER, find_members
from runner.rundir import RunDir
from runner.status import Row

ACTIVE = ("pending", "running", "requeued")


def jobs_to_wait_for(rows: Sequence[Row]) -> list[str]:
    """The jobs of trials that are not done: of a single trial its own, of several their arrays.

    Raises: SubmissionError for a trial that would not be done by waiting.
    """
    waiting = [row for row in rows if row.state != "done"]
    for row in waiting:
        name = f"--after {row.experiment}/{row.trial}"
        if row.state not in ACTIVE or row.job_id is None:
            raise SubmissionError(f"{name}: is {row.state}, and waiting does not change that; `runner retry` may")
        if row.is_local:
            raise SubmissionError(f"{name}: runs in a local queue, which Slurm knows nothing of; wait for it")
    if len(rows) == 1:
        return [str(row.job_id) for row in waiting]
    return sorted({str(row.job_id).partition("_")[0] for row in waiting}, key=int)


def refuse_unless_done(run: RunDir, others: Path) -> bool:
    """Write failure.json for a trial if one of those it waited for, a folder a line, has no result; whether it did."""
    waited = [RunDir(Path(line)) for line in others.read_text().splitlines()]
    missing = [other for other in waited if not other.result.exists()]
    if not missing or run.result.exists():
        return False
    names = ", ".join(f"{other.experiment}/{other.trial}" for other in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    error = f"it was to run after {names}{more}, without a result; `runner retry` runs it all the same"
    write_json(run.failure, {"cause": "dependency", "rank": None, "node": None, "error": error, "time": time.time()})
    return True


def main(arguments: list[str]) -> int:
    """The batch script's question before the ranks start: `MANIFEST INDEX OTHERS`; EXIT_OVER when they must not."""
    manifest, index, others = arguments
    runs = find_members(manifest, index)
    if runs is None:
        return EXIT_OPEN
    refused = [run for run in runs if refuse_unless_done(run, Path(others))]
    for run in refused:
        print(f"runner: {run.experiment}/{run.trial}: what it was to run after is not done", flush=True)
    return EXIT_OVER if len(refused) == len(runs) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
