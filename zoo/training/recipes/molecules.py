"""What a model of molecules takes from the data: the widths of the features and the classes."""

from typing import Any, cast

from zoo.data.graph.molecules import Molecules
from zoo.data.splits import Splits
from zoo.models.base import Model
from zoo.models.registry import find_variant
from zoo.nn.heads import rescale_output
from zoo.preprocessing.molecule import MoleculeProcessor
from zoo.tasks.problem_types import Unit, inverse_unit, unit_of
from zoo.training.parse import SettingsError
from zoo.training.pretrained import set_classes
from zoo.training.run import Run
from zoo.utils.console import announce

SHOWN = 40  # characters of the molecule in the command of the summary


def molecule_model(run: Run, num_classes: int = 2) -> Model:
    """The model of the settings: a new one for the features of molecules, or pretrained weights.

    Raises: SettingsError, also for a model of other inputs, and for pretrained weights of other graphs.
    """
    name, source = run.config.model.name, run.config.model.source
    if source:
        model = run.build_model("classify")
        if not isinstance(model.preprocess, MoleculeProcessor):
            raise SettingsError(f"model.source={source} has no preprocessing of molecules: expected a model that "
                                f"recipes/molecules.py has trained")  # fmt: skip
        return model
    if (family := find_variant(name)).modality != "graph":
        raise SettingsError(f"{name} is a {family.name} model: expected a model of graphs, such as "
                            f"graph_transformer_tiny")  # fmt: skip
    processor = MoleculeProcessor()
    fields = {"in_features": processor.in_features, "edge_dim": processor.edge_dim, "num_classes": num_classes}
    model = run.build_model("classify", **fields)
    model.preprocess = processor
    return model


def fit_to_molecules(run: Run, model: Model, molecules: Splits[Molecules]) -> Model:
    """The model for the classes, or the column of values, of the data."""
    if not run.config.model.source:
        model = molecule_model(run, len(molecules.classes))
        if not model.preprocess.bonds:
            announce(f"{run.config.model.name} takes no features of edges: it sees which atoms are bonded, and not how")
    elif set_classes(model, molecules.classes, run.config.seed) and molecules.problem_type == "regression":
        # the pretrained head predicts values that are not standardized
        rescale_output(cast(Any, model.head).proj, *inverse_unit(target_unit(molecules)))
    model.labels = list(molecules.classes)
    return model


def target_unit(molecules: Splits[Molecules]) -> Unit:
    """(mean, std) by which regression targets are normalized."""
    return unit_of(molecules.train.labels) if molecules.problem_type == "regression" else (0.0, 1.0)


def example_command(molecules: Splits[Molecules]) -> list[str]:
    """A command that predicts a molecule of the test set with the trained model."""
    return ["zoo", "predict", "{model}", min(molecules.test.smiles[:50], key=lambda text: abs(SHOWN - len(text)))]
