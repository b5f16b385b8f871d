"""What is left of an engine whose building has failed, as it does where memory runs out."""

import gc
from contextlib import suppress

from genesis_ds.engine import internals


def destroy_unfinished() -> None:
    """Let go of it: DeepSpeed's hooks hold it in cycles through autograd, which Python does not collect."""
    from deepspeed.runtime.base_optimizer import ZeROOptimizer
    from deepspeed.runtime.engine import DeepSpeedEngine

    for each in gc.get_objects():
        if issubclass(type(each), DeepSpeedEngine | ZeROOptimizer):
            with suppress(Exception):  # it lacks what it has not come to
                internals.destroy(each)
