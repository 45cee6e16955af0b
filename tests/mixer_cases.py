"""A mixer for tests: the sum of a row's tokens so far, with the state of a recurrence."""

from torch import nn

from zoo.nn import Mixer, RecurrentState


class SumOfRow(Mixer):
    def __init__(self, spec):
        super().__init__(spec)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x, context, state=None):
        x = self.proj(x).cumsum(1)
        if state is not None:
            x = x + state.mixer["total"][:, None]
            state.mixer.update(total=x[:, -1])
        return x

    def new_state(self, batch, capacity, like):
        return RecurrentState(total=like.new_zeros(batch, self.spec.width))
