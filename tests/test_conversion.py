"""Conversions: every document of a public format becomes one line, and markup becomes prose."""

import bz2
import sys
import types
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data import conversion
from data.conversion import plain_text, read, write_jsonl
from data.corpus import CorpusConfig, documents

STORY = st.text("ab <|>\n", max_size=30).filter(lambda text: "<|endoftext|>" not in text)


@given(st.lists(STORY, max_size=8), st.integers(1, 40))
def test_separated_documents_are_cut_wherever_the_blocks_end(tmp_path_factory, stories, block):
    path = tmp_path_factory.mktemp("conversion") / "a.txt"
    path.write_text("<|endoftext|>".join(stories), "utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "READ_CHARACTERS", block)
        found = list(read(path, "separated"))
    assert found == [story.strip() for story in stories or [""]]


def test_wikitext_is_cut_at_the_titles_of_articles(tmp_path):
    first = " \n = First one = \n \n It says \n = x = \n here . \n \n = = Section = = \n \n More . \n"
    text = first + " \n = Second = \n \n Text . \n"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("wikitext-103-raw/wiki.train.raw", text)
        archive.writestr("wikitext-103-raw/wiki.test.raw", " = Held out = \n")
    found = [article for article in read(tmp_path / "a.zip", "wikitext") if article]
    assert [article.split("\n")[0].strip() for article in found] == ["= First one =", "= Second ="]
    assert "x" in found[0] and "Section" in found[0] and found[1].endswith("Text .")


def page(title, text, namespace=0, redirect=""):
    return f"<page><title>{title}</title><ns>{namespace}</ns>{redirect}<revision><text>{text}</text></revision></page>"


def test_wikipedia_gives_articles_only(tmp_path):
    pages = (
        page("数学", "'''数学'''是[[科学|学科]]。&lt;ref&gt;x&lt;/ref&gt;")
        + page("Talk", "chatter", namespace=1)
        + page("Maths", "#REDIRECT [[数学]]", redirect='<redirect title="数学"/>')
        + page("Empty", "{{stub}}")
        + page("二", "two")
    )
    xml = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/"><siteinfo/>{pages}</mediawiki>'
    (tmp_path / "a.bz2").write_bytes(bz2.compress(xml.encode()))
    assert [text for text in read(tmp_path / "a.bz2", "wikipedia") if text] == ["数学\n\n数学是学科。", "二\n\ntwo"]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("''a'' '''b'''", "a b"),
        ("[[Link]] and [[target|shown]] and [[a#b|c]]", "Link and shown and c"),
        ("x[[File:a.png|thumb|A [[cat]] here]]y[[分类:数学]]z", "xyz"),
        ("a {{t|{{inner|1}}|2}} b", "a  b"),
        ("a\n{| class=x\n|-\n| {{n}} || {|\n| nested\n|}\n|}\nb", "a\n\nb"),
        ("a<ref name=x/>b<ref>{{cite|t}} [[l]]</ref>c<!-- no\nno -->d", "abcd"),
        ("<math>x^2</math>e<br/>f<b>g</b>", "efg"),
        ("== Head ==\n* one\n** two\n: three", "Head\none\ntwo\nthree"),
        ("see [https://x.org/a a page] [https://x.org]", "see a page"),
        ("-{zh-hans:计算机;zh-hant:電腦}- -{一}- -{T|zh:a;zh-tw:b}-", "计算机 一 a"),
        ("1 &lt; 2 &amp; a&nbsp;b &lt;b&gt;", "1 < 2 & a\u00a0b <b>"),
        ("a\n\n\n \n\nb\n", "a\n\nb"),
        ("unclosed {{ and [[ and {| stay", "unclosed {{ and [[ and {| stay"),
    ],
)
def test_markup_becomes_prose(markup, text):
    assert plain_text(markup) == text


def test_parquet_is_read_through_pyarrow(tmp_path, monkeypatch):
    """pyarrow is not among our dependencies: a stand-in with the two calls that we make."""

    class ParquetFile:
        def __init__(self, path):
            assert path.exists()

        def iter_batches(self, columns, batch_size):
            assert columns == ["text"]
            for texts in (["one", None], ["two"]):
                column = types.SimpleNamespace(to_pylist=lambda texts=texts: texts)
                yield types.SimpleNamespace(column=lambda index, column=column: column)

    monkeypatch.setitem(sys.modules, "pyarrow", types.ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", types.SimpleNamespace(ParquetFile=ParquetFile))
    (tmp_path / "a.parquet").touch()
    assert list(read(tmp_path / "a.parquet", "parquet")) == ["one", "", "two"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda t: t.strip()), min_size=1, max_size=5))
def test_written_lines_are_read_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("conversion") / "a.jsonl.gz"
    assert write_jsonl([*texts, " ", ""], path) == len(texts)
    assert [document.text for document in documents(CorpusConfig((str(path),)))] == texts
    assert path.read_bytes()[4:8] == bytes(4), "no time of writing is in the file: equal texts give equal files"


def test_an_error_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"old")

    def texts():
        yield "one"
        raise UserError("broken")

    for bad in (texts(), []):
        with pytest.raises(UserError):
            write_jsonl(bad, path)
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.jsonl.gz", b"old")]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("separated", b"\xff\xfe"),
        ("wikitext", b"no zip"),
        ("wikipedia", b"no bz2"),
        ("wikipedia", bz2.compress(b"<mediawiki><page>")),
        ("wikipedia", bz2.compress(b"<mediawiki></mediawiki>" * 99)[:-9]),
    ],
)
def test_damaged_files_are_named(tmp_path, kind, content):
    (tmp_path / "raw").write_bytes(content)
    with pytest.raises(UserError, match=r"raw cannot be read \(.*; delete it"):
        list(read(tmp_path / "raw", kind))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(UserError, match=r"holds no wiki\.train\.raw"):
        list(read(tmp_path / "other.zip", "wikitext"))
