"""The verbs that run an experiment: `debug`, `submit`, `verify-resume`, `rehearse`; and `doctor`."""

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from runner import cli_results
from runner.cli_options import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    Experiment,
    Json,
    MaybeProfile,
    Overrides,
    Profile,
    Root,
    choose_root,
    complain,
    leave,
    print_json,
    wait,
)
from runner.errors import SubmissionError

if TYPE_CHECKING:
    from runner.rundir import RunDir
    from runner.submit import Submission


Ranks = Annotated[int | None, typer.Option(min=1, help="Ranks on this machine.")]


def debug(
    experiment: Experiment,
    overrides: Overrides = None,
    ranks: Ranks = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")] = None,
    pdb: Annotated[bool, typer.Option("--pdb", help="Open the debugger where it fails.")] = False,
    root: Root = None,
) -> None:
    """Run one trial here, in the foreground, as a job would."""
    from runner.debug import debug

    leave(debug(experiment, overrides or [], choose_root(root), ranks, steps, pdb))


def submit(
    experiment: Experiment,
    on: Profile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan and sbatch script; touch nothing.")] = False,
    stay: Annotated[bool, typer.Option("--wait", help="Stay until all trials are final, then print results.")] = False,
    after: Annotated[
        list[str] | None, typer.Option(metavar="SWEEP|TRIAL", help="Run once this is done; may be given again.")
    ] = None,
    root: Root = None,
) -> None:
    """Expand an experiment, submit the trials that are missing."""
    from runner.rundir import find_target
    from runner.submit import submit

    others = [run for name in after or [] for run in find_target(choose_root(root), name)]
    send = partial(submit, experiment, overrides or [], on, choose_root(root), dry_run, sys.argv, after=others)
    submission = send()
    print(submission.table(), flush=True)
    for script in submission.scripts:
        print(f"\n{script}", end="")
    if dry_run or not stay:
        return
    try:
        code = wait(submission.sent, partial(_send_rest, send) if submission.rest else None)
    except KeyboardInterrupt:
        words = f"interrupted; the trials go on, and `runner cancel {submission.experiment}` stops them"
        leave(complain(words, EXIT_INTERRUPTED))
    cli_results.print_results(submission.runs)
    leave(code)


def _send_rest(send: "Callable[[], Submission]") -> "tuple[list[RunDir], int] | None":
    """Send what there is room for now; None where the cluster refuses or does not say."""
    try:
        submission = send()
    except SubmissionError as error:
        complain(str(error), EXIT_USER_ERROR)
        return None
    return submission.sent, submission.rest


def verify_resume(
    experiment: Experiment,
    overrides: Overrides = None,
    ranks: Ranks = None,
    kills: Annotated[int, typer.Option(min=1, help="Interruptions: signals, and kill -9.")] = 4,
    steps: Annotated[int | None, typer.Option(min=4, help="Steps of each run; else at most 60.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the interruptions.")] = 0,
    as_json: Json = False,
    root: Root = None,
) -> None:
    """Train a trial twice, straight and with interruptions, and compare every bit of every rank."""
    from runner.tables import make_console
    from runner.verify import print_verdict, verify_resume

    verdict = verify_resume(
        experiment, overrides or [], choose_root(root), ranks=ranks, kills=kills, steps=steps, seed=seed
    )
    if as_json:
        print_json(verdict.as_json())
    else:
        print_verdict(verdict, make_console())
    leave(0 if verdict.equal else EXIT_FAILED)


def rehearse(
    experiment: Experiment,
    overrides: Overrides = None,
    ranks: Ranks = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Else about a minute of training.")] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="preempt, term, requeue, kill or node, in this order; else each once."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the steps at which it is interrupted.")] = None,
    grace: Annotated[int, typer.Option(min=1, help="Seconds from a warning to the end, GraceTime of your site.")] = 30,
    as_json: Json = False,
    root: Root = None,
) -> None:
    """Interrupt one trial, shortened, in every way a cluster would, on a real Slurm here; 1 unless nothing is lost."""
    from runner.rehearsal import passages_table
    from runner.rehearse import rehearse
    from runner.tables import make_console

    report = rehearse(
        experiment,
        overrides or [],
        choose_root(root),
        ranks=ranks,
        steps=steps,
        seed=seed,
        kinds=event or [],
        grace_seconds=grace,
    )
    if as_json:
        print_json(report.as_json())
    else:
        make_console().print(passages_table(report.passages))
        print("\n".join(report.verdict()))
    leave(0 if report.passed else EXIT_FAILED)


def doctor(on: MaybeProfile = None, root: Root = None) -> None:
    """Check this machine or cluster, one line a check."""
    from runner.doctor import examine

    failed = False
    for check in examine(choose_root(root), on):
        print(check, flush=True)
        failed |= check.verdict == "fail"
    leave(EXIT_FAILED if failed else 0)
