"""A conversation with a language model: messages written by its chat template, and streamed answers.

Messages to a model that reads images (or audio) among the words may have some.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.checkpoints.load import load
from zoo.inference.generation.generate import generate
from zoo.inference.generation.prompt import check_model
from zoo.inference.generation.prompt_cache import PromptCache
from zoo.inference.generation.sampling import require
from zoo.inference.generation.stopping import CONTEXT, decoder_of
from zoo.inference.generation.streaming import Printer, check_options, print_text
from zoo.models.base import Model
from zoo.preprocessing.bridge import BridgeProcessor
from zoo.preprocessing.chat_template import choose, templates_of
from zoo.preprocessing.modality import MODALITIES
from zoo.preprocessing.text import TextProcessor

Message = dict[str, Any]


class Chat:
    """A conversation.

    source: a model, or an argument of zoo.load. system: the system prompt. chat_template: a template instead of the
    model's. chat_template_kwargs: its variables, such as {"enable_thinking": False}. options: those of zoo.generate;
    max_new_tokens is by default 512, or half of the model's max_length.
    messages: the conversation that the model sees; what it has read of it, and its images, are not read again.
    num_dropped: how many of the oldest messages no longer fit into max_length together with an answer; the system
    prompt stays. reads: "image" or "audio" if messages may have some, else None.
    """

    def __init__(
        self, source: Any, system: str | None = None, *, chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:  # fmt: skip
        self.model = source if isinstance(source, Model) else load(source)
        processor = self.model.preprocess
        self.reads = processor.encoder if isinstance(processor, BridgeProcessor) else None
        text = processor.text if isinstance(processor, BridgeProcessor) else processor
        if not isinstance(text, TextProcessor):
            raise ValueError(
                f"a conversation needs a language model with its tokenizer, given a {type(self.model).__name__} whose "
                f"preprocess {'has none' if self.reads else f'is of type {type(processor).__name__}'}; zoo.generate "
                "(zoo generate) continues texts and describes images"
            )
        check_model(self.model, 1, None)
        if chat_template is not None:
            text = replace(text, chat_template=chat_template)
        if self.reads and not text.chat_template:
            raise ValueError(
                f"the model has no chat template (no chat_template.jinja in its folder): pass chat_template= (zoo chat "
                f"--chat-template FILE), or ask without one: zoo generate FOLDER TEXT --{self.reads} FILE"
            )
        choose(templates_of(text.chat_template), None, None)  # raises if there is none
        check_options(options, self.model)
        self.limit = min(text.max_length, self.model.config.part_of("decoder_input_ids").max_length)
        text = replace(text, max_length=sys.maxsize)  # what is too long is dropped
        self.processor: Any = replace(processor, text=text) if self.reads else text
        self.max_new_tokens: int = options.pop("max_new_tokens", min(512, self.limit // 2))
        require(isinstance(self.max_new_tokens, int) and 0 < self.max_new_tokens < self.limit, "max_new_tokens",
                self.max_new_tokens, f"a whole number, less than the model's {self.limit} tokens for the conversation "
                "and the answer together")  # fmt: skip
        self.system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.turns: list[Message] = []
        self.options, self.num_dropped = {"cache": PromptCache(), **options}, 0
        self.variables = dict(chat_template_kwargs or {})

    @property
    def messages(self) -> list[Message]:
        return [*self.system, *self.turns]

    def reply(self, text: str, write: Callable[[str], Any] = print_text, images: Sequence[Any] = ()) -> str:
        """The answer to a message, written as it is generated. An interrupted answer stays as far as it came.

        images: files or PIL images before the text; audio clips for a model that takes audio.

        Raises ValueError for a message that the template does not take or that is too long; it is not kept.
        """
        message = self.message(text, images)
        turns, batch = self.fit(message)
        ids: list[int] = batch.pop("input_ids")[0].tolist()
        printer = Printer(decoder_of(self.model), write, ids[-CONTEXT:])
        options = dict(self.options, max_new_tokens=min(self.max_new_tokens, self.limit - len(ids)))
        prompt = torch.tensor([ids], device=self.model.device)
        if not self.reads:
            batch = {}
        elif "token_type_ids" in batch:
            del options["cache"]  # the tokens of a prefix see those after them
        try:
            generate(self.model, prompt, streamer=printer, **options, **batch)
        except KeyboardInterrupt:
            self.keep(turns, message, printer)
            raise
        self.keep(turns, message, printer)
        return printer.shown

    def message(self, text: str, images: Sequence[Any]) -> Message:
        """The message of a user. Raises ValueError for images of a model that reads none."""
        if not images:
            return {"role": "user", "content": text}
        if self.reads is None:
            raise ValueError(f"images: a {type(self.model).__name__} reads texts alone: omit them, or load a model "
                             "that reads images, such as LLaVA")  # fmt: skip
        items = [{"type": self.reads, self.reads: image} for image in images]
        return {"role": "user", "content": [*items, {"type": "text", "text": text}]}

    def check_image(self, image: Any) -> Any:
        """An image (or clip) for `reply`. Raises ValueError or OSError if it cannot be read."""
        self.message("", [image])
        self.processor.part(self.reads, [Path(image) if isinstance(image, str) else image])
        return image

    def fit(self, message: Message) -> tuple[list[Message], dict[str, Any]]:
        """(the turns that fit before a message, the batch of all)."""
        turns = self.turns
        while True:
            conversation = [*self.system, *turns, message]
            batch = self.processor.apply_chat_template(conversation, add_generation_prompt=True, **self.variables)
            length = batch["input_ids"].shape[1]
            if length + self.max_new_tokens <= self.limit or not turns:
                break
            turns = turns[2:]
        if length >= self.limit:
            more = f" and those of {MODALITIES[self.reads].plural}" if self.reads else ""
            raise ValueError(f"the message has {length} tokens with what the template adds{more}, and the model takes "
                             f"{self.limit - 1} before an answer: shorten it")  # fmt: skip
        return turns, batch

    def keep(self, turns: list[Message], message: Message, printer: Printer) -> None:
        """Keep a message and its answer."""
        printer.end()
        self.num_dropped += len(self.turns) - len(turns)
        self.turns = [*turns, message, {"role": "assistant", "content": printer.shown}]
