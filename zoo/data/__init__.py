"""Readers, whole-batch augmentation and keyed loaders: a batch is a pure function of (seed, step)."""

from zoo.lazy import names_from

_HOME = {
    "AugmentSettings": "settings",
    "DataSettings": "settings",
    "TextDataSettings": "text_settings",
    "Augment": "augment",
    "SpecAugment": "spec_augment",
    "Card": "cards",
    "load_card": "cards",
    "list_cards": "cards",
    "DataError": "decode",
    "ImageSet": "images",
    "ImageSets": "images",
    "load_images": "images",
    "draw_images": "embedded",
    "TextSet": "text",
    "TextSets": "text",
    "load_texts": "text",
    "PairDataSettings": "pairs_settings",
    "SoundPairSettings": "pairs_settings",
    "PairSet": "pairs",
    "PairSets": "pairs",
    "load_pairs": "pairs",
    "load_sound_pairs": "pairs_sounds",
    "draw_pairs": "pairs_drawn",
    "PairModule": "pairs_batches",
    "compose_sentences": "sentences",
    "compose_stories": "stories",
    "AudioDataSettings": "audio_settings",
    "SpeechSettings": "audio_settings",
    "SoundSet": "audio",
    "SoundSets": "audio",
    "load_sounds": "audio",
    "load_speech": "speech",
    "synthesise_sounds": "synthesis",
    "spell_tones": "synthesis",
    "ImageModule": "loader",
    "KeyedBatches": "loader",
}
__all__ = sorted(_HOME)
__getattr__ = names_from(__name__, _HOME)
