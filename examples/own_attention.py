"""Custom attention: three classes, each used in a Vision Transformer by one argument.

    python examples/own_attention.py

A core defines the attention weights; causal masks, padding, grouped queries, cached decoding and attention maps follow
from them. A mixer replaces attention altogether. The same classes work from the command line:

    python recipes/vit_cifar.py attention=examples/own_attention.py:Sigmoid
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.nn import Core, CoreSpec, Mixer, MixerConfig


class Sigmoid(Core):
    """Sigmoid attention: each key is weighted independently; rows need not sum to 1 (Ramapuram et al. 2024)."""

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        scores = self.scores(q, k, mask, bias)  # B H N M, -inf where masked
        keys = scores.isfinite().sum(-1, keepdim=True).clamp(min=1)
        return (scores - keys.log()).sigmoid()


class TalkingHeads(Core):
    """Talking heads: linear maps across heads before and after the softmax (Shazeer et al. 2020)."""

    def __init__(self, spec: CoreSpec) -> None:
        super().__init__(spec)
        self.before, self.after = (nn.Parameter(torch.eye(spec.heads)) for _ in range(2))

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        scores = torch.einsum("bgnm,hg->bhnm", self.scores(q, k), self.before)
        return torch.einsum("bgnm,hg->bhnm", self.hide(scores, mask, bias).softmax(-1), self.after)


class Convolution(Mixer):
    """A mixer without attention weights: a depthwise convolution over the sequence."""

    def __init__(self, spec: MixerConfig) -> None:
        super().__init__(spec)
        self.conv = nn.Conv1d(spec.width, spec.width, 5, padding=2, groups=spec.width)

    def forward(self, x: Tensor, context: object, state: object = None) -> Tensor:
        return self.conv(x.mT).mT


def train_a_step(model: nn.Module) -> float:
    """Train one step on random images and return the loss."""
    pixels, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = F.cross_entropy(model(pixel_values=pixels), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    for core in (Sigmoid, TalkingHeads):
        report = zoo.check(core)
        print(report, "\n")
        if not report.ok:
            raise SystemExit(1)
    zoo.register_attention("talking_heads", TalkingHeads)
    for choice in (
        {"attention": Sigmoid},
        {"attention": "talking_heads"},
        {"attention": [Sigmoid, "softmax", "talking_heads", {"kind": "local", "window": 9}, "softmax"]},
        {"mixer": Convolution},
    ):
        model = zoo.create_model("vit_cifar_tiny", seed=0, **choice)
        print(f"{choice}: loss {train_a_step(model):.3f}")


if __name__ == "__main__":
    main()
