"""`zoo.infill` and `zoo infill`."""

from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli.main import main
from zoo.preprocessing.fill_in_middle import fill_in_middle_tokens, infilling_prompt
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.escape import printable

CODE = ["def area(width, height):\n    return width * height\n", "for i in range(10):\n    print(i)\n"] * 4
PREFIX, SUFFIX = "def area(width, height):\n    return ", "\nprint(area(2, 3))\n"


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    tokenizer = train("code", CODE, 320, max_length=64)
    sizes = dict(vocab_size=320, width=32, heads=2, kv_heads=2, mlp_dim=32, depth=2, max_length=64, eos_token_id=0)
    made = zoo.create_model("llama_nano", seed=1, mixer=["short_conv", "attention"], **sizes).eval()
    made.preprocess = tokenizer
    return made


def by_generate(model: zoo.Model, prefix: str, suffix: str, count: int = 8) -> str:
    ids = torch.tensor([infilling_prompt(model.preprocess, prefix, suffix, room=64 - count)])
    ends = fill_in_middle_tokens(model.preprocess).ends
    new = zoo.generate(model, ids, max_new_tokens=count, eos_token_id=ends)[0, ids.shape[1] :].tolist()
    return model.preprocess.decode([token for token in new if token not in ends])


def test_it_generates_after_the_prompt(model: zoo.Model) -> None:
    expected = by_generate(model, PREFIX, SUFFIX)
    assert zoo.infill(model, PREFIX, SUFFIX, max_new_tokens=8) == expected != ""
    others = [PREFIX, "for i in range(10):\n", "return width * height\n" * 20]
    found = zoo.infill(model, others, [SUFFIX, "", SUFFIX * 20], max_new_tokens=8)
    assert found == [expected, by_generate(model, others[1], ""), by_generate(model, others[2], SUFFIX * 20)]
    assert zoo.infill(model, [PREFIX] * 2, SUFFIX, max_new_tokens=8, num_beams=2, num_return_sequences=2)[:2] == (
        zoo.infill(model, PREFIX, SUFFIX, max_new_tokens=8, num_beams=2, num_return_sequences=2)
    )
    assert zoo.infill(model, PREFIX, SUFFIX, max_new_tokens=8, order="spm") != expected


def test_it_ends_at_the_end_of_the_middle(model: zoo.Model) -> None:
    ids = torch.tensor([infilling_prompt(model.preprocess, PREFIX, SUFFIX)])
    free = zoo.generate(model, ids, max_new_tokens=8, eos_token_id=None)[0, ids.shape[1] :].tolist()

    class Ending:
        """Raises the score of an end token after two tokens."""

        def __call__(self, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if tokens.shape[1] == ids.shape[1] + 2:
                scores = scores.clone()
                scores[:, fill_in_middle_tokens(model.preprocess).prefix] = 100.0
            return scores

    found = zoo.infill(model, PREFIX, SUFFIX, max_new_tokens=8, logits_processor=Ending())
    assert found == model.preprocess.decode(free[:2])


@pytest.mark.parametrize(("options", "says"), [
    ({"max_new_tokens": 64}, "leaves no room for a prompt in the model's max_length=64"),
    ({"eos_token_id": 3}, "eos_token_id= is not an option of zoo.infill"),
    ({"suffix": ["a", "b"]}, "1 prefixes and 2 suffixes"),
    ({"suffix": [3]}, "expected texts, given int"),
    ({"prefix": "", "suffix": ""}, "prefix and suffix are empty"),
    ({"context": 0}, "context=0: expected a positive integer"),
    ({"context": 3}, "no token of the prefix has room in a prompt of 3 tokens"),
    ({"order": "pms"}, "order is 'pms', expected one of psm, spm"),
])  # fmt: skip
def test_what_it_refuses(model: zoo.Model, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        zoo.infill(model, **({"prefix": PREFIX, "suffix": SUFFIX, "max_new_tokens": 8} | options))


def test_models_that_cannot(model: zoo.Model) -> None:
    other = zoo.create_model("gpt_nano", seed=0, depth=1, width=16, heads=2, vocab_size=300)
    with pytest.raises(ValueError, match="the model has no tokenizer"):
        zoo.infill(other, PREFIX)
    other.preprocess = train("bpe", CODE, 300, max_length=64)
    with pytest.raises(ValueError, match="has no tokens for fill-in-the-middle"):
        zoo.infill(other, PREFIX)
    with pytest.raises(ValueError, match="generation needs a decoder with head='lm'"):
        zoo.infill(zoo.create_model("bert_tiny", seed=0, depth=1), PREFIX)
    bart = zoo.create_model("bart_nano", seed=0, depth=1)
    with pytest.raises(ValueError, match=r"has an encoder: zoo\.infill is for decoders alone"):
        zoo.infill(bart, PREFIX)


def test_the_command(model: zoo.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo.save(model, tmp_path / "model")
    file, folder = tmp_path / "area.py", str(tmp_path / "model")
    file.write_text(f"{PREFIX}{SUFFIX}")
    capsys.readouterr()
    assert main(["infill", folder, PREFIX, SUFFIX, "max_new_tokens=8"]) == 0
    assert capsys.readouterr().out == f"{zoo.infill(model, PREFIX, SUFFIX, max_new_tokens=8)}\n"
    assert main(["infill", folder, "max_new_tokens=8", "--file", str(file), "--line", "2"]) == 0
    expected = zoo.infill(model, "def area(width, height):\n", SUFFIX, max_new_tokens=8)
    assert capsys.readouterr().out == f"{expected}\n" and file.read_text() == f"{PREFIX}{SUFFIX}"
    assert main(["infill", folder, "x=", "max_new_tokens=8"]) == 0, "code that looks like an option"
    assert capsys.readouterr().out == f"{printable(zoo.infill(model, 'x=', max_new_tokens=8))}\n"
    wrong = {
        ("--file", str(file)): "--file and --line belong together",
        ("--file", str(file), "--line", "9"): "--line 9: ",
        (PREFIX, "--file", str(file), "--line", "2"): "are both given",
        (): "0 texts: expected the text before",
        (PREFIX, "num_return_sequences=2"): "writes one text",
        (PREFIX, "streamer=1"): "takes an object of Python",
    }
    for words, says in wrong.items():
        assert main(["infill", folder, *words]) == 2
        assert says in capsys.readouterr().err, words
