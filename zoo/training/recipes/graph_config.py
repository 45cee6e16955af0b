"""Options of the recipe for the nodes of graphs. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field

from zoo.data.graph_config import GraphNodeSettings
from zoo.tasks.config import WeightedClassificationSettings
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class GraphNodesSettings(RunSettings):
    """Settings of node classification."""

    data: GraphNodeSettings = field(default_factory=GraphNodeSettings)
    task: WeightedClassificationSettings = field(default_factory=WeightedClassificationSettings)
