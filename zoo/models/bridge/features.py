"""Features of an encoder in the places of tokens."""

import torch
from torch import Tensor


def real_features(x: Tensor, counts: Tensor) -> Tensor:
    """Which of the features [I, T, W] are real [I, T], of which each has `counts` [I]."""
    return torch.arange(x.shape[1], device=x.device) < counts[:, None]


def put_features(words: Tensor, where: Tensor, features: Tensor) -> Tensor:
    """The embedded tokens [B, N, D] with features [F, D] at the F places where `where` [B, N] is True, in order."""
    return words.masked_scatter(where[..., None], features.to(words.dtype))


def check_places(where: Tensor, features: Tensor | None, token: str, what: str, trust: bool) -> None:
    """Raise ValueError unless there are as many places as features [F, D]; None: there are no images.

    token: how a message calls the token of the places; what: what the features are of. trust: do not wait for a GPU,
    on which an assertion fails later.
    """
    if torch.compiler.is_compiling() or where.is_meta:
        return
    count = 0 if features is None else len(features)
    if trust and where.is_cuda:
        torch._assert_async(where.sum() == count, f"input_ids must have one token {token} for each feature")
        return
    if (places := int(where.sum())) == count:
        return
    if features is None:
        raise ValueError(
            f"input_ids have {places} tokens {token}, and no {what} were given: pass what model.preprocess makes of "
            f"them beside input_ids, or remove the tokens"
        )
    found = f"only {places} tokens" if 0 < places < count else f"{places or 'no'} tokens"
    raise ValueError(
        f"input_ids have {found} {token}, but the {what} have {count} features: expected one token for each feature, "
        "in the order of the features, as model.preprocess writes them"
    )
