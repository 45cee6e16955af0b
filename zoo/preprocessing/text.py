"""Text preprocessing: the `tokenizer.json` of a checkpoint as one frozen dataclass that is saved with the model.

Beyond `tokenizers`: no text is truncated silently, a tokenizer fits its model, and padding settings are ignored.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from zoo.preprocessing.chat_template import (
    check_names,
    is_list_of_conversations,
    render_conversations,
    template_files,
    template_variables,
    templates_in,
    templates_of,
)
from zoo.preprocessing.text_cleaning import MODES, Clean, clean_text, problem_of_text, surrogate_problem, with_cleaning
from zoo.preprocessing.tokenizer_file import parse_tokenizer, spaces_after_words
from zoo.utils.errors import LoadError, check_choice, check_keys
from zoo.utils.type_checks import check_types

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Truncate = Literal["error", "warn", "cut"]
Side = Literal["left", "right"]
Text = str | tuple[str, str]
SPECIAL = ("unk", "pad", "cls", "sep", "mask", "bos", "eos")


@dataclass(frozen=True, kw_only=True)
class TextProcessor:
    """Texts -> {"input_ids", "attention_mask"[, "token_type_ids"]}, each int64 [B, N].

    A text is a string or a pair of strings (a tuple); a list of texts is a batch, one text a batch of one.

    tokenizer: the contents of a `tokenizer.json`.
    special: {"pad": "[PAD]", "mask": "[MASK]", ...}: the special tokens by role, of `unk pad cls sep mask bos eos`.
    max_length: maximum number of tokens of a text. truncate: for longer texts: "error" raises, "warn" truncates with a
        warning, "cut" truncates silently.
    padding: the side on which short rows are padded. multiple: the length of rows is a multiple of it.
    types, mask: whether the model takes token_type_ids, and an attention_mask (SigLIP attends to its padding).
    clean: how texts are cleaned before they are tokenized, as open_clip does (see `clean_text`); None: not at all.
    chat_template: the Jinja template of conversations (see `apply_chat_template`), or {name: template} of several.
    """

    tokenizer: str = field(repr=False)
    special: Mapping[str, str] = field(default_factory=dict, hash=False)
    max_length: int
    truncate: Truncate = "error"
    padding: Side = "right"
    multiple: int = 1
    types: bool = False
    mask: bool = True
    clean: Clean | None = None
    chat_template: str | Mapping[str, str] | None = field(default=None, repr=False, hash=False)

    def __post_init__(self) -> None:
        check_choice("truncate", self.truncate, ("error", "warn", "cut"))
        check_choice("padding", self.padding, ("left", "right"))
        if self.clean is not None:
            check_choice("clean", self.clean, MODES)
        check_types(self)
        check_names(templates_of(self.chat_template))
        for name in self.special:
            check_choice("special", name, SPECIAL)
        if self.max_length < 1 or self.multiple < 1:
            raise ValueError(f"max_length={self.max_length}, multiple={self.multiple}: expected at least 1")
        for name, token in self.special.items():
            if self.backend.token_to_id(token) is None:
                raise ValueError(
                    f"the tokenizer has no token {token!r} for the role {name!r}: it does not belong to this model"
                )

    @property
    def backend(self) -> "Tokenizer":
        """The tokenizer itself, without the padding and truncation settings of its file."""
        return _backend(self.tokenizer)

    @property
    def truncating_backend(self) -> "Tokenizer":
        """The tokenizer that truncates to `max_length` tokens."""
        return _backend(self.tokenizer, self.max_length)

    @property
    def vocab_size(self) -> int:
        """The largest id plus one."""
        return _vocab_size(self.tokenizer)

    def id(self, name: str) -> int | None:
        """The id of a special token by its role, as in `id("mask")`; None if there is none."""
        check_choice("special token", name, SPECIAL)
        token = self.special.get(name)
        return None if token is None else self.backend.token_to_id(token)

    def __call__(
        self,
        texts: Text | Sequence[Text],
        *,
        truncate: Truncate | None = None,
        max_length: int | None = None,
        padding: Side | None = None,
        multiple: int | None = None,
    ) -> dict[str, Tensor]:
        """texts: one or a list. The options override those of the class for this call.

        Raises ValueError for an input that is not a text, for an empty text, and with truncate="error" for one that is
        too long.
        """
        options: dict[str, Any] = dict(truncate=truncate, max_length=max_length, padding=padding, multiple=multiple)
        if chosen := {name: value for name, value in options.items() if value is not None}:
            return replace(self, **chosen)(texts)
        if not isinstance(texts, str | tuple | Sequence):
            raise ValueError(f"expected a text or a list of texts, given {type(texts).__name__}")
        batch = [texts] if isinstance(texts, str | tuple) else list(texts)
        if not batch:
            raise ValueError("the list of texts is empty: expected at least one text")
        return self._pad(self._encode(batch))

    def encode(self, text: Text) -> list[int]:
        """The ids of one text, including special tokens."""
        return self(text)["input_ids"][0].tolist()

    def for_targets(self) -> "TextProcessor":
        """The processor of texts that a decoder is trained to write; subclasses may tokenize them differently."""
        return self

    def decode(self, ids: Tensor | Sequence[int], *, skip_special: bool = True) -> str:
        """The text of token ids [N]. Raises ValueError for negative ids, such as the -100 of labels without a loss."""
        numbers = [int(i) for i in ids]
        if numbers and min(numbers) < 0:
            raise ValueError(f"the ids have the negative number {min(numbers)}: expected ids of tokens, 0 or more")
        return self.backend.decode(numbers, skip_special_tokens=skip_special)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        **variables: Any,
    ) -> Any:
        """A conversation as the batch of its tokens, or with tokenize=False as text; equal to those of transformers.

        conversation: messages [{"role": "user", "content": "Hello"}, ...], or a list of conversations. tools: their
        JSON schemas. chat_template: the name of one of the model's templates, or a text instead of them.
        add_generation_prompt: end with what begins an answer. continue_final_message: end within the last message, for
        the model to continue it. variables: what else the template reads, such as enable_thinking=False.

        Raises LoadError for a template that cannot be read or that does what no template needs to do, and ValueError
        for messages that it does not take, without a template, and for more than max_length tokens.
        """
        several = is_list_of_conversations(conversation)
        special = {f"{name}_token": token for name, token in self.special.items()}
        texts = render_conversations(
            conversation if several else [conversation], templates_of(self.chat_template), chat_template,
            special | template_variables(variables), tools=tools, documents=documents,
            add_generation_prompt=add_generation_prompt, continue_final_message=continue_final_message,
        )  # fmt: skip
        if not tokenize:
            return texts if several else texts[0]
        encoded = encode_batch(self.backend, texts, add_special_tokens=False)
        if not all(map(len, encoded)):
            raise ValueError("the chat template writes nothing for these messages: expected at least one token; pass "
                             "chat_template= with another one")  # fmt: skip
        if (longest := max(map(len, encoded))) > self.max_length:
            raise ValueError(
                f"the conversation has {longest} tokens, expected at most max_length={self.max_length}: remove its "
                f"oldest messages"
            )
        return self._pad(encoded)

    def _encode(self, batch: list[Text], noun: str = "text") -> list["Encoding"]:
        """Encode each text into at most `max_length` tokens. noun: what it is called in messages."""
        found, long = self.encode_each(batch, [f"{noun} {index}" for index in range(len(batch))])
        for encoding in found:
            if isinstance(encoding, ValueError):
                raise encoding
        if long and self.truncate == "warn":
            index, tokens = next(iter(long.items()))
            message = f"{noun} {index} has {tokens:,} tokens, expected at most max_length={self.max_length}"
            warnings.warn(f"{message}; {len(long):,} of {len(batch):,} {noun}s are truncated", stacklevel=4)
        return cast("list[Encoding]", found)

    def encode_each(
        self, texts: Sequence[Text], names: Sequence[str] | None = None
    ) -> tuple[list["Encoding | ValueError"], dict[int, int]]:
        """(encoding of each text in at most `max_length` tokens, {index: number of tokens} of those truncated).

        A text that cannot be encoded, or that is too long with truncate="error", has its error in the place of an
        encoding. names: of the texts in messages; default: "text 0", "text 1", ...
        """
        names = names or [f"text {index}" for index in range(len(texts))]
        found: list[Any] = [self._text_or_error(text, name) for text, name in zip(texts, names)]
        good = [index for index, text in enumerate(found) if not isinstance(text, ValueError)]
        cleaned = [found[index] for index in good]
        long: dict[int, int] = {}
        for index, text, encoding in zip(good, cleaned, encode_batch(self.backend, cleaned)):
            found[index] = encoding
            if all(encoding.special_tokens_mask):
                how = f", cleaned as {self.clean!r}" if self.clean else ""
                found[index] = ValueError(f"{names[index]} has no tokens: {_short(text)}{how}")
            elif (tokens := len(encoding)) > self.max_length:
                found[index] = ValueError(
                    f"{names[index]} has {tokens} tokens, expected at most max_length={self.max_length}: truncate it "
                    "with model.preprocess(texts, truncate='cut'), zoo.predict(..., truncation=True) or --truncation, "
                    "or split it"
                )
                long[index] = tokens
        if self.truncate == "error" or not long:
            return found, {}
        again = [text for index, text in zip(good, cleaned) if index in long]
        for index, encoding in zip(long, self.truncating_backend.encode_batch(again)):
            found[index] = encoding
        return found, long

    def normalize(self, text: Text, name: str = "the text") -> Text:
        """The text as it is tokenized. name: of it in messages of subclasses, which raise ValueError for some texts."""
        return text if self.clean is None else _cleaned(text, self.clean)

    def _text_or_error(self, item: Any, name: str) -> Text | ValueError:
        """An item as it is tokenized, or why it cannot be."""
        try:
            return problem_of_text(item, name) or self.normalize(item, name)
        except ValueError as error:
            return error

    def _pad(self, encoded: list["Encoding"]) -> dict[str, Tensor]:
        longest = max(len(encoding) for encoding in encoded)
        length = -(-longest // self.multiple) * self.multiple
        batch = {
            "input_ids": torch.full((len(encoded), length), self.id("pad") or 0),
            "attention_mask": torch.zeros(len(encoded), length, dtype=torch.long),
        }
        if self.types:
            batch["token_type_ids"] = torch.zeros(len(encoded), length, dtype=torch.long)
        for row, encoding in enumerate(encoded):
            count = len(encoding)
            place = slice(0, count) if self.padding == "right" else slice(length - count, length)
            batch["input_ids"][row, place] = torch.tensor(encoding.ids)
            batch["attention_mask"][row, place] = 1
            if self.types:
                batch["token_type_ids"][row, place] = torch.tensor(encoding.type_ids)
        return batch if self.mask else {"input_ids": batch["input_ids"]}

    def fitted_to(self, config: Any) -> "TextProcessor":
        """The processor itself: it does not depend on the size of a model."""
        return self

    def check(self, config: Any) -> None:
        """Raises ValueError unless a model with this config understands the ids: vocabulary, special ids, length.

        The model may lack tokens that ordinary texts do not have: added ones, the mask, or a single other one.
        """
        extra = self._extra_tokens(config)
        special = [name for name, token in self.special.items() if token in extra and name != "mask"]
        if special or (len(extra) > 1 and not extra.keys() <= self._added_tokens()):
            raise ValueError(
                f"the tokenizer does not belong to this model: its ids go up to {self.vocab_size - 1}, but the model "
                f"has vocab_size={config.vocab_size}"
            )
        encoder = not hasattr(
            config, "bos_token_id"
        )  # decoders accept any padding token: it is masked and takes no position
        pad, expected = self.id("pad"), getattr(config, "pad_token_id", None) if encoder else None
        if None not in (pad, expected) and pad != expected:
            raise ValueError(
                f"the tokenizer does not belong to this model: its padding token is {pad} ({self.special['pad']!r}), "
                f"but the model has pad_token_id={expected}"
            )
        if self.max_length > config.max_length:
            raise ValueError(
                f"the tokenizer has max_length={self.max_length}, but the model has only max_length={config.max_length}"
            )

    def notes(self, config: Any) -> list[str]:
        """What differs from the model without changing its numbers: tokens that it lacks, and ordinary texts too."""
        if not (extra := self._extra_tokens(config)):
            return []
        more = "one token more" if len(extra) == 1 else f"{len(extra)} tokens more"
        first = sorted(extra.items(), key=itemgetter(1))[:4]  # the vocabulary is in no order
        shown = ", ".join(f"{token!r} ({number})" for token, number in first)
        return [
            f"the tokenizer has {more} than the model with vocab_size={config.vocab_size}: texts with {shown}"
            f"{', ...' if len(extra) > 4 else ''} are refused"
        ]

    def _extra_tokens(self, config: Any) -> dict[str, int]:
        """{token: id} of the tokens that the model has no embedding for."""
        if self.vocab_size <= config.vocab_size:
            return {}
        return {token: number for token, number in self.backend.get_vocab().items() if number >= config.vocab_size}

    def _added_tokens(self) -> set[str]:
        return {token.content for token in self.backend.get_added_tokens_decoder().values()}

    # --- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, without the tokenizer, which is a separate file (`files`)."""
        # The cleaning was added later: without it, the description, and so the fingerprint, of a model stays as it was.
        values = {name: getattr(self, name) for name in _FIELDS if name != "clean" or self.clean is not None}
        return {"kind": "text"} | values | {"special": dict(self.special)}

    def files(self) -> dict[str, str]:
        """{name: contents} of the files saved beside config.json, but for `template_files`, which change no output."""
        return {"tokenizer.json": self.tokenizer}

    def template_files(self) -> dict[str, str]:
        """{name: contents} of the files of chat templates, the same for transformers."""
        return template_files(self.chat_template)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str]) -> "TextProcessor":
        """The inverse of `to_dict` and `files`. An unknown or missing key raises LoadError."""
        values = {name: value for name, value in values.items() if name != "kind"}
        check_keys("preprocess", values, _FIELDS, optional=("mask", "clean"))
        if "tokenizer.json" not in files:
            raise LoadError("tokenizer.json is missing: expected it beside config.json")
        return cls(tokenizer=files["tokenizer.json"], chat_template=templates_in(files), **values)

    def transformers_files(self) -> dict[str, Any]:
        """{name: contents} of the files that transformers.AutoTokenizer reads."""
        names = ["input_ids", *["token_type_ids"] * self.types, *["attention_mask"] * self.mask]
        special = {f"{name}_token": token for name, token in self.special.items()}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "padding_side": self.padding,
            "model_input_names": names,
            "clean_up_tokenization_spaces": False,
        }
        tokenizer = self.tokenizer if self.clean is None else with_cleaning(self.tokenizer, self.clean)
        return {
            **self.template_files(),
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": settings | special,
            "special_tokens_map.json": special,
        }


def encode_batch(backend: "Tokenizer", texts: Sequence[Text], **options: Any) -> list["Encoding"]:
    """`backend.encode_batch`. Raises ValueError for half a surrogate pair, which is not a character."""
    try:
        return backend.encode_batch(texts, **options)
    except TypeError:
        for index, text in enumerate(texts):
            if problem := surrogate_problem(text if isinstance(text, str) else "".join(text)):
                raise ValueError(f"text {index} {problem}") from None
        raise


def _short(text: Text) -> str:
    return shown if len(shown := repr(text)) <= 60 else f"{shown[:60]} ..."


@lru_cache(maxsize=16)
def _backend(text: str, max_length: int | None = None) -> "Tokenizer":
    """The tokenizer of a tokenizer.json; max_length: truncates to that many tokens, the longer text of a pair first."""
    backend = parse_tokenizer(text)
    spaces_after_words(backend)
    backend.no_padding()
    backend.no_truncation()
    if max_length is not None:
        backend.enable_truncation(max_length, strategy="longest_first")
    return backend


@lru_cache(maxsize=16)
def _vocab_size(text: str) -> int:
    """The largest id of a tokenizer.json plus one. Kept: a dict of all tokens takes most of the time of a check."""
    return max(_backend(text).get_vocab().values(), default=-1) + 1


_FIELDS = [f.name for f in fields(TextProcessor) if f.name not in ("tokenizer", "chat_template")]


def _cleaned(text: Text, mode: Clean) -> Text:
    return clean_text(text, mode) if isinstance(text, str) else (clean_text(text[0], mode), clean_text(text[1], mode))
