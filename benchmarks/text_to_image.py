"""Text to image: the tokens of images by MaskGIT in a few parallel steps, against DALL-E token by token.

    python benchmarks/text_to_image.py [width=256] [depth=6] [grid=16] [text=32] [codes=1024] [rows=1,16] [steps=8]
        [rounds=5]

Target: >= 3x at batch 1. Two stacks of the same size with random weights make grid x grid tokens for each text, DALL-E
with caches and the fast steps of one token, as loaded; what an image tokenizer takes to make pixels of the tokens is
the same for both, and not a part of it.
"""

import torch
from _measure import options, paired

import zoo


def main() -> None:
    smoke = dict(width=32, depth=2, grid=4, text=4, codes=16, rows="1,2", steps=2, rounds=1)
    o = options(smoke, width=256, depth=6, grid=16, text=32, codes=1024, rows="1,16", steps=8, rounds=5)
    torch.set_num_threads(1)
    fields = dict(
        width=o.width, depth=o.depth, heads=max(1, o.width // 64), text_vocab_size=1024, text_length=o.text,
        image_vocab_size=o.codes, image_grid=(o.grid, o.grid),
    )  # fmt: skip
    dalle, sparse, maskgit = (
        zoo.create_model(name, seed=0, **fields, **more).eval()
        for name, more in (
            ("dalle_nano", {}),
            ("dalle_nano", dict(attention=["axial_row", "axial_column"] if o.depth % 2 == 0 else "axial_row")),
            ("maskgit_nano", {}),
        )
    )
    for rows in map(int, str(o.rows).split(",")):
        ids = torch.randint(1, 1024, (rows, o.text), generator=torch.Generator().manual_seed(rows))
        paired(
            {
                "DALL-E, token by token": lambda ids=ids: zoo.generate_images(dalle, ids, seed=0),
                "with rows and columns": lambda ids=ids: zoo.generate_images(sparse, ids, seed=0),
                f"MaskGIT, {o.steps} steps": lambda ids=ids: zoo.generate_images(maskgit, ids, seed=0, steps=o.steps),
            },
            rounds=o.rounds,
            title=f"{o.grid} x {o.grid} tokens, width {o.width}, {o.depth} layers, batch {rows}",
            items=rows,
        )


if __name__ == "__main__":
    main()
