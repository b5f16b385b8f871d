"""`genesis-ds` where memory runs out while our engine is built; prints how many of its models are left."""

import gc
import sys
from unittest.mock import patch

import torch

from genesis_ds.cli import main
from genesis_ds.model.multitask import MultiTaskModel

with patch("genesis_ds.engine.engine.StepMeter", side_effect=torch.OutOfMemoryError):
    main(sys.argv[1:])
gc.collect()
print("models left:", sum(type(each) is MultiTaskModel for each in gc.get_objects()))
