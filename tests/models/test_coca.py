"""CoCa: the same files through us and through open_clip, its losses, and captions.

open_clip's own generate needs a class that transformers no longer has; captions are compared with a loop over its
forward.
"""

import json
import warnings
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from caption_peers import noise_images, open_clip_coca
from peers import edit_json, error, pixels, randomize
from table_swaps import check_swaps
from torch import Tensor

import zoo
from zoo.checkpoints.formats.vocabulary_files import clip_bpe
from zoo.inference.generation.caption_prompts import encode_images
from zoo.inference.generation.stopping import decoder_of
from zoo.inference.generation.streaming import stream_text
from zoo.models.coca import CoCa, CoCaOutput
from zoo.models.registry import build, family
from zoo.nn import Attention
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train

PEERS = {
    "as published": {},
    "equal widths": dict(vision_cfg={"width": 40}, quick_gelu=True),
    "tokens that are not pooled": dict(vision_cfg={"width": 40, "attentional_pool": False}, embed_dim=24),
}


def texts() -> Tensor:
    """Texts of 5, 9 and 16 tokens, with padding behind them, and a padding token inside of the last one."""
    ids = torch.randint(1, 97, (3, 16), generator=torch.Generator().manual_seed(1))
    ids[0, 5:], ids[1, 9:], ids[2, 6] = 0, 0, 0
    return ids


def batch(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"pixel_values": pixels(rows=3, dtype=dtype), "input_ids": texts()}


@torch.no_grad()
def answers(model, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Features and logits of the real tokens, under our names."""
    real = values["input_ids"] != 0
    if isinstance(model, zoo.Model):
        y = model(**values)
        return {
            "image": y.image_features,
            "text": y.text_features,
            "logits": y.caption_logits[real],
            "scale": y.logit_scale,
        }
    y = model(values["pixel_values"], values["input_ids"], output_labels=False)
    found = {"image": y["image_features"], "text": y["text_features"], "logits": y["logits"][real]}
    return found | {"scale": y["logit_scale"]}


def worst(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(error(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module", params=PEERS)
def peer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer") / "theirs"
    return folder, open_clip_coca(folder, **PEERS[request.param])


def test_same_numbers_from_the_same_files(peer):
    folder, theirs = peer
    ours = zoo.load(folder)
    assert not (ours.load_report.initialized or ours.load_report.dropped)
    assert worst(answers(ours, batch()), answers(theirs, batch())) <= 1e-5
    double = batch(dtype=torch.float64)
    exact = zoo.load(folder, dtype=torch.float64)
    assert worst(answers(exact, double), answers(deepcopy(theirs).double(), double)) <= 1e-9
    assert zoo.verify(folder).ok


def test_round_trip_through_their_format(peer, tmp_path):
    import open_clip

    ours = zoo.load(peer[0])
    zoo.export(ours, tmp_path / "theirs", format="open_clip")
    again = zoo.load(tmp_path / "theirs")
    assert again.config == ours.config and again.preprocess == ours.preprocess
    assert worst(answers(again, batch()), answers(ours, batch())) == 0 and zoo.verify(tmp_path / "theirs").ok
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}").eval()
    assert worst(answers(theirs, batch()), answers(peer[1], batch())) == 0
    saved = zoo.load(zoo.save(ours, tmp_path / "ours"))
    assert saved.config == ours.config and worst(answers(saved, batch()), answers(ours, batch())) == 0
    assert zoo.verify(tmp_path / "ours").ok


def test_swapping_two_lines_of_the_table_is_caught(tmp_path):
    shape = {part: {"layers": 1} for part in ("vision_cfg", "text_cfg", "multimodal_cfg")}
    theirs = open_clip_coca(tmp_path / "theirs", **shape)

    def joined(model) -> Tensor:
        return torch.cat([value.flatten() for value in answers(model, batch()).values()])

    check_swaps(tmp_path / "theirs", joined, joined(theirs), 30, step=11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_twenty_steps_with_the_loss_of_open_clip(tmp_path, dtype, tolerance):
    from open_clip.loss import CoCaLoss

    theirs = open_clip_coca(tmp_path / "theirs").to(dtype)
    ours, criterion, losses = zoo.load(tmp_path / "theirs", dtype=dtype), CoCaLoss(2.0, 1.0), {}
    for name, model in (("ours", ours), ("theirs", theirs)):
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3, weight_decay=0.05)
        losses[name] = []
        for seed in range(20):
            draw = torch.Generator().manual_seed(seed)
            images, ids = torch.randn(3, 3, 32, 32, generator=draw).to(dtype), texts()
            if name == "ours":
                loss = model.loss(model(images, ids))
            else:
                y = model(images, ids)
                loss = sum(
                    criterion(y["image_features"], y["text_features"], y["logits"], y["labels"], y["logit_scale"])
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    a, b = losses["ours"], losses["theirs"]
    assert a[-1] < a[0] and all(abs(x - y) <= tolerance * abs(y) for x, y in zip(a, b, strict=True))


# --- the contract -----------------------------------------------------------------------------------------------------


def small(**options) -> CoCa:
    return zoo.create_model("coca_nano", seed=0, vocab_size=99, max_length=16, **options).eval()


def test_every_parameter_has_a_gradient_and_checkpointing_changes_none():
    model, grads = small().train(), []
    for enabled in (False, True):
        model.zero_grad()
        model.set_checkpointing(enabled)
        model.loss(model(**batch())).backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(error(a, b) <= 1e-5 for a, b in zip(*grads, strict=True))


@torch.no_grad()
def test_rows_alone_padding_and_one_modality():
    model, values = small(), batch()
    y = model(**values)
    for row, size in enumerate((5, 9, 16)):
        alone = model(values["pixel_values"][row : row + 1], values["input_ids"][row : row + 1, :size])
        assert error(alone.caption_logits[0], y.caption_logits[row, :size]) <= 1e-5
        assert error(alone.text_features, y.text_features[row : row + 1]) <= 1e-5
        assert error(alone.image_features, y.image_features[row : row + 1]) <= 1e-5
    model.drop_padding = False
    whole = model(**values)
    assert error(
        whole.text_features, y.text_features
    ) <= 1e-5 and whole.caption_logits.shape == y.caption_logits.shape == (3, 16, 99)
    image, text = model(values["pixel_values"]), model(input_ids=values["input_ids"])
    assert (
        image.present == ("image",)
        and text.present == ("text",)
        and image.caption_logits is None
        and text.caption_logits is None
    )
    assert error(model.encode_image(values["pixel_values"]), image.image_features) == 0
    assert (
        error(F.normalize(model.encode_text(values["input_ids"], normalize=False), dim=-1), text.text_features) <= 1e-6
    )
    assert isinstance(y, CoCaOutput) and y.caption_logits is not None and y.pairs() == [("image", "text")]
    memory, outputs = model.encode(**values, layers=[0, -1])
    assert torch.equal(memory, model.encode(**values)) and len(outputs) == 2


@torch.no_grad()
def test_decoding_in_steps_equals_the_full_forward():
    model, values = small(), batch()
    ids = values["input_ids"].clamp(min=1)
    full = model(values["pixel_values"], ids).caption_logits
    state = model.start_decoding({"pixel_values": values["pixel_values"]}, 16)
    assert error(model.decode(ids[:, :3], state, every=True), full[:, :3]) <= 1e-5
    assert error(model.decode(ids[:, 3:4], state), full[:, 3]) <= 1e-5
    state.repeat(2)
    twice = ids.repeat_interleave(2, 0)
    assert error(model.decode(twice[:, 4:5], state), full[:, 4].repeat_interleave(2, 0)) <= 1e-5
    state.reorder(torch.tensor([5, 0, 2]))
    assert error(model.decode(ids[[2, 0, 1], 5:6], state), full[[2, 0, 1], 5]) <= 1e-5
    state.crop(4)
    assert error(model.decode(ids[[2, 0, 1], 4:6], state), full[[2, 0, 1], 5]) <= 1e-5


@torch.no_grad()
def test_attention_by_argument_and_maps():
    model, values = small(**{"decoder.attention": "linear", "encoder.attention": "additive"}), batch()
    assert model(**values).caption_logits.isfinite().all()
    with pytest.raises(ValueError, match="its pattern"):
        small(cross_attention="local")
    model = small()
    with zoo.capture(model) as maps:
        model(**values)
    assert set(maps) == {name for name, module in model.named_modules() if isinstance(module, Attention)}
    assert maps["decoder.blocks.0.cross"].shape[-1] == model.config.pooler_queries - 1


@torch.no_grad()
def test_one_graph_and_half_precision():
    torch._dynamo.reset()
    model, values = small(text_depth=1, decoder_depth=1, depth=1), batch()
    expected = model(**values)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(**values)
    assert error(compiled.text_features, expected.text_features) <= 1e-5
    real = values["input_ids"] != 0
    assert error(compiled.caption_logits[real], expected.caption_logits[real]) <= 1e-5
    half = {"pixel_values": values["pixel_values"].bfloat16(), "input_ids": values["input_ids"]}
    assert error(model.to(torch.bfloat16)(**half).caption_logits[real].float(), expected.caption_logits[real]) <= 0.1


@pytest.mark.full
@torch.no_grad()
def test_export():
    model, values = small(text_depth=1, decoder_depth=1, depth=1), batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (), values)
    assert error(program.module()(**values).image_features, model(**values).image_features) <= 1e-5


def test_variants_on_meta():
    own = family("coca")
    for fields in own.variants.values():
        model = build(own, own.config(**fields))
        assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
        assert type(model.config).from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config


# --- captions ---------------------------------------------------------------------------------------------------------


def greedy(theirs, images: Tensor, ids: Tensor, new: int, ends: tuple[int, ...]) -> Tensor:
    """Captions by open_clip's forward: the most probable token, padding after an end."""
    with torch.no_grad():
        for _ in range(new):
            token = theirs(images, ids, output_labels=False)["logits"][:, -1].argmax(-1)
            ended = torch.isin(ids[:, 1:], torch.tensor(ends)).any(1)
            ids = torch.cat([ids, token.masked_fill(ended, 0)[:, None]], 1)
    return ids


def test_captions_are_those_of_a_loop_over_open_clips_forward(tmp_path):
    theirs = open_clip_coca(tmp_path / "theirs", gain=8.0)
    ours, images = zoo.load(tmp_path / "theirs"), 3 * pixels(rows=4)
    free = greedy(theirs, images, torch.full((4, 1), 97), 9, ())
    end = int(free[1, 4])  # a token that the model writes
    expected = greedy(theirs, images, torch.full((4, 1), 97), 9, (end, 0))
    ours.config = ours.config.replace(decoder_start_token_id=97, eos_token_id=(end, 0))
    made = zoo.generate(ours, pixel_values=images, max_new_tokens=9)
    assert torch.equal(made, expected[:, : made.shape[1]]) and len(set(map(tuple, made.tolist()))) > 1
    prompt = torch.tensor([[97, 5, 8, end]] * 4)
    made = zoo.generate(ours, prompt, pixel_values=images, max_new_tokens=5)
    assert torch.equal(made, greedy(theirs, images, prompt[:, :3], 5, (end, 0))[:, : made.shape[1]])
    beams = zoo.generate(ours, pixel_values=images, max_new_tokens=5, num_beams=3, output_scores=True)
    plain = zoo.generate(ours, pixel_values=images, max_new_tokens=5, output_scores=True)
    assert beams.sequences.shape[0] == 4 and (beams.log_probs.sum(1) >= plain.log_probs.sum(1) - 1e-4).any()


@pytest.fixture(scope="module")
def captioner() -> CoCa:
    """A small CoCa with a tokenizer."""
    words = train("wordpiece", ["a photo of two cats", "the dog runs in the house"] * 20, 99, max_length=16)
    model = small(pad_token_id=words.id("pad"), eos_token_id=words.id("sep"), decoder_start_token_id=words.id("cls"))
    randomize(model)
    text = replace(words, mask=False, multiple=16, types=False)
    model.preprocess = replace(model.default_preprocess(), text=text)
    return model


def test_captions_as_texts_and_zero_shot_and_embeddings(captioner, tmp_path):
    images = noise_images(2)
    captions = zoo.generate(captioner, images=images, max_new_tokens=6)
    assert len(captions) == 2 and all(isinstance(caption, str) for caption in captions)
    assert zoo.generate(captioner, images=images[0], max_new_tokens=6) == captions[0]
    begun = zoo.generate(captioner, text="a photo", images=images, max_new_tokens=4)
    assert all(caption.startswith("a photo") for caption in begun)
    found = zoo.zero_shot(captioner, ["cats", "dog"], "a photo of {}").predict(images[0])
    assert {label for label, _ in found} == {"cats", "dog"} and abs(sum(p for _, p in found) - 1) < 1e-5
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    embedded = zoo.embed(captioner, tmp_path, tmp_path / "index")
    assert embedded is not None


def test_the_words_of_a_caption_are_apart_from_its_prompt():
    """With the tokenizer of CLIP, in which token 0, the padding, is a "!" that no space follows."""
    from tokenizers import processors

    pieces = ["!", "a</w>", "c", "a", "t</w>", "ca", "cat</w>", "<s>", "<e>"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = clip_bpe(vocab, [("c", "a"), ("ca", "t</w>")], unk="!")
    backend.add_special_tokens(["<s>", "<e>"])
    around = [("<s>", 7), ("<e>", 8)]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A <e>", special_tokens=around)
    special = {"pad": "!", "bos": "<s>", "eos": "<e>"}
    text = TextProcessor(tokenizer=backend.to_str(), special=special, max_length=16, mask=False, multiple=16)
    model = small(pad_token_id=0, eos_token_id=(8, 0), decoder_start_token_id=7)
    model.preprocess = replace(model.default_preprocess(), text=text)
    prompts, inputs, _ = encode_images(model, noise_images(2), "a cat", None, None)
    new = torch.tensor([[6, 1, 8], [1, 6, 0]])
    assert prompts.continued(new, decoder_of(model), (8, 0), 0) == ["a cat cat a", "a cat a cat"]
    assert inputs["input_ids"].shape == (2, 16)
    streamed = stream_text(model, "a cat", images=noise_images(1), max_new_tokens=3, write=len)
    assert streamed == zoo.generate(model, text="a cat", images=noise_images(1), max_new_tokens=3)[0]


WRONG = {
    "caption too long": (lambda m, b: m(b["pixel_values"], torch.ones(3, 17, dtype=torch.long)), "max_length=16"),
    "no input": (lambda m, b: m(), "nothing to encode"),
    "rows": (lambda m, b: m(b["pixel_values"][:2], b["input_ids"]), "input_ids have 3 rows"),
    "mask": (lambda m, b: m(**b, attention_mask=torch.ones(3, 16)), "does not use 'attention_mask'"),
    "labels": (lambda m, b: m(**b, labels=b["input_ids"]), "F.cross_entropy"),
    "image size": (lambda m, b: m(torch.randn(3, 3, 40, 40)), "the images are 40 x 40"),
    "loss of images": (lambda m, b: m.loss(m(b["pixel_values"])), "needs images with texts"),
    "no image": (lambda m, b: zoo.generate(m, b["input_ids"]), "'pixel_values' is missing"),
    "lengths": (lambda m, b: zoo.generate(m, b["input_ids"], pixel_values=b["pixel_values"]), "prompts of one length"),
    "two images": (
        lambda m, b: zoo.generate(m, torch.ones(3, 2).long(), pixel_values=b["pixel_values"][:2]),
        "2 images",
    ),
    "too many": (lambda m, b: zoo.generate(m, pixel_values=b["pixel_values"], max_new_tokens=16), "max_length=16"),
    "classes": (lambda m, b: m.reset_head(3), "zero_shot"),
    "one query": (lambda m, b: small(pooler_queries=1), "pooler_queries=1"),
    "no decoder": (lambda m, b: small(decoder_depth=0), "decoder_depth=0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call(small(), batch())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(vision_cfg={"attentional_pool": "parallel"}), "attentional_pool='parallel'"),
        (dict(text_cfg={"embed_cls": False}), "embed_cls=False"),
        (dict(multimodal_cfg={"heads": 5}), "multimodal_cfg.heads=5"),
        (dict(embed_dim=24), "the tokens of the image 24"),
        (dict(vision_cfg={"widht": 3}), "widht"),
    ],
)
def test_configs_that_are_not_supported(tmp_path, changes, message):
    folder = tmp_path / "theirs"
    open_clip_coca(folder)
    values = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    edit_json(folder / "open_clip_config.json", model_cfg=values)
    with pytest.raises(zoo.LoadError, match=message):
        zoo.load(folder)


def test_what_open_clip_cannot_express(tmp_path):
    with pytest.raises(ValueError, match="open_clip's CoCa"):
        zoo.export(small(**{"decoder.attention": "linear"}), tmp_path, format="open_clip")
