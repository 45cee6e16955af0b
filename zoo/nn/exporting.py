"""Whether a model is being exported."""

import torch


def is_exporting() -> bool:
    """Whether `torch.export` traces, whose graph is for any number of rows and tokens.

    `torch.compiler.is_exporting` says so within `torch.compile` as well, before torch 2.12.
    """
    return bool(torch.compiler._is_exporting_flag)
