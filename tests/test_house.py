"""The house: which way imports run, what may be imported, what every module and every configuration has.

These rules hold for all packages; a new file is checked without being named here.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
import typing
from pathlib import Path

import pytest

from configs import ConfigError, dumps, load, read_toml, to_dict
from instruct.curriculum import CurriculumConfig
from train.classify import ClassifyConfig
from train.crosslingual import CrosslingualConfig
from train.embed import EmbedConfig
from train.extract import ExtractConfig
from train.feedback import FeedbackConfig
from train.players import PlayersConfig
from train.prefer import PreferConfig
from train.pretrain import PretrainConfig
from train.reinforce import ReinforceConfig
from train.reward import RewardConfig
from train.rounds import RoundsConfig
from train.sft import SftConfig

ROOT = Path(__file__).parent.parent
ALLOWED = {  # what each package may import of the others
    "configs": set(),
    "kernels": {"configs"},
    "data": {"configs"},
    "model": {"configs", "kernels", "data"},
    "instruct": {"configs", "data", "model"},
    "train": {"configs", "kernels", "data", "model", "instruct"},
}
RUN_TIME = {"torch", "numpy", "sentencepiece", "tqdm", "einops"}
MODULES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CONFIGURATIONS = sorted((ROOT / "configs").rglob("*.toml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_module = pytest.mark.parametrize("path", MODULES, ids=name_of)
every_file = pytest.mark.parametrize("path", [*MODULES, *TESTS, ROOT / "setup.py"], ids=name_of)


def parse(source: str | Path) -> ast.Module:
    return ast.parse(source if isinstance(source, str) else source.read_text("utf-8"))


# Imports -------------------------------------------------------------------------------------------------------------


def imports(tree: ast.AST, module_level: bool = False) -> set[str]:
    """The top-level packages that are imported: everywhere, or at module level only (what importing it imports)."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else node.module.partition(".")[0])
        elif not (module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            found |= imports(node, module_level)
    return found


def wrong_imports(source: str | Path, package: str) -> set[str]:
    """Imports that run upwards or sideways, and at module level everything that not every user has installed."""
    tree = parse(source)
    upwards = imports(tree) & (ALLOWED.keys() - ALLOWED[package] - {package} | {"tests", "."})
    known = sys.stdlib_module_names | RUN_TIME | ALLOWED.keys()
    return upwards | imports(tree, module_level=True) - known


def imported_modules(path: Path) -> set[str]:
    """Dotted names of our modules that importing this one imports."""
    found = set()
    for node in parse(path).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@every_module
def test_imports_run_downwards(path):
    """Triton comes with PyTorch where it works: a module of its kernels imports it, and is itself imported only inside
    functions."""
    wrong = wrong_imports(path, path.relative_to(ROOT).parts[0])
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if "triton" in wrong and not any(dotted in imported_modules(other) for other in MODULES):
        wrong.remove("triton")
    assert wrong == set()


@pytest.mark.parametrize(
    ("source", "package", "wrong"),
    [
        ("from model import LanguageModel", "data", {"model"}),
        ("from data.tokenizer import Tokenizer", "kernels", {"data"}),
        ("import kernels.masks", "data", {"kernels"}),
        ("from kernels import attention", "instruct", {"kernels"}),
        ("def f():\n    from train.run import x", "model", {"train"}),
        ("from . import x", "model", {"."}),
        ("import matplotlib.pyplot as plt", "train", {"matplotlib"}),
        ("if True:\n    import safetensors", "model", {"safetensors"}),
        ("class A:\n    import fastapi", "model", {"fastapi"}),
        ("def f():\n    import matplotlib", "train", set()),
        ("import json, torch.nn\nfrom einops import rearrange\nfrom data import x", "model", set()),
    ],
)
def test_the_import_rule_sees(source, package, wrong):
    """The rule itself: what it must catch, and what it must let pass."""
    assert wrong_imports(source, package) == wrong


# Modules -------------------------------------------------------------------------------------------------------------


@every_file
def test_every_module_says_what_it_is(path):
    tree = parse(path)
    assert ast.get_docstring(tree) or not tree.body, f"{name_of(path)} has no docstring"


def implicit_encodings(source: str | Path) -> list[int]:
    """Lines that read or write a file as text in whatever encoding the machine happens to have."""
    calls = (node for node in ast.walk(parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if is_text_access(call) and not says_encoding(call)]


def says_encoding(call: ast.Call) -> bool:
    name = called(call).rpartition(".")[2]
    place = {"read_text": 0, "write_text": 1}.get(name, 3)  # where the encoding stands without its name
    return len(call.args) > place or any(keyword.arg in ("encoding", None) for keyword in call.keywords)


def is_text_access(call: ast.Call) -> bool:
    """Whether it is `open` in a text mode, or a method `read_text`, `write_text` or `open` as paths have them."""
    owner, _, name = called(call).rpartition(".")
    if name in ("read_text", "write_text"):
        return owner != ""
    if name != "open" or owner == "os":
        return False
    given = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [node.value for node in given if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    modes = [text for text in texts if re.fullmatch("[rwax][bt+]*", text)]
    if modes:
        return not any("b" in mode for mode in modes) and (owner not in ("gzip", "bz2", "lzma") or "t" in modes[0])
    return owner == "" or not call.args


def called(call: ast.Call) -> str:
    """`a.open` of `a.open(...)`, `?.open` of what is computed, `open` of `open(...)`."""
    if isinstance(call.func, ast.Attribute):
        return f"{call.func.value.id if isinstance(call.func.value, ast.Name) else '?'}.{call.func.attr}"
    return getattr(call.func, "id", "")


@every_file
def test_text_is_utf8_wherever_it_is_read_or_written(path):
    """The encoding of Windows broke the first example (nanoGPT#708)."""
    assert implicit_encodings(path) == []


@pytest.mark.parametrize(
    ("line", "is_wrong"),
    [
        ("open(p)", True),
        ("open(p, 'w')", True),
        ("open(p, mode='a')", True),
        ("open(p, 'rb')", False),
        ("open(p, 'w', encoding='utf-8')", False),
        ("p.open()", True),
        ("p.open('w', newline='')", True),
        ("p.open('ab')", False),
        ("p.open(encoding='utf-8')", False),
        ("(a / b).read_text()", True),
        ("p.read_text('utf-8')", False),
        ("p.write_text(text)", True),
        ("p.write_text(text, 'utf-8')", False),
        ("p.write_text(text, encoding='utf-8')", False),
        ("gzip.open(p)", False),
        ("gzip.open(p, 'wt')", True),
        ("archive.open(name)", False),
        ("os.open(p, flags)", False),
        ("open(p, **options)", False),
    ],
)
def test_the_encoding_rule_sees(line, is_wrong):
    assert implicit_encodings(line) == ([1] if is_wrong else [])


# Configurations ------------------------------------------------------------------------------------------------------


NAMED = {
    "reinforce": ReinforceConfig,
    "classify": ClassifyConfig,
    "crosslingual": CrosslingualConfig,
    "extract": ExtractConfig,
    "embed": EmbedConfig,
    "feedback": FeedbackConfig,
    "players": PlayersConfig,
    "prefer": PreferConfig,
    "reward": RewardConfig,
}


def class_of(path: Path) -> type:
    """A file with the key `init` starts from a model: it is a tuning run; one with `construct` has rounds. Those of
    stages that others could be taken for are named after them."""
    if path.stem in NAMED:
        return NAMED[path.stem]
    keys = read_toml(path)
    return SftConfig if "init" in keys else RoundsConfig if "construct" in keys else PretrainConfig


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=name_of)
def test_every_configuration_loads_and_survives_being_written(path, tmp_path):
    config = load(class_of(path), path)
    written = tmp_path / "config.toml"
    written.write_text(dumps(config), "utf-8")
    assert load(class_of(path), written) == config
    assert dumps(load(class_of(path), written)) == dumps(config)


def test_there_are_configurations_of_every_kind():
    assert {class_of(path) for path in CONFIGURATIONS} == {PretrainConfig, SftConfig, RoundsConfig, *NAMED.values()}
    assert len({load(class_of(path), path).run for path in CONFIGURATIONS}) == len(CONFIGURATIONS)


def world_of(config) -> CurriculumConfig | None:
    """The curriculum of a stage, wherever it keeps it."""
    return getattr(config, "curriculum", None) or getattr(getattr(config, "data", None), "curriculum", None)


def test_what_continues_a_model_of_the_world_names_its_world():
    """Else a later stage would be trained on what the earlier one holds out."""
    configs = {path: load(class_of(path), path) for path in CONFIGURATIONS}
    bases = {config.run: config for config in configs.values() if isinstance(config, RoundsConfig)}
    continued = 0
    for path, config in configs.items():
        starts = getattr(config, "bases", None) or getattr(config, "init", "") or ""
        for run, base in bases.items():
            if starts.startswith(f"{run}/") and world_of(config) is not None:
                assert world_of(config) == base.curriculum, f"{name_of(path)} and the model of {run}"
                stages = (config, getattr(config, "data", None))
                told = [stage.execution for stage in stages if hasattr(stage, "execution")]
                assert told in ([], [base.execution]), f"{name_of(path)} and the model of {run}"
                continued += 1
    assert continued == 5


def config_classes() -> list[type]:
    """All dataclasses that a configuration is made of."""
    found, waiting = [], [PretrainConfig, SftConfig, RoundsConfig, *NAMED.values()]
    while waiting:
        cls = waiting.pop()
        if cls not in found:
            found.append(cls)
            waiting += [hint for hint in typing.get_type_hints(cls).values() if dataclasses.is_dataclass(hint)]
    return found


every_class = pytest.mark.parametrize("cls", config_classes(), ids=lambda cls: cls.__name__)


@every_class
def test_every_attribute_of_a_configuration_is_a_field(cls):
    """One without annotation would look like a setting, and could not be set (Python makes it a class attribute)."""
    public = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    attributes = {name for name, value in public.items() if not callable(value) and not isinstance(value, property)}
    assert attributes <= {field.name for field in dataclasses.fields(cls)}
    assert cls.__dataclass_params__.frozen


@every_class
def test_every_default_can_be_written_and_merged(cls):
    """None has no TOML form, so only None may be the default of what can be None; and a table in a file starts from
    the defaults of its class, so those must be the defaults of the field."""
    hints, default = typing.get_type_hints(cls), cls()
    for field in dataclasses.fields(cls):
        value = getattr(default, field.name)
        if type(None) in typing.get_args(hints[field.name]):
            assert value is None, field.name
        if dataclasses.is_dataclass(value):
            assert value == type(value)(), field.name


def leaves(cls: type, prefix: str = "") -> list[tuple[str, object]]:
    """Dotted name and default of every setting."""
    found = []
    for field in dataclasses.fields(cls):
        value = getattr(cls(), field.name)
        inner = dataclasses.is_dataclass(value)
        found += leaves(type(value), f"{prefix}{field.name}.") if inner else [(f"{prefix}{field.name}", value)]
    return found


@pytest.mark.parametrize("cls", [PretrainConfig, SftConfig, *NAMED.values()], ids=lambda cls: cls.__name__)
def test_every_setting_is_reached_from_a_file_and_from_the_command_line(cls, tmp_path):
    """Each in both ways, by its own name: the default is accepted, and a value of no possible type is refused."""
    path = tmp_path / "c.toml"
    assert len(leaves(cls)) > 30
    for name, default in leaves(cls):
        path.write_text(f"{name} = {{not_a = 'value'}}\n", "utf-8")
        with pytest.raises(ConfigError) as caught:
            load(cls, path)
        assert [problem.startswith(f"{path}: {name} must be") for problem in caught.value.problems] == [True]
        written = "none" if default is None else dumps_value(cls, name)
        assert load(cls, None, [f"{name}={written}"]) == cls()
        with pytest.raises(ConfigError, match=f"unknown key '{name}x'"):
            load(cls, None, [f"{name}x={written}"])


def dumps_value(cls: type, name: str) -> str:
    """The default of a setting as it is typed on the command line."""
    value = to_dict(cls())
    for part in name.split("."):
        value = value[part]
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
