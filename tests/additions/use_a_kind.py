"""Everything that a user does with an attention kind by its name, for the kind that test_add_one.py adds."""

import sys
from pathlib import Path

import torch

import zoo
from zoo.cli.main import main
from zoo.nn.registry import BUILT_IN

name, typo, root, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
assert Path(zoo.__file__).is_relative_to(root), zoo.__file__
assert name in BUILT_IN and main(["check", name]) == 0

small = dict(image_size=32, patch_size=8, width=32, depth=2, heads=4, num_classes=5)
images = 3 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
softmax = zoo.create_model("vit_tiny_patch16_224", seed=0, **small).eval()
model, wide = (
    zoo.create_model("vit_tiny_patch16_224", seed=0, attention={"kind": name, "cap": cap}, **small).eval()
    for cap in (0.01, 1e6)
)
generator = torch.Generator().manual_seed(1)
with torch.no_grad():
    for parameter in softmax.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    for other in (model, wide):
        other.load_state_dict(softmax.state_dict())
    plain, capped = softmax(images), model(images)
    torch.testing.assert_close(wide(images), plain, rtol=1e-3, atol=1e-3)
assert capped.isfinite().all() and (capped - plain).abs().max() > 1e-3

loaded = zoo.load(zoo.save(model, folder)).eval()
assert loaded.config == model.config and loaded.config.attention == {"kind": name, "cap": 0.01}
assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())
assert torch.equal(loaded(images), model(images))
with zoo.capture(loaded, heads=[1]) as maps:
    loaded(images)
assert all(weights.shape[:2] == (2, 1) for weights in maps.values()) and len(maps) == 2
torch.testing.assert_close(maps["blocks.0.mixer"].sum(-1), torch.ones(maps["blocks.0.mixer"].shape[:-1]))

for wrong, expected in (
    (typo, f"unknown attention {typo!r}; did you mean {name!r}?"),
    ({"kind": name, "capp": 1.0}, "has no option 'capp'; did you mean 'cap'?"),
):
    try:
        zoo.create_model("vit_tiny_patch16_224", attention=wrong, **small)
    except ValueError as error:
        assert expected in str(error), error
    else:
        raise AssertionError(f"attention={wrong!r} gave a model")
