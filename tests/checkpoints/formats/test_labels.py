"""Names of classes in config files: each belongs to its row."""

from zoo.checkpoints.formats.labels import names_of_rows


def test_more_than_ten_names_are_in_the_order_of_their_numbers() -> None:
    """Files may list them in the order of a dictionary: 0, 1, 10, 11, 2, ..."""
    names = {str(i): f"class {i}" for i in range(12)}
    expected = [f"class {i}" for i in range(12)]
    assert names_of_rows({key: names[key] for key in sorted(names)}, 12, "id2label") == (expected, [])
