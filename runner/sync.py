"""Send W&B what it does not have of trials: one run a trial, every step once, in order.

The truth is metrics.jsonl, with config.yaml and result.json: the pieces that offline attempts left are not looked at,
and a trial that never had W&B on can be sent, too. What is there already the service says itself, so a sync that died,
or an attempt that was online, is gone on with.
"""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from runner.attempt import Attempt, newest_token
from runner.errors import ConfigError, RunnerError
from runner.experiment import load_trial
from runner.explain import counted
from runner.files import read_json, write_json
from runner.heartbeat import read_beats
from runner.lock import locked
from runner.masking import mask_text
from runner.mirrors import wandb as mirror
from runner.mirrors.wandb import Config, WandbSink
from runner.named import resolve_mirrors
from runner.processes import kill
from runner.rundir import RunDir
from runner.sink import End, MetricRow, digest_of, how_it_stands, read_metrics
from runner.wandb_note import Note, base_url, destination, find_group_page, read_note

ALIVE_SECONDS = 120
"""A mirror on another machine lives if its trainer gave a sign of life within so many seconds."""

INIT_SECONDS, FINISH_SECONDS = 60, 600
QUIET: dict[str, Any] = {
    # What it measures would be this machine, not the one that trained.
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "init_timeout": INIT_SECONDS,
    "finish_timeout": FINISH_SECONDS,
    "finish_timeout_raises": True,
}


@dataclass(frozen=True)
class Standing:
    """What there is to send of a trial, and what is known to be there."""

    rows: tuple[MetricRow, ...]
    end: End
    digest: str
    sent: str | None
    """The digest of what was sent to the same place; None: nothing, or not to its end."""

    has_sender: bool = False
    """The mirror of an attempt that runs sends it, or another sync."""


def decide(standing: Standing) -> str | None:
    """Why nothing is to be sent, None when something is."""
    if standing.has_sender:
        return "another process sends it"
    if not standing.rows and standing.end != "done":
        return "has no rows yet"
    return "nothing new" if standing.sent == standing.digest else None


@dataclass(frozen=True)
class Destination:
    """Where trials go: the W&B service, or a folder of offline runs for a machine that can reach it."""

    folder: Path | None = None
    project: str | None = None
    entity: str | None = None

    def config(self, run: RunDir) -> Config:
        """The trial's own options, but for the project and entity of the command line."""
        tracking = load_trial(run.config).tracking
        own = resolve_mirrors(tracking.model_copy(update={"mirrors": {"wandb": tracking.mirrors.get("wandb", {})}}))
        given = {"project": self.project, "entity": self.entity}
        config: Config = own["wandb"].model_copy(update={key: given[key] for key in given if given[key] is not None})  # type: ignore[assignment]
        return config


def sync(
    runs: list[RunDir], to: Destination, dry_run: bool = False, say: Callable[[str], None] = lambda line: print(line)
) -> int:
    """Send what is not there yet of each trial, and say so; how many were sent, or would be.

    Raises: ConfigError without a login; RunnerError when W&B does not take a trial: what it took stays; and, once all
    others are sent, for trials that cannot be read.
    """
    if to.folder is None and not dry_run and not mirror.is_logged_in():
        place = mask_text(base_url())
        raise ConfigError(f"sync: no login for {place}; run `wandb login`, or write the runs with --to FOLDER")
    count, damaged = 0, 0
    for run in runs:
        try:
            standing = read_standing(run, to)
            if (words := decide(standing)) is None:
                size = counted(len(standing.rows), "row")
                is_sent, words = (True, f"would send up to {size}, {standing.end}") if dry_run else send(run, to)
                count += is_sent
        except ConfigError as error:  # what cannot be read of one trial keeps no other from being sent
            words, damaged = str(error), damaged + 1
        say(f"{run.experiment}/{run.trial}: {words}")
    page = find_group_page(runs) if to.folder is None else None
    say(f"{counted(count, 'trial')} of {len(runs)} {'to send' if dry_run else 'sent'}" + (f"; {page}" if page else ""))
    if damaged:
        raise RunnerError(f"sync: {counted(damaged, 'trial')} cannot be read, as said above")
    return count


def read_standing(run: RunDir, to: Destination) -> Standing:
    """What the run folder and the word of earlier syncs say. Raises: ConfigError for a config that cannot be read."""
    end = how_it_stands(run)
    rows = read_metrics(run.metrics)
    digest = digest_of(run, rows, end)
    config = to.config(run)
    if to.folder is not None:
        piece = find_piece(run, to.folder)
        return Standing(tuple(rows), end, digest, (read_json(piece / "sent.json") or {})["digest"] if piece else None)
    note = read_note(run)
    same = note.get("to") == destination(run, config.project, config.entity)
    return Standing(tuple(rows), end, digest, note.get("digest") if same else None, has_sender(run, note))


def has_sender(run: RunDir, note: dict[str, Any]) -> bool:
    """Whether the process that began to send a trial still does."""
    sender = note.get("sender") or {}
    if not sender or note.get("digest") is not None or sender["pid"] == os.getpid():
        return False
    if sender["host"] == os.uname().nodename:
        with suppress(psutil.Error):
            return psutil.Process(sender["pid"]).create_time() == float(sender["created"])
        return False
    (beat,) = read_beats(Attempt(run, newest_token(run)), 1)
    return time.time() - beat.time < ALIVE_SECONDS


def send(run: RunDir, to: Destination) -> tuple[bool, str]:
    """Send one trial; whether it was sent, and how much, or why not after all: another sync may have been quicker."""
    with locked(to.folder or run.path / "wandb"):
        standing = read_standing(run, to)
        if (why_not := decide(standing)) is not None:
            return False, why_not
        try:
            if to.folder is None:
                sent = upload(run, standing, to.config(run))
            else:
                sent = write_piece(run, standing, to.config(run), to.folder)
        except BaseException as error:
            abandon_service()
            if not isinstance(error, Exception):
                raise
            words = mask_text(f"{type(error).__name__}: {error}")
            raise RunnerError(f"{run.experiment}/{run.trial}: W&B did not take it: {words}") from None
    return True, f"sent {sent} of {counted(len(standing.rows), 'row')}, {standing.end}"


def upload(run: RunDir, standing: Standing, config: Config) -> int:
    """Send the rows that the service does not have, and how the trial stands; how many rows those were."""
    note = Note(run, destination(run, config.project, config.entity))
    note.write(None)
    to = mirror.begin(run, load_trial(run.config), config, "online", run.path, **QUIET)
    note.url = mask_text(to.url)
    return _write_all(WandbSink(to, run, note), standing)


def write_piece(run: RunDir, standing: Standing, config: Config, folder: Path) -> int:
    """Write a trial as one offline run into a folder, in the place of what was there of it; how many rows it has."""
    staging = folder / ".staging"
    shutil.rmtree(staging, ignore_errors=True)  # of a sync that died; the lock is ours
    staging.mkdir()
    to = mirror.begin(run, load_trial(run.config), config, "offline", staging, **QUIET)
    written = _write_all(WandbSink(to, run, None), standing)
    (piece,) = (staging / "wandb").glob("offline-run-*")
    write_json(piece / "sent.json", {"digest": standing.digest})
    if (before := find_piece(run, folder)) is not None:
        shutil.rmtree(before)
    piece.rename(folder / piece.name)
    shutil.rmtree(staging)
    return written


def _write_all(sink: WandbSink, standing: Standing) -> int:
    missing = [row for row in standing.rows if row.step >= sink.next_step]
    for row in missing:
        sink.write(row)
    sink.close(standing.end)
    return len(missing)


def find_piece(run: RunDir, folder: Path) -> Path | None:
    """The offline run of a trial in a folder, if it is whole."""
    name = f"offline-run-????????_??????-{mirror.run_id(run)}"
    return next((piece for piece in sorted(folder.glob(name)) if (piece / "sent.json").exists()), None)


def abandon_service() -> None:
    """End wandb's service: it would hold this process at its exit until a server that is away answers."""
    import wandb

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "wandb-core" in child.name():
                kill([child])
    # It would leave with the exit code of the service, and what went wrong would not be told.
    with suppress(Exception, SystemExit):
        wandb.teardown(exit_code=1)
