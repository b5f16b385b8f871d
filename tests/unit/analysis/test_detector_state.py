"""The state of a detector: resumed anywhere, saved, and small."""

import json
from dataclasses import replace

import pytest
from helpers.learning_curves import GROKKING, curve, falls, with_accuracies

from genesis_ds.analysis.curves import events_of
from genesis_ds.analysis.grokking import GrokkingDetector
from genesis_ds.analysis.window_rule import WindowRule


@pytest.mark.parametrize(
    ("detector", "known"),
    [(GrokkingDetector, list), (GrokkingDetector, with_accuracies), (lambda: WindowRule(50), list)],
    ids=["losses", "accuracies", "window"],
)
def test_a_run_resumed_at_any_point_has_the_same_events(detector, known):
    points = [replace(p, changed="data" if p.step == 1700 else None) for p in known(GROKKING)]
    points[150:170] = [replace(p, val_loss=6.0) for p in points[150:170]]
    whole = events_of(detector(), points)
    assert whole
    for cut in range(1, len(points), 7):
        before, after = detector(), detector()
        events = events_of(before, points[:cut])
        after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
        assert events + events_of(after, points[max(0, cut - 5) :]) == whole
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


def test_state_stays_small_over_a_long_run():
    detector = GrokkingDetector()
    for point in curve(falls(3.4, 0.0, 100), lambda step: 3.4 + step / 1e4, last=200_000):
        detector.update(point)
    assert detector.phase == "plateau"
    assert len(json.dumps(detector.state_dict())) < 20_000
