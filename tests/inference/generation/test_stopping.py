"""When a row ends: at an end token or a stop text, whichever comes first, however long the texts are."""

import torch

from zoo.inference.generation.stopping import StoppingCriteria


def spell(ids: list[int]) -> str:
    """The letters a, b, ... of ids 0, 1, ...; id 26 is an end token without text."""
    return "".join(chr(ord("a") + i) for i in ids if i < 26)


def ids_of(text: str) -> list[int]:
    return [ord(letter) - ord("a") for letter in text]


def ends(tokens: list[list[int]], ids: tuple[int, ...], stop: tuple[str, ...]) -> list[bool]:
    return StoppingCriteria(ids, stop, spell, None, [[]])(torch.tensor(tokens)).tolist()


def test_end_tokens_count_beside_stop_texts() -> None:
    rows = [ids_of("abcd"), [*ids_of("xyz"), 26], ids_of("wxyz")]
    assert ends(rows, (26,), ("cd",)) == [True, True, False]
    assert ends(rows, (25, 26), ("cd",)) == [True, True, True]


def test_a_long_stop_text_is_found_beside_a_short_one() -> None:
    long = "abcdefghijklmnopqrstuvwxy"
    assert ends([ids_of("z" * 9 + long), ids_of("z" * 8 + "z" + long[:-1] + "z")], (), ("qq", long)) == [True, False]
