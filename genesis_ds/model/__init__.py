"""The decoder: Llama-style blocks with rotary positions, SwiGLU, grouped-query attention and DeepNorm."""
