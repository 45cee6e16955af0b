"""Import what children would otherwise import each for itself: a forked child is then there in a moment."""

import lightning  # noqa: F401
import sklearn.feature_extraction.text
import sklearn.linear_model  # noqa: F401
import torch
import torch._dynamo

torch.set_num_threads(1)
