"""Settings of datasets: the checks that all of them share, and their own."""

from dataclasses import fields

import pytest

from zoo.data import config, text_config
from zoo.data.base_config import BaseDataSettings, ItemDataSettings
from zoo.utils.options import _meanings


def kinds(base: type) -> list[type]:
    """The settings classes below one, of every file that has some."""
    assert text_config.QuestionSettings.__mro__[-2] is BaseDataSettings
    return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]


@pytest.mark.parametrize("cls", kinds(BaseDataSettings))
def test_wrong_values_are_refused_by_every_kind(cls: type) -> None:
    wrong = {"batch_size": 0, "num_workers": -1}
    if issubclass(cls, ItemDataSettings):
        wrong |= {"max_train_samples": -1, "max_test_samples": -1, "on_error": "stop"}
    if "max_length" in cls.__dataclass_fields__:
        wrong["max_length"] = 2
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name}={value!r}: expected"):
            cls(**{name: value})
    assert cls().name == "auto"


@pytest.mark.parametrize("cls", [config.PairDataSettings, config.AudioPairSettings])
def test_pairs_are_compared_with_each_other(cls: type) -> None:
    with pytest.raises(ValueError, match="batch_size=1: expected at least 2"):
        cls(batch_size=1)


@pytest.mark.parametrize("cls", [kind for kind in kinds(BaseDataSettings) if not kind.__subclasses__()])
def test_every_option_is_explained(cls: type) -> None:
    assert set(_meanings(cls)) >= {field.name for field in fields(cls)}
