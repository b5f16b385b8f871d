"""What the console hears of the graphs that the blocks are compiled to."""

import pytest
from torch._dynamo.utils import counters

from genesis_ds import metrics
from genesis_ds.config import CompileConfig
from genesis_ds.engine.compiled_blocks import LEFT_OUT, CompiledBlocks
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.observe.compilation import Compilation


@pytest.fixture
def told(monkeypatch):
    """Return what the hook says at the next step, and how many graphs it counts."""
    monkeypatch.setitem(counters, "stats", type(counters["stats"])())
    monkeypatch.setitem(counters, "graph_break", type(counters["graph_break"])())
    hook = Compilation(CompiledBlocks([], CompileConfig()), every=1)

    def tell():
        record = StepRecord(1, 10)
        hook.on_step(record)
        return record.texts.get(metrics.COMPILED), record.metrics[metrics.GRAPHS]

    return tell


def test_more_graphs_are_told_once(told):
    counters["stats"]["unique_graphs"] = 5
    assert told() == ("blocks compiled to 5 graphs", 5)
    assert told() == (None, 5)


def test_a_graph_that_ends_within_a_block_is_told_with_its_reason_but_not_what_is_left_out_on_purpose(told):
    counters["stats"]["unique_graphs"] = 6
    counters["graph_break"][f"Skip calling `{LEFT_OUT}()`d function\n more"] = 3
    counters["graph_break"]["Failed to trace builtin operator\n more"] = 1
    assert told() == ("blocks compiled to 6 graphs; a graph ends early: Failed to trace builtin operator", 6)
