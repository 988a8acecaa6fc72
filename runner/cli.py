"""The command line: each verb parses, calls one function and prints."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from runner import (
    cli_code,
    cli_data,
    cli_goodput,
    cli_new,
    cli_onebox,
    cli_plan,
    cli_report,
    cli_results,
    cli_search,
    cli_sync,
    completion,
)
from runner.cli_onebox import Yes, confirm
from runner.cli_options import EXPERIMENT, Json, Root, Trial, help_without_verb
from runner.cli_options import choose_root as _root
from runner.cli_options import existing_root as _existing
from runner.cli_options import print_json as _print_json
from runner.errors import ConfigError, RunnerError, SubmissionError, UserError
from runner.interruption import end_at_once_in_imports
from runner.masking import mask_text
from runner.paths import file_to_write

if TYPE_CHECKING:
    from runner.rundir import RunDir
    from runner.submit import Submission
    from runner.watch import SendRest

EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 1, 2, 130, 141

app = typer.Typer(
    help="Contrastive-learning experiments on Slurm that survive preemption and lose nothing.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_onebox.app, name="onebox")
app.add_typer(cli_data.app, name="data")

Experiment = Annotated[
    Path,
    typer.Argument(
        metavar="EXP", parser=EXPERIMENT, help="Experiment file.", autocompletion=completion.experiment_files
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides of the file.")]
Target = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP|TRIAL", help="Experiment, or start of a trial's id.", autocompletion=completion.targets
    ),
]
Selectors = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Only such trials; also !KEY=VALUE, KEY>1, KEY=a,b*.")
]
Profile = Annotated[
    str,
    typer.Option(
        "--on", metavar="PROFILE", help="Where: a file, or a name in slurm/.", autocompletion=completion.profiles
    ),
]
MaybeProfile = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="PROFILE", help="Where: a file, or a name in slurm/.", autocompletion=completion.profiles
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from runner.version import describe_version

        print(describe_version())
        _exit(0)


@app.callback()
def options(
    context: typer.Context,
    root: Root = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    help_without_verb(context)
    if root is not None:
        context.default_map = {verb: {"root": str(root)} for verb in context.command.commands}  # type: ignore[attr-defined]


@app.command()
def debug(
    experiment: Experiment,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Ranks on this machine.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")] = None,
    pdb: Annotated[bool, typer.Option("--pdb", help="Open the debugger where it fails.")] = False,
    root: Root = None,
) -> None:
    """Run one trial here, in the foreground, as a job would."""
    from runner.debug import debug

    _exit(debug(experiment, overrides or [], _root(root), ranks, steps, pdb))


@app.command()
def submit(
    experiment: Experiment,
    on: Profile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan and sbatch script; touch nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until all trials are final, then print results.")] = False,
    after: Annotated[
        list[str] | None, typer.Option(metavar="SWEEP|TRIAL", help="Run once this is done; may be given again.")
    ] = None,
    root: Root = None,
) -> None:
    """Expand an experiment, submit the trials that are missing."""
    from runner.submit import submit

    others = [run for name in after or [] for run in _find_target(name, _root(root))]
    send = partial(submit, experiment, overrides or [], on, _root(root), dry_run, sys.argv, after=others)
    submission = send()
    print(submission.table(), flush=True)
    for script in submission.scripts:
        print(f"\n{script}", end="")
    if dry_run or not wait:
        return
    try:
        code = _wait(submission.sent, partial(_send_rest, send) if submission.rest else None)
    except KeyboardInterrupt:
        words = f"interrupted; the trials go on, and `runner cancel {submission.experiment}` stops them"
        _exit(_complain(words, EXIT_INTERRUPTED))
    cli_results.print_results(submission.runs)
    _exit(code)


app.command(short_help="What `apply` would do: new, changed, gone, failed, done.")(cli_plan.plan)
app.command(short_help="Do what a plan says, and nothing else.")(cli_plan.apply)


@app.command(short_help="One row a trial: state, progress, what happened to it.")
def status(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="Experiment; else all of them.", autocompletion=completion.sweeps),
    ] = None,
    selectors: Selectors = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Only these: failed, running, ..., or blocked.")
    ] = None,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until all trials are final.")] = False,
    root: Root = None,
) -> None:
    """One row a trial: state, progress, what happened to it; with --watch, exits with 1 unless all are done."""
    from runner.explain import counted
    from runner.status import choose_states, read_statuses
    from runner.tables import make_console
    from runner.watch import status_table

    runs, count = _select(sweep, selectors, _existing(root))
    if watch and not as_json:
        if state:
            raise ConfigError("--state: not together with --watch, since states change")
        _exit(_wait(runs))
    rows = choose_states(read_statuses(runs), state or [])
    if as_json:
        _print_json([row.as_json() for row in rows])
    elif rows:
        console = make_console()
        console.print(status_table(rows, console.width))
    else:
        print(f"none of {counted(count, 'trial')}" if count else f"no trials under {_root(root)}")


@app.command(short_help="Output of a trial; why each trial of a sweep failed.")
def logs(
    target: Target,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial is final.")] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="Else 0, or the rank that failed first.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Else the last one.")] = None,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="In short, why each trial that failed did.")] = False,
    root: Root = None,
) -> None:
    """Output of a trial; with --failed, the first traceback of each failed trial of a sweep."""
    from runner.logs import find_log, follow_log, print_log

    if failed:
        _print_failures(_find_target(target, _existing(root)))
        return
    run = _find_trial(target, _existing(root))
    if follow:
        follow_log(run, rank, attempt, tail=tail)
    else:
        print_log(find_log(run, rank, attempt), tail=tail)


@app.command()
def show(trial: Trial, as_json: Json = False, root: Root = None) -> None:
    """Config and attempts of a trial, why each attempt ended."""
    from runner.show import print_trial, show_trial
    from runner.tables import make_console

    document = show_trial(_find_trial(trial, _existing(root)))
    if as_json:
        _print_json(document)
    else:
        print_trial(document, make_console())


@app.command()
def cancel(target: Target, yes: Yes = False, root: Root = None) -> None:
    """Stop a trial, or what is not final of a sweep."""
    from runner.cancel import cancel
    from runner.explain import counted
    from runner.status import count_states, read_statuses

    rows = read_statuses(_find_target(target, _existing(root)))
    active = [row for row in rows if not row.record.is_final]
    if not active:
        print("nothing to cancel: every trial is final")
    elif confirm(f"cancel {count_states(active)}?", yes):
        print(f"cancelled {len(cancel(row.run for row in active))} of {counted(len(rows), 'trial')}")


@app.command()
def retry(
    target: Target,
    on: MaybeProfile = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Train on so many ranks from now on.")] = None,
    is_elastic: Annotated[
        bool, typer.Option("--elastic", help="Take up checkpoints of another number of ranks: equal but for rounding.")
    ] = False,
    code: Annotated[
        Literal["own", "current"], typer.Option(help="Go on with the code it was submitted with, or with today's.")
    ] = "own",
    root: Root = None,
) -> None:
    """Submit again what failed, was cancelled or got lost."""
    from runner.cancel import retry
    from runner.explain import counted

    runs = _find_target(target, _existing(root))
    plan = retry(runs, on, ranks=ranks, is_elastic=is_elastic, code=code)
    for line in plan.refused:
        print(f"runner: {line}", file=sys.stderr)
    if not plan.runs:
        if plan.refused:
            _exit(EXIT_USER_ERROR)
        print("nothing to retry")
        return
    print(f"submitted {len(plan.runs)} of {counted(len(runs), 'trial')} again")


app.command(cls=cli_results.ResultsCommand, short_help="Metrics of all trials: grouped, filtered, compared.")(
    cli_results.results
)
app.command(short_help="A picture of sweeps: curves, a parameter, the time.")(cli_results.plot)
app.command(short_help="One page of a sweep that needs nothing else.")(cli_report.report)
app.command(short_help="Pictures of what a trial has learned.")(cli_report.embed)
app.command(short_help="What a search has come to.")(cli_search.search)


app.command(short_help="Where the time went, and what to do about it.")(cli_goodput.goodput)
app.command(short_help="How much of the time would be useful, on paper.")(cli_goodput.simulate)


@app.command()
def export(
    trial: Trial,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            parser=file_to_write("FILE", "weights.pt"),
            help="Weights of the encoder and method, for torch.load.",
        ),
    ],
    root: Root = None,
) -> None:
    """Write the weights of a trial into one file."""
    from runner.export import export

    for refused in export(_find_trial(trial, _existing(root)), file):
        print(f"runner: refused {refused}", file=sys.stderr)
    print(file)


app.command(short_help="Send W&B what it does not have of trials.")(cli_sync.sync)


@app.command("verify-resume", short_help="Train a trial straight and interrupted, and compare.")
def verify_resume(
    experiment: Experiment,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Ranks on this machine.")] = None,
    kills: Annotated[int, typer.Option(min=1, help="Interruptions: signals, and kill -9.")] = 4,
    steps: Annotated[int | None, typer.Option(min=4, help="Steps of each run; else at most 60.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the interruptions.")] = 0,
    as_json: Json = False,
    root: Root = None,
) -> None:
    """Train a trial twice, straight and with interruptions, and compare every bit of every rank."""
    from runner.tables import make_console
    from runner.verify import print_verdict, verify_resume

    verdict = verify_resume(experiment, overrides or [], _root(root), ranks=ranks, kills=kills, steps=steps, seed=seed)
    if as_json:
        _print_json(verdict.as_json())
    else:
        print_verdict(verdict, make_console())
    _exit(0 if verdict.equal else EXIT_FAILED)


@app.command(short_help="Interrupt one trial in every way a cluster would.")
def rehearse(
    experiment: Experiment,
    overrides: Overrides = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Ranks on this machine.")] = None,
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
        _root(root),
        ranks=ranks,
        steps=steps,
        seed=seed,
        kinds=event or [],
        grace_seconds=grace,
    )
    if as_json:
        _print_json(report.as_json())
    else:
        make_console().print(passages_table(report.passages))
        print("\n".join(report.verdict()))
    _exit(0 if report.passed else EXIT_FAILED)


@app.command()
def doctor(on: MaybeProfile = None, root: Root = None) -> None:
    """Check this machine or cluster, one line a check."""
    from runner.doctor import examine

    failed = False
    for check in examine(_root(root), on):
        print(check, flush=True)
        failed |= check.verdict == "fail"
    _exit(EXIT_FAILED if failed else 0)


app.command(short_help="How to train a trial again, or do so and compare.")(cli_code.reproduce)
app.command(short_help="What sets two trials apart.")(cli_code.diff)
app.command(short_help="The code that trials run, and what no trial needs.")(cli_code.code)
app.command(short_help="Write a plug-in or a profile that works as it is.")(cli_new.new)
app.command("list", short_help="What there is to choose from; options of a plug-in.")(cli_new.list_)
app.command(short_help="Write a profile of this cluster, or of this machine.")(cli_new.init)


@app.command()
def schema() -> None:
    """Print the JSON schema of experiment files, for editors."""
    from runner.json_schema import json_schema

    _print_json(json_schema())


def main() -> NoReturn:
    """Run a verb and exit: 0 ok, 1 a trial failed, 2 user error, 130 interrupted."""
    end_at_once_in_imports()
    _hold_streams()
    os.umask(0o077)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of a command line; errors that a user can mend are one line on stderr."""
    try:
        code = app(arguments, prog_name="runner", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        return _complain(error.format_message(), EXIT_USER_ERROR)
    except UserError as error:
        return _complain(str(error), EXIT_USER_ERROR)
    except RunnerError as error:
        return _complain(str(error), EXIT_FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        return _leave_stdout(EXIT_PIPE_CLOSED)
    except SystemExit as end:
        # What typer and rich make of a closed pipe.
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return _leave_stdout(EXIT_PIPE_CLOSED)
    except OSError as error:
        return _complain_of_disk(error)


def _complain(message: str, code: int) -> int:
    print(f"runner: {mask_text(' '.join(message.split()))}", file=sys.stderr)
    return code


def _complain_of_disk(error: OSError) -> int:
    """A path that was given cannot be read or written; an error that names none is of stdout."""
    if error.filename is not None:
        return _complain(f"{error.filename}: {error.strerror}", EXIT_USER_ERROR)
    return _leave_stdout(_complain(f"stdout: {error.strerror or error}", EXIT_FAILED))


def _leave_stdout(code: int) -> int:
    """Whoever read our output has enough of it; Python would complain once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def _hold_streams() -> None:
    """Where a standard stream is closed, /dev/null: else the next file to be opened would take its place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


def _find_trial(prefix: str, root: Path) -> "RunDir":
    from runner.rundir import find_trial

    return find_trial(root, prefix)


def _find_all(root: Path) -> "list[RunDir]":
    from runner.rundir import find_experiments, find_trials

    return [run for folder in find_experiments(root) for run in find_trials(folder)]


def _select(sweep: str | None, selectors: list[str] | None, root: Path) -> "tuple[list[RunDir], int]":
    """The trials of an experiment, or of all, that meet the selectors, and of how many; `sweep` may be a selector."""
    from runner.conditions import SIGNS, parse_condition
    from runner.selectors import select

    words = selectors or []
    if sweep is not None and set(sweep) & set(SIGNS):
        words, sweep = [sweep, *words], None
    conditions = [parse_condition(word) for word in words]
    runs = _find_all(root) if sweep is None else _find_target(sweep, root)
    return select(runs, conditions), len(runs)


def _find_target(name: str, root: Path) -> "list[RunDir]":
    """The trials of an experiment, else the one trial of that id."""
    from runner.rundir import find_target

    return find_target(root, name)


def _print_failures(runs: "list[RunDir]") -> None:
    from runner.status import count_states, read_statuses
    from runner.tracebacks import tell_failures

    rows = read_statuses(runs)
    for line in tell_failures(rows):
        print(line)
    print(count_states(rows))


def _send_rest(send: "Callable[[], Submission]") -> "tuple[list[RunDir], int] | None":
    """Send what there is room for now; None where the cluster refuses or does not say."""
    try:
        submission = send()
    except SubmissionError as error:
        _complain(str(error), EXIT_USER_ERROR)
        return None
    return submission.sent, submission.rest


def _wait(runs: "list[RunDir]", send_rest: "SendRest | None" = None) -> int:
    from runner.notify import tell_ended
    from runner.status import read_statuses
    from runner.watch import wait_until_final

    code = wait_until_final(runs, send_rest=send_rest)
    if code:
        tell_ended(read_statuses(runs))
    return code
