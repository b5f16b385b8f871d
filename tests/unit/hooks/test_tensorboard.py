import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
    with pytest.raises(UserError, match=r"output_dir: .*tensorboard: "):
        TensorBoard(tmp_path / "tensorboard", 0)
