"""Everything that a user does with a model by its name, for the size that test_add_one.py adds."""

import contextlib
import io
import sys
from pathlib import Path

import torch

import zoo
from zoo.cli.main import main

name, root, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
assert Path(zoo.__file__).is_relative_to(root), zoo.__file__
assert name in zoo.list_models() and name in zoo.list_models("vit_nano*", modality="vision")
with contextlib.redirect_stdout(io.StringIO()) as printed:
    assert main(["list", name]) == 0
assert name in printed.getvalue()

model = zoo.create_model(name, seed=0, num_classes=10).eval()
images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
scores = model(images)
assert scores.shape == (2, 10) and scores.isfinite().all()

loaded = zoo.load(zoo.save(model, folder)).eval()
assert loaded.variant == name and loaded.config == model.config
assert loaded.state_dict().keys() == model.state_dict().keys()
assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())
assert torch.equal(loaded(images), scores)

try:
    zoo.create_model(name + "4")
except ValueError as error:
    assert f"did you mean {name!r}?" in str(error), error
else:
    raise AssertionError("an unknown name gave a model")
