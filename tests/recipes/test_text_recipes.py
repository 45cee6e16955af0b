"""The recipes of text from their command lines: what they leave behind, what they refuse, what they hand on."""

import re
from pathlib import Path

import pytest
import torch
from recipe_calls import RECIPES, RESUMED, caller, check_resumed_run, result

import zoo
from zoo.training.recipes.config import (
    FinetuneSettings,
    GPTSettings,
    MLMSettings,
    QuestionAnsweringSettings,
    TokenClassificationSettings,
)

SETTINGS = {"finetune_text": FinetuneSettings, "gpt_text": GPTSettings, "mlm_text": MLMSettings,
            "token_classification": TokenClassificationSettings,
            "question_answering": QuestionAnsweringSettings}  # fmt: skip
call = caller(SETTINGS)
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "log_every=1")
TINY = ("width=16", "depth=1", "heads=2", "batch_size=8", *QUIET)
FEW = ("max_train_samples=80", "max_test_samples=20", "vocab_size=300", *TINY)


@pytest.fixture(autouse=True)
def few_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.synthetic.sentences.TRAIN", 400)
    monkeypatch.setattr("zoo.data.synthetic.sentences.TEST", 40)
    monkeypatch.setattr("zoo.data.synthetic.stories.STORIES", 20)
    monkeypatch.setattr("zoo.data.synthetic.alignments.SEQUENCE_FAMILIES", 2)
    monkeypatch.setattr("zoo.data.synthetic.alignments.SEQUENCES", 32)
    monkeypatch.setattr("zoo.data.synthetic.entities.TRAIN", 200)
    monkeypatch.setattr("zoo.data.synthetic.entities.TEST", 40)
    monkeypatch.setattr("zoo.data.synthetic.questions.TRAIN", 200)
    monkeypatch.setattr("zoo.data.synthetic.questions.TEST", 40)


def test_finetune_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("finetune_text", tmp_path / "run", *FEW, "steps=3", "ema=0.9", "export=transformers", "pool=cls") == 0
    said = capsys.readouterr()
    for text in ("Synthetic data", "generated sentences", "80 training and 20 test items", "test accuracy", "f1",
                 "zoo predict", "exported"):  # fmt: skip
        assert text in said.out, text
    folder = tmp_path / "run"
    assert {"confusion.png", "curves.png", "model", "transformers", "metrics.csv"} <= {p.name for p in folder.iterdir()}
    names = {"test_loss", "test_accuracy", "test_f1", "test_calibration_error"}
    assert result(folder)["result"].keys() == names and not result(folder)["real"]
    model = zoo.load(folder)
    assert model.labels == ["negative", "positive"]
    card, theirs = ((folder / where / "README.md").read_text() for where in ("model", "transformers"))
    for text in ("Synthetic data", "generated sentences", "recipes/finetune_text.py", "ema=0.9", "test accuracy",
                 f'zoo.load("{folder}/model")', "zoo.predict", "2 classes: negative, positive"):  # fmt: skip
        assert text in card, text
    assert f'pipeline("text-classification", "{folder}/transformers")' in theirs and "library_name: tr" in theirs
    text = "the soup was cold but the evening was lovely ."
    ours = dict(zoo.predict(model, text))
    from zoo.cli.main import main as command

    assert command(["predict", str(folder), text]) == 0
    assert f"{max(ours.values()):.1%}" in capsys.readouterr().out
    pipeline = pytest.importorskip("transformers").pipeline(
        "text-classification", str(folder / "transformers"), top_k=None
    )
    assert {one["label"]: one["score"] for one in pipeline([text])[0]} == pytest.approx(ours, abs=1e-5)


def test_from_masked_tokens_to_a_classifier(tmp_path: Path) -> None:
    assert call("mlm_text", tmp_path / "mlm", *TINY, "steps=3", "vocab_size=300") == 0
    before = zoo.load(tmp_path / "mlm")
    assert before.config.head == "masked_lm" and result(tmp_path / "mlm")["result"]["test_perplexity"] > 1
    words = ("max_train_samples=80", "max_test_samples=20", "batch_size=8", "steps=2", "freeze=[tokens]", *QUIET)
    assert call("finetune_text", tmp_path / "ft", *words, f"model.source={tmp_path / 'mlm'}", "layer_decay=0.8") == 0
    after = zoo.load(tmp_path / "ft")
    assert after.preprocess.tokenizer == before.preprocess.tokenizer and after.config.width == 16
    assert torch.equal(after.tokens.word.weight, before.tokens.word.weight)
    assert not torch.equal(after.blocks[0].mixer.q.weight, before.blocks[0].mixer.q.weight)


def test_proteins_of_a_fasta_file_and_of_families(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From random weights on synthetic families, then from that folder on a file, whose sequences are not aligned."""
    words = ("batch_size=8", "steps=2", *QUIET)
    assert call("mlm_text", tmp_path / "first", "model=esm2_t6_8m", "width=16", "depth=1", "heads=2", *words) == 0
    names = {"test_loss", "test_perplexity", "test_frequencies_loss", "test_frequencies_perplexity"}
    found = result(tmp_path / "first")
    assert found["result"].keys() == names and not found["real"]
    assert 5 < found["result"]["test_frequencies_perplexity"] < 20.5
    sequences = ["MKTAYIAKQRQISFVKSHF", "GAVLIPFMWGXUZ"] * 10
    fasta = tmp_path / "proteins.fasta"
    fasta.write_text("".join(f">P{i}\n{sequence.lower()}*\n" for i, sequence in enumerate(sequences)))
    source = ("model.source=" + str(tmp_path / "first"), f"data={fasta}", "data.max_length=12")
    assert call("mlm_text", tmp_path / "second", *source, *words) == 0
    model = zoo.load(tmp_path / "second")
    assert model.config.head == "masked_lm" and len(zoo.predict(model, "MKT<mask>YIA", top_k=2)) == 2
    for line, says in ((">J\nMKJT\n", "unknown letter 'J'"), (">G\nMK-T\n", "record 'G'"), ("", "no records")):
        fasta.write_text(line * 3)
        capsys.readouterr()
        assert call("mlm_text", tmp_path / "third", *source, *words) == 2
        assert says in capsys.readouterr().err
    assert call("mlm_text", tmp_path / "third", source[0], f"data={tmp_path / 'none.fasta'}", *words) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_adapters_leave_a_plain_model(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need the extra `lora`")
    assert call("finetune_text", tmp_path / "run", *FEW, "steps=2", "lora.rank=2") == 0
    assert not any("lora" in name for name in zoo.load(tmp_path / "run").state_dict())


def test_a_decoder_classifies_several_labels_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("a,b,x,y\n" + "".join(f"first {i},second {i},{i % 2},{i % 3 % 2}\n" for i in range(60)))
    words = ("model=gpt_nano", "text=a,b", "label=x,y", "batch_size=8", "steps=2", "width=16", "depth=1", "heads=2",
             "vocab_size=300", "class_weights=balanced", f"data={table}", *QUIET)  # fmt: skip
    assert call("finetune_text", tmp_path / "run", *words) == 0
    model = zoo.load(tmp_path / "run")
    assert model.labels == ["x", "y"] and "test_f1" in result(tmp_path / "run")["result"]
    assert model.config.resolved_problem_type == "multi_label_classification"
    assert re.search(r"zoo predict .*/model --pair 'first \d+' 'second \d+'", capsys.readouterr().out)
    from zoo.cli.main import main as command

    assert command(["predict", str(tmp_path / "run"), "--pair", "first 1", "second 1"]) == 0
    assert "first 1 | second 1" in capsys.readouterr().out
    pair = ("first 1", "second 1")
    shares = model(**model.preprocess(pair)).detach()[0].sigmoid().tolist()
    assert dict(zoo.predict(model, pair)) == pytest.approx(dict(zip("xy", shares)))


@pytest.mark.parametrize("words", [(), ("model=gpt_nano",), ("ema=0.5",)], ids=["encoder", "no bias", "average"])
def test_numbers_in_their_own_unit(tmp_path: Path, words: tuple) -> None:
    """Learned around 0 with spread 1, saved, tested and loaded as the numbers that they are."""
    table = tmp_path / "numbers.csv"
    table.write_text("text,score\n" + "".join(f"text {i},{2000.5 + 10 * (i % 2)}\n" for i in range(60)))
    few = (f"data={table}", *FEW[2:], "steps=2", "lr=1e-5", "export=transformers", *words)
    few = (*few, "pool=last") if words[:1] == ("model=gpt_nano",) else (*few, "pool=cls")
    assert call("finetune_text", tmp_path / "run", *few) == 0
    metrics = result(tmp_path / "run")["result"]
    assert {"test_error", "test_r2", "test_loss"} == metrics.keys()
    model = zoo.load(tmp_path / "run")
    assert model.config.resolved_problem_type == "regression" and model.labels == ["score"]
    ((label, number),) = zoo.predict(model, "text 3")
    if words != ("model=gpt_nano",):  # whose head has no bias to hold a mean
        assert metrics["test_error"] < 20 and label == "score" and number == pytest.approx(2005, abs=20)
    best = zoo.load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert zoo.predict(best, "text 3") == [(label, pytest.approx(number, rel=1e-5))]
    assert zoo.predict(zoo.load(tmp_path / "run" / "transformers"), "text 3") == [(label, pytest.approx(number))]


def test_numbers_go_on_from_a_model_that_has_learned_them(tmp_path: Path) -> None:
    table = tmp_path / "numbers.csv"
    table.write_text("text,score\n" + "".join(f"text {i},{1e5 + 2e4 * (i % 2) + 0.5}\n" for i in range(60)))
    same = (f"data={table}", "batch_size=8", "lr=1e-9", "steps=1", *QUIET)
    assert call("finetune_text", tmp_path / "one", f"data={table}", *FEW[2:], "steps=2") == 0
    assert call("finetune_text", tmp_path / "two", *same, f"model.source={tmp_path / 'one'}") == 0
    first, second = (zoo.predict(zoo.load(tmp_path / name), "text 3")[0][1] for name in ("one", "two"))
    assert second == pytest.approx(first, rel=1e-4)


def test_names_of_classes_and_labels_that_look_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stars, words = tmp_path / "stars.csv", tmp_path / "words.csv"
    stars.write_text("text,label\n" + "".join(f"text {i},{1 + i % 2}\n" for i in range(60)))
    assert call("finetune_text", tmp_path / "one", f"data={stars}", *FEW[2:], "steps=1", "class_names=[bad, good]") == 0
    assert zoo.load(tmp_path / "one").labels == ["bad", "good"]
    words.write_text("text,label\n" + "".join(f"text {i},{('Pos', 'pos', 'neg')[i % 3]}\n" for i in range(60)))
    assert call("finetune_text", tmp_path / "two", f"data={words}", *FEW[2:], "steps=1") == 0
    assert "different classes that look like the same one: 'Pos' (20), 'pos' (20)" in capsys.readouterr().out
    assert zoo.load(tmp_path / "two").labels == ["Pos", "neg", "pos"]


def test_token_classification_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*FEW, "steps=3", "ema=0.9", "export=transformers", "data.max_length=16")  # windows of 16 tokens
    assert call("token_classification", tmp_path / "run", *words) == 0
    output = capsys.readouterr()
    for text in ("generated sentences with entities", "test f1", "by class", "zoo predict", "exported"):
        assert text in output.out, text
    assert "sentences have more than max_length=16 tokens: they are split into windows" in output.err + output.out
    names = {f"test_{name}" for name in ("loss", "accuracy", "precision", "recall", "f1")}
    assert result(tmp_path / "run")["result"].keys() == names
    assert (tmp_path / "run" / "classes.csv").read_text().startswith("class,precision,recall,f1,support\n")
    model = zoo.load(tmp_path / "run")
    assert model.labels == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    assert model.preprocess.encode("Paris") != model.preprocess.encode("paris")  # names have capital letters
    text = "Ada Lincoln moved to Paris ."
    pipeline = pytest.importorskip("transformers").pipeline(
        "token-classification", str(tmp_path / "run" / "transformers"), aggregation_strategy="first"
    )
    assert [(e["entity_group"], e["start"], e["end"]) for e in pipeline(text)] == [
        e[1:4] for e in zoo.predict(model, text)
    ]


def test_tags_of_files_on_a_classifier_of_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From CoNLL files in a folder, on weights that have another head; then on its own, whose head is kept."""
    for name, count in (("train", 40), ("dev", 8), ("test", 8)):
        rows = "".join(f"Ada NNP I-PER\nsaw VBD O\nParis{i} NNP I-LOC\n\n" for i in range(count))
        (tmp_path / f"{name}.txt").write_text(f"-DOCSTART- -X- O\n\n{rows}")
    few = ("batch_size=8", "steps=2", *QUIET)
    assert call("finetune_text", tmp_path / "first", *FEW, "steps=1") == 0
    source = f"model.source={tmp_path / 'first'}"
    assert call("token_classification", tmp_path / "second", f"data={tmp_path}", source, *few) == 0
    output = capsys.readouterr()
    said = " ".join((output.err + output.out).split())
    assert "tags: IOB1, 2 types of entities (LOC, PER)" in said and "new, for 3 classes: O, I-LOC, I-PER" in said
    source = f"model.source={tmp_path / 'second'}"
    assert call("token_classification", tmp_path / "third", f"data={tmp_path}", source, *few, "lr=1e-9") == 0
    first, second = (zoo.load(tmp_path / name).head.proj.weight for name in ("second", "third"))
    assert torch.allclose(first, second, atol=1e-6) and "new, for" not in capsys.readouterr().out


def test_question_answering_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*FEW, "steps=3", "ema=0.9", "export=transformers", "data.max_length=48", "doc_stride=8")
    assert call("question_answering", tmp_path / "run", *words) == 0
    output = capsys.readouterr()
    for text in ("generated questions about facts", "test f1", "exact_match", "zoo predict", "--pair", "exported"):
        assert text in output.out, text
    assert "contexts do not fit into max_length=48 tokens" in " ".join((output.err + output.out).split())
    assert result(tmp_path / "run")["result"].keys() == {"test_loss", "test_exact_match", "test_f1"}
    pair = ("where was Ada born ?", "Ada was born in Paris .")
    ours = zoo.load(tmp_path / "run")
    theirs = pytest.importorskip("transformers").AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "run" / "transformers"
    )
    batch = ours.preprocess(pair)
    with torch.no_grad():
        logits = torch.stack([*theirs(**batch).to_tuple()], -1)
        assert torch.allclose(ours(**batch), logits, atol=1e-5)
    assert len(zoo.predict(ours, pair, top_k=3)) == 3
    source = f"model.source={tmp_path / 'run'}"
    words = ("max_train_samples=80", "batch_size=8", "steps=1", *QUIET, source)
    assert call("question_answering", tmp_path / "again", *words) == 0
    assert zoo.load(tmp_path / "again").preprocess.tokenizer == ours.preprocess.tokenizer


def test_parts_of_speech_are_scored_by_accuracy(tmp_path: Path) -> None:
    table = tmp_path / "tags.jsonl"
    table.write_text('{"words": ["a", "dog", "runs"], "pos": ["DT", "NN", "VB"]}\n' * 60)
    words = (f"data={table}", "tokens=words", "tags=pos", *TINY, "vocab_size=300", "steps=2")
    assert call("token_classification", tmp_path / "run", *words) == 0
    assert result(tmp_path / "run")["result"].keys() == {"test_loss", "test_accuracy"}
    assert result(tmp_path / "run")["monitor"] == "val_accuracy"


def test_it_stops_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*FEW, "steps=40", "validate_every=2", "early_stopping_patience=2", "lr=1e-9", "monitor=accuracy")
    assert call("finetune_text", tmp_path / "run", *words) == 0
    assert (
        "early stopping: no improvement of val_accuracy in 2 validations; the best step was 2"
        in capsys.readouterr().out
    )
    assert (result(tmp_path / "run")["steps"], result(tmp_path / "run")["finished"]) == (6, True)


def test_gpt_writes_while_it_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*TINY, "steps=4", "validate_every=2", "max_length=16", "length=40")
    assert call("gpt_text", tmp_path / "run", *words) == 0
    samples = (tmp_path / "run" / "samples.txt").read_text()
    assert "--- step 2\n" in samples and "--- step 4\n" in samples
    metrics = result(tmp_path / "run")["result"]
    assert metrics["test_perplexity"] == pytest.approx(torch.tensor(metrics["test_loss"]).exp().item(), rel=1e-4)
    assert "perplexity" in capsys.readouterr().out
    model = zoo.load(tmp_path / "run")
    assert model.preprocess.decode(model.preprocess.encode("found\na key")) == "found\na key"


def test_gpt_on_pieces_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("to be or not to be, that is the question\n" * 200)
    words = (
        *TINY,
        "steps=2",
        "max_length=16",
        "tokens=bpe",
        "vocab_size=280",
        "length=0",
        f"data={tmp_path / 'my.txt'}",
    )
    assert call("gpt_text", tmp_path / "run", *words) == 0
    assert result(tmp_path / "run")["real"] and zoo.load(tmp_path / "run").config.vocab_size <= 280


@pytest.mark.parametrize(("name", "words"), [
    ("finetune_text", (*FEW, "dropout=0.1")),
    ("gpt_text", (*TINY, "max_length=16", "length=0")),
    ("mlm_text", (*TINY, "vocab_size=300")),
    ("mlm_text", (*TINY, "model=esm2_t6_8m")),
    ("token_classification", (*FEW, "dropout=0.1", "data.max_length=16")),
    ("question_answering", (*FEW, "dropout=0.1", "data.max_length=48", "doc_stride=8")),
])  # fmt: skip
def test_interrupted_and_started_again(
    name: str, words: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*words, *RESUMED)
    check_resumed_run(lambda folder: call(name, folder, *words), tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "words", "says"), [
    ("finetune_text", ["model=bert_tny"], "did you mean 'bert_tiny'"),
    ("finetune_text", ["data=sst"], "did you mean 'sst2'"),
    ("finetune_text", ["model.source=nowhere"], "nowhere"),
    ("finetune_text", ["export=transformers"], "give pool=cls"),
    ("finetune_text", ["lora.rank=2", "lora.targets=[query]"], "no linear layer is named 'query'"),
    ("finetune_text", ["data.max_length=4", "truncate=error"], "truncate='cut'"),
    ("question_answering", ["data=missing.json"], "missing.json does not exist"),
    ("question_answering", ["data.max_length=15"], "max_length=15: expected at least 16"),
    ("token_classification", ["data=missing.conll"], "expected a folder or table that exists"),
    ("token_classification", ["model=vit_cifar_tiny"], "expected a text model"),
    ("token_classification", ["data.max_length=7"], "max_length=7: expected at least 8"),
    ("gpt_text", ["data=missing.txt"], "expected a file or folder that exists"),
    ("gpt_text", ["val_fraction=0"], "val_fraction=0"),
    ("gpt_text", ["model=bert_tiny"], "head='lm'"),
    ("mlm_text", ["mask_probability=1"], "mask_probability=1"),
    ("mlm_text", ["model=gpt_nano"], "masked_lm"),
    ("mlm_text", ["model=vit_cifar_tiny"], "vit_cifar_tiny is a vit model: expected a text model"),
    ("gpt_text", ["model=clip_tiny"], "clip_tiny is a clip model: expected a text model"),
    ("mlm_text", ["val_fraction=0"], "val_fraction=0 leaves no lines"),
])  # fmt: skip
def test_what_they_refuse(name: str, words: list[str], says: str, tmp_path: Path,
                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert call(name, tmp_path / "run", *words, *QUIET) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_they_are_short(name: str) -> None:
    assert len((RECIPES / f"{name}.py").read_text().splitlines()) <= 120
