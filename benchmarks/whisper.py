"""Whisper: 30 s of audio and 32 greedy tokens, as loaded and after zoo.optimize, against transformers' generate.

    python benchmarks/whisper.py [size=tiny|base|small] [rows=1] [new=32] [rounds=5] [part=all|encoder] [device=cpu]

Targets for the shape of Whisper tiny, one clip: >= 1.5x as loaded, >= 1.8x optimized. Weights are random; the tokens of
all float32 variants are compared. part=encoder times the encoder alone. On a GPU both sides are in bfloat16.
"""

import tempfile
from collections.abc import Callable

import torch
from _measure import attempt, clock_of, dtype_of, options, paired
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

import zoo

SIZES = {"tiny": (384, 4, 6), "base": (512, 6, 8), "small": (768, 12, 12)}
START = [50258, 50259, 50359, 50363]  # start, English, transcribe, no timestamps


def models(size: str) -> tuple[torch.nn.Module, zoo.Model]:
    """(transformers model, zoo model) with the same random weights."""
    width, depth, heads = SIZES[size]
    torch.manual_seed(0)
    theirs = WhisperForConditionalGeneration(
        WhisperConfig(
            d_model=width, encoder_layers=depth, decoder_layers=depth, encoder_attention_heads=heads,
            decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, eos_token_id=50257,
            bos_token_id=50257, pad_token_id=50257, decoder_start_token_id=START[0],
        )
    ).eval()  # fmt: skip
    theirs.generation_config = GenerationConfig(
        decoder_start_token_id=START[0], eos_token_id=50257, pad_token_id=50257, bos_token_id=50257,
        lang_to_id={"<|en|>": START[1]}, task_to_id={"transcribe": START[2]}, no_timestamps_token_id=START[3],
        suppress_tokens=[50257], begin_suppress_tokens=[220], is_multilingual=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.load(folder)
        state = {name: tensor.clone() for name, tensor in ours.state_dict().items()}  # out of the memory-mapped file
        ours.load_state_dict(state, assign=True)
        ours.head.proj.weight = ours.decoder.tokens.word.weight
    return theirs, ours


def main() -> None:
    o = options({"rounds": 1, "new": 4}, size="tiny", rows=1, new=32, rounds=5, part="all", device="cpu", dtype="")
    dtype = dtype_of(o)
    name = str(dtype).removeprefix("torch.")
    theirs, ours = models(o.size)
    theirs, ours = theirs.to(o.device, dtype), ours.to(o.device, dtype)
    features = torch.randn(o.rows, 80, 3000, device=o.device, dtype=dtype)

    def transformers_generate() -> torch.Tensor:
        return theirs.generate(
            input_features=features, language="en", task="transcribe", max_new_tokens=o.new, do_sample=False,
            force_unique_generate_call=True, return_dict_in_generate=True,
        )["sequences"]  # fmt: skip

    def zoo_generate(model: zoo.Model) -> Callable[[], torch.Tensor]:
        return lambda: zoo.generate(
            model, input_features=features, language="en", task="transcribe", max_new_tokens=o.new
        )

    @torch.inference_mode()
    def their_encoder() -> torch.Tensor:
        return theirs.model.encoder(features).last_hidden_state

    def our_encoder(model: zoo.Model) -> Callable[[], torch.Tensor]:
        return torch.inference_mode()(lambda: model.encode(features))

    peer, make = (transformers_generate, zoo_generate) if o.part == "all" else (their_encoder, our_encoder)
    calls = {
        f"transformers {name}": peer,
        f"zoo {name}, as loaded": make(ours),
        f"zoo {name}, optimized": attempt(lambda: make(zoo.optimize(ours, rows="one" if o.rows == 1 else "many"))),
    }
    if o.part == "all":
        expected = peer()
        same = all(torch.equal(call()[:, : expected.shape[1]], expected) for call in calls.values())
        print(f"tokens {'are equal' if same else 'DIFFER'}")
    title = f"Whisper {o.size}, {o.rows} clip(s) of 30 s, {o.new if o.part == 'all' else 'no'} tokens"
    paired(calls, rounds=o.rounds, title=title, items=o.rows, clock=clock_of(o.device))


if __name__ == "__main__":
    main()
