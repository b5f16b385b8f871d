"""What a checkpoint keeps of hooks is what they gave it."""

import pytest

from genesis_ds.hooks.base import Hook
from genesis_ds.training.saving import hook_states


class Keeping(Hook):
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


@pytest.mark.parametrize("state", [{"worst": (1.0,)}, {"by_layer": [{3: 0.5}]}, {"best": {1.0}}, [1.0]])
def test_a_state_that_json_does_not_give_back_is_refused_by_the_hooks_name(state):
    with pytest.raises(TypeError, match="mine"):
        hook_states({"mine": Keeping(state)})


def test_lists_and_text_keys_are_kept():
    state = {"best": [1.0, None], "by_layer": {"3": float("nan")}}
    assert hook_states({"mine": Keeping(state)})["mine"]["state"] == state
