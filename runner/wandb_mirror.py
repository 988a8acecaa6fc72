"""The mirror of an attempt's metrics at Weights & Biases: a process of its own that follows metrics.jsonl.

Inside the trainer wandb would share its random generators and its exit: a service that hangs or a server that does
not answer would hold the job. From here it can do neither, and it may be killed and started again at any time, since
metrics.jsonl has every row. It ends when its stdin does, and so when the trainer is killed, too.
"""

import json
import netrc
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from runner.experiment import load_trial
from runner.masking import is_secret_name, mask_text
from runner.rundir import RunDir

TRIES = 3
POLL_SECONDS = 1.0
TRY_AGAIN_SECONDS = 5.0
ORPHAN_SECONDS = 8
"""How long a mirror may go on after its trainer ended."""


def mirror(run: RunDir, attempt: int) -> None:
    """Write an attempt's rows into the W&B run of its trial, one run for the trial's whole life."""
    # wandb measures the process of this number, and reaches its service through the other; ours may be gone.
    os.environ.setdefault("WANDB_X_STATS_PID", str(os.getppid()))
    os.environ.pop("WANDB_SERVICE", None)
    # Its metadata have every variable of Slurm's, a token for Slurm's REST interface among them.
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        if is_secret_name(name) or mask_text(os.environ[name]) != os.environ[name]:
            del os.environ[name]
    import wandb

    trial = load_trial(run.config)
    config = trial.tracking.wandb
    assert config is not None
    to = wandb.init(
        id=f"{run.experiment}-{run.trial}",
        resume="allow",
        mode=choose_mode(config.mode),
        dir=str(run.path),
        project=config.project or run.experiment,
        entity=config.entity,
        group=run.experiment,
        name=run.trial,
        tags=list(config.tags),
        config=trial.model_dump(mode="json"),
        # No code, no git remotes: their URLs hold tokens.
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
    )
    for step, metrics in follow(run.metrics, attempt):
        to.log(metrics, step=step)
    to.finish()


def follow(path: Path, attempt: int) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, metrics) of the rows of an attempt as they are written, until stdin ends."""
    offset, ended = 0, False
    while not ended:
        ended = wait_for_end(POLL_SECONDS)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                lines = file.read()
        except FileNotFoundError:
            continue
        lines = lines[: lines.rfind(b"\n") + 1]
        offset += len(lines)
        for line in lines.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # torn by a kill of an earlier attempt
                continue
            if row.pop("attempt") == attempt:
                yield row.pop("step"), {name: value for name, value in row.items() if name != "time"}


def wait_for_end(seconds: float) -> bool:
    """Whether the trainer ended, or closed our stdin, within so many seconds."""
    ended = bool(select.select([sys.stdin], [], [], seconds)[0])
    if ended:
        signal.alarm(ORPHAN_SECONDS)
    return ended


def choose_mode(mode: Literal["auto", "online", "offline"]) -> Literal["online", "offline"]:
    """`auto` is online for somebody who is logged in and offline otherwise."""
    if mode != "auto":
        return mode
    return "online" if is_logged_in() else "offline"


def is_logged_in() -> bool:
    """Whether W&B would find credentials: in the environment, or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def main(folder: str, attempt: str, tries: str = str(TRIES)) -> None:
    try:
        mirror(RunDir(Path(folder)), int(attempt))
    except Exception as error:  # telemetry never stops training, whatever it raises
        left = int(tries) - 1
        what = "tries again" if left else "stopped, metrics.jsonl goes on"
        print(f"runner: W&B mirror {what}: {type(error).__name__}: {mask_text(str(error))}", flush=True)
        if not left:
            os._exit(1)  # not through wandb's own hooks, which wait for a service that may be dead
        # Slurm's TERM ends wandb's service, and with it what it had not written: again, from the first row.
        wait_for_end(TRY_AGAIN_SECONDS)
        os.execv(sys.executable, [sys.executable, "-m", "runner.wandb_mirror", folder, attempt, str(left)])


if __name__ == "__main__":
    main(*sys.argv[1:])
