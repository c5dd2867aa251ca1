"""Typed configuration: frozen dataclasses, filled from a TOML file and from `key=value` arguments.

What it is. Every run of zhiling is described by one frozen dataclass, composed of smaller ones (model, optimizer,
schedule, ...). A value is looked for in three places, the later one wins:

    default in the dataclass  <  TOML file  <  `section.key=value` on the command line

    config = load(PretrainConfig, "configs/demo/pretrain.toml", ["train.steps=20", "model.width=64"])
    print(dumps(config))                    # the resolved configuration; loading it again gives an equal object

Why so. A mistyped key that is silently ignored costs a run; so an unknown key is an error that names the nearest valid
one, a value of the wrong type is an error, and *all* problems are reported at once.

What it leaves out. No interpolation, no includes, no environment variables, no code execution. Field types may be
bool, int, float, str, `Literal`, `X | None`, `tuple[X, ...]` and other dataclasses: enough to say what a run is.
`None` has no TOML form: a key that is absent keeps its default, and on the command line `key=none` sets None.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

T = TypeVar("T")
QUOTED = 80  # characters of a wrong value that an error repeats


class UserError(ValueError):
    """Bad input from outside. Its text is one clear sentence that says what to do."""


class ConfigError(UserError):
    """Several problems of one configuration, reported together. `problems` is the list of them."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))


def check(problems: Sequence[str]) -> None:
    """Raise `ConfigError` when `problems` is not empty; called at the end of a configuration's `__post_init__`."""
    if problems:
        raise ConfigError(problems)


def run_main(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Run a command: `UserError` and `OSError` become one sentence on stderr and exit code 2, never a traceback."""
    try:
        code = main(sys.argv[1:]) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        named = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{named}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


# Loading -------------------------------------------------------------------------------------------------------------


def load(cls: type[T], path: str | Path | None = None, overrides: Iterable[str] = ()) -> T:
    """Build a `cls` from its defaults, the TOML file at `path`, and `section.key=value` strings.

    Raises `ConfigError` with every problem found: unreadable file, bad TOML, unknown or ill-typed keys, values that
    the dataclasses themselves refuse.
    """
    tree: dict[str, Any] = {} if path is None else read_toml(path)
    problems: list[str] = []
    for override in overrides:
        _apply_override(cls, tree, override, problems)
    found: list[str] = []
    config = _build(cls, tree, "", found)
    where = "" if path is None else f"{path}: "
    check([*problems, *(where + problem for problem in found)])
    return config


def read_toml(path: str | Path) -> dict[str, Any]:
    """Parse a TOML file. Raises `UserError` when it is missing, not UTF-8, or not TOML (with the line)."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no configuration {path}; give the path of a .toml file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the path of a .toml file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except (ValueError, RecursionError):  # what the parser lets through from int() and from itself
        raise UserError(f"{path} has a number too long or a value nested too deep; correct it") from None


def _build(cls: type[T], tree: Any, prefix: str, problems: list[str]) -> T | None:
    """Fill dataclass `cls` from a nested dictionary; appends to `problems` and gives None when it cannot be built."""
    if not isinstance(tree, dict):
        problems.append(f"{prefix.rstrip('.')} must be a table, got {_quoted(tree)}")
        return None
    hints = typing.get_type_hints(cls)
    before = len(problems)
    for key in tree:
        if key not in hints:
            problems.append(_unknown(f"{prefix}{key}", key, list(hints)))
    values = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        nested = _nested(hint)
        name = f"{prefix}{field.name}"
        if field.name in tree and (nested is None or tree[field.name] is None):
            values[field.name] = _convert(hint, tree[field.name], name, problems)
        elif nested and (field.name in tree or _is_required(field)):
            values[field.name] = _build(nested, tree.get(field.name, {}), f"{name}.", problems)
        elif _is_required(field):
            problems.append(f"{name} is missing: it has no default")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.extend(f"{prefix}{problem}" for problem in error.problems)
        return None


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."


def _unknown(name: str, key: str, valid: list[str]) -> str:
    if not valid:
        return f"unknown key {name!r}, nothing lies below {name.rpartition('.')[0]!r}"
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "valid keys: " + ", ".join(valid)
    return f"unknown key {name!r}, {hint}"


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _nested(hint: Any) -> type | None:
    """The dataclass that a field of type `hint` holds (`X` or `X | None`), or None."""
    for candidate in (hint, *get_args(hint)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _convert(hint: Any, value: Any, name: str, problems: list[str]) -> Any:
    """Check one TOML value against a type; a wrong one is appended to `problems`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in args], n=1)
        hinted = f", did you mean {near[0]!r}?" if near else ""
        problems.append(f"{name} must be one of {', '.join(map(repr, args))}, got {_quoted(value)}{hinted}")
        return None
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, name, problems)
    if origin is tuple:
        if isinstance(value, list):
            return tuple(_convert(args[0], item, f"{name}[{i}]", problems) for i, item in enumerate(value))
        problems.append(f"{name} must be a list, got {_quoted(value)}")
        return None
    if type(value) is int and hint in (int, float) and not -(2**63) <= value < 2**63:
        problems.append(f"{name} must fit into 64 bits, got a number of {len(hex(value)) - 2} hexadecimal digits")
        return None
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is float and not math.isfinite(value):
        problems.append(f"{name} must be a finite number, got {value}")
        return None
    if isinstance(hint, type) and type(value) is hint:
        return value
    problems.append(f"{name} must be {getattr(hint, '__name__', hint)}, got {_quoted(value)}")
    return None


def _apply_override(cls: type, tree: dict[str, Any], override: str, problems: list[str]) -> None:
    """Put one `section.key=value` into the nested dictionary `tree`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        problems.append(f"argument {override!r} is not of the form section.key=value")
        return
    parts = key.split(".")
    node, hint = tree, cls
    for depth, part in enumerate(parts, 1):
        hints = typing.get_type_hints(hint) if hint is not None else {}
        if part not in hints:
            problems.append(_unknown(".".join(parts[:depth]), part, list(hints)))
            return
        if depth == len(parts):
            node[part] = _parse_value(text, hints[part])
            return
        hint = _nested(hints[part])
        if hint is None:
            problems.append(_unknown(".".join(parts[: depth + 1]), parts[depth], []))
            return
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            return  # the file holds no table there, which `_build` will say


def _parse_value(text: str, hint: Any) -> Any:
    """Read the text after `=`: as TOML where that fits, else as the bare string that it is."""
    allowed = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if text.lower() == "none" and type(None) in allowed:
        return None
    if any(a is str or (get_origin(a) is Literal and isinstance(get_args(a)[0], str)) for a in allowed):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # not TOML, a number too long, or nested too deep
        if any(get_origin(a) is tuple for a in allowed):
            return [item for item in text.split(",") if item]
        return text


# Writing -------------------------------------------------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dictionary of a configuration, JSON-able, without the keys that are None."""
    return _plain(dataclasses.asdict(config))


def from_dict(cls: type[T], tree: dict[str, Any]) -> T:
    """The inverse of `to_dict`; the same checks as `load`."""
    problems: list[str] = []
    config = _build(cls, tree, "", problems)
    check(problems)
    return config


def dumps(config: Any) -> str:
    """TOML text of a configuration: `load` of it gives an equal object."""
    return "\n".join(_toml_lines(to_dict(config), "")).strip() + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _toml_lines(tree: dict[str, Any], prefix: str) -> Iterable[str]:
    yield from (f"{key} = {_toml_value(value)}" for key, value in tree.items() if not isinstance(value, dict))
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from ("", f"[{prefix}{key}]")
            yield from _toml_lines(value, f"{prefix}{key}.")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
        return '"' + "".join(escapes.get(c, c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}") for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)
