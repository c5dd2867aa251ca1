"""The tables of facts and the lexicon: nothing twice, translations inverse, facts equal to public ones."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from instruct.world import lexicon, tables
from instruct.world.operation import Undefined, language_of
from instruct.world.tables import Pair, rows

COUNTRIES_FILE = os.environ.get("ZHILING_COUNTRIES")  # countries.json of github.com/mledoze/countries
ENTRIES = (*lexicon.WORDS, *lexicon.NAMES)


def pairs(thing) -> list[Pair]:
    return [value for value in vars(thing).values() if isinstance(value, Pair)]


def test_tables_have_the_rows_they_should():
    sizes = {"ELEMENTS": 36, "MONTHS": 12, "WEEKDAYS": 7, "PLANETS": 8}
    assert {name: len(getattr(tables, name)) for name in sizes} == sizes
    assert len(tables.COUNTRIES) >= 60 and len(tables.ANIMALS) >= 30 and len(lexicon.WORDS) >= 250
    assert sum(month.days for month in tables.MONTHS) == 365
    assert [month.number for month in tables.MONTHS] == list(range(1, 13))
    assert Counter(month.season.en for month in tables.MONTHS) == dict(winter=3, spring=3, summer=3, autumn=3)
    assert [day.name.en for day in tables.WEEKDAYS if day.weekend] == ["Saturday", "Sunday"]


PERIODIC_TABLE = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc
Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi
Po At Rn Fr Ra Ac Th Pa U"""


def test_elements_stand_where_the_periodic_table_has_them():
    numbers = [element.number for element in tables.ELEMENTS]
    assert [element.symbol for element in tables.ELEMENTS] == [PERIODIC_TABLE.split()[number - 1] for number in numbers]
    assert numbers == sorted(set(numbers)) and numbers[:20] == list(range(1, 21))


@pytest.mark.parametrize("table", ["COUNTRIES", "ELEMENTS", "MONTHS", "WEEKDAYS", "PLANETS", "ANIMALS"])
def test_names_are_different_and_one_word_in_the_right_script(table):
    things = getattr(tables, table)
    for language in ("en", "zh"):
        names = [thing.name.text(language) for thing in things]
        assert len(set(names)) == len(names)
    for pair in (pair for thing in things for pair in pairs(thing)):
        assert re.fullmatch(r"[A-Za-z]+", pair.en) and re.fullmatch(r"[\u4e00-\u9fff]+", pair.zh)


def test_capitals_are_different_and_never_named_like_their_country():
    capitals = [country.capital for country in tables.COUNTRIES]
    countries = {name for country in tables.COUNTRIES for name in country.name}
    for language in (0, 1):
        assert len({capital[language] for capital in capitals}) == len(capitals)
    assert not countries & {name for capital in capitals for name in capital}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_word_stands_twice(language):
    """Not even in other letters: "Polish" and "polish" would be one word to a parser that forgives case."""
    counts = Counter(entry.name.text(language).lower() for entry in ENTRIES)
    assert [word for word, times in counts.items() if times > 1] == []


def test_translation_is_inverse_and_changes_the_language():
    for entry in ENTRIES:
        assert lexicon.translate(entry.name.en, "zh") == entry.name.zh
        assert lexicon.translate(entry.name.zh, "en") == entry.name.en
        assert (language_of(entry.name.en), language_of(entry.name.zh)) == ("en", "zh")


@pytest.mark.parametrize("word, language", [("cat", "en"), ("猫", "zh"), ("blorp", "zh"), ("龘", "en"), ("CAT", "zh")])
def test_no_translation_of_the_unknown_or_into_the_same_language(word, language):
    with pytest.raises(Undefined):
        lexicon.translate(word, language)


def test_every_name_of_the_tables_is_in_the_lexicon():
    for name in ("COUNTRIES", "ELEMENTS", "MONTHS", "WEEKDAYS", "PLANETS", "ANIMALS"):
        for pair in (pair for thing in getattr(tables, name) for pair in pairs(thing)):
            assert lexicon.known(pair.en) is lexicon.known(pair.zh) and lexicon.known(pair.en).name == pair


def test_categories():
    assert lexicon.category("puppy") == lexicon.category("猫") == "animal"
    assert lexicon.category("France") == "country" and lexicon.category("金星") == "planet"
    assert set(lexicon.CATEGORIES) < set(lexicon.CATEGORY_NAMES)
    assert {entry.category for entry in ENTRIES} == {"", *lexicon.CATEGORY_NAMES}
    for category in lexicon.CATEGORY_NAMES:
        english, chinese = (lexicon.words_of(category, language) for language in ("en", "zh"))
        assert [lexicon.translate(word, "zh") for word in english] == list(chinese)
        assert {lexicon.category(word) for word in english + chinese} == {category}
    with pytest.raises(KeyError):
        lexicon.words_of("fish", "en")
    for word in ("animal", "blorp"):
        with pytest.raises(Undefined):
            lexicon.category(word)


def test_forms_of_words():
    """Each category has the forms it should; no form is the base form of another word, so that forms cannot mislead."""
    bases = {entry.name.en for entry in ENTRIES}
    for word in lexicon.WORDS:
        assert bool(word.third and word.past) == (word.category == "verb")
        assert (word.opposite is not None) == (word.sentiment is not None) == (word.category == "adjective")
        assert not ({word.plural, word.third, word.past} - {"", word.name.en}) & bases
        assert (word.plural or word.name.en)[0] == (word.third or word.name.en)[0] == word.name.en[0]
        if word.opposite:
            other = lexicon.known(word.opposite.en)
            assert other.opposite == word.name and other.sentiment == -word.sentiment


def test_rows_notice_a_missing_word():
    assert rows("a b c d", 2) == [("a", "b"), ("c", "d")]
    with pytest.raises(AssertionError, match="3 words"):
        rows("a b c", 2)


#: Where the data set says it otherwise, and both are right.
SPELLINGS = {
    "Ulaanbaatar": "Ulan Bator", "Bogota": "Bogotá", "Brasilia": "Brasília", "zloty": "złoty", "renminbi": "yuan",
    "dong": "đồng", "tugrik": "tögrög", "som": "soʻm", "bolivar": "bolívar", "cordoba": "córdoba", "tala": "tālā",
}  # fmt: skip


@pytest.mark.skipif(not COUNTRIES_FILE, reason="set ZHILING_COUNTRIES to the countries.json of mledoze/countries")
def test_countries_agree_with_the_public_data_set():
    data = {row["name"]["common"]: row for row in json.loads(Path(COUNTRIES_FILE).read_text(encoding="utf-8"))}
    for country in tables.COUNTRIES:
        row = data[country.name.en]
        capital, currency = (SPELLINGS.get(word.en, word.en) for word in (country.capital, country.currency))
        languages, currencies = row["languages"].values(), [each["name"] for each in row["currencies"].values()]
        assert row["capital"] == [capital]
        assert any(currency.lower() in name.lower() for name in currencies), country
        assert any(country.language.en in name for name in languages), country  # "Persian (Farsi)"
        assert row["region"] == country.continent.en
        assert row["translations"]["zho"]["common"] == country.name.zh
