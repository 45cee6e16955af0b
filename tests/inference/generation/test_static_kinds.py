"""Generation by graphs for recurrent layers and for decoders with an encoder, and with a choice on the host: token for
token what `model.decode` gives. On a CPU the steps run as functions; on a fake GPU what would wait for it raises."""

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from host_waits import fake_gpu, on_fake_gpu
from seq2seq_cases import FEATURES, KEEP, SOURCE, nano
from text_peers import ragged
from torch import Tensor

import zoo
from zoo.inference.generation import graph_decoding, static_step
from zoo.inference.generation.graph_decoding import Decoding, Reader, graphs_of
from zoo.inference.generation.static_state import StaticMemory, source_capacity
from zoo.inference.generation.static_step import StaticStep, can_decode_statically
from zoo.utils.cuda_graph import GraphRecorder

SMALL: dict[str, Any] = dict(vocab_size=61, max_length=64, width=32, depth=2, heads=4, mlp_dim=48)
WIDE = SMALL | dict(max_length=200)
RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("mamba_130m", dict(width=16, depth=2)),
    "mamba2": ("mamba2_nano", dict(width=16, depth=2, heads=4, state=8)),
    "retnet": ("retnet_nano", SMALL | dict(value_dim=64)), "rwkv": ("rwkv_nano", SMALL),
    "hybrid": ("gpt_nano", SMALL | dict(mixer=["mamba2", "attention"])),
    "rwkv6": ("gpt_nano", SMALL | dict(mixer=["rwkv6", "short_conv"])),
    "gates": ("gpt_nano", SMALL | dict(attention=["gated_linear", "delta"])),
    "gated_delta": ("llama_nano", SMALL | dict(attention=["gated_delta", "softmax"], kv_heads=2)),
}  # fmt: skip
SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5_nano", WIDE | dict(head_dim=8)), "bart": ("bart_nano", WIDE),
    "mbart": ("bart_nano", WIDE | dict(order="pre", scale_embedding=True)), "marian": ("marian_nano", WIDE),
    "transformer": ("transformer_nano", WIDE), "whisper": ("whisper_nano", WIDE | dict(frames=20)),
    "linear": ("bart_nano", WIDE | dict(decoder_attention="linear")),
}  # fmt: skip
PAINTER: dict[str, Any] = dict(
    width=32, depth=2, heads=4, mlp_dim=48, text_vocab_size=120, text_length=9, image_vocab_size=20, image_grid=(3, 4),
    text_dropout=0.1,
)  # fmt: skip
SAMPLED = dict(temperature=1.5, seed=3)
OPTIONS: list[dict[str, Any]] = [
    {}, SAMPLED, dict(num_beams=3), dict(num_beams=2, num_return_sequences=2, no_repeat_ngram_size=2),
    dict(no_repeat_ngram_size=2, repetition_penalty=1.3), SAMPLED | dict(num_return_sequences=2, min_new_tokens=4),
]  # fmt: skip


def recurrent(case: str) -> zoo.Model:
    name, options = RECURRENT[case]
    model = zoo.create_model(name, seed=0, **options | dict(vocab_size=61)).eval()
    with torch.no_grad():
        for i, tensor in enumerate(model.parameters()):
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i)))
    return model


def steps_of(model: zoo.Model) -> list[tuple[Any, ...]]:
    """The keys of the recorded steps."""
    keys: list[Any] = [*graphs_of(model).found]
    return [key for key in keys if key[0] == "step"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Reader]]:
    """Graphs on the CPU, too; returns what has begun to read by them."""
    found: list[Reader] = []
    load = Reader.load

    def recorded(self: Reader) -> None:
        found.append(self)
        load(self)

    monkeypatch.setattr(Reader, "load", recorded)
    monkeypatch.setattr(graph_decoding, "DEVICE_TYPES", ("cpu", "cuda"))
    monkeypatch.setattr(graph_decoding, "WORTH_RECORDING", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that a model generates without graphs
        warnings.filterwarnings("ignore", ".*exceed max_length")
        yield found


def by_steps(*args: Any, **options: Any) -> Any:
    """`zoo.generate` without graphs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_decoding, "DEVICE_TYPES", ())
        return zoo.generate(*args, **options)


@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("case", RECURRENT)
def test_recurrent_layers(case: str, side: str | None, reads: list[Reader]) -> None:
    model = recurrent(case)
    batch = ragged((9, 4, 6), vocab=61, side=side or "left")
    batch = batch if side else {"input_ids": batch["input_ids"][:2, -4:]}
    for options in ({}, SAMPLED, dict(num_beams=2)):
        given = dict(max_new_tokens=10, eos_token_id=None) | options
        assert torch.equal(zoo.generate(model, **batch, **given), by_steps(model, **batch, **given))
    assert [type(one) for one in reads] == [Decoding, Decoding, Reader]


@pytest.mark.parametrize("case", ["hybrid", "gated_delta"])
def test_their_states_move_to_larger_buffers(case: str, reads: list[Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_decoding, "SMALLEST_CAPACITY", 8)
    model, batch = recurrent(case), ragged((9, 4), vocab=61, side="left")
    for options in ({}, dict(num_beams=2)):
        given = dict(max_new_tokens=20, eos_token_id=None) | options
        assert torch.equal(zoo.generate(model, **batch, **given), by_steps(model, **batch, **given))
    capacities = [key[2] for key in steps_of(model)]
    assert len(capacities) > 2 and reads[1].step.capacity == max(capacities)


def inputs_of(case: str, keep: Tensor | None = None) -> dict[str, Tensor]:
    if case == "whisper":
        return {"input_features": FEATURES, "decoder_input_ids": torch.full((3, 1), 5)}
    batch = {"input_ids": SOURCE, "decoder_input_ids": torch.tensor([[5, 7]] * 3)}
    return batch if keep is None else batch | {"attention_mask": keep}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("case", SEQ2SEQ)
def test_decoders_with_an_encoder(case: str, padded: bool, reads: list[Reader]) -> None:
    model, batch = nano(*SEQ2SEQ[case]), inputs_of(case, KEEP if padded else None)
    options = [one for one in OPTIONS if not (case == "whisper" and padded)]
    if case == "whisper":  # rules of the family, which its tiny vocabulary has no tokens for
        options = [one for one in options if "no_repeat_ngram_size" not in one]
    for more in options:
        given = dict(max_new_tokens=12, eos_token_id=[9, 17], pad_token_id=1) | more
        assert torch.equal(zoo.generate(model, **batch, **given), by_steps(model, **batch, **given))
    assert len(reads) == len(options)
    fully = [type(one) is Decoding for one in reads[:2]]
    assert case in ("marian", "whisper") or all(fully)


def test_sources_of_other_lengths_share_a_graph(reads: list[Reader]) -> None:
    model = nano(*SEQ2SEQ["t5"])
    for length, keep in ((7, KEEP), (4, None), (7, None)):  # what the longer one has left is not read
        batch = {"input_ids": SOURCE[:, :length]} | ({} if keep is None else {"attention_mask": keep})
        given = dict(max_new_tokens=10, eos_token_id=None)
        assert torch.equal(zoo.generate(model, **batch, **given), by_steps(model, **batch, **given))
    graphs = graphs_of(model)
    assert len(graphs.memories) == 1 and len(steps_of(model)) == 1
    zoo.generate(model, SOURCE, max_new_tokens=10, eos_token_id=None, num_beams=2)
    assert len(graphs.memories) == 2 and len(steps_of(model)) == 2
    graphs.clear()
    reads.clear()
    gc.collect()
    assert not graphs.memories  # which live as long as their graphs


def test_places_of_an_encoder() -> None:
    assert [source_capacity(n) for n in (1, 64, 65, 200, 256, 257, 1500)] == [64, 64, 128, 256, 256, 512, 1536]


@pytest.mark.parametrize("case", ["t5", "bart"])
def test_optimized_models(case: str, reads: list[Reader]) -> None:
    model = zoo.optimize(nano(*SEQ2SEQ[case]), rows="one")
    for more in ({}, dict(num_beams=2)):
        given = dict(max_new_tokens=12, eos_token_id=None) | more
        batch = inputs_of(case, KEEP)
        assert torch.equal(zoo.generate(model, **batch, **given), by_steps(model, **batch, **given))
    assert len(reads) == 2


def test_rules_and_stop_texts_of_a_decoder(reads: list[Reader]) -> None:
    model = zoo.create_model("llama_nano", seed=0, **SMALL | dict(kv_heads=2)).eval()
    letters = [chr(48 + i) for i in range(61)]

    class Letters:
        def encode(self, text: str) -> list[int]:
            return [letters.index(c) for c in text]

        def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
            return "".join(letters[i] for i in ids)

    batch = ragged((9, 4), vocab=61, side="left")
    free = by_steps(model, **batch, max_new_tokens=20, eos_token_id=None)
    stop = Letters().decode(free[0, 14:16].tolist())
    for more in (dict(stop=stop, tokenizer=Letters(), pad_token_id=1), dict(no_repeat_ngram_size=2)):
        given = dict(max_new_tokens=20, eos_token_id=None) | more
        assert torch.equal(zoo.generate(model, **batch, **given), by_steps(model, **batch, **given))
    assert [type(one) for one in reads] == [Reader, Reader]
    zoo.generate(model, **batch, max_new_tokens=4, logits_processor=lambda tokens, scores: scores)
    zoo.generate(model, **batch, max_new_tokens=4, num_beams=2, streamer=None, cache=None)
    assert len(reads) == 3  # a function of the caller may change the model


def test_images_token_by_token(reads: list[Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.create_model("dalle_nano", seed=0, **PAINTER).eval()
    model.set_image_tokenizer(zoo.create_model("dvae_tiny", image_size=(12, 16), widths=(8, 8), depth=1, vocab_size=20))
    ids, mask = torch.randint(1, 120, (2, 9), generator=torch.Generator().manual_seed(0)), torch.ones(2, 9)
    batch, given = {"input_ids": ids, "attention_mask": mask.long()}, dict(seed=1, num_images=2, guidance_scale=2.0)
    ours = zoo.generate_images(model, batch, **given)
    assert len(reads) == 1
    monkeypatch.setattr(graph_decoding, "DEVICE_TYPES", ())
    assert torch.equal(ours.tokens, zoo.generate_images(model, batch, **given).tokens)


def test_an_unknown_cross_attention_is_generated_by_steps(reads: list[Reader]) -> None:
    model = nano("t5_nano", SEQ2SEQ["t5"][1] | dict(cross_attention="additive"))
    given = dict(max_new_tokens=8, eos_token_id=None)
    with pytest.warns(UserWarning, match="T5 generates without CUDA graphs, and more slowly: a Attention block with"):
        ours = zoo.generate(model, SOURCE, **given)
    assert torch.equal(ours, by_steps(model, SOURCE, **given))
    assert torch.equal(zoo.generate(model, SOURCE, **given, num_beams=2), by_steps(model, SOURCE, **given, num_beams=2))
    assert not reads


def test_a_lack_of_memory_is_a_warning_for_beams_too(reads: list[Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = nano(*SEQ2SEQ["bart"]), dict(max_new_tokens=8, eos_token_id=None, num_beams=2)
    expected = by_steps(model, SOURCE, **given)

    def fail(*args: Any) -> None:
        raise torch.OutOfMemoryError("no")

    with monkeypatch.context() as patch:
        patch.setattr(GraphRecorder, "record", fail)
        with pytest.warns(UserWarning, match="Bart generates without CUDA graphs, and more slowly: the memory"):
            assert torch.equal(zoo.generate(model, SOURCE, **given), expected)
    assert not reads
    monkeypatch.setattr(graph_decoding, "SMALLEST_CAPACITY", 8)
    monkeypatch.setattr(StaticStep, "load_static", fail)  # larger buffers, in the middle of a text
    with pytest.raises(torch.OutOfMemoryError) as raised:
        zoo.generate(model, SOURCE, **given | {"max_new_tokens": 20})
    assert "ask for fewer new tokens with max_new_tokens=" in raised.value.__notes__[0]


@pytest.mark.parametrize("case", [*RECURRENT, "gpt", "window", *SEQ2SEQ])
def test_a_step_waits_for_no_gpu(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_step, "has_flash", lambda k: False)
    if case in SEQ2SEQ:
        model = nano(*SEQ2SEQ[case])
    elif case in RECURRENT:
        model = recurrent(case)
    else:
        kind = "softmax" if case == "gpt" else {"kind": "local", "window": 4}
        model = zoo.create_model("gpt_nano", seed=0, **SMALL | dict(attention=kind)).eval()
    assert can_decode_statically(model)
    with fake_gpu() as watch, torch.no_grad():
        on_fake_gpu(model)
        ids, positions = (torch.zeros(3, 1, dtype=torch.long, device="cuda") for _ in range(2))
        scores, memory = torch.empty(3, model.config.vocab_size, device="cuda"), None
        watch.first_batch = True  # constants that are made once for each graph
        if case in SEQ2SEQ:
            width = model.encoder.blocks[0].mixer.q.in_features
            state = model.new_state(torch.empty(3, 7, width, device="cuda"))
            model.decode(ids, state)
            memory = StaticMemory(state)
        step = StaticStep(model, ids, positions, scores, 128, memory)
        step()
        watch.first_batch = False
        step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", [*RECURRENT, *SEQ2SEQ])
def test_recorded_steps_on_a_gpu(case: str, reads: list[Reader]) -> None:
    model = nano(*SEQ2SEQ[case]) if case in SEQ2SEQ else recurrent(case)
    batch = inputs_of(case) if case in SEQ2SEQ else ragged((9, 4, 6), vocab=61, side="left")
    given = {name: tensor.cuda() for name, tensor in batch.items()} | dict(max_new_tokens=12, eos_token_id=None)
    model.cuda()
    for options in ({}, SAMPLED, dict(num_beams=2)):
        expected = by_steps(model, **given, **options)
        for _ in range(2):
            assert torch.equal(zoo.generate(model, **given, **options), expected)
    assert len(reads) == 6
