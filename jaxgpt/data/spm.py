"""SentencePiece models as Hugging Face tokenizers that give SentencePiece's own ids.

transformers' own conversion leaves the model's settings for white space aside, and a typed control symbol becomes that
symbol; here the model file decides. What may still differ: a Unigram text with two segmentations of equal score, since
SentencePiece adds in float32; and characters of six bytes or more that Unicode composes, such as half-width kana with
a voice mark. Source: `sentencepiece_model.proto`, `normalizer.cc` and `unigram_model.cc` of SentencePiece.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxgpt.data.typed_specials import keep_as_text
from jaxgpt.errors import UserError

_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # SentencePiece.Type
_SPACE = "▁"  # how SentencePiece writes a space


def read_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a SentencePiece model file (Unigram or BPE); UserError for anything else."""
    model = _parse(path)
    _refuse_unsupported(path, model)
    backend = tokenizers.Tokenizer(_unigram(model) if model.trainer_spec.model_type == _UNIGRAM else _bpe(model))
    backend.normalizer = _normalizer(model.normalizer_spec)
    pieces = [piece.piece for piece in model.pieces if piece.type in (_NORMAL, _USER_DEFINED)]
    if not any(_SPACE in piece[1:] for piece in pieces):
        # No piece spans two words, so words can be encoded (and remembered) one by one.
        backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never", split=True)
    backend.decoder = _decoder(model)
    if model.trainer_spec.model_type == _BPE:
        backend.add_tokens(_added(model, _USER_DEFINED, special=False))
    backend.add_special_tokens(_added(model, _CONTROL, special=True))
    backend.encode_special_tokens = True
    keep_as_text(backend, [piece.piece for piece in model.pieces if piece.type in (_UNKNOWN, _CONTROL, _BYTE)])
    return backend


def _parse(path: Path) -> Any:
    """SentencePiece's ModelProto, through the protobuf module that transformers brings."""
    from google.protobuf.message import DecodeError
    from transformers.utils.sentencepiece_model_pb2_new import ModelProto  # type: ignore[attr-defined]  # by protobuf

    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        model.Clear()
    if not model.pieces:
        raise UserError(f"{path} is not a SentencePiece model; give one, or a folder with tokenizer.json")
    return model


def _refuse_unsupported(path: Path, model: Any) -> None:
    types = {piece.type for piece in model.pieces}
    normalizer = model.normalizer_spec
    changes_space = normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces
    is_bpe = model.trainer_spec.model_type == _BPE
    for unsupported, what in (
        (model.trainer_spec.model_type not in (_UNIGRAM, _BPE), "model_type word or char"),
        (not types <= {_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE}, "unused pieces"),
        (model.trainer_spec.treat_whitespace_as_suffix, "treat_whitespace_as_suffix"),
        (not normalizer.escape_whitespaces, "escape_whitespaces=false"),
        (is_bpe and _USER_DEFINED in types and changes_space, "BPE with user-defined symbols and a dummy prefix"),
    ):
        if unsupported:
            raise UserError(
                f"{path}: a SentencePiece model with {what} has no equal among Hugging Face tokenizers; train one with "
                "model_type unigram and without that setting, or give a folder with tokenizer.json"
            )


def _unigram(model: Any) -> models.Unigram:
    best = max((piece.score for piece in model.pieces if piece.type == _NORMAL), default=0.0)
    # SentencePiece prefers a user-defined symbol by this score to whatever else could stand there.
    scores = [
        len(piece.piece.encode()) * best - 0.1 if piece.type == _USER_DEFINED else piece.score for piece in model.pieces
    ]
    # Scores are float32; only their short decimal form comes back unchanged from a tokenizer.json.
    short = [float(str(np.float32(score))) for score in scores]
    vocabulary = [(piece.piece, score) for piece, score in zip(model.pieces, short, strict=True)]
    return models.Unigram(vocabulary, model.trainer_spec.unk_id, model.trainer_spec.byte_fallback)


def _bpe(model: Any) -> models.BPE:
    from transformers.convert_slow_tokenizer import generate_merges

    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == _NORMAL}
    return models.BPE(
        vocab={piece.piece: number for number, piece in enumerate(model.pieces)},
        merges=generate_merges(dict(zip(scores, range(len(scores)), strict=True)), scores),
        unk_token=model.trainer_spec.unk_piece,
        fuse_unk=True,
        byte_fallback=model.trainer_spec.byte_fallback,
    )


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        charsmap = normalizers.Precompiled(spec.precompiled_charsmap)
        # It would take the two characters of this line end for one.
        steps += [normalizers.Replace("\r\n", charsmap.normalize_str("\r") + "\n"), charsmap]
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(tokenizers.Regex(r"\A +"), ""))
        steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(tokenizers.Regex(_SPACE + r"+\z"), ""))
    return normalizers.Sequence(steps)


def _decoder(model: Any) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(_SPACE, " ")]
    if model.trainer_spec.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if model.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _added(model: Any, kind: int, special: bool) -> list[tokenizers.AddedToken]:
    return [
        tokenizers.AddedToken(piece.piece, normalized=False, special=special)
        for piece in model.pieces
        if piece.type == kind
    ]
