"""Prompts of `zoo.generate` with images or audio clips, for models that read these among the words of a text."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoo.inference.generation.text_prompts import TextPrompts, is_conversation
from zoo.models.bridge.model import Bridge
from zoo.preprocessing.bridge import BridgeProcessor, as_items
from zoo.preprocessing.modality import MODALITIES

Inputs = dict[str, Any]


def bridge_inputs(
    model: Bridge, prompts: Any, mask: Tensor | None, options: dict[str, Any]
) -> tuple[TextPrompts | None, Inputs]:
    """(the texts, if the prompts are some, as tokens; input_ids, attention_mask and the inputs of the encoder).

    options: of `zoo.generate` for this model: images= or audio=, options of the processor for these, or the inputs of
    the encoder; they are taken out.
    """
    record = MODALITIES[model.config.encoder]
    items = options.pop(record.argument, None)
    tensors = {name: options.pop(name) for name in list(options) if name in model.inputs}
    own = {name: options.pop(name) for name in model.processor_class.image_options if name in options}
    like = next(model.encoder.parameters())

    def placed(batch: Inputs) -> Inputs:
        moved = {name: x.to(like.device) for name, x in batch.items()}
        return {name: x.to(like.dtype) if x.is_floating_point() else x for name, x in moved.items()}

    if isinstance(prompts, Tensor | None):
        if items is not None and prompts is None:
            raise ValueError(f"{record.argument}= needs text=, such as a question about them")
        if items is not None or own:
            given = next(iter(own), record.argument)
            raise ValueError(f"{given}= belongs to text=; beside input_ids pass what model.preprocess makes "
                             f"of {record.plural}, such as {next(iter(record.inputs.values()))}=")  # fmt: skip
        return None, {"input_ids": prompts, "attention_mask": mask, **placed(tensors)}
    if tensors or mask is not None:
        given = next(iter(tensors), "attention_mask")
        raise ValueError(f"{given} belongs to a tensor of input_ids: beside texts pass {record.argument}=")
    processor = model.preprocess.with_options(own) if own and model.preprocess is not None else model.preprocess
    batch, is_one = encode(processor, prompts, items, record.argument)
    ids, keep = batch.pop("input_ids"), batch.pop("attention_mask")
    prompt = TextPrompts(ids, keep, [""] * len(ids), is_one, is_source=True)
    return prompt, {"input_ids": ids, "attention_mask": keep, **placed(batch)}


def encode(processor: Any, prompts: Any, items: Any, argument: str) -> tuple[dict[str, Tensor], bool]:
    """(the batch of texts or conversations with their images, padded on the left; whether it was one)."""
    if not isinstance(processor, BridgeProcessor) or processor.text is None:
        raise ValueError("the model has no tokenizer: set model.preprocess, or pass tensors of input_ids")
    is_one = isinstance(prompts, str) or is_conversation(prompts)
    several = [prompts] if is_one else list(prompts)
    if several and all(isinstance(each, str) for each in several):
        several = processor.with_token(several, len(as_items(items)[0]))
        if items is not None and not any(processor.token in each for each in several):
            return encode(processor, *without_markers(processor, several, items), argument)[0], is_one
        return processor(text=several, padding="left", **{argument: items}), is_one
    if several and all(is_conversation(each) for each in several):
        options = {"add_generation_prompt": True, "padding": "left", argument: items}
        return processor.apply_chat_template(several, **options), is_one
    raise ValueError("expected a text, a list of texts, a conversation (a list of messages) or a list of these")


def without_markers(processor: BridgeProcessor, texts: Sequence[str], items: Any) -> tuple[list[Any], Any]:
    """(prompts with markers, the images) of texts that have none: the images of a text stand before it.

    They are the message of a user, if the model has a chat template. Images that are not given as one list for each
    text belong to the only text, or one to each.
    """
    found, given = as_items(items)
    counts = processor.counts_without_markers(len(texts), given, len(found))
    if processor.text.chat_template is None:
        return [processor.marked(text, count) for text, count in zip(texts, counts)], found
    kind: dict[str, Any] = {"type": processor.encoder}
    chats = [[*[kind] * count, {"type": "text", "text": text}] for text, count in zip(texts, counts)]
    return [[{"role": "user", "content": content}] for content in chats], found
