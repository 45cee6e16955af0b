"""`zoo.bridge`: an encoder of images or audio and a decoder of texts become one model in one line."""

from dataclasses import replace

import pytest
import torch
from peers import error
from whisper_peers import tokenizer, transformers_whisper

import zoo
from zoo.inference.generation.prompt_cache import PromptCache
from zoo.models.example_batch import example_batch
from zoo.preprocessing.tokenizer_training import train

IMAGE = {"name": "vit_cifar_tiny", "width": 32, "depth": 2, "heads": 4, "mlp_dim": 48}
TEXT = {"name": "llama_nano", "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 48, "max_length": 128}
AUDIO = {"name": "ast_tiny", "width": 32, "depth": 2, "heads": 4, "mlp_dim": 48, "max_length": 48, "mel_bins": 16}
WHISPER = {
    "name": "whisper_tiny", "width": 32, "depth": 2, "heads": 4, "mlp_dim": 48, "frames": 40, "decoder_depth": 1,
    "vocab_size": 60, "max_length": 16,
}  # fmt: skip
WAVES = {"name": "wav2vec2_tiny", "width": 32, "depth": 2, "heads": 4, "mlp_dim": 48, "position_groups": 4}


def speaker() -> zoo.Model:
    """A decoder with a tokenizer that has no marker of images."""
    texts = ["what is this ?", "a red bird", "a green ball", "where is the ball ?"]
    processor = train("bpe", texts, 300, max_length=128)
    fields = TEXT | {"vocab_size": processor.vocab_size, "tie_word_embeddings": False}
    model = zoo.create_model(**fields, seed=1)
    model.preprocess = processor
    return model


@pytest.mark.parametrize("by", ["projector", "resampler", "cross"])
def test_any_two_towers_in_one_line(by, tmp_path):
    options = {"resampler_tokens": 3} if by == "resampler" else {}
    text = speaker()
    words = text.config.vocab_size
    before = {name: x.clone() for name, x in text.state_dict().items()}
    model = zoo.bridge(image=IMAGE, text=text, by=by, locked=("image", "text"), seed=0, **options)
    assert model.config.text.config.vocab_size == words + 1 and model.config.image_token_id == words
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} <= {
        "connector", "gated_cross"
    }  # fmt: skip
    for name, x in model.text.state_dict().items():
        assert torch.equal(x[: len(before[name])] if x.ndim else x, before[name])
    images = [torch.randint(256, (3, 40, 30), dtype=torch.uint8)]
    batch = model.preprocess(text="what is this <image>?", images=images)
    loss = torch.nn.functional.cross_entropy(model(**batch)[0, :-1], batch["input_ids"][0, 1:])
    loss.backward()
    answer = zoo.generate(model, text="what is this ?", images=images, max_new_tokens=3, eos_token_id=None)
    assert isinstance(answer, str)
    model.eval()
    zoo.save(model, tmp_path / "model")
    again = zoo.load(tmp_path / "model")
    assert again.preprocess == model.preprocess and zoo.verify(tmp_path / "model").ok
    made = zoo.generate(again, text="what is this ?", images=images, max_new_tokens=3, eos_token_id=None)
    assert made == answer
    with zoo.capture(model) as maps, torch.no_grad():
        model(**batch)
    assert any("image" in name for name in maps) and any("text" in name for name in maps)


def test_gates_at_zero_leave_the_decoder_as_it_was():
    text = speaker()
    ids = torch.randint(4, 20, (2, 7))
    with torch.no_grad():
        expected = text.eval()(ids)
        model = zoo.bridge(image=IMAGE, text=text, by="cross", seed=0).eval()
        ids[:, 3] = model.config.image_token_id
        pixels = torch.randn(2, 3, 32, 32)
        alone = model.text.eval()(ids)
        assert torch.equal(model(ids, pixel_values=pixels), alone) and expected.shape[-1] + 1 == alone.shape[-1]


@pytest.mark.parametrize("audio", [AUDIO, WAVES])
def test_audio_towers(audio):
    model = zoo.bridge(audio=audio, text=speaker(), seed=0, feature_layer=-1).eval()
    assert model.config.audio_token_id is not None and model.inputs[-1].startswith(("audio", "input_values"))
    token = model.config.audio_token_id
    if audio is AUDIO:
        batch = {"input_values": torch.randn(2, 48, 16)}
        counts = [len(model.features(**batch)) // 2] * 2
        assert counts[0] == model.config.tokens_per_item
    else:
        mask = (torch.arange(4000) < torch.tensor([[4000], [2000]])).long()
        batch = {"input_values": torch.randn(2, 4000), "audio_attention_mask": mask}
        counts = [int(model.audio.frames(n)) for n in (4000, 2000)]
    rows = [[5, *[token] * count, 6, 7] for count in counts]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    with torch.no_grad():
        y = model(ids, mask, **batch)
        alone = {name: x[1:] for name, x in batch.items()}
        assert error(model(torch.tensor(rows[1:]), **alone)[0], y[1, : len(rows[1])]) <= 1e-5
    made = zoo.generate(model, ids, mask, **batch, max_new_tokens=2, eos_token_id=None)
    assert made.shape == (2, length + 2)


@pytest.mark.parametrize("by", ["projector", "resampler", "cross"])
@pytest.mark.parametrize("audio", [AUDIO, WAVES, WAVES | {"name": "hubert_base"}, WHISPER], ids=lambda x: x["name"])
def test_clips_of_any_length_in_prompts(audio, by, tmp_path):
    options = {"projector": {}, "resampler": dict(resampler_tokens=3, resampler_depth=1), "cross": dict(gate_value=0.7)}
    model = zoo.bridge(audio=audio, text=speaker(), by=by, seed=0, **options[by]).eval()
    draw = torch.Generator().manual_seed(0)
    clips = [(0.1 * torch.randn(length, generator=draw), 16000) for length in (6400, 3200, 4801)]
    texts = ["what <audio>is this ?", "a red ball", "<audio><audio>"]
    batch = model.preprocess(text=texts, audio=clips)
    with torch.no_grad():
        together = model(**batch)
        for row, own in enumerate(([clips[0]], [], clips[1:])):
            alone = model.preprocess(text=texts[row], **({"audio": own} if own else {}))
            y = model(**alone)[0]
            assert error(together[row, : len(y)], y) <= 1e-5
            if by == "projector" and "wav" in audio["name"] and own:  # as many tokens as the tower has frames
                found = int((alone["input_ids"] == model.config.audio_token_id).sum())
                assert found == sum(int(model.audio.frames(len(clip))) for clip, _ in own)
    answer = zoo.generate(model, text="what is this ?", audio=clips[:1], max_new_tokens=3, eos_token_id=None)
    if by == "projector":
        zoo.save(model, tmp_path)
        again = zoo.load(tmp_path)
        assert again.preprocess == model.preprocess and zoo.verify(tmp_path).ok
        made = zoo.generate(again, text="what is this ?", audio=clips[:1], max_new_tokens=3, eos_token_id=None)
        assert made == answer


def test_clips_are_cut_out_of_a_batch_for_a_cache():
    model = zoo.bridge(audio=WAVES, text=speaker(), by="cross", seed=0, gate_value=0.7).eval()
    clips = [(torch.randn(length), 16000) for length in (3200, 6400)]
    one, both = (model.preprocess.part("audio", clips[:count]) for count in (1, 2))
    assert [item.digest for item in model.items(both)[:1]] == [item.digest for item in model.items(one)]
    cache = PromptCache()
    for text, given in (("a <audio> ball", clips[:1]), ("a <audio> ball <audio> ?", clips)):
        inputs = model.preprocess(text=text, audio=given)
        del inputs["attention_mask"]
        made = zoo.generate(model, **inputs, cache=cache, max_new_tokens=3, eos_token_id=None)
        assert torch.equal(made, zoo.generate(model, **inputs, max_new_tokens=3, eos_token_id=None))


def test_the_encoder_of_whisper_alone_from_a_folder(tmp_path):
    transformers_whisper(tmp_path)
    tokenizer(tmp_path)
    whole, alone = zoo.load(tmp_path), zoo.load(tmp_path, head=None, decoder_depth=0)
    features = torch.randn(1, alone.config.mel_bins, alone.config.frames)
    model = zoo.bridge(audio=tmp_path, text=speaker(), locked="audio", seed=0)
    assert model.preprocess.audio.tokenizer is None and model.audio.decoder is None
    assert not any(p.requires_grad for p in model.audio.parameters())
    with torch.no_grad():
        expected = whole.encode(features)
        assert torch.equal(alone(features), expected) and torch.equal(model.audio(features), expected)
    with pytest.raises(ValueError, match="decoder_input_ids"):
        alone(features, decoder_input_ids=torch.tensor([[1]]))
    with pytest.raises(ValueError, match="decoder_depth=0 with head='lm'"):
        zoo.create_model("whisper_tiny", decoder_depth=0)


def test_clips_that_a_tower_cannot_take():
    model = zoo.bridge(audio=WAVES, text=speaker(), seed=0)
    with pytest.raises(ValueError, match=r"audio clip 1 has 40 samples, and a token needs 345: pass a longer one"):
        model.preprocess(text="<audio><audio>", audio=[(torch.randn(800), 16000), (torch.randn(40), 16000)])
    model = zoo.bridge(audio=WHISPER, text=speaker(), seed=0)
    clip = (torch.randn(20000), 16000)
    with pytest.raises(ValueError, match="1 audio clips became 4 rows, and the text has a marker for each clip"):
        model.preprocess(text="<audio>", audio=[clip], too_long="windows")
    with pytest.raises(ValueError, match="clip"):
        model.preprocess(text="<audio>", audio=[clip])


def test_towers_of_other_models_and_tied_decoders(tmp_path):
    clip = zoo.create_model("clip_tiny", seed=0)
    model = zoo.bridge(image=clip, text=TEXT | {"name": "gpt_nano", "kv_heads": None}, token="<picture>", seed=0)
    assert model.image is clip.image and model.image.head is None
    assert model.text.head.proj.weight is model.text.tokens.word.weight
    folder = zoo.save(model, tmp_path)
    again = zoo.bridge(image=folder, text=folder, token=model.config.image_token_id, seed=1)
    assert torch.equal(again.image.patches.positions, model.image.patches.positions)
    assert not torch.equal(again.connector.up.weight, model.connector.up.weight)


def test_export_of_a_bridge_is_a_llava_of_transformers(tmp_path):
    import transformers

    image = {"name": "clip_tiny", "image.width": 32, "image.heads": 4, "image.depth": 2}
    model = zoo.bridge(image=image, text=TEXT, seed=0).eval()
    zoo.export(model, tmp_path)
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = example_batch(model)
    with torch.no_grad():
        assert error(model(**batch), theirs(**batch).logits) <= 1e-5


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit():
    def refused(match: str, **arguments) -> None:
        with pytest.raises(ValueError, match=match):
            zoo.bridge(**{"image": IMAGE, "text": TEXT, "seed": 0} | arguments)

    refused("expected one encoder, image= or audio=, given none", image=None)
    refused("given image and audio", audio=AUDIO)
    refused("no option 'projektor'; did you mean 'projector'", projektor="linear")
    refused("image_token_id is set by the towers and token=", image_token_id=3)
    refused("a bert model .*|head='lm'", text="bert_tiny")
    refused("a vit model is for vision inputs, it cannot be the text tower",
            text=zoo.create_model("vit_cifar_tiny", seed=0))  # fmt: skip
    refused("head='pool', expected a decoder with head='lm'", text=zoo.create_model(**TEXT, head="pool", seed=0))
    refused("locked='audio': expected one of image, text", locked="audio")
    refused("needs resampler_tokens", by="resampler")
    refused("feature_layer=7: the image tower has the blocks 0 to 1", feature_layer=7)
    refused("image_token_id=999: expected the token that marks features", token=999)


def test_a_tokenizer_of_another_model():
    model = zoo.bridge(image=IMAGE, text=speaker(), seed=0)
    with pytest.raises(ValueError, match="the marker '<image>' is token None of the tokenizer"):
        replace(model.preprocess, text=speaker().preprocess).check(model.config)
