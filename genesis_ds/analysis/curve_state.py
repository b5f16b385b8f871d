"""What a detector of grokking remembers of a learning curve, and the conditions that its events rest on."""

import math
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from genesis_ds.analysis.points import Point

MEDIAN_OF = 3
"""Points whose median is looked at: one outlier changes nothing."""
RUNNING = 5
"""Evaluations running at which a condition on losses, or on accuracies that are lost, has to hold: noise of 20 % gets
past two, and a spike as AdamW makes it late in training past three or four."""
RUNNING_MEMORISED = 2
"""The same for memorisation by accuracy, or by the share of the examples that are known by heart."""
MEMORISED_ACCURACY = 0.99
GROKKED_ACCURACY = 0.95
"""The accuracies of training and validation between which a delay is called grokking."""
MEMORISED_SHARE = 0.5
"""Share of the training examples asked for that are given back word for word."""
MEMORISED_GAP = 0.2
"""Nats between validation and training below which there is nothing to close: text has this much without memorising."""
MEMORISED_RATIO = 2 / 3
"""Training loss as a share of the validation loss, below which some of the training data are known by heart: at a half
it misses one in five tasks that are a fifth of a language model's loss."""
NEW_BEST = 0.99
"""Validation loss over its best: less than this is progress."""
DROP = 0.9
"""Validation loss over the plateau's median (onset) or over the best before it (confirmed): noise stays above."""
HALF = 0.5
"""Share of the gap that is closed at a confirmation; a relapse has lost as much of what was won."""
ACCURACY_MOVE = 0.1
"""Rise of the validation accuracy of an onset, fall of a relapse: losses also fall where nothing new is known."""
LOST_ACCURACY = 0.8
"""Validation accuracy of a relapse after 0.95: far enough below it that noise is none."""
COLLAPSE = 0.2
"""Fall of the validation accuracy of a collapse, at full training accuracy (arXiv 2602.02859)."""
PATIENCE_SHARE = 0.5
"""A patience lasts RUNNING evaluations, or this share of the step of memorisation if that is more."""
LR_RISE = 1.5
"""A rise of the learning rate that may itself move the losses."""
LEARNING_RATE = "learning rate"
PLATEAU_VALUES = 200
"""Values of a plateau that are kept, evenly spaced over it."""
GAP_GROWTH = 1.05
"""Growth of the largest gap that is worth a record: about 130 records from 0.2 to 100 nats."""


@dataclass(frozen=True)
class Medians:
    """The medians of the last points, at one point."""

    step: int
    train: float
    val: float
    train_accuracy: float | None
    val_accuracy: float | None

    @property
    def gap(self) -> float:
        """Nats between validation and training loss."""
        return self.val - self.train


@dataclass
class CurveState:
    """The state of a detector; it can be written as JSON. `see` takes in a point, `enter` a new phase."""

    phase: str = "learning"
    entered_at: int = 0
    """The step at which the phase began."""
    last_step: int | None = None
    n_seen: int = 0
    """Evaluations that counted: those that are not passed over."""
    steps: list[int] = field(default_factory=list)
    """The last RUNNING + 1 of their steps."""
    recent: dict[str, list[float]] = field(default_factory=dict)
    """Name of a measure -> its last values."""
    by_accuracy: bool = False
    """Whether both accuracies have been seen, so that they decide."""
    memorised_share: float | None = None
    """The last that was measured."""
    since: dict[str, list[int]] = field(default_factory=dict)
    """Name of a condition that holds -> the step since which it does, and at how many evaluations."""
    memorised_at: int | None = None
    memorised_by: str = "apart"
    """The condition that said so."""
    memorised_number: int = 0
    """The evaluation of it, of n_seen."""
    generalised_at: int | None = None
    generalised_number: int = 0
    apart_until: int = 0
    """The last step at which training loss was far below validation loss."""
    best: float | None = None
    """The best validation loss before the plateau."""
    best_at: int = 0
    stalled: float | None = None
    """A validation loss that later ones are not yet 10 % below."""
    stalled_at: int = 0
    gaps: list[list[float]] = field(default_factory=list)
    """[step, gap, validation loss, best validation loss so far] of the gaps that were larger than all before."""
    gap_closed: float = 0.0
    plateau: list[float] = field(default_factory=list)
    """Validation losses of the plateau, until the onset."""
    plateau_accuracies: list[float] = field(default_factory=list)
    plateau_lowest: float | None = None
    plateau_stride: int = 1
    plateau_seen: int = 0
    plateau_train: float | None = None
    """Training loss as the first plateau began."""
    lowest: float | None = None
    """The lowest validation loss since the plateau."""
    lowest_at: int = 0
    best_accuracy: float = 0.0
    """Validation accuracy: the best since memorisation, onset, relapse or collapse."""
    moving: bool = False
    """Whether the validation loss has left the plateau."""
    changes: dict[str, int] = field(default_factory=dict)
    """What of the run was changed -> the last step at which it was; those that are long past as a move begins go."""
    lowest_lr: float | None = None

    @classmethod
    def from_version_1(cls, saved: dict[str, Any]) -> "CurveState":
        """Return the state of a checkpoint of before accuracies alone decided where they are given.

        Conditions are looked at anew. What was called memorised by losses in spite of accuracies is so no longer.
        """
        if "train_accuracy" in saved["recent"] and not saved["by_accuracy"] and saved["phase"] != "learning":
            return cls(last_step=saved["last_step"])
        same = asdict(cls()).keys() & saved.keys() - {"since"}
        state = cls(**{name: saved[name] for name in same})
        state.by_accuracy = False  # until the next point has both
        state.memorised_by = "known" if saved["by_accuracy"] else "apart"
        state.n_seen = state.plateau_seen
        state.entered_at = saved["last_step"] or 0
        state.moving = state.phase not in ("learning", "memorised", "plateau")
        return state

    @property
    def patience(self) -> float:
        """Steps for which a state has to last; infinite as long as there are too few evaluations."""
        if len(self.steps) <= RUNNING:
            return math.inf
        return max(self.steps[-1] - self.steps[0], PATIENCE_SHARE * (self.memorised_at or 0))

    @property
    def spacing(self) -> int:
        """Steps between the last two evaluations."""
        return self.steps[-1] - self.steps[-2] if len(self.steps) > 1 else 0

    @property
    def level(self) -> float | None:
        """The validation loss from which improvement is measured: the plateau's, or that of the largest gap."""
        if self.plateau:
            return median(self.plateau)
        return self.gaps[-1][2] if self.gaps else None

    @property
    def level_accuracy(self) -> float | None:
        """The validation accuracy of the plateau."""
        return median(self.plateau_accuracies) if self.plateau_accuracies else None

    def running(self, condition: str, times: int = RUNNING) -> bool:
        """Return whether a condition has held for so many evaluations."""
        return self.since.get(condition, [0, 0])[1] >= times

    def held(self, condition: str) -> bool:
        """Return whether a condition has held for a patience."""
        return condition in self.since and self.steps[-1] - self.since[condition][0] >= self.patience

    def confounders(self) -> list[str]:
        """Return what was changed within a patience before now; after an onset, before that or since."""
        if self.moving:
            return list(self.changes)
        return [what for what, step in self.changes.items() if self.steps[-1] - step <= self.patience]

    def long_since(self, step: int) -> bool:
        """Return whether a patience has passed since a step, and half as many steps again as until then."""
        return self.steps[-1] - step >= max(self.patience, PATIENCE_SHARE * step)

    def opened_at(self) -> int:
        """Return the step at which the gap was half as large as it ever was."""
        return int(next(step for step, gap, *_ in self.gaps if gap >= HALF * self.gaps[-1][1]))

    def see(self, point: Point) -> Medians | None:
        """Take in a point; return the medians, None for a point that is passed over."""
        if self.last_step is not None and point.step <= self.last_step:
            return None
        self.last_step = point.step
        self._see_changes(point)
        accuracies = [_finite(value) for value in (point.train_accuracy, point.val_accuracy)]
        self.by_accuracy |= None not in accuracies
        losses = math.isfinite(point.train_loss) and math.isfinite(point.val_loss)
        if not losses or (self.by_accuracy and None in accuracies):
            return None
        if (share := _finite(point.memorised_share)) is not None:
            self.memorised_share = share
        self.n_seen += 1
        self.steps = [*self.steps, point.step][-RUNNING - 1 :]
        now = self._medians(point)
        self._see_losses(now)
        self._see_conditions(now)
        return now

    def _see_changes(self, point: Point) -> None:
        if point.changed:
            self.changes[point.changed] = point.step
        lr = _finite(point.learning_rate)
        if lr is None:
            return
        if self.lowest_lr is not None and lr >= LR_RISE * self.lowest_lr:
            self.changes[LEARNING_RATE], self.lowest_lr = point.step, lr
        self.lowest_lr = lr if self.lowest_lr is None else min(lr, self.lowest_lr)

    def _medians(self, point: Point) -> Medians:
        names = ["train_loss", "val_loss", *(["train_accuracy", "val_accuracy"] if self.by_accuracy else [])]
        measures = {}
        for name in names:
            self.recent[name] = [*self.recent.get(name, []), getattr(point, name)][-MEDIAN_OF:]
            measures[name] = median(self.recent[name])
        return Medians(
            step=point.step,
            train=measures["train_loss"],
            val=measures["val_loss"],
            train_accuracy=measures.get("train_accuracy"),
            val_accuracy=measures.get("val_accuracy"),
        )

    def _see_losses(self, now: Medians) -> None:
        """Update the best validation loss, the largest gap and its closed share."""
        if self.phase in ("learning", "memorised"):
            if self.best is None or now.val < NEW_BEST * self.best:
                self.best, self.best_at = now.val, now.step
            if self.stalled is None or now.val < DROP * self.stalled:
                self.stalled, self.stalled_at = now.val, now.step
        elif self.phase != "plateau" and (self.lowest is None or now.val < NEW_BEST * self.lowest):
            self.lowest, self.lowest_at = now.val, now.step
        assert self.best is not None
        if now.gap >= max(MEMORISED_GAP, GAP_GROWTH * (self.gaps[-1][1] if self.gaps else 0)):
            self.gaps.append([now.step, now.gap, now.val, self.best])
        self.gap_closed = self._closed_share(now)
        self.best_accuracy = max(self.best_accuracy, now.val_accuracy or 0.0)

    def _closed_share(self, now: Medians) -> float:
        """Return the least of three shares, so that only a validation loss that is better than ever closes the gap.

        Of the largest gap: by how much it is smaller now (a training loss that rises does that), and by how much the
        validation loss has fallen since (recovering from its own overfitting does that). And of the way from the best
        validation loss until then to the training loss, how much is done.
        """
        if self.memorised_at is None or not self.gaps:
            return 0.0
        _, largest, val, best = self.gaps[-1]
        way = (best - now.val) / (best - now.train) if best > now.train else 0.0
        return min(1.0, max(0.0, min(1 - now.gap / largest, (val - now.val) / largest, way)))

    def _see_conditions(self, now: Medians) -> None:
        """Update since when, and at how many evaluations running, each condition holds."""
        assert self.best is not None
        full = (now.train_accuracy or 0.0) >= MEMORISED_ACCURACY
        conditions = {
            "known": full if self.by_accuracy else (self.memorised_share or 0.0) >= MEMORISED_SHARE,
            "apart": now.gap >= MEMORISED_GAP and now.train <= MEMORISED_RATIO * now.val,
            "better": now.val <= DROP * self.best,
            "lost": self._lost(now),
            "collapsed": full and (now.val_accuracy or 0.0) <= self.best_accuracy - COLLAPSE,
        }
        for name, holds in conditions.items():
            if holds:
                self.since.setdefault(name, [now.step, 0])[1] += 1
            else:
                self.since.pop(name, None)
        if "apart" in self.since:
            self.apart_until = now.step
        if self.generalised_at is None and (now.val_accuracy or 0.0) >= GROKKED_ACCURACY:
            self.generalised_at, self.generalised_number = now.step, self.n_seen

    def _lost(self, now: Medians) -> bool:
        """Return whether what was won since the plateau is lost again: accuracy where there is any, else loss."""
        if now.val_accuracy is not None:
            if self.generalised_at is not None:
                return now.val_accuracy < LOST_ACCURACY
            won = self.best_accuracy - (self.level_accuracy or 0.0)
            return self.best_accuracy - now.val_accuracy >= max(ACCURACY_MOVE, HALF * won)
        if self.level is None or self.lowest is None:
            return False
        back = self.level if self.phase == "onset" else self.level - HALF * (self.level - self.lowest)
        return now.val >= max(back, self.lowest / DROP)

    def memorised(self, condition: str) -> int:
        """Return the step since which a condition holds; it is the step of memorisation from now on."""
        self.memorised_by, (self.memorised_at, n_points) = condition, self.since[condition]
        self.memorised_number = self.n_seen - n_points + 1
        self.lowest_lr = None  # a warm-up is no rise
        self.changes.pop(LEARNING_RATE, None)
        return self.memorised_at

    def keep_plateau(self, now: Medians) -> None:
        """Add to the plateau's values. Once they are too many every other one goes, and of later ones comes."""
        self.plateau_lowest = now.val if self.plateau_lowest is None else min(now.val, self.plateau_lowest)
        if self.plateau_seen % self.plateau_stride == 0:
            self.plateau.append(now.val)
            self.plateau_accuracies += [] if now.val_accuracy is None else [now.val_accuracy]
        self.plateau_seen += 1
        if len(self.plateau) == PLATEAU_VALUES:
            self.plateau, self.plateau_stride = self.plateau[::2], 2 * self.plateau_stride
            self.plateau_accuracies = self.plateau_accuracies[::2]

    def forget_plateau(self) -> None:
        """Begin a new plateau: what was won is lost."""
        self.plateau, self.plateau_accuracies, self.plateau_lowest = [], [], None
        self.plateau_stride, self.plateau_seen = 1, 0
        self.generalised_at = None

    def enter(self, phase: str, now: Medians) -> None:
        """Begin a phase: an improvement is counted from here, and so is what may be lost of it."""
        if phase in ("memorised", "plateau", "onset"):
            self.best_accuracy = now.val_accuracy or 0.0
        if phase == "plateau":
            if self.phase == "memorised":
                self.plateau_train = now.train
            elif self.phase == "onset" and self.plateau_lowest is not None and self.lowest is not None:
                self.plateau_lowest = min(self.plateau_lowest, self.lowest)  # an onset goes further next time
            self.moving, self.lowest = False, None
        elif self.phase in ("memorised", "plateau"):
            self.changes = {what: self.changes[what] for what in self.confounders()}
            self.moving, self.lowest, self.lowest_at = True, now.val, now.step
        self.phase, self.entered_at = phase, now.step
        self.since = {name: held for name, held in self.since.items() if name not in ("lost", "collapsed")}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
