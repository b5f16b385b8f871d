import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from genesis_ds.analysis.curves import events_of, read_csv
from genesis_ds.analysis.grokking import GrokkingDetector, Point
from genesis_ds.analysis.window_rule import WindowRule

CURVES = Path(__file__).parents[2] / "data" / "curves"
Loss = Callable[[int], float]


def falls(high: float, low: float, at: int, sharpness: float = 6) -> Loss:
    """From high to low, half-way at a step."""
    return lambda step: low + (high - low) / (1 + (step / at) ** sharpness)


def curve(train: Loss, val: Loss, last: int = 6000, every: int = 20, learning_rate: Loss | None = None) -> list[Point]:
    steps = range(every, last + 1, every)
    return [Point(s, train(s), val(s), learning_rate=learning_rate(s) if learning_rate else None) for s in steps]


def with_accuracies(points: list[Point]) -> list[Point]:
    """As a share of exp(-loss), which is 1 where the loss is 0."""
    return [replace(p, train_accuracy=math.exp(-p.train_loss), val_accuracy=math.exp(-p.val_loss)) for p in points]


def kinds(points: list[Point], detector: GrokkingDetector | WindowRule | None = None) -> list[str]:
    return [event.kind for event in events_of(detector or GrokkingDetector(), points)]


GROKKING = curve(falls(3.4, 0.0, 100), falls(4.0, 0.0, 2500))
ORDER = ["memorised", "plateau", "grokking_onset", "grokking_confirmed", "grokked"]


@pytest.mark.parametrize("points", [GROKKING, with_accuracies(GROKKING)], ids=["losses", "accuracies"])
def test_late_generalisation_is_announced_in_stages(points):
    events = events_of(GrokkingDetector(), points)
    assert [event.kind for event in events] == ORDER
    steps = {event.kind: event.step for event in events}
    assert 60 <= steps["memorised"] <= 400
    assert 1500 <= steps["grokking_onset"] < steps["grokking_confirmed"] < steps["grokked"] <= 5300
    assert all(event.values["val_loss"] > 0 and "\n" not in event.reason for event in events)


@pytest.mark.parametrize("every", [7, 50, 200])
def test_stages_do_not_depend_on_the_spacing_of_evaluations(every):
    assert kinds(curve(falls(3.4, 0.0, 100), falls(4.0, 0.0, 2500), every=every)) == ORDER


def test_evaluation_is_wanted_denser_between_onset_and_grokked():
    detector = GrokkingDetector()
    wanted = {}
    for point in GROKKING:
        detector.update(point)
        wanted[detector.phase] = detector.between_onset_and_grokked
    assert wanted == {
        "learning": False,
        "memorised": False,
        "plateau": False,
        "onset": True,
        "confirmed": True,
        "grokked": False,
    }
    assert detector.gap_closed > 0.95


@pytest.mark.parametrize("known", [with_accuracies, list], ids=["accuracies", "losses"])
def test_generalising_soon_after_memorising_is_not_grokking(known):
    found = kinds(known(curve(falls(3.4, 0.0, 500), falls(3.5, 0.0, 600))))
    assert found[0] == "memorised"
    assert found[-1] == "generalised"
    assert "grokked" not in found


@pytest.mark.parametrize(("val_at", "end"), [(700, ["generalised"]), (800, ["grokking_confirmed", "grokked"])])
def test_a_delay_of_half_the_time_to_memorise_makes_the_difference(val_at, end):
    """Training accuracy is 1 from step 500 on. The validation's jumps between two evaluations."""
    points = [
        Point(step, 0.5, 0.6, train_accuracy=float(step >= 500), val_accuracy=float(step >= val_at))
        for step in range(50, 1500, 50)
    ]
    assert kinds(points) == ["memorised", *end]


def test_ordinary_learning_and_a_model_that_stays_ignorant_bring_no_event():
    assert kinds(curve(falls(5.5, 1.2, 400, 1), falls(5.6, 1.4, 420, 1))) == []
    assert kinds(curve(lambda step: 5.5, lambda step: 5.5)) == []


def test_overfitting_for_ever_ends_on_a_plateau():
    assert kinds(curve(falls(3.4, 0.0, 100), lambda step: 3.4 + math.log1p(step / 300))) == ["memorised", "plateau"]


def test_a_new_best_that_leaves_the_gap_open_is_not_grokked():
    found = kinds(curve(falls(3.4, 0.0, 100), falls(4.0, 1.0, 2500)))
    assert found == ORDER[:-1]


def test_recovering_from_overfitting_is_not_generalising():
    """11 of 12 nats of gap close, but only 2.4 of the 3.4 from the best before the overfitting to training."""
    overfit = falls(12.0, 1.0, 3000)
    points = curve(falls(3.4, 0.0, 100), lambda step: 3.4 if step < 200 else overfit(step))
    assert kinds(points) == ORDER[:-1]


def test_a_training_loss_that_rises_to_the_validation_loss_closes_no_gap():
    points = curve(
        lambda step: falls(3.4, 0.1, 100)(step) + falls(0.0, 1.8, 3000)(step),
        lambda step: falls(3.4, 3.3, 100)(step) - falls(0.0, 1.3, 3000)(step),
    )
    detector = GrokkingDetector()
    assert kinds(points, detector) == ORDER[:3]
    assert detector.gap_closed < 0.5


@pytest.mark.parametrize("known", [with_accuracies, list], ids=["accuracies", "losses"])
def test_losing_what_was_won_is_a_relapse_and_it_can_be_won_again(known):
    def val(step: int) -> float:
        return 5.0 if 4000 < step <= 5000 else falls(4.0, 0.02, 1500)(step)

    assert kinds(known(curve(falls(3.4, 0.0, 100), val))) == [*ORDER, "relapse", *ORDER[2:]]


def test_noise_of_a_fifth_hides_no_grokking_and_is_not_taken_for_it():
    random = Random(0)

    def noisy(points: list[Point]) -> list[Point]:
        factors = ((math.exp(random.gauss(0, 0.2)), math.exp(random.gauss(0, 0.2))) for _ in points)
        return [
            replace(p, train_loss=p.train_loss * a, val_loss=p.val_loss * b)
            for p, (a, b) in zip(points, factors, strict=True)
        ]

    ordinary = curve(falls(5.5, 0.9, 400, 1), falls(5.6, 1.0, 420, 1))
    assert all("grokked" in kinds(noisy(GROKKING)) for _ in range(10))
    assert not any("grokked" in kinds(noisy(ordinary)) for _ in range(10))
    plateau = curve(falls(3.4, 0.0, 100), lambda step: 4.0, last=20_000)
    assert sum(kinds(noisy(plateau)).count("grokking_onset") for _ in range(10)) < 60


def test_a_spike_is_no_relapse():
    points = [replace(p, val_loss=4.0) if p.step in (4000, 4020, 5000) else p for p in GROKKING]
    assert kinds(points) == ORDER


def test_a_learning_rate_restart_is_marked_and_closes_no_gap():
    """The restart drives the training loss up to the validation loss, which improves for as long."""
    restarted = range(3000, 3201)
    points = curve(
        lambda step: 1.9 if step in restarted else falls(3.4, 0.1, 100)(step),
        lambda step: 2.0 if step in restarted else falls(3.4, 3.3, 100)(step),
        learning_rate=lambda step: 1e-3 if step >= 3000 else 1e-3 * (1.01 - step / 3000),
    )
    events = events_of(GrokkingDetector(), points)
    assert [event.kind for event in events][:3] == ["memorised", "plateau", "grokking_onset"]
    assert "grokked" not in [event.kind for event in events]
    onset = events[2]
    assert onset.values["confounded_by_lr"] == 1
    assert "learning rate" in onset.reason
    assert "confounded_by_lr" not in events[1].values


def test_a_warm_up_is_no_restart():
    points = [replace(p, learning_rate=1e-3 * min(1, p.step / 100)) for p in GROKKING]
    assert not any("confounded_by_lr" in event.values for event in events_of(GrokkingDetector(), points))


def test_without_accuracies_grokked_waits_until_a_learning_rate_restart_is_past():
    points = curve(
        falls(3.4, 0.0, 100), falls(4.0, 0.0, 3050, 200), learning_rate=lambda step: 1e-3 if step >= 3000 else 1e-4
    )
    events = {event.kind: event for event in events_of(GrokkingDetector(), points)}
    assert list(events) == ORDER
    assert 3040 <= events["grokking_confirmed"].step <= 3100
    assert events["grokking_confirmed"].values["confounded_by_lr"] == 1
    assert events["grokked"].step > 3300
    assert "confounded_by_lr" not in events["grokked"].values


@pytest.mark.parametrize("detector", [GrokkingDetector, lambda: WindowRule(50)], ids=["states", "window"])
def test_a_run_resumed_at_any_point_has_the_same_events(detector):
    whole = events_of(detector(), GROKKING)
    assert whole
    for cut in range(1, len(GROKKING), 7):
        before, after = detector(), detector()
        events = events_of(before, GROKKING[:cut])
        after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
        assert events + events_of(after, GROKKING[max(0, cut - 5) :]) == whole
        assert after.phase


def test_a_saved_state_does_not_change_when_its_detector_goes_on():
    detector = GrokkingDetector()
    events_of(detector, GROKKING[:20])
    saved = detector.state_dict()
    as_saved = json.dumps(saved)
    resumed = GrokkingDetector()
    resumed.load_state_dict(saved)
    for each in (detector, resumed):
        events_of(each, GROKKING[20:])
    assert json.dumps(saved) == as_saved


def test_values_that_are_not_finite_change_nothing_else():
    points = with_accuracies(GROKKING)
    broken = [
        replace(p, val_loss=math.nan) if p.step % 500 == 0 else replace(p, learning_rate=math.inf) for p in points
    ]
    assert kinds(broken) == ORDER
    assert kinds([replace(p, train_accuracy=math.nan, val_accuracy=math.nan) for p in points]) == ORDER


def test_state_stays_small_over_a_long_run():
    detector = GrokkingDetector()
    for point in curve(falls(3.4, 0.0, 100), lambda step: 3.4 + step / 1e4, last=200_000):
        detector.update(point)
    assert detector.phase == "plateau"
    assert len(json.dumps(detector.state_dict())) < 20_000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grokking", ORDER),
        ("never", ["memorised", "plateau"]),
        ("overfit_text", ["memorised", "plateau"]),
        ("restart_text", []),
    ],
)
def test_curves_of_real_runs(name, expected):
    """Log-spaced evaluations of runs of tests/bench/grokking_curves.py: seeds 0, 7, 11 and 20."""
    assert kinds(read_csv(CURVES / f"{name}.csv")) == expected


def test_the_window_rule_takes_ordinary_learning_for_grokking_and_waits_for_a_full_window():
    learning = curve(falls(5.5, 1.2, 400, 1), falls(5.6, 1.4, 420, 1))
    assert kinds(learning, WindowRule(100)) == ["grokked"]
    assert kinds(learning, WindowRule(1000)) == []
    assert kinds(curve(lambda step: 3.0, lambda step: 3.0), WindowRule(100)) == []
