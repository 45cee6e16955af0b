"""`zoo.create_model`: create a model by name."""

from typing import Any

import torch

from zoo.checkpoints.load import load
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS
from zoo.models.load_report import LoadReport
from zoo.models.registry import FILE, build, find_variant, with_overrides
from zoo.nn.init import initialize


def create_model(
    name: str, pretrained: bool = False, *, head: Any = FILE, seed: int | None = None, **overrides: Any
) -> Model:
    """Create a model by name, e.g. `create_model("vit_base_patch16_224", num_classes=10)`.

    name: see `zoo.list_models`. pretrained: load the weights of the variant's default source (for others, use
    `zoo.load`). head: "classify", "pool" or None (hidden states); default: that of the variant. seed: determines the
    initial weights; default: taken from torch's generator. overrides: fields of the family's config, e.g. image_size,
    depth, attention="performer".

    The model is made on torch's default device; in `with torch.device("meta")` it has no values and takes no memory.
    """
    f = find_variant(name)
    if head is not FILE:
        overrides["head"] = head
    if pretrained:
        if name not in f.sources:
            raise ValueError(
                f"{name} has no published weights: zoo.list_models(pretrained=True) lists the models that have"
            )
        model = load(f.sources[name], **overrides)
        model.variant = name
        return model
    config = f.config(**f.variants[name])
    if overrides.get("num_classes") and config.head not in CLASSIFIER_HEADS:
        overrides.setdefault("head", "classify")
    config = with_overrides(f, config, overrides)
    if seed is None:
        seed = int(torch.randint(2**31, (), device="cpu").item())
    device = torch.get_default_device()
    with torch.random.fork_rng(devices=[]):  # custom modules use torch's generator: seed it, too
        torch.manual_seed(seed)
        model = build(f, config, device)
    if device.type != "meta":
        with torch.device("cpu"):  # initial values are computed on the CPU, so that they are equal on every device
            initialize(model, seed)
    model.variant = name
    model.preprocess = model.default_preprocess()
    model.load_report = LoadReport("nothing", initialized=list(model.state_dict()))
    return model
