"""What mirrors leave: W&B's offline files, read back without W&B; event files; processes."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import psutil
from wandb.proto.wandb_internal_pb2 import Record

from runner.rundir import RunDir


def read_wandb(path: Path) -> list[Record]:
    """The records of a .wandb file: protocol buffers in LevelDB's log format, after 7 bytes of header."""
    data, at, parts, records = path.read_bytes(), 7, b"", []
    while True:
        left = 32768 - at % 32768
        if left < 7:  # no room for the head of a frame: the rest of the block is empty
            at += left
            continue
        if at + 7 > len(data):
            return records
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += 7 + length
        if kind == 0 or at > len(data):  # torn by a kill
            return records
        parts += data[at - length : at]
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""


def read_piece(folder: Path) -> list[Record]:
    """The records of the one offline run in a folder of such runs, those of earlier attempts left aside."""
    (path,) = folder.glob("offline-run-*/*.wandb")
    return read_wandb(path)


def kinds(records: list[Record]) -> list[str]:
    return [str(record.WhichOneof("record_type")) for record in records]


def history(records: list[Record]) -> list[dict[str, Any]]:
    """The rows that were logged, with their steps."""
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({"step": items.pop("_step"), **{key: items[key] for key in items if key[0] != "_"}})
    return rows


def about(records: list[Record]) -> Any:
    """What the run is called, and where it belongs."""
    return next(record.run for record in records if record.WhichOneof("record_type") == "run")


def config(records: list[Record]) -> dict[str, Any]:
    return {item.key: json.loads(item.value_json) for item in about(records).config.update}


def summary(records: list[Record]) -> dict[str, Any]:
    """The final values, as records changed them."""
    values = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            values |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update}
    return values


def exit_code(records: list[Record]) -> int | None:
    codes = [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"]
    return codes[0] if codes else None


def read_scalars(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    """The curves of a trial as TensorBoard shows them: (step, value) by metric."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if key not in ("time", "attempt")} for row in rows]


def processes_of_mirrors() -> list[psutil.Process]:
    """The mirrors below this process, and what they started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = " ".join(process.cmdline())
            if ("wandb" in words or "runner.mirror" in words) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def services_of_wandb() -> list[psutil.Process]:
    found = []
    for process in processes_of_mirrors():
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            if "wandb-core" in process.cmdline()[0]:
                found.append(process)
    return found


def pieces_of(run: RunDir) -> list[Path]:
    """The offline runs of a trial that `wandb sync` would find."""
    return sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))
