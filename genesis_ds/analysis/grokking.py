"""Grokking in a learning curve: validation follows long after training was memorised (arXiv 2201.02177).

`GrokkingDetector` is a state machine over the points of one curve, made for one task and language: language models
grok locally, group by group of their data (arXiv 2506.21551). Its phases:

    learning -> memorised -> plateau -> onset -> confirmed -> grokked, or late_improvement
                    |           |         |          |
                    +-----------+---------+----------+-----> generalised, where there was no delay worth the name,
                                                             undecidable, where evaluations are too few to know

A relapse or a collapse leads back to the plateau. Losses and accuracies are medians of the last three; every span of
time is one of evaluations, or a share of the step of memorisation, so that the unit of steps does not matter.

Where points have both accuracies, these decide, and `grokked` is said of them alone. Where they have not, as with
language models, `late_improvement` is the last event: losses have a floor that nobody knows, so that no share of a
gap shows that a rule was found.

All state is JSON. Points at or before the last step seen are dropped, so that a run resumed anywhere has the events of
one that was not interrupted. A point with a loss that is not finite is passed over, and so is one that lacks an
accuracy in a curve with accuracies; a value of the others that is not finite counts as absent.
"""

import copy
from dataclasses import asdict
from typing import Any

from genesis_ds.analysis.curve_state import (
    ACCURACY_MOVE,
    DROP,
    GROKKED_ACCURACY,
    HALF,
    MEMORISED_ACCURACY,
    PATIENCE_SHARE,
    RUNNING_MEMORISED,
    CurveState,
    Medians,
)
from genesis_ds.analysis.points import Event, Point

OVERFIT = 1.1
"""Validation loss over its best: a plateau that lies above it."""
CLOSED = 0.9
"""Share of the gap that is closed when generalisation is complete."""
DELAY = 0.5
"""Delay of validation behind training, as a share of the step of memorisation, from which on it is late."""
DELAY_OF_GAP = 2.0
"""The same where losses alone say what is memorised: they do so long before an accuracy of 0.99. Where they fall as
1 / (1 + step^k), a delay of 0.5 by accuracies is 4, 2.2 and 1.7 of this for k = 4, 6 and 8."""
DELAY_EVALUATIONS = 4
"""Evaluations from memorisation to generalisation with which a delay is known to a quarter of itself."""
RISEN = 0.1
"""Rise of the training loss since the plateau began, as a share of what validation has won."""
FINAL = ("grokked", "late_improvement", "generalised", "undecidable")


class GrokkingDetector:
    """The state machine of this module's docstring, for one curve."""

    def __init__(self) -> None:
        self._state = CurveState()

    @property
    def phase(self) -> str:
        """learning, memorised, plateau, onset, confirmed, or one of FINAL."""
        return self._state.phase

    @property
    def gap_closed(self) -> float:
        """Share of the largest gap between validation and training loss that has closed, 0 to 1."""
        return self._state.gap_closed

    @property
    def between_onset_and_grokked(self) -> bool:
        """True while the validation loss falls to what it may settle at: evaluations should not miss it."""
        s = self._state
        return s.phase in ("onset", "confirmed") and not self._settled()

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, which can be written as JSON."""
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict."""
        self._state = CurveState(**copy.deepcopy(state))

    def update(self, point: Point) -> list[Event]:
        """Return the events that a point brings, none for one at or before the last step."""
        now = self._state.see(point)
        if now is None:
            return []
        events = []
        while (event := self._transition(now)) is not None:
            events.append(event)
        if self.phase == "plateau":
            self._state.keep_plateau(now)
        return events

    def _transition(self, now: Medians) -> Event | None:
        """Return the next event at this point, None when there is none left."""
        phase = self.phase
        if phase == "learning":
            return self._memorised(now)
        if phase == "memorised":
            return self._collapse(now) or self._complete(now) or self._plateau(now)
        if phase == "plateau":
            return self._collapse(now) or self._onset(now) or self._complete(now)
        if phase == "onset":
            return self._collapse(now) or self._confirmed(now) or self._complete(now) or self._relapse(now)
        return self._collapse(now) or self._complete(now) or self._relapse(now)

    def _memorised(self, now: Medians) -> Event | None:
        s = self._state
        if s.running("known", RUNNING_MEMORISED):
            since = s.memorised("known")
            reason = f"training accuracy has reached {MEMORISED_ACCURACY}"
            if not s.by_accuracy:
                reason = f"{s.memorised_share:.0%} of the training examples are given back word for word"
        elif s.running("apart") and not s.by_accuracy and s.memorised_share is None:
            since = s.memorised("apart")
            reason = f"training loss {now.train:.3f} is {now.train / now.val:.0%} of the validation loss {now.val:.3f}"
        else:
            return None
        return self._enter("memorised", "memorised", now, f"{reason}; since step {since}")

    def _plateau(self, now: Medians) -> Event | None:
        """Return the event of a plateau: overfit, stalled, or apart for a while, so that a passing bump is none."""
        s = self._state
        assert s.best is not None
        assert s.memorised_at is not None
        if now.val >= OVERFIT * s.best and now.step >= (1 + PATIENCE_SHARE) * s.memorised_at:
            reason = f"validation loss {now.val:.3f} is {now.val / s.best - 1:.0%} above its best {s.best:.3f}"
        elif s.long_since(max(s.best_at, s.memorised_at)):
            reason = f"no better validation loss than {s.best:.3f} since step {s.best_at}"
        elif s.gaps and now.gap >= HALF * s.gaps[-1][1] and s.long_since(max(s.stalled_at, s.opened_at())):
            reason = f"validation loss has stayed {now.gap:.3f} above training loss, hardly lower since {s.stalled_at}"
        else:
            return None
        return self._enter("plateau", "plateau", now, reason, best=s.best)

    def _onset(self, now: Medians) -> Event | None:
        s = self._state
        level, accuracy = s.level, s.level_accuracy
        if s.plateau_lowest is None or level is None or not s.gaps:
            return None
        if now.val >= min(DROP * level, s.plateau_lowest) or now.gap > DROP * s.gaps[-1][1]:
            return None
        reason = f"validation loss {now.val:.3f} is {1 - now.val / level:.0%} below its plateau at {level:.3f}"
        if now.val_accuracy is not None and accuracy is not None:
            if now.val_accuracy < accuracy + ACCURACY_MOVE:
                return None
            reason += f", accuracy {now.val_accuracy:.3f} above {accuracy:.3f}"
        return self._enter("onset", "grokking_onset", now, reason, plateau=level)

    def _confirmed(self, now: Medians) -> Event | None:
        s = self._state
        assert s.best is not None
        if now.val > DROP * s.best or s.gap_closed < HALF:
            return None
        reason = f"{self._below_best(now)} and {s.gap_closed:.0%} of the gap are closed"
        return self._enter("confirmed", "grokking_confirmed", now, reason, best=s.best)

    def _complete(self, now: Medians) -> Event | None:
        """Return a last event, None where there is none yet or was one already."""
        if self.phase in FINAL:
            return None
        return self._complete_by_accuracy(now) if self._state.by_accuracy else self._complete_by_loss(now)

    def _complete_by_accuracy(self, now: Medians) -> Event | None:
        """Return `grokked`, never without a confirmation before it, or what is said where the delay is not known."""
        s = self._state
        start, end = s.memorised_at, s.generalised_at
        assert start is not None
        if end is None:
            return None
        delay, one_more = (end - start) / max(1, start), s.spacing / max(1, start)
        n_between = s.generalised_number - s.memorised_number
        reason = (
            f"validation accuracy {GROKKED_ACCURACY} at step {end}, training accuracy {MEMORISED_ACCURACY} at {start}"
        )
        if n_between < DELAY_EVALUATIONS and delay + one_more >= DELAY:
            reason += f": {n_between} evaluations from one to the other, {DELAY_EVALUATIONS} are needed"
            return self._enter("undecidable", "undecidable", now, reason, evaluations=n_between)
        kind = "grokked" if delay >= DELAY else "generalised"
        if kind == "grokked" and s.phase != "confirmed":
            return self._confirm_jump(now)
        return self._enter(kind, kind, now, reason, delay=delay)

    def _complete_by_loss(self, now: Medians) -> Event | None:
        s = self._state
        assert s.memorised_at is not None
        late = DELAY if s.memorised_by == "known" else DELAY_OF_GAP
        return self._closed(now, s.memorised_at, late) or self._improved(now, s.memorised_at, late)

    def _closed(self, now: Medians, start: int, late: float) -> Event | None:
        """Return `generalised` where the gap has closed without a delay."""
        s = self._state
        if s.gap_closed < CLOSED or s.confounders():
            return None
        delay = (s.apart_until - start) / max(1, start)
        if delay < late:
            reason = f"{s.gap_closed:.0%} of the gap are closed, which stayed open until step {s.apart_until}"
            return self._enter("generalised", "generalised", now, f"{reason} and opened at {start}", delay=delay)
        return self._confirm_jump(now) if s.phase in ("memorised", "plateau") else None

    def _improved(self, now: Medians, start: int, late: float) -> Event | None:
        """Return `late_improvement` a patience after a confirmation, or without one once the loss has settled."""
        s = self._state
        over = {"onset": self._settled(), "confirmed": now.step - s.entered_at >= s.patience}.get(s.phase, False)
        if not over or not s.held("better") or self._training_loss_rose(now):
            return None
        since = s.since["better"][0]
        delay = (since - start) / max(1, start)
        if delay < late and s.phase == "onset":
            return None
        kind = "late_improvement" if delay >= late else "generalised"
        reason = f"{self._below_best(now)}, since step {since}; memorised at step {start}"
        return self._enter(kind, kind, now, reason, delay=delay)

    def _confirm_jump(self, now: Medians) -> Event:
        """Return the confirmation of what was complete before an onset was seen."""
        s = self._state
        if s.phase == "memorised" and s.gaps:
            s.best = s.gaps[-1][3]  # it has followed the validation loss down
        return self._enter("confirmed", "grokking_confirmed", now, "generalised without an onset before")

    def _relapse(self, now: Medians) -> Event | None:
        s = self._state
        if not s.running("lost"):
            return None
        if now.val_accuracy is not None:
            reason = f"validation accuracy {now.val_accuracy:.3f} after {s.best_accuracy:.3f}"
        else:
            reason = f"validation loss {now.val:.3f} after {s.lowest:.3f}, from its plateau at {s.level:.3f}"
        if s.phase != "onset":
            s.forget_plateau()
        return self._enter("plateau", "relapse", now, reason)

    def _collapse(self, now: Medians) -> Event | None:
        s = self._state
        if not s.running("collapsed"):
            return None
        reason = f"validation accuracy {now.val_accuracy:.3f} after {s.best_accuracy:.3f}, training accuracy is full"
        s.forget_plateau()
        return self._enter("plateau", "collapse", now, reason)

    def _settled(self) -> bool:
        """Return whether the validation loss has made no progress for a patience."""
        s = self._state
        return (s.last_step or 0) - s.lowest_at >= s.patience

    def _training_loss_rose(self, now: Medians) -> bool:
        s = self._state
        assert s.best is not None
        return s.plateau_train is not None and now.train - s.plateau_train > RISEN * (s.best - now.val)

    def _below_best(self, now: Medians) -> str:
        best = self._state.best
        assert best is not None
        return f"validation loss {now.val:.3f} is {1 - now.val / best:.0%} below the best before the plateau"

    def _enter(self, phase: str, kind: str, now: Medians, reason: str, **more: float) -> Event:
        s = self._state
        s.enter(phase, now)
        values = {"train_loss": now.train, "val_loss": now.val, "gap_closed": s.gap_closed, **more}
        accuracies = {"train_accuracy": now.train_accuracy, "val_accuracy": now.val_accuracy}
        values |= {name: value for name, value in accuracies.items() if value is not None}
        confounded_by = ", ".join(s.confounders()) or None
        if confounded_by:
            reason += f"; confounded by a change of {confounded_by}"
        return Event(kind, now.step, values, reason, confounded_by)


def from_version_1(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state_dict of a detector of before accuracies alone decided where they are given, as one of now."""
    return asdict(CurveState.from_version_1(state))
