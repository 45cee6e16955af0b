"""Import what children would otherwise import each for itself: a forked child is then there in a moment."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import lightning  # noqa: F401
import torch

torch.set_num_threads(1)
import torch._dynamo
