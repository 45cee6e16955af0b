"""`zoo.bridge`: join an encoder of images or audio to a text decoder, which reads its features."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from zoo.checkpoints.towers import Locked, Source, check_locked, join, make_tower, split_source
from zoo.models.base import Model
from zoo.models.bridge.config import ENCODERS, BridgeConfig
from zoo.models.bridge.model import Bridge
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.registry import build, family
from zoo.models.tower_config import Part
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_file import parse_tokenizer
from zoo.utils.errors import did_you_mean


def bridge(
    *,
    text: Source,
    image: Source | None = None,
    audio: Source | None = None,
    by: Literal["projector", "resampler", "cross"] = "projector",
    token: str | int | None = None,
    locked: Locked = (),
    seed: int | None = None,
    **options: Any,
) -> Bridge:
    """Create a model that writes texts about images or audio, of an encoder and a text decoder.

        zoo.bridge(image="clip_vit_base_patch32", text="path/to/llama", locked=("image", "text"))
        zoo.bridge(audio="whisper_tiny", text="path/to/llama", by="resampler", resampler_tokens=64)

    A tower is the name of a model (randomly initialized), a folder or hub repository (loaded), a model (not copied; the
    head of an encoder is removed), the matching tower of any of these that has several, or any of these as
    {"name": ..., field: value, ...} with fields of its config.
    by: how the decoder reads the features: "projector", in the places of tokens (LLaVA); "resampler", the same with a
    fixed number of tokens (resampler_tokens=); "cross", by gated cross-attention between its blocks (Flamingo).
    token: the marker of an image in a text, by default "<image>" (or "<audio>"), or its id. A marker that the tokenizer
    does not have is added to it, and the decoder gets an embedding for it, if it has none to spare.
    locked: towers that are frozen, or {tower: number of its last layer groups that are trained}; not saved. seed: as in
    `zoo.create_model`. options: fields of `BridgeConfig`: projector, projector_norm, feature_layer, ...

    Returns a model for `zoo.generate(model, text=..., images=[...])` and training. Raises ValueError for towers that do
    not fit and for unknown options.
    """
    sources = {name: source for name, source in (("image", image), ("audio", audio)) if source is not None}
    if len(sources) != 1:
        raise ValueError(f"expected one encoder, image= or audio=, given {' and '.join(sources) or 'none'}")
    encoder = next(iter(sources))
    check_options(options, encoder)
    frozen = check_locked(locked, (encoder, "text"))
    if seed is None:
        seed = int(torch.randint(2**31, (), device="cpu").item())
    towers = {encoder: encoder_tower(encoder, sources[encoder], seed), "text": text_tower(text, seed)}
    marker = add_marker(towers["text"], f"<{encoder}>" if token is None else token)
    parts: dict[str, Any] = {name: Part(family=tower.family, config=tower.config) for name, tower in towers.items()}
    config = BridgeConfig(**parts | {f"{encoder}_token_id": marker} | options, by=by)
    model: Bridge = join("bridge", config, towers, seed)
    for name, trained in frozen.items():
        model.lock(name, trained)
    return model if any(tower.training for tower in towers.values()) else model.eval()


def check_options(options: Mapping[str, Any], encoder: str) -> None:
    """Raise ValueError for what is not a field that the caller may set."""
    own = {"head", "text", "by", *ENCODERS, *(f"{name}_token_id" for name in ENCODERS)}
    known = [name for name in BridgeConfig.names() if name not in own]
    for name in options:
        if name in own:
            raise ValueError(f"{name} is set by the towers and token=: omit it")
        if name not in known:
            raise ValueError(f"bridge has no option {name!r}{did_you_mean(name, known)} (options: {', '.join(known)})")


def encoder_tower(modality: str, source: Source, seed: int) -> Model:
    """An encoder without a head from a tower argument of `bridge`; of Whisper, the encoder alone."""
    model = make_tower(modality, *split_source(modality, source), None, seed)
    if isinstance(model, EncoderDecoder):
        return encoder_alone(model)
    model.config, model.head, model.labels = model.config.replace(head=None), None, None
    return model


def encoder_alone(model: EncoderDecoder) -> Model:
    """The encoder of an encoder-decoder model, with its processor without the tokenizer of the decoder."""
    pruned = {name: heads for name, heads in (model.config.pruned_heads or {}).items() if name.startswith("encoder.")}
    config = model.config.replace(head=None, decoder_depth=0, pruned_heads=pruned or None)
    found: Any = build(family(model.family), config)
    found.encoder = model.encoder
    found.train(model.training)
    processor: Any = model.preprocess
    found.preprocess = processor and replace(processor, tokenizer=None)
    found.load_report = model.load_report
    return cast(Model, found)


def text_tower(source: Source, seed: int) -> Model:
    """A decoder with its LM head from a tower argument of `bridge`."""
    model = make_tower("text", *split_source("text", source), "lm", seed)
    if model.config.head != "lm":
        raise ValueError(
            f"the text tower has head={model.config.head!r}, expected a decoder with head='lm', such as llama or gpt2"
        )
    return model


# --- The marker -------------------------------------------------------------------------------------------------------


def add_marker(text: Any, token: str | int) -> int:
    """The id of a marker in the vocabulary of a decoder, which gets it where it lacks it."""
    if isinstance(token, int):
        return token
    processor, size = text.preprocess, text.config.vocab_size
    number = size
    if isinstance(processor, TextProcessor):
        backend = parse_tokenizer(processor.tokenizer)
        if (known := backend.token_to_id(token)) is None:
            backend.add_special_tokens([token])
            known = backend.token_to_id(token)
            text.preprocess = replace(processor, tokenizer=backend.to_str())
        number = known
    if number >= size:
        grow_vocabulary(text, number + 1)
    return int(number)


def grow_vocabulary(text: Any, size: int) -> None:
    """Give a decoder embeddings, and rows of its head, for `size` tokens: the new ones are the mean of the others."""

    def grown(old: nn.Parameter) -> nn.Parameter:
        more = size - len(old)
        rows: Tensor = torch.cat([old.detach(), old.detach().mean(0, keepdim=True).expand(more, *old.shape[1:])])
        return nn.Parameter(rows.contiguous(), requires_grad=old.requires_grad)

    word, proj = text.tokens.word, text.head.proj
    tied = proj.weight is word.weight
    word.weight, word.num_embeddings = grown(word.weight), size
    proj.weight = word.weight if tied else grown(proj.weight)
    if isinstance(proj.bias, nn.Parameter):
        proj.bias = grown(proj.bias)
    proj.out_features = size
    text.config = text.config.replace(vocab_size=size)
