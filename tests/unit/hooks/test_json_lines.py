import json

from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.write.json_lines import JsonLines
from genesis_ds.stored import read_records


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
