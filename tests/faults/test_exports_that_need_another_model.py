"""An export that the format cannot express names the fields, and the options, of a model that can be exported."""

import re
from pathlib import Path

import pytest

import zoo
from zoo.training.config import ImageSettings
from zoo.training.parse import parse

TINY = {"width": 16, "depth": 1, "heads": 2, "seed": 0}


@pytest.mark.parametrize("format", ["timm", "transformers"])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("vit_cifar_tiny", {}),  # what the image recipe trains by default
        ("vit_cifar", {"attention": "performer"}),
        ("vit_cifar", {"stem": "conv", "attention": {"kind": "local", "window": 9}}),
    ],
)
def test_the_message_leads_to_a_model_that_exports(
    name: str, overrides: dict[str, object], format: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{format}.* cannot express") as error:
        zoo.export(zoo.create_model(name, **TINY, **overrides), tmp_path / "out", format=format)
    options = re.search(r"options of a recipe: (.*)\)", str(error.value))
    assert options is not None, error.value
    settings = parse(ImageSettings, options[1].split())
    zoo.export(zoo.create_model(name, **TINY, **overrides | settings.model.overrides), tmp_path / "out", format=format)


def test_the_help_of_the_image_recipe_names_the_options() -> None:
    text = (Path(__file__).parents[2] / "recipes" / "vit_cifar.py").read_text()
    assert "stem=patch model.class_token=true pool=cls" in text
