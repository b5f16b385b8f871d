"""A task of a user's own is tried on its first examples, so that its mistakes are said before training and by name."""

import re
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from genesis_ds.config import BatchConfig, ModelShape, RunConfig
from genesis_ds.data.arithmetic import arithmetic_table
from genesis_ds.errors import UserError
from genesis_ds.model.linear import Linear
from genesis_ds.model.multitask import TokenHead
from genesis_ds.tasks.base import Batch, Losses, Task, TaskContext
from genesis_ds.tasks.trial import try_task

RUN = RunConfig(batch=BatchConfig(seq_len=8, micro_batch_size=4, global_batch_size=4))
TABLE = arithmetic_table(7, "add", 0.5, 0)
SHAPE = ModelShape(vocab_size=260, dim=16, n_heads=2)


class Counting(Task):
    """Rows of ids that count up, on the decoder's own output layer."""

    name = "counting"

    @classmethod
    def build(cls, context):
        return cls()

    def batch(self, positions):
        return Batch({"tokens": torch.stack([torch.arange(8) + position for position in positions])})

    def loss(self, output, batch):
        return F.cross_entropy(output[:, :-1].flatten(0, 1), batch.inputs["tokens"][:, 1:].flatten()), None


def tokens(make):
    return {"batch": lambda self, positions: Batch({"tokens": make(positions)})}


def loss(make):
    return {"loss": lambda self, output, batch: make(output)}


def try_one(task):
    try_task(RUN, SHAPE, task, TaskContext(data=TABLE, seq_len=8, micro_batch_size=4, rows_per_pack=4, seed=0))


def test_a_task_as_it_should_be_passes():
    try_one(Counting())


def test_a_part_of_the_loss_that_is_reported_is_named_before():
    class Parts(Counting):
        extra_losses = ("penalty",)

        def losses(self, output, batch):
            loss, _ = self.loss(output, batch)
            return Losses(2 * loss, own=loss, extra={self.part: loss})

    Parts.part = "penalty"
    try_one(Parts())
    Parts.part = "fine"
    with pytest.raises(UserError, match=r"losses gives fine, which is not among its extra_losses"):
        try_one(Parts())


class Doubled(TokenHead):
    """Gives each state twice."""

    def __init__(self, dim, width):
        super().__init__()
        self.turn = Linear(dim, width, gain=None)

    def forward(self, hidden):
        return self.turn(hidden).repeat(1, 2, 1)


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (16, None),
        (8, r"its head fails .*ValueError: it gives float32 \[4, 16, 8\]; give states \[4, any number, 16\]"),
    ],
)
def test_a_head_on_tokens_gives_states_of_the_models_width(width, said):
    class OnTokens(Counting):
        @classmethod
        def head(cls, dim, options):
            return Doubled(dim, width)

        def loss(self, output, batch):
            assert output.shape == (4, 16, 260), "logits of the states that the head gives"
            return F.cross_entropy(output.flatten(0, 1), batch.inputs["tokens"].repeat(1, 2).flatten()), None

    with pytest.raises(UserError, match=said) if said else nullcontext():
        try_one(OnTokens())


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (
            tokens(lambda p: torch.zeros(4, 9, dtype=torch.long)),
            "batch gives tokens that are int64 [4, 9] for 4 positions",
        ),
        (
            tokens(lambda p: torch.zeros(3, 8, dtype=torch.long)),
            "batch gives tokens that are int64 [3, 8] for 4 positions",
        ),
        (
            tokens(lambda p: torch.zeros(4, 8)),
            "batch gives tokens that are float32 [4, 8] for 4 positions; give int64 [4, T]",
        ),
        (tokens(lambda p: torch.full((4, 8), 260)), "batch gives token ids from 260 to 260; give 0 to 259"),
        (tokens(lambda p: torch.randint(260, (4, 8))), "batch gives other tokens for the same positions"),
        (
            tokens(lambda p: 1 // 0),
            r"batch fails on the first examples: ZeroDivisionError: .*test_own_task_trial\.py:\d+",
        ),
        ({"batch": lambda self, positions: Batch({})}, "batch gives no tokens; give Batch with inputs['tokens']"),
        (loss(lambda output: (output.flatten(), None)), "loss gives float32 [8320] for an output drawn at random"),
        (loss(lambda output: (output.sum() * torch.nan, None)), "loss gives float32 [] = nan"),
        (loss(lambda output: (torch.tensor(0.5), None)), "depends on the output"),
        (
            loss(lambda output: (output.sum(), output)),
            "loss says of examples float32 [4, 8, 260]; give bool [m] or None",
        ),
        (
            loss(lambda output: output.sum()),
            "loss gives float32 [] = ",
        ),
        (
            {"evaluation": lambda self, context: context.token_set},
            "evaluation fails on the first examples: Unavailable",
        ),
        ({"evaluation": lambda self, context: 3}, "evaluation gives int; give a function of the model, or None"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_task(members, said):
    with pytest.raises(UserError) as caught:
        try_one(type("Mistaken", (Counting,), members)())
    message = str(caught.value)
    assert message.startswith("extensions.tasks.counting: ")
    assert said in message or re.search(said, message), message
    assert "\n" not in message
