"""Synthetic stories for language modeling.

People, objects and places are consistent within a story, and pronouns agree with names, so that there is more to learn
than spelling. The dataset is for learning and testing the library, not for ranking models.
"""

import random
from collections.abc import Callable, Sequence

STORIES = 400

PEOPLE = [("Mira", "she", "her"), ("Anna", "she", "her"), ("Ida", "she", "her"), ("Vera", "she", "her"),
          ("Tom", "he", "his"), ("Paul", "he", "his"), ("Emil", "he", "his"), ("Jonas", "he", "his")]  # fmt: skip
OBJECTS = """key lantern letter map ring bell book boat drum kite coat compass violin basket mirror clock""".split()  # noqa: SIM905
LOOKS = """old small red golden broken heavy silver wooden strange blue""".split()  # noqa: SIM905
PLACES = ["by the river", "in the garden", "behind the mill", "under the bridge", "on the hill", "in the attic",
          "near the harbour", "at the edge of the forest", "beside the well", "in the empty station"]  # fmt: skip
TIMES = ["One morning", "Late in the evening", "On the first day of spring", "During the storm", "Before sunrise",
         "After the long winter"]  # fmt: skip
WAYS = ["slowly", "without a word", "with both hands", "very carefully", "in a hurry", "laughing"]
QUESTIONS = ["Where did you find it", "Is it yours", "May I hold it", "What is it for", "Who left it there"]
REPLIES = {
    "Where did you find it": "It lay {place}",
    "Is it yours": "No, it belongs to {other}",
    "May I hold it": "Yes, but hold it {way}",
    "What is it for": "Nobody knows what a {item} is for",
    "Who left it there": "I think {other} left it {place}",
}
ENDINGS = [
    "So they carried the {item} home, and {name} kept it for many years.",
    "In the end {name} gave the {item} to {other}, and both of them were glad.",
    "They put the {item} back {place}, and there it lies to this day.",
    "But the next morning the {item} was gone, and {name} never saw it again.",
]


def make_stories(n: int = STORIES, *, seed: int = 0) -> str:
    """Generate `n` short stories separated by empty lines, the same for the same arguments."""
    uniform = random.Random(seed).random  # the only method with a guaranteed sequence across Python versions
    return "\n\n".join(_story(lambda high: int(uniform() * high)) for _ in range(n)) + "\n"


def _story(randint: Callable[[int], int]) -> str:
    """One story; `randint(n)` returns a random integer from 0 to n - 1."""

    def pick(options: Sequence[str]) -> str:
        return options[randint(len(options))]

    name, pronoun, own = PEOPLE[randint(len(PEOPLE))]
    friend = pick([person for person, *_ in PEOPLE if person != name])
    other = pick([person for person, *_ in PEOPLE if person not in (name, friend)])
    item, look, place, way, question = pick(OBJECTS), pick(LOOKS), pick(PLACES), pick(WAYS), pick(QUESTIONS)
    facts = {"name": name, "other": other, "item": item, "place": place, "way": way}
    return "\n".join([
        f"{pick(TIMES)} {name} found a {look} {item} {place}.",
        f"{pronoun.capitalize()} picked it up {way} and showed it to {own} friend {friend}.",
        f'"{question}?" asked {friend}.',
        f'"{REPLIES[question].format(**facts)}," said {name}.',
        f"{friend} looked at the {look} {item} for a long time.",
        pick(ENDINGS).format(**facts),
    ])  # fmt: skip
