import re
import threading
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from genesis_ds import metrics
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.write.tensorboard import TensorBoard


def steps(directory):
    found = EventAccumulator(str(directory)).Reload()
    return [event.step for event in found.Scalars("loss")]


def test_a_full_disk_is_one_warning_and_a_new_file_is_begun_when_there_is_room(tmp_path, limited_file_size, capsys):
    hook = TensorBoard(tmp_path / "tensorboard", 0)
    hook.on_step(StepRecord(1, 40, metrics={"loss": 1.0}))
    with limited_file_size(10):
        for step in range(2, 20):
            hook.on_step(StepRecord(step, 40, metrics={"loss": 1.0}))
    for step in range(20, 23):
        hook.on_step(StepRecord(step, 40, metrics={"loss": 1.0}))
    hook.close()
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert printed.count("File too large; what is reported until there is room is left out") == 1
    assert steps(tmp_path / "tensorboard")[-3:] == [20, 21, 22]


def test_a_file_in_its_place_is_one_line(tmp_path):
    (tmp_path / "tensorboard").touch()
    before = threading.excepthook
    with pytest.raises(UserError, match=r"output_dir: .*tensorboard: "):
        TensorBoard(tmp_path / "tensorboard", 0)
    assert threading.excepthook == before


def test_the_errors_of_threads_are_told_as_before_once_it_is_closed(tmp_path):
    before = threading.excepthook
    hook = TensorBoard(tmp_path, 0)
    assert threading.excepthook != before
    hook.close()
    assert threading.excepthook == before


def test_a_clock_that_was_set_back_leaves_the_axis_of_steps_in_order(tmp_path, monkeypatch):
    real = time.time()
    for first_step, now in ((0, real), (4, real - 5000), (6, real - 9000), (8, real - 9000)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        hook = TensorBoard(tmp_path, first_step)
        for step in range(first_step + 1, first_step + 6):
            hook.on_step(StepRecord(step, 40, metrics={"loss": float(first_step)}))
        hook.close()
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [event.step for event in found] == list(range(1, 14))
    assert [event.value for event in found] == [0] * 4 + [4] * 2 + [6] * 2 + [8] * 5


def test_there_is_a_chart_for_all_languages_the_configuration_and_no_card_of_what_never_changes(tmp_path):
    loss = metrics.bits_per_byte("val_chapter", "en")
    accuracy = metrics.judged("val_chapter", "coherence", "accuracy")
    hook = TensorBoard(tmp_path, 0, configuration={"optimizer": {"lr": 0.1, "betas": [0.9, 0.95]}}, judged_by=[loss])
    measured = {loss: 2.0, accuracy: 0.6, accuracy + metrics.CHANCE: 0.5, accuracy + metrics.TRIALS: 128.0}
    hook.on_step(StepRecord(1, 40, metrics=measured))
    hook.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert found.Tags()["scalars"] == [loss, accuracy]
    summary = found.summary_metadata
    layout = Layout.FromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    of_languages = [chart for category in layout.category for chart in category.chart if matches(chart, loss)]
    assert [chart.title for chart in of_languages] == ["bits per byte, val_chapter"]
    assert any(matches(chart, accuracy) for category in layout.category for chart in category.chart)
    started = HParamsPluginData.FromString(summary["_hparams_/session_start_info"].plugin_data.content)
    assert started.session_start_info.hparams["optimizer.lr"].number_value == 0.1
    assert started.session_start_info.hparams["optimizer.betas"].string_value == "[0.9, 0.95]"


def matches(chart, tag):
    return any(re.match(pattern, tag) for pattern in chart.multiline.tag)
