"""The buffers of DeepSpeed's ZeRO stages."""
