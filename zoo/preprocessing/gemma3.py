"""The processor of Gemma 3 with images: markers become the tokens of an image, between those of its begin and end."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from zoo.preprocessing.bridge import OWN, BridgeProcessor


@dataclass(frozen=True, kw_only=True)
class Gemma3Processor(BridgeProcessor):
    """Texts and images -> {"input_ids", "attention_mask", "pixel_values"}; see BridgeProcessor.

    token: the marker of an image in a text, which is also the token before it. image_token: stands for each of its
    features. end: the token after it. Two new lines are before and after an image.
    """

    own: ClassVar[tuple[str, ...]] = (*OWN, "image_token", "end")

    token: str = "<start_of_image>"
    image_token: str = "<image_soft_token>"
    end: str = "<end_of_image>"

    @classmethod
    def of_model(cls, config: Any, **parts: Any) -> Self:
        found = super().of_model(config, **parts)
        if found.text is None:
            return cls(**parts, tokens_per_item=config.tokens_per_item)
        names = [found.text.backend.id_to_token(number) for number in (config.boi_token_id, config.eoi_token_id)]
        begin, end = (name or default for name, default in zip(names, (cls.token, cls.end)))
        return replace(found, token=begin, image_token=found.token, end=end)

    @property
    def feature_token(self) -> str:
        return self.image_token

    def expand(self, text: str, numbers: Any) -> str:
        first, *rest = text.split(self.token)
        images = (f"\n\n{self.token}{self.image_token * next(numbers)}{self.end}\n\n" for _ in rest)
        return first + "".join(image + part for image, part in zip(images, rest))

    def transformers_files(self) -> dict[str, Any]:
        found = super().transformers_files()
        if (tokenizer := found.get("tokenizer_config.json")) is not None:
            names = {"image_token": self.image_token, "boi_token": self.token, "eoi_token": self.end}
            found["tokenizer_config.json"] = tokenizer | {"extra_special_tokens": names}
        return found

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"kind": "gemma3"}
