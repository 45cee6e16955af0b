"""ESM-2 of 35 M parameters against transformers' EsmModel in the same process, on a padded batch of proteins.

    python benchmarks/protein_encoder.py [depth=12] [longest=512] [rounds=5]

Eight proteins of 1/8 to 8/8 of `longest` tokens in float32, with the same random weights; transformers computes the
padding, with `sdpa` attention. contacts: maps of contacts of the same proteins, where transformers keeps the attention
maps of all layers, with `eager` attention, and the zoo those of one layer at a time.
"""

from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from _measure import options, paired

import zoo
from zoo.preprocessing.fasta import RESIDUES
from zoo.preprocessing.protein import ALPHABET, ProteinProcessor


def both(depth: int, longest: int, **load: Any) -> tuple[transformers.EsmModel, zoo.Model]:
    """(transformers' model, ours) with the same weights."""
    config = transformers.EsmConfig(
        vocab_size=len(ALPHABET), hidden_size=480, num_hidden_layers=depth, num_attention_heads=20,
        intermediate_size=1920, max_position_embeddings=longest + 2, pad_token_id=1, mask_token_id=32,
        position_embedding_type="rotary", token_dropout=True, layer_norm_eps=1e-5,
    )  # fmt: skip
    theirs = transformers.EsmModel(config).eval()
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.load(folder, **load)
        ours.load_state_dict({key: value.clone() for key, value in ours.state_dict().items()}, assign=True)
    return theirs, ours


def main() -> None:
    o = options(dict(depth=1, longest=32, rounds=1), depth=12, longest=512, rounds=5)
    torch.set_num_threads(1)
    lengths = [o.longest * i // 8 for i in range(1, 9)]
    rows = [(RESIDUES * (length // len(RESIDUES) + 1))[: length - 2] for length in lengths]
    batch = ProteinProcessor(max_length=o.longest)(rows)
    real = batch["attention_mask"]
    with torch.inference_mode():
        theirs, ours = both(o.depth, o.longest, head=None)
        fast = zoo.optimize(ours)
        reference = theirs(**batch).last_hidden_state * real[..., None]
        difference = (ours(**batch) - reference).abs().max() / reference.abs().max()
        print(f"maximum difference to transformers {difference.item():.1e}")
        calls = {
            "transformers": lambda: theirs(**batch),
            "zoo as loaded": lambda: ours(**batch),
            "zoo optimized": lambda: fast(**batch),
        }
        paired(
            calls, rounds=o.rounds, items=sum(lengths), title=f"esm2_t12_35m: {sum(lengths)} tokens of {8 * o.longest}"
        )
        theirs, maps = both(o.depth, o.longest, head="contacts")
        theirs.set_attn_implementation("eager")
        few = {name: x[:4, : lengths[3]] for name, x in batch.items()}
        contacts = {
            "transformers": lambda: theirs.predict_contacts(few["input_ids"], few["attention_mask"]),
            "zoo": lambda: maps.predict_contacts(**few),
        }
        tokens = int(few["attention_mask"].sum())
        paired(contacts, rounds=o.rounds, items=tokens, title=f"contacts: {tokens} tokens of {4 * lengths[3]}")


if __name__ == "__main__":
    main()
