"""Tiny encoder-decoders, every parameter random, and sources for them."""

import torch

import zoo

SOURCE = torch.randint(4, 61, (3, 7), generator=torch.Generator().manual_seed(1))
KEEP = torch.tensor([[1] * 7, [1] * 3 + [0] * 4, [0] * 2 + [1] * 5])
FEATURES = torch.randn(3, 80, 20, generator=torch.Generator().manual_seed(3))


def nano(name: str, options: dict) -> zoo.Model:
    options = options | ({"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0} if name == "whisper_nano" else {})
    if name == "marian_nano":
        options = options | dict(pad_token_id=60, decoder_start_token_id=60)
    model = zoo.create_model(name, seed=0, **options).eval()
    with torch.no_grad():
        for i, tensor in enumerate([*model.parameters(), *model.buffers()]):  # fresh norms are 1 and biases 0
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i)))
    return model
