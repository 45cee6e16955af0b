"""Head roles: exact scores of known maps, chance levels in closed form, padding and batches without effect."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from image_text_models import PIXELS, TEXT, small_bridge, small_captioner, small_painter
from torch import Tensor

import zoo
from zoo.data.synthetic.audio import make_audio
from zoo.data.synthetic.recall import answers_of, make_sequences
from zoo.interpret.roles import audio_roles, batches
from zoo.interpret.roles.alignment_roles import links_of_tokens, read_pair
from zoo.interpret.roles.audio_roles import harmonic_batch, onset_batch, token_grid
from zoo.interpret.roles.batches import PositionBins, grid_offsets, line_offsets
from zoo.interpret.roles.image_roles import object_patches, split_boxes
from zoo.interpret.roles.measure import Measurement
from zoo.interpret.roles.position_fit import PositionFit
from zoo.interpret.roles.result import ROLES, SIGNED, HeadRoles
from zoo.interpret.roles.templates import LANGUAGES, agreement, coreference
from zoo.interpret.roles.token_roles import text_batches
from zoo.interpret.roles.token_rows import encode_texts
from zoo.preprocessing.tokenizer_training import train

PLACES, WORDS = 16, 12
TEXTS = ["The dog sleeps.", "A cat, a dog and a horse see the river.", "It rains", "They say that the hat is old!",
         "The animal did not cross the street because it was too tired.", "Books are old, lamps are new."]  # fmt: skip


def induction_decoder() -> zoo.Model:
    """Two layers of one head each, set by hand: the first copies the token before, the second looks for its followers.

    The dimensions of a token are one-hot: its position, its word, and after the first layer the word before.
    """
    width = PLACES + 2 * WORDS
    model = zoo.create_model("gpt_nano", vocab_size=WORDS, max_length=PLACES, width=width, depth=2, heads=1, mlp_dim=8)
    place, word, before = torch.eye(width).split([PLACES, WORDS, WORDS])

    def normed(ones: int) -> tuple[float, float]:
        """What the norm makes of 1 and of 0 in a vector with so many ones."""
        mean = ones / width
        std = (mean * (1 - mean)) ** 0.5
        return (1 - mean) / std, -mean / std

    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.tokens.word.weight.copy_(word)
        model.tokens.positions.copy_(place)
        for block in model.blocks:
            for norm in (block.norm1, block.norm2):
                norm.weight.fill_(1)
        first, second = (block.mixer for block in model.blocks)
        first.q.weight[:PLACES] = 60 * place.roll(-1, 0)  # position p asks for p - 1
        first.k.weight[:PLACES] = place
        first.v.weight[:WORDS] = word
        one, zero = normed(2)
        first.out.weight.copy_(before.T @ torch.eye(width)[:WORDS] / (one - zero))
        first.out.bias.copy_(before.sum(0) * -zero / (one - zero))
        second.q.weight[:WORDS] = 60 * word
        second.k.weight[:WORDS] = before
    return model


def score(found: Any, role: str, layer: int, head: int = 0) -> Any:
    return next(r for r in found.of_role(role) if r.layer == f"blocks.{layer}.mixer" and r.head == head)


@pytest.fixture(scope="module")
def processor() -> Any:
    sentences = [s.text for language in LANGUAGES for source in (agreement, coreference) for s in source(language)]
    return train("wordpiece", [*TEXTS, *sentences], 600, max_length=40)


@pytest.fixture(scope="module")
def bert(processor: Any) -> zoo.Model:
    names = dict(vocab_size=processor.vocab_size, max_length=40, width=16, depth=2, heads=2, mlp_dim=16)
    model = zoo.create_model("bert_base", seed=3, head=None, pad_token_id=processor.id("pad"), **names)
    model.preprocess = processor
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.ndim > 1 else 1)
    return model


# --- scores -------------------------------------------------------------------------------------------------------


def test_a_decoder_with_known_maps_has_exact_scores() -> None:
    model = induction_decoder()
    ids = torch.stack([torch.randperm(WORDS, generator=torch.Generator().manual_seed(i))[:10] for i in range(16)])
    found = zoo.head_roles(model, ids)
    previous = score(found, "previous", 0)
    assert previous.score == pytest.approx(1, abs=1e-6) and previous.control < 0.5
    assert score(found, "same", 0).score == pytest.approx(1 / 10, abs=1e-6)  # the first token has no other key
    assert score(found, "position", 0).score == pytest.approx(1, abs=1e-6)
    # of 16 tokens all but the first look at the one before; that has the offset 0 alone, which the others do not use
    total = sum(1 - 1 / (p + 1) for p in range(16))
    relative = 1 - ((15 / 16) ** 2 + 15 / 16**2) / total
    assert score(found, "relative_position", 0).score == pytest.approx(relative, abs=1e-5)
    assert score(found, "induction", 0).score == pytest.approx(0, abs=1e-6)
    # the first of 8 tokens also matches itself: it has none before it, so that it was copied in the place of one
    induction = score(found, "induction", 1)
    assert induction.score == pytest.approx(1 - 0.5 / 8, abs=1e-6)
    assert found.best("induction") == induction and found.best_control("induction") < 0.3
    assert score(found, "duplicate", 1).score == pytest.approx(0.5 / 8, abs=1e-6)
    assert "later tokens" in found.left_out["next"] and "no special token" not in found.left_out["punctuation"]


def test_chance_in_a_decoder_is_that_of_the_keys_before() -> None:
    found = zoo.head_roles(induction_decoder(), torch.arange(20).view(2, 10) % WORDS)
    share = [1 / (p + 1) for p in range(10)]
    assert score(found, "same", 1).chance == pytest.approx(sum(share) / 10, abs=1e-6)
    assert score(found, "previous", 1).chance == pytest.approx(sum(share[1:]) / 9, abs=1e-6)
    assert score(found, "first", 1).chance == pytest.approx(sum(share[1:]) / 9, abs=1e-6)
    share = [1 / (p + 1) for p in range(8, 16)]
    assert score(found, "induction", 0).chance == pytest.approx(sum(share) / 8, abs=1e-6)


def test_chance_in_an_encoder_counts_real_tokens_alone(bert: zoo.Model, processor: Any) -> None:
    found = zoo.head_roles(bert, TEXTS)
    rows = encode_texts(processor, TEXTS)
    sizes = [len(row) for row in rows]
    assert len(set(sizes)) > 3  # so that batches have padding
    total = sum(n - 2 for n in sizes)
    for role in ("previous", "next", "same", "first", "separator"):
        expected = sum((n - 2) / n for n in sizes) / total
        assert score(found, role, 1).chance == pytest.approx(expected, abs=1e-6)
    marks = [sum(row.is_punctuation()) for row in rows]
    pairs = [(n - 2 - m, m / n) for n, m in zip(sizes, marks) if m]
    expected = sum(count * share for count, share in pairs) / sum(count for count, _ in pairs)
    assert score(found, "punctuation", 0).chance == pytest.approx(expected, abs=1e-6)
    assert found.roles == [role for role in ROLES if role in found.roles] and len(found.roles) == 13


def test_batches_and_their_order_have_no_effect(
    bert: zoo.Model, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(texts: list[str]) -> dict[tuple[str, str], list[float]]:
        measurement = Measurement(bert)
        for batch in text_batches(encode_texts(processor, texts), processor):
            measurement.add(batch)
        return {(layer, role): [*a, *b, *c] for layer, role, a, b, c in measurement.scores()}

    together = measured(TEXTS)
    monkeypatch.setattr(batches, "ROWS", 1)
    alone = measured(TEXTS[::-1])
    assert len(together) == 14
    for key, values in together.items():
        assert alone[key] == pytest.approx(values, abs=1e-5)


def test_scores_are_those_of_the_captured_maps(bert: zoo.Model) -> None:
    found, total = zoo.head_roles(bert.train(), TEXTS), torch.zeros(2)
    assert bert.training
    tokens = 0
    for text in TEXTS:
        with zoo.capture(bert.eval(), layers=1) as maps, torch.no_grad():
            bert(**bert.preprocess(text))
        weights = maps["blocks.1.mixer"][0]  # H N N
        total += weights.diagonal(-1, 1, 2)[:, : weights.shape[1] - 2].sum(1)
        tokens += weights.shape[1] - 2
    for head in range(2):
        assert score(found, "previous", 1, head).score == pytest.approx(float(total[head]) / tokens, abs=1e-5)


@pytest.mark.full
def test_a_trained_decoder_has_induction_heads_and_needs_them() -> None:
    size = dict(depth=2, heads=2, kv_heads=None, width=64, mlp_dim=128, vocab_size=64, max_length=64)
    model = zoo.create_model("llama_nano", seed=0, mixer=["short_conv", "attention"], **size)
    made = make_sequences(64, 64, problem="induction", vocab_size=64, seed=0, easier=8192)
    order = 64 + torch.randperm(8192, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)

    def loss(rows: Tensor) -> Tensor:
        ids = made.ids[rows].long()
        return F.cross_entropy(model(ids).flatten(0, 1), answers_of(ids, made.read[rows]).flatten())

    for step, rows in enumerate(order.split(32)[:175]):
        optimizer.param_groups[0]["lr"] = 0.005 * min(1, (step + 1) / 30)
        optimizer.zero_grad()
        loss(rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    found = zoo.head_roles(model)
    assert found.best("induction").score > 0.7 and found.best_control("induction") < 0.1
    with torch.no_grad():
        before = float(loss(torch.arange(64)))
        with zoo.intervene(model, {"blocks.1.mixer": zoo.ablate([0, 1])}):
            after = float(loss(torch.arange(64)))
    assert before < 0.5 and after > 3


# --- positions ----------------------------------------------------------------------------------------------------


def fitted(maps: Tensor, uniform: Tensor) -> dict[str, Tensor]:
    bins = PositionBins(line_offsets(maps.shape[-1]), torch.ones(maps.shape[-1], dtype=torch.bool))
    fit = PositionFit()
    for part in maps.split(3):
        fit.add(part, uniform, bins)
    return fit.scores()


def test_positions_explain_what_does_not_depend_on_the_input() -> None:
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(2, 6, 6, generator=generator).softmax(-1)
    uniform = torch.full((2, 6, 6), 1 / 6)
    absolute = fitted(fixed.expand(8, 2, 6, 6), uniform)
    assert absolute["position"].tolist() == pytest.approx([1, 1]) and float(absolute["relative_position"].max()) < 0.9
    shifted = torch.eye(6).roll(1, 1).expand(8, 2, 6, 6) * torch.tensor([1.0, 1, 1, 1, 1, 0])[:, None]
    assert fitted(shifted, uniform)["relative_position"].tolist() == pytest.approx([1, 1], abs=0.2)
    content = torch.rand(40, 2, 6, 6, generator=generator).softmax(-1)
    assert all(float(x.max()) < 0.1 for x in fitted(content, uniform).values())
    assert all(x.tolist() == [0, 0] for x in fitted(uniform.expand(4, 2, 6, 6), uniform).values())


def test_each_input_is_predicted_by_the_others() -> None:
    maps = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    maps = maps + torch.eye(5) * 3
    uniform = torch.full((1, 5, 5), 0.2, dtype=torch.double)
    offsets = line_offsets(5)
    residual = {"position": 0.0, "relative_position": 0.0}
    for i in range(4):
        others = maps[[j for j in range(4) if j != i]].mean(0)[0]
        means = torch.stack([others[offsets == offset].mean() for offset in range(9)])
        for role, prediction in (("position", others), ("relative_position", means[offsets])):
            residual[role] += float((maps[i, 0] - prediction).square().sum())
    total = float((maps - uniform).square().sum())
    found = fitted(maps, uniform)
    for role, rest in residual.items():
        assert float(found[role]) == pytest.approx(1 - rest / total, abs=1e-9)


def test_offsets_of_a_grid_are_those_of_rows_and_columns() -> None:
    offsets = grid_offsets((2, 3), prefix=1)
    assert offsets[1, 2] == offsets[2, 3] == offsets[4, 5] and offsets[1, 4] == offsets[3, 6]
    assert offsets[1, 2] != offsets[3, 4]  # a step to the right, and one to the next row
    assert len({int(offsets[0, 0]), int(offsets[0, 1]), int(offsets[1, 0]), int(offsets[1, 1])}) == 4


# --- sentences ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("source", [agreement, coreference])
def test_sentences_are_balanced(source: Any, language: str) -> None:
    sentences = list(source(language))
    assert len(sentences) == len({s.text for s in sentences}) >= 60
    words: Counter[str] = Counter()
    for s in sentences:
        words[s.text[slice(*s.target)]] += 1
        words[s.text[slice(*s.other)]] -= 1
        assert all(s.text[slice(*place)].isalpha() for place in (s.target, s.other, *s.queries.values()))
    assert not any(words.values())  # a head that looks at a certain word scores 0
    assert sum(1 if s.target < s.other else -1 for s in sentences) == 0  # and one that looks at the first noun


def test_a_pair_of_sentences_differs_in_what_it_should() -> None:
    tired, wide = list(coreference("en"))[:2]
    assert tired.text == "The dog did not cross the river because it was too tired."
    assert wide.text == "The dog did not cross the river because it was too wide."
    assert (tired.text[slice(*tired.target)], wide.text[slice(*wide.target)]) == ("dog", "river")
    assert tired.text[slice(*tired.queries["reason"])] == "tired"
    first, second = list(agreement("de"))[:2]
    assert first.text == "Man sagt, dass die Lampe neben den Taschen dort liegt."
    assert second.text == "Man sagt, dass neben den Taschen die Lampe dort liegt."
    assert list(coreference("de"))[-1].text == "Das Glas passte nicht in das Regal, weil es zu schmal war."


def test_sentences_that_do_not_fit_are_left_out_by_name(bert: zoo.Model) -> None:
    small = train("wordpiece", ["a dog sees the cat"], 60, max_length=40)
    model = zoo.create_model(
        "bert_base", head=None, vocab_size=small.vocab_size, max_length=40, width=8, depth=1, heads=1
    )
    model.preprocess = small
    found = zoo.head_roles(model)
    assert "0 of 72 sentences" in found.left_out["agreement_en"] and "vocabulary" in found.left_out["coreference_de"]
    assert found.left_out["previous"] == "no texts are given" and "induction" in found.roles
    with pytest.raises(ValueError, match="was not measured: 0 of 72"):
        found.best("agreement_en")
    plain = zoo.head_roles(model, ["a dog sees the cat"])
    assert "previous" in plain.roles and "such keys" in plain.left_out["punctuation"]


# --- images, audio, translation -----------------------------------------------------------------------------------


def test_objects_of_images_are_found_behind_resizing_and_cropping() -> None:
    vit = zoo.create_model("vit_cifar_tiny", depth=1, width=24, heads=2, mlp_dim=24, patch_size=8)
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)  # the left and the right 16 pixels are cropped
    prefix, grid = vit.patches.prefix, vit.patches.grid
    assert grid == (4, 4)
    boxes = torch.tensor([[32.0, 16, 48, 32], [0, 0, 10, 10], [64, 48, 67, 51], [-30, -30, -9, -9]])
    found = object_patches(vit.preprocess, image, boxes, grid)
    assert [masks.nonzero().flatten().tolist() for masks in found] == [[5], [15]]  # a small one has the patch it is in
    result = zoo.head_roles(vit, [(image, boxes)] * 3)
    tokens = prefix + 16
    expected = {"object": 2 / tokens, "same": 1 / tokens, "border": 12 / tokens, "local": 84 / 16 / tokens,
                "same_object": -1 / tokens}  # fmt: skip
    for role, chance in expected.items():
        assert score(result, role, 0, 1).chance == pytest.approx(chance, abs=1e-6)
    plain = zoo.head_roles(vit, [image])
    assert "no boxes" in plain.left_out["object"] and "two images" in plain.left_out["position"]
    with pytest.raises(ValueError, match=r"boxes of image 0 .* left <= right"):
        split_boxes([(image, [[9, 9, 3, 12]])])


def test_generated_tones_are_where_the_targets_are() -> None:
    model = zoo.create_model("ast_tiny", depth=1, width=24, heads=2, mlp_dim=24)
    extractor, samples = model.preprocess, 16000
    grid = token_grid(model, extractor, samples)
    batch = harmonic_batch(extractor, grid, samples, 6, torch.Generator().manual_seed(0))
    target = batch.targets["encoder"]["harmonic"]
    energy = batch.inputs["input_values"].mT.unfold(1, 16, 8).unfold(2, 16, 8).amax((3, 4)).flatten(1)  # of patches
    real = grid.real_columns(samples).expand(grid.grid).flatten()
    holds = target.queries[:, grid.prefix :]
    for row in range(6):
        assert energy[row, real & holds[row]].min() > energy[row, real & ~holds[row]].median()
    batch = onset_batch(extractor, grid, samples, 6, torch.Generator().manual_seed(0))
    begins = batch.targets["encoder"]["onset"].weights[:, 0, grid.prefix :].unflatten(1, grid.grid)[:, 0]
    starts = torch.arange(grid.grid[1]) * 8
    rise = batch.inputs["input_values"].mean(2).diff(dim=1)[:, :96]  # a third of the clip has one onset
    for row in range(6):
        for third in range(3):
            frame = 32 * third + int(rise[row, 32 * third : 32 * third + 32].argmax())
            assert begins[row, (starts <= frame) & (frame < starts + 16)].any()
        assert 3 <= begins[row].sum() <= 6


def test_audio_roles_need_clips_but_for_generated_tones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_roles, "TONES", 2)
    model = zoo.create_model("ast_tiny", depth=1, width=24, heads=2, mlp_dim=24)
    waves, _ = make_audio(3, seed=0, samples=8000)
    found = zoo.head_roles(model, list(waves), sampling_rate=16000)
    assert found.roles == ["previous", "next", "same", "first", "position", "relative_position", "local", "onset",
                           "harmonic"]  # fmt: skip
    tokens = model.patches.prefix + model.patches.grid[0] * model.patches.grid[1]
    assert score(found, "previous", 0).chance == pytest.approx(1 / tokens, abs=1e-6)
    assert set(zoo.head_roles(model).left_out) == {*found.roles} - {"onset", "harmonic"}
    speech = zoo.create_model("wav2vec2_tiny", depth=1, width=24, heads=2, mlp_dim=24, position_groups=2)
    found = zoo.head_roles(speech, [(waves[0], 16000), (waves[1, :6000], 16000)])
    tokens = [int(speech.frames(n)) for n in (8000, 6000)]
    expected = sum((n - 1) / n for n in tokens) / (sum(tokens) - 2)
    assert score(found, "next", 0).chance == pytest.approx(expected, abs=1e-5)
    assert "all frequencies" in found.left_out["harmonic"]


def parts_with(found: HeadRoles, role: str) -> set[str]:
    """The parts of a model that have heads with a score in a role."""
    return {row.layer.partition(".")[0] for row in found.rows if row.role == role}


@pytest.mark.parametrize("name", ["blip_nano", "coca_nano"])
def test_captions_are_measured_with_their_images(name: str) -> None:
    model = small_captioner(name)
    items = [(PIXELS, TEXT), (PIXELS.flip(1), "a red bird"), PIXELS.flip(2)]
    found = zoo.head_roles(model, items)
    batch = model.preprocess(images=[item[0] for item in items[:2]], text=[item[1] for item in items[:2]])
    batch["input_ids"][:, 0] = model.config.decoder_start_token_id
    with zoo.capture(model) as maps, torch.no_grad():
        model(**{name: x for name, x in batch.items() if name in model.inputs})
    lengths = 9, 4  # with the first token
    for layer in [name for name in ("text.blocks.1.mixer", "decoder.blocks.1.mixer") if name in maps]:
        weights = maps[layer]
        sums = sum(weights[row, :, i, i - 1] for row, length in enumerate(lengths) for i in range(1, length))
        expected = (sums / (sum(lengths) - len(lengths))).tolist()
        scores = [row.score for row in found.rows if (row.layer, row.role) == (layer, "previous")]
        assert scores == pytest.approx(expected, abs=1e-5)
    sides = {
        role: {row.layer.partition(".")[0] for row in found.rows if row.role == role} for role in ("local", "same")
    }
    texts = {"decoder"} | ({"text"} if name == "coca_nano" else set())
    assert sides == {"local": {"encoder"}, "same": {"encoder", *texts}}
    alone = zoo.head_roles(model, [PIXELS, PIXELS.flip(1)])
    assert alone.left_out["previous"].startswith("the images have no captions")
    assert parts_with(alone, "same") == {"encoder"}


def test_the_image_tower_of_a_bridge_is_measured_on_images() -> None:
    found = zoo.head_roles(small_bridge("gemma3_vision_nano"), [PIXELS, PIXELS.flip(1)])
    assert parts_with(found, "local") == {"image"}


def test_alignment_is_of_the_words_that_a_step_writes() -> None:
    pairs = [("the dog sleeps", "der Hund schläft", "0-0 1-1 2-2"), ("the red house", "ein Haus", [(2, 1)])]
    processor = train("seq2seq", [text for pair in pairs for text in pair[:2]], 280, max_length=64)
    model = zoo.create_model("transformer_nano", vocab_size=processor.vocab_size, max_length=64, bos_token_id=0,
                             pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, width=16, depth=1, heads=2,
                             mlp_dim=16)  # fmt: skip
    model.preprocess = processor
    found = zoo.head_roles(model, pairs)
    shares = []
    for i, pair in enumerate(pairs):
        source, label = (encode_texts(processor, [text])[0] for text in pair[:2])
        links = links_of_tokens(read_pair(pair, i), source, label)
        for step, keys in links.items():
            at, words = label.spans[step][0], label.words()  # type: ignore[index]
            assert any(a - 1 <= at < b for a, b in words) and keys
        shares += [len(keys) / len(source) for keys in links.values()]
    cross = found.best("alignment")
    assert cross.layer == "decoder.blocks.0.cross" and cross.chance == pytest.approx(
        sum(shares) / len(shares), abs=1e-6
    )
    assert {row.layer for row in found.of_role("previous")} == {"encoder.blocks.0.mixer", "decoder.blocks.0.mixer"}
    assert {row.layer for row in found.of_role("next")} == {"encoder.blocks.0.mixer", "decoder.blocks.0.mixer"}
    assert "no pair has an alignment" in zoo.head_roles(model, [pair[:2] for pair in pairs]).left_out["alignment"]
    source, label = (encode_texts(processor, [text])[0] for text in ("the dog sleeps.", "der Hund schläft ."))
    steps = links_of_tokens(read_pair(("the dog sleeps.", "der Hund schläft .", "2-2 2-3"), 0), source, label)
    dot = next(i for i, mark in enumerate(source.is_punctuation()) if mark)
    assert label.is_punctuation()[max(steps)] and all(dot not in keys for keys in steps.values())  # "." alone is a word
    with pytest.raises(ValueError, match=r"link 3-0, but the source has 3 words"):
        read_pair(("a b c", "d e", "3-0"), 0)
    with pytest.raises(ValueError, match="expected links such as"):
        read_pair(("a b c", "d e", "3_0"), 0)


# --- bad input, results -------------------------------------------------------------------------------------------


def test_bad_input_is_named(bert: zoo.Model) -> None:
    vit = zoo.create_model("vit_cifar_tiny", depth=1)
    wrong: list[tuple[Any, Any, str]] = [
        (torch.nn.Linear(2, 2), None, "expected a zoo.Model, given a Linear"),
        (bert, "one text", "expected a list of texts"),
        (bert, [], "data is empty"),
        (bert, ["a text", torch.arange(3)], "some items are texts and some token ids"),
        (bert, torch.arange(3), "item 0 is .Tensor.: the model takes texts, or token ids"),
        (bert, [torch.zeros(3, 8, 8)], "item 0 is 'Tensor': the model takes texts, or token ids"),
        (vit, ["a text"], "item 0 is 'a text': the model takes images"),
        (vit, None, "all roles of an image model need data"),
        (zoo.create_model("mamba_nano", depth=1), None, "no attention"),
        (induction_decoder(), ["a text"], "no tokenizer"),
        (
            small_captioner("blip_nano"),
            ["a text"],
            r"item 0 is 'a text': the model takes images, or pairs",
        ),
        (
            small_painter("dalle_nano"),
            ["a text"],
            "does not measure Dalle: its stack reads each text, padded",
        ),
        (zoo.create_model("contrast_tiny"), None, "the model has the towers image, text"),
    ]
    for model, data, message in wrong:
        with pytest.raises(ValueError, match=message):
            zoo.head_roles(model, data)


def test_layers_without_weights_are_named_and_towers_have_their_prefix() -> None:
    hybrid = zoo.create_model("llama_nano", depth=2, mixer=["short_conv", "attention"], vocab_size=16, max_length=32)
    found = zoo.head_roles(hybrid)
    assert found.missing == {"blocks.0.mixer": "ShortConvolution"} and {row.layer for row in found.rows} == {
        "blocks.1.mixer"
    }
    assert "layers without attention weights: blocks.0.mixer (ShortConvolution)" in str(found)
    pair = zoo.create_model("contrast_tiny")
    size = pair.image.preprocess or pair.image.default_preprocess()
    image = torch.zeros(3, *size.size, dtype=torch.uint8)
    assert {row.layer.split(".")[0] for row in zoo.head_roles(pair, [image]).rows} == {"image"}


def test_a_result_is_a_table_a_plot_and_json(tmp_path: Path) -> None:
    found = zoo.head_roles(induction_decoder())
    lines = str(found).splitlines()
    assert lines[:2] == [
        "GPT2, generated inputs",
        "role       layer           head  score  chance  control  best control",
    ]
    assert lines[2].split()[:3] == ["induction", "blocks.1.mixer", "0"]
    sentences = "agreement_en, agreement_de, coreference_en, coreference_de"
    assert any(line.startswith(f"not measured: {sentences}: the model has no tokenizer") for line in lines)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["rows"][0].keys() == {"layer", "head", "role", "score", "chance", "control"}
    assert set(values["definitions"]) == {"induction", "duplicate"} and set(SIGNED) < set(ROLES)
    found.plot(tmp_path / "roles.png")
    assert (tmp_path / "roles.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="role"):
        found.plot(roles=["inductoin"])


def test_the_model_is_not_changed(bert: zoo.Model) -> None:
    before = {name: p.clone() for name, p in bert.named_parameters()}
    measurement = Measurement(bert)
    assert not any(torch.equal(p, before[name]) for name, p in measurement.control.named_parameters() if p.ndim > 1)
    zoo.head_roles(bert, TEXTS[:2])
    assert all(torch.equal(p, before[name]) for name, p in bert.named_parameters())
    assert not any("maps" in vars(block.mixer.core) for block in bert.blocks)
