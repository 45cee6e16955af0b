"""The processor of models that read images or audio among the words of a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from zoo.nn.frontends.waveform import min_samples_for, tokens_for
from zoo.preprocessing.modality import MODALITIES
from zoo.preprocessing.multimodal import MultimodalProcessor, modality_of
from zoo.utils.errors import LoadError, check_keys

PARTS = tuple(field.name for field in fields(MultimodalProcessor))
OWN = ("token", "tokens_per_item", "around", "convolutions")


@dataclass(frozen=True, kw_only=True)
class BridgeProcessor(MultimodalProcessor):
    """Texts and images (or audio clips) -> {"input_ids", "attention_mask", "pixel_values", ...}.

        model.preprocess(text=["<image> What is this?", "Hello"], images=[image])

    A text has the marker `token` at the place of each of its images, and the ids have `tokens_per_item` times its id
    there, one for each feature of the model. The images are those of all texts in order; a list of lists has those of
    each text apart.

    around: a token before and after each image; between two images that follow each other it stands once (Idefics).
    convolutions: (kernel, stride) of those over the samples of a clip, whose number of tokens depends on its length.
    image or audio, text: the processors of the towers.
    """

    own: ClassVar[tuple[str, ...]] = OWN  # the fields beside the processors of the towers
    # Those of them that are options of a call, and stand in the settings of transformers' image processor.
    image_options: ClassVar[tuple[str, ...]] = ()

    token: str = "<image>"
    tokens_per_item: int | None = None
    around: str = ""
    convolutions: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def of_model(cls, config: Any, **parts: Any) -> Self:
        """The processor of a model with this config, from those of its towers."""
        text, number = parts.get("text"), config.feature_token_id
        token = None if text is None or number is None else text.backend.id_to_token(number)
        own = {name: getattr(config, name) for name in ("tokens_per_item", "convolutions")}
        return cls(**parts, token=token or f"<{config.encoder}>", **own)

    @classmethod
    def read_image_options(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Our fields in the settings of transformers' image processor. Raises LoadError for values that do not fit."""
        found = {name: values[name] for name in cls.image_options if values.get(name) is not None}
        try:
            cls(**found)
        except ValueError as error:
            raise LoadError(str(error)) from None
        return found

    def with_options(self, options: dict[str, Any]) -> Self:
        """A copy with those of the options of a call that are image options, which are taken out of them."""
        found = {name: options.pop(name) for name in self.image_options if name in options}
        return replace(self, **found) if found else self

    @property
    def feature_token(self) -> str:
        """The token whose places the features take."""
        return self.token

    @property
    def encoder(self) -> str:
        """The modality beside the text: "image" or "audio"."""
        return "audio" if self.audio is not None else "image"

    def __call__(
        self, x: Any = None, *, images: Any = None, text: Any = None, audio: Any = None, **options: Any
    ) -> dict[str, Tensor]:
        """x: texts, or images or clips alone. options: of the text processor and, for clips, of the audio processor.

        Raises ValueError for more or fewer images than markers.
        """
        given = {"image": images, "audio": audio, "text": text}
        if x is not None:
            name = modality_of(x)
            if given[name] is not None:
                raise ValueError(f"{name} was given twice, by position and by name: pass it once")
            given[name] = x
        other = "audio" if self.encoder == "image" else "image"
        if given[other] is not None or given["text"] is None:
            return super().__call__(images=given["image"], text=given["text"], audio=given["audio"], **options)
        texts = [given["text"]] if isinstance(given["text"], str) else list(given["text"])
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("the text tower reads single texts: pass a string or a list of strings")
        items, counts = as_items(given[self.encoder])
        texts = self.with_token(texts, len(items))
        self.check_markers(texts, counts, len(items))
        own = {name: options.pop(name) for name in MODALITIES[self.encoder].options if name in options}
        batch = self.part(self.encoder, items, **own) if items else {}
        if self.encoder == "audio" and items and (rows := len(next(iter(batch.values())))) != len(items):
            raise ValueError(f"{len(items)} {MODALITIES[self.encoder].plural} became {rows} rows, and the text has a "
                             "marker for each clip: too_long='windows' is not for these; cut the clips")  # fmt: skip
        numbers = iter(self.numbers_of_tokens(batch, len(items)))
        return self.part("text", [self.expand(each, numbers) for each in texts], **options) | batch

    def with_token(self, texts: Sequence[str], items: int) -> list[str]:
        """Texts with `token` where they have "<image>" (or "<audio>"), which marks the items of all models.

        Without items, or if a text has `token`, they stay as they are: "<image>" may be a word of a text.
        """
        if not items or any(self.token in each for each in texts):
            return list(texts)
        return [each.replace(f"<{self.encoder}>", self.token) for each in texts]

    def check_markers(self, texts: Sequence[str], counts: Sequence[int] | None, items: int) -> None:
        """Raise ValueError unless the texts have as many markers as there are items; counts: those of each text."""
        found, plural = [text.count(self.token) for text in texts], MODALITIES[self.encoder].plural
        if counts is not None and len(counts) != len(texts):
            raise ValueError(f"{plural}: a list of {len(counts)} lists for {len(texts)} texts: expected one for each")
        for row, (marked, count) in enumerate(zip(found, counts or found)):
            if marked != count:
                raise ValueError(f"text {row} has {marked} times the marker {self.token!r}, and {count} {plural} were "
                                 "given for it: expected one marker for each")  # fmt: skip
        if sum(found) != items:
            raise ValueError(f"the texts have {sum(found)} times the marker {self.token!r}, and {items} {plural} were "
                             "given: expected one marker for each, in the order of the texts")  # fmt: skip

    def counts_without_markers(self, texts: int, counts: list[int] | None, items: int) -> list[int]:
        """How many items each of so many texts without markers has: a single text all, several one each.

        counts: those of each text, if they are given. Raises ValueError for more or fewer items than that.
        """
        found = counts or ([items] if texts == 1 else [1] * texts)
        if len(found) != texts or sum(found) != items:
            raise ValueError(f"{items} {MODALITIES[self.encoder].plural} for {texts} texts without the marker "
                             f"{self.token!r}: pass one for each text, or a list of them for each")  # fmt: skip
        return found

    def numbers_of_tokens(self, batch: Mapping[str, Tensor], items: int) -> list[int]:
        """How many tokens each item has; batch: what its processor made of them."""
        if (sizes := batch.get("image_sizes")) is not None:
            numbers: list[int] = self.image.numbers_of_tokens(sizes)
            return numbers
        if self.convolutions is not None and items:
            return self.tokens_of_clips(batch, items)
        if self.tokens_per_item is None and items:
            raise ValueError("the number of tokens of an item is not known: set model.preprocess = "
                             "dataclasses.replace(model.preprocess, tokens_per_item=...)")  # fmt: skip
        return [self.tokens_per_item or 0] * items

    def tokens_of_clips(self, batch: Mapping[str, Tensor], items: int) -> list[int]:
        """How many tokens clips of their own lengths have. Raises ValueError for one without any."""
        values, mask = batch["input_values"], batch.get("audio_attention_mask")
        samples = [values.shape[1]] * len(values) if mask is None else mask.sum(1).tolist()
        kernels, strides = zip(*self.convolutions or ())
        numbers = [tokens_for(each, kernels, strides) for each in samples]
        if 0 in numbers:
            clip = numbers.index(0)
            raise ValueError(f"audio clip {clip} has {samples[clip]} samples, and a token needs "
                             f"{min_samples_for(1, kernels, strides)}: pass a longer one")  # fmt: skip
        return numbers

    def marked(self, text: str, count: int) -> str:
        """A text without markers, with those of its images before it."""
        return f"{self.token}\n" * count + text

    def expand(self, text: str, numbers: Any) -> str:
        """The text with each marker repeated for the tokens of its item, and `around` before and after it.

        With `around`, spaces beside an image and at both ends are dropped, as transformers' processor of Idefics does.
        """
        first, *rest = (part.strip(" ") if self.around else part for part in text.split(self.token))
        found, before = first, self.around
        for part in rest:
            found += before + self.token * next(numbers) + self.around + part
            before = self.around if part else ""
        return found

    def apply_chat_template(
        self, conversation: Sequence[Any], images: Any = None, audio: Any = None, *, tokenize: bool = True,
        padding: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        """A conversation, or a list of them, as the batch of its tokens and images, or with tokenize=False as text.

        The content of a message may be a list of {"type": "text", "text": ...} and {"type": "image"}; images: those of
        all messages in order, unless they stand in the messages, as {"type": "image", "image": image}. A template of a
        text model, which knows no images, gets one text with a marker and a new line for each of them. options: of
        `TextProcessor.apply_chat_template`.
        """
        several = bool(conversation) and isinstance(conversation[0], list | tuple)
        chats = list(conversation) if several else [conversation]
        text = self.part_of("text")
        texts = text.apply_chat_template(self.as_template_reads(chats, options), tokenize=False, **options)
        if not tokenize:
            return texts if several else texts[0]
        inside = [item for chat in chats for item in items_of(chat, self.encoder)]
        given = images if self.encoder == "image" else audio
        if inside and given is not None:
            raise ValueError(f"the messages have {MODALITIES[self.encoder].plural} of their own: omit the argument")
        begin = text.special.get("bos")
        if begin and all(each.startswith(begin) for each in texts):  # the tokenizer writes it again
            texts = [each.removeprefix(begin) for each in texts] if adds_bos(text, begin) else texts
        items = {"images" if self.encoder == "image" else "audio": inside or given}
        return self(text=texts, **items, **({} if padding is None else {"padding": padding}))

    def as_template_reads(self, chats: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        """The conversations with the content of messages as lists of parts if the template writes markers for them,
        otherwise as texts."""
        probe = [{"role": "user", "content": [{"type": self.encoder}, {"type": "text", "text": "What?"}]}]
        try:
            shown = self.part_of("text").apply_chat_template(probe, **{**options, "tokenize": False})
            change = as_parts if self.token in shown and "{" not in shown else self.as_text
        except LoadError:
            raise
        except ValueError:
            change = self.as_text

        def changed(message: Any) -> Any:
            content = message.get("content") if isinstance(message, Mapping) else None
            return message if content is None else {**message, "content": change(content)}

        return [[changed(m) for m in chat] if isinstance(chat, list | tuple) else chat for chat in chats]

    def as_text(self, content: Any) -> Any:
        """The content of a message as one text with the markers of its images."""
        if not isinstance(content, list | tuple):
            return content
        parts = [part for part in content if isinstance(part, Mapping)]
        written = [f"{self.token}\n" if p.get("type") == self.encoder else str(p.get("text", "")) for p in parts]
        return "".join(written)

    def part_of(self, name: str) -> Any:
        """The processor of a tower. Raises ValueError if there is none."""
        if (found := getattr(self, name)) is None:
            raise ValueError(f"the model has no preprocessing for {name}: set model.preprocess = dataclasses.replace("
                             f"model.preprocess, {name}=...) with {MODALITIES[name].processor}")  # fmt: skip
        return found

    def fitted_to(self, config: Any) -> Self:
        own = {name: getattr(config, name) for name in ("tokens_per_item", "convolutions")}
        return replace(super().fitted_to(config), **own)

    def check(self, config: Any) -> None:
        super().check(config)
        if (
            self.text is not None
            and (found := self.text.backend.token_to_id(self.feature_token)) != config.feature_token_id
        ):
            raise ValueError(
                f"the marker {self.feature_token!r} is token {found} of the tokenizer, but the model reads features at "
                f"token {config.feature_token_id}: the tokenizer does not belong to this model"
            )

    # --- files ----------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.own}
        towers = {name: part and part.to_dict() for name in PARTS for part in [getattr(self, name)]}
        return {"kind": "bridge"} | own | towers

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], parts: Mapping[str, Any]) -> Self:
        """From `to_dict` and the processors of the towers. Raises LoadError for an unknown key."""
        values = {"convolutions": None, **values}  # which older files do not have
        check_keys("preprocess", values, [*PARTS, *cls.own])
        sizes = values["convolutions"]
        try:
            pairs = None if sizes is None else tuple((int(kernel), int(stride)) for kernel, stride in sizes)
            return cls(**{name: values[name] for name in cls.own} | {"convolutions": pairs}, **parts)
        except (TypeError, ValueError) as error:
            raise LoadError(f"preprocess: {error}") from None


def as_items(value: Any) -> tuple[list[Any], list[int] | None]:
    """(the items of all texts, how many each text has, if they are given as a list of lists)."""
    if value is None:
        return [], None
    if not isinstance(value, list | tuple) or (isinstance(value, tuple) and MODALITIES["audio"].is_item(value)):
        return [value], None
    if value and all(isinstance(each, list | tuple) and not MODALITIES["audio"].is_item(each) for each in value):
        return [item for each in value for item in each], [len(each) for each in value]
    return list(value), None


def as_parts(content: Any) -> Any:
    """The content of a message as a list of parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def items_of(chat: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    """The images or clips that stand in the messages of a conversation."""
    found = []
    for message in chat:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list | tuple) else ():
            if isinstance(part, Mapping) and part.get("type") == kind:
                if part.get("url"):
                    raise ValueError(f"the {kind} {part['url']!r:.200} would have to be downloaded: pass the file")
                item = next((part[key] for key in (kind, "path") if part.get(key) is not None), None)
                found += [] if item is None else [Path(item) if isinstance(item, str) else item]
    return found


def adds_bos(text: Any, begin: str) -> bool:
    """Whether the tokenizer begins each text with the token `begin`."""
    ids = text.backend.encode("a").ids
    return bool(ids) and ids[0] == text.backend.token_to_id(begin)
