"""Datasets, batched augmentation and reproducible data loading: a batch is a pure function of (seed, step)."""

from zoo.utils.lazy import lazy_attributes

_HOME = {
    "AugmentSettings": "zoo.data.augment_config",
    "DataSettings": "zoo.data.config",
    "TextDataSettings": "zoo.data.config",
    "Augment": "zoo.data.image.augment",
    "SpecAugment": "zoo.data.audio.spec_augment",
    "Card": "zoo.data.sources.dataset_cards",
    "load_card": "zoo.data.sources.dataset_cards",
    "list_cards": "zoo.data.sources.dataset_cards",
    "DataError": "zoo.utils.errors",
    "ImageDataset": "zoo.data.image.dataset",
    "ImageSplits": "zoo.data.image.dataset",
    "load_images": "zoo.data.image.load",
    "make_images": "zoo.data.synthetic.shapes",
    "TextDataset": "zoo.data.text.dataset",
    "load_texts": "zoo.data.text.load",
    "PairDataSettings": "zoo.data.config",
    "AudioPairSettings": "zoo.data.config",
    "PairDataset": "zoo.data.pairs.dataset",
    "PairSplits": "zoo.data.pairs.dataset",
    "load_pairs": "zoo.data.pairs.load",
    "load_audio_pairs": "zoo.data.pairs.audio",
    "make_pairs": "zoo.data.synthetic.scenes",
    "PairDataModule": "zoo.data.pairs.datamodule",
    "make_sentences": "zoo.data.synthetic.sentences",
    "make_stories": "zoo.data.synthetic.stories",
    "AudioDataSettings": "zoo.data.config",
    "SpeechSettings": "zoo.data.config",
    "AudioDataset": "zoo.data.audio.dataset",
    "AudioSplits": "zoo.data.audio.dataset",
    "load_audio": "zoo.data.audio.load",
    "load_speech": "zoo.data.audio.speech",
    "make_audio": "zoo.data.synthetic.audio",
    "make_speech": "zoo.data.synthetic.audio",
    "ImageDataModule": "zoo.data.image.datamodule",
    "KeyedBatches": "zoo.data.keyed_batches",
    "Splits": "zoo.data.splits",
}
__all__ = sorted(_HOME)
__getattr__ = lazy_attributes(__name__, _HOME)
