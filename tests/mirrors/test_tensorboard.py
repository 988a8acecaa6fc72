"""TensorBoard shows one curve over all attempts, read back with its own reader."""

import importlib.util

import pytest

from runner.attempt import claim
from runner.config import TrackingConfig
from runner.errors import ConfigError
from runner.experiment import load_trial
from runner.files import write_json
from runner.mirrors import tensorboard
from runner.mirrors.tensorboard import TensorboardSink
from runner.named import check_mirrors
from runner.sink import MetricRow
from runner.tracking import Tracker
from tests.experiments import prepare_run
from tests.mirror_files import read_scalars
from tests.mirrors.test_wandb import mirror_attempt, write_rows


@pytest.mark.slow
def test_a_requeued_trial_is_one_curve(tmp_path):
    run = prepare_run(tmp_path, tracking={"tensorboard": {}})
    write_rows(run, range(5, 25, 5), claim(run).number)
    mirror_attempt("tensorboard", run, 1)
    assert [step for step, _ in read_scalars(run)["train/loss"]] == [5, 10, 15, 20]
    Tracker(claim(run), TrackingConfig()).begin(10)
    write_rows(run, range(15, 35, 5), 2)
    write_json(run.result, {"metrics": {}})
    mirror_attempt("tensorboard", run, 2)
    expected = [(step, pytest.approx(1 / step)) for step in range(5, 35, 5)]
    assert read_scalars(run)["train/loss"] == expected
    mirror_attempt("tensorboard", run, 2)
    assert read_scalars(run)["train/loss"] == expected, "tried again"
    files = sorted((run.path / "tensorboard").iterdir())
    assert [path.stat().st_size > 0 for path in files] == [False, True]


def test_an_open_tensorboard_forgets_what_comes_again(tmp_path):
    """It has read the rows of an attempt that was killed when the next one begins a new file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = prepare_run(tmp_path)
    trial = load_trial(run.config)
    shown = EventAccumulator(str(run.path / "tensorboard"))
    first = TensorboardSink(run, trial)
    for step in (5, 10, 15):
        first.write(MetricRow(step, 1e9 + step, {"train/loss": 1.0, "test/top1": float("nan")}))
    shown.Reload()
    assert [event.step for event in shown.Scalars("train/loss")] == [5, 10, 15], "as they are written"
    second = TensorboardSink(run, trial)
    for step in (5, 10, 15, 20):
        second.write(MetricRow(step, 1e9 + step, {"train/loss": 1.0}))
    second.close("done")
    first.close("interrupted")
    shown.Reload()
    scalars = shown.Scalars("train/loss")
    assert [(event.step, event.wall_time) for event in scalars] == [(step, 1e9 + step) for step in (5, 10, 15, 20)]
    content = shown.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["train.steps"].number_value == 20 and settings["method.name"].string_value == "scl"


def test_without_tensorboard_a_submission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracking.tensorboard: is not installed; pip install -e '.\[tensorboard"):
        tensorboard.check()
    monkeypatch.undo()
    check_mirrors(TrackingConfig.model_validate({"tensorboard": {}, "wandb": {}}))
