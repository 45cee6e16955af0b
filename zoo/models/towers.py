"""The base class of models of several towers: their names, processors and freezing."""

from typing import Any, Self

from torch import nn

from zoo.models.base import Model
from zoo.models.foreign_names import Absent
from zoo.models.registry import family
from zoo.models.tower_config import TOWERS, Part
from zoo.preprocessing.modality import MODALITIES
from zoo.preprocessing.multimodal import MultimodalProcessor


class TowersModel(Model):
    """Base class of models of several towers: attributes `image`, `text` and `audio`, each None or a model."""

    # Names of timm that make no sense for several towers.
    forward_features = forward_head = get_classifier = reset_classifier = Absent()
    num_classes = head_hidden_size = no_weight_decay = pretrained_cfg = default_cfg = Absent()

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.locked: dict[str, int] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the towers."""
        return tuple(self.config.towers)

    def tower(self, modality: str) -> Model:
        """The tower of a modality. Raises ValueError if there is none."""
        found = getattr(self, modality, None) if modality in TOWERS else None
        if found is None:
            raise ValueError(f"the model has no {modality} tower; it has {', '.join(self.modalities)}")
        return found

    def default_preprocess(self) -> Any:
        """The processors of the towers, or None if all of them need files."""
        parts = {name: self.tower(name).preprocess or self.tower(name).default_preprocess() for name in self.modalities}
        return MultimodalProcessor(**parts) if any(parts.values()) else None

    def tower_inputs(self, modality: str) -> dict[str, str]:
        """{name of an input of a tower: its name among the inputs of this model}."""
        taken = self.tower(modality).inputs
        named = MODALITIES[modality].inputs
        return {own: named.get(own, own) for own in (*named, *MODALITIES[modality].alternatives) if own in taken}

    # --- freezing -------------------------------------------------------------------------------------------------

    def lock(self, modality: str, unlocked: int = 0) -> None:
        """Freeze a tower: no gradients, evaluation mode (LiT).

        unlocked: number of layer groups to keep trainable, counted from the output. Each block is a group (the last one
        with the final norm and the head), the embedding is the first group. The projection is always trainable.
        """
        tower: Any = self.tower(modality)
        blocks = list(tower.blocks)
        if not 0 <= unlocked <= len(blocks) + 1:
            raise ValueError(f"unlocked={unlocked}: the {modality} tower has {len(blocks) + 1} groups of layers")
        self.locked[modality] = unlocked
        tower.requires_grad_(False)
        for module in self.unlocked_parts(modality):
            module.requires_grad_(True)
        self.train(self.training)

    def unlocked_parts(self, modality: str) -> list[nn.Module]:
        """The trainable modules of a frozen tower."""
        tower: Any = self.tower(modality)
        blocks, count = list(tower.blocks), self.locked[modality]
        if count > len(blocks):
            return [tower]
        ends = [tower.blocks.norm, tower.head] if count else []
        return [part for part in [*blocks[len(blocks) - count :], *ends] if part is not None]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for modality in self.locked:
            self.tower(modality).train(False)
            for module in self.unlocked_parts(modality):
                module.train(mode)
        return self


def build_tower(modality: str, tower: Part) -> Model:
    """A model for a tower. Raises ValueError if its family is of another modality."""
    found = family(tower.family)
    if found.modality != MODALITIES[modality].family:
        raise ValueError(f"the {modality} tower is of family {tower.family!r}, whose modality is {found.modality}")
    return found.make_model(tower.config)
