"""The memory plan of a run: what one step needs on the GPU and on the host, without a GPU."""
