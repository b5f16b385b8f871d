import json
import math
import re

import pytest

from genesis_ds import metrics
from genesis_ds.analysis.curves import measures_of
from genesis_ds.analysis.points import Point
from genesis_ds.cli import main
from genesis_ds.errors import UserError
from genesis_ds.report.curve_files import curves_of, read_csv

HEADER = "step,train_loss,val_loss\n"


def write_metrics(path, curves):
    """Write curves as a run does: {name: its points}."""
    rows = [{"global_step": p.step} | measures_of(name, p) for name, points in curves.items() for p in points]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows).replace("NaN", "null"))


@pytest.fixture
def grokking_csv(tmp_path):
    """Training falls at step 100, validation at step 2,500."""
    path = tmp_path / "run 7.csv"
    rows = [(s, 3.4 / (1 + (s / 100) ** 6), 4 / (1 + (s / 2500) ** 6)) for s in range(20, 6001, 20)]
    path.write_text(HEADER + "".join(f"{s},{train},{val}\n" for s, train, val in rows))
    return path


def test_columns_come_in_any_order_with_others_beside_them_and_cells_may_be_empty(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text(
        "val_loss, note,train_acc,step,lr,train_loss,memorised,changed\n"
        "2.5,warm,0.5,10,1e-3,2,0.1,data\nnan,,,20,,1.5,,\n"
    )
    first, second = read_csv(path)
    assert first == Point(10, 2.0, 2.5, train_accuracy=0.5, learning_rate=1e-3, memorised_share=0.1, changed="data")
    assert math.isnan(second.val_loss)
    assert (second.train_accuracy, second.learning_rate, second.changed) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column step, train_loss, val_loss in the first line"),
        ("step,loss\n1,2\n", "no column train_loss, val_loss in the first line"),
        (HEADER, "nothing below the first line"),
        (HEADER + "1,2,3\n2,x,3\n", "curve.csv, line 3: train_loss 'x' is not a number"),
        (HEADER + "1,2,3\n2,2\n", "line 3: val_loss '' is not a number"),
        (HEADER + "1.5,2,3\n", "line 2: step 1.5 is not a whole number"),
        (HEADER + "nan,2,3\n", "line 2: step nan is not a whole number"),
        (HEADER + "5,2,3\n5,2,3\n", "line 3: step 5 is not after 5; sort the lines by step"),
        ("step,train_loss,val_loss,lr\n1,2,3,fast\n", "line 2: lr 'fast' is not a number"),
        ("step,train_loss,val_loss,val_acc\n1,2,3,1\n2,2,3,97.5\n", "line 3: val_acc 97.5 is not from 0 to 1; write"),
        ("step,train_loss,val_loss,memorised\n1,2,3,-1\n", "line 2: memorised -1 is not from 0 to 1"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "curve.csv"
    path.write_text(text)
    assert main(["grokking", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {tmp_path}/curve.csv")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_file_that_is_no_table_or_is_not_there_is_one_line(tmp_path, capsys):
    binary = tmp_path / "curve.csv"
    binary.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    for path in (binary, tmp_path / "absent.csv", tmp_path):
        assert main(["grokking", str(path)]) == 2
        error = capsys.readouterr().err
        assert str(path) in error
        assert error.count("\n") == 1


def test_a_run_s_metrics_hold_several_curves():
    points = {
        "lm/en": [Point(10, 2.0, 2.5, 0.4, 0.3, 1e-3), Point(20, 1.5, 2.4, 0.5, 0.3, 5e-4, 0.25, "weight decay")],
        "lm/es": [Point(10, 3.0, 3.5, learning_rate=1e-3), Point(20, 2.5, 3.4, learning_rate=5e-4)],
    }
    records = [{"global_step": 5, metrics.LEARNING_RATE: 1e-3, "sample/en": "In the"}]
    for index, step in enumerate((10, 20)):
        record = {"global_step": step, "grokking/lm/en/gap_closed": 0.0}
        for curve, its_points in points.items():
            record |= measures_of(curve, its_points[index])
            if its_points[index].changed:
                record[metrics.of_curve(curve, "changed")] = its_points[index].changed
        records.append(record | ({metrics.LEARNING_RATE: 5e-4} if step == 20 else {}))
    assert curves_of(("metrics.jsonl", record) for record in records) == points


def test_damaged_metrics_are_a_user_error():
    whole = {"train_loss": 1.0, "val_loss": 1.0}
    for values in ({"train_loss": 1.0}, whole | {"val_loss": "low"}, whole | {"train_accuracy": 80.0}):
        record = {"global_step": 3} | {metrics.of_curve("lm/en", name): value for name, value in values.items()}
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 7: grokking/lm/en"):
            curves_of([("metrics.jsonl, line 7", record)])


def test_events_are_json_lines(grokking_csv, capsys):
    assert main(["grokking", str(grokking_csv), "--json"]) == 0
    printed = capsys.readouterr()
    events = [json.loads(line) for line in printed.out.splitlines()]
    assert [event["kind"] for event in events][-1] == "late_improvement"
    assert all(event.keys() == {"curve", "kind", "step", "values", "reason", "confounded_by"} for event in events)
    assert events[0]["curve"] == "run 7"
    assert printed.err == ""


def test_metrics_of_a_run_are_read_and_a_curve_without_events_says_so(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    flat = measures_of("lm/en", Point(1, 2.0, 2.1))
    path.write_text("".join(json.dumps({"global_step": step} | flat) + "\n" for step in range(1, 50)))
    for rule in ("states", "window"):
        assert main(["grokking", str(path), "--rule", rule]) == 0
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err == f"{path}: no event\n"
    path.write_text(json.dumps({"global_step": 1} | measures_of("lm/en", Point(1, 2.0, 2.1, 40.0, 50.0))) + "\n")
    assert main(["grokking", str(path)]) == 2
    assert f"{path}, line 1: grokking/lm/en: train_accuracy 40 is not from 0 to 1" in capsys.readouterr().err
    path.write_text('{"global_step": 1, "train/loss": 2.0}\n')
    assert main(["grokking", str(path)]) == 2
    assert "no curve" in capsys.readouterr().err


def test_curves_with_events_are_rows_of_a_table_and_the_others_are_named(tmp_path, capsys):
    falling = [Point(step, 1 / (1 + step), 2.0 + step / 1000) for step in range(1, 200, 5)]
    flat = [Point(step, 2.0, 2.1) for step in range(1, 200, 5)]
    write_metrics(tmp_path / "metrics.jsonl", {"lm/aa": flat, "lm/bb": falling})
    assert main(["grokking", str(tmp_path / "metrics.jsonl")]) == 0
    head, row, rest = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["curve", "last", "step"]
    assert re.match(r"lm/bb +196 +0\.005 +2\.196  memorised [\d]+, plateau [\d]+$", row)
    assert rest == "no event: lm/aa"


def test_the_picture_is_written(grokking_csv, tmp_path):
    picture = tmp_path / "curve.png"
    assert main(["grokking", str(grokking_csv), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


def test_many_curves_are_pages_of_one_size_without_the_empty_ones(tmp_path, capsys):
    curves = {f"lm/l{n:02}": [Point(step, 2.0, 2.0) for step in range(1, 200, 5)] for n in range(25)}
    curves["lm/empty"] = [Point(step, math.nan, math.nan) for step in range(1, 200, 5)]
    write_metrics(tmp_path / "metrics.jsonl", curves)
    assert main(["grokking", str(tmp_path / "metrics.jsonl"), "--plot", str(tmp_path / "c.png")]) == 0
    written = [tmp_path / name for name in ("c.png", "c-2.png", "c-3.png")]
    assert sorted(tmp_path.glob("*.png")) == sorted(written)
    sizes = [picture.read_bytes()[16:24] for picture in written]
    assert sizes[0] == sizes[1] != sizes[2]
    assert ", ".join(map(str, written)) in capsys.readouterr().err


@pytest.mark.parametrize("name", ["absent/curve.png", "curve.xyz", "curve"])
def test_a_picture_that_cannot_be_written_is_one_line(grokking_csv, tmp_path, capsys, name):
    assert main(["grokking", str(grokking_csv), "--plot", str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert name in printed.err
    assert printed.err.count("\n") == 1
