"""One launch of a trial as processes of this machine, for those who start and end many.

They are forked from a server that has imported everything once: a launch takes a second and not ten.
"""

import multiprocessing
import signal
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

from runner.errors import UserError
from runner.faults import NO_PROOF, Proof
from runner.masking import format_error, mask_text
from runner.processes import die_with_starter
from runner.rundir import RunDir

LEAVE_SECONDS = 10
"""How long ranks have to end after the first of them has."""

PRELOAD = [
    "runner.local_ranks",
    "runner.rank",
    "runner.trainer",
    "torch._dynamo",
    "torch._inductor",
    "sklearn.linear_model",
]
"""What a rank imports sooner or later; torch's compiler comes with every optimizer."""

DONE, LEFT, REFUSED, FAILED = 0, 75, 2, 1
"""Exit codes of a rank: the trial is done; saved and to be resumed; a mistake of the user; anything else."""


class LocalRanks:
    """The ranks of one launch; use it as a context, at whose end none of them lives."""

    def __init__(
        self, run: RunDir, world: int, launch: str, *, stop_after: int | None = None, proof: Proof = NO_PROOF
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.processes = [
            context.Process(
                target=_rank, args=(str(run.path), rank, world, launch, stop_after, proof), name=f"rank {rank}"
            )
            for rank in range(world)
        ]

    def __enter__(self) -> "LocalRanks":
        # Ctrl-C is for us: the server, which starts with the first rank, would print a traceback of its imports.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        for process in self.processes:
            process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.pid is not None:
                process.kill()
                process.join()

    def kill(self, rank: int) -> None:
        """kill -9 of one rank."""
        self.processes[rank].kill()

    def wait(self, patience_seconds: float) -> list[int]:
        """The exit codes, once all have ended; a killed rank has minus its signal.

        After the first rank has ended the others have LEAVE_SECONDS, as a batch script would give them. Raises:
        TimeoutError when no rank has ended after `patience_seconds`.
        """
        if not wait([process.sentinel for process in self.processes], patience_seconds):
            raise TimeoutError(f"no rank has ended after {patience_seconds} s")
        deadline = time.monotonic() + LEAVE_SECONDS
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0))
            if process.is_alive():
                process.kill()
                process.join()
        return [process.exitcode or 0 for process in self.processes]


def _rank(folder: str, rank: int, world: int, launch: str, stop_after: int | None, proof: Proof) -> None:
    from runner.rank import run_rank
    from runner.rendezvous import Place

    die_with_starter()
    # The terminal's Ctrl-C is for the process that started us; it ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = RunDir(Path(folder))
    try:
        outcome, _ = run_rank(
            run, Place(rank, world, rank, job_id=launch, launch=launch), stop_after=stop_after, proof=proof
        )
    except UserError as error:
        print(f"runner: {mask_text(str(error))}", file=sys.stderr, flush=True)
        sys.exit(REFUSED)
    except Exception as error:
        print(format_error(error), end="", file=sys.stderr, flush=True)
        sys.exit(FAILED)
    sys.exit(LEFT if outcome.verdict else DONE)
