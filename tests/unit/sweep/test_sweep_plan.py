"""What a sweep's YAML asks for."""

from pathlib import Path

import pytest

from genesis_ds.cli import main
from genesis_ds.errors import UserError
from genesis_ds.sweep.plan import Range, load_sweep

ROOT = Path(__file__).parents[3]
LRS = "fields: {optimizer.lr: [1e-3, 3e-3], optimizer.weight_decay: [0, 0.1]}\n"
RANGES = "fields: {optimizer.lr: {low: 1e-4, high: 1e-1, log: true}, model.n_layers: {low: 1, high: 3}}\n"


@pytest.fixture
def sweep(tmp_path):
    def load(text):
        path = tmp_path / "sweep.yaml"
        path.write_text(f"name: tried\n{text}")
        return load_sweep(str(path))

    return load


def test_a_grid_is_every_combination_or_the_first_of_them(sweep):
    found = [tuple(values.values()) for values in sweep(LRS).planned()]
    assert found == [(1e-3, 0), (1e-3, 0.1), (3e-3, 0), (3e-3, 0.1)]
    assert [tuple(values.values()) for values in sweep(LRS + "trials: 3").planned()] == found[:3]


def test_random_trials_are_in_their_ranges_differ_and_follow_from_the_seed(sweep):
    text = RANGES + "method: random\ntrials: 50\n"
    drawn = sweep(text).planned()
    assert drawn == sweep(text).planned() != sweep(text + "seed: 1").planned()
    assert all(1e-4 <= values["optimizer.lr"] <= 1e-1 for values in drawn)
    assert {values["model.n_layers"] for values in drawn} == {1, 2, 3}
    below = sum(values["optimizer.lr"] < 3.2e-3 for values in drawn)
    assert 15 < below < 35, "each order of magnitude is as likely"
    assert len(sweep(LRS + "method: random\ntrials: 50\n").planned()) == 4, "no two alike"


def test_more_trials_begin_with_those_of_fewer(sweep):
    few, many = (sweep(RANGES + f"method: random\ntrials: {n}\n").planned() for n in (3, 6))
    assert many[:3] == few


def test_a_trial_is_the_flags_of_one_run(sweep):
    words = sweep(LRS + "set: {tasks.lm: 1}\nmax_steps: 5\noutput_dir: out\n").words({"optimizer.lr": 1e-3}, 7)
    assert words == [
        "--tasks.lm=1",
        "--optimizer.lr=0.001",
        "--max_steps=5",
        "--name=trial-007",
        "--output_dir=out/tried",
    ]


def test_null_is_a_value_and_not_what_the_runs_yaml_has(sweep):
    tried = sweep("fields: {a: [null, [en, null]]}\nset: {b: null, c: {d: null}, e: true}\nmax_steps: null\n")
    words = [tried.words(values, 0)[:-2] for values in tried.planned()]
    shared = ["--b=null", '--c={"d": null}', "--e=true"]
    assert words == [[*shared, "--a=null"], [*shared, '--a=["en", null]']]


def test_a_field_is_a_list_or_a_range(sweep):
    assert sweep(RANGES + "method: tpe\ntrials: 2").choices("model.n_layers") == Range(1, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing key: fields"),
        (LRS + "methd: grid", "sweep.yaml: line 3: unknown key 'methd'; did you mean 'method'?"),
        (LRS + "method: genetic", "method: genetic"),
        (LRS + "method: random", "trials: is needed by the method random"),
        (RANGES, "optimizer.lr: is a range, and a grid needs lists"),
        (LRS + "set: {optimizer.lr: 1}", "optimizer.lr: is set by the sweep itself"),
        (LRS + "trials: 0", "trials: 0"),
        ("fields: {optimizer.lr: {low: 2, high: 1}}", "optimizer.lr: give a list of values"),
        ("fields: {optimizer.lr: {low: 0, high: 1, log: true}}", "optimizer.lr: give a list of values"),
    ],
)
def test_a_sweep_that_cannot_be_is_the_users_mistake(sweep, text, message):
    with pytest.raises(UserError) as error:
        sweep(text)
    assert message in str(error.value)


def test_the_sweep_that_the_page_shows_is_the_example():
    example = ROOT / "tests/docs/examples/sweep.yaml"
    assert example.read_text() in (ROOT / "docs/comparing.md").read_text()
    assert len(load_sweep(str(example)).planned()) == 6


def test_a_sweep_that_is_not_there_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["sweep", str(tmp_path / "absent.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LRS + "run: nowhere.yaml", "nowhere.yaml: No such file or directory"),
        ("fields: {optimizer.lrr: [1e-3]}", "did you mean '--optimizer.lr'?"),
        (LRS + "set: {modell.dim: 3}", "did you mean '--model.dim'?"),
        ("fields: {optimizer.lr: [-1, -2]}", "optimizer.lr: -1.0 is not allowed"),
        (LRS + "max_steps: 0", "max_steps: 0 is not allowed"),
        (LRS + "max_hours: -5", "max_hours: -5 is not allowed"),
    ],
)
def test_what_no_trial_could_be_trained_with_is_said_before_anything_is_written(
    tmp_path, monkeypatch, capsys, text, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text(f"name: tried\n{text}")
    assert main(["sweep", "sweep.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]
