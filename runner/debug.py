"""One trial here, in the foreground, by the code path of a job."""

import multiprocessing
import os
import shutil
import signal
import sys
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path

import psutil
import torch

from runner.config import Trial
from runner.errors import ConfigError, UserError
from runner.evidence import last_attempt, read_crashes
from runner.experiment import check_machine, load_experiment, warnings
from runner.explain import OptionError, counted
from runner.files import PRIVATE, masked, remove_empty
from runner.lock import in_use
from runner.masking import format_error, mask_text
from runner.named import resolve_trials
from runner.prepare import prepare
from runner.processes import Stragglers, die_with, tell_to_end
from runner.provenance import collect
from runner.request import check_weights
from runner.rundir import RunDir, experiment_dir
from runner.sweep import Variant, trials

EXIT_USER_ERROR, EXIT_PIPE_CLOSED = 2, 141
LEAVE_SECONDS = 10
"""How long ranks have to save and leave after Ctrl-C."""

TOGETHER_SECONDS, KILL_SECONDS = 3, 5
"""Ranks end within so many seconds of each other; whoever does not is told to, and killed after some more."""

POLL_SECONDS = 0.2


def debug(path: Path, overrides: list[str], root: Path, ranks: int | None, steps: int | None, pdb: bool) -> int:
    """Run the first trial of an experiment afresh under ROOT/.debug and return the exit code.

    `ranks` are gloo processes of this machine (NCCL with GPUs); rank 0 writes to the terminal, the others to their
    logs. `pdb` opens the debugger where a one-rank run fails.
    """
    variant, trial = first_trial(path, overrides, ranks)
    # There is nobody who would requeue it.
    trial = trial.model_copy(update={"rehearse": None})
    world = trial.resources.ranks
    if pdb and world > 1:
        raise ConfigError(f"--pdb: needs one rank, the trial has resources.ranks={world}; add --ranks 1")
    run = RunDir(experiment_dir(root.absolute() / ".debug", trial.name) / variant.trial_id)
    top = root if root.exists() else root.parent
    try:
        with masked(PRIVATE), in_use(run.path):
            shutil.rmtree(run.path, ignore_errors=True)
            prepare(run, trial, variant.overrides, collect(sys.argv))
            print(f"runner: {trial.name}/{variant.trial_id} on {counted(world, 'rank')}, in {run.path}", flush=True)
            code = EXIT_USER_ERROR
            try:
                code = _run_here(run, steps, pdb) if world == 1 else _run_ranks(run, world, steps)
                return code
            finally:
                # Of a mistake that was found before the first step nothing stays.
                if code == EXIT_USER_ERROR and not (run.metrics.exists() or run.checkpoints.exists()):
                    shutil.rmtree(run.path, ignore_errors=True)
    finally:
        if not run.path.exists():
            remove_empty(run.path.parent, top.absolute())


def first_trial(path: Path, overrides: list[str], ranks: int | None) -> tuple[Variant, Trial]:
    """The first trial of an experiment, if this machine can run it; `ranks` overrides its own.

    Raises: ConfigError. Here, where a mistake costs one line; each rank would find it again, in a folder made for it.
    """
    if ranks is not None:
        overrides = [*overrides, f"resources.ranks={ranks}"]
    experiment = load_experiment(path, overrides)
    (variant, trial) = trials(experiment)[0]
    resolve_trials([(variant, trial)], experiment.document)
    try:
        check_machine(trial, torch.cuda.is_available())
    except OptionError as error:
        raise experiment.document.locate(error, variant.origins) from None
    check_weights([(variant, trial)], experiment.document)
    for line in warnings(trial, torch.cuda.is_available()):
        print(f"runner: {line}", file=sys.stderr)
    return variant, trial


def _run_here(run: RunDir, steps: int | None, pdb: bool) -> int:
    from runner.rank import run_rank
    from runner.rendezvous import Place

    try:
        outcome, _ = run_rank(run, Place(), stop_after=steps, redirect=False)
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        print(format_error(error), end="", file=sys.stderr, flush=True)
        if pdb:
            import pdb as debugger

            debugger.post_mortem()
        return 1
    return 0 if not outcome.verdict else 1


def _run_ranks(run: RunDir, world: int, steps: int | None) -> int:
    # spawn, not fork: torch may hold threads already, and a job's ranks are fresh processes too
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=_rank, args=(str(run.path), rank, world, steps), name=f"rank {rank}")
        for rank in range(world)
    ]
    # Ctrl-C is ours to answer: a rank that is interrupted in an import fails with an error of its own. The tracker
    # of spawned processes unblocks SIGINT when it starts, so it starts first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    for process in ranks:
        process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        supervise(ranks, Stragglers(TOGETHER_SECONDS, KILL_SECONDS))
    finally:
        tell_to_end(psutil.Process(process.pid) for process in ranks if process.is_alive())
        for process in ranks:
            process.join(LEAVE_SECONDS)
            process.kill()
    codes = [process.exitcode for process in ranks]
    for told in (EXIT_USER_ERROR, EXIT_PIPE_CLOSED):
        if told in codes:
            return told
    if any(codes):
        for crash in read_crashes(run, last_attempt(run))[:1]:
            first = f"rank {crash['rank']} {'ended' if crash['cause'] == 'peer crash' else 'failed first'}"
            print(f"runner: {first}: {crash['error']}; {crash['traceback']}", file=sys.stderr)
    return int(any(codes))


def supervise(ranks: list[SpawnProcess], stragglers: Stragglers) -> None:
    """Wait until all ranks have ended; those that outlive one of them are ended."""
    handles: dict[SpawnProcess, psutil.Process] = {}
    for process in ranks:
        # It may end, and be gone, right after it was seen alive.
        with suppress(psutil.NoSuchProcess):
            if process.is_alive():
                handles[process] = psutil.Process(process.pid)
    while living := [process for process in handles if process.is_alive()]:
        stragglers.look(
            [handles[process] for process in living],
            lambda: all(process.exitcode in (None, 0) for process in ranks),
            is_short=len(living) < len(ranks),
        )
        connection.wait([process.sentinel for process in living], POLL_SECONDS)


def _rank(folder: str, rank: int, world: int, steps: int | None) -> None:
    from runner.rank import run_rank
    from runner.rendezvous import Place
    from runner.watchdog import Limits

    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    die_with(parent.pid)
    run = RunDir(Path(folder))
    try:
        outcome, _ = run_rank(run, Place(rank, world, rank), stop_after=steps, redirect=rank > 0, limits=Limits())
    except UserError as error:
        if rank == 0:
            print(f"runner: {mask_text(str(error))}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:
        # Nobody reads the terminal's side any more; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EXIT_PIPE_CLOSED)
    except Exception as error:
        print(format_error(error), end="", file=sys.stderr, flush=True)
        sys.exit(1)
    if outcome.verdict:
        sys.exit(1)
