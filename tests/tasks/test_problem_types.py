"""One class, several, a number: losses against torch, weights, figures."""

import pytest
import torch
from torch.nn import functional as F

from zoo.nn.heads import rescale_output
from zoo.tasks.problem_types import Objective, balanced, inverse_unit, unit_of


def test_losses() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 0, 1])
    weights = balanced(labels, 3)
    assert torch.allclose(weights, torch.tensor([6 / 9, 1.0, 2.0]))
    assert torch.allclose(
        Objective(class_weights=weights).loss(logits, labels), F.cross_entropy(logits, labels, weights)
    )
    many = F.one_hot(labels, 3).float()
    several = Objective("multi_label_classification", class_weights=balanced(many, 3))
    assert torch.allclose(balanced(many, 3), torch.tensor([1.0, 2.0, 5.0]))
    assert several.losses(logits, many).shape == (6,)
    expected = F.binary_cross_entropy_with_logits(logits, many, pos_weight=several.class_weights)
    assert torch.allclose(several.loss(logits, many), expected)
    number = Objective("regression")
    assert torch.allclose(number.loss(logits[:, :1], logits[:, 0] + 2), torch.tensor(4.0))
    assert number.predictions(logits[:, :1]).shape == (6,) and number.monitor == ("error", "min")


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_figures(problem_type: str) -> None:
    objective = Objective(problem_type)  # type: ignore[arg-type]
    labels = torch.tensor([0, 1, 1, 0])
    logits = F.one_hot(labels, 2).float() * 10 - 5
    given = {
        "single_label_classification": labels,
        "multi_label_classification": F.one_hot(labels, 2).float(),
        "regression": logits[:, 0],
    }[problem_type]
    if problem_type == "regression":
        logits = logits[:, :1]
    found = {}
    for name, metric in objective.metrics("test", logits.shape[1]).items():
        metric.update(*objective.metric_inputs(logits, given))
        found[name] = metric.compute()
    wrong = float(1 - objective.predictions(logits).max())  # of each probability
    perfect = {"accuracy": 1.0, "f1": 1.0, "calibration_error": wrong, "error": 0.0, "r2": 1.0}
    assert found.keys() - {"confusion", "counts"} <= perfect.keys()
    tables = ("confusion", "counts")
    assert all(
        float(value) == pytest.approx(perfect[name], abs=1e-5) for name, value in found.items() if name not in tables
    )


def test_missing_labels_are_left_out() -> None:
    """Of two labels, and of two values in units of their own."""
    logits, nan = torch.tensor([[0.3, -0.2], [-1.0, 2.0], [0.5, 0.1], [2.0, 1.0]]), float("nan")
    labels = torch.tensor([[1.0, 0.0], [nan, 1.0], [0.0, nan], [1.0, 1.0]])
    several = Objective("multi_label_classification", class_weights=balanced(labels, 2))
    assert several.class_weights is not None and several.class_weights.tolist() == [0.5, 0.5]
    losses = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(0), reduction="none")
    expected = torch.stack([losses[0].mean(), losses[1, 1], losses[2, 0], losses[3].mean()])
    torch.testing.assert_close(several.losses(logits, labels), expected)
    found = several.metrics("test", 2)
    for metric in found.values():
        metric.update(*several.metric_inputs(logits, labels))
    assert float(found["accuracy"].compute()) == pytest.approx(5 / 6)
    assert found["counts"].compute().tolist() == [[2, 1, 0, 0, 2], [2, 0, 1, 0, 2]]
    with pytest.raises(ValueError, match=r"label 3\.0, expected 0 to 1"):
        several.losses(logits, labels * 3)

    values = torch.tensor([[1.0, 100.0], [nan, 300.0], [3.0, nan], [2.0, 200.0]])
    unit = unit_of(values)
    assert unit[0] == (2.0, 200.0) and unit[1] == pytest.approx(((2 / 3) ** 0.5, 100 * (2 / 3) ** 0.5))
    numbers = Objective("regression", unit=unit)
    predicted, there = numbers.predictions(logits), ~values.isnan()
    squares = ((predicted - values) / torch.tensor(unit[1])).square().nan_to_num(0)
    torch.testing.assert_close(numbers.losses(logits, values), squares.sum(1) / there.sum(1))
    assert numbers.loss(logits, values) == pytest.approx(float((squares.sum(1) / there.sum(1)).mean()))
    found = numbers.metrics("test", 2)
    for part in (slice(0, 1), slice(1, 4)):
        for metric in found.values():
            metric.update(*numbers.metric_inputs(logits[part], values[part]))
    table = found["columns"].compute()
    for column in (0, 1):
        x, y = (each[there[:, column], column].double() for each in (predicted, values))
        r2 = 1 - (x - y).square().sum() / (y - y.mean()).square().sum()
        torch.testing.assert_close(table[column], torch.stack([(x - y).abs().mean(), r2, torch.tensor(3.0).double()]))
    assert float(found["error"].compute()) == pytest.approx(float((table[:, 0] / torch.tensor(unit[1])).mean()))
    assert float(found["r2"].compute()) == pytest.approx(float(table[:, 1].mean()))
    layer = torch.nn.Linear(3, 2)
    before = layer(torch.ones(3))
    rescale_output(layer, *unit)
    rescale_output(layer, *inverse_unit(unit))
    torch.testing.assert_close(layer(torch.ones(3)), before, rtol=1e-4, atol=1e-4)


def test_logits_between_0_and_1_are_not_taken_for_probabilities() -> None:
    """A logit of 0.3 is a probability of 0.57, hence a prediction of the label."""
    objective = Objective("multi_label_classification")
    found = objective.metrics("test", 2)
    logits = torch.tensor([[0.3, 0.2], [0.1, 0.4]])
    for metric in found.values():
        metric.update(*objective.metric_inputs(logits, torch.ones(2, 2)))
    assert float(found["accuracy"].compute()) == 1.0 and found["counts"].compute()[:, 0].tolist() == [2, 2]


def test_the_loss_of_evaluation_has_no_class_weights() -> None:
    """Nor label smoothing: runs with other settings of training are compared by it."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=generator), torch.tensor([0, 1, 2, 0, 0, 1])
    one = Objective(label_smoothing=0.2, class_weights=torch.tensor([0.1, 1.0, 10.0]))
    assert torch.allclose(one.losses(logits, labels), F.cross_entropy(logits, labels, reduction="none"))
    many = F.one_hot(labels, 3).float()
    several = Objective("multi_label_classification", class_weights=torch.tensor([0.1, 1.0, 10.0]))
    expected = F.binary_cross_entropy_with_logits(logits, many, reduction="none").mean(1)
    assert torch.allclose(several.losses(logits, many), expected)


def test_f1_counts_classes_equally() -> None:
    """Of imperfect predictions: seven of class 0, two of class 1, one of class 2."""
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 0, 1])
    objective = Objective()
    found = objective.metrics("test", 3)
    for metric in found.values():
        metric.update(*objective.metric_inputs(F.one_hot(predicted, 3).float(), labels))
    per_class = [2 * 6 / (7 + 7), 2 * 1 / (2 + 3), 0.0]  # 2 * right / (true + predicted)
    assert float(found["f1"].compute()) == pytest.approx(sum(per_class) / 3)
    assert float(found["accuracy"].compute()) == pytest.approx(7 / 10)  # which counts items equally


def test_f1_counts_labels_equally() -> None:
    labels = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]])
    predicted = torch.tensor([[1, 0], [1, 1], [1, 0], [0, 1]])
    objective = Objective("multi_label_classification")
    found = objective.metrics("val", 2)
    for metric in found.values():
        metric.update(*objective.metric_inputs(predicted * 10.0 - 5, labels))
    assert float(found["f1"].compute()) == pytest.approx((1.0 + 0.0) / 2)
    assert float(found["accuracy"].compute()) == pytest.approx(5 / 8)


def test_probabilities_of_one_class_sum_to_1_and_those_of_several_are_independent() -> None:
    logits = torch.randn(4, 3)
    assert torch.equal(Objective().predictions(logits), logits.softmax(-1))
    assert torch.equal(Objective("multi_label_classification").predictions(logits), logits.sigmoid())


def test_numbers_are_learned_in_a_unit() -> None:
    numbers = torch.tensor([90.0, 110.0, 90.0, 110.0])
    assert unit_of(numbers) == (100.0, 10.0) and unit_of(torch.ones(3)) == (1.0, 1.0)
    assert unit_of(torch.tensor([3.0, 4.0]), centered=False) == (0.0, pytest.approx(12.5**0.5))
    objective = Objective("regression", unit=unit_of(numbers))
    logits = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    assert torch.allclose(objective.predictions(logits), numbers) and objective.loss(logits, numbers) == 0
    assert torch.equal(objective.losses(logits + 1, numbers), torch.ones(4))
    with pytest.raises(ValueError, match="of regression targets"):
        Objective("single_label_classification", unit=(1.0, 2.0))


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="problem_type='two'"):
        Objective("two")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="label_smoothing"):
        Objective("multi_label_classification", label_smoothing=0.1)
    with pytest.raises(ValueError, match="regression has no classes"):
        Objective("regression", class_weights=torch.ones(1))
