"""Corpora: every text arrives once, unchanged and in one order; bad input names its file and line; nothing is run."""

import gzip
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data import corpus
from data.corpus import CorpusConfig, Document, builtin_documents, documents, main, render


def texts_of(*paths, **options):
    return [document.text for document in documents(CorpusConfig(tuple(map(str, paths)), **options))]


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "A.TXT", "a.txt.gz"])
def test_a_text_file_is_one_document_with_its_bytes_unchanged(tmp_path, name):
    text = "one\r\ntwo\n\n\ttab \0 中文 🎉\n"
    write = gzip.open if name.endswith(".gz") else open
    with write(tmp_path / name, "wb") as file:
        file.write(text.encode())
    assert texts_of(tmp_path / name) == [text]


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "there"}\n')
    assert texts_of(tmp_path) == ["hello", "there"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: not t.isspace())))
def test_jsonl_lines_come_back_as_they_were_written(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*written, "end"]), "utf-8")
    found = list(documents(CorpusConfig((str(path),))))
    assert found == [Document(text, f"{path}:{number}") for number, text in enumerate([*written, "end"], 1)]


def test_jsonl_origin_counts_lines_and_passes_over_empty_ones(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write('\n{"text": "x"}\n   \n{"text": " \\n"}\n{"text": "y"}')
    assert list(documents(CorpusConfig((str(path),)))) == [Document("x", f"{path}:2"), Document("y", f"{path}:5")]


def test_the_text_may_have_another_key(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x", "text": "no"}\n', "utf-8")
    assert texts_of(tmp_path, text_field="content") == ["x"]


def test_a_folder_is_read_whole_in_sorted_order_and_again(tmp_path):
    for name in ("b/z.txt", "b/a.md", "a.txt", "c.jsonl", ".hidden.txt", ".git/x.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name, "utf-8")
    expected = ["a.txt", "b/a.md", "b/z.txt", "c.jsonl"]
    assert texts_of(tmp_path) == texts_of(tmp_path) == expected
    assert texts_of(tmp_path / "b/z.txt", tmp_path / "a.txt") == ["b/z.txt", "a.txt"], "paths keep their order"


def test_reading_is_lazy(tmp_path):
    """A broken line is met only when the reader comes there: what came before has been yielded, not collected."""
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n{broken\n', "utf-8")
    stream = documents(CorpusConfig((str(tmp_path),)))
    assert next(stream).text == "first"
    with pytest.raises(UserError):
        next(stream)


# Wrong input ---------------------------------------------------------------------------------------------------------


def test_a_broken_line_is_named(tmp_path):
    lines = ['{"text": "fine"}'] * 2000
    lines[1233] = '{"text": "cut off'
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl, line 1234 is not valid JSON"):
        texts_of(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'["x"]', "not a JSON object"),
        (b'{"body": "x"}', "no string under 'text'; it has 'body'"),
        (b'{"text": 3}', "no string under 'text'"),
        (b"{}", "it has nothing"),
        (b'{"text": "a\\ud800"}', "half of a surrogate pair"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, complaint):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 2") as caught:
        texts_of(tmp_path)
    assert complaint in str(caught.value)


def test_undecodable_text_names_file_and_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("résumé".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8 text \(byte 1\)"):
        texts_of(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-12], lambda data: b"no gzip", lambda data: data[:12] + b"\xff" * 9]
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(damage(gzip.compress(b"hello, hello, hello " * 50)))
    with pytest.raises(UserError, match=r"a\.txt\.gz is damaged"):
        texts_of(path)


def test_paths_are_checked_before_reading(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty").mkdir()
    for path, complaint in [
        ("gone.txt", "no file or folder"),
        ("a.parquet", "cannot be read"),
        ("empty", "holds no text"),
    ]:
        with pytest.raises(UserError, match=complaint):
            documents(CorpusConfig((str(tmp_path / path),)))


def test_a_corpus_without_text_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text(" \n", "utf-8")
    with pytest.raises(UserError, match="the corpus is empty"):
        texts_of(tmp_path)


def test_memory_is_bounded_by_a_limit_for_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 100)
    (tmp_path / "a.txt").write_text("x" * 100, "utf-8")
    assert texts_of(tmp_path / "a.txt") == ["x" * 100]
    (tmp_path / "b.txt").write_text("x" * 101, "utf-8")
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "x" * 101}), "utf-8")
    for name in ("b.txt", "c.jsonl"):
        with pytest.raises(UserError, match="a document of more than"):
            texts_of(tmp_path / name)


# The built-in corpus -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reading():
    """The entries, and the modules that reading them imported."""
    for name in ("antigravity", "this"):  # the one opens a web browser when it is imported, the other prints a poem
        sys.modules.pop(name, None)
    before = set(sys.modules)
    return list(builtin_documents()), set(sys.modules) - before


@pytest.fixture(scope="module")
def entries(reading):
    return reading[0]


def test_the_library_is_found_and_described(entries):
    by_name = {entry.qualified_name: entry for entry in entries}
    assert len(by_name) > 3000 and sum(len(entry.text) for entry in entries) > 1_000_000
    assert by_name["json"].kind == "module" and by_name["json"].signature == ""
    assert by_name["json.dumps"].kind == "function" and by_name["json.dumps"].signature.startswith("(obj, *, skipkeys=")
    assert by_name["json.decoder.JSONDecoder"].kind == "class"
    assert by_name["json.decoder.JSONDecoder.decode"].signature == "(self, s, _w=WHITESPACE.match)"
    assert by_name["unittest.mock.patch"].module == "unittest.mock", (
        "a folder named unittest holds no tests of the library"
    )
    assert by_name["assert"].kind == "topic" and "AssertionError" in by_name["assert"].text


def test_texts_match_what_python_shows(entries):
    import inspect

    by_name = {entry.qualified_name: entry for entry in entries}
    assert by_name["json.decoder.JSONDecoder.decode"].text == inspect.getdoc(json.JSONDecoder.decode)
    assert by_name["gzip"].text == inspect.getdoc(gzip)


def test_equal_texts_come_once_and_no_tests_are_read(entries):
    assert len({entry.text for entry in entries}) == len(entries)
    modules = {entry.module for entry in entries}
    assert not [module for module in modules if {"test", "tests", "site-packages"} & set(module.split("."))]


def test_no_module_is_imported(reading):
    codecs = {name for name in reading[1] if name.startswith("encodings.")}  # a source may name its encoding
    assert reading[1] - codecs <= {"pydoc_data", "pydoc_data.topics"}


def test_the_built_in_corpus_is_the_default_and_its_order_is_fixed(entries):
    expected = [Document(render(entry), f"stdlib/{entry.module}:{entry.name}") for entry in entries]
    assert list(documents()) == expected
    first = entries[0]
    assert expected[0].text == f"{first.kind} {first.qualified_name}{first.signature}\n\n{first.text}\n"


def test_docstrings_are_found_through_conditions_but_not_inside_functions():
    source = b'''"""m"""
if True:
    def f(a, *b, c: int = 1, **d):
        """f"""
        def inner():
            """inner"""
else:
    try:
        class C:
            """c"""
            async def g(self):
                """g"""
    except ImportError:
        def h(): """h"""
'''
    found = {(entry.name, entry.kind, entry.signature) for entry in corpus._entries_of(source, "m")}
    assert found == {
        ("", "module", ""),
        ("f", "function", "(a, *b, c: int=1, **d)"),
        ("C", "class", ""),
        ("C.g", "method", "(self)"),
        ("h", "function", "()"),
    }


def test_an_installation_without_documentation_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match="no documentation"):
        list(builtin_documents())
    (tmp_path / "module.py").write_text('"""Documented."""', "utf-8")
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match="pydoc_data"):
        list(builtin_documents())


def test_command_counts_documents(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"t": "x"}\n{"t": "yé"}\n', "utf-8")
    main([str(tmp_path), "--text-field", "t"])
    assert "2 documents, 3 characters, 4 bytes" in capsys.readouterr().out
