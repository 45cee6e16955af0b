"""`zoo.generate_images`: images for texts, by models of image tokens (DALL-E, MaskGIT).

DALL-E samples one token after the other, with caches and the fast steps of `zoo.generate`. MaskGIT fills in many tokens
at a time, see `parallel_decoding`. An image tokenizer makes pixels of the tokens, and a contrastive model may choose
among several images for a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.generate import generator_of
from zoo.inference.generation.graph_decoding import reading_by_graphs
from zoo.inference.generation.parallel_decoding import ParallelOptions, fill_in
from zoo.inference.generation.prompt import Prompt
from zoo.inference.generation.sampling import Sampling, require
from zoo.models.base import Model
from zoo.models.contrast.model import Contrastive
from zoo.models.dalle.model import Dalle
from zoo.models.eval_mode import eval_mode
from zoo.models.maskgit.model import MaskGIT
from zoo.models.text_to_image import TextToImageModel
from zoo.utils.errors import did_you_mean

OPTIONS = ("temperature", "top_k", "top_p", "min_p")
PARALLEL_OPTIONS = ("temperature", "steps", "choice_temperature")


@dataclass(frozen=True)
class GeneratedImages:
    """What `zoo.generate_images` returns, for T texts the I images of each, the best first.

    tokens [T, I, rows, columns]: codes of the image tokenizer. scores [T, I]: the log-probability of the tokens that
    were sampled, or with `rerank` the similarity of image and text. pixel_values [T, I, C, H, W]: uint8; None for a
    model without an image tokenizer.
    """

    tokens: Tensor
    scores: Tensor
    pixel_values: Tensor | None = None

    @property
    def images(self) -> list[list[Any]]:
        """PIL images, a list for each text. Raises ValueError for a model without an image tokenizer."""
        if self.pixel_values is None:
            raise ValueError(
                "the model has no image tokenizer that makes pixels of its tokens: pass image_tokenizer= to "
                "zoo.generate_images, or save it with the model, model.set_image_tokenizer(...)"
            )
        return [[to_pil(image) for image in row] for row in self.pixel_values]


def generate_images(
    model: Model,
    texts: Any,
    *,
    num_images: int = 1,
    guidance_scale: float = 1.0,
    seed: int | None = None,
    images: Any = None,
    keep: int | Tensor | None = None,
    image_tokenizer: Model | None = None,
    rerank: Model | None = None,
    **options: Any,
) -> GeneratedImages:
    """Generate `num_images` images for each text: a text, a list of texts, or {"input_ids", "attention_mask"}.

    guidance_scale: s of classifier-free guidance (Ho and Salimans 2022), whose scores are u + s * (c - u) with c those
    for the text and u those for an empty one; 1: none. It needs a model that was trained with `text_dropout`.
    seed: of the random numbers. images: what is to be completed, an image for each text (or one for all): images that
    the image tokenizer reads, or their tokens [T, rows, columns]. keep: which of their tokens stay: a number of rows
    from the top, or for MaskGIT booleans [rows, columns]. image_tokenizer: by default the one of the model.
    rerank: a contrastive model of images and texts, by whose similarity the images are ordered.
    options: temperature (default 1; 0 takes the most probable token), for DALL-E top_k, top_p and min_p as in
    `zoo.generate`, for MaskGIT steps (default 8) and choice_temperature (default 4.5), see `parallel_decoding`.
    """
    painter = check_model(model)
    check_options(painter, num_images, guidance_scale, options)
    tokenizer = tokenizer_for(painter, image_tokenizer)
    prompts, names = text_batch(painter, texts)
    if rerank is not None:
        check_rerank(rerank, names, tokenizer)
    rows = len(prompts["input_ids"])
    with eval_mode(painter), torch.inference_mode():
        known = known_tokens(painter, tokenizer, images, keep, rows)
        generator = generator_of(seed, painter.device)
        run: Callable[..., tuple[Tensor, Tensor]] = complete if isinstance(painter, Dalle) else complete_parallel
        ids, scores = run(painter, prompts, known, num_images, guidance_scale, generator, **options)
        tokens = ids.view(rows, num_images, *painter.config.image_grid)
        scores = scores.view(rows, num_images)
        pixels = None if tokenizer is None else pixels_of(tokenizer, tokens)
        if rerank is None or pixels is None:
            return GeneratedImages(tokens, scores, pixels)
        scores = similarities(rerank, names, pixels)
    order = scores.argsort(1, descending=True)
    pick = torch.arange(rows, device=order.device)[:, None], order
    return GeneratedImages(tokens[pick], scores[pick], pixels[pick])


# --- token by token ---------------------------------------------------------------------------------------------------


def complete(
    model: Dalle,
    prompts: dict[str, Tensor],
    known: Tensor,
    copies: int,
    guidance: float,
    generator: torch.Generator | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """(tokens [T * copies, n], log-probabilities [T * copies]) after the first tokens `known` [T, n], -1 for others."""
    sampling = Sampling(**{"temperature": 1.0} | options)
    first, room = int((known[0] >= 0).sum()), int((known[0] < 0).sum())
    start, offset = known[:, :first], model.config.text_tokens
    ids = model.joint_tokens(**prompts, image_ids=start)
    if guidance != 1:
        ids = torch.cat([ids, model.joint_tokens(*without_text(prompts), start)])
    session, scores = Prompt(model, ids, None, room, copies).read()
    found = [start.repeat_interleave(copies, 0)]
    total = torch.zeros(len(found[0]), device=start.device)
    with reading_by_graphs(session, scores, room):
        for step in range(room):
            scores = guided(scores, guidance)
            token = sampling.choose(scores, None, generator)
            total = total + sampling.log_probability(scores, None, token)
            found.append(token[:, None])
            if step + 1 < room:
                read = (token + offset)[:, None]
                scores = session.read(read if guidance == 1 else torch.cat([read, read]))
    return torch.cat(found, 1), total


def guided(scores: Tensor, scale: float) -> Tensor:
    """Scores of classifier-free guidance, of rows with a text followed by as many without."""
    if scale == 1:
        return scores
    with_text, without = scores.chunk(2)
    return without + scale * (with_text - without)


def without_text(prompts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask of empty texts."""
    return torch.zeros_like(prompts["input_ids"]), torch.zeros_like(prompts["input_ids"])


# --- MaskGIT ----------------------------------------------------------------------------------------------------------


def complete_parallel(
    model: MaskGIT,
    prompts: dict[str, Tensor],
    known: Tensor,
    copies: int,
    guidance: float,
    generator: torch.Generator | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """(tokens [T * copies, n], log-probabilities [T * copies]), with the tokens `known` [T, n], -1 for unknown."""
    batch = prompts
    if guidance != 1:
        ids, mask = without_text(batch)
        mask_of_texts = batch.get("attention_mask", real_tokens(model, batch["input_ids"]))
        batch = {"input_ids": torch.cat([batch["input_ids"], ids]), "attention_mask": torch.cat([mask_of_texts, mask])}
    text = model.read_text(**batch)
    if text is None:
        batch = {name: value.repeat_interleave(copies, 0) for name, value in batch.items()}
    else:
        text.reorder(torch.arange(len(batch["input_ids"]), device=known.device).repeat_interleave(copies))
        batch = {}

    def scores_of(image_ids: Tensor, places: Tensor) -> Tensor:
        if guidance != 1:
            image_ids, places = torch.cat([image_ids, image_ids]), torch.cat([places, places])
        return guided(model.scores_at(places, image_ids, text, **batch), guidance)

    start = known.repeat_interleave(copies, 0)
    return fill_in(scores_of, start, model.config.mask_token_id, ParallelOptions(**options), generator)


def real_tokens(model: TextToImageModel, ids: Tensor) -> Tensor:
    """The mask of texts without one."""
    pad = model.config.pad_token_id
    return torch.ones_like(ids) if pad is None else (ids != pad).long()


# --- inputs -----------------------------------------------------------------------------------------------------------


def check_model(model: Any) -> Any:
    if not isinstance(model, Dalle | MaskGIT) or model.head is None:
        raise ValueError(
            f"images are generated by models of image tokens (dalle, maskgit) with their head, given a "
            f"{type(model).__name__} with head={getattr(getattr(model, 'config', None), 'head', None)!r}"
        )
    return model


def options_for(model: Any) -> tuple[str, ...]:
    """The options of `generate_images` for a model of its family."""
    return OPTIONS if isinstance(model, Dalle) else PARALLEL_OPTIONS


def check_options(model: TextToImageModel, num_images: int, guidance: float, options: dict[str, Any]) -> None:
    require(isinstance(num_images, int) and num_images > 0, "num_images", num_images, "a whole number of at least 1")
    require(
        isinstance(guidance, int | float) and guidance >= 0, "guidance_scale", guidance, "0 or more, 1 for no guidance"
    )
    if guidance != 1 and model.config.text_dropout == 0:
        raise ValueError(
            f"guidance_scale={guidance}: the model was trained without dropped texts (text_dropout=0), so it knows no "
            "scores without a text: use guidance_scale=1, or train with model.text_dropout=0.1"
        )
    allowed = options_for(model)
    for name in options:
        if name not in allowed:
            raise TypeError(
                f"generate_images has no option {name!r} for {type(model).__name__}{did_you_mean(name, allowed)} "
                f"(options: {', '.join(allowed)})"
            )


def tokenizer_for(model: TextToImageModel, tokenizer: Model | None) -> Any:
    """The image tokenizer: the one given, if its codebook fits, or that of the model."""
    if tokenizer is None:
        return model.image_tokenizer
    if not hasattr(tokenizer, "tokenize") or not hasattr(tokenizer, "decode"):
        raise ValueError(f"image_tokenizer: expected a model such as dvae_small, given a {type(tokenizer).__name__}")
    model.config.check_image_tokenizer(tokenizer.config)
    return tokenizer


def text_batch(model: TextToImageModel, texts: Any) -> tuple[dict[str, Tensor], list[str] | None]:
    """(input_ids and attention_mask on the device of the model, the texts themselves if they are some)."""
    names = None
    if isinstance(texts, str) or (isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)):
        names = [texts] if isinstance(texts, str) else list(texts)
        if model.preprocess is None:
            raise ValueError(
                "the model has no text tokenizer: set model.preprocess to the TextProcessor that it was trained with, "
                "or pass {'input_ids': ..., 'attention_mask': ...}"
            )
        texts = model.preprocess(names)
    elif isinstance(texts, Tensor):
        texts = {"input_ids": texts}
    if not isinstance(texts, dict) or "input_ids" not in texts:
        raise ValueError(f"texts: expected a text, a list of texts or token ids, given a {type(texts).__name__}")
    known = ("input_ids", "attention_mask")
    return {name: texts[name].to(model.device) for name in known if name in texts}, names


def known_tokens(model: TextToImageModel, tokenizer: Any, images: Any, keep: Any, rows: int) -> Tensor:
    """The tokens that stay [T, n] of images to be completed, and -1 for those that are generated."""
    c = model.config
    unknown = torch.full((rows, c.image_length), -1, device=model.device)
    if images is None:
        if keep is not None:
            raise ValueError("keep= says which tokens of images= stay: give both or none")
        return unknown
    if keep is None:
        raise ValueError("images= needs keep=, the number of rows that stay, or booleans of their tokens")
    stays = kept(keep, c.image_grid, isinstance(model, Dalle)).to(model.device)
    ids = model.flat_image_ids(image_tokens(tokenizer, images).to(model.device))
    if len(ids) not in (1, rows) or ids.shape[1] != c.image_length:
        raise ValueError(
            f"images: expected one, or one for each of {rows} texts, of {c.image_length} tokens, got {len(ids)} of "
            f"{ids.shape[1]}"
        )
    if int(ids.max()) >= c.image_vocab_size:
        raise ValueError(f"images has the token {int(ids.max())}, expected 0 to {c.image_vocab_size - 1}")
    return torch.where(stays, ids, unknown)


def kept(keep: Any, grid: tuple[int, int], in_order: bool) -> Tensor:
    """Which tokens stay, bool [n]. in_order: only first ones can, as the others follow them."""
    rows, columns = grid
    if isinstance(keep, int) and not isinstance(keep, bool):
        if not 0 <= keep < rows:
            raise ValueError(f"keep={keep}: the image has {rows} rows of tokens, expected 0 to {rows - 1} that stay")
        return torch.arange(rows * columns) < keep * columns
    stays = torch.as_tensor(keep)
    if stays.dtype != torch.bool or tuple(stays.shape) != tuple(grid):
        raise ValueError(f"keep: expected a number of rows, or booleans [{rows}, {columns}], got {tuple(stays.shape)}")
    stays = stays.flatten().cpu()
    if bool(stays.all()):
        raise ValueError("keep: all tokens stay, so there is nothing to generate")
    if in_order and bool(stays[int(stays.sum()) :].any()):
        raise ValueError(
            "keep: DALL-E generates tokens row by row, so only the first ones can stay; use a MaskGIT model for others"
        )
    return stays


def image_tokens(tokenizer: Any, images: Any) -> Tensor:
    """Tokens of images: given as integers, or made by the image tokenizer of images or their pixel_values."""
    if isinstance(images, Tensor) and not images.is_floating_point():
        return images[None] if images.ndim == 2 else images
    if tokenizer is None:
        raise ValueError("images= are read by an image tokenizer: pass image_tokenizer=, or the tokens of the images")
    if not isinstance(images, Tensor):
        images = tokenizer.preprocess(images)["pixel_values"]
    ids: Tensor = tokenizer.tokenize(images.to(tokenizer.device))
    return ids


# --- pixels and scores ------------------------------------------------------------------------------------------------


def pixels_of(tokenizer: Any, tokens: Tensor) -> Tensor:
    """uint8 [T, I, C, H, W] of tokens [T, I, rows, columns]."""
    with eval_mode(tokenizer):
        values = tokenizer.decode(tokens.flatten(0, 1).to(tokenizer.device))
    preprocess = tokenizer.preprocess or tokenizer.default_preprocess()
    pixels: Tensor = preprocess.to_images(values)
    return pixels.unflatten(0, tokens.shape[:2])


def to_pil(pixels: Tensor) -> Any:
    """uint8 [C, H, W] -> a PIL image."""
    from PIL import Image

    array = pixels.cpu().movedim(0, -1).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def check_rerank(rerank: Any, names: Sequence[str] | None, tokenizer: Any) -> None:
    if not isinstance(rerank, Contrastive) or {"image", "text"} - set(rerank.modalities):
        raise ValueError(
            f"rerank: expected a contrastive model of images and texts, given a {type(rerank).__name__}: zoo.contrast "
            "makes one, recipes/clip_pairs.py trains one"
        )
    if names is None or tokenizer is None:
        missing = "texts as strings" if names is None else "an image tokenizer"
        raise ValueError(f"rerank= compares pixels with texts: it needs {missing}")


def similarities(rerank: Any, texts: Sequence[str] | None, pixels: Tensor) -> Tensor:
    """The cosine similarities [T, I] of texts and their images."""
    assert texts is not None
    images = [to_pil(image) for row in pixels for image in row]
    with eval_mode(rerank):
        batch = rerank.preprocess(images=images, text=list(texts))
        output = rerank(**{name: value.to(rerank.device) for name, value in batch.items()})
    image = output.image_features.unflatten(0, pixels.shape[:2])
    scores: Tensor = torch.einsum("tiw,tw->ti", image, output.text_features)
    return scores.to(pixels.device)
