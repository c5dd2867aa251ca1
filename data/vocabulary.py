"""Learning a vocabulary: from a stream of texts to the bytes of a sentencepiece model.

What it is. The half of the tokenizer that runs once: it draws a sample of the corpus, hands it to the trainer of the
library with the settings that lose no text (see `data.tokenizer`), and turns the trainer's complaints into sentences.

Why so. sentencepiece keeps all text that it is given, several times over (10 million sentences: about 70 GB,
sentencepiece#702), and samples lines, not bytes. So the sample is drawn here: uniform over the whole stream, seeded,
and of bounded size. And its trainer, made for lines, leaves things out without a word: sentences longer than a limit
and any sentence that holds U+2585. So documents are cut into chunks below the limit, and at that character.

Run it:  python -m data.tokenizer train OUT

What it leaves out. Multiple threads: `num_threads` is written into the model file, so it is fixed.
"""

from __future__ import annotations

import heapq
import io
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import sentencepiece

from configs import UserError, check

SPACE_MARK = "\u2581"  # how sentencepiece writes a space inside a piece
UNKNOWN_MARK = "\u2585"  # how its trainer writes a rare character
ROLES = ("system", "user", "assistant", "tool")
MARKERS = ("pad", "unk", "bos", "eos", "mask", "prefix", "suffix", "middle", "end", *ROLES)  # of ids 0, 1, 2, ...
SMALLEST_VOCABULARY = len(MARKERS) + 256 + 1
CHUNK = 4096  # characters that the trainer sees in one piece


@dataclass(frozen=True)
class TokenizerConfig:
    """How a tokenizer is trained.

    kind: "bpe", "unigram" or "char". For "char" the vocabulary is every character of the whole corpus; `vocab_size`,
        `sample_bytes`, `split_digits` and `character_coverage` are then ignored.
    vocab_size: number of ids, the 13 markers and 256 byte pieces included.
    seed: of the sample; without influence while the corpus is smaller than `sample_bytes`.
    sample_bytes: how much text the trainer sees. Its memory is a multiple of this: about 1 GB for 64 MiB and bpe;
        unigram needs more, and minutes where bpe needs seconds.
    split_digits: each digit is a piece of its own, so that numbers are read alike everywhere.
    character_coverage: the share of the sample whose characters become pieces; the rarest are left to bytes.
    """

    kind: Literal["bpe", "unigram", "char"] = "bpe"
    vocab_size: int = 4096
    seed: int = 0
    sample_bytes: int = 64 << 20
    split_digits: bool = True
    character_coverage: float = 0.9995

    def __post_init__(self):
        problems = []
        if self.kind not in ("bpe", "unigram", "char"):
            problems.append(f"kind must be 'bpe', 'unigram' or 'char', got {self.kind!r}")
        if self.vocab_size < SMALLEST_VOCABULARY:
            problems.append(f"vocab_size must be at least {SMALLEST_VOCABULARY}, got {self.vocab_size}")
        if self.sample_bytes < 1:
            problems.append(f"sample_bytes must be positive, got {self.sample_bytes}")
        if not 0.98 <= self.character_coverage <= 1:
            problems.append(f"character_coverage must lie between 0.98 and 1, got {self.character_coverage}")
        check(problems)


def train_model(texts: Iterable[str], config: TokenizerConfig) -> bytes:
    """The bytes of a model file, the same for the same texts and configuration.

    Raises `UserError` when there is no text, too little for the vocabulary, or a lone surrogate in it.
    """
    if config.kind == "char":
        return _train_characters(texts)
    sample = sample_chunks(_chunks(texts), config.sample_bytes, config.seed)
    return _run_trainer(
        sample,
        config.vocab_size,
        model_type=config.kind,
        split_digits=config.split_digits,
        character_coverage=config.character_coverage,
        max_sentence_length=4 * CHUNK,
    )


def refuse_surrogates(text: str) -> None:
    """Raise `UserError` for a string that has no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds half of a surrogate pair at character {error.start}, which is no text; remove it"
        ) from None


def _chunks(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        refuse_surrogates(text)
        for part in re.split(f"[{SPACE_MARK}{UNKNOWN_MARK}]", text):
            yield from (part[start : start + CHUNK].encode() for start in range(0, len(part), CHUNK))


def sample_chunks(chunks: Iterable[bytes], limit: int, seed: int) -> list[bytes]:
    """A uniform sample of at most `limit` bytes, in the order of the stream: the chunks with the smallest random keys.

    The heap gives up the largest key first; after that no larger key can enter, so that memory stays within `limit`
    however long the stream is, and what is kept does not depend on where in the stream it stood.
    """
    draw = random.Random(seed).random
    kept: list[tuple[float, int, bytes]] = []  # (minus the key, place in the stream, chunk)
    size, bound = 0, 1.0
    for place, chunk in enumerate(chunks):
        key = draw()
        if key >= bound:
            continue
        heapq.heappush(kept, (-key, place, chunk))
        size += len(chunk)
        while size > limit:
            negative, _, dropped = heapq.heappop(kept)
            size, bound = size - len(dropped), -negative
    return [chunk for _, _, chunk in sorted(kept, key=lambda item: item[1])]


def _train_characters(texts: Iterable[str]) -> bytes:
    characters: set[str] = set()
    for text in texts:
        refuse_surrogates(text)
        characters.update(text)
    characters -= {SPACE_MARK, UNKNOWN_MARK, "\0"}  # the library allows no piece for these: they stay bytes
    alphabet = "".join(sorted(characters)).encode()
    vocab_size = SMALLEST_VOCABULARY + len(characters)
    return _run_trainer([alphabet], vocab_size, model_type="char", use_all_vocab=True, max_sentence_length=1 << 23)


def _run_trainer(sentences: list[bytes], vocab_size: int, **options) -> bytes:
    if not any(sentence.strip() for sentence in sentences):
        raise UserError("there is no text to train a tokenizer on; give documents that hold some")
    ids = {f"{name}_id": index for index, name in enumerate(MARKERS[:4])}
    pieces = {f"{name}_piece": marker_piece(name) for name in MARKERS[:4]}
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            control_symbols=[marker_piece(name) for name in MARKERS[4:]],
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            minloglevel=2,
            num_threads=2,
            **ids,
            **pieces,
            **options,
        )
    except RuntimeError as error:
        raise UserError(_explain(str(error), vocab_size)) from None
    return model.getvalue()


def marker_piece(name: str) -> str:
    """How a marker is called inside the model file; no text encodes to it."""
    return f"<|{name}|>"


def _explain(message: str, vocab_size: int) -> str:
    """The trainer's complaint as a sentence with a remedy."""
    if found := re.search(r"value <= (\d+)", message):
        return f"vocab_size {vocab_size} is more than this text allows; use {found[1]} or less, or give more text"
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size {vocab_size} is too small for the characters of this text; use {found[1]} or more, or a lower "
            "character_coverage"
        )
    return f"the tokenizer could not be trained ({message.strip()}); give more text"
