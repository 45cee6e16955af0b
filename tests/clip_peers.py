"""Tiny CLIP and SigLIP models of transformers and open_clip, every parameter random, in folders on disk."""

import json
from pathlib import Path
from typing import Any

import torch
from peers import TINY_VIT, randomize
from safetensors.torch import save_file
from torch import Tensor, nn

VISION = {name: value for name, value in TINY_VIT.items() if name != "num_labels"}
TEXT = {
    "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72, "vocab_size": 99,
    "max_position_embeddings": 16, "eos_token_id": 98, "bos_token_id": 97,
}  # fmt: skip
OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 8, "mlp_ratio": 2, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 99, "width": 40, "heads": 4, "layers": 2, "mlp_ratio": 1.8},
}
SIGLIP_TEXT = {
    "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
    "hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": "canonicalize"},
}  # fmt: skip


def transformers_pair(
    folder: Path, name: str, text: dict | None = None, vision: dict | None = None, **own
) -> nn.Module:
    """ "CLIPModel" or "SiglipModel" as transformers saves it."""
    import transformers

    cls = getattr(transformers, name)
    config = cls.config_class(text_config=TEXT | (text or {}), vision_config=VISION | (vision or {}), **own)
    model = randomize(cls(config))
    model.save_pretrained(folder)
    return model


def open_clip_pair(
    folder: Path, *, preprocess: dict | None = None, weights: str = "safetensors", **changes
) -> nn.Module:
    """A folder as open_clip's hub export writes it; changes: of `model_cfg`."""
    import open_clip

    config = json.loads(json.dumps(OPEN_CLIP | changes))
    own = {name: value for name, value in config.items() if name != "custom_text"}
    cls = open_clip.model.CustomTextCLIP if config.get("custom_text") else open_clip.model.CLIP
    model = randomize(cls(**json.loads(json.dumps(own)), output_dict=True))
    folder.mkdir(exist_ok=True)
    if weights == "safetensors":
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    else:
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}}))
    return model


def texts(length: int = 16, end: int = 98, pad: int = 0) -> tuple[Tensor, Tensor]:
    """(ids [3, length] that end after 5, 9 and 12 tokens, mask)."""
    ids = torch.randint(1, 97, (3, length), generator=torch.Generator().manual_seed(2))
    ends = torch.tensor([[4], [8], [11]])
    places = torch.arange(length)
    ids = ids.where(places < ends, torch.where(places == ends, end, pad))
    return ids, (places <= ends).long()


def answers(model: nn.Module, pixels: Tensor, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Features and scores of either library, under our names."""
    with torch.no_grad():
        if hasattr(model, "get_logits"):
            output = model(pixels, ids)
            scores, _ = model.get_logits(pixels, ids)
            return {"image": output["image_features"], "text": output["text_features"], "scores": scores}
        masked = {} if mask is None else {"attention_mask": mask}
        output = model(pixel_values=pixels, input_ids=ids, return_loss=True, **masked)
    return {
        "image": output.image_embeds,
        "text": output.text_embeds,
        "scores": output.logits_per_image,
        "loss": output.loss,
    }
