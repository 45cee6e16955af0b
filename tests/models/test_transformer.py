"""The Transformer of 2017 against torch.nn.Transformer, every parameter random."""

import math

import pytest
import torch
import torch.nn.functional as F
from peers import error, randomize
from torch import Tensor, nn

import zoo

# both of torch's own defaults
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in ("enable_nested_tensor is True", "The PyTorch API")
]
SMALL = dict(vocab_size=61, max_length=40, width=32, depth=2, decoder_depth=3, heads=4, mlp_dim=48, dropout=0.0)
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-9}

# torch's names of the parts of one layer, {ours: theirs}
LAYER = {"mixer.out": "self_attn.out_proj", "mlp.up": "linear1", "mlp.down": "linear2", "norm1": "norm1"}
ENCODER = LAYER | {"norm2": "norm2"}
DECODER = LAYER | {"cross.out": "multihead_attn.out_proj", "cross_norm": "norm2", "norm2": "norm3"}
JOINED = {"mixer": "self_attn", "cross": "multihead_attn"}


class Peer(nn.Module):
    """torch.nn.Transformer between the paper's embeddings and its output layer; sinusoids by the paper's formula."""

    def __init__(self, config) -> None:
        super().__init__()
        c = config
        self.word = nn.Embedding(c.vocab_size, c.width)
        self.body = nn.Transformer(
            c.width, c.heads, c.depth, c.decoder_depth, c.mlp_dim, 0.0, batch_first=True, norm_first=c.order == "pre"
        )
        self.body.encoder.enable_nested_tensor = False
        if c.final_norm is None and c.order == "post":
            self.body.encoder.norm = self.body.decoder.norm = None

    def embed(self, ids: Tensor) -> Tensor:
        width = self.word.embedding_dim
        table = [
            [(math.sin, math.cos)[i % 2](position / 10000 ** (2 * (i // 2) / width)) for i in range(width)]
            for position in range(ids.shape[1])
        ]
        return self.word(ids) * math.sqrt(width) + torch.tensor(table).to(self.word.weight.dtype)

    def forward(self, source: Tensor, keep: Tensor, target: Tensor) -> Tensor:
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        hidden = keep == 0  # in torch's padding masks True is padding
        x = self.body(
            self.embed(source), self.embed(target), tgt_mask=causal, src_key_padding_mask=hidden,
            memory_key_padding_mask=hidden,
        )  # fmt: skip
        return F.linear(x, self.word.weight)


def weights_of(peer: Peer) -> dict[str, Tensor]:
    """The weights of torch's model under our names."""
    theirs, ours = peer.body.state_dict(), {}
    ours |= dict.fromkeys(
        ("encoder.tokens.word.weight", "decoder.tokens.word.weight", "head.proj.weight"), peer.word.weight.detach()
    )
    for side, table in (("encoder", ENCODER), ("decoder", DECODER)):
        for number in range(len(getattr(peer.body, side).layers)):
            our, their = f"{side}.blocks.{number}", f"{side}.layers.{number}"
            for kind in ("weight", "bias"):
                ours |= {f"{our}.{name}.{kind}": theirs[f"{their}.{other}.{kind}"] for name, other in table.items()}
                for name, other in JOINED.items():
                    if f"{their}.{other}.in_proj_{kind}" in theirs:
                        parts = theirs[f"{their}.{other}.in_proj_{kind}"].chunk(3)
                        ours |= {f"{our}.{name}.{part}.{kind}": value for part, value in zip("qkv", parts)}
        ours |= {f"{side}.blocks.norm.{k}": theirs[f"{side}.norm.{k}"] for k in ("weight", "bias")
                 if f"{side}.norm.{k}" in theirs}  # fmt: skip
    return ours


def pair(dtype: torch.dtype, **options) -> tuple[zoo.Model, Peer]:
    model = zoo.create_model("transformer_nano", **SMALL | options)
    peer = Peer(model.config)
    randomize(peer)
    model.load_state_dict(weights_of(peer))
    return model.to(dtype).eval(), peer.to(dtype).eval()


def ragged() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    source, target = (torch.randint(3, 61, (3, n), generator=generator) for n in (11, 7))
    keep = torch.ones_like(source)
    keep[1, 6:], keep[2, 7:] = 0, 0  # on the right: the peer's positions are the columns
    return source, keep, target


SHAPES = {
    "post": {},
    "post with final norms": {"final_norm": True},
    "pre": {"order": "pre"},
    "eight heads of four": {"heads": 8},
}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_those_of_torch(shape, dtype):
    model, peer = pair(dtype, **SHAPES[shape])
    source, keep, target = ragged()
    with torch.no_grad():
        ours = model(input_ids=source, attention_mask=keep, decoder_input_ids=target)
        assert error(ours, peer(source, keep, target)) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.float64, 1e-8)], ids=["float32", "float64"])
def test_twenty_steps_of_training_equal_those_of_torch(dtype, bound):
    model, peer = pair(dtype)
    source, keep, target = ragged()
    losses = []
    for one in (model.train(), peer.train()):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3)
        losses.append([])
        for _ in range(20):
            scores = one(source, keep, target[:, :-1])
            loss = F.cross_entropy(scores.flatten(0, 1), target[:, 1:].flatten(), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=bound)


def test_positions_are_not_in_the_weights_and_follow_the_tokens():
    model, _ = pair(torch.float64)
    assert not [name for name in model.state_dict() if "position" in name]
    source, keep, target = ragged()
    with torch.no_grad():
        right = model(source, keep, target)[1:2]
        left = model(source[1:2].roll(5, 1), keep[1:2].roll(5, 1), target[1:2])
        compiled = torch.compile(model, backend="eager", fullgraph=True)(source, keep, target)
    assert error(left, right) <= 1e-12
    assert error(compiled[1:2], right) <= 1e-12


def test_a_table_kept_by_inference_serves_training():
    model = zoo.create_model("transformer_nano", **SMALL | {"width": 24})
    ids = torch.arange(3, 9)[None]
    with torch.inference_mode():
        model(ids, decoder_input_ids=ids)
    model(ids, decoder_input_ids=ids).sum().backward()
    assert model.encoder.tokens.word.weight.grad.abs().sum() > 0


def test_embeddings_begin_with_a_variance_of_one_and_have_dropout():
    model = zoo.create_model("transformer_nano", width=256, dropout=0.5)
    word = model.encoder.tokens.word.weight
    assert word is model.decoder.tokens.word.weight is model.head.proj.weight
    assert (word * 16).std().item() == pytest.approx(1, abs=0.02)
    tokens = model.train().encoder.tokens
    zeros = (tokens(torch.full((4, 50), 5), torch.arange(50)) == 0).float().mean().item()
    assert zeros == pytest.approx(0.5, abs=0.05)


def test_published_numbers_of_parameters():
    # 63.1 and 214.2 million; the paper's table rounds to 65 and 213
    from zoo.models.registry import build, family

    found = {name: build(family("transformer"), family("transformer").config(**fields))
             for name, fields in family("transformer").variants.items()}  # fmt: skip
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in found.items()}
    assert counts["transformer_base"] == 63_082_496
    assert counts["transformer_big"] == 214_245_376


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="even width"):
        zoo.create_model("transformer_nano", width=33, heads=3)
    model, _ = pair(torch.float32)
    with pytest.raises(ValueError, match="got 41 tokens, but the model has max_length=40"):
        model(torch.full((1, 41), 3), decoder_input_ids=torch.ones(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="got 41 tokens"):
        model(torch.full((1, 4), 3), decoder_input_ids=torch.full((1, 41), 3))
