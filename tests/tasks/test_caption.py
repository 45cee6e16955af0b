"""Captioning: the bias of pairs of tokens that the training texts lack, and where it counts."""

import pytest
import torch
from torch import nn

import zoo
from zoo.tasks.caption import FLOOR, CaptionTask, UnseenAnswerBias, UnseenPairBias
from zoo.tasks.image_text import ImageTextTask

# 0 red, 1 blue, 2 circle, 3 square, 4 cross, 5 end; each with the word it follows
TEXTS = [(0, 2, 5), (0, 3, 5), (1, 2, 5), (1, 3, 5), (1, 4, 5)]


def tokens(texts: list[tuple[int, ...]]) -> list[torch.Tensor]:
    return [torch.tensor(text) for text in texts]


def test_a_pair_that_the_texts_lack_and_similar_tokens_have() -> None:
    table = UnseenPairBias(tokens(TEXTS), 6)(torch.arange(6))
    # the profiles of red and blue, (1/2, 1/2, 0) and (1/3, 1/3, 1/3), have the cosine sqrt(2/3), to the fourth 4/9
    expected = (4 / 9 * 1 / 3) / (1 + 4 / 9)
    assert float(table[0, 4]) == pytest.approx(float(torch.tensor(FLOOR / (expected + FLOOR)).log()), abs=1e-5)
    assert float(table[0, 4]) < -4 and (table[0, 2:4] > 0).all()
    assert table[0, 5] == 0 and table[0, 1] == 0 and (table[5] == 0).all()  # nothing speaks for these pairs


def test_the_texts_end_where_they_end() -> None:
    """No pair is counted from the last token of a text to the first of the next one."""
    table = UnseenPairBias(tokens([(0, 2), (1, 2), (1, 0)]), 3).table
    assert table[2].abs().max() == 0


def test_a_vocabulary_without_a_table() -> None:
    with pytest.raises(ValueError, match="30,524 tokens: expected at most 4,096"):
        UnseenPairBias(tokens(TEXTS), 30524)


class Scores(nn.Module):
    """Gives the same scores for all tokens."""

    inputs = ("input_ids",)

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(6))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(*input_ids.shape, 6)


def test_it_counts_in_training_alone() -> None:
    bias = UnseenPairBias(tokens(TEXTS), 6)
    batch = {"input_ids": torch.tensor([[0, 3]]), "labels": torch.tensor([[3, 5]])}
    task, plain = CaptionTask(Scores(), bias=bias), ImageTextTask(Scores())
    for one in (task, plain):
        one.loss_of(batch, 0, 0).backward()
    push, without = task.model.scores.grad, plain.model.scores.grad
    # after red, a cross is hardly pushed down, the others are
    assert push[4] < 0.6 * without[4] and push[1] == pytest.approx(float(without[1]), rel=0.15)
    with torch.no_grad():
        for one in (task, plain):
            one.scores_of_evaluation = one.predict(one.model, batch).x
    assert torch.equal(task.scores_of_evaluation, plain.scores_of_evaluation)


def test_more_beams_than_tokens_are_refused_before_the_training() -> None:
    model = zoo.create_model("blip_nano", seed=0)
    tokens_of = model.config.part_of("decoder_input_ids").vocab_size
    CaptionTask(model, generation={"num_beams": tokens_of})
    with pytest.raises(ValueError, match=f"num_beams={tokens_of + 1}: expected at most {tokens_of}"):
        CaptionTask(model, generation={"num_beams": tokens_of + 1})


def test_an_answer_that_a_question_never_has() -> None:
    """The prompts (9, 0, 6) and (9, 1, 6) stand for questions about red and blue objects, whose last token is one."""
    prompts, answers = [(9, 0, 6)] * 60 + [(9, 1, 6)] * 60 + [(9, 7, 6)] * 9, [2, 3] * 30 + [2, 3, 4] * 20 + [2] * 9
    texts = tokens([(*prompt, answer, 5) for prompt, answer in zip(prompts, answers)])
    bias = UnseenAnswerBias(texts, [3] * len(texts), 10)
    assert len(bias.rows) == 2  # the third prompt is too rare
    batch = {"input_ids": torch.tensor([[9, 0, 6, 3, 5], [9, 1, 6, 4, 5], [9, 7, 6, 2, 5], [9, 0, 1, 6, 3]]),
             "prompt_lengths": [3, 3, 3, 4]}  # fmt: skip
    table = bias(bias.contexts(batch).flatten()).view(4, 5, 10)
    assert table[0, 2, 4] < -4 and (table[0, 2, 2:4] > 0).all()
    assert (table[1, 2, 2:5] > -0.2).all()
    assert table[2, 2].abs().max() == 0 and table[3, 3].abs().max() == 0  # rare and unknown prompts
    plain = UnseenPairBias(tokens([(answer, 5) for answer in answers]), 10)
    assert torch.equal(table[:3, 3], plain(batch["input_ids"][:3, 3]))  # within the texts as without prompts
