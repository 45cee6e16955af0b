"""DALL-E against dalle-pytorch, and against its formula written out."""

import pytest
import torch
from dalle_peers import batch, outputs, peer, read_back
from peers import error

import zoo

CASES = {
    "full": {},
    "sparse": dict(depth=4, attn_types=["axial_row", "axial_col", "conv_like", "full"]),
    "tied": dict(share_input_output_emb=True),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_dalle_pytorch(name, tmp_path):
    theirs = peer(tmp_path, **CASES[name])
    ours = zoo.load(tmp_path / "dalle.pt")
    ids, image = batch()
    for tolerance in (1e-5, 1e-9):
        for count in (16, 5, 0):
            scores = outputs(theirs, ids, image[:, :count])
            with torch.no_grad():
                found = ours(input_ids=ids, image_ids=image[:, :count])
            assert error(found.text, scores[0]) <= tolerance and error(found.image, scores[1]) <= tolerance
        ours, theirs = ours.double(), theirs.double()
    loss = theirs(ids.clone(), image, return_loss=True)
    assert error(ours.loss(ours(input_ids=ids, image_ids=image), ids, None, image), loss) <= 1e-9
    file = zoo.export(ours.float(), tmp_path / "again", format="dalle_pytorch") / "dalle.pt"
    again = outputs(read_back(file), ids, image)
    assert all(error(a, b) <= 1e-5 for a, b in zip(again, outputs(theirs.float(), ids, image)))
