import math
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from helpers.learning_curves import GROKKING, Loss, curve, falls, kinds, with_accuracies

from genesis_ds.analysis.curves import events_of
from genesis_ds.analysis.grokking import GrokkingDetector
from genesis_ds.analysis.points import Point
from genesis_ds.analysis.window_rule import WindowRule
from genesis_ds.report.curve_files import read_csv

CURVES = Path(__file__).parents[2] / "data" / "curves"
STAGES = ["memorised", "plateau", "grokking_onset", "grokking_confirmed"]
ORDER = [*STAGES, "grokked"]
BY_LOSS = [*STAGES, "late_improvement"]
both = pytest.mark.parametrize(
    ("known", "order"), [(with_accuracies, ORDER), (list, BY_LOSS)], ids=["accuracies", "losses"]
)


@both
def test_late_generalisation_is_announced_in_stages(known, order):
    events = events_of(GrokkingDetector(), known(GROKKING))
    assert [event.kind for event in events] == order
    memorised, _, onset, confirmed, last = (event.step for event in events)
    assert 60 <= memorised <= 400
    assert 1500 <= onset < confirmed < last <= 5300
    assert all(event.values["val_loss"] > 0 and "\n" not in event.reason for event in events)


@pytest.mark.parametrize("every", [7, 50, 200])
def test_stages_do_not_depend_on_the_spacing_of_evaluations(every):
    assert kinds(curve(falls(3.4, 0.0, 100), falls(4.0, 0.0, 2500), every=every)) == BY_LOSS


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
        "late_improvement": False,
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


def test_a_new_best_that_leaves_the_gap_open_is_a_late_improvement_and_not_grokked():
    assert kinds(curve(falls(3.4, 0.0, 100), falls(4.0, 1.0, 2500))) == BY_LOSS


@pytest.mark.parametrize(("end", "stages"), [(3.3, STAGES[:3]), (1.0, BY_LOSS)])
def test_recovering_from_overfitting_is_an_improvement_only_below_the_best_before_it(end, stages):
    """Of 12 nats of gap 8.7 close, and none of the 3.4 from the best before the overfitting; or 11, and 2.4 of them."""
    overfit = falls(12.0, end, 3000)
    points = curve(falls(3.4, 0.0, 100), lambda step: 3.4 if step < 200 else overfit(step))
    assert kinds(points) == stages


def with_text(points: list[Point], *, share: float, entropy: float, overfit: float) -> list[Point]:
    """Mixed with text that is memorised from step 300 on: a share of the tokens follows the rule of the points.

    entropy: nats a token that nothing can foresee. overfit: nats that validation on text rises by on the way.
    """
    train, val, rises = falls(5.5, 0.03, 300, 2), falls(5.5, entropy, 300, 2), falls(0.0, overfit, 600, 2)
    return [
        Point(
            p.step,
            share * p.train_loss + (1 - share) * train(p.step),
            share * p.val_loss + (1 - share) * (val(p.step) + rises(p.step)),
        )
        for p in points
    ]


RULE = curve(falls(3.4, 0.0, 100), falls(4.0, 0.0, 6000, 30), 30_000)
"""The end is held for as long again and more."""


UNCONFIRMED = [*STAGES[:3], "late_improvement"]


@pytest.mark.parametrize(
    ("share", "overfit", "order"),
    [
        (0.5, 0.0, BY_LOSS),
        (0.5, 0.5, BY_LOSS),
        (0.2, 0.0, UNCONFIRMED),
        (0.2, 2.0, UNCONFIRMED),
        (0.05, 2.0, STAGES[:2]),
    ],
)
def test_text_that_is_memorised_has_no_grokked_no_relapse_and_no_dense_evaluation_for_ever(share, overfit, order):
    """Its entropy keeps the gap open. What 1 in 20 tokens follow improves the whole by less than 10 %."""
    detector = GrokkingDetector()
    assert kinds(with_text(RULE, share=share, entropy=1.0, overfit=overfit), detector) == order
    assert not detector.between_onset_and_grokked


@pytest.mark.parametrize("entropy", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("sharpness", [1, 1.5, 2, 3])
def test_validation_that_is_learnt_ever_more_slowly_is_no_late_improvement(sharpness, entropy):
    points = curve(falls(5.5, 0.03, 300, 2), falls(5.5, entropy, 600, sharpness), 60_000, 100)
    found = kinds(points)
    assert found[0] == "memorised"
    assert not {"late_improvement", "grokking_confirmed"} & {*found}


def test_late_improvement_is_held_for_a_patience_and_comes_late():
    def val(until: int) -> Loss:
        return lambda step: 3.0 if 3000 <= step < until else 4.0

    train = falls(3.4, 0.0, 100)
    assert "late_improvement" not in kinds(curve(train, val(3080)))
    assert "late_improvement" in kinds(curve(train, val(6001)))
    early = kinds(curve(train, lambda step: 4.0 if step < 280 else 3.0))
    assert "plateau" in early
    assert "late_improvement" not in early


def test_a_training_loss_that_rises_to_the_validation_loss_closes_no_gap():
    points = curve(
        lambda step: falls(3.4, 0.1, 100)(step) + falls(0.0, 1.8, 3000)(step),
        lambda step: falls(3.4, 3.3, 100)(step) - falls(0.0, 1.3, 3000)(step),
    )
    detector = GrokkingDetector()
    assert kinds(points, detector) == ORDER[:3]
    assert detector.gap_closed < 0.5


@both
def test_losing_what_was_won_is_a_relapse_or_a_collapse_and_it_can_be_won_again(known, order):
    def val(step: int) -> float:
        return 5.0 if 4000 < step <= 5000 else falls(4.0, 0.02, 1500)(step)

    lost = "collapse" if order is ORDER else "relapse"
    assert kinds(known(curve(falls(3.4, 0.0, 100), val))) == [*order, lost, *order[2:]]


def known(first_known: int, val_accuracy: Loss, val_loss: Loss, last: int = 6000) -> list[Point]:
    """All training examples are known from a step on."""
    points = curve(falls(3.4, 0.0, first_known), val_loss, last)
    return [replace(p, train_accuracy=float(p.step >= first_known), val_accuracy=val_accuracy(p.step)) for p in points]


def test_a_validation_loss_that_falls_without_more_right_answers_is_no_onset():
    falling = falls(4.0, 1.5, 3000)
    assert kinds(known(100, lambda step: 0.3, falling)) == STAGES[:2]
    assert kinds(known(100, lambda step: 0.3 if step < 3000 else 0.45, falling)) == STAGES


def test_right_answers_that_stay_are_no_relapse_wherever_the_loss_goes():
    def val(step: int) -> float:
        return 4.0 if step < 2000 or step > 3000 else 2.5

    stays = known(100, lambda step: 0.3 if step < 2000 else 0.6, val)
    assert kinds(stays) == STAGES[:3]
    falls_back = known(100, lambda step: 0.6 if 2000 <= step < 4000 else 0.44, val)
    assert kinds(falls_back) == [*STAGES[:3], "relapse"]


def test_losses_above_the_onset_and_below_the_plateau_are_no_relapse():
    """The plateau is that of before the onset, however long that lasts."""
    points = curve(falls(3.4, 0.0, 100), lambda step: 4.0 if step < 600 else 3.3 if step < 5000 else 3.5, 6000)
    assert kinds(points) == [*STAGES[:3], "late_improvement"]


@pytest.mark.parametrize("until", [3060, 6001])
def test_a_fall_of_validation_accuracy_at_full_training_accuracy_is_a_collapse_if_it_lasts(until):
    points = known(100, lambda step: 0.02 if 3000 <= step < until else 0.78, lambda step: 4.0)
    assert kinds(points) == [*STAGES[:2], *(["collapse"] if until == 6001 else [])]
    untrained = [replace(p, train_accuracy=0.9 if p.step >= 3000 else p.train_accuracy) for p in points]
    assert kinds(untrained) == STAGES[:2]


@pytest.mark.parametrize("missing", ["train_accuracy", "val_accuracy"])
def test_an_accuracy_on_one_side_counts_for_nothing(missing):
    assert kinds([replace(p, **{missing: None}) for p in with_accuracies(GROKKING)]) == BY_LOSS


def test_a_point_that_lacks_an_accuracy_of_the_curve_is_passed_over():
    points = with_accuracies(GROKKING)
    holes = [replace(p, val_accuracy=None, val_loss=99.0) if p.step % 100 else p for p in points]
    assert kinds([*points[:3], *holes[3:]]) == ORDER


@both
def test_events_do_not_depend_on_the_unit_of_steps(known, order):
    points = known(GROKKING)
    events = events_of(GrokkingDetector(), points)
    hundredfold = events_of(GrokkingDetector(), [replace(p, step=100 * p.step) for p in points])
    assert [(event.kind, event.step) for event in hundredfold] == [(event.kind, 100 * event.step) for event in events]
    numbered = events_of(GrokkingDetector(), [replace(p, step=number) for number, p in enumerate(points)])
    assert [(event.kind, 20 * event.step + 20) for event in numbered] == [(event.kind, event.step) for event in events]


@pytest.mark.parametrize("name", ["grokking", "never"])
def test_numbered_evaluations_of_real_runs_have_the_same_last_event(name):
    points = read_csv(CURVES / f"{name}.csv")
    numbered = kinds([replace(p, step=number) for number, p in enumerate(points)])
    assert numbered[-1] in ("plateau", kinds(points)[-1])


@pytest.mark.parametrize(("every", "last"), [(50, "grokked"), (100, "grokked"), (200, "undecidable")])
def test_a_delay_with_too_few_evaluations_is_undecidable(every, last):
    """Training is known from step 200 on, validation from step 600."""
    points = [
        Point(step, 0.5, 0.6, train_accuracy=float(step >= 200), val_accuracy=float(step >= 600))
        for step in range(every, 2000, every)
    ]
    events = events_of(GrokkingDetector(), points)
    assert events[-1].kind == last
    if last == "undecidable":
        assert events[-1].values["evaluations"] == 3
        assert "3 evaluations from one to the other, 4 are needed" in events[-1].reason


def test_memorised_waits_for_an_accuracy_of_99_percent_or_the_share_known_by_heart():
    apart = curve(falls(3.4, 0.0, 100), lambda step: 4.0)
    almost = [replace(p, train_accuracy=min(0.98, p.step / 3000), val_accuracy=0.2) for p in apart]
    assert kinds(almost) == []
    shares = [replace(p, memorised_share=p.step / 6000 if p.step % 200 == 0 else None) for p in apart]
    memorised = events_of(GrokkingDetector(), shares)[0]
    assert 3000 <= memorised.step <= 3100
    assert "50% of the training examples are given back word for word" in memorised.reason


def test_noise_of_a_fifth_hides_no_grokking_and_is_not_taken_for_it():
    random = Random(0)

    def noisy(points: list[Point]) -> list[Point]:
        factors = ((math.exp(random.gauss(0, 0.2)), math.exp(random.gauss(0, 0.2))) for _ in points)
        return [
            replace(p, train_loss=p.train_loss * a, val_loss=p.val_loss * b)
            for p, (a, b) in zip(points, factors, strict=True)
        ]

    ordinary = curve(falls(5.5, 0.9, 400, 1), falls(5.6, 1.0, 420, 1))
    assert all("late_improvement" in kinds(noisy(GROKKING)) for _ in range(10))
    assert not any("late_improvement" in kinds(noisy(ordinary)) for _ in range(10))
    plateau = curve(falls(3.4, 0.0, 100), lambda step: 4.0, last=20_000)
    assert sum(kinds(noisy(plateau)).count("grokking_onset") for _ in range(10)) < 60


def test_a_spike_is_no_relapse():
    points = [replace(p, val_loss=4.0) if p.step in (4000, 4020, 5000) else p for p in GROKKING]
    assert kinds(points) == BY_LOSS


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
    assert onset.confounded_by == "learning rate"
    assert "confounded by a change of learning rate" in onset.reason
    assert events[1].confounded_by is None


def test_a_warm_up_is_no_restart():
    points = [replace(p, learning_rate=1e-3 * min(1, p.step / 100)) for p in GROKKING]
    assert not any(event.confounded_by for event in events_of(GrokkingDetector(), points))


@both
@pytest.mark.parametrize("changed", ["data", "task weights", "weight decay", "learning rate"])
def test_what_follows_a_change_is_marked_until_it_is_lost_again(known, order, changed):
    """The change is at step 3,000; losses fall from there, are back at 4,000 for a while and fall once more."""

    def val(step: int) -> float:
        return 4.0 if 4000 < step <= 5000 else falls(4.0, 0.0, 3050, 200)(step)

    points = known(curve(falls(3.4, 0.0, 100), val))
    if changed == "learning rate":
        points = [replace(p, learning_rate=1e-3 if p.step >= 3000 else 1e-4) for p in points]
    else:
        points = [replace(p, changed=changed if p.step == 3000 else None) for p in points]
    events = events_of(GrokkingDetector(), points)
    assert [event.kind for event in events][:5] == order
    assert [event.confounded_by for event in events] == [*(None, None), *(changed, changed, changed), *4 * (None,)]


def test_values_that_are_not_finite_change_nothing_else():
    points = with_accuracies(GROKKING)
    broken = [
        replace(p, val_loss=math.nan) if p.step % 500 == 0 else replace(p, learning_rate=math.inf) for p in points
    ]
    assert kinds(broken) == ORDER
    assert kinds([replace(p, train_accuracy=math.nan, val_accuracy=math.nan) for p in points]) == BY_LOSS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grokking", ORDER),
        ("never", ["memorised", "plateau"]),
        ("overfit_text", []),
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
