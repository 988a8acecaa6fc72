"""The mirror for TensorBoard: one event file in the run folder, written anew by each attempt, with every row once.

Needs `pip install -e '.[tensorboard]'`, and nothing of TensorFlow. `tensorboard --logdir runs/<experiment>` shows it.
"""

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import Trial
from runner.explain import OptionError
from runner.rundir import RunDir
from runner.schema import Options
from runner.sink import End, MetricRow

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

FOLDER = "tensorboard"


class Config(Options):
    """The mirror for TensorBoard; it has no options: `tensorboard: {}`."""


def check() -> None:
    """Raise OptionError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise OptionError("tracking.tensorboard", "is not installed; pip install -e '.[tensorboard]'")


class TensorboardSink:
    """An event file that this process writes."""

    next_step = 0

    def __init__(self, run: RunDir, trial: Trial) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = run.path / FOLDER
        folder.mkdir(exist_ok=True)
        earlier = list(folder.iterdir())
        name = f"events.out.tfevents.{time.time_ns() // 10**6}.{os.uname().nodename}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        empty(earlier)
        self._records = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"))
        # A TensorBoard that has read the file before this one forgets all of it.
        self._add(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
        self._add(describe_trial(trial))

    def write(self, row: MetricRow) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.metrics.items()]
        self._add(Event(wall_time=row.time, step=row.step, summary=Summary(value=values)))

    def _add(self, event: "Event") -> None:
        event.wall_time = event.wall_time or time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self, end: End) -> None:
        self._add(describe_end(end))
        self._file.close()


def empty(files: list[Path]) -> None:
    """Take the rows from the event files of earlier attempts, which the next one repeats.

    A TensorBoard that is open goes from file to file in the order of their names, but not on from one that is gone: so
    a file goes only when another has come after it.
    """
    for path in files:
        if path.stat().st_size:
            os.truncate(path, 0)
        else:
            path.unlink()


def open_sink(run: RunDir, trial: Trial, config: Config) -> TensorboardSink:
    return TensorboardSink(run, trial)


def describe_trial(trial: Trial) -> "Event":
    """The settings of a trial, for TensorBoard's HPARAMS page."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    info = SessionStartInfo(start_time_secs=time.time())
    for key, value in flatten(trial.model_dump(mode="json")):
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            info.hparams[key].number_value = value
        else:
            info.hparams[key].string_value = str(value)
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG

    return _of_plugin(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def describe_end(end: End) -> "Event":
    """How a trial stands, for the same page."""
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    statuses = {"done": api_pb2.STATUS_SUCCESS, "interrupted": api_pb2.STATUS_RUNNING}
    info = SessionEndInfo(status=statuses.get(end, api_pb2.STATUS_FAILURE), end_time_secs=time.time())
    return _of_plugin(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def _of_plugin(tag: str, content: Any) -> "Event":
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, create_summary_metadata

    content.version = PLUGIN_DATA_VERSION
    value = Summary.Value(tag=tag, metadata=create_summary_metadata(content))
    return Event(summary=Summary(value=[value]))


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value in nested ones, with its dotted key; a list is one value."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flatten(item, f"{key}.{name}" if key else str(name))
    elif value is not None:
        yield key, value
