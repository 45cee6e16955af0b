"""Labels and preprocessing of a loaded model beside those of the library that its folder comes from."""

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.peers import Peer
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS
from zoo.models.example_batch import example_batch
from zoo.preprocessing.audio import AudioProcessor
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.protein import ProteinProcessor
from zoo.preprocessing.text import Text, TextProcessor
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.preprocessing.whisper import WhisperProcessor

TEXTS = (
    "A plain sentence, with 12.5 numbers, isn't it?",
    "Crème brûlée À LA CARTE, naïve façade: «größer»",
    "short",
    " two   spaces,\ttabs\nand lines 🙂 漢字 &amp; <b>",
)
PROTEINS = ("MKTAYIAKQRQISFVKSHFSRQ", "MX<mask>BZUO-.", "GA", " M K T\nA Y")
# Gray levels by which pixels may differ: rounding of float32, and for images that are resized, of PIL or tensors.
SAME_SIZE, RESIZED = 0.01, 2.0
FEATURES = 1e-4  # of the greatest value: log energies of two implementations


def compare(model: Model, peer: Peer) -> tuple[list[str], list[str]]:
    """(differences in words, notes on what could not be compared) of labels and preprocessing."""
    changes, notes = _labels(model, peer)
    if model.preprocess is None:
        return changes, [*notes, "preprocessing was not compared: the model has none"]
    parts = model.preprocess.parts() if isinstance(model.preprocess, MultimodalProcessor) else {"": model.preprocess}
    if isinstance(model.preprocess, WhisperProcessor) and model.preprocess.tokenizer is not None:
        parts = parts | {"text": model.preprocess.tokenizer}
    absent = [name for name in model.config.parts if name not in parts]
    notes += [f"preprocessing of {name} was not compared: the model has none" for name in absent]
    for processor in parts.values():
        for kind, what, function in COMPARISONS:
            if isinstance(processor, kind):
                try:
                    changes += function(processor, peer, model)
                except NotComparable as reason:
                    notes.append(f"{what} were not compared: {reason}")
    return changes, notes


class NotComparable(Exception):
    """Something that cannot be compared, with the reason."""


def _theirs(peer: Peer, function: Callable[..., Any], *args: Any) -> Any:
    """The result of a method of the peer. Its library raises errors of any kind for files that it does not take."""
    try:
        return function(*args)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise NotComparable(f"{peer.name} says {reason:.200}") from None


# --- Labels -----------------------------------------------------------------------------------------------------------


def _labels(model: Model, peer: Peer) -> tuple[list[str], list[str]]:
    """Names of the classes, row by row."""
    config: Any = model.config
    if config.head not in CLASSIFIER_HEADS:
        return [], []
    if not (names := peer.label_names()):
        return [], [f"labels were not compared: {peer.name} has none"] if model.labels else []
    rows = config.num_classes
    theirs = {int(i): name for i, name in (names.items() if isinstance(names, Mapping) else enumerate(names))}
    if not isinstance(names, Mapping) and len(names) != rows:
        return [], [f"labels were not compared: the folder has {len(names)} names for {rows} classes"]
    usual = [f"LABEL_{row}" for row in range(rows)]
    expected = [usual[row] if theirs.get(row) is None else str(theirs[row]) for row in range(rows)]
    return _differences("label", model.labels or usual, expected, peer), []


def _symbols(processor: WaveformFeatureExtractor, peer: Peer, model: Model) -> list[str]:
    """Symbols of a CTC model, id by id."""
    if processor.vocabulary is None:
        return []
    by_id = {number: symbol for symbol, number in _theirs(peer, peer.symbols).items()}
    tokens = list(processor.vocabulary.tokens)
    return _differences("symbol", tokens, [by_id.get(i) for i in range(len(tokens))], peer)


def _differences(what: str, ours: list[Any], theirs: list[Any], peer: Peer) -> list[str]:
    """The first difference of two lists, with the number of all, in words."""
    differ = [i for i, (a, b) in enumerate(zip_longest(ours, theirs)) if a != b]
    if not differ:
        return []
    first = differ[0]
    more = f" ({len(differ)} {what}s differ)" if len(differ) > 1 else ""
    return [f"{what} {first} is {ours[first]!r}, with {peer.name} {theirs[first]!r}{more}"]


# --- Texts ------------------------------------------------------------------------------------------------------------


def _texts(processor: TextProcessor, peer: Peer, model: Model) -> list[str]:
    """The ids of texts alone, and in a batch."""
    return _ids(processor, peer, model) or _padding(processor, peer)


def _ids(processor: TextProcessor, peer: Peer, model: Model) -> list[str]:
    """The ids of some texts, without padding, and of one that is too long."""
    special = [f"some {token} text{token}" for token in dict.fromkeys(processor.special.values())]
    texts: list[Text] = [*TEXTS, *special, "too long " * processor.max_length]
    texts += [] if model.config.parts else [("a first text", "and a second one")]
    if isinstance(processor, ProteinProcessor):
        texts = [*PROTEINS, "MK" * processor.max_length, PROTEINS[::2]]
    for text in texts:
        theirs = _theirs(peer, peer.encode, text, processor.max_length)
        if theirs["input_ids"] == processor.backend.encode("").ids:
            continue  # no tokens but special ones: ours refuses such texts
        try:
            ours = {name: ids[0].tolist() for name, ids in processor(text, truncate="cut", multiple=1).items()}
        except ValueError as error:
            return [f"{error}; with {peer.name} its input_ids are {_short(theirs['input_ids'])}"]
        for name in ("input_ids", "token_type_ids"):
            if name in ours and name in theirs and ours[name] != list(theirs[name]):
                return [f"{name} of {_short(text)} are {_short(ours[name])}, with {peer.name} {_short(theirs[name])}"]
    return []


def _padding(processor: TextProcessor, peer: Peer) -> list[str]:
    """The padding of a batch: where it is, and what it is if the model sees it."""
    usual = PROTEINS if isinstance(processor, ProteinProcessor) else TEXTS
    texts = usual if processor.mask else ("short",)  # without a mask, one text is padded to the full length
    theirs = _theirs(peer, peer.encode_batch, texts, processor.max_length, not processor.mask)
    try:
        ours = processor(list(texts), truncate="cut")
    except ValueError as error:  # a text without tokens, which is compared alone
        raise NotComparable(str(error)) from None
    name = "attention_mask" if processor.mask else "input_ids"
    if name not in theirs or torch.equal(ours[name], theirs[name]):
        return []
    if ours[name].shape != theirs[name].shape:
        shapes = f"{list(ours[name].shape)}, with {peer.name} {list(theirs[name].shape)}"
        return [f"{name} of {_short(texts[0]) if len(texts) == 1 else f'{len(texts)} texts'} is of shape {shapes}"]
    row = int((ours[name] != theirs[name]).any(1).nonzero()[0])
    shown = [_short(batch[name][row].tolist()) for batch in (ours, theirs)]
    return [f"{name} of {_short(texts[row])} in a batch is {shown[0]}, with {peer.name} {shown[1]}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- Images and audio -------------------------------------------------------------------------------------------------


def _images(processor: ImageProcessor, peer: Peer, model: Model) -> list[str]:
    """The pixels of an image of the size to which others are resized, and of a larger and a smaller one."""
    if processor.channels != 3:
        raise NotComparable(f"they have {processor.channels} channels, and the example has 3")
    height, width = processor.resize_to or processor.size
    sizes = {(height, width): SAME_SIZE}
    if processor.fit != "none":  # otherwise the other library returns them in their own size
        sizes |= {(2 * height, 3 * width): RESIZED, (height + 5, width // 2 + 1): RESIZED}
    for size, tolerance in sizes.items():
        image = _noise_image(*size)
        theirs = _theirs(peer, peer.pixels, image)
        ours = processor(image)["pixel_values"][0]
        if ours.shape != theirs.shape:
            return _other_shape("pixel_values", ours, theirs, peer, model)
        scale = torch.tensor(processor.std).view(-1, 1, 1) / processor.rescale
        worst = ((ours - theirs).abs() * scale).max().item()
        if not worst <= tolerance:
            return [
                f"pixels of an image of {size[0]} x {size[1]} differ by {worst:.3g} gray levels from those of "
                f"{peer.name} (at most {tolerance:g} by rounding)"
            ]
    return []


def _noise_image(height: int, width: int) -> Any:
    from torchvision.transforms.v2.functional import to_pil_image

    generator = torch.Generator().manual_seed(0)
    return to_pil_image(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator))


def _audio(processor: AudioProcessor, peer: Peer, model: Model) -> list[str]:
    """The features of a waveform of at most a second, and of a shorter one."""
    rate = processor.sampling_rate
    longest = min(rate, processor.max_samples or rate)
    generator = torch.Generator().manual_seed(0)
    for length in (longest, (longest + processor.min_samples) // 2):
        wave = 0.1 * torch.randn(length, generator=generator)
        theirs = _theirs(peer, peer.features, wave, rate)
        name, values = next(iter(processor((wave, rate)).items()))
        ours = values[0]
        if ours.shape != theirs.shape:
            return _other_shape(name, ours, theirs, peer, model)
        worst = ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1)).item()
        if not worst <= FEATURES:
            return [
                f"{name} of {length} samples differ by {worst:.2g} from those of {peer.name} (at most {FEATURES:g})"
            ]
    return []


def _other_shape(name: str, ours: Tensor, theirs: Tensor, peer: Peer, model: Model) -> list[str]:
    """A difference in words. Raises NotComparable if ours is right: loading fits the preprocessing to the model."""
    shapes = f"{name} of {list(ours.shape)}, with {peer.name} {list(theirs.shape)}"
    if ours.shape == (taken := example_batch(model)[name].shape[1:]):
        raise NotComparable(f"the preprocessing makes {shapes}, and the model takes {list(taken)}")
    return [f"the preprocessing makes {shapes}"]


COMPARISONS: tuple[tuple[type, str, Callable[..., list[str]]], ...] = (
    (TextProcessor, "texts", _texts),
    (ImageProcessor, "images", _images),
    (AudioProcessor, "audio features", _audio),
    (WaveformFeatureExtractor, "symbols", _symbols),
)
