"""`lengths` beside the mask: they change no number, wrong ones raise, and with them no family waits for a GPU."""

from collections.abc import Callable, Iterator

import pytest
import torch
from gpu_twin import choose_as_on_a_gpu
from host_waits import fake_batch, fake_gpu, on_fake_gpu
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo.models.example_batch import example_batch
from zoo.models.registry import families, family
from zoo.nn.frontends.packed_documents import PADDING, PackedDocuments, are_documents
from zoo.nn.lengths import place

WAITS = (DataDependentOutputException, DynamicOutputShapeException)
SIZES = dict(
    width=32, depth=2, heads=4, mlp_dim=48, vocab_size=50, max_length=32, dropout=0.0, attention_dropout=0.0,
    eos_token_id=1, pad_token_id=0, conv_channels=(8, 12, 8), conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2),
    position_kernel=6, position_groups=4, image_size=32, patch_size=8, mel_bins=16,
)  # fmt: skip
SINGLE = [f.name for f in families() if f.modality != "multimodal"]
PADDED = [name for name in SINGLE if "attention_mask" in family(name).model.inputs and name != "evoformer"]
PACKED = ("rnn_seq2seq",)  # torch packs rows by a tensor on the host, whose numbers a fake GPU does not have
OWN: dict[str, dict] = {"rnn_seq2seq": dict(mlp_dim=None), "granite": dict(mixer=["mamba2", "attention"])}


def small(name: str, **overrides) -> zoo.Model:
    f = family(name)
    sizes = {key: value for key, value in (SIZES | OWN.get(name, {})).items() if key in f.config.names()}
    return zoo.create_model(next(iter(f.variants)), seed=0, **sizes | overrides).eval()


def whole(name: str) -> dict[str, Tensor]:
    """Three rows of 11 tokens or points, or of 231 samples; a decoder beside an encoder reads 7 tokens."""
    generator = torch.Generator().manual_seed(0)
    if "input_ids" in family(name).model.inputs:
        batch = {"input_ids": torch.randint(5, 50, (3, 11), generator=generator)}
        if "decoder_input_ids" in family(name).model.inputs:
            batch["decoder_input_ids"] = torch.randint(5, 50, (3, 7), generator=generator)
        return batch
    if "points" in family(name).model.inputs:
        return {"points": torch.randn(3, 11, 3, generator=generator)}
    return {"input_values": torch.randn(3, 231, generator=generator)}


def padded(name: str, side: str = "right") -> tuple[dict[str, Tensor], list[int]]:
    """(a batch whose rows have different lengths, its lengths)."""
    batch = whole(name)
    size = next(iter(batch.values())).shape[1]
    lengths = [size, size // 2, size * 2 // 3]
    mask = torch.arange(size) < torch.tensor(lengths)[:, None]
    return batch | {"attention_mask": (mask if side == "right" else mask.flip(1)).long()}, lengths


def test_all_text_and_waveform_families_take_them():
    assert len(PADDED) >= 9 and all("lengths" in family(name).model.inputs for name in PADDED)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", PADDED)
def test_they_change_no_number(name, side):
    model = small(name)
    batch, lengths = padded(name, side)
    expected = model(**batch)
    assert torch.equal(model(**batch, lengths=lengths), expected)
    assert torch.equal(model(**batch, lengths=torch.tensor(lengths)), expected)
    assert torch.equal(model.encode(**batch, lengths=lengths), model.encode(**batch))
    if side == "right":
        del batch["attention_mask"]
        assert torch.equal(model(**batch, lengths=lengths), expected)
    every = [next(iter(whole(name).values())).shape[1]] * 3
    assert torch.equal(model(**whole(name), lengths=every), model(**whole(name)))


def in_dtype(batch: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: x.to(dtype) if x.is_floating_point() else x for key, x in batch.items()}


QUICK = ("bert", "gpt2", "clip_text", "wav2vec2")
FLOATS = [
    pytest.param(name, dtype, marks=[] if name in QUICK else pytest.mark.full)
    for name in PADDED if name not in PACKED for dtype in (torch.float32, torch.bfloat16)
]  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), FLOATS)
def test_with_them_the_host_does_not_wait(name, dtype):
    """Without them it does, by which the test could fail."""
    model = small(name, drop_path=0.1).train().to(dtype)
    batch, lengths = padded(name)
    batch = in_dtype(batch, dtype)
    with fake_gpu():
        on_fake_gpu(model)
        model(**fake_batch(batch), lengths=lengths)
        if name != "clip_text":  # which looks for the end of a text where no length is given
            model(**fake_batch(in_dtype(whole(name), dtype)))
        if name == "point_transformer":  # never does: it keeps padding under a mask
            model(**fake_batch(batch))
            return
        with pytest.raises(WAITS):
            model(**fake_batch(batch))


# a graph is checked and its edges are sorted, for which the host waits
@pytest.mark.parametrize("name", [n for n in SINGLE if n not in PADDED and family(n).modality != "graph"])
def test_other_families_neither(name):
    model = small(name).train()
    with fake_gpu():
        on_fake_gpu(model)(**fake_batch(example_batch(model)))


@pytest.mark.parametrize("name", ["contrast_tiny", "siglip_tiny"])
def test_two_towers_neither(name):
    model = zoo.create_model(name).train()
    images = torch.randn(2, 3, *[model.image.config.image_size] * 2)
    batch = {"pixel_values": images, "input_ids": torch.zeros(2, 32, dtype=torch.long)}
    if "lengths" in model.inputs:
        batch |= {"attention_mask": torch.ones(2, 32, dtype=torch.long), "lengths": [32, 9]}
    with fake_gpu():
        model.loss(on_fake_gpu(model)(**fake_batch(batch)))


@pytest.mark.parametrize("lengths, message", [
    ([11, 5, 6], r"lengths\[2\] is 6, but row 2 of attention_mask has 7 real tokens"),
    ([11, 5], "2 lengths for 3 rows"),
    ([11, -5, 7], r"lengths\[1\] is -5: expected an integer from 0 to 11"),
    ([11, 5, 12], r"lengths\[2\] is 12: expected an integer from 0 to 11"),
    ([11, 5.0, 7], r"lengths\[1\] is 5.0: expected an integer"),
    (torch.tensor([11.0, 5.0, 7.0]), r"lengths: expected integers \[B\], given \(3,\) of torch.float32"),
    (torch.empty(3, dtype=torch.long, device="meta"), "lengths are on meta: expected numbers on the host"),
])  # fmt: skip
def test_wrong_ones_raise(lengths, message):
    batch, _ = padded("bert")
    with pytest.raises(ValueError, match=message):
        small("bert")(**batch, lengths=lengths)


def test_a_mask_without_zeros_has_whole_rows():
    ids = whole("bert")["input_ids"]
    with pytest.raises(ValueError, match=r"lengths\[0\] is 3, but row 0 of attention_mask has 11 real tokens"):
        small("bert")(input_ids=ids, attention_mask=torch.ones_like(ids), lengths=[3, 11, 11])


def test_they_go_with_no_state():
    model = small("gpt2")
    ids = whole("gpt2")["input_ids"]
    with pytest.raises(ValueError, match="lengths are those of whole rows: omit lengths= with state="):
        model.encode(ids, lengths=[11, 5, 7], state=model.new_state(3))


@pytest.mark.parametrize("name", ["bert", "wav2vec2"])
def test_new_lengths_compile_nothing_new(name):
    counter = CompileCounter()
    model = small(name)
    batch, lengths = padded(name)
    expected = model(**batch)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    found = compiled(**batch, lengths=lengths)
    assert ((found - expected).abs() <= 1e-5)[0].all()
    compiled(**batch, lengths=[length - 1 for length in lengths])
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", ["softmax", "local"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.full) for n in PADDED])
def test_one_graph_as_on_a_gpu(name, kind, monkeypatch):
    """With the choices of kernels of a GPU, which its models make while they are traced."""
    model = small(name, depth=1, attention=kind)
    batch, lengths = padded(name)
    expected = model(**batch)
    choose_as_on_a_gpu(monkeypatch, flash_takes=())
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for found in (compiled(**batch), compiled(**batch, lengths=lengths)):
        real = batch["attention_mask"].bool() if found.shape[:2] == batch["attention_mask"].shape else [0]
        assert (found - expected)[real].abs().max() <= 1e-5


def test_documents_of_packed_rows():
    model = small("bert", head="classify")
    texts = [[7] * 5, [8] * 3, [9] * 6, [10] * 2]
    packed = zoo.pack(texts, 9, return_lengths=True)
    lengths = packed.pop("lengths")
    assert lengths == [5, 3, 6, 2] and torch.equal(model(**packed, lengths=lengths), model(**packed))
    with pytest.raises(ValueError, match=r"lengths: \(5, 3, 6, 1\) are not the numbers of tokens of the documents"):
        model(**packed, lengths=[5, 3, 6, 1])
    with fake_gpu():
        on_fake_gpu(model)
        assert model(**fake_batch(packed), lengths=lengths).shape == (4, 2)
        with pytest.raises(WAITS):
            model(**fake_batch(packed))


def test_a_text_tower_of_fixed_length_has_none():
    with pytest.raises(ValueError, match="lengths"):
        zoo.create_model("siglip_text_base", depth=1, width=32, heads=2)(torch.zeros(1, 64).long(), lengths=[64])


def test_the_first_lengths_on_a_gpu_are_compared():
    """Later ones would wait for it: the device itself checks them."""
    (batch, lengths), model = padded("bert"), small("bert")
    with fake_gpu():
        on_fake_gpu(model)
        model.lengths_checked = False
        with pytest.raises(WAITS):
            model(**fake_batch(batch), lengths=lengths)


class Assertions(TorchDispatchMode):
    """Counts the assertions that a device is to make."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._assert_async.msg, torch.ops.aten._assert_async.default)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", ["bert", "gpt2", "wav2vec2"])
@pytest.mark.parametrize("full", [False, True])
def test_a_gpu_asserts_those_of_later_batches(name, full):
    (batch, lengths), model = padded(name), small(name)
    size = batch["attention_mask"].shape[1]
    with fake_gpu(), Assertions() as assertions:
        on_fake_gpu(model)(**fake_batch(batch), lengths=[size] * 3 if full else lengths)
    assert assertions.count >= 1


def test_a_gpu_asserts_those_of_later_documents():
    ids = zoo.pack([[7] * 5, [8] * 3, [9] * 6, [10] * 2], 9)["document_ids"]
    with fake_gpu(), Assertions() as assertions:
        PackedDocuments.of(torch.empty_like(ids, device="cuda"), [5, 3, 6, 2], trust=True)
    assert assertions.count == 1


def test_a_gpu_asserts_those_of_later_waveforms():
    (batch, lengths), model = padded("wav2vec2"), small("wav2vec2")
    with fake_gpu(), Assertions() as assertions:
        batch = fake_batch(batch)
        on_fake_gpu(model).waves(batch["input_values"], batch["attention_mask"], lengths)
    assert assertions.count == 1


@pytest.mark.parametrize("lengths, fit", [
    ([2, 3, 1], True), ([3, 2, 1], False), ([2, 3], False), ([5, 1], False), ([2, 3, 2], False), ([2, 2, 1, 1], False),
])  # fmt: skip
def test_lengths_of_documents_fit_their_numbers(lengths, fit):
    keys = torch.tensor([0, 0, 1, 1, 1, 4, PADDING, PADDING])
    document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    assert bool(are_documents(keys, document)) == fit


def test_batches_of_a_processor_get_them_for_a_device() -> None:
    batch, lengths = padded("bert")
    found = place(batch, small("bert").inputs, torch.empty(0, device="meta"))
    assert found["lengths"] == lengths and found["attention_mask"].is_meta
    assert "lengths" not in place(batch, small("bert").inputs, torch.empty(0))  # nothing waits on a CPU
    assert "lengths" not in place(batch, ("input_ids",), torch.empty(0, device="meta"))


# -- on a GPU ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_waits() -> Iterator[Callable[[], None]]:
    """Once it is called, whatever the host waits for raises."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("name", PADDED)
def test_a_forward_on_a_gpu_does_not_wait(name, no_waits):
    batch, lengths = padded(name)
    model = small(name).to("cuda", torch.bfloat16)
    placed = in_dtype({key: x.to("cuda") for key, x in batch.items()}, torch.bfloat16)
    expected = model(**placed)
    model(**placed, lengths=lengths).float().sum().backward()  # the first batch is checked
    no_waits()
    found = model(**placed, lengths=lengths)
    found.float().sum().backward()
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found[0], expected[0])
