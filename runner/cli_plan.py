"""The verbs `runner plan` and `runner apply`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli_onebox import Yes, confirm
from runner.cli_options import Experiment, Json, MaybeProfile, Overrides, Profile, Root, choose_root, print_json
from runner.errors import ConfigError
from runner.paths import file_to_read, file_to_write

if TYPE_CHECKING:
    from runner.plan import Plan
    from runner.request import Request

All = Annotated[bool, typer.Option("--all", help="One line for every trial, however many there are.")]


def plan(
    experiment: Experiment,
    on: Profile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=file_to_write("--out", "plan.json"), help="Keep the plan, for `runner apply FILE`."
        ),
    ] = None,
    as_json: Json = False,
    every: All = False,
    root: Root = None,
) -> None:
    """Compare an experiment with disk and queue: + new, ~ changed, - gone, ! failed, > alive, = done."""
    from runner.plan_file import PlanFile, write_plan_file
    from runner.profile import find_profile

    place = choose_root(root)
    request = _read(experiment, overrides or [], on, place)
    found = request.plan()
    if out is not None:
        profile = str(find_profile(on).absolute())
        made = PlanFile(experiment.absolute(), overrides or [], profile, place.absolute(), found, Path.cwd())
        write_plan_file(out, made)
    if as_json:
        print_json(found.as_json())
    else:
        print("\n".join(found.lines(every)))


def apply(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|EXP",
            parser=file_to_read("apply", "give a file that `runner plan --out` wrote, or an experiment"),
            help="What `plan --out` wrote, or an experiment.",
        ),
    ],
    overrides: Overrides = None,
    on: MaybeProfile = None,
    yes: Yes = False,
    prune: Annotated[bool, typer.Option("--prune", help="Cancel jobs of trials that are gone from the file.")] = False,
    every: All = False,
    root: Root = None,
) -> None:
    """Do what a plan says, and nothing else: refuses when it would not be the same any more."""
    from runner.apply import apply
    from runner.plan_file import is_plan_file, read_plan_file
    from runner.request import holding

    if is_plan_file(target):
        if on is not None or overrides or root is not None:
            raise ConfigError(f"{target}: is a plan, which has its profile, overrides and root; leave them out")
        file = read_plan_file(target)
        if not file.folder.is_dir():
            raise ConfigError(f"{target}: was made in {file.folder}, which is not there; plan again")
        os.chdir(file.folder)
        request, shown = _read(file.experiment, file.overrides, file.profile, file.root), file.plan
    else:
        if not target.exists():
            raise ConfigError(f"{target}: does not exist; give a file that `runner plan --out` wrote, or an experiment")
        if on is None:
            raise ConfigError(f"{target}: say where with --on PROFILE, or give a file that `runner plan --out` wrote")
        request = _read(target, overrides or [], on, choose_root(root))
        with holding(request):
            shown = request.settled_plan()
        print("\n".join(shown.lines(every)), flush=True)
        if not _agree(shown, yes):
            return
    done = apply(request, shown, prune or _consent(shown, yes), sys.argv)
    if done.spared:
        print(f"runner: {done.spared} that are gone from the file go on; --prune cancels them", file=sys.stderr)
    print(f"{request.experiment}: {done}")


def _read(experiment: Path, overrides: list[str], profile: str, root: Path) -> "Request":
    from runner.request import read_request

    request = read_request(experiment, overrides, profile, root)
    for line in request.advice:
        print(f"runner: {line}", file=sys.stderr)
    return request


def _agree(shown: "Plan", yes: bool) -> bool:
    """Ask about what a plan does beside cancelling, which has a question of its own."""
    todo = [f"{action} {count}" for action in ("submit", "update") if (count := len(shown.of(action)))]
    return not todo or confirm(f"{' and '.join(todo)}?", yes)


def _consent(shown: "Plan", yes: bool) -> bool:
    """Ask whether what is gone from the file is cancelled; without anybody to ask it is left alone."""
    gone = shown.of("cancel")
    if not gone or yes or not sys.stdin.isatty():
        return False
    running = sum(item.state == "running" for item in gone)
    return typer.confirm(f"cancel {len(gone)} that are gone from the file ({running} running)?")
