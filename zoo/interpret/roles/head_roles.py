"""Which roles the heads of a model have, measured.

    found = zoo.head_roles(model, texts)
    print(found)
    found.plot("roles.png")

A role is a pattern of attention that papers describe, such as looking at the token before. Each head gets a score in
each role, beside the score of uniform attention and that of the same architecture with random weights. A score says
what a head attends to, not what the model needs it for: switch it off to test that.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.caption_prompts import reads_images
from zoo.interpret.capture import unwrap
from zoo.interpret.roles.alignment_roles import NO_LINKS, pair_batches, read_pair
from zoo.interpret.roles.audio_roles import audio_batches, tone_batches
from zoo.interpret.roles.batches import RoleBatch
from zoo.interpret.roles.caption_roles import NO_CAPTIONS, caption_batches, is_captioned
from zoo.interpret.roles.image_roles import NO_BOXES, image_batches, split_boxes
from zoo.interpret.roles.measure import Measurement, is_causal
from zoo.interpret.roles.result import ROLES, HeadRole, HeadRoles
from zoo.interpret.roles.sentence_roles import sentence_batches
from zoo.interpret.roles.token_roles import repeated_batches, text_batches, window_batches
from zoo.interpret.roles.token_rows import TokenRow, encode_texts, frame_of
from zoo.models.base import Model
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.text import TextModel
from zoo.models.text_to_image import TextToImageModel
from zoo.models.towers import TowersModel
from zoo.preprocessing.modality import MODALITIES, item_modality, of_model

NO_TOKENIZER = "the model has no tokenizer: set model.preprocess, see zoo.preprocessing.text.TextProcessor"
NO_TEXTS = "no texts are given"
NO_SEPARATOR = "the tokenizer puts no special token after a text"
NO_SPANS = "the tokenizer does not say which characters a token has"
NO_QUERIES = "no input has both such keys and a token that counts as a query"


def head_roles(model: Any, data: Any = None, *, sampling_rate: int | None = None, seed: int = 0) -> HeadRoles:
    """Scores of all attention heads in the roles that apply to the modality of a model.

    A score is a mean over queries of the attention to the keys of the role; of agreement, coreference, same_object and
    harmonic less the attention to the keys that they are compared with. Padding and special tokens are no queries. The
    chance level is the score of attention that is uniform over the keys which each query may attend to, the control
    that of the same architecture with random weights; both are computed on the same inputs.

    Texts: `previous`, `next`, `separator`, `punctuation` (Clark et al. 2019, https://arxiv.org/abs/1906.04341),
    `same`, `first` (Xiao et al. 2023, https://arxiv.org/abs/2309.17453), `rare`, the rarest tokens of each text, by the
    number of times that they occur in all of them (Voita et al. 2019, https://arxiv.org/abs/1905.09418). On generated
    inputs: `induction`, on random tokens that are repeated (Olsson et al. 2022, https://arxiv.org/abs/2209.11895),
    `duplicate` (Wang et al. 2022, https://arxiv.org/abs/2211.00593), and on generated English and German sentences
    `agreement` of a verb with its subject and not with another noun (Linzen et al. 2016,
    https://arxiv.org/abs/1611.01368), and `coreference` of a pronoun that fits two nouns. In a decoder the query of
    coreference is the word that decides between them, since it comes after the pronoun.
    Images: `same`, `local` (the 8 patches around; Cordonnier et al. 2020, https://arxiv.org/abs/1911.03584), `border`,
    `first`, and with boxes `object` and `same_object`.
    Audio: `previous`, `next`, `same`, `local`, `first`, and on generated tones `onset` and `harmonic`.
    Translation: the roles of texts on both sides, and `alignment` in cross-attention.
    Captions (BLIP, CoCa): those of images in the encoder; with captions those of texts in the decoder and text tower.
    All: `position` and `relative_position`, how well the maps of other inputs of equal length predict the map of an
    input, 1 - residual / total, where the total is the squared difference from uniform attention; 0 for uniform
    attention.

    Args:
        model: A model of texts, images or audio, an encoder-decoder of texts, or several towers, of which the one is
            measured that takes the data.
        data: Texts, or token ids [B, N] without padding (for a model without a tokenizer); images, or pairs (image,
            boxes), boxes being (left, top, right, bottom) of each object in pixels; audio clips; for an encoder-decoder
            texts, or pairs (source, target) or (source, target, alignment), such as "0-0 1-2" by numbers of words;
            for a model that describes images, images, or pairs (image, boxes) or (image, caption).
            None: what needs no data.
        sampling_rate: Of audio clips without one.
        seed: Of the random weights of the control and of the generated inputs.

    Raises: ValueError for data of another modality, for a model without attention weights or of a family that is not
        measured, and for inputs that `model.preprocess` does not take.
    """
    model = unwrap(model)
    if not isinstance(model, Model):
        raise ValueError(f"expected a zoo.Model, given a {type(model).__name__}: zoo.load loads one from a folder")
    items = as_items(data)
    part, processor, prefix = part_of(model, items)
    modality = modality_of(part)
    check_items(items, modality, part)
    measurement = Measurement(part, seed)
    batches, left_out = roles_of(part, modality)(part, processor, items, sampling_rate, seed)
    for batch in batches:
        measurement.add(batch)
    rows = [
        HeadRole(prefix + layer, head, role, *values)
        for layer, role, *scores in measurement.scores()
        for head, values in enumerate(zip(*scores, strict=True))
    ]
    rows, impossible = without_impossible(rows, measurement)
    missing = {prefix + name: kind for name, kind in measurement.missing.items()}
    source = f"{len(items)} {MODALITIES[modality].plural}" if items else "generated inputs"
    rows.sort(key=lambda row: list(ROLES).index(row.role))
    return HeadRoles(rows, impossible | left_out, missing, f"{type(part).__name__}, {source}")


def as_items(data: Any) -> list[Any]:
    """The data as a list of items."""
    if data is None:
        return []
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise ValueError(f"data={data!r:.80}: expected a list of texts, images or audio clips")
    items = list(data)
    if not items:
        raise ValueError("data is empty: expected at least one text, image or audio clip, or None for the roles that "
                         "need no data")  # fmt: skip
    return items


def part_of(model: Model, items: list[Any]) -> tuple[Any, Any, str]:
    """(the model or the tower that takes the items, its processor, what the names of its layers begin with)."""
    if not isinstance(model, TowersModel):
        return model, model.preprocess, ""
    if not items:
        raise ValueError(f"the model has the towers {', '.join(model.modalities)}: give data of the one to measure")
    first = items[0][0] if is_boxed(items[0]) else items[0]
    modality = item_modality(first)
    processor = getattr(model.preprocess, modality, None)
    tower = model.tower(modality)
    return tower, tower.preprocess if processor is None else processor, f"{modality}."


def is_boxed(item: Any) -> bool:
    """Whether an item is an image with boxes: a tuple whose second entry is neither a text nor a sampling rate."""
    return isinstance(item, tuple) and len(item) == 2 and not isinstance(item[1], str | int | float)


def modality_of(part: Any) -> str:
    """The modality of the encoder of a model. Raises ValueError for families with inputs of several ones."""
    if reads_images(part):
        return "image"
    if isinstance(part, TextToImageModel):
        raise ValueError(
            f"head_roles does not measure {type(part).__name__}: its stack reads each text, padded to "
            f"{part.config.text_length} tokens, with an image behind it, so that roles of texts or of images alone do "
            "not apply; zoo.explore shows its maps"
        )
    found = [record.name for record in of_model(part)]
    supported = isinstance(part, TextModel | EncoderDecoder) or hasattr(part, "patches") or hasattr(part, "frames")
    if len(found) != 1 or not supported:
        raise ValueError(
            f"head_roles does not measure {type(part).__name__}, which takes {', '.join(part.inputs)}: expected a "
            "model of texts, images or audio, or one with separate towers"
        )
    return "text" if MODALITIES[found[0]].strings else found[0]


def check_items(items: list[Any], modality: str, part: Any) -> None:
    """Raise ValueError for an item of another modality."""
    for index, item in enumerate(items):
        if modality == "image" and (is_boxed(item) or (reads_images(part) and is_captioned(item))):
            item = item[0]
        if modality == "text":
            pair = isinstance(item, tuple | list) and isinstance(part, EncoderDecoder)
            ids = isinstance(item, Tensor) and item.ndim == 1 and item.dtype in (torch.int32, torch.int64)
            if isinstance(item, str) or pair or ids:
                continue
        elif item_modality(item) == modality or (modality == "audio" and hasattr(item, "shape") and item.ndim == 1):
            continue
        given = item if isinstance(item, str) else type(item).__name__
        raise ValueError(
            f"item {index} is {given!r:.80}: the model takes {MODALITIES[modality].plural}"
            + (", or token ids [B, N]" if modality == "text" else "")
            + (", or pairs (image, caption)" if reads_images(part) else "")
        )


def without_impossible(rows: list[HeadRole], measurement: Measurement) -> tuple[list[HeadRole], dict[str, str]]:
    """(rows without roles whose keys no query may attend to, {one of these or a role without queries: the reason})."""
    possible = {row.role for row in rows if row.role in measurement.signed or row.chance > 0 or "position" in row.role}
    never = {row.role for row in rows} - possible
    reason = "no query may attend to these keys, such as later tokens in a decoder or those outside of a window"
    unused = dict.fromkeys(measurement.without_queries(), NO_QUERIES)
    return [row for row in rows if row.role in possible], unused | dict.fromkeys(never, reason)


# --- modalities ---------------------------------------------------------------------------------------------------

Found = tuple[Iterable[RoleBatch], dict[str, str]]


def roles_of(part: Any, modality: str) -> Callable[..., Found]:
    """The function that makes the batches of a model."""
    if reads_images(part):
        return caption_roles
    return {"text": text_roles, "image": image_roles, "audio": audio_roles}[modality]


def text_roles(part: Any, processor: Any, items: list[Any], _: int | None, seed: int) -> Found:
    """Batches of texts, of repeated random tokens and of generated sentences."""
    left_out: dict[str, str] = {}
    groups: list[Iterable[RoleBatch]] = []
    own = ("previous", "next", "same", "first", "position", "relative_position", "punctuation", "separator", "rare")
    frame = frame_of(part, processor)
    pairs = [item for item in items if isinstance(item, tuple | list)]
    if not items:
        left_out |= dict.fromkeys(own, NO_TEXTS)
    rows = rows_of(items, processor)
    if pairs:
        groups.append(aligned(part, processor, items, left_out))
    elif rows:
        groups.append(text_batches(rows, processor))
        if all(row.spans is None for row in rows):
            left_out["punctuation"] = NO_SPANS if processor is not None else NO_TOKENIZER
    if rows and not any(row.special[-1] for row in rows):
        left_out["separator"] = NO_TOKENIZER if processor is None else NO_SEPARATOR
    if rows:
        windows = window_batches(rows, frame, processor)
        if isinstance(windows, str):
            left_out |= dict.fromkeys(("position", "relative_position"), windows)
        else:
            groups.append(windows)
    repeated = repeated_batches(frame, processor, seed)
    if isinstance(repeated, str):
        left_out |= dict.fromkeys(("induction", "duplicate"), repeated)
    else:
        groups.append(repeated)
    sentences = [role for role in ROLES if role.startswith(("agreement", "coreference"))]
    if processor is None or (rows and rows[0].spans is None):
        left_out |= dict.fromkeys(sentences, NO_TOKENIZER if processor is None else NO_SPANS)
    else:
        probe = torch.tensor([frame.row(frame.ordinary[:3]).ids])
        generated, reasons = sentence_batches(processor, is_causal(part, probe))
        groups.append(generated)
        left_out |= reasons
    return chained(groups), left_out


def rows_of(items: list[Any], processor: Any) -> list[TokenRow]:
    """The rows of the texts, of the sources of pairs, or of token ids."""
    if not items:
        return []
    if any(isinstance(item, Tensor) for item in items):
        if not all(isinstance(item, Tensor) for item in items):
            raise ValueError("some items are texts and some token ids: give texts, or token ids [B, N]")
        return [TokenRow(row, [False] * len(row)) for row in (item.tolist() for item in items)]
    if processor is None:
        raise ValueError(f"{NO_TOKENIZER}; or give token ids [B, N] instead of texts")
    return encode_texts(processor, [item if isinstance(item, str) else read_pair(item, i).source
                                    for i, item in enumerate(items)])  # fmt: skip


def aligned(part: Any, processor: Any, items: list[Any], left_out: dict[str, str]) -> Iterator[RoleBatch]:
    """Batches of pairs; notes why alignment is left out."""
    pairs = [read_pair(item, index) for index, item in enumerate(items)]
    if not any(pair.links for pair in pairs):
        left_out["alignment"] = NO_LINKS
    elif encode_texts(processor, [pairs[0].source])[0].spans is None:
        left_out["alignment"] = NO_SPANS
    return pair_batches(part, processor, pairs)


def image_roles(part: Any, processor: Any, items: list[Any], _: int | None, seed: int) -> Found:
    """Batches of images."""
    images, boxes, left_out = boxed_images(items)
    return image_batches(part.patches, processor, images, boxes), left_out


def boxed_images(items: list[Any]) -> tuple[list[Any], list[Tensor], dict[str, str]]:
    """(images, their boxes, {role that these do not allow: the reason})."""
    if not items:
        raise ValueError("expected images: all roles of an image model need data")
    images, boxes = split_boxes(items)
    left_out: dict[str, str] = {}
    if not any(len(own) for own in boxes):
        left_out = dict.fromkeys(("object", "same_object"), NO_BOXES)
    elif not any(len(own) > 1 for own in boxes):
        left_out["same_object"] = "no image has two boxes"
    if len(images) == 1:
        left_out |= dict.fromkeys(("position", "relative_position"), "expected at least two images")
    return images, boxes, left_out


def caption_roles(part: Any, processor: Any, items: list[Any], _: int | None, seed: int) -> Found:
    """Batches of images, with captions or boxes."""
    captions = [item[1] if is_captioned(item) else None for item in items]
    images, boxes, left_out = boxed_images([item[0] if is_captioned(item) else item for item in items])
    if not any(captions):
        left_out |= dict.fromkeys(("previous", "next", "punctuation", "separator", "rare"), NO_CAPTIONS)
    elif processor.text is None:
        raise ValueError(NO_TOKENIZER)
    return caption_batches(part, processor, images, captions, boxes), left_out


def audio_roles(part: Any, processor: Any, items: list[Any], sampling_rate: int | None, seed: int) -> Found:
    """Batches of clips and of generated tones."""
    positions = ("position", "relative_position")
    own = ["previous", "next", "same", *positions]
    if hasattr(part, "patches"):
        own += ["first"] * (part.patches.prefix > 0) + ["local"] * (part.patches.grid[0] > 1)
    left_out = dict.fromkeys(own, "no audio clips are given") if not items else {}
    if len(items) == 1:
        left_out |= dict.fromkeys(positions, "expected at least two audio clips")
    tones, reasons = tone_batches(part, processor, seed)
    given = audio_batches(part, processor, items, sampling_rate) if items else ()
    return chained([given, tones]), left_out | reasons


def chained(groups: Sequence[Iterable[RoleBatch]]) -> Iterator[RoleBatch]:
    """All batches, one group after the other."""
    for group in groups:
        yield from group
