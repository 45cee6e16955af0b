"""An Evoformer block at the size of AlphaFold 2, whole and in chunks: time in one process, memory in separate ones.

    python benchmarks/evoformer.py [what=time,memory] [sequences=128] [residues=128] [chunk_size=8] [rounds=5]

The target is that chunks need at most a quarter of the memory, in inference and in training, and compute the same.
Where openfold3 is installed, its block is the baseline of the times, of the same width and with the same steps.
Memory is the peak of the resident set above the level after creating block and inputs, under a C library that returns
freed memory immediately.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

import torch
from _measure import GLIBC, options, paired, peak_bytes, record
from torch import Tensor

from zoo.models.evoformer.block import EvoformerStack
from zoo.models.evoformer.model import EvoformerConfig
from zoo.nn.init import initialize

MODES = ("inference", "training")


def zoo_block(chunk_size: int | None) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function of an alignment and pairs: a stack of one block with random weights."""
    stack = EvoformerStack(EvoformerConfig(depth=1, chunk_size=chunk_size))
    initialize(stack, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in stack.parameters():
            if not p.any():  # the last layers of the parts, which begin with zeros
                p.normal_(0.0, 0.02, generator=generator)
    stack.eval()
    return lambda msa, pair: stack(msa, pair)[:2]


def openfold3_block() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The same of openfold3."""
    from openfold3.core.model.latent.evoformer import EvoformerBlock

    block = EvoformerBlock(
        c_m=256, c_z=128, c_hidden_msa_att=32, c_hidden_opm=32, c_hidden_mul=128, c_hidden_pair_att=32, no_heads_msa=8,
        no_heads_pair=4, transition_type="relu", transition_n=4, msa_dropout=0.15, pair_dropout=0.25,
        no_column_attention=False, opm_first=False, fuse_projection_weights=False, inf=1e9, eps=1e-5,
    ).eval()  # fmt: skip

    def run(msa: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        m, z = block(msa, pair, msa.new_ones(msa.shape[:3]), pair.new_ones(pair.shape[:3]))
        return m, z

    return run


def step(name: str, mode: str, sequences: int, residues: int, chunk_size: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that computes the outputs of a block, in training also all gradients."""
    block = openfold3_block() if name == "openfold3" else zoo_block(chunk_size if name == "zoo in chunks" else None)
    generator = torch.Generator().manual_seed(0)
    msa = torch.randn(1, sequences, residues, 256, generator=generator)
    pair = torch.randn(1, residues, residues, 128, generator=generator)

    def run() -> tuple[Tensor, Tensor]:
        if mode == "inference":
            with torch.no_grad():
                return block(msa, pair)
        x, z = block(msa.requires_grad_(), pair.requires_grad_())
        (x.square().mean() + z.square().mean()).backward()
        return x, z

    return run


def memory(name: str, mode: str, *sizes: int) -> float:
    """Peak memory in MB above the level before; to be run in a separate process."""
    step(name, mode, 8, 16, 4)()  # loads kernels
    return peak_bytes(step(name, mode, *sizes)) / 2**20


def main() -> None:
    smoke = dict(sequences=16, residues=16, chunk_size=4, rounds=1)
    o = options(smoke, what="time,memory", sequences=128, residues=128, chunk_size=8, rounds=5)
    torch.set_num_threads(1)
    sizes = (o.sequences, o.residues, o.chunk_size)
    names = ["zoo", "zoo in chunks"]
    if importlib.util.find_spec("openfold3") is not None:
        names.insert(0, "openfold3")
    if o.what.startswith("peak:"):
        print(memory(*o.what.split(":")[1:], *sizes))
        return
    for mode in MODES:
        whole, chunks = (step(name, mode, *sizes)() for name in names[-2:])
        error = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(chunks, whole, strict=True))
        print(f"{mode}: maximum relative difference of chunks of {o.chunk_size} {error:.1e}", flush=True)
        title = f"Evoformer block, {o.sequences} sequences of {o.residues}, {mode}"
        if "time" in o.what:
            paired({name: step(name, mode, *sizes) for name in names}, rounds=o.rounds, title=title)
        if "memory" in o.what:
            print(f"\n{title}\n| | peak over base MB | ratio |\n|---|---|---|")
            peaks = {}
            for name in names:
                arguments = [f"sequences={o.sequences}", f"residues={o.residues}", f"chunk_size={o.chunk_size}"]
                command = [sys.executable, __file__, f"what=peak:{name}:{mode}", *arguments]
                done = subprocess.run(command, capture_output=True, text=True, env=os.environ | GLIBC)
                if done.returncode:
                    raise SystemExit(f"{name}: {done.stderr.strip()[-600:]}")
                peaks[name] = float(done.stdout.split()[-1])
            record(f"memory, {title}", {name: peaks[name] for name in names[-1:]} | {"baseline": peaks["zoo"]})
            for name, used in peaks.items():
                print(f"| {name} | {used:.0f} | 1/{peaks['zoo'] / used:.1f} |", flush=True)


if __name__ == "__main__":
    main()
