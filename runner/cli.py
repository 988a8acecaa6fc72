"""The command line: the verbs of all its modules, each of which parses, calls one function and prints."""

import os
import sys
from typing import Annotated, NoReturn

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
    cli_run,
    cli_search,
    cli_sync,
    cli_trials,
)
from runner.cli_options import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Root, complain, help_without_verb
from runner.errors import RunnerError, UserError
from runner.interruption import end_at_once_in_imports

EXIT_PIPE_CLOSED = 141

app = typer.Typer(
    help="Contrastive-learning experiments on Slurm that survive preemption and lose nothing.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_onebox.app, name="onebox")
app.add_typer(cli_data.app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        from runner.version import describe_version

        print(describe_version())
        raise typer.Exit(0)


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


app.command()(cli_run.debug)
app.command()(cli_run.submit)
app.command(short_help="What `apply` would do: new, changed, gone, failed, done.")(cli_plan.plan)
app.command(short_help="Do what a plan says, and nothing else.")(cli_plan.apply)
app.command(short_help="One row a trial: state, progress, what happened to it.")(cli_trials.status)
app.command(short_help="Output of a trial; why each trial of a sweep failed.")(cli_trials.logs)
app.command()(cli_trials.show)
app.command()(cli_trials.cancel)
app.command()(cli_trials.retry)
app.command(cls=cli_results.ResultsCommand, short_help="Metrics of all trials: grouped, filtered, compared.")(
    cli_results.results
)
app.command(short_help="A picture of sweeps: curves, a parameter, the time.")(cli_results.plot)
app.command(short_help="One page of a sweep that needs nothing else.")(cli_report.report)
app.command(short_help="Pictures of what a trial has learned.")(cli_report.embed)
app.command(short_help="What a search has come to.")(cli_search.search)
app.command(short_help="Where the time went, and what to do about it.")(cli_goodput.goodput)
app.command(short_help="How much of the time would be useful, on paper.")(cli_goodput.simulate)
app.command()(cli_trials.export)
app.command(short_help="Send W&B what it does not have of trials.")(cli_sync.sync)
app.command("verify-resume", short_help="Train a trial straight and interrupted, and compare.")(cli_run.verify_resume)
app.command(short_help="Interrupt one trial in every way a cluster would.")(cli_run.rehearse)
app.command()(cli_run.doctor)
app.command(short_help="How to train a trial again, or do so and compare.")(cli_code.reproduce)
app.command(short_help="What sets two trials apart.")(cli_code.diff)
app.command(short_help="The code that trials run, and what no trial needs.")(cli_code.code)
app.command(short_help="Write a plug-in or a profile that works as it is.")(cli_new.new)
app.command("list", short_help="What there is to choose from; options of a plug-in.")(cli_new.list_)
app.command(short_help="Write a profile of this cluster, or of this machine.")(cli_new.init)
app.command()(cli_new.schema)


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
        return complain(error.format_message(), EXIT_USER_ERROR)
    except UserError as error:
        return complain(str(error), EXIT_USER_ERROR)
    except RunnerError as error:
        return complain(str(error), EXIT_FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        return _leave_stdout(EXIT_PIPE_CLOSED)
    except SystemExit as end:
        # What typer and rich make of a closed pipe.
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return _leave_stdout(EXIT_PIPE_CLOSED)
    except OSError as error:
        return _complain_of_disk(error)


def _complain_of_disk(error: OSError) -> int:
    """A path that was given cannot be read or written; an error that names none is of stdout."""
    if error.filename is not None:
        return complain(f"{error.filename}: {error.strerror}", EXIT_USER_ERROR)
    return _leave_stdout(complain(f"stdout: {error.strerror or error}", EXIT_FAILED))


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
