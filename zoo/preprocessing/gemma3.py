"""The processor of Gemma 3 with images: markers become the tokens of an image, between those of its begin and end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from zoo.preprocessing.bridge import OWN, BridgeProcessor
from zoo.preprocessing.image import as_image_list, load_image
from zoo.preprocessing.tiles import pan_and_scan
from zoo.utils.type_checks import check_types

CROPS = "num_crops"


@dataclass(frozen=True, kw_only=True)
class Gemma3Processor(BridgeProcessor):
    """Texts and images -> {"input_ids", "attention_mask", "pixel_values"}; see BridgeProcessor.

        model.preprocess(text="<start_of_image> What is this?", images=["wide.png"], do_pan_and_scan=True)

    token: the marker of an image in a text, which is also the token before it. image_token: stands for each of its
    features. end: the token after it. Two new lines are before and after an image.

    do_pan_and_scan: cut an image that is long into crops along its longer side. The model reads the image and then its
    crops, each resized to the size of its images, and sentences between them say so.
    pan_and_scan_min_crop_size: the smallest side of a crop, in pixels of the image before it is resized; an image with
        smaller crops is not cut.
    pan_and_scan_max_num_crops: the most crops of an image.
    pan_and_scan_min_ratio_to_activate: the least ratio of the longer to the shorter side of an image that is cut.
    These four are fields, and options of a call.
    """

    image_options: ClassVar[tuple[str, ...]] = (
        "do_pan_and_scan", "pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops",
        "pan_and_scan_min_ratio_to_activate",
    )  # fmt: skip
    own: ClassVar[tuple[str, ...]] = (*OWN, "image_token", "end", *image_options)

    token: str = "<start_of_image>"
    image_token: str = "<image_soft_token>"
    end: str = "<end_of_image>"
    do_pan_and_scan: bool = False
    pan_and_scan_min_crop_size: int = 256
    pan_and_scan_max_num_crops: int = 4
    pan_and_scan_min_ratio_to_activate: float = 1.2

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if not 0 < (ratio := self.pan_and_scan_min_ratio_to_activate) < math.inf:
            raise ValueError(f"pan_and_scan_min_ratio_to_activate={ratio}: expected a finite number above 0")
        if self.do_pan_and_scan and self.image is not None and self.image.fit == "none":
            raise ValueError("do_pan_and_scan=True: crops of an image have other sizes than the image, and the image "
                             "processor has fit='none': set another one, such as 'squash'")  # fmt: skip

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

    def __call__(self, x: Any = None, **options: Any) -> dict[str, Tensor]:
        """x, images, text: see BridgeProcessor. options: those of the text processor, and do_pan_and_scan,
        pan_and_scan_min_crop_size, pan_and_scan_max_num_crops and pan_and_scan_min_ratio_to_activate.

        pixel_values have the crops of an image after it [I + crops, C, H, W].
        """
        processor = self.with_options(options)
        batch = super(Gemma3Processor, processor).__call__(x, **options)
        return {name: each for name, each in batch.items() if name != CROPS}

    def part(self, name: str, value: Any, **options: Any) -> dict[str, Tensor]:
        """See MultimodalProcessor; of images cut into crops also "num_crops" [I], how many each has."""
        if name != "image" or not self.do_pan_and_scan:
            return super().part(name, value, **options)
        # One image at a time is in memory in its own resolution.
        found = [super(Gemma3Processor, self).part(name, self.views(each))["pixel_values"]
                 for each in as_image_list(value)]  # fmt: skip
        return {"pixel_values": torch.cat(found), CROPS: torch.tensor([len(x) - 1 for x in found])}

    def views(self, image: Any) -> list[Tensor]:
        """One image, uint8 [C, H, W], and its crops."""
        whole: Tensor = load_image(image, self.part_of("image").channels, "tensor")
        cuts = pan_and_scan(
            (whole.shape[1], whole.shape[2]),
            smallest=self.pan_and_scan_min_crop_size,
            most=self.pan_and_scan_max_num_crops,
            ratio=self.pan_and_scan_min_ratio_to_activate,
        )
        return [whole, *(whole[:, rows, columns] for rows, columns in cuts)]

    def numbers_of_tokens(self, batch: Mapping[str, Tensor], items: int) -> list[int]:
        """How many tokens each image has, with those of its crops."""
        numbers = super().numbers_of_tokens(batch, items)
        crops = batch[CROPS].tolist() if CROPS in batch else [0] * items
        return [number * (1 + count) for number, count in zip(numbers, crops)]

    def expand(self, text: str, numbers: Any) -> str:
        first, *rest = text.split(self.token)
        return first + "".join(self.written(next(numbers)) + part for part in rest)

    def written(self, number: int) -> str:
        """What stands for an image and its crops, which have so many tokens together."""
        per_view = self.tokens_per_item or 1
        view = f"\n\n{self.token}{self.image_token * per_view}{self.end}\n\n"
        if (crops := number // per_view - 1) == 0:
            return view
        # The sentences of transformers' processor.
        between = " and here are some crops to help you see better "
        return f"Here is the original image {view}{between}{' '.join([view] * crops)}"

    def apply_chat_template(
        self, conversation: Sequence[Any], images: Any = None, audio: Any = None, **options: Any
    ) -> Any:
        """See BridgeProcessor; options also of pan and scan."""
        processor = self.with_options(options)
        return super(Gemma3Processor, processor).apply_chat_template(conversation, images, audio, **options)

    # --- files ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], parts: Mapping[str, Any]) -> Self:
        """See BridgeProcessor. Older files have no pan and scan."""
        return super().from_parts({name: getattr(cls, name) for name in cls.image_options} | dict(values), parts)

    def transformers_files(self) -> dict[str, Any]:
        """{name: contents} of the files that transformers reads."""
        found = super().transformers_files()
        if (tokenizer := found.get("tokenizer_config.json")) is not None:
            names = {"image_token": self.image_token, "boi_token": self.token, "eoi_token": self.end}
            found["tokenizer_config.json"] = tokenizer | {"extra_special_tokens": names}
        if (image := found.get("preprocessor_config.json")) is not None:
            if image["do_center_crop"]:
                raise ValueError("transformers' Gemma3ImageProcessor has no center crop: set an image processor with "
                                 "fit='squash' and resize_to=None")  # fmt: skip
            own = {name: getattr(self, name) for name in self.image_options}
            kind = {"image_processor_type": "Gemma3ImageProcessor"}
            found["preprocessor_config.json"] = image | kind | own
        return found

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"kind": "gemma3"}
