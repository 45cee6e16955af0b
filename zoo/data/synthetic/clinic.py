"""Synthetic clinic dialogues with notes that must keep the medication, its dose and its frequency.

A doctor and a patient talk about a complaint and one to three medications; the note has the complaint, the history, the
allergies, the current medications and the follow-up. Dialogues also name medications that belong in no note: those that
were stopped or never begun, those of relatives, and doses that were changed. Each medication has one dose that occurs
in no training dialogue, although the medication does with other doses and the dose with other medications; all current
medications of test dialogues have their held-out dose.

All dialogues, persons and prescriptions are synthetic: no text comes from a patient, and nothing in them is medical
advice. The dataset is for learning and testing the library, not for ranking models.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

TRAIN, TEST = 5000, 500
CURRENT = (0.4, 0.8)  # one current medication below the first, two below the second, else three

# medication: condition: doses | the dose that occurs in test dialogues only
_MEDICATIONS = """metformin: diabetes: 850 mg, 1000 mg | 500 mg
gliclazide: diabetes: 30 mg, 60 mg | 80 mg
lisinopril: high blood pressure: 5 mg, 10 mg, 40 mg | 20 mg
losartan: high blood pressure: 25 mg, 100 mg | 50 mg
bisoprolol: heart failure: 2.5 mg, 5 mg | 10 mg
furosemide: heart failure: 20 mg, 80 mg | 40 mg
spironolactone: heart failure: 50 mg, 100 mg | 25 mg
atorvastatin: high cholesterol: 10 mg, 20 mg, 40 mg | 80 mg
simvastatin: high cholesterol: 20 mg, 40 mg | 10 mg
sertraline: depression: 25 mg, 50 mg | 100 mg
citalopram: depression: 10 mg, 40 mg | 20 mg
omeprazole: reflux: 10 mg, 20 mg | 40 mg
famotidine: reflux: 20 mg, 40 mg | 10 mg
ibuprofen: joint pain: 200 mg, 600 mg | 400 mg
naproxen: joint pain: 250 mg, 500 mg | 375 mg
carbamazepine: nerve pain: 200 mg, 400 mg | 100 mg
gabapentin: nerve pain: 100 mg, 300 mg, 400 mg | 600 mg
pregabalin: nerve pain: 75 mg, 150 mg | 25 mg
levothyroxine: low thyroid: 25 mcg, 50 mcg, 100 mcg | 75 mcg
liothyronine: low thyroid: 5 mcg, 75 mcg | 25 mcg
prednisolone: asthma: 5 mg, 20 mg | 10 mg
montelukast: asthma: 5 mg, 10 mg | 4 mg
allopurinol: gout: 100 mg, 200 mg | 300 mg
febuxostat: gout: 80 mg, 120 mg | 40 mg
propranolol: migraine: 10 mg, 80 mg | 40 mg
topiramate: migraine: 25 mg, 100 mg | 50 mg
valproate: migraine: 375 mg, 500 mg | 250 mg
baclofen: muscle cramps: 4 mg, 10 mg | 20 mg"""

MEDICATIONS = {
    name: (condition, tuple(doses.split(" | ")[0].split(", ")), doses.split(" | ")[1])
    for name, condition, doses in (line.split(": ") for line in _MEDICATIONS.splitlines())
}
"""The condition of each medication, its doses in training, and its dose in test dialogues."""

# As the note has them, and as they are spoken.
FREQUENCIES = {
    "once a day": ("once a day", "one time a day", "once daily"),
    "twice a day": ("twice a day", "two times a day", "in the morning and in the evening"),
    "three times a day": ("three times a day", "with each of the three meals"),
    "every 8 hours": ("every 8 hours", "every eight hours"),
    "at bedtime": ("at bedtime", "before going to bed", "late in the evening"),
    "once a week": ("once a week", "every Sunday"),
}
COMPLAINTS = ["a headache", "a cough", "back pain", "dizziness", "a sore throat", "knee pain", "stomach pain",
              "tiredness", "a rash", "poor sleep", "chest tightness", "swollen feet"]  # fmt: skip
DURATIONS = ["two days", "four days", "a week", "ten days", "three weeks", "a month", "three months"]
ALLERGIES = ["penicillin", "latex", "peanuts", "pollen", "shellfish"]
RELATIVES = ["mother", "father", "sister", "brother", "wife", "husband", "neighbor"]
FOLLOW_UPS = ["in one week", "in two weeks", "in a month", "in three months", "in half a year"]

# Turns are separated by |; the doctor has those with D. {s} complaint, {t} duration, {m} medication, {d} dose,
# {f} frequency, {c} condition, {o} a dose that is not current, {r} relative, {a} allergy, {u} follow-up.
OPENINGS = """D Good morning, what brings you here? | P I have had {s} for {t}.
D Hello, how can I help? | P It is {s}. | D Since when? | P For {t} now.
D Come in, please. What is the problem? | P For {t} I have had {s}, and it does not get better.""".splitlines()
DETAILS = """D Is it worse at night? | P Yes, I wake up from it.
D Is it worse at night? | P No, it is the same all day.
D Do you have a fever? | P No, I checked.
D Do you smoke? | P No, I never did.
D Do you sleep well? | P Well enough.
D How is work? | P Busy, as always.""".splitlines()
TAKES = """D Which medication do you take for your {c}? | P {m}, {d}, {f}.
D Do you still take {m} for your {c}? | P Yes. | D Which dose? | P The tablets of {d}, {f}.
D What about your {c}? | P I take {m} {f}. | D How much? | P {d}.
D What do you take for the {c}? | P {f}, {d} of {m}.
D How is the {m} for your {c}? | P {o} {f} does not help enough. | D Then take {d} from now on.
D For the {c} you take {o} of {m}, right? | P No, since last month it is {d}, {f}.
D I will start you on {m} for your {c}. Take {d} {f}. | P I will.
D For your {c} I prescribe {m}. | P How much of it? | D {d}, {f}.""".splitlines()
DISTRACTORS = """D Did you stop any medication? | P Yes, {m}. I took {d} {f}, and it made me dizzy.
D Do you still take {m}? | P No, I stopped the {d} last year.
P My {r} takes {m}, {d} {f}. Should I take it, too? | D No, it is not for you.
P My {r} has some {m} left, tablets of {d}. | D Please do not take them.
D I thought about {m} {d} {f}, but it does not go with the rest.
P I read that {m} {d} helps. | D Not in your case.""".splitlines()
ALLERGY = ["D Any allergies? | P Yes, {a}.", "P I am allergic to {a}, by the way. | D Noted.",
           "D Are you allergic to anything? | P Only to {a}."]  # fmt: skip
NO_ALLERGY = ["D Any allergies? | P None.", "D Are you allergic to anything? | P Not that I know."]
ENDINGS = """D Come back {u}, please. | P Thank you.
D I would like to see you again {u}. | P Fine, goodbye.
P When do I come back? | D {u}.""".splitlines()

Pick = Callable[[Sequence[Any]], Any]


def make_dialogues(split: str, n: int = 0, *, seed: int = 0) -> list[dict[str, Any]]:
    """Generate `n` different synthetic dialogues of a split: {"dialogue", "note", "facts"}.

    `facts` are those that the note must keep: [medication, dose, frequency] of each current medication. The result is
    the same for the same arguments.

    Args:
        split: `train` (no held-out dose occurs) or `test` (each current medication has its held-out dose).
        n: Number of dialogues; 0 uses the default size of the split.
        seed: Seed of the dialogues.
    """
    default = {"train": TRAIN, "test": TEST}
    if split not in default or n < 0 or seed < 0:
        raise ValueError(f"split={split!r}, n={n}, seed={seed}: expected train or test, and numbers of at least 0")
    uniform = random.Random(2 * seed + (split == "test")).random  # its sequence is guaranteed across Python versions

    def pick(options: Sequence[Any]) -> Any:
        return options[int(uniform() * len(options))]

    found: dict[str, dict[str, Any]] = {}
    while len(found) < (n or default[split]):
        row = _row(pick, uniform, held_out=split == "test")
        found.setdefault(row["dialogue"], row)
    return list(found.values())


def _row(pick: Pick, uniform: Callable[[], float], *, held_out: bool) -> dict[str, Any]:
    """One dialogue with its note and facts."""
    share = uniform()
    count = 1 + sum(share >= limit for limit in CURRENT)
    names = _medications(pick, count)
    words = {"s": pick(COMPLAINTS), "t": pick(DURATIONS), "a": pick(ALLERGIES), "u": pick(FOLLOW_UPS)}
    allergic = uniform() < 0.4
    facts, middle = [], []
    for i, name in enumerate(names):
        condition, doses, test_dose = MEDICATIONS[name]
        current = i < count
        dose = test_dose if held_out and current else pick(doses)
        frequency = pick(list(FREQUENCIES))
        if current:
            facts.append([name, dose, frequency])
        values = {"m": name, "c": condition, "d": dose, "f": pick(FREQUENCIES[frequency]), "r": pick(RELATIVES),
                  "o": pick([other for other in doses if other != dose])}  # fmt: skip
        middle.append(pick(TAKES if current else DISTRACTORS).format(**values))
    middle += [pick(DETAILS), pick(ALLERGY if allergic else NO_ALLERGY)]
    order = [i for _, i in sorted((uniform(), i) for i in range(len(middle)))]
    parts = [pick(OPENINGS), *(middle[i] for i in order), pick(ENDINGS)]
    facts = [facts[i] for i in order if i < count]  # the note follows the dialogue
    history = dict.fromkeys(MEDICATIONS[name][0] for name, _, _ in facts)
    note = [f"Complaint: {words['s']} for {words['t']}.", f"History: {', '.join(history)}.",
            *([f"Allergy: {words['a']}."] if allergic else []),
            f"Medication: {'; '.join(' '.join(fact) for fact in facts)}.", f"Follow-up: {words['u']}."]  # fmt: skip
    return {"dialogue": _turns(" | ".join(parts).format(**words)), "note": " ".join(note), "facts": facts}


def _medications(pick: Pick, count: int) -> list[str]:
    """Names of the current medications and up to two others, all for different conditions."""
    names: list[str] = []
    total = count + pick((0, 1, 1, 1, 2))
    while len(names) < total:
        name = pick(list(MEDICATIONS))
        if MEDICATIONS[name][0] not in [MEDICATIONS[other][0] for other in names]:
            names.append(name)
    return names


def _turns(text: str) -> str:
    """`D good morning | P hello` as `Doctor: Good morning Patient: Hello`."""
    turns = [turn.partition(" ")[::2] for turn in text.split(" | ")]
    speakers = {"D": "Doctor", "P": "Patient"}
    return " ".join(f"{speakers[speaker]}: {words[0].upper()}{words[1:]}" for speaker, words in turns)
