"""`genesis-ds tune`: which candidates are measured, what becomes of their results, and which one is written."""

import dataclasses
import os
import signal
import sys

import pytest
from helpers.jobs import ROOT, prepare

from genesis_ds.config.parse import parse_arguments
from genesis_ds.disk import write_text
from genesis_ds.ds_config import load_ds_config
from genesis_ds.errors import UserError
from genesis_ds.memory.machine.hardware import NAMED
from genesis_ds.memory.scenario import Scenario
from genesis_ds.tuning import command, trials
from genesis_ds.tuning.candidates import Gradients, Recomputation, by_prediction, dimensions, grid, own_candidate
from genesis_ds.tuning.largest import largest_in_time
from genesis_ds.tuning.search import Search
from genesis_ds.tuning.trials import Bench, Trial

QUICKSTART = ["--config", f"{ROOT}/launch/runs/quickstart.yaml", "--ds_config", f"{ROOT}/ds_configs/zero2.json"]
SMALL = ["--model.n_layers", "2", "--model.dim", "64", "--model.n_heads", "2", "--model.intermediate_size", "128"]
FAR = 10**6


class FakeBench:
    """Answers what a function of the run's YAML and its ds_config says, whatever the threads."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def measure(self, values, ds_config, *, seconds, threads, turn):
        if seconds <= 0:
            return None
        self.asked.append((values, ds_config, threads, turn))
        return self.answer(values, ds_config)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return ["--data.corpus", str(prepare(tmp_path_factory.mktemp("text")) / "corpus")]


@pytest.fixture
def search(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    def of(answer, *words, hardware="cpu", seconds=FAR):
        monkeypatch.setattr(command, "here", lambda: NAMED[hardware])
        arguments = parse_arguments([*QUICKSTART, *SMALL, *words], command.flags(), "genesis-ds tune", "")
        bench = FakeBench(answer)
        given = arguments.given
        return Search(command.this_machine(arguments), given, bench, seconds=seconds, say=lambda line: None)

    return of


def by_rows(values, ds_config):
    """Faster with fewer rows at once, with whole blocks recomputed, and with ZeRO-3."""
    speed = 1000 / values["batch"]["micro_batch_size"] + 500 * (values["activation_checkpointing"]["mode"] == "block")
    return Trial(speed + 100 * (ds_config["zero_optimization"]["stage"] == 3), host_bytes=1)


def test_a_descent_comes_to_the_fastest_and_keeps_the_global_batch(search):
    of = search(by_rows)
    choices = {"ds_config": [f"{ROOT}/ds_configs/{name}.json" for name in ("zero2", "zero3")]}
    choices |= {"recomputation": [Recomputation("none"), Recomputation("block")], "micro_batch_size": [8, 4, 2, 1]}
    best = of.fastest(choices)
    assert best.candidate.ds_config.endswith("zero3.json")
    assert (best.candidate.recomputation.mode, best.candidate.micro_batch_size) == ("block", 1)
    assert all(values["batch"]["global_batch_size"] == 16 for values, *_ in of.bench.asked)
    again = [values for values, *_, turn in of.bench.asked if turn == 1]
    assert len(again) == 2, "the fastest and the run's own, once more each"


def test_what_dies_of_memory_is_a_result_and_the_run_as_it_is_stays_where_nothing_is_faster(search):
    def answer(values, ds_config):
        is_own = values["batch"]["micro_batch_size"] == 8 and ds_config == of.scenario.ds_config
        is_own &= values["activation_checkpointing"]["mode"] == "none"
        return Trial(100.0) if is_own else Trial(None, problem="out of memory")

    of = search(answer)
    best = of.fastest(dimensions(of.scenario))
    assert best.candidate == own_candidate(of.scenario)
    assert any(row.trials[0].problem == "out of memory" for row in of.rows.values())
    assert "out of memory" in command.format_rows(of, best)


def test_on_a_known_card_what_is_predicted_much_slower_or_does_not_fit_is_not_measured(search):
    words = ["--model.n_layers", "24", "--model.dim", "1024", "--model.n_heads", "16", "--batch.seq_len", "512"]
    words += ["--batch.micro_batch_size", "16", "--model.intermediate_size", "2816"]
    of = search(lambda values, ds_config: Trial(1.0), *words, hardware="rtx4070")
    of.fastest(dimensions(of.scenario))
    assert of.rows
    steps = [row.step.seconds for row in of.rows.values()]
    assert max(steps) <= 1.5 * min(steps)
    assert all(row.scenario.plan().fits for row in of.rows.values())


def test_gradients_over_pcie_are_tried_in_fp32_and_overlapped_where_an_optimizer_is_on_the_host(search):
    def answer(values, ds_config):
        zero, sums = ds_config["zero_optimization"], ds_config.get("data_types", {}).get("grad_accum_dtype")
        return Trial(1.0 + ("offload_optimizer" in zero) + (sums == "fp32") + (zero.get("overlap_comm") is True))

    of = search(answer, hardware="rtx4070")
    best = of.fastest(dimensions(of.scenario))
    assert best.tokens_per_second == 4
    assert best.scenario.ds_config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert str(best.candidate) == "zero2_offload + grad_accum_dtype fp32 + overlap_comm"
    measured = [str(row.candidate) for row in of.rows.values() if row.trials]
    assert not any("+" in name for name in measured if not name.startswith("zero2_offload"))
    on_cpu = search(answer)
    on_cpu.fastest(dimensions(on_cpu.scenario))
    assert not any("+" in str(row.candidate) for row in on_cpu.rows.values())


def test_half_of_the_cores_are_tried_where_the_user_says_nothing_of_threads(search, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    of = search(by_rows)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert dimensions(of.scenario)["threads"] == [0]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert dimensions(of.scenario)["threads"] == [0, 8]
    of.fastest(dimensions(of.scenario))
    assert {threads for *_, threads, _ in of.bench.asked} == {0, 8}


def test_a_ds_config_that_no_file_has_is_written_beside_the_run_and_named_in_it(
    search, text, monkeypatch, tmp_path, capsys
):
    def answer(self, values, ds_config, **_):
        zero = ds_config["zero_optimization"]
        return Trial(1.0 + ("offload_optimizer" in zero) + (zero.get("overlap_comm") is True))

    search(None, hardware="rtx4070")
    monkeypatch.setattr(Bench, "measure", answer)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time it replaces its own
        assert command.main([*QUICKSTART, *SMALL, *text, "--output", "a.yaml"]) == 0
    written = load_ds_config("a.ds_config.json")
    assert written["zero_optimization"]["overlap_comm"] is True
    line = "genesis-ds train --config a.yaml --ds_config a.ds_config.json"
    assert capsys.readouterr().out.endswith(f"{line}\n")
    assert f"# {line}\n" in (tmp_path / "a.yaml").read_text()
    (tmp_path / "b.ds_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"b\.ds_config\.json: is not of this command"):
        command.main([*QUICKSTART, *SMALL, *text, "--output", "b.yaml"])


def test_a_start_goes_on_from_the_files_of_one_that_was_cut_short_or_found_another_fastest(
    search, monkeypatch, tmp_path
):
    of = search(lambda values, ds_config: Trial(1.0), hardware="rtx4070")
    own = own_candidate(of.scenario)
    offload = dataclasses.replace(own, ds_config=f"{ROOT}/ds_configs/zero2_offload.json")
    overlapped = dataclasses.replace(offload, gradients=Gradients(overlapped=True))
    options = command.flags().parse_args(["--output", "a.yaml"])
    monkeypatch.chdir(tmp_path)

    def write(candidate):
        output = command.checked_output(options, "a")
        command.write_tuned(of, of.measure(of.scenario, candidate), options, output)
        return (tmp_path / "a.ds_config.json").exists()

    def write_one(path, text):
        write_text(path, text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(command, "write_text", write_one)
        with pytest.raises(KeyboardInterrupt):
            write(overlapped)
    assert write(overlapped)
    assert not write(offload), "it is named nowhere any more"
    assert write(overlapped)
    of.measure(of.scenario, dataclasses.replace(own, ds_config="a.ds_config.json"))
    assert write(offload), "the user has it tried"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_ends_what_it_has_started_too(number, search, text, monkeypatch, tmp_path, capsys):
    def measure(*_, **__):
        assert callable(signal.getsignal(number)), "the process would end without a word to its own"
        signal.raise_signal(number)

    search(None)
    monkeypatch.setattr(Bench, "measure", measure)
    monkeypatch.chdir(tmp_path)
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as ended:
            command.main([*QUICKSTART, *SMALL, *text])
        assert ended.value.code == 128 + number
        assert "the same command goes on" in capsys.readouterr().err
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_without_time_nothing_is_measured_and_that_is_said(search):
    of = search(by_rows, seconds=0)
    with pytest.raises(UserError, match="nothing was measured: the time is up"):
        of.fastest(dimensions(of.scenario))


def test_the_largest_model_is_the_largest_that_was_measured_to_be_fast_enough(search):
    def answer(values, ds_config):
        return Trial(64_000_000 / values["model"].get("dim", 512) ** 3)

    of = search(answer, "--model.dim", "128", "--model.n_heads", "4")
    best, first = largest_in_time(of, dimensions(of.scenario), n_tokens=3600, seconds=3600)
    model = best.scenario.run.model
    assert best.tokens_per_second >= 1 > 64_000_000 / (model.dim + model.head_dim) ** 3
    assert model.n_layers == round(2 / 128 * model.dim), "the depth keeps its ratio to the width"
    assert first is not None
    with pytest.raises(UserError, match="no model of this family was measured"):
        largest_in_time(of, dimensions(of.scenario), n_tokens=10**15, seconds=1)


def test_the_run_itself_is_the_largest_where_the_limit_ends_before_another_was_measured(search, monkeypatch):
    monkeypatch.setattr(Scenario, "fits", lambda scenario: True)
    of = search(lambda values, ds_config: Trial(1000.0))
    measure = of.bench.measure
    of.bench.measure = lambda *words, **named: None if of.bench.asked else measure(*words, **named)
    best, _ = largest_in_time(of, dimensions(of.scenario), n_tokens=3600 * 500, seconds=3600)
    assert best.candidate == own_candidate(of.scenario)
    none = search(by_rows, seconds=0)
    with pytest.raises(UserError, match="--limit is over before a model was measured"):
        largest_in_time(none, dimensions(none.scenario), n_tokens=3600, seconds=3600)


def test_planning_is_said_made_once_and_no_part_of_the_limit(search, monkeypatch):
    clock, planned = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def fits(scenario):
        clock[0] += 60
        planned.append(scenario)
        return True

    monkeypatch.setattr(Scenario, "fits", fits)
    of = search(by_rows, seconds=1)
    of.plans.say = (said := []).append
    of.fastest({"micro_batch_size": [16, 8, 4]})
    assert not of.is_over
    for micro_batch_size in (4, 2, 1):
        of.plans.fits(of.scenario, dataclasses.replace(own_candidate(of.scenario), micro_batch_size=micro_batch_size))
    assert len(planned) == 5
    assert len(said) == 2, "at the start, and where two are planned with nothing measured between"


def test_where_nothing_fits_a_plan_of_each_ds_config_says_so(search, monkeypatch):
    planned = []
    monkeypatch.setattr(Scenario, "fits", lambda scenario: planned.append(scenario))
    of = search(by_rows)
    choices = dimensions(of.scenario)
    with pytest.raises(UserError, match="no setting of this run fits"):
        of.fastest(choices)
    assert len(planned) <= 1 + 2 * len(choices["ds_config"])


def test_of_settings_that_fit_the_fastest_predicted_is_taken(search, monkeypatch):
    def fits(scenario):
        run = scenario.run
        return run.activation_checkpointing.mode == "block" and run.batch.micro_batch_size <= 4

    monkeypatch.setattr(Scenario, "fits", fits)
    of = search(by_rows)
    first = of.plans.first(of.scenario, by_prediction(of.scenario, grid(dimensions(of.scenario))))
    assert (first.recomputation.mode, first.micro_batch_size) == ("block", 4)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "--ds_configs: .*own.json: No such file"),
        ('{"zero_optimization": {"stage": 7}}', "own.json: zero_optimization.stage = 7"),
        (
            '{"zero_optimization": {"stage": 2, "overlap_com": true}}',
            "own.json: zero_optimization.overlap_com: unknown",
        ),
        ('{"zero_optimization": ', "own.json: .*not valid JSON"),
    ],
)
def test_a_ds_config_that_the_user_names_is_checked_before_anything_is_measured(content, complaint, search, tmp_path):
    scenario = search(None).scenario
    path = tmp_path / "own.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=complaint):
        dimensions(scenario, [str(path)])


def test_two_spellings_of_a_path_are_one_file_and_two_files_of_a_name_look_different(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = f"{ROOT}/ds_configs/zero2.json"
    write_text(tmp_path / "zero2.json", (ROOT / "ds_configs/zero2.json").read_text())
    files = dimensions(search(None).scenario, ["zero2.json", "./zero2.json", shipped])["ds_config"]
    assert files == [shipped, "zero2.json"]
    own = own_candidate(search(None).scenario)
    assert [str(dataclasses.replace(own, ds_config=file)) for file in files] == ["zero2", "zero2.json"]


def test_what_was_measured_is_there_at_the_next_start_and_not_for_another_run(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(Bench, "_run", lambda self, values, *_: ran.append(values) or Trial(7.0))
    zero2 = load_ds_config(f"{ROOT}/ds_configs/zero2.json")
    for _ in range(2):
        bench = Bench(tmp_path / "a.json", ranks=1, steps=2, machine="here")
        assert bench.measure({"seed": 1}, zero2, seconds=1) == Trial(7.0)
    assert len(ran) == 1
    bench.measure({"seed": 2}, zero2, seconds=1)
    bench.measure({"seed": 1}, zero2, seconds=1, turn=1)
    bench.measure({"seed": 1}, zero2, seconds=1, threads=2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert bench.measure({"seed": 1}, zero2, seconds=1) == Trial(7.0), "known, as two threads are"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    bench.measure({"seed": 1}, zero2, seconds=1)
    Bench(tmp_path / "a.json", ranks=2, steps=2, machine="here").measure({"seed": 1}, zero2, seconds=1)
    assert len(ran) == 6


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("raise MemoryError('CUDA out of memory')", "out of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out of memory: the system ended it"),
        ("import sys; print('error: it does not fit'); sys.exit(2)", "does not fit"),
        ("raise RuntimeError('no such kernel')", "RuntimeError: no such kernel"),
    ],
)  # fmt: skip
def test_why_a_process_ended_is_said(script, problem):
    exit_code, output = trials._finish([sys.executable, "-c", script], 60)
    assert trials._problem(exit_code, output) == problem


def test_a_process_that_takes_too_long_is_ended():
    assert trials._finish([sys.executable, "-c", "import time; time.sleep(600)"], 0.5)[0] is None


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--limit", "0"], "--limit"),
        (["--hours", "3"], "--hours and --tokens go together"),
        (["--output", "x.txt"], "no name of a YAML"),
        (["--output", "there.yaml"], "is something else than what belongs there"),
        (["--batch.micro_batch_size", "3"], "is not a multiple of"),
        (["--output", "/proc/x.yaml"], "--output: /proc/x.yaml: nothing can be written there"),
        (["--data.corpus", "nothere"], "no corpus at nothere"),
        (["--tokenizer.kind", "bpe", "--tokenizer.path", "nothere"], "nothere: no such file"),
    ],
)
def test_a_wrong_option_is_said_first(flags, complaint, monkeypatch, tmp_path):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match=complaint):
        command.main([*QUICKSTART, *flags])
    assert (tmp_path / "there.yaml").read_text() == "name: mine\n"
