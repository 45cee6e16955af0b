"""CTC beam search alone and with a language model, for scores of made-up speech.

    python benchmarks/ctc_search.py [words=51] [width=16] [depth=4] [lm_width=256] [rounds=5] [minutes=10]

Two comparisons: the search over one piece of speech without and with a decoder of texts (byte-level BPE, random
weights) as language model; and the search over `minutes` of speech as a whole, as `zoo.predict` does it, and in pieces
that end in pauses, as `zoo.transcribe` does.
"""

import random

import torch
from _measure import options, paired
from torch import Tensor

import zoo
from zoo.inference.ctc_decoding import beam
from zoo.inference.ctc_language_model import LanguageModelScorer
from zoo.inference.transcribe import PIECE, PIECES, split_at_pauses
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.tokenizer_training import train

SENTENCE = "the cat sat on the mat and looked at all the people who came along that morning"
WORDS = SENTENCE.split()
VOCABULARY = Vocabulary(("<pad>", "|", *"abcdefghijklmnopqrstuvwxyz'"))
FRAME = 0.02  # seconds, as wav2vec 2.0


def speech(words: int) -> Tensor:
    """Scores [N, V] of words with noise, three frames a letter."""
    chosen = random.Random(0)
    path = []
    for _ in range(words):
        for symbol in VOCABULARY.encode(chosen.choice(WORDS)):
            path += [symbol, 0, 0]
        path += [1, 0]
    noise = torch.randn(len(path), len(VOCABULARY), generator=torch.Generator().manual_seed(0))
    return 8 * torch.nn.functional.one_hot(torch.tensor(path), len(VOCABULARY)).float() + 2 * noise


def search_in_pieces(scores: Tensor, width: int) -> None:
    pieces = split_at_pauses(scores, 0, round(PIECE / FRAME))
    for i in range(0, len(pieces), PIECES):
        rows = pieces[i : i + PIECES]
        lengths = torch.tensor([len(row) for row in rows])
        beam(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, width=width)


def main() -> None:
    o = options(dict(words=3, width=4, depth=1, lm_width=32, rounds=1, minutes=0.1),
                words=51, width=16, depth=4, lm_width=256, rounds=5, minutes=10.0)  # fmt: skip
    torch.set_num_threads(1)
    tokenizer = train("bpe", [SENTENCE] * 5, 300)
    lm = zoo.create_model("gpt2", vocab_size=tokenizer.vocab_size, width=o.lm_width, depth=o.depth,
                          heads=o.lm_width // 32, max_length=512, seed=0).eval()  # fmt: skip
    lm.preprocess = tokenizer
    scores = speech(o.words)
    title = f"{len(scores) * FRAME:.0f} s of speech, {o.words} words, beam of {o.width}"
    parameters = sum(p.numel() for p in lm.parameters())

    def fused() -> object:
        return beam(scores[None], width=o.width, scorer=LanguageModelScorer(lm, VOCABULARY))

    calls = {
        "without": lambda: beam(scores[None], width=o.width),
        f"with a decoder of {parameters / 1e6:.1f}M parameters": fused,
    }
    paired(calls, rounds=o.rounds, title=title)
    long = speech(max(2, round(o.minutes * 60 / FRAME / 13)))
    paired({
        "as a whole": lambda: beam(long[None], width=o.width),
        "in pieces": lambda: search_in_pieces(long, o.width),
    }, rounds=min(o.rounds, 3), title=f"{len(long) * FRAME / 60:.1f} minutes of speech, beam of {o.width}")  # fmt: skip


if __name__ == "__main__":
    main()
