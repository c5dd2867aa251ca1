"""The tokenizer: what goes in comes out, no text is a marker, memory is bounded, training is reproducible."""

import io
import random
import tracemalloc

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError, from_dict
from data import tokenizer as tokenizer_module
from data.tokenizer import StreamDecoder, Tokenizer, TokenizerConfig, bytes_per_token_table, main
from data.vocabulary import MARKERS, ROLES, sample_chunks, train_model

KINDS = ("bpe", "unigram", "char")


def invented_texts(count):
    """Texts of made-up words with lines, indentation, numbers and Chinese: varied enough for 420 pieces of any kind."""
    draw = random.Random(0)
    words = ["".join(draw.choices(["ka", "to", "mi", "ren", "sol", "ve"], k=draw.randint(1, 4))) for _ in range(120)]
    return [
        f"{' '.join(draw.choices(words, k=12))}.\n\n    - {draw.choice(words)}: {draw.randint(0, 9999)}\n"
        f"    - {draw.choice(words)}\r\n\t分词器把文字变成数字, <|user|>(x)\n"
        for _ in range(count)
    ]


CORPUS = invented_texts(100)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # every valid Unicode string
HARD_TEXT = st.text(
    st.sampled_from("ab1_ \n\r\t\0\u2581\u2585\u2047\ufeff\uffff\u00a0\u3000\u0301é中🎉<|>/s"), max_size=40
)
MARKER_TEXTS = ["<s>", "</s>", "<pad>", "<unk>", "<0x0A>", "<0xE2>", "<mask>", *(f"<|{name}|>" for name in MARKERS)]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return Tokenizer.train(CORPUS, TokenizerConfig(request.param, vocab_size=420))


def is_lossless(tokenizer, text):
    ids = tokenizer.encode(text)
    return tokenizer.decode(ids) == text and tokenizer.decode_bytes(ids) == text.encode()


# Nothing is lost -----------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(text=ANY_TEXT | HARD_TEXT)
def test_any_text_comes_back(tokenizer, text):
    """Spaces are collapsed (sentencepiece#650, sentencepiece#684), newlines unknown (sentencepiece#101), a space put in
    front (sentencepiece#438)."""
    assert is_lossless(tokenizer, text)


def test_every_character_comes_back(tokenizer):
    """All of Unicode, each beside others: which characters a library reserves is not to be guessed."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 4096):
        text = "a".join(characters[start : start + 4096])
        assert is_lossless(tokenizer, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  ",
        "\n",
        " a",
        "a ",
        "a  b",
        "\ta\r\nb\rc\n\n\n",
        "\0",
        "a\0b",
        "▁",
        " ▁ ▁▁a",
        "▅▅",
        "👩‍🔬",
        "ﬁ①ｅ́",
        "e\u0301",
    ],
)
def test_hard_texts_come_back(tokenizer, text):
    assert is_lossless(tokenizer, text)
    assert tokenizer.encode_batch([text, text]) == [tokenizer.encode(text)] * 2


@pytest.mark.parametrize("text", ["\ud800", "fine \udcff", "\udc00\ud800"])
def test_a_lone_surrogate_is_refused(tokenizer, text):
    for call in (
        tokenizer.encode,
        lambda t: tokenizer.encode_batch(["fine", t]),
        lambda t: Tokenizer.train([t], TokenizerConfig()),
    ):
        with pytest.raises(UserError, match="surrogate"):
            call(text)


@given(texts=st.lists(ANY_TEXT | HARD_TEXT | st.just("x" * 70_000), max_size=5))
@settings(max_examples=30)
def test_a_batch_is_each_text_alone(tokenizer, texts):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*CORPUS[:2], "▁ab c", "中文", "  \n "])
def test_cutting_a_long_text_changes_no_id(monkeypatch, kind, text):
    """The cut is before a space that follows another character, which no piece spans: ids equal those of the whole."""
    tokenizer = Tokenizer.train(CORPUS, TokenizerConfig(kind, vocab_size=420))
    whole = tokenizer.encode(text * 50)
    monkeypatch.setattr(tokenizer_module, "LONG_TEXT", 37)
    cut = tokenizer.encode(text * 50)
    assert tokenizer.decode(cut) == text * 50
    if " " in text.strip():
        assert cut == whole


# No text is a marker -------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(MARKER_TEXTS) | HARD_TEXT, max_size=8).map("".join))
@settings(max_examples=200)
def test_text_never_encodes_to_a_marker(tokenizer, text):
    """Text that spells a marker became one (llama.cpp#11270, transformers#47853); user-defined symbols are always
    matched (sentencepiece#215).
    """
    ids = tokenizer.encode(text)
    assert not set(ids) & set(range(len(MARKERS)))
    assert tokenizer.decode(ids) == text


def test_marker_spellings_are_ordinary_pieces(tokenizer):
    """Also when the training text is full of them, as a corpus about language models is."""
    trained = Tokenizer.train([*CORPUS, " ".join(MARKER_TEXTS) * 50], TokenizerConfig("bpe", vocab_size=420))
    for text in MARKER_TEXTS:
        for each in (tokenizer, trained):
            ids = each.encode(text)
            assert len(ids) > 1 and min(ids) >= len(MARKERS) and each.decode(ids) == text


def test_marker_ids(tokenizer):
    """Padding that is also the end, and so is never learnt (trl#1623): every marker has an id of its own."""
    names = [name for name in MARKERS if name not in ROLES]
    assert [getattr(tokenizer, name) for name in names] == list(range(len(names)))
    assert list(tokenizer.roles) == list(ROLES)
    assert sorted({*tokenizer.roles.values(), *range(len(names))}) == list(range(len(MARKERS)))
    assert tokenizer.decode(range(len(MARKERS))) == "" and not tokenizer.byte_lengths[: len(MARKERS)].any()
    assert tokenizer.decode([tokenizer.bos, *tokenizer.encode("a b"), tokenizer.end]) == "a b"
    assert tokenizer.piece(tokenizer.roles["user"]) == "<|user|>"


# Pieces --------------------------------------------------------------------------------------------------------------


def test_byte_lengths_are_those_of_the_bytes(tokenizer):
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,) and tokenizer.byte_lengths.dtype == np.int32
    assert tokenizer.byte_lengths.tolist() == [len(piece) for piece in tokenizer.token_bytes]
    text = "".join(CORPUS)
    assert tokenizer.byte_lengths[tokenizer.encode(text)].sum() == len(text.encode())
    assert {piece for piece in tokenizer.token_bytes if len(piece) == 1} >= {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_newlines_and_indentation_become_pieces(kind):
    """Only with the flag that is off by default (sentencepiece#984)."""
    tokenizer = Tokenizer.train(CORPUS, TokenizerConfig(kind, vocab_size=420))
    pieces = tokenizer.token_bytes[len(MARKERS) + 256 :]
    assert b"\n" in pieces and any(piece.isspace() and len(piece) >= 3 for piece in pieces)
    if kind == "bpe":
        assert b".\n\n" in pieces


def test_digits_are_split_if_wanted():
    texts = [*CORPUS, "2024 2024 2024 " * 100]
    split, joined = (
        Tokenizer.train(texts, TokenizerConfig(vocab_size=420, split_digits=is_on)) for is_on in (True, False)
    )
    assert len(split.encode("2024")) == 4
    assert len(joined.encode("2024")) < 4


def test_characters_are_one_id_each():
    """The whole alphabet, however rare a character: what a comparison with a character model needs."""
    texts = ["hello\n" * 1000, "".join(map(chr, range(0x4E00, 0x5E00))), "\x01\x7f z\rÄ\t中🎉\uffff"]
    tokenizer = Tokenizer.train(texts, TokenizerConfig("char"))
    text = "".join(texts)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text) and tokenizer.decode(ids) == text
    assert len(set(ids)) == len(set(text)) == tokenizer.vocab_size - len(MARKERS) - 256
    assert min(ids) >= len(MARKERS) + 256, "no byte is used"
    assert tokenizer.encode("\0") == [len(MARKERS)], "NUL stays a byte, and that is one id too"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the quick fox", ["the", " quick", " fox"]),
        ("area(width_2)", ["area", "(", "width_2", ")"]),
        ("a\nb  c", ["a", "\n", "b", " ", " c"]),
        ("文字ab", ["文", "字", "ab"]),
        ("x🎉y", ["x", "🎉", "y"]),
        ("1024", ["1024"]),
    ],
)
def test_word_starts(text, words):
    """With a character vocabulary, where a token is a character or a byte, so that only the rule decides."""
    tokenizer = Tokenizer.train(CORPUS, TokenizerConfig("char"))
    ids = np.array(tokenizer.encode(text))
    starts = tokenizer.is_word_start(ids)
    found = [tokenizer.decode(part) for part in np.split(ids, np.flatnonzero(starts)[1:])]
    assert starts[0] and found == words
    two_rows = tokenizer.is_word_start(np.stack([ids, ids]))
    assert two_rows.shape == (2, len(ids)) and (two_rows == starts).all()
    assert tokenizer.is_word_start(np.array(tokenizer.encode("🎉")[1:])).tolist() == [True, False, False], (
        "cut in a word"
    )


def test_word_starts_in_pieces():
    tokenizer = Tokenizer.train(CORPUS, TokenizerConfig(vocab_size=420))
    text = tokenizer.encode("karento solver miveka")
    starts = tokenizer.is_word_start(np.array([tokenizer.bos, *text, tokenizer.eos]))
    assert len(text) > 3, "some word has several pieces"
    assert starts.sum() == 5 and starts[0] and starts[1] and starts[-1], "two markers and three words"


# Streaming -----------------------------------------------------------------------------------------------------------


@given(text=ANY_TEXT | HARD_TEXT)
def test_a_stream_gives_whole_characters_and_all_of_them(tokenizer, text):
    """Token by token, spaces were lost (sentencepiece#1043)."""
    decoder = StreamDecoder(tokenizer)
    parts = [decoder.push(index) for index in tokenizer.encode(text)]
    assert "".join(parts) == text and decoder.flush() == ""
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


def test_a_stream_waits_for_the_last_byte(tokenizer):
    decoder = StreamDecoder(tokenizer)
    first, *rest = (len(MARKERS) + byte for byte in "🎉".encode())
    assert [decoder.push(index) for index in [first, *rest]] == ["", "", "", "🎉"]
    decoder.push(first)
    assert decoder.flush() == "\ufffd" and decoder.flush() == ""
    assert decoder.push(tokenizer.eos) == ""


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_input_gives_the_same_model(kind):
    """Reproducible by its author's word (sentencepiece#496), if the sampling seed is one's own (sentencepiece#540)."""
    config = TokenizerConfig(kind, vocab_size=380, sample_bytes=4000, seed=3)
    first, again = Tokenizer.train(CORPUS, config), Tokenizer.train(iter(CORPUS), config)
    assert first.model_bytes == again.model_bytes and first.sha256 == again.sha256


def test_the_seed_chooses_the_sample():
    texts = [
        f"{word} {word}ly {word}ness\n" for word in ("kind", "bold", "calm", "dark", "late", "odd", "rich", "safe")
    ] * 9
    models = {
        Tokenizer.train(texts, TokenizerConfig(vocab_size=310, sample_bytes=900, seed=seed)).sha256 for seed in range(3)
    }
    assert len(models) == 3


def test_training_is_silent(capfd):
    Tokenizer.train([*CORPUS, "▅ here", "x" * 50_000], TokenizerConfig(vocab_size=420))
    assert capfd.readouterr() == ("", "")


def test_text_around_reserved_characters_is_not_dropped():
    """The library skips a whole sentence that holds U+2585, and one that is longer than its limit."""
    tokenizer = Tokenizer.train(["▅ zebra ▁" * 200 + "quagga " * 20_000], TokenizerConfig(vocab_size=300))
    assert len(tokenizer.encode(" zebra")) == 1 and len(tokenizer.encode(" quagga")) == 1


def test_the_sample_is_bounded_uniform_and_in_order():
    chunks = [str(number).encode().rjust(10) for number in range(10_000)]
    kept = [int(chunk) for chunk in sample_chunks(iter(chunks), limit=20_000, seed=1)]
    assert kept == sorted(kept) and len(kept) == 2000 == len(set(kept))
    # Five standard errors of the mean, 2887 / sqrt(2000) * sqrt(0.8) each; the seed is fixed: no chance failure.
    assert abs(np.mean(kept) - 4999.5) < 290
    assert sample_chunks(chunks, 20_000, seed=1) != sample_chunks(chunks, 20_000, seed=2)
    assert sample_chunks(chunks, 1_000_000, seed=1) == chunks


@given(sizes=st.lists(st.integers(1, 60), max_size=60), limit=st.integers(1, 300), seed=st.integers(0, 9))
def test_the_sample_is_of_the_smallest_keys(sizes, limit, seed):
    """Whatever the sizes, what is kept depends on the keys alone; else long or late chunks would be favoured."""
    chunks = [bytes([place]) * size for place, size in enumerate(sizes)]
    draw = random.Random(seed)
    keys = [draw.random() for _ in chunks]
    kept = {chunk[0] for chunk in sample_chunks(chunks, limit, seed)}
    assert sum(sizes[place] for place in kept) <= limit
    assert max((keys[place] for place in kept), default=0) < min(
        (key for place, key in enumerate(keys) if place not in kept), default=1
    )


def test_memory_stays_within_the_sample_however_long_the_stream():
    """The trainer keeps all text, several times over (sentencepiece#516, sentencepiece#702, sentencepiece#704)."""

    def stream(count):
        return (bytes([number % 256]) * 1000 for number in range(count))

    tracemalloc.start()
    try:
        kept = sample_chunks(stream(50_000), limit=200_000, seed=0)  # 50 MB pass through
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(map(len, kept)) <= 200_000 and peak < 1_000_000


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_too_large_a_vocabulary_names_the_largest(kind):
    with pytest.raises(UserError, match=r"vocab_size 90000 is more than this text allows; use (\d+) or less") as caught:
        Tokenizer.train(CORPUS, TokenizerConfig(kind, vocab_size=90_000))
    largest = int(str(caught.value).split("use ")[1].split()[0])
    assert Tokenizer.train(CORPUS, TokenizerConfig(kind, vocab_size=largest)).vocab_size == largest


def test_too_small_a_vocabulary_names_the_smallest():
    with pytest.raises(UserError, match=r"use (\d+) or more") as caught:
        Tokenizer.train(CORPUS, TokenizerConfig(vocab_size=280))
    smallest = int(str(caught.value).split("use ")[1].split()[0])
    assert Tokenizer.train(CORPUS, TokenizerConfig(vocab_size=smallest)).vocab_size == smallest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["\n"], ["▁▅"]])
def test_no_text_is_an_error(kind, texts):
    with pytest.raises(UserError, match="no text to train"):
        train_model(texts, TokenizerConfig(kind))


def test_configuration_reports_all_problems():
    with pytest.raises(UserError) as caught:
        TokenizerConfig("word", vocab_size=3, sample_bytes=0, character_coverage=0.5)
    assert all(name in str(caught.value) for name in ("kind", "vocab_size", "sample_bytes", "character_coverage"))
    with pytest.raises(UserError, match=r"split_digit.*split_digits"):
        from_dict(TokenizerConfig, {"split_digit": True})


# Files and commands --------------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "new" / "t.model"
    tokenizer.save(path)
    tokenizer.save(path)
    assert Tokenizer.load(path).sha256 == tokenizer.sha256
    assert [p.name for p in path.parent.iterdir()] == ["t.model"]


def test_a_failed_save_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "t.model"
    path.write_bytes(b"old")

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.files.os.fsync", full_disk)
    with pytest.raises(UserError, match=r"no space left to write .*t\.model"):
        tokenizer.save(path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("t.model", b"old")]
    with pytest.raises(UserError, match="is a folder"):
        tokenizer.save(tmp_path)


def test_wrong_models_are_refused(tmp_path):
    foreign = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=foreign, vocab_size=150, minloglevel=2, hard_vocab_limit=False
    )
    good = Tokenizer.train(CORPUS, TokenizerConfig("char")).model_bytes
    cases = {"foreign": (foreign.getvalue(), "markers"), "cut": (good[:-50], "damaged"), "text": (b"hello", "damaged")}
    for name, (content, complaint) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: .*{complaint}"):
            Tokenizer.load(tmp_path / name)
    with pytest.raises(UserError, match="there is no tokenizer"):
        Tokenizer.load(tmp_path / "missing")


@pytest.mark.parametrize("ids", [[-1], [10**6], [5, -3, 7]])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, ids):
    with pytest.raises(UserError, match="ids must lie between"):
        tokenizer.decode(ids)


def test_table_counts_bytes_and_tokens(tokenizer):
    lines = bytes_per_token_table(tokenizer, {"empty": "", "snowmen": "☃☃"}).splitlines()
    assert lines[1].split() == ["empty", "0", "0", "0.00", "0.0%"]
    assert lines[2].split() == ["snowmen", "6", "6", "1.00", "100.0%"]


def test_commands(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("".join(CORPUS), "utf-8")
    model, text = str(tmp_path / "t.model"), "a fox\n\tjumps <|user|>"
    main(["train", model, "--vocab-size", "420", "--kind", "unigram", str(tmp_path / "a.txt")])
    assert "420 ids: 13 markers, 256 bytes, 151 pieces" in capsys.readouterr().out
    main(["encode", model, text])
    ids = capsys.readouterr().out.split()
    assert [int(index) for index in ids] == Tokenizer.load(model).encode(text)
    main(["decode", model, *ids])
    assert capsys.readouterr().out == text + "\n"
    main(["inspect", model, "--text", str(tmp_path / "a.txt")])
    shown = capsys.readouterr().out
    assert "bytes/token" in shown and "a.txt" in shown and Tokenizer.load(model).sha256 in shown


def test_wrong_commands_leave_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("too little", "utf-8")
    out = tmp_path / "t.model"
    for paths in ([tmp_path / "a.txt"], [tmp_path / "missing"], ["--builtin", tmp_path / "a.txt"]):
        with pytest.raises(UserError):
            main(["train", str(out), *map(str, paths)])
    with pytest.raises(SystemExit) as caught:
        main(["train", str(out), "--vocabulary", "7"])
    assert caught.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
