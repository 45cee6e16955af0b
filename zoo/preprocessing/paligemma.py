"""The processor of PaliGemma: image tokens, <bos>, the prompt and a new line, then an answer for training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from zoo.preprocessing.bridge import BridgeProcessor, as_items
from zoo.preprocessing.text import encode_batch


@dataclass(frozen=True, kw_only=True)
class PaliGemmaProcessor(BridgeProcessor):
    """Texts, images and answers -> {"input_ids", "attention_mask", "token_type_ids", "pixel_values"}.

        model.preprocess(text="caption en", images=image)
        model.preprocess(text=["caption en"], images=[image], suffix=["a cow on a bench"])      for training

    Texts without the marker `token` have it before them, once for each of their images. suffix: the answers, one for
    each text; the end of a text follows them. token_type_ids are 0 for image and prompt, which see each other, and 1
    for the answer, of which each token is to be predicted.
    """

    def __call__(
        self,
        x: Any = None,
        *,
        images: Any = None,
        text: Any = None,
        audio: Any = None,
        suffix: str | Sequence[str] | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """options: of the text processor. Raises ValueError for a suffix without text, and for more or fewer answers
        than texts or images than markers."""
        if text is None or x is not None or audio is not None:
            if suffix is not None:
                raise ValueError("suffix= is the answer to text=: pass both by name")
            return super().__call__(x, images=images, text=text, audio=audio, **options)
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(each, str) for each in texts):
            raise ValueError("text: expected a string or a list of strings; answers are passed as suffix=")
        items, counts = as_items(images)
        if items and not any(self.token in each for each in texts):
            counts = self.counts_without_markers(len(texts), counts, len(items))
            texts = [self.marked(each, count) for each, count in zip(texts, counts)]
        self.check_markers(texts, counts, len(items))
        batch = self.part("image", items) if items else {}
        numbers = iter(self.numbers_of_tokens(batch, len(items)))
        prompts = [self.expand(self.prompt(each), numbers) for each in texts]
        return self.encode(prompts, self.answers(suffix, len(texts)), **options) | batch

    def marked(self, text: str, count: int) -> str:
        return self.token * count + text

    def prompt(self, text: str) -> str:
        """A text with <bos> after its last marker, and a new line at its end."""
        end = text.rfind(self.token)
        place = 0 if end < 0 else end + len(self.token)
        return f"{text[:place]}{self.special('bos')}{text[place:]}\n"

    def answers(self, suffix: str | Sequence[str] | None, count: int) -> list[str] | None:
        """The answers with the end of a text. Raises ValueError unless there is one for each of `count` texts."""
        if suffix is None:
            return None
        found = [suffix] if isinstance(suffix, str) else list(suffix)
        if len(found) != count:
            raise ValueError(f"suffix has {len(found)} answers for {count} texts: expected one for each")
        return [f"{each}{self.special('eos')}" for each in found]

    def special(self, role: str) -> str:
        """A special token. Raises ValueError if the tokenizer has none for the role."""
        if (token := self.part_of("text").special.get(role)) is None:
            raise ValueError(f"the tokenizer has no {role} token: set model.preprocess with one in text.special")
        return str(token)

    def encode(self, prompts: Sequence[str], answers: Sequence[str] | None, **options: Any) -> dict[str, Tensor]:
        """Prompts and answers as ids, without the special tokens that the tokenizer itself would add."""
        text = replace(self.part_of("text"), types=True, **{k: v for k, v in options.items() if v is not None})
        pairs: Any = prompts if answers is None else list(zip(prompts, answers, strict=True))
        encoded = encode_batch(text.backend, pairs, add_special_tokens=False)
        if (longest := max(map(len, encoded))) > text.max_length:
            raise ValueError(
                f"image, prompt and answer have {longest} tokens, expected at most max_length={text.max_length}: use "
                "shorter texts"
            )
        return text._pad(encoded)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"kind": "paligemma"}
