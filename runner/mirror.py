"""One mirror of a trial's metrics, such as W&B, for an attempt: a process of its own that follows metrics.jsonl.

Inside the trainer wandb would share its random generators and its exit: a service that hangs or a server that does
not answer would hold the job. From here it can do neither, and it may be killed and started again at any time, since
metrics.jsonl has every row, those of earlier attempts included. It ends when its stdin does, and so when the trainer
is killed, too.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from runner import named
from runner.experiment import load_trial
from runner.masking import mask_text
from runner.rundir import RunDir
from runner.sink import MetricRow, Sink, how_it_stands, parse_row

TRIES = 3
POLL_SECONDS = 1.0
TRY_AGAIN_SECONDS = 5.0
ORPHAN_SECONDS = 8
"""How long a mirror may go on after its trainer ended."""


def mirror(name: str, run: RunDir, attempt: int, ended: threading.Event) -> None:
    """Give a mirror what it does not have of the rows up to the end of an attempt."""
    sink = open_mirror(name, run)
    for row in follow(run.metrics, attempt, ended):
        if row.step >= sink.next_step:
            sink.write(row)
    sink.close(how_it_stands(run, attempt))


def open_mirror(name: str, run: RunDir) -> Sink:
    """The mirror of that name, as the trial's config has it."""
    trial = load_trial(run.config)
    config = named.resolve_mirrors(trial.tracking)[name]
    sink: Sink = named.load("mirrors", name).open_sink(run, trial, config)
    return sink


def follow(path: Path, attempt: int, ended: threading.Event) -> Iterator[MetricRow]:
    """The rows up to those of an attempt as they are written, until `ended`.

    The file is opened once: a newer attempt puts another one in its place, which its own mirror follows.
    """
    rest, is_over = b"", False
    with ExitStack() as stack:
        file: BinaryIO | None = None
        while not is_over:
            is_over = ended.wait(POLL_SECONDS)
            if file is None and path.exists():
                file = stack.enter_context(path.open("rb"))
            lines, cut, rest = (rest + file.read() if file else b"").rpartition(b"\n")
            for line in lines.splitlines() if cut else []:
                row = _read_line(line, attempt)
                if row is not None:
                    yield row


def _read_line(line: bytes, attempt: int) -> MetricRow | None:
    try:
        document = json.loads(line)
    except ValueError:  # torn by a kill of an earlier attempt
        return None
    return parse_row(document) if isinstance(document, dict) and document.get("attempt", 0) <= attempt else None


def watch_stdin(ended: threading.Event) -> None:
    """Set `ended` when the trainer ended or closed our stdin; whatever hangs by then does not hang for long."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            continue
        signal.alarm(ORPHAN_SECONDS)
        ended.set()

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def main(name: str, folder: str, attempt: str, tries: str = str(TRIES)) -> None:
    ended = threading.Event()
    watch_stdin(ended)
    try:
        mirror(name, RunDir(Path(folder)), int(attempt), ended)
    except Exception as error:  # telemetry never stops training, whatever it raises
        left = int(tries) - 1
        what = "tries again" if left else "stopped, metrics.jsonl goes on"
        print(f"runner: mirror {name} {what}: {type(error).__name__}: {mask_text(str(error))}", flush=True)
        if not left:
            os._exit(1)  # not through wandb's own hooks, which wait for a service that may be dead
        # Slurm's TERM ends wandb's service, and with it what it had not written.
        ended.wait(TRY_AGAIN_SECONDS)
        os.execv(sys.executable, [sys.executable, "-m", "runner.mirror", name, folder, attempt, str(left)])


if __name__ == "__main__":
    main(*sys.argv[1:])
