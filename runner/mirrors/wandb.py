"""The mirror at Weights & Biases: one run for a trial's whole life, online, or offline as one whole file."""

import netrc
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from runner.config import Trial
from runner.files import read_json
from runner.masking import is_secret_name, mask_text
from runner.provenance import DIFF_FILE, NONCE
from runner.rundir import RunDir
from runner.schema import Options
from runner.sink import End, MetricRow, digest_of, read_metrics
from runner.wandb_note import Note, base_url, destination

EXIT_CODES: Mapping[End, int] = {"done": 0, "failed": 1, "cancelled": 255, "interrupted": 1}
"""What makes W&B call a run finished, failed, killed; an interrupted one is marked as preempting first."""

FINAL: tuple[End, ...] = ("done", "failed", "cancelled")
"""A trial that has ended so does not go on by itself."""


class Config(Options):
    """The mirror of the metrics at Weights & Biases."""

    mode: Literal["auto", "online", "offline"] = "auto"
    """auto: online when a login is found, else offline."""

    project: str | None = None
    """None: the name of the experiment."""

    entity: str | None = None
    """User or team; None: the default of the login."""

    tags: tuple[str, ...] = ()
    """Words by which runs are found there."""

    job_type: str = "train"
    """What W&B tells runs of one group apart by."""

    notes: str | None = None
    """None: the command that submitted the trial."""


class WandbSink:
    """A run that wandb has begun; `note` is where word is left of what was sent, None when nothing is."""

    def __init__(self, to: Any, run: RunDir, note: Note | None) -> None:
        self.to, self.run, self.note = to, run, note
        self.next_step: int = to.starting_step

    def write(self, row: MetricRow) -> None:
        self.to.log({**row.metrics, "_timestamp": row.time}, step=row.step)
        self.next_step = row.step + 1

    def close(self, end: End) -> None:
        self.to.summary.update(summarize(self.run, end))
        # Offline runs are sent from other machines, where the file of an artifact would not be found.
        if end in FINAL and self.note is not None:
            log_diff(self.to, self.run)
        if end == "interrupted":
            self.to.mark_preempting()
        self.to.finish(exit_code=EXIT_CODES[end])
        if self.note is not None:
            rows = [row for row in read_metrics(self.run.metrics) if row.step < self.next_step]
            self.note.write(digest_of(self.run, rows, end))


def open_sink(run: RunDir, trial: Trial, config: Config) -> WandbSink:
    """Begin or go on with the W&B run of a trial, from the process that mirrors an attempt."""
    # wandb measures the process of this number, and reaches its service through the other; ours may be gone.
    os.environ.setdefault("WANDB_X_STATS_PID", str(os.getppid()))
    mode = choose_mode(config.mode)
    if mode == "offline":
        set_aside(run.path / "wandb")
        return WandbSink(begin(run, trial, config, mode, run.path), run, None)
    note = Note(run, destination(run, config.project, config.entity))
    note.write(None)
    to = begin(run, trial, config, mode, run.path)
    note.url = mask_text(to.url)
    note.write(None)
    return WandbSink(to, run, note)


def begin(
    run: RunDir, trial: Trial, config: Config, mode: Literal["online", "offline"], folder: Path, **settings: Any
) -> Any:
    """wandb.init with all that a run is known by, and the files that say what code it was; rows come later."""
    os.environ.pop("WANDB_SERVICE", None)
    os.environ["WANDB_SILENT"] = "true"
    # Its metadata have every variable of Slurm's, a token for Slurm's REST interface among them.
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        if is_secret_name(name) or mask_text(os.environ[name]) != os.environ[name]:
            del os.environ[name]
    import wandb

    # No code, no git remotes: their URLs hold tokens. Not every version of wandb has every setting.
    settings = {"silent": True, "console": "off", "disable_git": True, "disable_code": True, **settings}
    provenance = read_json(run.provenance) or {}
    to = wandb.init(
        id=run_id(run),
        resume="allow",
        mode=mode,
        dir=str(folder),
        project=config.project or run.experiment,
        entity=config.entity,
        group=run.experiment,
        job_type=config.job_type,
        name=run.trial,
        tags=list(config.tags),
        notes=config.notes if config.notes is not None else provenance.get("command"),
        config=trial.model_dump(mode="json") | {"code": describe_code(provenance)},
        settings=wandb.Settings(**{key: settings[key] for key in settings if key in wandb.Settings.model_fields}),
    )
    for path in (run.provenance, run.path / DIFF_FILE):
        if path.exists():
            copy = shutil.copyfile(path, Path(to.dir) / path.name)
            to.save(str(copy), base_path=to.dir, policy="now")
    return to


def log_diff(to: Any, run: RunDir) -> None:
    """Log what was changed since the commit as an artifact: equal in all trials of a submission, W&B keeps it once.

    It comes after all rows, which no failure of it may cost.
    """
    diff = run.path / DIFF_FILE
    if not diff.exists():
        return
    import wandb

    # Else it looks for a place in the home folder, which a job need not be able to write to.
    os.environ.setdefault("WANDB_DATA_DIR", str(run.path / "wandb"))
    try:
        artifact = wandb.Artifact(f"{run.experiment}-diff", type="code", description="Changes since the commit.")
        artifact.add_file(str(diff), DIFF_FILE, policy="immutable")
        to.log_artifact(artifact)
    except Exception as error:
        print(f"runner: W&B did not take {DIFF_FILE} as an artifact: {mask_text(str(error))}", flush=True)


def run_id(run: RunDir) -> str:
    """The id of a trial's run: the same for all attempts, wherever they run, and another in another run folder.

    W&B takes no row below the last that it has under an id, so a trial trained anew must not go on with the old one.
    """
    nonce = (read_json(run.provenance) or {}).get(NONCE)
    return "-".join(filter(None, [run.experiment, run.trial, nonce]))


def describe_code(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Commit, whether it was changed since, and the hash of the kept copy, as far as they are known."""
    git, kept = provenance.get("git") or {}, provenance.get("snapshot") or {}
    return {"sha": git.get("sha"), "dirty": git.get("dirty"), "snapshot": kept.get("code")}


def summarize(run: RunDir, end: End) -> dict[str, Any]:
    """The final values of a trial that is done; of another W&B keeps the last values itself."""
    result = read_json(run.result) if end == "done" else None
    if result is None:
        return {}
    kept = ("step", "attempts", "fingerprint", "best", "seconds")
    return {**result["metrics"], "result": {key: result[key] for key in kept if key in result}}


def set_aside(folder: Path) -> None:
    """Move what earlier attempts left offline out of the way of `wandb sync`: the next piece repeats their rows."""
    for piece in sorted(folder.glob("offline-run-*")):
        place = folder / "earlier" / piece.name
        place.parent.mkdir(exist_ok=True)
        number = 1
        while place.exists():
            number += 1
            place = place.with_name(f"{piece.name}.{number}")
        piece.rename(place)


def choose_mode(mode: Literal["auto", "online", "offline"]) -> Literal["online", "offline"]:
    """`auto` is online for somebody who is logged in and offline otherwise."""
    if mode != "auto":
        return mode
    return "online" if is_logged_in() else "offline"


def is_logged_in() -> bool:
    """Whether W&B would find credentials: in the environment, or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(base_url()).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
