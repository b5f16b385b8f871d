"""`genesis-ds bench`: the real engine on synthetic tokens, beside its plan and beside other training loops."""
