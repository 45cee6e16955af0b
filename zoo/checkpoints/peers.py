"""Models, processors and label names as the libraries that folders come from load them, for `zoo.verify`."""

import importlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoints.formats import sentence_transformers, torch_geometric
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.checkpoints.golden import cast_batch
from zoo.utils.files import read_json, read_pickle

PACKAGES = {"open_clip": "open_clip_torch"}  # modules whose package has another name


def module(name: str) -> Any:
    """A library. Raises ValueError with the package to install."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = PACKAGES.get(name, name)
        raise ValueError(f"zoo.verify compares a {name} folder with {name} itself: pip install {package}") from None


class Peer:
    """The model of a folder as the library `name` loads it, and what that library prepares its inputs with."""

    name: str
    model: Any

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self.checkpoint, self.dtype = checkpoint, dtype

    def outputs(self, batch: Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
        """The outputs for a batch, under our names."""
        raise NotImplementedError

    def label_names(self) -> Any:
        """The names of the classes: a list, {row: name}, or None if the folder has none."""
        return None

    def encode(self, text: str | tuple[str, str], max_length: int) -> dict[str, list[int]]:
        """The ids of one text without padding: {"input_ids"[, "token_type_ids"]}."""
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[str], max_length: int, fixed: bool) -> Mapping[str, Tensor]:
        """The padded ids of texts; fixed: of max_length tokens. Empty if the tokenizer has no padding token."""
        raise NotImplementedError

    def symbols(self) -> Mapping[str, int]:
        """{symbol: id} of a CTC model."""
        raise NotImplementedError

    def pixels(self, image: Any) -> Tensor:
        """The pixels [C, H, W] that the model gets of an image of PIL."""
        raise NotImplementedError

    def features(self, wave: Tensor, sampling_rate: int) -> Tensor:
        """What the model gets of a waveform [S]."""
        raise NotImplementedError


class Transformers(Peer):
    name = "transformers"

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, dtype)
        assert checkpoint.architecture is not None
        cls = getattr(module(self.name), checkpoint.architecture)
        self.model = cls.from_pretrained(checkpoint.path, dtype=dtype).eval()

    def outputs(self, batch: Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
        # Without the head of a model for pretraining.
        model = self.model.base_model if self.checkpoint.config.head is None else self.model
        model = getattr(self.model, "image_codebook", None) or model  # of a whole FLAVA, the part that is read
        with torch.no_grad():
            output = model(**cast_batch(batch, self.dtype))
        if isinstance(output, Tensor):  # the logits of an image codebook
            return output
        if "text_embeds" in output:
            bias = getattr(model, "logit_bias", None)
            return _features(output.image_embeds, output.text_embeds, model.logit_scale, bias)
        if "start_logits" in output:
            return torch.stack([output.start_logits, output.end_logits], -1)
        if pools(self.checkpoint):
            return output.pooler_output
        logits = next((name for name in ("logits", "prediction_logits") if name in output), "last_hidden_state")
        return output[logits]

    def label_names(self) -> Any:
        return self.model.config.id2label

    def _auto(self, kind: str) -> Any:
        return getattr(module(self.name), kind).from_pretrained(self.checkpoint.path, trust_remote_code=False)

    @cached_property
    def tokenizer(self) -> Any:
        tokenizer = self._auto("AutoTokenizer")
        if sentence_transformers.read_settings(self.checkpoint.path)[1]:  # as sentence-transformers does
            normalizers, backend = module("tokenizers.normalizers"), tokenizer.backend_tokenizer
            own = [] if backend.normalizer is None else [backend.normalizer]
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        tokenizer.truncation_side = "right"  # ours truncates there; the load report says so where the file differs
        return tokenizer

    def encode(self, text: str | tuple[str, str], max_length: int) -> dict[str, list[int]]:
        texts = text if isinstance(text, tuple) else (text,)
        return dict(self.tokenizer(*texts, truncation=True, max_length=max_length))

    def encode_batch(self, texts: Sequence[str], max_length: int, fixed: bool) -> Mapping[str, Tensor]:
        if self.tokenizer.pad_token is None:
            return {}
        padding = "max_length" if fixed else True
        return self.tokenizer(list(texts), padding=padding, truncation=True, max_length=max_length, return_tensors="pt")

    def symbols(self) -> Mapping[str, int]:
        return self.tokenizer.get_vocab()

    @cached_property
    def image_processor(self) -> Any:
        return self._auto("AutoImageProcessor")

    def pixels(self, image: Any) -> Tensor:
        if "Flava" in type(self.image_processor).__name__:
            pixels = self.image_processor(image, return_codebook_pixels=True, return_tensors="pt")
            return pixels["codebook_pixel_values"][0]
        found = self.image_processor(image, return_tensors="pt")
        return (found if isinstance(found, Tensor) else found["pixel_values"])[0]  # Idefics' returns the pixels alone

    @cached_property
    def feature_extractor(self) -> Any:
        return self._auto("AutoFeatureExtractor")

    def features(self, wave: Tensor, sampling_rate: int) -> Tensor:
        extracted = self.feature_extractor(wave.numpy(), sampling_rate=sampling_rate, return_tensors="pt")
        return extracted[self.feature_extractor.model_input_names[0]][0]


class Timm(Peer):
    name = "timm"

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, dtype)
        self.model = module(self.name).create_model(f"local-dir:{checkpoint.path}", pretrained=True).to(dtype).eval()

    def outputs(self, batch: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return self.model(batch["pixel_values"].to(self.dtype))

    def label_names(self) -> Any:
        return self.model.pretrained_cfg.get("label_names")

    @cached_property
    def transform(self) -> Any:
        data = module("timm.data")
        return data.create_transform(**data.resolve_model_data_config(self.model))

    def pixels(self, image: Any) -> Tensor:
        return self.transform(image)


class OpenClip(Peer):
    name = "open_clip"

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, dtype)
        self.source = f"local-dir:{checkpoint.path}"
        self.model = module(self.name).create_model(self.source, output_dict=True).to(dtype).eval()

    def outputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ids, model = batch["input_ids"], self.model
        ids = torch.nn.functional.pad(ids, (0, model.context_length - ids.shape[1]))  # it requires one length
        with torch.no_grad():
            pixels = batch["pixel_values"].to(self.dtype)
            text = model.encode_text(ids, normalize=True)
            found = _features(model.encode_image(pixels, normalize=True), text, model.logit_scale, model.logit_bias)
            if hasattr(model, "text_decoder"):
                logits = model(pixels, ids, output_labels=False)["logits"]
                found["caption_logits"] = logits[:, : batch["input_ids"].shape[1]]
            return found

    @cached_property
    def tokenizer(self) -> Any:
        return module(self.name).get_tokenizer(self.source)

    def encode(self, text: str | tuple[str, str], max_length: int) -> dict[str, list[int]]:
        ids = self.tokenizer([text])[0].tolist()
        return {"input_ids": ids[: self._length(text, ids)]}

    def _length(self, text: Any, ids: list[int]) -> int:
        """The number of tokens of a text before the padding."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is None:  # CLIP's own tokenizer pads with 0, which never ends a text
            return max((i + 1 for i, token in enumerate(ids) if token), default=0)
        return len(inner(self.tokenizer.clean_fn(text), truncation=True, max_length=len(ids))["input_ids"])

    def encode_batch(self, texts: Sequence[str], max_length: int, fixed: bool) -> Mapping[str, Tensor]:
        return {"input_ids": self.tokenizer(list(texts))}

    @cached_property
    def transform(self) -> Any:
        transforms = module("open_clip.transform")
        settings = transforms.PreprocessCfg(**self.model.visual.preprocess_cfg)
        return transforms.image_transform_v2(settings, is_train=False)

    def pixels(self, image: Any) -> Tensor:
        return self.transform(image)


class TorchGeometric(Peer):
    name = "torch_geometric"

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        super().__init__(checkpoint, dtype)
        module(self.name)
        arguments = read_json(checkpoint.path / "config.json")
        if checkpoint.family.name == "set_transformer":
            self.model = SetNetwork(**arguments)
        elif checkpoint.architecture == "TransformerConv":
            self.model = transformer_network(arguments)
        else:
            arguments["v2"] = checkpoint.architecture == "GATv2Conv"
            arguments["residual"] = checkpoint.config.root_weight
            self.model = module("torch_geometric.nn").GAT(**arguments)
        self.model.load_state_dict(read_pickle(checkpoint.path / torch_geometric.WEIGHTS))
        self.model = self.model.to(dtype).eval()

    def outputs(self, batch: Mapping[str, Tensor]) -> Tensor:
        if isinstance(self.model, SetNetwork):
            with torch.no_grad():
                return self.model(batch["points"].to(self.dtype), batch.get("attention_mask"))
        x, edges = batch["node_features"].to(self.dtype), batch["edge_index"]
        features = batch.get("edge_features")
        with torch.no_grad():
            y: Tensor = self.model(x, edges, edge_attr=None if features is None else features.to(self.dtype))
        return y


def transformer_network(arguments: dict[str, Any]) -> Any:
    """torch_geometric's network of these arguments, whose layers are TransformerConv."""
    layers, base = module("torch_geometric.nn"), module("torch_geometric.nn.models.basic_gnn").BasicGNN

    class TransformerNetwork(base):  # type: ignore[misc, valid-type]
        supports_edge_weight, supports_edge_attr = False, True

        def init_conv(self, in_channels: int, out_channels: int, heads: int = 1, **options: Any) -> Any:
            concat = not getattr(self, "_is_conv_to_out", False)
            size = out_channels // heads if concat else out_channels
            return layers.TransformerConv(in_channels, size, heads, concat, dropout=self.dropout.p, **options)

    return TransformerNetwork(**arguments)


class SetNetwork(nn.Module):
    """torch_geometric's set transformer between two linear layers, or without the last."""

    def __init__(
        self,
        channels: int,
        in_channels: int | None = None,
        out_channels: int | None = None,
        num_induced_points: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        whole = module("torch_geometric.nn.aggr").SetTransformerAggregation(channels, **options)
        if num_induced_points is not None:
            isab = module("torch_geometric.nn.aggr.utils").InducedSetAttentionBlock
            more = options.get("heads", 1), options.get("layer_norm", False), options.get("dropout", 0.0)
            whole.encoders = nn.ModuleList(isab(channels, num_induced_points, *more) for _ in whole.encoders)
        self.lin_in = nn.Identity() if in_channels is None else nn.Linear(in_channels, channels)
        self.encoders, self.pma, self.decoders = whole.encoders, whole.pma, whole.decoders
        width = channels * (whole.num_seed_points if whole.concat else 1)
        self.lin_out = nn.Identity() if out_channels is None else nn.Linear(width, out_channels)
        self.whole = (whole,)  # no submodule of its own

    def forward(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """points [B, N, F], mask [B, N]: 1 for real points -> [B, C]."""
        keep = torch.ones(points.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        index = torch.arange(len(points), device=points.device)[:, None].expand_as(keep)[keep]
        y: Tensor = self.lin_out(self.whole[0](self.lin_in(points[keep]), index, dim_size=len(points)))
        return y


PEERS: dict[str, type[Peer]] = {cls.name: cls for cls in (Transformers, Timm, OpenClip, TorchGeometric)}


def pools(checkpoint: Checkpoint) -> bool:
    """Whether the class of transformers returns pooled features."""
    return checkpoint.mapping.heads.get(checkpoint.architecture, {}).get("head") == "pool"


def _features(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """The outputs of a model with two towers, under our names."""
    outputs = {"image_features": image, "text_features": text, "logit_scale": scale.detach().exp().reshape(())}
    return outputs if bias is None else outputs | {"logit_bias": bias.detach().reshape(())}
