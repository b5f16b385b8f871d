from types import SimpleNamespace

from genesis_ds.hooks.base import Hook
from genesis_ds.training.trainer import Trainer


def test_a_request_to_stop_is_left_to_the_loop_only_once_the_untrained_model_has_been_measured():
    """Until then it ends the process at once (supervision/stop.py), in the midst of a measurement too."""
    order = []

    class Probe(Hook):
        def before_training(self, global_step):
            order.append(f"measured at step {global_step}")

    trainer = object.__new__(Trainer)
    state = SimpleNamespace(global_step=0, is_complete=lambda run: True)
    vars(trainer).update(
        run=None, hooks={"a": Probe(), "b": Probe()}, state=state, begins=lambda: order.append("begins")
    )
    trainer.train()
    assert order == ["measured at step 0", "measured at step 0", "begins"]
