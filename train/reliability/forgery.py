"""Damaged and forged checkpoints and token shards (see `damage` for the idea).

Damage breaks a hash. A forgery has the right hashes and lies all the same: a header that tells of other sizes, a
configuration of another model, a tokenizer that loses text. It must be refused for what it says.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.load import CHAT, DESCRIPTION, WEIGHTS
from model.load import TOKENIZER as MODEL
from model.storage import MANIFEST
from train.reliability.damage import BYTES, DEEP, JSON_TEXT, Damage, delete, on, only, replace_by_folder, text, truncate
from train.reliability.tokenizers import tokenizer_of_another_run
from train.run import OPTIMIZER, STATE

Change = Callable[[Any, random.Random], Any]
HASHED = (WEIGHTS, DESCRIPTION, MODEL, CHAT, OPTIMIZER, STATE)


def json_change(change: Change, name: str) -> Damage:
    """A change of the JSON value in a file; it may give another value back."""

    def changed(folder: Path, draw: random.Random) -> None:
        path = only(folder, name)
        value = json.loads(path.read_text("utf-8"))
        new = change(value, draw)
        path.write_text(json.dumps(value if new is None else new), "utf-8")

    changed.__name__ = f"{change.__name__} in {name}"
    return changed


# The manifest of a checkpoint -----------------------------------------------------------------------------------------


def entry_of(manifest: dict, draw: random.Random) -> dict:
    return manifest[draw.choice(HASHED)]


def other_hash(manifest: dict, draw: random.Random) -> None:
    entry = entry_of(manifest, draw)
    place, digits = draw.randrange(64), entry["sha256"]
    other = draw.choice([digit for digit in "0123456789abcdef" if digit != digits[place]])
    entry["sha256"] = digits[:place] + other + digits[place + 1 :]


def other_size(manifest: dict, draw: random.Random) -> None:
    entry_of(manifest, draw)["bytes"] += draw.choice([-1, 1, 2**40])


def entry_missing(manifest: dict, draw: random.Random) -> None:
    del manifest[draw.choice(HASHED)]


def entry_of_another_type(manifest: dict, draw: random.Random) -> None:
    manifest[draw.choice(HASHED)] = draw.choice([None, 5, "text", [], {}, {"bytes": 5}, {"sha256": "0"}])


def hash_of_another_type(manifest: dict, draw: random.Random) -> None:
    entry_of(manifest, draw)[draw.choice(["bytes", "sha256"])] = draw.choice([None, [], {}, "x", -1, 0.5])


def entry_that_points_outside(manifest: dict, draw: random.Random) -> None:
    entry = manifest.pop(draw.choice(HASHED))
    manifest[draw.choice(["../secret", "/etc/hostname", "..", ".", "sub/file", "a\0b", ""])] = entry


MANIFEST_CHANGES = (other_hash, other_size, entry_missing, entry_of_another_type, hash_of_another_type,
                    entry_that_points_outside)  # fmt: skip


# Forgeries: the hashes are right --------------------------------------------------------------------------------------


def reseal(folder: Path) -> None:
    """Write the manifest anew, as whoever forged the files would."""
    path = only(folder, MANIFEST)
    files = [file for file in path.parent.iterdir() if file.name != MANIFEST]
    sealed = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    entries = {file.name: {"bytes": file.stat().st_size, "sha256": sealed[file.name]} for file in files}
    path.write_text(json.dumps(entries), "utf-8")


def forged(damage: Damage) -> Damage:
    def forge(folder: Path, draw: random.Random) -> None:
        damage(folder, draw)
        reseal(folder)

    forge.__name__ = f"forged: {damage.__name__}"
    return forge


def split_header(raw: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def joined(header: str, data: bytes) -> bytes:
    raw = header.encode()
    return len(raw).to_bytes(8, "little") + raw + data


def header_change(change: Change) -> Damage:
    """A lie in the header of a tensor file."""

    def lie(folder: Path, draw: random.Random) -> None:
        path = only(folder, draw.choice([WEIGHTS, OPTIMIZER]))
        header, data = split_header(path.read_bytes())
        new = change(header, draw)
        path.write_bytes(joined(new if isinstance(new, str) else json.dumps(header), data))

    lie.__name__ = change.__name__
    return lie


def some(header: dict, draw: random.Random) -> dict:
    """The entry of a tensor of more than one number."""
    return draw.choice([entry for entry in header.values() if len(entry["shape"])])


def lie_about_offsets(header: dict, draw: random.Random) -> None:
    some(header, draw)["data_offsets"] = draw.choice([[-4, 0], [0, 2**62], [8, 4], [0], "x", None, [0, 4, 8], [0.0, 4]])


def lie_about_shape(header: dict, draw: random.Random) -> None:
    some(header, draw)["shape"] = draw.choice([[-1], [2**62, 4, 2**62], [1.0], "1", None, [0], [10**30], [[1]], [True]])


def lie_about_dtype(header: dict, draw: random.Random) -> None:
    some(header, draw)["dtype"] = draw.choice(["F64", "F16", "U8", "X9", "", None, 5, ["F32"]])


def entry_is_no_table(header: dict, draw: random.Random) -> None:
    header[draw.choice(list(header))] = draw.choice([None, 5, "text", [], {}, {"dtype": "F32"}])


def tensor_missing(header: dict, draw: random.Random) -> None:
    del header[draw.choice(list(header))]


def tensor_renamed(header: dict, draw: random.Random) -> None:
    name = draw.choice(list(header))
    header[draw.choice(["", "x", f"{name}x", f"x/{name}"])] = header.pop(name)


def tensors_share_their_numbers(header: dict, draw: random.Random) -> None:
    """Two tensors of one shape name the same place; another place belongs to none."""
    shapes: dict[tuple, list[str]] = {}
    for name, entry in header.items():
        shapes.setdefault((entry["dtype"], *entry["shape"]), []).append(name)
    one, other = draw.sample(draw.choice([names for names in shapes.values() if len(names) > 1]), 2)
    header[one]["data_offsets"] = header[other]["data_offsets"]


def tensor_given_twice(header: dict, draw: random.Random) -> str:
    name = draw.choice(list(header))
    return f"{{{json.dumps(name)}: {json.dumps(header[name])}, {json.dumps(header)[1:]}"


def header_nested_too_deep(header: dict, draw: random.Random) -> str:
    return draw.choice([f'{{"x": {DEEP}', DEEP])


def header_is_no_object(header: dict, draw: random.Random) -> str:
    return draw.choice(["[]", "5", "null", '"text"', "not JSON", "", "  "])


def lie_about_header_length(folder: Path, draw: random.Random) -> None:
    path = only(folder, draw.choice([WEIGHTS, OPTIMIZER]))
    length = draw.choice([0, 1, 2**62, 2**64 - 1, path.stat().st_size, draw.randrange(9, 200)])
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])


HEADER_CHANGES = (
    lie_about_offsets, lie_about_shape, lie_about_dtype, entry_is_no_table, tensor_missing, tensor_renamed,
    tensors_share_their_numbers, tensor_given_twice, header_nested_too_deep, header_is_no_object,
)  # fmt: skip


def other_model(description: dict, draw: random.Random) -> None:
    """A configuration that does not fit the tensors, or cannot be."""
    name, value = draw.choice([
        ("width", 64), ("width", 10**9), ("layers", 1), ("layers", 10**9), ("vocab_size", 401), ("vocab_size", 5),
        ("heads", 3), ("heads", 0), ("hidden", 7), ("widht", 32), ("width", "32"), ("layers", -1), ("tie", 5),
        ("context", 2**70), ("norm", "none such"),
    ])  # fmt: skip
    description["config"][name] = value


def other_head(description: dict, draw: random.Random) -> None:
    description["head"] = draw.choice(["masked", "none such", None, 5, []])


def description_of_another_kind(description: dict, draw: random.Random) -> Any:
    if draw.random() < 0.5:
        del description[draw.choice(["config", "head", "tokenizer_sha256"])]
        return description
    return draw.choice([None, 5, "text", [], {}, {**description, "config": 5}, {**description, "config": None}])


def chat_of_another_kind(chat: dict, draw: random.Random) -> Any:
    return draw.choice([5, "text", [1], {"promt_weight": 0.5}, {"prompt_weight": 2.0}, {"system": 5}])


def state_of_another_kind(state: dict, draw: random.Random) -> Any:
    if draw.random() < 0.6:
        state[draw.choice(list(state))] = draw.choice([None, "x", {}, [[]], [5]])
        return state
    return draw.choice([5, "text", [1], {**state, "unknown": 1}, {"step": "x"}, None])


FORGERIES = (
    *map(header_change, HEADER_CHANGES), lie_about_header_length, json_change(other_model, DESCRIPTION),
    json_change(other_head, DESCRIPTION), json_change(description_of_another_kind, DESCRIPTION),
    json_change(chat_of_another_kind, CHAT), json_change(state_of_another_kind, STATE), tokenizer_of_another_run,
)  # fmt: skip


def swapped(folder: Path, draw: random.Random) -> None:
    """Two files of the checkpoint have each other's names."""
    one, other = (only(folder, name) for name in draw.sample(HASHED, 2))
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def half_deleted(folder: Path, draw: random.Random) -> None:
    """What `rm -r` leaves when it is stopped: some files, with or without the manifest."""
    for name in draw.sample([*HASHED, MANIFEST], draw.randint(1, len(HASHED))):
        only(folder, name).unlink()


DAMAGES = (
    *(on(damage, *HASHED) for damage in BYTES), swapped, half_deleted,
    *(json_change(change, MANIFEST) for change in MANIFEST_CHANGES),
    *(text(change, MANIFEST) for change in JSON_TEXT), on(delete, MANIFEST), on(replace_by_folder, MANIFEST),
    on(truncate, MANIFEST),
)  # fmt: skip
CHECKPOINT = (*DAMAGES, *map(forged, FORGERIES))
CHECKPOINT_RULES = (
    "any change of a file that the manifest has the hash of, any of the manifest but blanks, and forgeries with right "
    "hashes: headers that lie, other models, heads, states, tokenizers; given to `load_run` and to the resuming trainer"
)


# Token shards ---------------------------------------------------------------------------------------------------------


def shard_number(manifest: dict, draw: random.Random) -> None:
    """A count that the files contradict."""
    split = manifest["splits"][draw.choice(["train", "validation"])]
    owner, key = draw.choice([(split, "tokens"), (split, "documents"), (split["files"][0], "tokens")])
    owner[key] = draw.choice([owner[key] + 1, owner[key] - 1, -1, 0, 2**62, 0.5, "x", None, []])


def shard_setting(manifest: dict, draw: random.Random) -> None:
    key = draw.choice(["format", "tokenizer_sha256", "vocab_size", "dtype", "splits"])
    wrong = {
        "format": ["zhiling-shards-9", None, 5], "tokenizer_sha256": ["0" * 64, None, 5], "vocab_size": [5, 10**6, "x"],
        "dtype": ["<u4", "<f4", "|O", "x", None, 5], "splits": [None, [], {}, 5],
    }  # fmt: skip
    manifest[key] = draw.choice(wrong[key])


def shard_key_missing(manifest: dict, draw: random.Random) -> None:
    split = manifest["splits"][draw.choice(["train", "validation"])]
    owner = draw.choice([manifest, manifest["splits"], split, split["files"][0], split["starts"]])
    del owner[draw.choice(list(owner))]


def shard_files(manifest: dict, draw: random.Random) -> None:
    split = manifest["splits"][draw.choice(["train", "validation"])]
    split["files"] = draw.choice([None, 5, [], "x", [5], [None], split["files"] * 2, [{}]])


def shard_elsewhere(manifest: dict, draw: random.Random) -> None:
    split = manifest["splits"][draw.choice(["train", "validation"])]
    owner = draw.choice([split["files"][0], split["starts"]])
    owner[draw.choice(["name", "sha256"])] = draw.choice([None, 5, "../secret", "/etc/hostname", "", "0" * 64, "a\0b"])


def other_tokenizer(folder: Path, draw: random.Random) -> None:
    tokenizer_of_another_run(folder, draw)


SHARDS_RULES = (
    "any change of a file that the manifest has the hash of (tokens, places of documents, the tokenizer), and of the "
    "manifest, but for blanks and the count of bytes of text, which is printed and not used"
)
SHARDS = (
    *(on(damage, "*.tokens", "*.documents") for damage in BYTES),
    *(json_change(change, MANIFEST) for change in (
        shard_number, shard_setting, shard_key_missing, shard_files, shard_elsewhere)),
    *(text(change, MANIFEST) for change in JSON_TEXT), on(delete, MANIFEST), on(replace_by_folder, MANIFEST),
    other_tokenizer, *(on(damage, MODEL) for damage in BYTES),
)  # fmt: skip
