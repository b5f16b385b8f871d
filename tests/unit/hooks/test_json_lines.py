import errno
import json
import math

import numpy as np
import pytest

from genesis_ds import segments
from genesis_ds.analysis.points import Event
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.write.json_lines import JsonLines
from genesis_ds.segments import read_records


def write(path, steps, first_step=0, text="x"):
    hook = JsonLines(path, first_step)
    for step in steps:
        hook.on_step(StepRecord(step, 9, metrics={"loss": step / 3}, texts={"sample": text}))
    hook.close()


def test_records_beyond_the_resumed_step_and_a_line_cut_short_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2, 3, 4])
    path.write_text(path.read_text() + '{"global_step": 5, "lo')
    write(path, [3, 4], first_step=2)
    assert [record["global_step"] for record in read_records(path)] == [1, 2, 3, 4]


def test_a_sample_with_any_line_separator_is_one_record(tmp_path):
    text = "a\nb\u0085c\u2028d\u2029e\r\x0b\x0cf"
    write(tmp_path / "metrics.jsonl", [1], text=text)
    write(tmp_path / "metrics.jsonl", [2], first_step=1, text=text)
    assert [record["sample"] for record in read_records(tmp_path / "metrics.jsonl")] == [text, text]


def test_lines_that_are_no_records_are_set_aside_and_the_run_goes_on(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    record = json.dumps({"global_step": 1, "sample": "태초에"}, ensure_ascii=False).encode()
    damaged = [b"nonsense", b"[1]", b'{"loss": 1}', b'{"global_step": "x"}', record[:-4], b"[" * 10**5]
    path.write_bytes(b"".join(line + b"\n" for line in (record, *damaged)) + record[:-4])
    assert [row["sample"] for row in read_records(path)] == ["태초에"]
    assert "6 lines are no records and left out, such as line 2" in capsys.readouterr().err
    write(path, [2], first_step=1)
    assert [row["global_step"] for row in read_records(path)] == [1, 2]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes().split(b"\n")[:-1] == damaged


def test_what_a_full_disk_does_not_take_is_written_when_there_is_room_again(tmp_path, limited_file_size, capsys):
    path = tmp_path / "metrics.jsonl"
    hook = JsonLines(path, 0)
    with limited_file_size(100):
        for step in range(1, 9):
            hook.on_step(StepRecord(step, 9, metrics={"loss": step / 3}))
    assert path.stat().st_size == 100
    hook.on_step(StepRecord(9, 9, metrics={"loss": 3.0}))
    assert [record["global_step"] for record in read_records(path)] == [*range(1, 10)]
    assert capsys.readouterr().err.count("File too large; its records wait") == 1


def test_what_is_not_finite_is_null_and_every_line_valid_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    hook = JsonLines(path, 0)
    events = {"lm/en": [Event("collapse", 1, {"loss": math.inf}, "it has")]}
    hook.on_step(
        StepRecord(1, 9, metrics={"val/loss": math.nan, "train/loss": 1 / 3, "val/other": 1 / 3}, events=events)
    )
    hook.close()
    row = json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(constant))
    assert (row["val/loss"], row["events"]["lm/en"][0]["values"]) == (None, {"loss": None})
    assert (row["train/loss"], row["val/other"]) == (1 / 3, 0.33333)
    [record] = read_records(path)
    assert math.isnan(record["val/loss"])


def test_numbers_of_numpy_are_written_as_any_other(tmp_path):
    hook = JsonLines(tmp_path / "metrics.jsonl", 0)
    record = StepRecord(1, 9, metrics={"mean": np.float32(0.25)})
    record.metrics["count"] = np.int64(3)
    record.metrics |= {"share": np.float16(0.5)}
    hook.on_step(record)
    hook.close()
    [written] = read_records(tmp_path / "metrics.jsonl")
    assert written == {"global_step": 1, "mean": 0.25, "count": 3, "share": 0.5}


@pytest.fixture
def ten_steps_a_segment(monkeypatch):
    monkeypatch.setattr(segments, "STEPS", 10)
    monkeypatch.setattr(segments, "BUCKETS", 2)


def steps_of(path):
    return [record["global_step"] for record in read_records(path)]


@pytest.mark.usefixtures("ten_steps_a_segment")
@pytest.mark.parametrize("first_step", [0, 7, 10, 13, 20, 22])
def test_segments_are_closed_and_a_resume_cuts_them_so_that_no_step_is_there_twice(tmp_path, first_step):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 26))
    assert list(segments.closed_segments(path)) == [10, 20]
    assert len(path.read_text().splitlines()) == 5
    assert steps_of(path) == [*range(1, 26)]
    write(path, range(first_step + 1, 26), first_step)
    assert steps_of(path) == [*range(1, 26)]
    assert list(segments.closed_segments(path)) == [10, 20]


@pytest.mark.usefixtures("ten_steps_a_segment")
@pytest.mark.parametrize("first_step", [7, 10, 12])
def test_a_kill_between_a_segment_and_the_open_file_leaves_no_step_twice(tmp_path, first_step):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 10))
    before = path.read_bytes()
    write(path, range(10, 13), 9)
    path.write_bytes(
        before + b'{"global_step":10}\n' + path.read_bytes()
    )  # as it was before the records were taken out
    assert steps_of(path) == [*range(1, 13)]
    write(path, range(first_step + 1, 13), first_step)
    assert steps_of(path) == [*range(1, 13)]


@pytest.mark.usefixtures("ten_steps_a_segment")
def test_the_index_has_the_extremes_of_every_measure_its_last_values_and_all_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "PER_DECADE", 1)
    path = tmp_path / "metrics.jsonl"
    hook = JsonLines(path, 0)
    values = [3.0, 9.0, 1.0, 5.0, 4.0, 4.0, 8.0, 4.5, 2.0, 7.0]
    for step, value in enumerate(values, 1):
        texts = {"sample/en": f"{step}"} | ({"optim/lr_drop": "falls"} if step == 4 else {})
        hook.on_step(StepRecord(step, 99, metrics={"val/x": value}, texts=texts))
    hook.close()
    few = list(read_records(path, decimated=True))
    assert {row["global_step"]: row["val/x"] for row in few if "val/x" in row} == {2: 9, 3: 1, 7: 8, 9: 2, 10: 7}
    assert [row["global_step"] for row in few if "optim/lr_drop" in row] == [4]
    assert [row["sample/en"] for row in few if "sample/en" in row] == ["5", "9", "10"]


@pytest.mark.usefixtures("ten_steps_a_segment")
def test_the_index_has_more_of_the_first_steps_for_an_axis_of_log_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    hook = JsonLines(path, 0)
    for step in range(1, 31):
        hook.on_step(StepRecord(step, 99, metrics={"val/x": float(step % 3)}))
    hook.close()
    steps = [row["global_step"] for row in read_records(path, decimated=True)]
    assert sum(step <= 10 for step in steps) > sum(step > 20 for step in steps)
    assert steps[:4] == [1, 2, 3, 4]


@pytest.mark.usefixtures("ten_steps_a_segment")
def test_a_segment_that_has_no_room_stays_open_until_there_is(tmp_path, monkeypatch, capsys):
    path = tmp_path / "metrics.jsonl"
    hook = JsonLines(path, 0)
    with monkeypatch.context() as full:
        full.setattr(segments, "_zip", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        for step in range(1, 13):
            hook.on_step(StepRecord(step, 99, metrics={"loss": 1.0}))
    assert capsys.readouterr().err.count("the segment stays open until there is room") == 1
    hook.on_step(StepRecord(13, 99, metrics={"loss": 1.0}))
    hook.close()
    assert list(segments.closed_segments(path)) == [10]
    assert steps_of(path) == [*range(1, 14)]


@pytest.mark.usefixtures("ten_steps_a_segment")
def test_a_damaged_segment_is_read_as_far_as_it_goes(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 13), text="".join(map(str, range(500))))
    [segment] = segments.closed_segments(path).values()
    segment.write_bytes(segment.read_bytes()[:-20])
    assert steps_of(path)[-2:] == [11, 12]
    assert "step-00000010.jsonl.gz: damaged" in capsys.readouterr().err
