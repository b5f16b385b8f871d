"""The micro-steps of an optimizer step, as DeepSpeed's buffers see them."""

from genesis_ds.memory.deepspeed.buffers import DeepSpeedBuffers


def walk_states(states: DeepSpeedBuffers) -> None:
    """Play all micro-steps of one optimizer step, of which the activations take nothing."""
    modules = list(dict.fromkeys(weight.module for weight in states.parameters))
    for micro_step in range(states.config.steps):
        for module in modules:
            states.enter(module)
            states.leave(module)
        for module in reversed(modules):
            states.enter(module)
            for weight in reversed(states.parameters):
                if weight.module == module:
                    states.gradient(weight)
                    states.keep(weight)
            states.leave(module)
        states.end_backward(micro_step == states.config.steps - 1)
