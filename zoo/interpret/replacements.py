"""What stands in the place of a part of an input: of tokens, pixels, spectrograms and samples.

No replacement is neutral: each is an input that the model was hardly trained on, and results depend on it. It is
therefore an option, and part of what a result says.
"""

import torch
from torch import Tensor

from zoo.interpret.scored_inputs import Part, ScoredInputs, tokenizer_of
from zoo.utils.errors import check_choice

BLUR = 0.05  # standard deviation of the blur, relative to the longer side


def replacement_values(inputs: ScoredInputs, part: Part, values: Tensor, how: str) -> Tensor:
    """What replaces the values of a part: [B, N, D] embeddings of tokens, or the input itself, float32.

    how: "zero"; "mean", of tokens the mean embedding of the vocabulary, of images that of each channel, of spectrograms
    that of each mel bin over what is not padding; of tokens also "pad" or "mask", the embedding of that token; of
    images and spectrograms also "blur". Padding and special tokens keep their values.

    Raises: ValueError for another one, and for a token that the tokenizer does not have.
    """
    check_choice(f"the replacement of {part.name}", how, choices(part))
    if how == "zero":
        new = torch.zeros_like(values)
    elif part.words is not None and how == "mean":
        new = part.words.weight.detach().float().mean(0).expand_as(values)  # type: ignore[operator]
    elif part.words is not None:
        token = torch.full_like(inputs.batch[part.key], token_id(inputs, how))
        with torch.no_grad():
            new = part.words(token).float()
    elif how == "mean":
        new = mean_of(part, values)
    else:
        new = blurred(values)
    return torch.where(part.per_number(part.free), new, values)


def choices(part: Part) -> tuple[str, ...]:
    """The replacements that a part has."""
    if part.words is not None:
        return ("mean", "zero", "pad", "mask")
    is_waveform = part.cells is not None and part.cells.ndim == 1
    return ("zero",) if is_waveform else ("zero", "mean", "blur")


def token_id(inputs: ScoredInputs, role: str) -> int:
    """The id of the "pad" or "mask" token. Raises ValueError if there is none."""
    tokenizer = tokenizer_of(inputs.model)
    found = None if tokenizer is None else tokenizer.id(role)
    if found is None and role == "pad":
        found = getattr(inputs.model.config, "pad_token_id", None)
    if found is None:
        raise ValueError(f"the model has no {role} token: choose another replacement")
    return int(found)


def mean_of(part: Part, values: Tensor) -> Tensor:
    """The mean of each channel of images [B, C, H, W], or of each mel bin of spectrograms."""
    if part.is_image:
        return values.mean((2, 3), keepdim=True).expand_as(values)
    real = part.per_number(part.keep.float()).expand_as(values)
    assert part.time_axis is not None
    dim = 1 + part.time_axis
    return ((values * real).sum(dim, keepdim=True) / real.sum(dim, keepdim=True).clamp(min=1)).expand_as(values)


def blurred(values: Tensor) -> Tensor:
    """Images [B, C, H, W] or spectrograms [B, T, F] after a Gaussian blur."""
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = max(values.shape[-2:]) * BLUR
    images = values if values.ndim == 4 else values[:, None]
    sizes = [min(2 * round(3 * sigma) + 1, 2 * side - 1) for side in reversed(values.shape[-2:])]
    found: Tensor = gaussian_blur(images, sizes, [sigma, sigma])
    return found if values.ndim == 4 else found[:, 0]
