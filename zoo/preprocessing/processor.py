"""Base class of processors that are saved as their fields."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from zoo.utils.errors import LoadError, check_keys


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Inputs of a modality -> a batch of tensors; the fields are saved in config.json.

    kind: its name there, see `Modality.processors`.
    """

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"kind": self.kind} | values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str] | None = None) -> Self:
        """The inverse of `to_dict`. An unknown or missing key, and a value that the class refuses, raise LoadError."""
        values = {name: value for name, value in values.items() if name != "kind"}
        check_keys("preprocess", values, [field.name for field in fields(cls)])
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise LoadError(f"preprocess: {error}") from None

    def files(self) -> dict[str, str]:
        """{name: contents} of files saved beside config.json: none."""
        return {}

    def fitted_to(self, config: Any) -> Self:
        """A copy adapted to a model with this config: itself, if its output does not depend on the model."""
        return self

    def check(self, config: Any) -> None:
        """Raises ValueError if the output does not fit a model with this config."""
