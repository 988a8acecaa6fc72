"""Make run folders: what a trial is, what its sweep set, and where it comes from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.config import Trial
from runner.faults import NO_FAULTS, Faults
from runner.files import in_parallel, replacing, sync_path, write_yaml
from runner.grouped_yaml import GroupTexts
from runner.plan import Item
from runner.preflight import resolved
from runner.provenance import write_origin
from runner.rundir import RunDir


def choose_rehearsal(trial: Trial, index: int) -> Trial:
    """Only the first `rehearse.trials` trials of a submission are interrupted on purpose."""
    if trial.rehearse is None or index < trial.rehearse.trials:
        return trial
    return trial.model_copy(update={"rehearse": None})


def prepare_all(
    items: Sequence[Item],
    trial_of: Mapping[RunDir, Trial],
    folder: Path,
    origin: tuple[dict[str, Any], str],
    texts: GroupTexts,
    faults: Faults = NO_FAULTS,
) -> None:
    """`prepare` for each, several at once; new ones share the files that tell where they come from."""
    rehearsed = {item.run: choose_rehearsal(trial_of[item.run], index) for index, item in enumerate(items)}
    first = next((item for item in items if not item.run.job_rows()), None)
    like = first.run if first is not None else None

    def work(item: Item) -> None:
        faults.at("submit.folder")
        trial = rehearsed[item.run]
        prepare(item.run, trial, item.overrides, origin, texts, faults, like if item is not first else None)

    if first is not None:
        work(first)
    in_parallel(work, [item for item in items if item is not first])
    sync_path(folder)


def prepare(
    run: RunDir,
    trial: Trial,
    overrides: dict[str, Any],
    origin: tuple[dict[str, Any], str],
    texts: GroupTexts | None = None,
    faults: Faults = NO_FAULTS,
    like: RunDir | None = None,
) -> None:
    """Make a run folder: what the trial is, what the sweep set, and where it comes from (`provenance.collect`).

    `texts` has the configs of a sweep's trials; `like` is a folder that was made with the same origin.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    if not run.job_rows():
        # What was submitted before goes on with the code it has.
        write_origin(run, origin, like)
    write_yaml(run.overrides, overrides, sync_folder=False)
    faults.at("submit.config")
    # Last: a folder counts as a trial once its config is there. It syncs the folder for all of them.
    with replacing(run.config) as file:
        file.write("".join((texts or GroupTexts()).of(resolved(trial)).values()).encode())
