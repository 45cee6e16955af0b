"""DALL-E against dalle-pytorch, and against its formula written out."""

import pytest
import torch
from dalle_peers import batch, outputs, peer, read_back
from peers import error
from table_swaps import check_swaps

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


def test_swapped_lines_of_the_table_are_noticed(tmp_path):
    theirs, (ids, image) = peer(tmp_path, depth=1), batch()

    @torch.no_grad()
    def scores(model: zoo.Model) -> torch.Tensor:
        found = model(input_ids=ids, image_ids=image)
        return torch.cat([found.text.flatten(), found.image.flatten()])

    expected = torch.cat([part.flatten() for part in outputs(theirs, ids, image)])
    check_swaps(tmp_path / "dalle.pt", scores, expected, at_least=16)


def test_twenty_training_steps(tmp_path):
    theirs, (ids, image) = peer(tmp_path, depth=1, attn_types=["axial_row"]).double(), batch()
    ours = zoo.load(tmp_path / "dalle.pt").double()
    theirs.vae.requires_grad_(False)
    losses = []
    for model, loss_of in (
        (theirs, lambda: theirs(ids.clone(), image, return_loss=True)),
        (ours, lambda: ours.loss(ours(input_ids=ids, image_ids=image), ids, None, image)),
    ):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        found = []
        for _ in range(20):
            loss = loss_of()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        losses.append(torch.stack(found))
    assert losses[0][-1] < losses[0][0] - 0.5
    assert torch.allclose(losses[1].double(), losses[0].double(), rtol=1e-6)
