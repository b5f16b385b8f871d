"""genesis_ds: deep, narrow decoders on small parallel corpora, trained by DeepSpeed at the memory frontier."""

__version__ = "0.1.0"
