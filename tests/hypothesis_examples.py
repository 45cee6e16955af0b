"""How many examples hypothesis tries: more in .ci/full than for every change."""

import os

FACTOR = int(os.environ.get("ZOO_HYPOTHESIS_FACTOR", "1"))


def examples(count: int) -> int:
    """`count`, times the factor of the variable ZOO_HYPOTHESIS_FACTOR."""
    return count * FACTOR
