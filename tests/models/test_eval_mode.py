"""A model is in evaluation mode until the last of the contexts in which it was opened ends."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn

from zoo.models.eval_mode import OPEN, eval_mode


@pytest.mark.parametrize("first_ends_last", [False, True])
def test_contexts_may_end_in_any_order(first_ends_last: bool) -> None:
    part, other = nn.Dropout(0.5), nn.Dropout(0.5)
    model = nn.Sequential(part, other).train()
    other.eval()
    x = torch.ones(100)
    contexts = [ExitStack(), ExitStack()]  # those of two threads
    contexts[0].enter_context(eval_mode(model))
    contexts[1].enter_context(eval_mode(part))
    ended, left = reversed(contexts) if first_ends_last else contexts
    ended.close()
    assert not part.training and torch.equal(part(x), x)
    assert model.training is not first_ends_last
    left.close()
    assert [module.training for module in (model, part, other)] == [True, True, False] and not OPEN


def test_modes_are_those_from_before_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    model[1].eval()
    with pytest.raises(RuntimeError, match="mine"), eval_mode(model), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("mine")
    assert [module.training for module in model.modules()] == [True, True, False] and not OPEN
