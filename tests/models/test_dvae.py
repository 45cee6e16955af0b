"""Image tokenizers: the contract of all models, parity with FLAVA, dalle-pytorch and Chameleon, and the codebook."""

import importlib
import json
import sys
import types
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
import transformers
from peers import error, randomize
from ranks import ranks
from table_swaps import check_swaps
from torch import Tensor, nn

import zoo
from zoo.models.dvae import DiscreteVAE, DiscreteVAEOutput
from zoo.models.dvae.vector_quantizer import VectorQuantizer
from zoo.nn.losses.reconstruction import LAPLACE_MEAN, LAPLACE_STD, logit_laplace

TINY = dict(image_size=16, widths=(8, 12), depth=1, vocab_size=11, code_width=6)
SHAPES: dict[str, dict] = {
    "gumbel": {},
    "straight through": dict(straight_through=True, depth=0, image_size=(8, 16), in_chans=1),
    "vq": dict(quantizer="vq"),
    "vq, learned": dict(quantizer="vq", ema_decay=0.0, code_width=None, loss="smooth_l1"),
    "dall-e": dict(resample="pool", loss="laplace", depth=2),
    "vq, pooled": dict(resample="pool", quantizer="vq", loss="l1"),
}


def small(shape: str = "gumbel", **options) -> DiscreteVAE:
    model = zoo.create_model("dvae_tiny", seed=0, **TINY | SHAPES[shape] | options).eval()
    assert isinstance(model, DiscreteVAE)
    return model


def images(model: DiscreteVAE, rows: int = 3) -> Tensor:
    c = model.config
    size = (c.image_size,) * 2 if isinstance(c.image_size, int) else c.image_size
    x = torch.randn(rows, c.in_chans, *size, generator=torch.Generator().manual_seed(0))
    return x.sigmoid() if c.loss == "laplace" else x


def tensors(output: DiscreteVAEOutput) -> dict[str, Tensor]:
    return {name: value for name, value in vars(output).items() if value is not None}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert error(a.double(), b.double()) <= tolerance


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_trains_saves_and_loads(shape, tmp_path):
    model = small(shape).train()
    x = images(model)
    output = model(x)
    assert output.pixel_values.shape == x.shape and output.ids.shape == (3, model.grid[0] * model.grid[1])
    assert output.ids.max() < model.config.vocab_size and output.reconstruction.shape == (3,)
    loss = sum(term.sum() for term in (output.reconstruction, output.kl, output.commitment, output.codebook)
               if term is not None)  # fmt: skip
    loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing, missing
    folder = zoo.save(model, tmp_path / "model")
    loaded = zoo.load(folder)
    assert loaded.config == model.config and loaded.preprocess == model.preprocess
    assert not (loaded.load_report.initialized or loaded.load_report.dropped)
    assert zoo.verify(folder).ok
    with torch.no_grad():
        expected, found = tensors(model.eval()(x)), tensors(loaded(x))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_tokens_and_images(shape):
    model = small(shape)
    x = images(model)
    ids, output = model.tokenize(x), model(x)
    assert ids.dtype == torch.int64 and torch.equal(ids, output.ids)
    close(model.decode(ids), output.pixel_values)
    grid = ids.unflatten(1, model.grid)
    assert torch.equal(model.decode(grid.int()), model.decode(ids))
    close(model.decode(ids[1:2]), model.decode(ids)[1:2])
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1) % model.config.vocab_size
    difference = (model.decode(changed) - model.decode(ids)).abs().amax((0, 1))
    assert difference[-1, -1] > 0 and difference[0, 0] == 0  # rows and columns are not mixed up
    if model.config.loss == "laplace":
        assert output.pixel_values.min() > 0 and output.pixel_values.max() < 1


@pytest.mark.parametrize("shape", ["gumbel", "vq", "dall-e"])
@torch.no_grad()
def test_the_encoder_alone_tokenizes(shape, tmp_path):
    model = small(shape)
    x = images(model)
    bare = zoo.load(zoo.save(model, tmp_path / "model"), head=None)
    assert all(name.startswith("head.") for name in bare.load_report.dropped)
    assert torch.equal(bare.tokenize(x), model.tokenize(x)) and torch.equal(bare(x), model.encode(x))
    with pytest.raises(ValueError, match="no decoder"):
        bare.decode(bare.tokenize(x))


@pytest.mark.parametrize("shape", ["gumbel", "vq", "dall-e"])
def test_one_graph_and_export(shape):
    model = small(shape)
    x = images(model)
    with torch.no_grad():
        expected = tensors(model(x))
        torch._dynamo.reset()
        compiled = tensors(torch.compile(model, backend="eager", fullgraph=True)(x))
        exported = tensors(torch.export.export(model, (x,)).module()(x))
    for found in (compiled, exported):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            close(found[name], value)


@pytest.mark.parametrize("shape", ["gumbel", "vq"])
@torch.no_grad()
def test_half_precision_stays_near(shape):
    model = small(shape)
    x = images(model)
    exact = model.encode(x)
    half = model.to(torch.bfloat16)
    y = half(x.bfloat16())
    assert y.pixel_values.dtype == torch.bfloat16 and y.reconstruction.dtype == torch.float32
    close(half.encode(x.bfloat16()).float(), exact, 0.1)


def test_the_seed_decides_everything():
    for shape in SHAPES:
        a, b, other = small(shape), small(shape), zoo.create_model("dvae_tiny", seed=1, **TINY | SHAPES[shape])
        pairs = zip(a.state_dict().values(), b.state_dict().values(), other.state_dict().values(), strict=True)
        same, differs = zip(*((torch.equal(x, y), not torch.equal(x, z)) for x, y, z in pairs))
        assert all(same) and any(differs)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 30}, r"image_size=30 is not a multiple of 4, the pixels of a token.*use \(28, 28\)"),
        ({"image_size": (16, 18)}, r"\(16, 18\) is not a multiple of 4.*use \(16, 16\)"),
        ({"widths": ()}, "at least one width"),
        ({"widths": (8, 0)}, "at least one width, of at least 1"),
        ({"code_width": 0}, "code_width=0"),
        ({"widths": (8, 10), "resample": "pool"}, "multiples of 4"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"quantizer": "vqq"}, "quantizer='vqq'"),
        ({"head": "classify"}, "head='decoder'"),
        ({"num_layers": 2}, "did you mean 'depth'"),
        ({"codebook_dim": 2}, "did you mean 'code_width'"),
    ],
)
def test_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        small(**overrides)


def test_inputs_that_do_not_fit_are_named():
    model = small()
    for shape, message in (
        ((2, 3, 16, 20), r"images are 16 x 20, but the model expects 16 x 16.*image_size=.*multiple of 4"),
        ((2, 1, 16, 16), r"\[B, 3, 16, 16\], got \(2, 1, 16, 16\)"),
        ((3, 16, 16), r"got \(3, 16, 16\)"),
        ((0, 3, 16, 16), "pixel_values"),
    ):
        with pytest.raises(ValueError, match=message):
            model.tokenize(torch.randn(shape))
    for ids, message in (
        (torch.tensor([[0] * 15 + [11]]), "ids from 0 to 11: the codebook has 11 codes, 0 to 10"),
        (torch.tensor([[-1] + [0] * 15]), "ids from -1 to 0"),
        (torch.zeros(1, 12, dtype=torch.long), r"\(1, 12\): expected \[B, 16\] or \[B, 4, 4\]"),
        (torch.zeros(1, 16), "whole numbers.*float32"),
        ([[0] * 16], "got list"),
    ):
        with pytest.raises(ValueError, match=message):
            model.decode(ids)
    with pytest.raises(ValueError, match="does not use 'labels'"):
        model(torch.randn(1, 3, 16, 16), labels=1)
    with pytest.raises(ValueError, match="'pixel_values' is missing"):
        model()
    with pytest.raises(ValueError, match="no transformer blocks to recompute"):
        model.set_checkpointing(True)
    with pytest.warns(UserWarning, match="unnormalized"):
        small().tokenize(torch.rand(1, 3, 16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small("dall-e", image_size=16).tokenize(torch.rand(1, 3, 16, 16))


# -- FLAVA -------------------------------------------------------------------------------------------------------------

FLAVA = dict(hidden_size=8, vocab_size=13, num_blocks_per_group=2)


def flava_folder(folder: Path) -> nn.Module:
    model = randomize(transformers.FlavaImageCodebook(transformers.FlavaImageCodebookConfig(**FLAVA)))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def test_the_codebook_of_flava(tmp_path):
    theirs = flava_folder(tmp_path / "theirs")
    transformers.FlavaImageProcessor(codebook_size=32, codebook_crop_size=32).save_pretrained(tmp_path / "theirs")
    ours = zoo.load(tmp_path / "theirs", image_size=32)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert error(ours(x), theirs(x)) <= 1e-5
    assert error(ours.double()(x.double()), theirs.double()(x.double())) <= 1e-9
    ours, theirs = ours.float(), theirs.float()
    assert torch.equal(ours.tokenize(x), theirs.get_codebook_indices(x).flatten(1))
    zoo.export(ours, tmp_path / "ours", "transformers")
    again = transformers.FlavaImageCodebook.from_pretrained(tmp_path / "ours")
    assert error(again(x), theirs(x)) <= 1e-6 and json.loads((tmp_path / "ours" / "config.json").read_text())
    assert ours.preprocess.size == (32, 32) and zoo.verify(tmp_path / "ours").ok
    x = x[:1, :, :16, :16]
    check_swaps(tmp_path / "theirs", lambda m: m.encoder(x), theirs(x), 21)


@torch.no_grad()
def has_lanczos() -> bool:
    """Whether torch resizes tensors by it: since 2.12."""
    try:
        torch.nn.functional.interpolate(torch.zeros(1, 1, 4, 4), size=(2, 2), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError):
        return False
    return True


def test_the_codebook_in_a_whole_flava(tmp_path):
    tower = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    image = tower | dict(image_size=16, patch_size=8)
    config = transformers.FlavaConfig(
        image_config=image, text_config=tower | dict(vocab_size=9), multimodal_config=tower,
        image_codebook_config=FLAVA, hidden_size=8, projection_dim=8,
    )  # fmt: skip
    theirs = randomize(transformers.FlavaForPreTraining(config))
    theirs.save_pretrained(tmp_path)
    processor = transformers.FlavaImageProcessor()
    processor.save_pretrained(tmp_path)
    assert zoo.verify(tmp_path).ok
    ours = zoo.load(tmp_path)
    picture = torch.randint(256, (3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    found = ours.preprocess(picture)["pixel_values"]
    expected = processor(picture, return_codebook_pixels=True, return_tensors="pt")["codebook_pixel_values"]
    assert found.shape == (1, 3, 112, 112)
    if has_lanczos():  # without it theirs resizes by bicubic interpolation instead, and says so
        assert error(found, expected) <= 1e-6
    assert found.min() >= 0.1 and found.max() <= 0.9
    assert torch.equal(ours.preprocess.to_images(found)[0], ours.preprocess.pixels(picture))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"init_codebook": False}))
    with pytest.raises(zoo.LoadError, match="has no image codebook"):
        zoo.load(tmp_path)


def test_what_flava_cannot_express(tmp_path):
    for model in (small("dall-e"), small("vq", head=None), small("dall-e", head=None)):
        with pytest.raises(ValueError, match="transformers"):
            zoo.export(model, tmp_path / "out", "transformers")
    flava_folder(tmp_path / "theirs")
    values = json.loads((tmp_path / "theirs" / "config.json").read_text()) | {"num_groups": 3}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(values))
    with pytest.raises(zoo.LoadError, match="num_groups=3"):
        zoo.load(tmp_path / "theirs")


def test_the_published_size():
    """8,192 codes of 8 x 8 pixels; the encoder has the parameters of FLAVA's class at its default size."""
    config = transformers.FlavaImageCodebookConfig()
    with torch.device("meta"):
        theirs = transformers.FlavaImageCodebook(config)
        ours = zoo.create_model("dvae_dalle", seed=0)
    count = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for p in ours.encoder.parameters()) == count
    assert ours.grid == (32, 32) and ours.config.patch_size == 8 and ours.config.vocab_size == config.vocab_size


# -- dalle-pytorch -----------------------------------------------------------------------------------------------------


@pytest.fixture
def dalle_pytorch(monkeypatch) -> ModuleType:
    """The package, which needs `pip install --no-deps dalle-pytorch`; what else it imports is not used here."""

    class Stub(ModuleType):
        __path__ = ()

        def __getattr__(self, name: str) -> type:
            return type(name, (), {})

    spec = importlib.util.find_spec("dalle_pytorch")
    if spec is None or spec.origin is None:
        pytest.skip("dalle-pytorch is not installed: pip install --no-deps dalle-pytorch==1.6.6")
    folder = str(Path(spec.origin).parent)
    package = types.ModuleType("dalle_pytorch")
    package.__path__ = [folder]
    monkeypatch.setitem(sys.modules, "dalle_pytorch", package)
    for name in ("axial_positional_embedding", "dalle_pytorch.vae", "dalle_pytorch.transformer", "einops",
                 "dalle_pytorch.distributed_utils"):  # fmt: skip
        if name != "einops" or importlib.util.find_spec("einops") is None:
            monkeypatch.setitem(sys.modules, name, Stub(name))
    stub = sys.modules["dalle_pytorch.distributed_utils"]
    stub.is_distributed = False  # type: ignore[attr-defined]
    if isinstance(sys.modules.get("einops"), Stub):
        sys.modules["einops"].rearrange = rearrange  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "dalle_pytorch.dalle_pytorch", raising=False)
    return importlib.import_module("dalle_pytorch.dalle_pytorch")


def rearrange(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """The patterns of einops that the discrete VAE has."""
    if pattern == "c -> () c () ()":
        return x[None, :, None, None]
    if pattern == "b (h w) d -> b d h w":
        return x.movedim(2, 1).unflatten(2, (sizes["h"], sizes["w"]))
    assert pattern == "b n h w -> b (h w) n"
    return x.flatten(2).mT


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("straight_through", [False, True])
def test_the_discrete_vae_of_dalle_pytorch(dalle_pytorch, depth, straight_through):
    theirs = dalle_pytorch.DiscreteVAE(
        image_size=16, num_tokens=11, codebook_dim=6, num_layers=2, num_resnet_blocks=depth, hidden_dim=8,
        straight_through=straight_through, kl_div_loss_weight=0.3, temperature=0.7, smooth_l1_loss=straight_through,
    )  # fmt: skip
    randomize(theirs)
    ours = small(
        widths=(8, 8), depth=depth, straight_through=straight_through, temperature=0.7,
        loss="smooth_l1" if straight_through else "mse",
    )  # fmt: skip
    state = {f"head.{name}" if name.startswith("codebook") else name: x for name, x in theirs.state_dict().items()}
    order = sorted(state, key=lambda name: (not name.startswith("encoder"), not name.startswith("head.codebook")))
    ours.load_state_dict(dict(zip(ours.state_dict(), (state[name] for name in order), strict=True)))
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    pixels = 2 * x - 1  # as theirs normalizes them itself
    ids = theirs.get_codebook_indices(x)
    assert torch.equal(ours.tokenize(pixels), ids)
    close(ours.encode(pixels), theirs(x, return_logits=True))
    close(ours.decode(ids), theirs.decode(ids))
    torch.manual_seed(5)
    expected, reconstruction = theirs(x, return_loss=True, return_recons=True)
    expected.backward()
    torch.manual_seed(5)
    output = ours.train()(pixels)
    loss = output.reconstruction.mean() + 0.3 * output.kl.sum()  # theirs sums over the batch
    loss.backward()
    close(output.pixel_values, reconstruction)
    close(loss, expected)
    for mine, name in zip(ours.parameters(), order, strict=True):
        close(mine.grad, theirs.get_parameter(name.removeprefix("head.")).grad)


# -- vector quantization -----------------------------------------------------------------------------------------------


def test_the_vector_quantizer_of_chameleon():
    config = transformers.ChameleonVQVAEConfig(num_embeddings=11, embed_dim=6)
    theirs = transformers.models.chameleon.modeling_chameleon.ChameleonVQVAEVectorQuantizer(config)
    randomize(theirs)
    model = small("vq, learned", code_width=6)
    with torch.no_grad():
        model.quantizer.weight.copy_(theirs.embedding.weight)
    x = images(model)
    vectors = model.encode(x)
    quantized, loss, ids = theirs(vectors)
    output = model(x)
    assert torch.equal(output.ids.flatten(), ids) and len(ids.unique()) > 3
    close(model.embed(output.ids.unflatten(1, model.grid)), quantized)
    close(output.codebook.mean() + theirs.beta * output.commitment.mean(), loss)
    loss.backward()
    grad = theirs.embedding.weight.grad.clone()
    (output.commitment.mean() + theirs.beta * output.codebook.mean()).backward()  # they weight the other term
    close(model.quantizer.weight.grad, grad)


def quantizer(ema_decay: float = 0.5) -> VectorQuantizer:
    found = VectorQuantizer(4, 2, ema_decay)
    with torch.no_grad():
        found.weight.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]]))
        found.counts.zero_()
        found.sums.zero_()
    return found


ROWS = torch.tensor([[0.2, 0.0], [-0.4, 0.2], [4.2, 0.2], [3.8, 0.4], [4.4, 0.0], [0.0, 5.0], [0.4, -0.2], [0.2, 0.4]])


def grid(rows: Tensor) -> Tensor:
    """Vectors [M, D] as [M, D, 1, 1]."""
    return rows[:, :, None, None]


def test_the_codes_are_moving_averages_of_their_vectors():
    q = quantizer()
    vectors = grid(ROWS)
    ids = q(vectors)
    assert ids.flatten().tolist() == [0, 0, 1, 1, 1, 2, 0, 0]
    found = q.statistics(vectors, ids)
    assert found.counts.tolist() == [4, 3, 1, 0]
    assert q.update(found, dead_codes=0) == 0
    means = torch.stack([ROWS[ids.flatten() == k].mean(0) for k in range(3)])
    close(q.weight[:3], means)
    assert q.weight[3].tolist() == [9.0, 9.0]  # nothing is nearest to it: it stays
    before = q.weight.clone()
    later = grid(ROWS + 1)
    q.update(q.statistics(later, ids), dead_codes=0)
    # weights 0.25 and 0.5 of the two batches
    close(q.weight[:3], (0.25 * means + 0.5 * (means + 1)) / 0.75)
    assert not torch.equal(q.weight[:3], before[:3])


def test_a_dead_code_moves_next_to_the_code_with_the_greatest_error():
    q = quantizer()
    vectors = grid(ROWS)
    found = q.statistics(vectors, q(vectors))
    widest = int(torch.where(found.counts > 1, found.errors, 0.0).argmax())
    assert q.update(found, generator=torch.Generator().manual_seed(0)) == 1
    mean = ROWS[q(vectors).flatten() == 0].mean(0) if widest == 0 else q.weight[widest]
    assert (q.weight[3] - mean).norm() < 1 and not torch.equal(q.weight[3], q.weight[widest])
    assert q.counts[3] == q.counts[widest] == found.counts[widest] * 0.25
    with pytest.raises(ValueError, match="learned by its gradient"):
        VectorQuantizer(4, 2, 0.0).update(found)


def test_a_split_code_shares_its_vectors_in_many_dimensions():
    q = VectorQuantizer(3, 64, 0.5)
    q.initialize(lambda name: torch.Generator().manual_seed(0))
    q.weight.copy_(torch.tensor([0.0, 50.0, -50.0])[:, None].expand(3, 64))
    vectors = torch.randn(1, 64, 20, 20, generator=torch.Generator().manual_seed(1))
    before = q(vectors)
    assert (before == 0).all()
    q.update(q.statistics(vectors, before), generator=torch.Generator().manual_seed(2))
    shares = torch.bincount(q(vectors).flatten(), minlength=3) / before.numel()
    assert shares[0] > 0.2 and shares[1:].sum() > 0.2


def updated(rank: int) -> list[Tensor]:
    q = quantizer()
    mine = grid(ROWS[rank * 3 : rank * 3 + 3 if rank == 0 else None])
    q.update(q.statistics(mine, q(mine)), generator=torch.Generator().manual_seed(0))
    return [q.weight, q.counts, q.sums]


def test_the_update_of_two_processes_is_that_of_the_whole_batch():
    q = quantizer()
    vectors = grid(ROWS)
    q.update(q.statistics(vectors, q(vectors)), generator=torch.Generator().manual_seed(0))
    for found in ranks(2, updated):
        for one, other in zip(found, (q.weight, q.counts, q.sums), strict=True):
            close(one, other, 1e-6)


# -- losses ------------------------------------------------------------------------------------------------------------


def test_the_logit_laplace_distribution():
    """Its density integrates to 1, and x = sigmoid(mu) has the density 1 / (2 b x (1 - x))."""
    x = torch.linspace(1e-4, 1 - 1e-4, 20001, dtype=torch.float64).view(1, 1, 1, -1)
    output = torch.tensor([0.3, -0.5], dtype=torch.float64).view(1, 2, 1, 1).expand(-1, -1, 1, x.shape[-1])
    density = torch.exp(-logit_laplace(output, x))
    assert abs(torch.trapezoid(density, x).item() - 1) < 1e-3
    mode = torch.sigmoid(torch.tensor(0.3, dtype=torch.float64)).view(1, 1, 1, 1)
    expected = torch.log(2 * torch.exp(torch.tensor(-0.5, dtype=torch.float64)) * mode * (1 - mode))
    close(logit_laplace(output[..., :1], mode), expected)
    pixels = torch.tensor([0.0, 1.0])
    close((pixels - LAPLACE_MEAN) / LAPLACE_STD, torch.tensor([0.1, 0.9]))


def test_the_temperature_sharpens_the_mixture():
    model = small().train()
    logits = model.encode(images(model))
    spread = []
    for temperature in (0.05, 5.0):
        torch.manual_seed(0)
        codes = model.sample(logits, temperature)
        nearest = torch.cdist(codes.movedim(1, -1).reshape(-1, 6), model.codebook).amin(1)
        spread.append(nearest.mean().item())
    assert spread[0] < 0.2 * spread[1]
    torch.manual_seed(0)
    hard = small("straight through", depth=1, image_size=16, in_chans=3).train()
    codes = hard.sample(logits)
    assert torch.cdist(codes.movedim(1, -1).reshape(-1, 6), hard.codebook).amin(1).max() < 1e-3
    assert F.mse_loss(codes, codes.detach()).requires_grad


def test_twenty_steps_reconstruct_better():
    for shape in ("gumbel", "vq", "dall-e"):
        torch.manual_seed(0)
        model = small(shape, straight_through=True).train()
        x = images(model, 8)[..., :1, :1].expand(-1, -1, 16, 16)  # one color each
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        losses = []
        for _ in range(20):
            output = model(x)
            loss = output.reconstruction.mean() + (0 if output.commitment is None else output.commitment.mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if output.vectors is not None:
                ids = output.ids.unflatten(1, model.grid)
                model.quantizer.update(model.quantizer.statistics(output.vectors, ids), dead_codes=0)
            losses.append(output.reconstruction.mean().item())
        assert sum(losses[-3:]) < sum(losses[:3]) - 0.05, (shape, losses)
