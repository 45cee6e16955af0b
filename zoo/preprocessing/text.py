"""From texts to token ids: the `tokenizer.json` beside a checkpoint, as one value that is saved with the model.

The work is done by the `tokenizers` library. What is decided here is what people are bitten by: nothing is cut
silently, a tokenizer has to belong to its model, and what a file says about padding and truncation does not act unseen.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo.utils.errors import LoadError, check_keys, did_you_mean
from zoo.utils.files import write_atomic

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Truncate = Literal["error", "warn", "cut"]
Side = Literal["left", "right"]
Text = str | tuple[str, str]
SPECIAL = ("unk", "pad", "cls", "sep", "mask", "bos", "eos")


@dataclass(frozen=True, kw_only=True)
class TextProcessor:
    """Texts -> {"input_ids", "attention_mask"[, "token_type_ids"]}, each int64 [B, N].

    A text is a string, or a pair of them (a tuple); a list of texts is a batch, one text a batch of one.

    tokenizer: the contents of a `tokenizer.json`.
    special: {"pad": "[PAD]", "mask": "[MASK]", ...}, of `unk pad cls sep mask bos eos` those that there are.
    max_length: how many tokens a text may have. truncate: what happens to a longer one: "error" raises, "warn" cuts
        it with a warning, "cut" cuts it.
    padding, multiple: the side that short rows are padded on, and of what the length is a multiple.
    types, mask: whether the model takes token_type_ids, and an attention_mask (SigLIP sees its padding).
    """

    tokenizer: str = field(repr=False)
    special: Mapping[str, str] = field(default_factory=dict, hash=False)
    max_length: int
    truncate: Truncate = "error"
    padding: Side = "right"
    multiple: int = 1
    types: bool = False
    mask: bool = True

    def __post_init__(self) -> None:
        _one_of("truncate", self.truncate, ("error", "warn", "cut"))
        _one_of("padding", self.padding, ("left", "right"))
        for name in self.special:
            _one_of("special", name, SPECIAL)
        if self.max_length < 1 or self.multiple < 1:
            raise ValueError(f"max_length={self.max_length}, multiple={self.multiple}: expected at least 1")
        for name, token in self.special.items():
            if self.backend.token_to_id(token) is None:
                raise ValueError(f"the tokenizer has no token {token!r} ({name}): it does not belong to this model")

    @property
    def backend(self) -> "Tokenizer":
        """The tokenizer itself, without whatever padding and truncation its file asks for."""
        return _backend(self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        return max(self.backend.get_vocab().values(), default=-1) + 1

    def id(self, name: str) -> int | None:
        """The id of a special token, by its role: `id("mask")`; None where there is none."""
        _one_of("special token", name, SPECIAL)
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
        """texts: one or a list. The options are those of the class, for this call.

        Raises ValueError for what is no text, for an empty one, and, with truncate="error", for one that is too long.
        """
        options: dict[str, Any] = dict(truncate=truncate, max_length=max_length, padding=padding, multiple=multiple)
        if chosen := {name: value for name, value in options.items() if value is not None}:
            return replace(self, **chosen)(texts)
        if not isinstance(texts, str | tuple | Sequence):
            raise ValueError(f"expected one or a list of texts, given {type(texts).__name__}")
        batch = [texts] if isinstance(texts, str | tuple) else list(texts)
        for place, text in enumerate(batch):
            _refuse_odd(text, place)
        if not batch:
            raise ValueError("no texts given: expected one or a list of them")
        return self._padded(self._fitting(batch))

    def encode(self, text: Text) -> list[int]:
        """The ids of one text, special tokens included."""
        return self(text)["input_ids"][0].tolist()

    def decode(self, ids: Tensor | Sequence[int], *, skip_special: bool = True) -> str:
        """The text of token ids [N]."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def _fitting(self, batch: list[Text]) -> list["Encoding"]:
        """Each text encoded, in at most `max_length` tokens."""
        encoded = self.backend.encode_batch(batch)
        long = [place for place, one in enumerate(encoded) if len(one) > self.max_length]
        for place, one in enumerate(encoded):
            if all(one.special_tokens_mask):
                raise ValueError(f"text {place} has no tokens: {batch[place]!r}")
        if not long:
            return encoded
        said = f"text {long[0]} has {len(encoded[long[0]])} tokens, at most max_length={self.max_length} are taken"
        if self.truncate == "error":
            raise ValueError(f"{said}: cut it with model.preprocess(texts, truncate='cut'), or split the text")
        if self.truncate == "warn":
            warnings.warn(f"{said}; {len(long)} of {len(batch)} texts are cut", stacklevel=4)
        cutter = _backend(self.tokenizer, self.max_length)
        for place, one in zip(long, cutter.encode_batch([batch[i] for i in long])):
            encoded[place] = one
        return encoded

    def _padded(self, encoded: list["Encoding"]) -> dict[str, Tensor]:
        longest = max(len(one) for one in encoded)
        longest = -(-longest // self.multiple) * self.multiple
        batch = {
            "input_ids": torch.full((len(encoded), longest), self.id("pad") or 0),
            "attention_mask": torch.zeros(len(encoded), longest, dtype=torch.long),
        }
        if self.types:
            batch["token_type_ids"] = torch.zeros(len(encoded), longest, dtype=torch.long)
        for row, one in enumerate(encoded):
            place = slice(0, len(one)) if self.padding == "right" else slice(longest - len(one), longest)
            batch["input_ids"][row, place] = torch.tensor(one.ids)
            batch["attention_mask"][row, place] = 1
            if self.types:
                batch["token_type_ids"][row, place] = torch.tensor(one.type_ids)
        return batch if self.mask else {"input_ids": batch["input_ids"]}

    def check(self, config: Any) -> None:
        """Raises ValueError unless a model with this config understands the ids: vocabulary, special ids, length."""
        if self.vocab_size > config.vocab_size:
            raise ValueError(
                f"the tokenizer does not belong to this model: its ids go up to {self.vocab_size - 1}, the model has "
                f"vocab_size={config.vocab_size}"
            )
        encoder = not hasattr(config, "bos_token_id")  # a decoder takes any padding: it is masked, and at no position
        pad, expected = self.id("pad"), getattr(config, "pad_token_id", None) if encoder else None
        if None not in (pad, expected) and pad != expected:
            raise ValueError(
                f"the tokenizer does not belong to this model: it pads with {pad} ({self.special['pad']!r}), the model "
                f"has pad_token_id={expected}"
            )
        if self.max_length > config.max_length:
            raise ValueError(f"max_length={self.max_length} of the tokenizer, but the model has {config.max_length}")

    # --- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """JSON types, all but the tokenizer, which is a file of its own (`files`)."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return {"kind": "text"} | values | {"special": dict(self.special)}

    def files(self) -> dict[str, str]:
        """{name: contents} of the files beside config.json."""
        return {"tokenizer.json": self.tokenizer}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str]) -> "TextProcessor":
        """The inverse of `to_dict` and `files`. An unknown or missing key raises LoadError."""
        values = {name: value for name, value in values.items() if name != "kind"}
        check_keys("preprocess", values, _FIELDS, later=("mask",))
        if "tokenizer.json" not in files:
            raise LoadError("the model's tokenizer.json is missing: expected it beside config.json")
        return cls(tokenizer=files["tokenizer.json"], **values)

    def transformers_files(self) -> dict[str, Any]:
        """{file name: contents} that transformers.AutoTokenizer reads."""
        names = ["input_ids", *["token_type_ids"] * self.types, *["attention_mask"] * self.mask]
        special = {f"{name}_token": token for name, token in self.special.items()}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "padding_side": self.padding,
            "model_input_names": names,
            "clean_up_tokenization_spaces": False,
        }
        return self.files() | {"tokenizer_config.json": settings | special, "special_tokens_map.json": special}


@lru_cache(maxsize=16)
def _backend(text: str, cut: int | None = None) -> "Tokenizer":
    """The tokenizer of a tokenizer.json; cut: one that cuts to that many tokens, the longer one of a pair first."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(text)
    backend.no_padding()
    if cut is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(cut, strategy="longest_first")
    return backend


_FIELDS = [f.name for f in fields(TextProcessor) if f.name != "tokenizer"]


def _keep(learned: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, learned)


def _refuse_odd(text: Any, place: int) -> None:
    parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
    for part in parts:
        if not isinstance(part, str):
            raise ValueError(f"text {place} is {type(part).__name__}, expected a string or a pair of strings (a tuple)")
        if not part:
            raise ValueError(f"text {place} is empty")


def _one_of(name: str, given: Any, known: Iterable[str]) -> None:
    if given not in tuple(known):
        raise ValueError(f"{name} is {given!r}, expected one of {', '.join(known)}{did_you_mean(str(given), known)}")
