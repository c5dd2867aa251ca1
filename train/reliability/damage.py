"""Ways to damage files, each by a rule that makes the result malformed beyond doubt (`malformed` tries them).

A damage is a function (folder, draw): it changes the copy of a good input in place, by the random numbers of `draw`.
"""

from __future__ import annotations

import copy
import gzip
import json
import pickle
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.formats import write_rows

Damage = Callable[[Path, random.Random], None]
DEEP, LONG_NUMBER = "[" * 100_000, "9" * 5_000


# Bytes: for files that a hash covers, anything goes -------------------------------------------------------------------


def flip_bit(path: Path, draw: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)


def truncate(path: Path, draw: random.Random) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: draw.randrange(len(raw))])


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def append(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randint(1, 64)))


def delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def replace_by_folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def overwrite(path: Path, draw: random.Random) -> None:
    """Zeros, noise or another kind of file, of the same length."""
    size = path.stat().st_size
    noise = draw.choice([bytes(size), draw.randbytes(size), (b"<html>" * size)[:size]])
    path.write_bytes(noise)


def replace_by_pickle(path: Path, draw: random.Random) -> None:
    path.write_bytes(pickle.dumps({"model": [1.0, 2.0]}, draw.randint(0, 5)))


def drop_middle(path: Path, draw: random.Random) -> None:
    """A lost block: the file is shorter and what follows has moved."""
    raw = path.read_bytes()
    start = draw.randrange(len(raw))
    path.write_bytes(raw[:start] + raw[start + draw.randint(1, 512) :])


BYTES = (flip_bit, truncate, empty, append, delete, replace_by_folder, overwrite, replace_by_pickle, drop_middle)


def only(folder: Path, name: str) -> Path:
    """The first file of that name below a folder."""
    return next(iter(sorted(folder.rglob(name))))


def on(damage: Damage, *names: str) -> Damage:
    """The damage done to one of these files (patterns below the folder)."""

    def damaged(folder: Path, draw: random.Random) -> None:
        found = [path for name in names for path in sorted(folder.rglob(name)) if path.is_file()]
        damage(draw.choice(found), draw)

    damaged.__name__ = f"{damage.__name__} in {names[0] if len(names) == 1 else 'a file'}"
    return damaged


def text(change: Callable[[str, random.Random], str | bytes], *names: str) -> Damage:
    """A change of the text of one of these files."""

    def changed(path: Path, draw: random.Random) -> None:
        new = change(path.read_text("utf-8"), draw)
        path.write_bytes(new if isinstance(new, bytes) else new.encode("utf-8", "surrogatepass"))

    changed.__name__ = change.__name__
    return on(changed, *names)


# JSON text ------------------------------------------------------------------------------------------------------------


def structure(source: str) -> list[int]:
    """Places of the characters of JSON that are not inside a string; the quotes belong to them."""
    places, inside, escaped = [], False, False
    for place, character in enumerate(source):
        if inside and escaped:
            escaped = False
        elif inside and character == "\\":
            escaped = True
        elif character == '"':
            inside = not inside
            places.append(place)
        elif not inside and character in "{}[]:,":
            places.append(place)
    return places


def lose_a_mark(source: str, draw: random.Random) -> str:
    """One bracket, quote, colon or comma less."""
    place = draw.choice(structure(source))
    return source[:place] + source[place + 1 :]


def cut_short(source: str, draw: random.Random) -> str:
    """The end is missing, the last bracket at least."""
    return source.rstrip()[: draw.randrange(1, len(source.rstrip()))]


def control_character(source: str, draw: random.Random) -> str:
    """A raw NUL or another control character inside a string, where JSON and TOML forbid it."""
    quotes = [place for place in structure(source) if source[place] == '"'][::2]
    place = draw.choice(quotes) + 1
    return source[:place] + draw.choice("\0\x01\x1f") + source[place:]


def wrong_bytes(source: str, draw: random.Random) -> bytes:
    """A byte that UTF-8 never has."""
    raw = source.encode()
    place = draw.randrange(len(raw) + 1)
    return raw[:place] + bytes([draw.choice([0xC0, 0xFF, 0xFE])]) + raw[place:]


def utf_16(source: str, draw: random.Random) -> bytes:
    return source.encode(draw.choice(["utf-16", "utf-16-le", "utf-16-be"]))


def nothing(source: str, draw: random.Random) -> str:
    return draw.choice(["", " ", "\n\n", "\t\n"])


def nested_too_deep(source: str, draw: random.Random) -> str:
    return draw.choice([DEEP, '{"a":' * 100_000, f'{{"a": {DEEP}'])


def number_too_long(source: str, draw: random.Random) -> str:
    return f'{{"a": {LONG_NUMBER}}}'


def another_kind(source: str, draw: random.Random) -> str:
    return draw.choice(["3", '"text"', "null", "[1, 2]", "true", "NaN", "not JSON", "{} {}", "{'a': 1}"])


JSON_TEXT = (
    lose_a_mark, cut_short, control_character, wrong_bytes, utf_16, nothing, nested_too_deep, number_too_long,
    another_kind,
)  # fmt: skip


# Rows -----------------------------------------------------------------------------------------------------------------

ROWS_RULES = (
    "broken JSON, bytes that are no UTF-8, a key of the format missing, given twice or of another type, unknown roles, "
    "rows that rate or compare, gzip files with a wrong byte or end"
)
GOOD_ROWS: list[tuple[dict[str, Any], list[str]]] = [  # with the keys that must be there, and be text
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, ["instruction", "output"]),
    ({"prompt": "1+1=", "completion": "2"}, ["prompt", "completion"]),
    ({"question": "2+2?", "answer": "4"}, ["question", "answer"]),
    ({"text": "从前有座山"}, ["text"]),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, ["role", "content"]),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ["from", "value"]),
    ({"instruction": "Double.", "instances": [{"input": "1", "output": "2"}]}, ["instruction", "output"]),
]
OTHER_ROWS = [
    {}, {"a": 1}, {"prompt": "q", "chosen": "a", "rejected": "b"}, {"messages": [], "label": True}, {"messages": []},
    {"prompt": "q", "completion": "a", "label": False}, {"messages": [{"role": "boss", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, {"conversations": ["a", "b"]},
    {"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}, {"messages": {"role": "user"}},
    {"instruction": "q", "output": "a", "history": [["one"]]}, {"instruction": "q", "instances": []},
]  # fmt: skip


def write_rows_of_all_kinds(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_rows(folder / "rows.jsonl", [row for row, _ in GOOD_ROWS] * 2)


def only_file(folder: Path) -> Path:
    """The file of rows, whatever the damage has called it."""
    return next(iter(folder.iterdir()), folder / "rows.jsonl")


def in_a_line(change: Callable[[str, random.Random], str | bytes]) -> Damage:
    """The change is made to one line of the file."""

    def change_line(source: str, draw: random.Random) -> bytes:
        lines = [line.encode() for line in source.splitlines()]
        chosen = draw.randrange(len(lines))
        new = change(lines[chosen].decode(), draw)
        lines[chosen] = new if isinstance(new, bytes) else new.encode("utf-8", "surrogatepass")
        return b"\n".join(lines)

    change_line.__name__ = change.__name__
    return text(change_line, "rows.jsonl")


def row_like(line: str) -> tuple[dict[str, Any], list[str]]:
    return copy.deepcopy(next((row, keys) for row, keys in GOOD_ROWS if row == json.loads(line)))


def places_of(row: Any, keys: list[str]) -> Iterator[tuple[dict, str]]:
    """Every (object, key) in a row whose key is one of these."""
    for key, value in row.items() if isinstance(row, dict) else ():
        if key in keys:
            yield row, key
        for item in value if isinstance(value, list) else ():
            yield from places_of(item, keys)


def key_missing(line: str, draw: random.Random) -> str:
    row, keys = row_like(line)
    owner, key = draw.choice(list(places_of(row, keys)))
    del owner[key]
    return json.dumps(row)


def value_of_another_type(line: str, draw: random.Random) -> str:
    row, keys = row_like(line)
    owner, key = draw.choice(list(places_of(row, keys)))
    owner[key] = draw.choice([None, 5, 0.5, True, {"a": "b"}, float("nan"), 10**400])
    return json.dumps(row)


def key_twice(line: str, draw: random.Random) -> str:
    row, _ = row_like(line)
    return f'{{"{next(iter(row))}": "another", {json.dumps(row)[1:]}'


def half_a_surrogate(line: str, draw: random.Random) -> str:
    row, keys = row_like(line)
    owner, key = draw.choice([found for found in places_of(row, keys) if found[1] not in ("role", "from")])
    owner[key] += draw.choice(["\ud83d", "\udc00"])
    return json.dumps(row)


def row_of_no_format(line: str, draw: random.Random) -> str:
    return json.dumps(draw.choice(OTHER_ROWS))


def array_cut_short(folder: Path, draw: random.Random) -> None:
    rows = json.dumps([row for row, _ in GOOD_ROWS], indent=draw.choice([None, 1]))
    (folder / "rows.jsonl").write_text(cut_short(rows, draw), "utf-8")


def damaged_gzip(folder: Path, draw: random.Random) -> None:
    raw = bytearray(gzip.compress((folder / "rows.jsonl").read_bytes()))
    place = draw.randrange(10, len(raw))  # behind the header, in which a flip may be harmless
    raw[place] ^= 1 << draw.randrange(8)
    (folder / "rows.jsonl").unlink()
    (folder / "rows.jsonl.gz").write_bytes(draw.choice([raw, raw[:place], b"plain text"]))


LINES = (lose_a_mark, cut_short, control_character, wrong_bytes, nested_too_deep, number_too_long, key_missing,
         value_of_another_type, key_twice, half_a_surrogate, row_of_no_format)  # fmt: skip
ROWS = (
    *map(in_a_line, LINES), *(text(change, "rows.jsonl") for change in (utf_16, nothing, another_kind)),
    *(on(damage, "rows.jsonl") for damage in (empty, delete, replace_by_folder, overwrite, replace_by_pickle)),
    array_cut_short, damaged_gzip,
)  # fmt: skip


# Configuration --------------------------------------------------------------------------------------------------------

CONFIG_RULES = (
    "broken TOML, unknown keys, keys and tables given twice, values of another type, out of their range, not finite or "
    "beyond 64 bits, in the file and as arguments"
)
OUT_OF_RANGE = (
    "train.steps=0", "train.batch_size=-1", "train.log_every=-1", "optimizer.lr=0.0", "optimizer.beta1=1.0",
    "optimizer.weight_decay=-0.1", "schedule.decay=0.0", "schedule.floor=1.5", "model.heads=0", "model.width=-4",
    "model.dropout=1.5", "data.split.validation=1.0", "data.tokenizer.vocab_size=1", "infill_rate=2.0",
    "masking.share=0.0", "train.guard.window=1", "train.faults=['melt']", "objective='masked'", "data.folder=''",
)  # fmt: skip
BAD_ARGUMENTS = (
    "", "=", "=5", "train.steps", "train.steps=", "train.steps=x", "train.steps=1.5", "train.steps=[1]", "train=5",
    "train.steps.more=1", "nosuch=1", "train.stesp=5", "model.causal=1", "objective=gpt", "train.faults=[1]",
    "train.faults=[[", "optimizer.lr=nan", "optimizer.lr=inf", "seed=1e3", f"seed={10**30}", f"seed={LONG_NUMBER}",
    f"seed={DEEP}", "seed='1'", "optimizer.lr=true", "train.guard={}x", "train.guard.spike=-1", "model.heads=\0",
    *(setting.replace("'", "") for setting in OUT_OF_RANGE if "'" not in setting),
)  # fmt: skip
OTHER_VALUES = {bool: ["1", "'true'"], int: ["'x'", "1.5", "true", "[1]"], float: ["'x'", "true", "[0.5]"],
                str: ["5", "true", "['x']"], list: ["'x'", "5", "{a = 1}"]}  # fmt: skip


def arguments_of(folder: Path) -> list[str]:
    path = folder / "arguments.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def wrong_argument(folder: Path, draw: random.Random) -> None:
    (folder / "arguments.json").write_text(json.dumps([draw.choice(BAD_ARGUMENTS)]), "utf-8")


def settings(source: str) -> list[tuple[int, str, str]]:
    """(line, key, value) of every setting of a file."""
    found = []
    for number, line in enumerate(source.splitlines()):
        key, equals, value = line.partition(" = ")
        if equals:
            found.append((number, key, value))
    return found


def with_line(source: str, number: int, line: str) -> str:
    lines = source.splitlines()
    lines[number] = line
    return "\n".join(lines) + "\n"


def unknown_key(source: str, draw: random.Random) -> str:
    number, key, value = draw.choice(settings(source))
    return with_line(source, number, f"{key}{draw.choice(['x', '_', '-', '2', '.a'])} = {value}")


def setting_of_another_type(source: str, draw: random.Random) -> str:
    number, key, value = draw.choice(settings(source))
    kind = type(tomllib.loads(f"x = {value}")["x"])
    return with_line(source, number, f"{key} = {draw.choice(OTHER_VALUES[kind])}")


def setting_out_of_range(source: str, draw: random.Random) -> str:
    name, _, value = draw.choice(OUT_OF_RANGE).partition("=")
    table, _, key = name.rpartition(".")
    found = re.search(rf"(?:^|\n)\[{re.escape(table)}\]\n(?:[^\[]*\n)??({key} = .*)", source) if table else None
    found = found or re.search(rf"(?:^|\n)({key} = .*)", source)
    return source[: found.start(1)] + f"{key} = {value}" + source[found.end(1) :]


def not_finite(source: str, draw: random.Random) -> str:
    number, key, _ = draw.choice([found for found in settings(source) if re.fullmatch(r"-?\d*\.\d+|\d.*e.*", found[2])])
    return with_line(source, number, f"{key} = {draw.choice(['nan', 'inf', '-inf', '1e999'])}")


def beyond_64_bits(source: str, draw: random.Random) -> str:
    number, key, _ = draw.choice([found for found in settings(source) if found[2].isdigit()])
    return with_line(source, number, f"{key} = {draw.choice([str(2**63), str(10**30), LONG_NUMBER, '0x' + 'f' * 40])}")


def lost_equals(source: str, draw: random.Random) -> str:
    number, key, value = draw.choice(settings(source))
    return with_line(source, number, draw.choice([f"{key} {value}", f"{key} =", f"= {value}", f"{key} : {value}"]))


def open_string(source: str, draw: random.Random) -> str:
    number, key, value = draw.choice([found for found in settings(source) if found[2].startswith('"')])
    return with_line(source, number, f"{key} = {value[:-1]}")


def setting_twice(source: str, draw: random.Random) -> str:
    number, key, value = draw.choice(settings(source))
    return with_line(source, number, f"{key} = {value}\n{key} = {value}")


def table_twice(source: str, draw: random.Random) -> str:
    return source + "\n" + draw.choice(re.findall(r"\n(\[[\w.]+\]\n)", source))


def value_nested_too_deep(source: str, draw: random.Random) -> str:
    number, key, _ = draw.choice(settings(source))
    return with_line(source, number, f"{key} = " + draw.choice([DEEP, "{a=" * 50_000]))


def byte_order_or_nul(source: str, draw: random.Random) -> str:
    place = draw.randrange(len(source))
    return source[:place] + draw.choice("\0\x07\x7f") + source[place:]


CONFIG = (
    *(text(change, "config.toml") for change in (
        unknown_key, setting_of_another_type, setting_out_of_range, not_finite, beyond_64_bits, lost_equals,
        open_string, setting_twice, table_twice, value_nested_too_deep, byte_order_or_nul, wrong_bytes, utf_16,
    )),
    *(on(damage, "config.toml") for damage in (delete, replace_by_folder, overwrite, replace_by_pickle)),
    *[wrong_argument] * 6,
)  # fmt: skip
