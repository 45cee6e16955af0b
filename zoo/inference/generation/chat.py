"""A conversation with a language model: messages written by its chat template, and streamed answers."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from zoo.checkpoints.load import load
from zoo.inference.generation.generate import generate
from zoo.inference.generation.prompt_cache import PromptCache
from zoo.inference.generation.sampling import require
from zoo.inference.generation.stopping import CONTEXT, decoder_of
from zoo.inference.generation.streaming import Printer, check_options, print_text
from zoo.models.base import Model
from zoo.preprocessing.chat_template import choose, templates_of
from zoo.preprocessing.text import TextProcessor

Message = dict[str, Any]


class Chat:
    """A conversation.

    source: a model, or an argument of zoo.load. system: the system prompt. chat_template: a template instead of the
    model's. chat_template_kwargs: its variables, such as {"enable_thinking": False}. options: those of zoo.generate;
    max_new_tokens is by default 512, or half of the model's max_length.
    messages: the conversation that the model sees; what it has read of it is not read again. num_dropped: how many of
    the oldest messages no longer fit into max_length together with an answer; the system prompt stays.
    """

    def __init__(
        self, source: Any, system: str | None = None, *, chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:  # fmt: skip
        self.model = source if isinstance(source, Model) else load(source)
        processor = self.model.preprocess
        if not isinstance(processor, TextProcessor):
            raise ValueError(
                f"a conversation needs a language model with its tokenizer, given a {type(self.model).__name__} whose "
                f"preprocess is of type {type(processor).__name__}"
            )
        if chat_template is not None:
            processor = replace(processor, chat_template=chat_template)
        choose(templates_of(processor.chat_template), None, None)  # raises if there is none
        check_options(options, self.model)
        self.limit = min(processor.max_length, self.model.config.max_length)
        self.processor = replace(processor, max_length=sys.maxsize)  # what is too long is dropped
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

    def reply(self, text: str, write: Callable[[str], Any] = print_text) -> str:
        """The answer to a message, written as it is generated. An interrupted answer stays as far as it came.

        Raises ValueError for a message that the template does not take or that is too long; it is not kept.
        """
        message = {"role": "user", "content": text}
        turns, ids = self.fit(message)
        printer = Printer(decoder_of(self.model), write, ids[-CONTEXT:])
        room = min(self.max_new_tokens, self.limit - len(ids))
        prompt = torch.tensor([ids], device=self.model.device)
        try:
            generate(self.model, prompt, max_new_tokens=room, streamer=printer, **self.options)
        except KeyboardInterrupt:
            self.keep(turns, message, printer)
            raise
        self.keep(turns, message, printer)
        return printer.shown

    def fit(self, message: Message) -> tuple[list[Message], list[int]]:
        """(the turns that fit before a message, the tokens of all)."""
        turns = self.turns
        while True:
            conversation = [*self.system, *turns, message]
            batch = self.processor.apply_chat_template(conversation, add_generation_prompt=True, **self.variables)
            ids: list[int] = batch["input_ids"][0].tolist()
            if len(ids) + self.max_new_tokens <= self.limit or not turns:
                break
            turns = turns[2:]
        if len(ids) >= self.limit:
            raise ValueError(f"the message has {len(ids)} tokens with what the template adds, and the model takes "
                             f"{self.limit - 1} before an answer: shorten it")  # fmt: skip
        return turns, ids

    def keep(self, turns: list[Message], message: Message, printer: Printer) -> None:
        """Keep a message and its answer."""
        printer.end()
        self.num_dropped += len(self.turns) - len(turns)
        self.turns = [*turns, message, {"role": "assistant", "content": printer.shown}]
