"""The tokenizer: sentencepiece, set up so that no text is lost and no text can pretend to be a marker.

What it is. Text becomes ids and ids become the same text again, for every string that is valid Unicode. Three kinds:
`bpe` (merges the most frequent pair, again and again), `unigram` (prunes a large vocabulary by likelihood) and `char`
(one id a character, for comparisons with character models).

    tokenizer = Tokenizer.train((d.text for d in documents()), TokenizerConfig(vocab_size=4096))
    ids = tokenizer.encode("to be,\\n    or not")
    assert tokenizer.decode(ids) == "to be,\\n    or not"

Why so.
- *Nothing is lost.* By default sentencepiece collapses spaces, puts one in front and normalises characters; here all of
  that is off, and a character outside the vocabulary falls back to its UTF-8 bytes, each of which is a piece. One
  character would still be lost: a space is written as U+2581, so U+2581 itself would come back as a space. Text is cut
  there and the bytes of the character are put in by id. Decoding joins the bytes of the pieces, nothing else.
- *Markers are ids, not strings.* Padding, beginning, end, roles and so on are CONTROL symbols, which the library never
  produces from text: a user who types `<|assistant|>` gets the pieces of `<`, `|` and so on.
- *White space is learnable.* Documents are fed whole, not line by line, so that newlines and runs of spaces can be
  (parts of) pieces. On the held-out twentieth of the built-in corpus this makes a bpe token (vocabulary 4096) 3.52
  bytes long instead of 3.31.
- *Memory is bounded* (`data.vocabulary`: a seeded sample of the corpus), and the same documents, configuration and
  library give the same model file, byte for byte.

Run it:
    python -m data.tokenizer train OUT [PATHS... | --builtin] [--kind bpe|unigram|char] [--vocab-size N] [--seed N]
    python -m data.tokenizer encode MODEL TEXT     (- reads standard input)
    python -m data.tokenizer decode MODEL IDS...
    python -m data.tokenizer inspect MODEL [--text FILE]

What it leaves out. Normalisation of any sort, sampling of segmentations, pre-tokenisation by regular expression. For
`char`, the characters U+2581, U+2585 and NUL are bytes (3, 3 and 1 of them), because the library has no piece for them;
every other character of the corpus is one id.
Papers: sentencepiece, Kudo & Richardson 2018; BPE, Sennrich et al. 2016; unigram, Kudo 2018.
"""

from __future__ import annotations

import argparse
import codecs
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from tqdm import tqdm

from configs import UserError, run_main
from data.corpus import CorpusConfig, documents
from data.files import whole_file
from data.vocabulary import MARKERS, ROLES, SPACE_MARK, TokenizerConfig, marker_piece, refuse_surrogates, train_model

PROBE = "  a\t b \n\n ﬁ① "  # what sentencepiece changes unless it is told not to: spaces, and these two characters
LONG_TEXT = 1 << 16  # characters above which a text is encoded in parts


class Tokenizer:
    """Text to ids and back. V = `vocab_size`; markers are attributes: `pad unk bos eos mask prefix suffix middle end`
    (`end` ends a turn), and `roles["user"]` and so on.

    `model_bytes` is the sentencepiece model file and all that a tokenizer is; `sha256` names it. `token_bytes` (V of
    them) and `byte_lengths` ((V,) int32) are what each id stands for; markers stand for nothing.
    """

    def __init__(self, model_bytes: bytes):
        """Raises `UserError` for bytes that are no model, or for a model that this module would not have made."""
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except (RuntimeError, UnicodeDecodeError):  # the second: a message of the library that quotes the damage
            raise UserError("this is no tokenizer model, or it is damaged; train or copy it again") from None
        self.model_bytes = model_bytes
        self.sha256 = hashlib.sha256(model_bytes).hexdigest()
        self.vocab_size: int = self._pieces.vocab_size()
        self._refuse_others()
        ids = range(len(MARKERS))
        self.pad, self.unk, self.bos, self.eos, self.mask, self.prefix, self.suffix, self.middle, self.end, *roles = ids
        self.roles: dict[str, int] = dict(zip(ROLES, roles))
        self.token_bytes: tuple[bytes, ...] = tuple(map(self._bytes_of, range(self.vocab_size)))
        self.byte_lengths = np.array([len(piece) for piece in self.token_bytes], np.int32)  # (V,)
        self._space_mark_ids = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        self._continues, self._joins, self._inner_byte = _word_tables(self.token_bytes)
        if self.decode(self.encode(PROBE)) != PROBE:
            raise UserError("this sentencepiece model changes text; train one with python -m data.tokenizer train")

    def _refuse_others(self) -> None:
        """Raise `UserError` unless the first ids are the markers, which no text can spell, and the 256 bytes."""
        pieces, markers = self._pieces, list(map(marker_piece, MARKERS))
        first = [*markers, *(f"<0x{byte:02X}>" for byte in range(256))]
        try:
            found = [pieces.id_to_piece(index) for index in range(self.vocab_size)]
        except ValueError:
            raise UserError("this tokenizer model has a piece that is no text; train or copy it again") from None
        kinds = [pieces.is_unknown if name == "unk" else pieces.is_control for name in MARKERS]
        if found[: len(markers)] != markers or not all(is_kind(index) for index, is_kind in enumerate(kinds)):
            raise UserError("this sentencepiece model lacks the markers; train one with python -m data.tokenizer train")
        if found[: len(first)] != first or not all(map(pieces.is_byte, range(len(markers), len(first)))):
            raise UserError("this sentencepiece model lacks the bytes; train one with python -m data.tokenizer train")
        if len(set(found)) < len(found):
            raise UserError("this tokenizer model has a piece twice; train or copy it again")

    @classmethod
    def train(cls, documents: Iterable[str], config: TokenizerConfig, progress: bool = False) -> Tokenizer:
        """Learn a vocabulary. Raises `UserError` for no text, too little for `vocab_size`, or a lone surrogate."""
        return cls(train_model(tqdm(documents, "reading text", unit=" documents", disable=not progress), config))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a model file. Raises `UserError` when it is missing or is no such file."""
        try:
            return cls(Path(path).read_bytes())
        except FileNotFoundError:
            raise UserError(f"there is no tokenizer {path}; train one with python -m data.tokenizer train") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write the model file; it appears whole or not at all."""
        path = Path(path)
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file for the tokenizer, such as {path / 'tokenizer.model'}")
        with whole_file(path) as file:
            file.write(self.model_bytes)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without markers. Raises `UserError` for a lone surrogate, which is no text."""
        if _is_plain(text):
            return self._encode([text])[0]
        ids: list[int] = []
        for place, between_marks in enumerate(text.split(SPACE_MARK)):
            ids += self._space_mark_ids if place else []
            for part in self._encode(list(_parts(between_marks))):
                ids += part
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`[encode(text) for text in texts]` on the library's threads, one for each core."""
        encoded = iter(self._encode([text for text in texts if _is_plain(text)]))
        return [next(encoded) if _is_plain(text) else self.encode(text) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a run of ids; markers have none. Raises `UserError` for an id outside the vocabulary."""
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise UserError(f"ids must lie between 0 and {self.vocab_size - 1}, got {min(ids)} to {max(ids)}")
        return b"".join([self.token_bytes[index] for index in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a run of ids; bytes that make no character (a model may write such) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def piece(self, index: int) -> str:
        """A token as people read it: a space as U+2581, a newline as an arrow, bytes and markers by name."""
        return self._pieces.id_to_piece(int(index)).replace("\n", "↵").replace("\r", "␍")

    def is_word_start(self, ids: np.ndarray) -> np.ndarray:
        """Which tokens of (..., T) begin a word: (..., T) bool, for masking whole words.

        A token continues a word when it goes on with a letter, digit or `_` where the token before ended with one or
        was a single space, or with the middle of a character in bytes. Marks, runs of white space and ideographs begin
        words of their own.
        """
        ids = np.asarray(ids)
        starts = ~self._inner_byte[ids]
        starts[..., 1:] &= ~(self._continues[ids[..., 1:]] & self._joins[ids[..., :-1]])
        starts[..., :1] = True
        return starts

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            return self._pieces.encode(texts)
        except TypeError:
            for text in texts:
                refuse_surrogates(text)
            raise

    def _bytes_of(self, index: int) -> bytes:
        piece = self._pieces.id_to_piece(index)
        if self._pieces.is_byte(index):
            return bytes([int(piece[3:5], 16)])
        if self._pieces.is_control(index) or self._pieces.is_unknown(index):
            return b""
        return piece.replace(SPACE_MARK, " ").encode()


class StreamDecoder:
    """Text out of ids that arrive one at a time, never half a character: a byte waits until its character is whole."""

    def __init__(self, tokenizer: Tokenizer):
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """Take one id, give the characters that it completes, possibly none."""
        return self._decoder.decode(self._token_bytes[index])

    def flush(self) -> str:
        """End the text: U+FFFD if a character was left unfinished, else nothing."""
        return self._decoder.decode(b"", final=True)


def _is_plain(text: str) -> bool:
    return len(text) <= LONG_TEXT and SPACE_MARK not in text


def _parts(text: str) -> Iterator[str]:
    """Cut a long text where it changes no id: no piece holds a space after another character, so none spans that place.

    This bounds the memory of the library. A text without spaces is cut where its length runs out.
    """
    boundary = re.compile("(?<=[^ ]) ")
    start = 0
    while len(text) - start > LONG_TEXT:
        found = boundary.search(text, start + LONG_TEXT // 2, start + LONG_TEXT)
        end = found.start() if found else start + LONG_TEXT
        yield text[start:end]
        start = end
    yield text[start:]


def _word_tables(token_bytes: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three (V,) bool: begins with a word character, lets a word go on after it, is a later byte of a character."""
    texts = [piece.decode("utf-8", "replace") for piece in token_bytes]
    inner_byte = [len(piece) == 1 and 0x80 <= piece[0] < 0xC0 for piece in token_bytes]
    continues = [_is_word_character(text[:1]) for text in texts]
    joins = [text == " " or _is_word_character(text[-1:]) for text in texts]
    return np.array(continues), np.array(joins), np.array(inner_byte)


def _is_word_character(character: str) -> bool:
    is_ideograph = "\u2e80" <= character <= "\ua4cf" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
    return (character.isalnum() or character == "_") and not is_ideograph


# Looking at it -------------------------------------------------------------------------------------------------------

SAMPLES = {
    "English": "The tokenizer reads a text and writes numbers; the same numbers give the same text again.\n",
    "documentation": "Return the sum of a 'start' value (default: 0) and numbers.\n\n    >>> sum([1, 2])\n    3\n",
    "code": "def area(width, height=1.0):\n    if width < 0:\n        raise ValueError\n    return width * height\n",
    "numbers": "3.14159 + 2,718 = 2721.14159; 1999-12-31 23:59:60\n",
    "Chinese": "分词器把文字变成数字,同样的数字再变回同样的文字。\n",
    "emoji": "👩‍🔬 tests 🧪, 🎉!\n",
}


def bytes_per_token_table(tokenizer: Tokenizer, samples: Mapping[str, str]) -> str:
    """How far a token reaches: for each named text its bytes, tokens, bytes per token, and the share of byte pieces."""
    lines = [f"{'sample':<16}{'bytes':>12}{'tokens':>12}{'bytes/token':>13}{'byte pieces':>13}"]
    for name, text in samples.items():
        ids = tokenizer.encode(text)
        size, fallback = len(text.encode()), sum(tokenizer.piece(index).startswith("<0x") for index in ids)
        each, share = (size / len(ids), fallback / len(ids)) if ids else (0.0, 0.0)
        lines.append(f"{name:<16}{size:>12,}{len(ids):>12,}{each:>13.2f}{share:>13.1%}")
    return "\n".join(lines)


def _describe(tokenizer: Tokenizer) -> str:
    ordinary = [index for index in range(len(MARKERS), tokenizer.vocab_size) if tokenizer.piece(index)[:3] != "<0x"]
    longest = sorted(ordinary, key=lambda index: (-tokenizer.byte_lengths[index], index))[:12]
    newline = sum(b"\n" in tokenizer.token_bytes[index] for index in ordinary)
    blank = sum(tokenizer.token_bytes[index].isspace() for index in ordinary)
    return (
        f"{tokenizer.vocab_size:,} ids: {len(MARKERS)} markers, 256 bytes, {len(ordinary):,} pieces, "
        f"{newline} of them with a newline, {blank} of white space only\n"
        f"sha256 {tokenizer.sha256}\n"
        f"longest pieces: {'  '.join(map(tokenizer.piece, longest))}"
    )


# Command -------------------------------------------------------------------------------------------------------------


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m data.tokenizer", description="Train and use a tokenizer.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="learn a vocabulary and write the model file OUT")
    train.add_argument("out")
    train.add_argument("paths", nargs="*", help="files and folders of text; none: the documentation of this Python")
    train.add_argument("--builtin", action="store_true", help="the documentation of this Python (the default)")
    train.add_argument("--kind", choices=("bpe", "unigram", "char"), default="bpe")
    train.add_argument("--vocab-size", type=int, default=TokenizerConfig.vocab_size, help="ignored for --kind char")
    train.add_argument("--seed", type=int, default=TokenizerConfig.seed)
    encode = commands.add_parser("encode", help="print the ids of TEXT")
    encode.add_argument("model")
    encode.add_argument("text", help="the text, or - for standard input")
    decode = commands.add_parser("decode", help="print the text of IDS")
    decode.add_argument("model")
    decode.add_argument("ids", nargs="*", type=int)
    inspect = commands.add_parser("inspect", help="print facts of the vocabulary and bytes per token")
    inspect.add_argument("model")
    inspect.add_argument("--text", help="a text file to measure beside the samples")
    arguments, rest = parser.parse_known_args(argv)
    if rest and (arguments.command != "train" or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.paths += rest  # argparse ends a list of paths at the first option
    return arguments


def _train_command(arguments: argparse.Namespace) -> None:
    if arguments.builtin and arguments.paths:
        raise UserError("give either --builtin or paths of text, not both")
    config = TokenizerConfig(arguments.kind, arguments.vocab_size, arguments.seed)
    texts = (document.text for document in documents(CorpusConfig(tuple(arguments.paths))))
    tokenizer = Tokenizer.train(texts, config, progress=True)
    tokenizer.save(arguments.out)
    print(f"{_describe(tokenizer)}\n\n{bytes_per_token_table(tokenizer, SAMPLES)}\n\nwritten to {arguments.out}")


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text (byte {error.start}); send UTF-8") from None


def main(argv: list[str]) -> None:
    arguments = _parse(argv)
    if arguments.command == "train":
        _train_command(arguments)
        return
    tokenizer = Tokenizer.load(arguments.model)
    if arguments.command == "encode":
        print(*tokenizer.encode(_standard_input() if arguments.text == "-" else arguments.text))
    elif arguments.command == "decode":
        print(tokenizer.decode(arguments.ids))
    else:
        samples = dict(SAMPLES)
        if arguments.text:
            samples[Path(arguments.text).name] = next(documents(CorpusConfig((arguments.text,)))).text
        print(f"{_describe(tokenizer)}\n\n{bytes_per_token_table(tokenizer, samples)}")


if __name__ == "__main__":
    run_main(main)
