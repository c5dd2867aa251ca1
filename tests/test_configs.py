"""The loader: default < file < argument, every problem at once and by name, what is written loads as it was."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import ConfigError, UserError, check, dumps, from_dict, load, read_toml, run_main, to_dict

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Inner:
    width: int = 8
    rate: float = 0.5
    kind: Literal["one", "two"] = "one"

    def __post_init__(self):
        problems = []
        if self.width < 1:
            problems.append(f"width must be positive, got {self.width}")
        if self.rate > 1:
            problems.append(f"rate must be at most 1, got {self.rate}")
        check(problems)


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    count: int | None = None
    deep: bool = False
    sizes: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ()
    label: str | None = None
    level: Literal[1, 2, 3] = 1
    inner: Inner = field(default_factory=Inner)
    spare: Inner | None = None


@dataclass(frozen=True)
class Needy:
    size: int
    inner: Inner


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "c.toml").write_text(text, "utf-8")
        return tmp_path / "c.toml"

    return write


def problems(*arguments) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    assert str(caught.value) == "; ".join(caught.value.problems)
    return caught.value.problems


# Where values come from ----------------------------------------------------------------------------------------------


def test_default_then_file_then_argument(write):
    path = write('name = "file"\ndeep = true\n[inner]\nwidth = 3\nrate = 0.25\n')
    assert load(Outer) == Outer()
    assert load(Outer, path) == Outer("file", deep=True, inner=Inner(3, 0.25))
    assert load(Outer, path, ["name=argument", "inner.width=5"]) == Outer("argument", deep=True, inner=Inner(5, 0.25))
    assert load(Outer, None, ["inner.width=5", "inner.width=6"]).inner.width == 6


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("name=a b=c", Outer(name="a b=c")),
        ("name=none", Outer(name="none")),
        ("name=", Outer(name="")),
        ("name=12", Outer(name="12")),
        ("count=1_000", Outer(count=1000)),
        ("count=-3", Outer(count=-3)),
        ("count=none", Outer()),
        ("label=none", Outer()),
        ("label=text", Outer(label="text")),
        ("deep=true", Outer(deep=True)),
        ("sizes=[]", Outer(sizes=())),
        ("sizes=[3, 4]", Outer(sizes=(3, 4))),
        ("words=['a', 'b,c']", Outer(words=("a", "b,c"))),
        ("words=a,b", Outer(words=("a", "b"))),
        ("words=one/path", Outer(words=("one/path",))),
        ("level=3", Outer(level=3)),
        ("inner.rate=1", Outer(inner=Inner(rate=1.0))),
        ("inner.rate=1e-3", Outer(inner=Inner(rate=0.001))),
        ("inner.kind=two", Outer(inner=Inner(kind="two"))),
        ("spare.width=2", Outer(spare=Inner(2))),
        ("spare=none", Outer()),
    ],
)
def test_arguments_are_read_by_type(argument, expected):
    config = load(Outer, None, [argument])
    assert config == expected
    assert type(config.inner.rate) is float


def test_required_fields():
    assert load(Needy, None, ["size=3"]) == Needy(3, Inner())
    assert problems(Needy) == ["size is missing: it has no default"]


# Problems ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("inner.widht=3", "unknown key 'inner.widht', did you mean 'width'?"),
        ("iner.width=3", "unknown key 'iner', did you mean 'inner'?"),
        ("zzz=3", "unknown key 'zzz', valid keys: name, count, deep, sizes, words, label, level, inner, spare"),
        ("name.x=3", "unknown key 'name.x', nothing lies below 'name'"),
        ("deep", "argument 'deep' is not of the form section.key=value"),
        ("=3", "argument '=3' is not of the form section.key=value"),
        ("deep=yes", "deep must be bool, got 'yes'"),
        ("deep=1", "deep must be bool, got 1"),
        ("count=1.5", "count must be int, got 1.5"),
        ("count=true", "count must be int, got True"),
        ("inner.rate=fast", "inner.rate must be float, got 'fast'"),
        ("inner.kind=tow", "inner.kind must be one of 'one', 'two', got 'tow', did you mean 'two'?"),
        ("level=4", "level must be one of 1, 2, 3, got 4"),
        ("level=true", "level must be one of 1, 2, 3, got True"),
        ("sizes=3", "sizes must be a list, got 3"),
        ("sizes=a,b", "sizes[0] must be int, got 'a'"),
        ("inner=3", "inner must be a table, got 3"),
        ("inner.width=0", "inner.width must be positive, got 0"),
    ],
)
def test_a_wrong_argument_is_named(argument, problem):
    assert problem in problems(Outer, None, [argument])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nmae = 'x'", "unknown key 'nmae', did you mean 'name'?"),
        ("[inner]\nwidht = 3", "unknown key 'inner.widht', did you mean 'width'?"),
        ("name = 3", "name must be str, got 3"),
        ("inner = 3", "inner must be a table, got 3"),
        ("spare = 3", "spare must be a table, got 3"),
        ("sizes = [1, 'a']", "sizes[1] must be int, got 'a'"),
        ("[name]\nx = 3", "name must be str, got {'x': 3}"),
    ],
)
def test_a_wrong_line_of_a_file_is_named(write, text, problem):
    path = write(text)
    assert problems(Outer, path) == [f"{path}: {problem}"]


def test_all_problems_at_once(write):
    """Those of arguments, of the file, and what the classes themselves refuse, with the path where they stand."""
    path = write("nmae = 1\nlevel = 9\n[inner]\nwidth = 0\nrate = 2.0\n")
    assert problems(Outer, path, ["word=1", "count=x"]) == [
        "unknown key 'word', did you mean 'words'?",
        f"{path}: unknown key 'nmae', did you mean 'name'?",
        f"{path}: count must be int, got 'x'",
        f"{path}: level must be one of 1, 2, 3, got 9",
        f"{path}: inner.width must be positive, got 0",
        f"{path}: inner.rate must be at most 1, got 2.0",
    ]


def test_an_argument_below_what_is_no_table_in_the_file(write):
    path = write("inner = 3")
    assert problems(Outer, path, ["inner.width=2"]) == [f"{path}: inner must be a table, got 3"]


def test_files_that_cannot_be_read_are_one_sentence(tmp_path, write):
    with pytest.raises(UserError, match=r"there is no configuration nowhere.toml; give the path of a .toml file"):
        load(Outer, "nowhere.toml")
    with pytest.raises(UserError, match=r"is a folder; give the path of a .toml file"):
        load(Outer, tmp_path)
    with pytest.raises(UserError, match=r"c.toml is not valid TOML: .*line 2"):
        load(Outer, write("name = 'x'\nname : y\n"))
    (tmp_path / "c.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(UserError, match=r"is not UTF-8 text \(byte 8\); save it as UTF-8"):
        load(Outer, tmp_path / "c.toml")


# Writing -------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(max_value=1, allow_nan=False, allow_infinity=False)
CONFIGURATIONS = st.builds(
    Outer,
    name=TEXT,
    count=st.none() | NUMBERS,
    deep=st.booleans(),
    sizes=st.lists(NUMBERS).map(tuple),
    words=st.lists(TEXT).map(tuple),
    label=st.none() | TEXT,
    level=st.sampled_from([1, 2, 3]),
    inner=st.builds(Inner, st.integers(1, 9), FINITE, st.sampled_from(["one", "two"])),
    spare=st.none() | st.just(Inner(3)),
)


@given(CONFIGURATIONS)
def test_what_is_written_loads_as_it_was(tmp_path_factory, config):
    """Every string, number and absence: as TOML, and as the nested dictionary that JSON holds."""
    path = tmp_path_factory.getbasetemp() / "written.toml"
    path.write_bytes(dumps(config).encode())
    assert load(Outer, path) == config
    assert from_dict(Outer, to_dict(config)) == config
    assert read_toml(path) == to_dict(config)


def test_from_dict_checks_like_load():
    with pytest.raises(ConfigError, match=r"unknown key 'inner.widht', did you mean 'width'"):
        from_dict(Outer, {"inner": {"widht": 3}})


# Commands ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (UserError("do this instead"), 2, "error: do this instead\n"),
        (ConfigError(["one", "two"]), 2, "error: one; two\n"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 2, "error: No such file or directory: a.txt\n"),
        (OSError("strange"), 2, "error: strange\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
    ids=repr,
)
def test_run_main(outcome, code, said, capsys, monkeypatch):
    """What is the user's to mend is one sentence; the arguments are those of the command line."""
    monkeypatch.setattr("sys.argv", ["program", "a", "b"])

    def main(argv):
        assert argv == ["a", "b"]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert (ended.value.code, capsys.readouterr().err) == (code, said)


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda argv: 1 // 0)


def test_importing_the_loader_is_cheap():
    """It imports the standard library alone: a command that only reads its arguments answers at once."""
    code = "import sys, configs; print(sorted({'torch', 'numpy', 'tqdm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_numbers_are_finite(write, value):
    """`lr = nan` compares as neither too small nor too large: a check of the range lets it pass."""
    assert "rate must be a finite number" in str(problems(Outer, write(f"[inner]\nwidth = 1\nrate = {value}\n")))
    assert "rate must be a finite number" in str(problems(Outer, None, ["inner.width=1", f"inner.rate={value}"]))


@pytest.mark.parametrize("value", [str(2**63), str(10**30), "0x" + "f" * 40])
def test_whole_numbers_fit_into_64_bits(write, value):
    """As TOML says; a seed beyond them would end in PyTorch's traceback."""
    assert "must fit into 64 bits" in str(problems(Outer, write(f"count = {value}\n[inner]\nwidth = 1\n")))
    assert load(Outer, write(f"count = {2**63 - 1}\n[inner]\nwidth = 1\n")).count == 2**63 - 1


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000, "{a=" * 50_000])
def test_what_the_parser_gives_up_on_is_one_short_sentence(write, value):
    with pytest.raises(UserError, match=r"too long or a value nested too deep|not valid TOML"):
        load(Outer, write(f"count = {value}"))
    [problem] = problems(Outer, None, ["inner.width=1", f"count={value}"])
    assert problem.startswith("count must be int") and len(problem) < 200


def test_an_argument_below_a_value_is_refused_also_when_the_file_has_the_value(write):
    path = write("count = 3\n[inner]\nwidth = 1\n")
    assert problems(Outer, path, ["count.more=1"]) == ["unknown key 'count.more', nothing lies below 'count'"]
