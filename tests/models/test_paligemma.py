"""PaliGemma 1 and 2: the same files through us and through transformers, their tokens, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from paligemma_peers import TOKEN, TOKENS, batch, logits, save_processor, transformers_paligemma
from peers import edit_json, error
from safetensors.torch import load_file, save_file
from table_swaps import check_swaps

import zoo
from zoo.inference.generation.one_token import one_token_step
from zoo.models.example_batch import example_batch
from zoo.models.paligemma.prefix_mask import PrefixMask, prefix_mask
from zoo.nn import CAUSAL, Window
from zoo.nn.masks import MaskView

BOTH = pytest.mark.parametrize("text", ["Gemma", "Gemma2"])


def without(inputs, *names):
    return {name: value for name, value in inputs.items() if name not in names}


@BOTH
def test_same_numbers_both_ways(tmp_path, text):
    import transformers

    theirs = transformers_paligemma(tmp_path / "first", text)
    ours, inputs = zoo.load(tmp_path / "first"), batch()
    assert not ours.load_report.initialized and ours.config.text.family == "gemma"
    expected = logits(theirs, inputs)
    assert error(logits(ours, inputs), expected) <= 1e-5
    assert error(logits(ours, batch("left")), logits(theirs, batch("left"))) <= 1e-5
    causal = without(inputs, "token_type_ids")
    assert error(logits(ours, causal), logits(theirs, causal)) <= 1e-5
    assert error(logits(ours, causal), expected) > 1e-2
    zoo.export(ours, tmp_path / "second")
    peer = transformers.PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / "second").eval()
    assert error(logits(peer, inputs), expected) <= 1e-5
    again = zoo.load(tmp_path / "second")
    assert again.config == ours.config and torch.equal(logits(again, inputs), logits(ours, inputs))


@BOTH
@torch.no_grad()
def test_tokens_are_those_of_transformers(tmp_path, text):
    theirs, inputs = transformers_paligemma(tmp_path, text), batch("left", suffix=False)
    ours = zoo.load(tmp_path)
    expected = theirs.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=None)
    state = ours.new_state(3, features=ours.features(**ours.encoder_inputs(inputs)))
    ids, keep = inputs["input_ids"], inputs["attention_mask"]
    scores = ours.decode(ids, state, keep)
    for _ in range(12):
        token = scores.argmax(-1, keepdim=True)
        ids, keep = torch.cat([ids, token], 1), torch.cat([keep, torch.ones_like(token)], 1)
        scores = ours.decode(token, state, keep)
    assert torch.equal(ids, expected)


@torch.no_grad()
def test_a_padded_row_is_the_row_alone(tmp_path):
    transformers_paligemma(tmp_path, "Gemma2")
    ours, inputs = zoo.load(tmp_path), batch("left")
    together = logits(ours, inputs)
    for row in range(3):
        real = inputs["attention_mask"][row].bool()
        alone = {name: inputs[name][row : row + 1, real] for name in ("input_ids", "token_type_ids")}
        alone["pixel_values"] = inputs["pixel_values"][row : row + 1]
        torch.testing.assert_close(ours(**alone), together[row : row + 1, real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", ["Gemma2"])
def test_swapping_lines_of_the_table_is_caught(tmp_path, text):
    theirs = transformers_paligemma(tmp_path, text, num_hidden_layers=2)
    inputs = batch()
    check_swaps(tmp_path, lambda model: logits(model, inputs), logits(theirs, inputs), 20, step=3)


def test_training_gives_the_losses_of_transformers(tmp_path):
    theirs = transformers_paligemma(tmp_path, "Gemma")
    history = []
    for model in (zoo.load(tmp_path), theirs):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        losses = []
        for step in range(20):
            inputs = batch(seed=step)
            answer = (inputs["token_type_ids"] * inputs["attention_mask"])[:, 1:].bool()
            output = model.train()(**inputs)
            scores = (output if isinstance(output, torch.Tensor) else output.logits)[:, :-1]
            loss = F.cross_entropy(scores[answer], inputs["input_ids"][:, 1:][answer])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(torch.tensor(losses, dtype=torch.float64))
    assert (history[0] / history[1] - 1).abs().max() <= 1e-4


def test_names_of_older_files(tmp_path):
    """google/paligemma-3b-pt-224: `vision_tower.vision_model`, and those of transformers 4.52 to 4.57."""
    theirs, inputs = transformers_paligemma(tmp_path, "Gemma"), batch()
    expected, file = logits(theirs, inputs), tmp_path / "model.safetensors"
    tensors = load_file(file)
    published = {name.replace("vision_tower.", "vision_tower.vision_model."): t for name, t in tensors.items()}
    later = {f"model.{name.replace('language_model.model.', 'language_model.')}": t for name, t in tensors.items()}
    for names in (published, later):
        assert not names.keys() & tensors.keys() or names is published
        save_file({name: t.clone() for name, t in names.items()}, file)
        assert error(logits(zoo.load(tmp_path), inputs), expected) <= 1e-5


def test_our_format_and_the_small_variant(tmp_path):
    model = zoo.create_model("paligemma_nano", seed=0).eval()
    tokens = (64 // 16) ** 2
    ids = torch.tensor([[1] * tokens + [5, 6, 7, 8]])
    inputs = {
        "input_ids": ids,
        "token_type_ids": (torch.arange(tokens + 4) >= tokens + 2).long()[None],
        "pixel_values": torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    }
    zoo.save(model, tmp_path)
    again = zoo.load(tmp_path)
    with torch.no_grad():
        assert again.config == model.config and torch.equal(again(**inputs), model(**inputs))
        later = inputs | {"input_ids": torch.cat([ids[:, :-1], ids[:, -1:] + 1], 1)}
        early = slice(0, tokens + 3)
        torch.testing.assert_close(model(**later)[:, early], model(**inputs)[:, early])
        later = inputs | {"input_ids": torch.cat([ids[:, : tokens + 1], ids[:, -3:] + 1], 1)}
        assert (model(**later)[:, :tokens] - model(**inputs)[:, :tokens]).abs().max() > 1e-3


@torch.no_grad()
def test_tokens_after_the_prompt_are_read_by_fast_steps():
    model = zoo.create_model("paligemma_nano", seed=0).eval()
    inputs, token = example_batch(model), torch.full((2, 1), 7)
    states = [model.start_decoding(model.encoder_inputs(inputs), 2, 99) for _ in range(3)]
    for state in states:
        model.decode(inputs["input_ids"], state)
    expected = model.decode(token, states[0])
    for reader, state in zip((model, model.decoder), states[1:], strict=True):
        step = one_token_step(reader, state)
        assert step is not None and error(step(token), expected) <= 1e-5


def test_the_mask_by_hand():
    types = torch.tensor([[0, 0, 0, 1, 1, 1]])
    table = torch.tensor([
        [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1],
    ]).bool()  # fmt: skip
    mask = prefix_mask(types, None)
    assert torch.equal((mask & Window(1, 0)).dense(6, 6)[0, 0], table)
    assert torch.equal(mask.dense(6, 6)[0, 0], table | CAUSAL.dense(6, 6)[0, 0])
    view = MaskView(mask) & Window(1, 0)
    assert view.inner == PrefixMask(mask.prefix, CAUSAL & Window(1, 0)) and hash(view.inner) == hash(view.inner)
    padded = prefix_mask(torch.tensor([[0, 0, 0, 0, 1]]), torch.tensor([[0, 1, 1, 0, 1]]))
    assert padded.prefix.tolist() == [[True, True, False, True, True]]


@pytest.mark.parametrize("change, message", [
    ({"token_type_ids": torch.zeros(3, 2, dtype=torch.long)}, r"token_type_ids are \(3, 2\).*expected \(3, "),
    ({"token_type_ids": torch.zeros(3, 13)}, "of torch.float32; expected"),
    ({"pixel_values": None}, r"12 tokens 98 \(image_token_id\), and no images were given"),
    ({"pixel_values": torch.zeros(2, 3, 16, 16)}, "12 tokens 98|the images have 8 features"),
    ({"labels": torch.zeros(3, 13)}, "labels"),
])  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(tmp_path, change, message):
    transformers_paligemma(tmp_path, "Gemma")
    ours, inputs = zoo.load(tmp_path), batch() | change
    assert inputs["input_ids"].shape[1] == 13 and int((inputs["input_ids"] == TOKEN).sum()) == 3 * TOKENS
    with pytest.raises(ValueError, match=message):
        ours(**{name: value for name, value in inputs.items() if value is not None})


@pytest.mark.parametrize("change, named", [
    ({"projection_dim": 41}, "projection_dim=41.*40"),
    ({"image_token_index": 99}, "image_token_id=99.*0 to 98"),
    ({"image_token_index": 5, "image_token_id": 6}, "differ"),
])  # fmt: skip
def test_files_that_contradict_themselves_are_refused(tmp_path, change, named):
    transformers_paligemma(tmp_path, "Gemma")
    edit_json(tmp_path / "config.json", **change)
    with pytest.raises(zoo.LoadError, match=named):
        zoo.load(tmp_path)


# --- The processor ---------------------------------------------------------------------------------------------------


def picture(seed):
    from PIL import Image

    pixels = torch.randint(0, 256, (23, 31, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.byte().numpy())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("paligemma")
    theirs = transformers_paligemma(path, "Gemma2", vocab_size=1300)
    return path, theirs, save_processor(path)


PROMPTS = ["caption en", "what is this on the bench", "<image> two red <image> circles"]


@pytest.mark.parametrize("texts, counts", [(PROMPTS[:2], [1, 1]), (PROMPTS[2:], [2]), (PROMPTS[:1], [1])])
@pytest.mark.parametrize("suffix", [None, ["a cow", "red"]])
def test_the_processor_writes_what_that_of_transformers_does(folder, texts, counts, suffix):
    path, _, processor = folder
    ours = zoo.load(path)
    images = [[picture(i + 3 * row) for i in range(count)] for row, count in enumerate(counts)]
    own = {} if suffix is None else {"suffix": suffix[: len(texts)]}
    expected = processor(images=images, text=list(texts), return_tensors="pt", padding=True, **own)
    found = ours.preprocess(text=list(texts), images=images, **own)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(found[name], expected[name]), name
    assert found.keys() == {"input_ids", "attention_mask", "token_type_ids", "pixel_values"}
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"], atol=2e-2, rtol=0)
    assert int((found["token_type_ids"] == 1).sum()) == (0 if suffix is None else 3 + 2 * (len(texts) - 1))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_answers_are_those_of_transformers(folder, options):
    path, theirs, processor = folder
    ours, images = zoo.load(path), [picture(0), picture(1)]
    inputs = processor(images=[[each] for each in images], text=PROMPTS[:2], return_tensors="pt", padding=True)
    del inputs["labels"]
    given = dict(max_new_tokens=8, eos_token_id=None) | options
    expected = theirs.generate(**inputs, do_sample=False, **given)
    tensors = {name: inputs[name] for name in ("attention_mask", "token_type_ids", "pixel_values")}
    assert torch.equal(zoo.generate(ours, inputs["input_ids"], **tensors, **given), expected)
    texts = zoo.generate(ours, text=PROMPTS[:2], images=images, **given)
    answers = processor.batch_decode(expected[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [text.split() for text in texts] == [text.split() for text in answers]


def test_the_processor_is_saved_and_exported(folder, tmp_path):
    import transformers

    path, _, _ = folder
    ours, given = zoo.load(path), dict(text="caption en", images=picture(0))
    zoo.save(ours, tmp_path / "ours")
    zoo.export(ours, tmp_path / "theirs")
    expected = ours.preprocess(**given)
    for again in (zoo.load(tmp_path / "ours"), zoo.load(tmp_path / "theirs")):
        assert type(again.preprocess) is type(ours.preprocess)
        assert all(torch.equal(value, expected[name]) for name, value in again.preprocess(**given).items())
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "theirs")
    assert torch.equal(theirs(**given, return_tensors="pt")["input_ids"], expected["input_ids"])


@pytest.mark.parametrize("given, message", [
    (dict(suffix="a cow"), "suffix= is the answer to text="),
    (dict(text=["caption en"], images=[picture(0)], suffix=["a", "b"]), "2 answers for 1 texts"),
    (dict(text=["caption en", "this"], images=[picture(0)]), "1 images for 2 texts without the marker '<image>'"),
    (dict(text=["<image> this"], images=[picture(0), picture(1)]), "1 times the marker '<image>', and 2 images"),
    (dict(text=[("a", "b")], images=[picture(0)]), "answers are passed as suffix="),
    (dict(text="a " * 99, images=picture(0)), "104|tokens, expected at most max_length=64"),
])  # fmt: skip
def test_prompts_that_do_not_fit_are_refused(folder, given, message):
    with pytest.raises(ValueError, match=message):
        zoo.load(folder[0]).preprocess(**given)
