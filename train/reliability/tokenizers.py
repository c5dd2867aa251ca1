"""Damaged tokenizers: a model file of sentencepiece is a message of protocol buffers, here taken apart and rebuilt."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.load import TOKENIZER as MODEL
from train.reliability.damage import BYTES, Damage, on, only

PIECE, TRAINER, NORMALIZER = 1, 2, 3  # fields of its message; all are length-delimited


def varint(raw: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (raw[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if raw[place - 1] < 0x80:
            return value, place


def as_varint(value: int) -> bytes:
    raw = bytearray()
    while value >= 0x80:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*raw, value])


def fields_of(raw: bytes) -> list[tuple[int, bytes]]:
    fields, place = [], 0
    while place < len(raw):
        tag, place = varint(raw, place)
        size, place = varint(raw, place)
        fields.append((tag >> 3, raw[place : place + size]))
        place += size
    return fields


def of_fields(fields: list[tuple[int, bytes]]) -> bytes:
    return b"".join(as_varint(field << 3 | 2) + as_varint(len(raw)) + raw for field, raw in fields)


def message_change(change: Callable[[list, random.Random], Any]) -> Damage:
    def changed(folder: Path, draw: random.Random) -> None:
        path = only(folder, MODEL)
        fields = fields_of(path.read_bytes())
        new = change(fields, draw)
        path.write_bytes(of_fields(fields if new is None else new))

    changed.__name__ = change.__name__
    return changed


def cut_inside_a_field(folder: Path, draw: random.Random) -> None:
    path = only(folder, MODEL)
    fields = fields_of(path.read_bytes())
    kept = draw.randrange(len(fields))
    whole, longer = of_fields(fields[:kept]), of_fields(fields[: kept + 1])
    path.write_bytes(longer[: draw.randrange(len(whole) + 1, len(longer))])


def cut_before_the_settings(fields: list, draw: random.Random) -> list:
    """At the end of a field, where the file still parses: pieces, or all but how text is normalised."""
    settings = next(place for place, (field, _) in enumerate(fields) if field == NORMALIZER)
    return fields[: draw.randrange(settings + 1)]


def byte_piece_missing(fields: list, draw: random.Random) -> None:
    del fields[draw.randrange(13, 13 + 256)]


def marker_missing(fields: list, draw: random.Random) -> None:
    del fields[draw.randrange(13)]


def marker_renamed(fields: list, draw: random.Random) -> None:
    place = draw.randrange(13)
    fields[place] = PIECE, fields[place][1].replace(b"<|", draw.choice([b"<x", b"[|", b"<\xff"]))


def marker_becomes_text(fields: list, draw: random.Random) -> None:
    """Type NORMAL or USER_DEFINED instead of CONTROL: text could encode to it."""
    place = draw.choice([0, *range(2, 13)])
    field, raw = fields[place]
    fields[place] = field, raw[:-1] + bytes([draw.choice([1, 4])])


def pieces_change_places(fields: list, draw: random.Random) -> None:
    """Ids of bytes or markers belong to others."""
    one, other = draw.sample(range(13 + 256), 2)
    fields[one], fields[other] = fields[other], fields[one]


def piece_given_twice(fields: list, draw: random.Random) -> None:
    pieces = [place for place, (field, _) in enumerate(fields) if field == PIECE]
    fields[draw.choice(pieces[270:])] = fields[draw.choice(pieces[:269])]


def other_normalisation(fields: list, draw: random.Random) -> None:
    """The settings by which sentencepiece loses text: a space in front, spaces collapsed."""
    place = next(place for place, (field, _) in enumerate(fields) if field == NORMALIZER)
    fields[place] = NORMALIZER, fields[place][1] + draw.choice([b"\x18\x01", b"\x20\x01", b"\x18\x01\x20\x01"])


def piece_without_text(fields: list, draw: random.Random) -> None:
    fields[draw.randrange(270, 380)] = PIECE, draw.choice([b"\x0a\x00", b"", b"\x0a\x02\xff\xfe", b"\x15\0\0\0\0"])


TOKENIZER_RULES = (
    "a sentencepiece model has no hash of its own (in checkpoints and shards it has one): broken or cut fields, "
    "missing, renamed, doubled or exchanged markers and bytes, markers that text could spell, settings that lose text"
)
TOKENIZER = (
    cut_inside_a_field,
    *map(message_change, (
        cut_before_the_settings, byte_piece_missing, marker_missing, marker_renamed, marker_becomes_text,
        pieces_change_places, piece_given_twice, other_normalisation, piece_without_text,
    )),
    *(on(damage, MODEL) for damage in BYTES if damage.__name__ in (
        "empty", "delete", "replace_by_folder", "overwrite", "replace_by_pickle")),
)  # fmt: skip


def tokenizer_of_another_run(folder: Path, draw: random.Random) -> None:
    """One that is fine by itself, with a piece less."""
    path = only(folder, MODEL)
    fields = fields_of(path.read_bytes())
    last = max(place for place, (field, _) in enumerate(fields) if field == PIECE)
    del fields[last]
    path.write_bytes(of_fields(fields))
