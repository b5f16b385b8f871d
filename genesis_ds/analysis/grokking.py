"""Grokking in a learning curve: validation follows long after training was memorised (arXiv 2201.02177).

`GrokkingDetector` is a state machine over the points of one curve, made for one task and language: language models
grok locally, group by group of their data (arXiv 2506.21551). Its phases:

    learning -> memorised -> plateau -> onset -> confirmed -> grokked
                    |           |         |          |
                    +-----------+---------+----------+-----> generalised, where there was no delay worth the name

A relapse leads back to the plateau. Losses and accuracies are medians of the last three. Where training accuracy
reaches 0.99, accuracies decide what is `grokked`; where it never does, as with language models, the share of the gap
that has closed does, and a new best of the validation loss is never enough.

All state is JSON. Points at or before the last step seen are dropped, so that a run resumed anywhere has the events of
one that was not interrupted. A point with a loss that is not finite is passed over, a value of the others that is not
finite counts as absent.
"""

import copy
import math
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from genesis_ds.analysis.points import Event, Point

MEDIAN_OF = 3
"""Points whose median is looked at: one outlier changes nothing."""
RUNNING = 5
"""Points running at which losses have to show memorisation or a relapse: noise of 20 % gets past two, and a spike as
AdamW makes it late in training past three or four."""
RUNNING_ACCURACY = 2
"""The same for memorisation by accuracy."""
MEMORISED_ACCURACY = 0.99
GROKKED_ACCURACY = 0.95
"""The accuracies of training and validation between which a delay is called grokking."""
MEMORISED_GAP = 0.2
"""Nats between validation and training below which there is nothing to close: text has this much without memorising."""
MEMORISED_RATIO = 2 / 3
"""Training loss as a share of the validation loss, below which some of the training data are known by heart: at a half
it misses one in five tasks that are a fifth of a language model's loss."""
OVERFIT = 1.1
"""Validation loss over its best: a plateau that lies above it."""
NEW_BEST = 0.99
"""Validation loss over its best: less than this is progress."""
STALL_STEPS = 300
STALL_SHARE = 0.5
"""A plateau is no progress for so many steps, or this share of the step of memorisation if that is more."""
DROP = 0.9
"""Validation loss over the plateau's median (onset) or over the best before it (confirmed): noise stays above."""
HALF = 0.5
"""Share of the gap that is closed at a confirmation; a relapse has lost as much of what was won."""
LOST_ACCURACY = 0.8
"""Validation accuracy of a relapse after 0.95: far enough below it that noise is none."""
CLOSED = 0.9
"""Share of the gap that is closed when generalisation is complete."""
DELAY = 0.5
"""Delay of validation behind training, as a share of the step of memorisation, from which on it is grokking."""
DELAY_OF_GAP = 2.0
"""The same without accuracies: for how long training loss stayed at MEMORISED_RATIO, as a share of the step at which it
came there, which is long before an accuracy of 0.99. Where losses fall as 1 / (1 + step^k), a delay of 0.5 by
accuracies is 4, 2.2 and 1.7 of this for k = 4, 6 and 8."""
LR_RISE = 1.5
"""A rise of the learning rate that may itself move the losses."""
PLATEAU_VALUES = 200
"""Values of a plateau that are kept, evenly spaced over it."""
GAP_GROWTH = 1.05
"""Growth of the largest gap that is worth a record: about 130 records from 0.2 to 100 nats."""


@dataclass
class _State:
    """The state of a detector; it can be written as JSON."""

    phase: str = "learning"
    last_step: int | None = None
    recent: dict[str, list[float]] = field(default_factory=dict)
    """Name of a measure -> its last values."""
    since: dict[str, list[int]] = field(default_factory=dict)
    """Name of a condition that holds -> the step since which it does, and at how many points."""
    memorised_at: int | None = None
    apart_until: int = 0
    """The last step at which training loss was far below validation loss."""
    by_accuracy: bool = False
    """Training accuracy has been at 0.99."""
    generalised_at: int | None = None
    best: float | None = None
    """The best validation loss before the plateau."""
    best_at: int = 0
    gaps: list[list[float]] = field(default_factory=list)
    """[step, gap, validation loss, best validation loss so far] of the gaps that were larger than all before."""
    plateau: list[float] = field(default_factory=list)
    plateau_lowest: float | None = None
    plateau_stride: int = 1
    plateau_seen: int = 0
    gap_closed: float = 0.0
    most_closed: float = 0.0
    lowest_lr: float | None = None
    lr_rose_at: int | None = None


@dataclass(frozen=True)
class _Now:
    """The medians at one point."""

    step: int
    train: float
    val: float
    train_accuracy: float | None
    val_accuracy: float | None

    @property
    def gap(self) -> float:
        return self.val - self.train


class GrokkingDetector:
    """The state machine of this module's docstring, for one curve."""

    def __init__(self) -> None:
        self._state = _State()

    @property
    def phase(self) -> str:
        """learning, memorised, plateau, onset, confirmed, grokked or generalised."""
        return self._state.phase

    @property
    def gap_closed(self) -> float:
        """Share of the largest gap between validation and training loss that has closed, 0 to 1."""
        return self._state.gap_closed

    @property
    def between_onset_and_grokked(self) -> bool:
        """True while something happens that evaluations should not miss."""
        return self.phase in ("onset", "confirmed")

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, which can be written as JSON."""
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict."""
        self._state = _State(**copy.deepcopy(state))

    def update(self, point: Point) -> list[Event]:
        """Return the events that a point brings, none for one at or before the last step."""
        s = self._state
        if s.last_step is not None and point.step <= s.last_step:
            return []
        s.last_step = point.step
        self._see_learning_rate(point)
        if not (math.isfinite(point.train_loss) and math.isfinite(point.val_loss)):
            return []
        now = self._medians(point)
        self._see_losses(now)
        self._see_conditions(now)
        events = []
        while (event := self._transition(now)) is not None:
            events.append(event)
        if s.phase in ("plateau", "onset"):
            self._keep(now.val)
        return events

    def _keep(self, val: float) -> None:
        """Add to the plateau's values. Once they are too many every other one goes, and of later ones comes."""
        s = self._state
        s.plateau_lowest = val if s.plateau_lowest is None else min(val, s.plateau_lowest)
        if s.plateau_seen % s.plateau_stride == 0:
            s.plateau.append(val)
        s.plateau_seen += 1
        if len(s.plateau) == PLATEAU_VALUES:
            s.plateau, s.plateau_stride = s.plateau[::2], 2 * s.plateau_stride

    def _see_learning_rate(self, point: Point) -> None:
        s, lr = self._state, point.learning_rate
        if lr is None or not math.isfinite(lr):
            return
        if s.lowest_lr is not None and lr >= LR_RISE * s.lowest_lr:
            s.lr_rose_at, s.lowest_lr = point.step, lr
        s.lowest_lr = lr if s.lowest_lr is None else min(lr, s.lowest_lr)

    def _medians(self, point: Point) -> _Now:
        measures = {}
        for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
            value = getattr(point, name)
            if value is not None and math.isfinite(value):
                recent = self._state.recent.setdefault(name, [])
                recent.append(value)
                del recent[:-MEDIAN_OF]
                measures[name] = median(recent)
        return _Now(
            step=point.step,
            train=measures["train_loss"],
            val=measures["val_loss"],
            train_accuracy=measures.get("train_accuracy"),
            val_accuracy=measures.get("val_accuracy"),
        )

    def _see_losses(self, now: _Now) -> None:
        """Update the best validation loss, the largest gap and its closed share."""
        s = self._state
        if s.phase in ("learning", "memorised") and (s.best is None or now.val < NEW_BEST * s.best):
            s.best, s.best_at = now.val, now.step
        assert s.best is not None
        if now.gap >= max(MEMORISED_GAP, GAP_GROWTH * (s.gaps[-1][1] if s.gaps else 0)):
            s.gaps.append([now.step, now.gap, now.val, s.best])
        s.gap_closed = self._closed_share(now)
        s.most_closed = max(s.most_closed, s.gap_closed)

    def _closed_share(self, now: _Now) -> float:
        """Return the least of three shares, so that only a validation loss that is better than ever closes the gap.

        Of the largest gap: by how much it is smaller now (a training loss that rises does that), and by how much the
        validation loss has fallen since (recovering from its own overfitting does that). And of the way from the best
        validation loss until then to the training loss, how much is done.
        """
        s = self._state
        if s.memorised_at is None or not s.gaps:
            return 0.0
        _, largest, val, best = s.gaps[-1]
        way = (best - now.val) / (best - now.train) if best > now.train else 0.0
        return min(1.0, max(0.0, min(1 - now.gap / largest, (val - now.val) / largest, way)))

    def _see_conditions(self, now: _Now) -> None:
        """Update since when, and at how many points running, each condition holds."""
        s = self._state
        conditions = {
            "known": (now.train_accuracy or 0.0) >= MEMORISED_ACCURACY,
            "back": bool(s.plateau) and now.val >= median(s.plateau),
            "apart": now.gap >= MEMORISED_GAP and now.train <= MEMORISED_RATIO * now.val,
            "lost": self._lost(now),
        }
        for name, holds in conditions.items():
            if holds:
                s.since.setdefault(name, [now.step, 0])[1] += 1
            else:
                s.since.pop(name, None)
        if "apart" in s.since:
            s.apart_until = now.step
        if not s.by_accuracy and self._running("known", RUNNING_ACCURACY):
            s.by_accuracy, s.memorised_at = True, s.since["known"][0]
        if s.generalised_at is None and (now.val_accuracy or 0.0) >= GROKKED_ACCURACY:
            s.generalised_at = now.step

    def _lost(self, now: _Now) -> bool:
        """Return whether the accuracy, or half of the gap that had closed, is lost again."""
        s = self._state
        if s.by_accuracy and s.generalised_at is not None:
            return now.val_accuracy is not None and now.val_accuracy < LOST_ACCURACY
        return s.most_closed >= HALF and s.gap_closed <= (1 - HALF) * s.most_closed

    def _running(self, condition: str, times: int) -> bool:
        return self._state.since.get(condition, [0, 0])[1] >= times

    def _transition(self, now: _Now) -> Event | None:
        """Return the next event at this point, None when there is none left."""
        phase = self._state.phase
        if phase == "learning":
            return self._memorised(now)
        if phase == "memorised":
            return self._complete(now) or self._plateau(now)
        if phase == "plateau":
            return self._onset(now) or self._complete(now)
        if phase == "onset":
            return self._confirmed(now) or self._complete(now) or self._relapse(now)
        if phase == "confirmed":
            return self._complete(now) or self._relapse(now)
        return self._relapse(now)

    def _memorised(self, now: _Now) -> Event | None:
        s = self._state
        if s.by_accuracy:
            reason = f"training accuracy has reached {MEMORISED_ACCURACY}"
        elif self._running("apart", RUNNING):
            since = s.since["apart"][0]
            if now.train_accuracy is not None and now.step - since < STALL_STEPS:
                return None  # it may still reach 0.99
            s.memorised_at = since
            reason = f"training loss {now.train:.3f} is {now.train / now.val:.0%} of the validation loss {now.val:.3f}"
        else:
            return None
        s.lowest_lr = s.lr_rose_at = None
        return self._enter("memorised", "memorised", now, f"{reason}; since step {s.memorised_at}")

    def _plateau(self, now: _Now) -> Event | None:
        """Return the event of a plateau: overfit, stalled, or apart for a while, so that a passing bump is none."""
        s = self._state
        assert s.best is not None
        assert s.memorised_at is not None
        patience = self._patience()
        if now.val >= OVERFIT * s.best and now.step >= (1 + STALL_SHARE) * s.memorised_at:
            reason = f"validation loss {now.val:.3f} is {now.val / s.best - 1:.0%} above its best {s.best:.3f}"
        elif now.step - max(s.best_at, s.memorised_at) >= patience:
            reason = f"no better validation loss than {s.best:.3f} since step {s.best_at}"
        elif s.gaps and now.step - self._opened() >= patience and now.gap >= HALF * s.gaps[-1][1]:
            reason = f"validation loss has stayed {now.gap:.3f} above training loss"
        else:
            return None
        return self._enter("plateau", "plateau", now, reason, best=s.best)

    def _onset(self, now: _Now) -> Event | None:
        s = self._state
        if s.plateau_lowest is None or not s.gaps:
            return None
        level = median(s.plateau)
        if now.val >= min(DROP * level, s.plateau_lowest) or now.gap > DROP * s.gaps[-1][1]:
            return None
        reason = f"validation loss {now.val:.3f} is {1 - now.val / level:.0%} below its plateau at {level:.3f}"
        return self._enter("onset", "grokking_onset", now, reason, plateau=level)

    def _confirmed(self, now: _Now) -> Event | None:
        s = self._state
        best = s.gaps[-1][3]
        if now.val > DROP * best or s.gap_closed < HALF:
            return None
        below = f"validation loss {now.val:.3f} is {1 - now.val / best:.0%} below the best before the plateau"
        reason = f"{below} and {s.gap_closed:.0%} of the gap are closed"
        return self._enter("confirmed", "grokking_confirmed", now, reason, best=best)

    def _complete(self, now: _Now) -> Event | None:
        """Return `grokked`, never without a confirmation before it, or `generalised` where there was no delay."""
        s = self._state
        assert s.memorised_at is not None
        if s.by_accuracy:
            if s.generalised_at is None:
                return None
            start, end = s.memorised_at, s.generalised_at
            reason = f"validation accuracy {GROKKED_ACCURACY} at step {end}, training accuracy {MEMORISED_ACCURACY}"
        else:
            if s.gap_closed < CLOSED or self._confounded():
                return None
            start, end = s.memorised_at, s.apart_until
            reason = f"{s.gap_closed:.0%} of the gap are closed, which stayed open until step {end} and opened"
        delay = (end - start) / max(1, start)
        kind = "grokked" if delay >= (DELAY if s.by_accuracy else DELAY_OF_GAP) else "generalised"
        if kind == "grokked" and s.phase != "confirmed":
            return self._enter("confirmed", "grokking_confirmed", now, "generalised from one evaluation to the next")
        return self._enter(kind, kind, now, f"{reason} at step {start}", delay=delay)

    def _relapse(self, now: _Now) -> Event | None:
        s = self._state
        if s.phase == "onset":
            if not self._running("back", RUNNING):
                return None
            reason = f"validation loss {now.val:.3f} is back at its plateau"
        else:
            if not self._running("lost", RUNNING):
                return None
            reason = f"{s.gap_closed:.0%} of the gap are closed, after {s.most_closed:.0%}"
            if s.generalised_at is not None and now.val_accuracy is not None:
                reason = f"validation accuracy {now.val_accuracy:.3f}; {reason}"
            s.plateau, s.plateau_lowest, s.plateau_stride, s.plateau_seen = [], None, 1, 0
            s.generalised_at = None
        return self._enter("plateau", "relapse", now, reason)

    def _opened(self) -> int:
        """Return the step at which the gap was half as large as it ever was."""
        gaps = self._state.gaps
        return int(next(step for step, gap, *_ in gaps if gap >= HALF * gaps[-1][1]))

    def _patience(self) -> float:
        return max(STALL_STEPS, STALL_SHARE * (self._state.memorised_at or 0))

    def _confounded(self) -> bool:
        """Return whether the learning rate rose so lately that it may have moved the losses."""
        s = self._state
        assert s.last_step is not None
        return s.lr_rose_at is not None and s.last_step - s.lr_rose_at <= self._patience()

    def _enter(self, phase: str, kind: str, now: _Now, reason: str, **more: float) -> Event:
        s = self._state
        s.phase = phase
        s.most_closed = s.gap_closed
        s.since.pop("lost", None)
        values = {"train_loss": now.train, "val_loss": now.val, "gap_closed": s.gap_closed, **more}
        accuracies = {"train_accuracy": now.train_accuracy, "val_accuracy": now.val_accuracy}
        values |= {name: value for name, value in accuracies.items() if value is not None}
        if self._confounded():
            values["confounded_by_lr"] = 1.0
            reason += f"; confounded: the learning rate rose by {LR_RISE}x or more at step {s.lr_rose_at}"
        return Event(kind, now.step, values, reason)
