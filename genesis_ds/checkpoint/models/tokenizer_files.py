"""The tokenizer of an export: its own file, if it has one, and the form that transformers reads.

Both give the same ids on any text. Neither adds a special token to a text, nor takes the spelling of one for it.
"""

import json
from pathlib import Path
from typing import Any

from genesis_ds.checkpoint.load.sources import TOKENIZER
from genesis_ds.tokenizer.ids import SPECIALS

AS_IT_STANDS = {"split_special_tokens": True, "clean_up_tokenization_spaces": False}
"""The spelling of a special token in a text is text, and no space is taken out of what is decoded."""


def write_tokenizer(directory: Path, model_file: str | None, longest: int) -> None:
    """Write the files of a tokenizer into a directory.

    model_file: the path of a SentencePiece model; None for bytes. longest: tokens that the model takes.
    """
    if model_file is None:
        tokenizer_json = _of_bytes()
    else:
        content = Path(model_file).read_bytes()
        (directory / TOKENIZER).write_bytes(content)
        tokenizer_json = _of_pieces(content)
    pad, unk, bos, eos = SPECIALS
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "unk_token": unk,
        "bos_token": bos,
        "eos_token": eos,
        "model_max_length": longest,
        "padding_side": "left",  # as generation needs it
        **AS_IT_STANDS,
    }
    for name, data in (("tokenizer.json", tokenizer_json), ("tokenizer_config.json", config)):
        (directory / name).write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _of_bytes() -> dict[str, Any]:
    """Bytes spelled in the alphabet of GPT-2.

    Not in `<0x0A>` and the like: the decoder of those makes a whole text U+FFFD for one character that is cut.
    """
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    vocabulary = [*SPECIALS, *_gpt2_alphabet()]
    return _tokenizer(vocabulary, [], byte_fallback=False, pre_tokenizer=level, decoder=level)


def _of_pieces(model: bytes) -> dict[str, Any]:
    """The pieces of a SentencePiece model, with a space where it writes U+2581: that one is spelled in bytes then.

    SentencePiece joins the neighbours whose piece has the highest score; here each pair that makes it has its rank.
    """
    import sentencepiece as spm  # a byte-level export does without the library

    from genesis_ds.tokenizer.sentencepiece import SPACE_MARK

    processor = spm.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i).replace(SPACE_MARK, " ") for i in range(processor.vocab_size())]
    text = {pieces[i]: i for i in range(len(SPECIALS), len(pieces)) if not processor.is_byte(i)}
    ranked = sorted(text, key=lambda piece: (-processor.get_score(text[piece]), text[piece]))
    merges = [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in text and piece[cut:] in text
    ]
    fallback = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return _tokenizer(pieces, merges, byte_fallback=True, pre_tokenizer=None, decoder=fallback)


def _tokenizer(
    pieces: list[str],
    merges: list[tuple[str, str]],
    *,
    byte_fallback: bool,
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of a tokenizer.json."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": content, **plain} for number, content in enumerate(SPECIALS)],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": byte_fallback,
            "ignore_merges": False,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": merges,
        },
    }


def _gpt2_alphabet() -> list[str]:
    """Return the character that stands for each byte: itself where it is printed, else one from U+0100 on, in order."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printed]
    return [chr(byte) if byte in printed else chr(0x100 + others.index(byte)) for byte in range(256)]
