"""Word in a run folder of what W&B has of its trial, and the addresses of its pages; nothing is asked of anybody."""

import os
from pathlib import Path
from typing import Any

import psutil

from runner.files import read_json, write_json
from runner.masking import mask_text
from runner.rundir import RunDir

CLOUD = "https://api.wandb.ai"


class Note:
    """Word in the run folder of what W&B has of it, and where: {"to", "url", "digest", "sender"}."""

    def __init__(self, run: RunDir, to: str) -> None:
        self.path, self.to = note_path(run), to
        self.url: str | None = None

    def write(self, digest: str | None) -> None:
        """`digest` is of what is there; None while this process sends it."""
        self.path.parent.mkdir(exist_ok=True)
        me = psutil.Process()
        sender = {"host": os.uname().nodename, "pid": me.pid, "created": me.create_time()}
        write_json(self.path, {"to": self.to, "url": self.url, "digest": digest, "sender": sender})


def note_path(run: RunDir) -> Path:
    return run.path / "wandb" / "sent.json"


def read_note(run: RunDir) -> dict[str, Any]:
    """What was sent of a trial, empty when nothing was or the word of it cannot be read."""
    try:
        return read_json(note_path(run)) or {}
    except ValueError:
        return {}


def destination(run: RunDir, project: str | None, entity: str | None) -> str:
    """Where a trial is sent, for comparison with another time."""
    return mask_text(f"{base_url()} {entity or ''}/{project or run.experiment}")


def find_group_page(runs: list[RunDir]) -> str | None:
    """The address of the page with all runs of an experiment, as far as one of them has been online."""
    for run in runs:
        project_page, found, _ = (read_note(run).get("url") or "").rpartition("/runs/")
        if found:
            return f"{project_page}/groups/{run.experiment}"
    return None


def group_page(project: str, entity: str, experiment: str) -> str:
    """The address of the page with all runs of an experiment; nothing is asked of anybody."""
    url = mask_text(base_url()).rstrip("/")
    return f"{'https://wandb.ai' if url == CLOUD else url}/{entity}/{project}/groups/{experiment}"


def base_url() -> str:
    return os.environ.get("WANDB_BASE_URL") or CLOUD
