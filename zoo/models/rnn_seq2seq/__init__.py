"""Recurrent encoder-decoders: one vector (Sutskever, Cho 2014) and attention (Bahdanau 2014, Luong 2015)."""

from zoo.models.rnn_seq2seq.model import FAMILY, RnnSeq2Seq, RnnSeq2SeqConfig

__all__ = ["FAMILY", "RnnSeq2Seq", "RnnSeq2SeqConfig"]
