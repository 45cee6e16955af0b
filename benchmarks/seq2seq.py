"""T5: read a batch and write 32 tokens, as loaded and after zoo.optimize, against transformers' generate.

    python benchmarks/seq2seq.py [size=small|base] [rows=8] [tokens=128] [new=32] [beams=4] [rounds=5] [device=cpu|cuda]

Targets for the shape of T5-small, 8 x 128, greedy: >= 1.5x as loaded, >= 2.0x optimized. Three tables: full rows; rows
of 16 to `tokens` tokens with padding; and beam search (beams=0: without). Weights are random; the tokens of all float32
variants are compared. Then the bytes of the keys and values of the encoder's states, which beams share. On a GPU both
sides are in bfloat16.
"""

import tempfile
from collections.abc import Callable

import torch
from _measure import clock_of, dtype_of, options, paired, record
from transformers import T5Config, T5ForConditionalGeneration

import zoo

SIZES = {"nano": (64, 2, 4, 16), "small": (512, 6, 8, 64), "base": (768, 12, 12, 64)}


def models(size: str) -> tuple[torch.nn.Module, zoo.Model]:
    """(transformers model, zoo model) with the same random weights."""
    width, depth, heads, dim = SIZES[size]
    torch.manual_seed(0)
    config = T5Config(d_model=width, num_layers=depth, num_heads=heads, d_kv=dim, d_ff=4 * width)
    config.decoder_start_token_id = 0
    theirs = T5ForConditionalGeneration(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.load(folder)
        state = {name: tensor.clone() for name, tensor in ours.state_dict().items()}  # out of the memory-mapped file
        ours.load_state_dict(state, assign=True)
        ours.share_embeddings()
        ours.head.proj.weight = ours.tokens.word.weight
    return theirs, ours


def cross_bytes(model: zoo.Model, ids: torch.Tensor, beams: int) -> int:
    """Bytes of the keys and values of the encoder's states after a token with so many beams."""
    with torch.inference_mode():
        state = model.start_decoding({"input_ids": ids}, 2)
        model.decode(ids.new_zeros(len(ids), 1), state)
        state.repeat(beams)
        model.decode(ids.new_zeros(len(ids) * beams, 1), state)
    return sum(tensor.untyped_storage().nbytes() for layer in state for tensor in layer.memory)


def main() -> None:
    smoke = dict(size="nano", rows=2, tokens=16, new=3, beams=2, rounds=1)
    o = options(smoke, size="small", rows=8, tokens=128, new=32, beams=4, rounds=5, device="cpu", dtype="")
    torch.set_num_threads(1)
    dtype = dtype_of(o)
    name_of_dtype = str(dtype).removeprefix("torch.")
    theirs, ours = models(o.size)
    theirs, ours = theirs.to(o.device, dtype), ours.to(o.device, dtype)
    fast = zoo.optimize(ours)
    ids = torch.randint(5, 32000, (o.rows, o.tokens), device=o.device)
    lengths = torch.linspace(min(16, o.tokens), o.tokens, o.rows).long()
    padded = (torch.arange(o.tokens) < lengths[:, None]).long().to(o.device)

    def table(name: str, mask: torch.Tensor, beams: int) -> None:
        batch = dict(input_ids=ids * mask, attention_mask=mask, max_new_tokens=o.new, eos_token_id=None,
                     num_beams=beams, pad_token_id=0)  # fmt: skip

        def zoo_generate(model: zoo.Model) -> Callable[[], torch.Tensor]:
            return lambda: zoo.generate(model, **batch)

        calls: dict[str, Callable[[], torch.Tensor]] = {
            f"transformers {name_of_dtype}": lambda: theirs.generate(**batch, do_sample=False),
            f"zoo {name_of_dtype}, as loaded": zoo_generate(ours),
            f"zoo {name_of_dtype}, optimized": zoo_generate(fast),
        }
        expected = calls[f"transformers {name_of_dtype}"]()
        for call in calls:
            print(f"{call}: {100 * (calls[call]() == expected).float().mean():.0f} % of the tokens are transformers'")
        paired(calls, rounds=o.rounds, title=f"T5 {o.size}, {name}, {o.new} tokens", items=o.rows * o.new,
               clock=clock_of(o.device))  # fmt: skip

    table(f"{o.rows} x {o.tokens}", torch.ones_like(ids), 1)
    table(f"{o.rows} rows of {int(lengths[0])} to {o.tokens}", padded, 1)
    if o.beams:
        table(f"{o.rows} x {o.tokens}, {o.beams} beams", torch.ones_like(ids), o.beams)
    found = {f"{beams} beams": cross_bytes(ours, ids, beams) for beams in (1, max(2, o.beams))}
    print({name: f"{size:,} bytes" for name, size in found.items()})
    record("bytes of the keys and values of the encoder's states", found)


if __name__ == "__main__":
    main()
