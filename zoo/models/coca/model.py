"""CoCa, contrastive captioners (Yu et al. 2022, https://arxiv.org/abs/2205.01917), as in open_clip.

A ViT, whose states learned queries pool; a causal text tower, whose class token stands behind the text; and a decoder
that attends to the pooled image. The two towers are contrasted as in CLIP, the decoder writes captions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.coca.config import CoCaConfig, CoCaOutput
from zoo.models.coca.layers import AttentionalPooler, CrossBlock, TextTower
from zoo.models.coca.mapping import OPEN_CLIP
from zoo.models.encoder_decoder import EncoderDecoder, GenerationStart, Side, check_cross_attention
from zoo.models.family import Family
from zoo.models.tracing import trace_error
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.core import Core
from zoo.nn.frontends.image import PatchEmbedding
from zoo.nn.frontends.inputs import check_not_empty
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.grid_attention import on_grid
from zoo.nn.heads import LMHead
from zoo.nn.init import Initializer
from zoo.nn.kv_cache import EncoderDecoderState, StackState
from zoo.nn.losses.contrastive import clip_loss
from zoo.nn.losses.temperature import initialize_temperature
from zoo.nn.masks import CAUSAL, PaddingMask
from zoo.nn.mlp import MLP
from zoo.nn.registry import for_layer
from zoo.nn.stack import Stack
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.preprocessing.image_settings import clip_colors
from zoo.preprocessing.multimodal import MultimodalProcessor


class CoCa(EncoderDecoder):
    """forward(pixel_values [B, C, H, W], input_ids [B, N]) -> CoCaOutput: features of both, and
    caption_logits [B, N, V].

    One of the two alone gives its features. Texts are padded with pad_token_id behind their end (`model.preprocess`
    does), up to any length: a text has the features that open_clip gives it padded to max_length. `encode` returns the
    tokens of the images that the decoder attends to, and `zoo.generate(model, images=[...])` writes captions.
    """

    inputs = ("pixel_values", "input_ids")
    decoder_prefix = ""
    generation_options = ("pixel_values",)
    modalities = ("image", "text")
    has_loss = True

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__(config)
        c, width = config, self.num_features
        pools, features = c.pooler_queries is not None, c.projection_dim
        text = BlockConfig.of(c, causal=True, width=width, **self.decoder_fields()).stack(
            c.text_depth, final_norm=False
        )
        self.text = TextTower(width, text, nn.LayerNorm(width, c.norm_eps), features)
        self.pooler: AttentionalPooler | None = None
        if c.pooler_queries is not None:
            pooler = BlockConfig(width=features, heads=c.pooler_heads, norm_eps=c.norm_eps)
            self.pooler = AttentionalPooler(c.pooler_queries, pooler, c.width)
        self.image_norm = nn.LayerNorm(features if pools else c.width, c.norm_eps)
        self.image_proj = nn.Linear(features if pools else c.width, features, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = None

    def initialize(self, generator_for: Initializer) -> None:
        initialize_temperature(self.logit_scale, None)

    @property
    def num_features(self) -> int:
        width: int = self.config.decoder_width or self.config.width
        return width

    def decoder_fields(self) -> dict[str, Any]:
        """Fields of the blocks of the text tower and of the decoder."""
        return {name: value for name, value in self.config.side("decoder").items() if name != "depth"}

    def make_side(self, name: str) -> Side:
        c = self.config
        if name == "encoder":
            norm = nn.LayerNorm(c.width, c.norm_eps)
            tokens = PatchEmbedding(pair(c.image_size), pair(c.patch_size), c.in_chans, c.width, norm=norm)
            kind = on_grid(c.side(name)["attention"], tokens.grid[1], tokens.prefix)
            return Side(tokens, self.make_blocks(name, final_norm=False, attention=kind))
        # the last position is that of the class token
        words = TextEmbedding(c.vocab_size, self.num_features, max_length=c.max_length + 1, dropout=c.dropout)
        return Side(words, self.make_decoder())

    def make_decoder(self) -> Stack:
        """The blocks that attend to the text so far and to the image."""
        c, width = self.config, self.num_features
        depth = c.side("decoder")["depth"]
        spec = BlockConfig.of(c, causal=True, width=width, **self.decoder_fields())
        memory = c.width if c.pooler_queries is None else c.projection_dim
        mlp_dim = spec.mlp_dim or 4 * width

        def block(layer: int) -> CrossBlock:
            plain = spec.block(layer, depth)
            kind = for_layer(c.cross_attention, layer, depth)
            cross = spec.attend(layer, depth, kind, cross=True, memory_width=memory)
            assert plain.mlp is not None and isinstance(cross.core, Core)
            check_cross_attention(cross.core)
            mlps = (plain.mlp, MLP(width, mlp_dim, spec.act))
            norm = spec.make_norm(memory)
            return CrossBlock(
                plain.mixer, mlps, spec.make_norm, width=width, cross=cross, memory_norm=norm, dropout=spec.dropout,
                drop_path=plain.drop_path,
            )  # fmt: skip

        return Stack((block(layer) for layer in range(depth)), spec.make_norm())

    def make_head(self) -> LMHead:
        word = self.tokens.word if self.config.tie_word_embeddings else None
        return LMHead(self.num_features, self.config.vocab_size, word)

    def share_embeddings(self) -> None:
        """Nothing: only texts have tokens of a vocabulary."""

    def reset_head(self, num_classes: int, seed: int = 0) -> None:
        raise ValueError("CoCa has no classifier; use zoo.zero_shot(model, labels)")

    def default_preprocess(self) -> MultimodalProcessor:
        c = self.config
        colors: Any = clip_colors(c.in_chans)
        return MultimodalProcessor(image=ImageProcessor(size=pair(c.image_size), channels=c.in_chans, **colors))

    # --- images and texts ---------------------------------------------------------------------------------------------

    def encode(  # type: ignore[override]
        self, pixel_values: Tensor, input_ids: Tensor | None = None, *, layers: Sequence[int] | None = None
    ) -> Any:
        """The tokens of the images that the decoder attends to [B, M, D]; layers: of the image encoder, see
        `EncoderDecoder.encode`."""
        if layers is None:
            return self.image_states(pixel_values)[1]
        x, outputs = self.encoder.blocks(self.encoder.tokens(pixel_values), layers=layers)
        return self.pool(x)[1], outputs

    def image_states(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(the features of the images [B, E] before they are normalized, the tokens that the decoder attends to)."""
        check_not_empty(pixel_values, "pixel_values")
        return self.pool(self.encoder.blocks(self.encoder.tokens(pixel_values)))

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`image_states` of the last block's output [B, N, D]."""
        x = self.image_norm(x if self.pooler is None else self.pooler(x))
        return self.image_proj(x[:, 0]), x[:, 1:]

    def text_states(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(the features of the texts [B, E] before they are normalized, the states of their tokens [B, N', D]).

        N' is N, or less where all rows end in padding, which is not computed. As in open_clip the padding is that of
        max_length, and a token is hidden from the others if the one before it is padding.
        """
        c = self.config
        ids = self.check_texts(input_ids)
        size, device, pad = ids.shape[1], ids.device, -1 if c.pad_token_id is None else c.pad_token_id
        real = ids != pad
        last = real[:, -1:] if input_ids.shape[1] == c.max_length else real.new_zeros(ids.shape[0], 1)
        if self.drop_padding and device.type == "cpu" and not torch.compiler.is_compiling():
            size = min(size, int((real * torch.arange(1, size + 1)).max()) + 1)
        ids, real = ids[:, :size], real[:, :size]
        positions = torch.arange(size, device=device)
        cls = self.text.cls + self.tokens.positions[c.max_length]
        x = torch.cat([self.tokens(ids, positions), cls.expand(ids.shape[0], 1, -1)], 1)
        seen = torch.cat([real.new_ones(ids.shape[0], 1), real[:, :-1], last], 1)
        x = self.text.blocks(x, Context(mask=CAUSAL & PaddingMask(seen)))
        return self.text.proj(self.text.norm(x[:, -1])), x[:, : min(size, input_ids.shape[1])]

    def check_texts(self, input_ids: Tensor) -> Tensor:
        """Ids [B, N], with one more token of padding unless they have max_length. Raises ValueError for longer ones."""
        c = self.config
        ids = self.check_decoder_inputs(input_ids, None, None, None)
        if ids.shape[1] > c.max_length:
            raise ValueError(
                f"got {ids.shape[1]} tokens, but the texts of the model have max_length={c.max_length}: truncate the "
                "text (model.preprocess(text=..., truncate='cut'))"
            )
        return F.pad(ids, (0, int(ids.shape[1] < c.max_length)), value=c.pad_token_id or 0)

    def encode_image(self, pixel_values: Tensor, normalize: bool = True) -> Tensor:
        """Images [B, C, H, W] -> [B, projection_dim], L2-normalized unless normalize=False."""
        x = self.image_states(pixel_values)[0]
        return F.normalize(x, dim=-1) if normalize else x

    def encode_text(self, input_ids: Tensor, normalize: bool = True) -> Tensor:
        """Token ids [B, N] -> [B, projection_dim], L2-normalized unless normalize=False."""
        x = self.text_states(input_ids)[0]
        return F.normalize(x, dim=-1) if normalize else x

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor | None = None, input_ids: Tensor | None = None, **unknown: Any
    ) -> CoCaOutput:
        if type(unknown) is not dict:  # torch.fx
            raise trace_error(self)
        if known := self.known_inputs(unknown):
            raise self.input_error(known)
        if pixel_values is None and input_ids is None:
            raise ValueError(f"nothing to encode: expected some of {', '.join(self.inputs)}")
        image = text = logits = None
        if pixel_values is not None:
            image, memory = self.image_states(pixel_values)
            image = F.normalize(image, dim=-1)
        if input_ids is not None:
            text, states = self.text_states(input_ids)
            text = F.normalize(text, dim=-1)
        if pixel_values is not None and input_ids is not None:
            self.check_decoder_inputs(input_ids, None, memory, None)
            assert self.decoder is not None and self.head is not None
            logits = self.head(self.decoder.blocks(states, Context(mask=CAUSAL, memory=memory)))
            logits = F.pad(logits, (0, 0, 0, input_ids.shape[1] - logits.shape[1]))
        return CoCaOutput(image, text, None, self.logit_scale.exp(), None, logits, input_ids)

    def loss(
        self, output: CoCaOutput, *, caption_weight: float = 2.0, contrastive_weight: float = 1.0, **options: Any
    ) -> Tensor:
        """The loss of a batch of images with texts, a scalar: contrastive_weight times CLIP's, and caption_weight times
        the cross-entropy of each next token (Yu et al. 2022, equation 4). Padding is not predicted.

        options: of `zoo.nn.losses.clip_loss`: chunk, group, positives.
        """
        if output.caption_logits is None or output.labels is None:
            raise ValueError(f"the batch has only {', '.join(output.present)} inputs: the loss needs images with texts")
        pad = -100 if self.config.pad_token_id is None else self.config.pad_token_id
        scores, labels = output.caption_logits[:, :-1].flatten(0, 1), output.labels[:, 1:].flatten()
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        total = caption_weight * F.cross_entropy(scores, labels, ignore_index=pad)
        if contrastive_weight:
            pairs = output.features("image"), output.features("text")
            total = total + contrastive_weight * clip_loss(*pairs, output.logit_scale, **options)
        return total

    # --- captions -----------------------------------------------------------------------------------------------------

    def generation_start(
        self,
        batch: Mapping[str, Any],
        decoder_input_ids: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], GenerationStart]:
        """What `zoo.generate` begins with: (the images, the first tokens of the captions).

        A caption begins with the start token, or with the prompt input_ids [B, N] as `model.preprocess` makes it: the
        end token and padding behind it are left out. Raises ValueError for prompts of several lengths.
        """
        if options:
            known = "pixel_values (or images=) and input_ids"
            raise TypeError(f"generate: CoCa takes {known}; it has no option {next(iter(options))!r}")
        if pixel_values is None:
            raise self.input_error({})
        start, ids = self.config.decoder_start_token_id, decoder_input_ids
        if ids is None and batch["input_ids"] is not None:
            ids = self.without_end(batch["input_ids"], batch.get("attention_mask"))
        if ids is None and start is None:
            raise ValueError("the config has no decoder_start_token_id: pass decoder_input_ids=, the first tokens")
        ids = torch.full((len(pixel_values), 1), start) if ids is None else ids
        if len(ids) != len(pixel_values):
            raise ValueError(f"{len(ids)} prompts for {len(pixel_values)} images: expected one for each image")
        return {"pixel_values": pixel_values.to(self.device)}, GenerationStart(ids)

    def without_end(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Prompts [B, N] without end tokens and padding, which all have to be of one length."""
        ends = {self.config.pad_token_id, *as_tuple(self.config.eos_token_id)} - {None}
        rows = [
            row.tolist() if mask is None else row[keep.bool()].tolist()
            for row, keep in zip(ids, mask if mask is not None else ids)
        ]
        for row in rows:
            while row and row[-1] in ends:
                row.pop()
        if len({len(row) for row in rows}) > 1 or not rows[0]:
            raise ValueError(
                f"the prompts have {', '.join(str(len(row)) for row in rows)} tokens: CoCa continues prompts of one "
                "length; describe images with other prompts in another call"
            )
        return torch.tensor(rows, device=ids.device)

    def new_state(
        self, memory: Tensor, memory_mask: Tensor | None = None, capacity: int | None = None
    ) -> EncoderDecoderState:
        """See `EncoderDecoder.new_state`; the layers are those of the text tower and then of the decoder."""
        assert self.decoder is not None
        like, rows = self.tokens.word.weight, len(memory)
        stacks = (self.text.blocks, self.decoder.blocks)
        layers = StackState(layer for stack in stacks for layer in stack.new_state(rows, capacity or 64, like))
        layers.rows = rows
        return EncoderDecoderState(layers, memory.to(like.dtype), None)

    def run_decoder(
        self,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        state: EncoderDecoderState | None = None,
    ) -> Any:
        """Hidden states of the decoder [B, T, D] for tokens without padding that continue those of `state`."""
        assert self.decoder is not None and state is not None
        ids = self.check_decoder_inputs(decoder_input_ids, decoder_attention_mask, memory, state)
        first = self.text.blocks.depth
        if decoder_attention_mask is not None and not decoder_attention_mask.all():
            raise ValueError("CoCa decodes rows without padding: omit attention_mask")
        if state.length + ids.shape[1] > self.config.max_length:
            raise self.tokens.length_error(state.length + ids.shape[1])
        positions = torch.arange(state.length, state.length + ids.shape[1], device=ids.device)
        x = self.tokens(ids, positions)
        for stack, layers in ((self.text.blocks, state[:first]), (self.decoder.blocks, state[first:])):
            part = StackState(layers)
            part.length = state.length
            x = stack(x, Context(mask=CAUSAL, memory=memory), state=part)
        state.advance(ids.shape[1])
        return x


def as_tuple(ids: int | tuple[int, ...] | None) -> tuple[int | None, ...]:
    return ids if isinstance(ids, tuple) else (ids,)


LARGE: dict[str, Any] = dict(
    patch_size=14, width=1024, depth=24, heads=16, decoder_width=768, decoder_heads=12, projection_dim=768
)  # fmt: skip
NANO: dict[str, Any] = dict(
    vocab_size=512, max_length=32, image_size=32, patch_size=4, width=96, depth=2, heads=4, decoder_width=64,
    decoder_heads=4, text_depth=2, decoder_depth=2, projection_dim=64, pooler_queries=16, pooler_heads=4,
    bos_token_id=1, decoder_start_token_id=1, eos_token_id=(2, 0),
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {"coca_nano": NANO, "coca_vit_base_patch32": {}, "coca_vit_large_patch14": LARGE}

SOURCES = {
    "coca_vit_base_patch32": "hf-hub:laion/CoCa-ViT-B-32-laion2B-s13B-b90k",
    "coca_vit_large_patch14": "hf-hub:laion/CoCa-ViT-L-14-laion2B-s13B-b90k",
}

FAMILY = Family("coca", CoCa, CoCaConfig, "multimodal", VARIANTS, SOURCES, {"open_clip": OPEN_CLIP})
