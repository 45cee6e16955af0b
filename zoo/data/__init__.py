"""Readers, whole-batch augmentation and keyed loaders: a batch is a pure function of (seed, step)."""

from zoo.utils.lazy import names_from

_HOME = {
    "AugmentSettings": "zoo.data.config",
    "DataSettings": "zoo.data.config",
    "TextDataSettings": "zoo.data.config",
    "Augment": "zoo.data.image.augment",
    "SpecAugment": "zoo.data.audio.spec_augment",
    "Card": "zoo.data.sources.dataset_cards",
    "load_card": "zoo.data.sources.dataset_cards",
    "list_cards": "zoo.data.sources.dataset_cards",
    "DataError": "zoo.utils.errors",
    "ImageSet": "zoo.data.image.dataset",
    "ImageSets": "zoo.data.image.dataset",
    "load_images": "zoo.data.image.load",
    "draw_images": "zoo.data.synthetic.shapes",
    "TextSet": "zoo.data.text.dataset",
    "TextSets": "zoo.data.text.dataset",
    "load_texts": "zoo.data.text.load",
    "PairDataSettings": "zoo.data.config",
    "SoundPairSettings": "zoo.data.config",
    "PairSet": "zoo.data.pairs.dataset",
    "PairSets": "zoo.data.pairs.dataset",
    "load_pairs": "zoo.data.pairs.load",
    "load_sound_pairs": "zoo.data.pairs.audio",
    "draw_pairs": "zoo.data.synthetic.scenes",
    "PairModule": "zoo.data.pairs.datamodule",
    "compose_sentences": "zoo.data.synthetic.sentences",
    "compose_stories": "zoo.data.synthetic.stories",
    "AudioDataSettings": "zoo.data.config",
    "SpeechSettings": "zoo.data.config",
    "SoundSet": "zoo.data.audio.dataset",
    "SoundSets": "zoo.data.audio.dataset",
    "load_sounds": "zoo.data.audio.load",
    "load_speech": "zoo.data.audio.speech",
    "synthesise_sounds": "zoo.data.synthetic.audio",
    "spell_tones": "zoo.data.synthetic.audio",
    "ImageModule": "zoo.data.image.datamodule",
    "KeyedBatches": "zoo.data.keyed_batches",
}
__all__ = sorted(_HOME)
__getattr__ = names_from(__name__, _HOME)
