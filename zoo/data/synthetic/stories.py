"""The embedded plain text: small stories composed by the program, for language models without a download.

Who finds what, where and why stays the same within a story, and names agree with their pronouns, so there is something
to learn beyond spelling. It is no literature and ranks no model.
"""

import random
from collections.abc import Callable, Sequence

STORIES = 400

PEOPLE = [("Mira", "she", "her"), ("Anna", "she", "her"), ("Ida", "she", "her"), ("Vera", "she", "her"),
          ("Tom", "he", "his"), ("Paul", "he", "his"), ("Emil", "he", "his"), ("Jonas", "he", "his")]  # fmt: skip
THINGS = """key lantern letter map ring bell book boat drum kite coat compass violin basket mirror clock""".split()  # noqa: SIM905
LOOKS = """old small red golden broken heavy silver wooden strange blue""".split()  # noqa: SIM905
PLACES = ["by the river", "in the garden", "behind the mill", "under the bridge", "on the hill", "in the attic",
          "near the harbour", "at the edge of the forest", "beside the well", "in the empty station"]  # fmt: skip
TIMES = ["One morning", "Late in the evening", "On the first day of spring", "During the storm", "Before sunrise",
         "After the long winter"]  # fmt: skip
WAYS = ["slowly", "without a word", "with both hands", "very carefully", "in a hurry", "laughing"]
ASKS = ["Where did you find it", "Is it yours", "May I hold it", "What is it for", "Who left it there"]
REPLIES = {
    "Where did you find it": "It lay {place}",
    "Is it yours": "No, it belongs to {other}",
    "May I hold it": "Yes, but hold it {way}",
    "What is it for": "Nobody knows what a {thing} is for",
    "Who left it there": "I think {other} left it {place}",
}
ENDS = [
    "So they carried the {thing} home, and {name} kept it for many years.",
    "In the end {name} gave the {thing} to {other}, and both of them were glad.",
    "They put the {thing} back {place}, and there it lies to this day.",
    "But the next morning the {thing} was gone, and {name} never saw it again.",
]


def make_stories(n: int = STORIES, *, seed: int = 0) -> str:
    """A text of `n` short stories, an empty line between them; the same for the same arguments."""
    draw = random.Random(seed).random  # the one method whose numbers are promised to stay
    return "\n\n".join(_story(lambda options: int(draw() * options)) for _ in range(n)) + "\n"


def _story(number: Callable[[int], int]) -> str:
    """number: draws one from 0 to below its argument."""

    def pick(options: Sequence[str]) -> str:
        return options[number(len(options))]

    name, pronoun, own = PEOPLE[number(len(PEOPLE))]
    friend = pick([person for person, *_ in PEOPLE if person != name])
    other = pick([person for person, *_ in PEOPLE if person not in (name, friend)])
    thing, look, place, way, ask = pick(THINGS), pick(LOOKS), pick(PLACES), pick(WAYS), pick(ASKS)
    facts = {"name": name, "other": other, "thing": thing, "place": place, "way": way}
    return "\n".join([
        f"{pick(TIMES)} {name} found a {look} {thing} {place}.",
        f"{pronoun.capitalize()} picked it up {way} and showed it to {own} friend {friend}.",
        f'"{ask}?" asked {friend}.',
        f'"{REPLIES[ask].format(**facts)}," said {name}.',
        f"{friend} looked at the {look} {thing} for a long time.",
        pick(ENDS).format(**facts),
    ])  # fmt: skip
