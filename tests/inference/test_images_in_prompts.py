"""`zoo.generate` of models that read images among the words, against transformers; their processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from llava_peers import TOKEN, batch, llava_processor, photographs, transformers_llava
from peers import error

import zoo
from zoo.inference.generation.chat import Chat
from zoo.inference.generation.prompt import DecodingSession, Prompt
from zoo.inference.generation.prompt_cache import PromptCache
from zoo.models.bridge.model import Bridge
from zoo.models.example_batch import example_batch
from zoo.models.vit.model import ViT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llava")
    transformers_llava(path, text_options=dict(eos_token_id=90))
    llava_processor(path)
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    import transformers

    return transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def ours(folder):
    return zoo.load(folder)


@pytest.fixture(scope="module")
def processor(folder):
    import transformers

    return transformers.AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_are_those_of_transformers(ours, theirs, beams):
    inputs = batch(theirs, side="left")
    options = dict(max_new_tokens=8, num_beams=beams)
    expected = theirs.generate(**inputs, **options, do_sample=False, pad_token_id=0)
    ended = ((expected == 90).cumsum(1) - (expected == 90).long()) > 0  # beams of transformers are filled otherwise
    expected = expected.masked_fill(ended, 0)
    made = zoo.generate(ours, **inputs, **options, pad_token_id=0)
    assert torch.equal(made, expected)
    right = batch(theirs, side="right")
    new = zoo.generate(ours, **right, **options, pad_token_id=0)[:, right["input_ids"].shape[1] :]
    assert torch.equal(new, made[:, inputs["input_ids"].shape[1] :])


def test_rows_alone_and_without_padding_give_the_same_tokens(ours, theirs):
    inputs = batch(theirs, side="left")
    together = zoo.generate(ours, **inputs, max_new_tokens=6, eos_token_id=None)
    images = iter(inputs["pixel_values"])
    for ids, mask, whole in zip(inputs["input_ids"], inputs["attention_mask"], together, strict=True):
        ids = ids[mask.bool()]
        own = [next(images) for _ in range(int((ids == TOKEN).sum()) // 4)]
        pixels = {"pixel_values": torch.stack(own)} if own else {}
        made = zoo.generate(ours, ids[None], **pixels, max_new_tokens=6, eos_token_id=None)
        assert torch.equal(made[0, len(ids) :], whole[inputs["input_ids"].shape[1] :])


def test_an_image_is_encoded_once_and_further_tokens_are_read_by_fast_steps(ours, theirs, monkeypatch):
    calls = {ViT.encode: 0, Bridge.decode: 0}

    def count(cls: type, name: str) -> None:
        method = getattr(cls, name)

        def counted(self, *args, **more):
            calls[method] += 1
            return method(self, *args, **more)

        monkeypatch.setattr(cls, name, counted)

    inputs = batch(theirs)
    row = {"input_ids": inputs["input_ids"][:1, :11], "pixel_values": inputs["pixel_values"][:1]}
    count(ViT, "encode")
    count(Bridge, "decode")
    zoo.generate(ours, **row, max_new_tokens=5, eos_token_id=None, num_beams=2)
    assert list(calls.values()) == [1, 1]


def test_the_decoder_reads_further_tokens_by_its_fast_step(ours):
    session, scores = Prompt.checked(ours, torch.tensor([[1, 5, 6]]), None, 4).read()
    assert session.model is ours.text and session.step is not None
    plain = ours.new_state(1, 8)
    ours.decode(torch.tensor([[1, 5, 6]]), plain)
    token = session.most_probable[:, None]
    assert error(session.read(token), ours.text.decode(token, plain)) <= 1e-5 and scores.shape == (1, 99)


def test_the_processor_equals_that_of_transformers(ours, processor):
    texts = ["what is <image> this ?", "a <image> and a green <image> bird", "w20 w21"]
    images = photographs(3)
    expected = processor(text=texts, images=images, padding=True, return_tensors="pt")
    made = ours.preprocess(text=texts, images=images)
    assert torch.equal(made["input_ids"], expected["input_ids"])
    assert torch.equal(made["attention_mask"], expected["attention_mask"])
    assert error(made["pixel_values"], expected["pixel_values"]) <= 1e-5
    apart = ours.preprocess(text=texts, images=[images[:1], images[1:], []])
    assert torch.equal(apart["input_ids"], made["input_ids"])


def test_conversations_equal_those_of_transformers(ours, processor):
    images = photographs(2)
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a red bird"}]},
        {"role": "user", "content": [{"type": "text", "text": "and this ?"}, {"type": "image"}]},
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert ours.preprocess.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == text
    expected = processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)
    made = ours.preprocess.apply_chat_template(chat, images=images, add_generation_prompt=True)
    assert torch.equal(made["input_ids"], expected["input_ids"])
    answer = zoo.generate(ours, chat, images=images, max_new_tokens=4, eos_token_id=None)
    ids = zoo.generate(ours, **made, max_new_tokens=4, eos_token_id=None)[0, -4:]
    assert answer.split() == ours.preprocess.text.decode(ids).split()
    inside = [chat[0] | {"content": [{"type": "image", "image": images[0]}, chat[0]["content"][1]]}, *chat[1:2]]
    assert "pixel_values" in ours.preprocess.apply_chat_template(inside)


def test_texts_and_images(ours):
    first, second = photographs(2)
    options = dict(max_new_tokens=3, eos_token_id=None)
    one = zoo.generate(ours, text="what is <image> this ?", images=first, **options)
    both = zoo.generate(ours, text=["what is <image> this ?", "a <image> bird"], images=[first, second], **options)
    assert isinstance(one, str) and both[0] == one
    # without a marker: the message of a user, by the template of the folder
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]}]
    assert zoo.generate(ours, text="what is this ?", images=[first], **options) == zoo.generate(
        ours, chat, images=[first], **options
    )
    assert isinstance(zoo.generate(ours, "w20 w21", **options), str)
    heard = []
    zoo.generate(ours, text="<image> ?", images=first, streamer=heard.append, **options)
    assert len(heard) == 3


def test_saved_processors_and_exports(ours, folder, tmp_path):
    import transformers

    text, images = ["what is <image> this ?"], photographs(1)
    zoo.save(ours, tmp_path / "zoo")
    again = zoo.load(tmp_path / "zoo")
    assert again.preprocess == ours.preprocess
    zoo.export(ours, tmp_path / "theirs")
    assert zoo.load(tmp_path / "theirs").preprocess.text.chat_template == ours.preprocess.text.chat_template
    exported = transformers.AutoProcessor.from_pretrained(tmp_path / "theirs")
    expected = exported(text=text, images=images, return_tensors="pt")
    made = ours.preprocess(text=text, images=images)
    assert torch.equal(made["input_ids"], expected["input_ids"])
    assert error(made["pixel_values"], expected["pixel_values"]) <= 1e-5


# -- the turns of a conversation ---------------------------------------------------------------------------------------


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many tokens are read of a prompt, and how often images are encoded."""
    tokens, images = [0], [0]
    read, encode = DecodingSession.read, Bridge.encoder_features

    def counted_read(self, ids, every=False):
        tokens[0] = tokens[0] or ids.shape[1]
        return read(self, ids, every)

    def counted_encode(self, **batch):
        images[0] += 1
        return encode(self, **batch)

    found: list[int] = []
    encoded = mock.patch.object(Bridge, "encoder_features", counted_encode)
    with mock.patch.object(DecodingSession, "read", counted_read), encoded:
        yield found
    found += [*tokens, *images]


BRIDGES = {
    "projector": dict(),
    "linear": {"text.attention": "linear"},
    "resampler": dict(by="resampler", resampler_tokens=4, resampler_depth=1),
    "cross": dict(by="cross", gate_value=0.7),
    "llava_next": {},
}


@pytest.mark.parametrize("kind", BRIDGES)
def test_a_cache_has_the_tokens_of_images_and_what_is_read_of_them(kind):
    own = {"text.depth": 2, "image.depth": 2, **BRIDGES[kind]}
    model = zoo.create_model("llava_next_nano" if kind == "llava_next" else "bridge_nano", seed=0, **own).eval()
    size = {"proj": 64, "line": 64, "resa": 4, "cros": 1, "llav": 14}[kind[:4]]
    cross, sums = kind == "cross", kind == "linear"
    a, b = (image.resize((30, 20)) for image in photographs(2))
    cache, options = PromptCache(), dict(max_new_tokens=3, eos_token_id=None)
    # (pieces of the prompt; the tokens of it that are read, all by cross-attention with new images; images encoded)
    turns = (
        ([5, a, 6, 7], size + 3, 1),
        ([5, a, 6, 7, 8], 1, 0),
        ([5, a, 6, 7, 8, b, 9], (2 * size + 5) if cross else size + 1, 1),
        ([5, a, 6, 7, 8, b, 9, 10, 11], 2, 0),
        ([5, a, 6, 12], 1, 0) if not (cross or sums) else ([5, a, 6, 12], size + 3, 0),
        ([5, b, 6, 12], size + 2 if not (cross or sums) else size + 3, 1),
    )  # fmt: skip
    for pieces, read, encoded in turns:
        ids = [x for piece in pieces for x in ([piece] if isinstance(piece, int) else [1] * size)]
        inputs = model.preprocess.image([piece for piece in pieces if not isinstance(piece, int)])
        with counted() as found:
            out = zoo.generate(model, torch.tensor([ids]), **inputs, cache=cache, **options)
        assert torch.equal(out, zoo.generate(model, torch.tensor([ids]), **inputs, **options)), pieces
        if not sums or found[0] != len(ids):
            assert found == [read, encoded], pieces
    with pytest.raises(ValueError, match=r"tokens 1 \(image_token_id\)"):
        zoo.generate(model, torch.tensor([[5, *[1] * size, 6]]), cache=cache, **options)


def test_inputs_that_belong_to_the_tokens_of_one_prompt_are_refused_with_a_cache():
    model = zoo.create_model("paligemma_nano", seed=0, **{"text.depth": 1})
    batch = example_batch(model)
    row = {name: x[:1] for name, x in batch.items()}
    with pytest.raises(ValueError, match="token_type_ids belongs to the tokens of one prompt, and cache= continues"):
        zoo.generate(model, **row, cache=PromptCache())


def test_turns_of_a_chat_encode_an_image_once(ours):
    chat = Chat(ours, max_new_tokens=3, eos_token_id=None)
    first, second = photographs(2)
    for text, images in (("what is this ?", [first]), ("red ?", []), ("and this ?", [second]), ("green ?", [])):
        with counted() as found:
            chat.reply(text, lambda text: None, images)
        assert found[1] == len(images) and found[0] < (14 if images else 9)


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_images_and_texts_that_do_not_fit(ours):
    images = photographs(2)
    with pytest.raises(ValueError, match="the texts have 1 times the marker '<image>', and 2 images were given"):
        ours.preprocess(text="a <image> bird", images=images)
    with pytest.raises(ValueError, match="text 1 has 0 times the marker '<image>', and 1 images were given for it"):
        ours.preprocess(text=["a <image>", "w20"], images=[images[:1], images[1:]])
    with pytest.raises(ValueError, match="the texts have 1 times the marker '<image>', and 0 images were given"):
        zoo.generate(ours, text="a <image> bird")
    with pytest.raises(ValueError, match="2 images for 3 texts without the marker"):
        zoo.generate(ours, text=["a", "red", "bird"], images=images)
    with pytest.raises(ValueError, match="the model has no preprocessing for audio"):
        ours.preprocess(text="a", audio="clip.wav")
    with pytest.raises(ValueError, match="images= belongs to text="):
        zoo.generate(ours, torch.tensor([[5, 6]]), images=images)
    with pytest.raises(ValueError, match="pixel_values belongs to a tensor of input_ids"):
        zoo.generate(ours, text="a", pixel_values=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="text= and input_ids are given"):
        zoo.generate(ours, "a", text="a")
    with pytest.raises(ValueError, match="has 74 tokens, expected at most max_length=64"):
        ours.preprocess(text="<image>" + " a" * 69, images=images[:1])
    with pytest.raises(ValueError, match=r"have 4 tokens 98 .*no images were given"):
        zoo.generate(ours, torch.tensor([[1, 98, 98, 98, 98]]))


def test_images_for_a_model_of_texts_alone():
    text = zoo.create_model("llama_nano", seed=0)
    with pytest.raises(TypeError, match="'pixel_values' is an option of models with an encoder, given a Llama"):
        zoo.generate(text, torch.tensor([[5, 6]]), pixel_values=torch.zeros(1, 3, 16, 16))
