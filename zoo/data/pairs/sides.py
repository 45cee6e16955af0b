"""Captions that mention left or right, whose images are not to be flipped."""


def mentions_sides(text: str) -> bool:
    """Whether a text mentions left or right, or the like."""
    return bool(_SIDED & set(_words(text)))


_SIDED = {"left", "right", "leftwards", "rightwards", "leftward", "rightward", "clockwise", "counterclockwise",
          "anticlockwise", "east", "west"}  # fmt: skip


def _words(text: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in text.lower()).split()
