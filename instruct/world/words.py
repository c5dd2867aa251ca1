"""Operations on one word: its letters, its forms, what it means, and its translation.

What it is. The families "word" (spelling), "lexicon" (forms, opposites, categories) and "translation". `OPERATIONS`
holds these and, behind them, those on lists of words (`instruct.world.word_lists`).

Why so. The first family can be worked out letter by letter for any word at all; the other two must have been learnt
and are Undefined for a word that the lexicon does not know. Chinese words are spelt in characters, which can be
counted, turned around and taken apart; but they have no vowels, no capitals, no plural and no past.
A translated name keeps its type: 法国 put into English is still a country, and its capital can be asked for.

Conventions. y is no vowel. Whether a word reads the same backwards is decided without regard to capitals. The letter z
has no successor.

What it leaves out. Syllables, rhymes, pinyin, strokes.
"""

from __future__ import annotations

from instruct.world import lexicon, word_lists
from instruct.world.operation import SAME, Operation, Phrases, Undefined, language_of
from instruct.world.word_lists import CHINESE, CLASSES, english, length

VOWELS = frozenset("aeiouAEIOU")

# What they compute ---------------------------------------------------------------------------------------------------


def without_vowels(word: str) -> str:
    left = "".join(letter for letter in english(word) if letter not in VOWELS)
    if not left:
        raise Undefined(f"{word!r} has vowels only")
    return left


def plural(word: str) -> str:
    entry = lexicon.known(english(word))
    if not entry.plural:
        raise Undefined(f"{word!r} has no plural")
    return entry.plural


def past(word: str) -> str:
    entry = lexicon.known(english(word))
    if not entry.past:
        raise Undefined(f"{word!r} is no verb")
    return entry.past


def opposite(word: str) -> str:
    entry = lexicon.known(word)
    if entry.opposite is None:
        raise Undefined(f"{word!r} has no opposite")
    return entry.opposite.text(language_of(word))


def category(word: str) -> str:
    """The name of its category in the language of the word."""
    return lexicon.CATEGORY_NAMES[lexicon.category(word)].text(language_of(word))


def sentiment(word: str) -> str:
    entry = lexicon.known(word)
    if entry.sentiment is None:
        raise Undefined(f"{word!r} is no adjective")
    return lexicon.SENTIMENTS[entry.sentiment].text(language_of(word))


def place(letter: str) -> int:
    """a is 1, z is 26, in either case."""
    if len(letter) != 1 or not "a" <= letter.lower() <= "z":
        raise Undefined(f"{letter!r} is no letter of the alphabet")
    return ord(letter.lower()) - ord("a") + 1


def next_letter(letter: str) -> str:
    if place(letter) == 26:
        raise Undefined("z is the last letter of the alphabet")
    return chr(ord(letter) + 1)


# How people ask for them ---------------------------------------------------------------------------------------------

SPELLING = (
    Operation(
        "letter_count", "word", "word", "number", lambda x, k, language: length(x),
        Phrases(("count the letters in {x}", "count how many letters {x} has", "see how long {x} is in letters"),
                ("the number of letters in {x}", "the letter count of {x}")),
        Phrases(("数一数{x}有几个字符", "统计{x}的字符个数", "看看{x}由多少个字符组成"),
                ("{x}的字符数", "{x}所含字符的个数")),
    ),
    Operation(
        "vowel_count", "word", "word", "number", lambda x, k, language: sum(c in VOWELS for c in english(x)),
        Phrases(("count the vowels in {x}", "count how many vowels {x} has", "tally the vowels of {x}"),
                ("the number of vowels in {x}", "the vowel count of {x}")),
        Phrases(("数一数{x}有几个元音字母", "统计{x}的元音个数", "看看{x}里有多少个元音"),
                ("{x}的元音字母数", "{x}所含元音的个数")),
    ),
    Operation(
        "reverse_word", "word", "word", "word", lambda x, k, language: x[::-1],
        Phrases(("spell {x} backwards", "reverse the letters of {x}", "write the letters of {x} from right to left"),
                ("the backwards spelling of {x}", "the letter reversal of {x}")),
        Phrases(("倒着拼写{x}", "把{x}的字符颠倒过来", "从右到左写{x}"), ("{x}倒过来的拼写", "{x}的逆序写法")),
    ),
    Operation(
        "upper", "word", "word", "word", lambda x, k, language: english(x).upper(),
        Phrases(("write {x} in capital letters", "put {x} into upper case", "change every letter of {x} to a capital"),
                ("the upper-case form of {x}", "the all-capitals form of {x}")),
        Phrases(("用大写字母写{x}", "把{x}全部变成大写", "将{x}转换为大写形式"), ("{x}的大写形式", "{x}的全大写写法")),
    ),
    Operation(
        "capitalise", "word", "word", "word", lambda x, k, language: english(x)[0].upper() + x[1:],
        Phrases(("capitalise {x}", "start {x} with a capital letter", "make the first letter of {x} a capital"),
                ("the capitalised form of {x}", "the form of {x} with a capital at the start")),
        Phrases(("将{x}的首字母大写", "让{x}以大写字母开头", "把{x}的头一个字母改成大写"),
                ("{x}首字母大写的形式", "{x}以大写字母开头的形式")),
    ),
    Operation(
        "first_letter", "word", "word", "letter", lambda x, k, language: x[0],
        Phrases(("pick the first letter of {x}", "take the letter that {x} begins with",
                 "read off the opening letter of {x}"),
                ("the first letter of {x}", "the initial of {x}")),
        Phrases(("取{x}的第一个字符", "挑出{x}开头的字符", "看看{x}以什么字符开头"),
                ("{x}的第一个字符", "{x}开头的字符")),
    ),
    Operation(
        "last_letter", "word", "word", "letter", lambda x, k, language: x[-1],
        Phrases(("pick the last letter of {x}", "take the letter that {x} ends with",
                 "read off the closing letter of {x}"),
                ("the last letter of {x}", "the final letter of {x}")),
        Phrases(("取{x}的倒数第一个字符", "挑出{x}末尾的字符", "看看{x}以什么字符结尾"),
                ("{x}的倒数第一个字符", "{x}末尾的字符")),
    ),
    Operation(
        "without_vowels", "word", "word", "word", lambda x, k, language: without_vowels(x),
        Phrases(("remove the vowels from {x}", "delete every vowel in {x}", "write {x} without vowels"),
                ("the vowel-free form of {x}", "the consonant skeleton of {x}")),
        Phrases(("去掉{x}里的元音字母", "把{x}中的元音全部删除", "不带元音地写{x}"),
                ("{x}去掉元音所剩的部分", "{x}里的辅音字母")),
    ),
    Operation(
        "repeat_word", "word", "word", "word", lambda x, k, language: x + x,
        Phrases(("write {x} twice without a space", "double {x} into one long word", "join {x} to a copy of itself"),
                ("the doubled spelling of {x}", "the word made of {x} written twice")),
        Phrases(("把{x}连写两次", "让{x}与自身拼在一起", "将{x}重复成一个长词"),
                ("{x}连写两次的形式", "{x}的叠写形式")),
    ),
    Operation(
        "letters", "word", "word", "words", lambda x, k, language: [c for c in x if c.isalpha()],
        Phrases(("split {x} into its letters", "break {x} up into single letters", "take {x} apart letter by letter"),
                ("the list of letters in {x}", "the letter sequence of {x}")),
        Phrases(("把{x}拆成一个一个的字符", "将{x}按字符拆开", "逐个写下{x}的字符"),
                ("{x}的字符列表", "{x}的字符序列")),
    ),
    Operation(
        "is_palindrome", "word", "word", "truth", lambda x, k, language: x.lower() == x.lower()[::-1],
        Phrases(("check whether {x} is a palindrome", "decide if {x} reads the same backwards",
                 "say whether {x} is the same in both directions", "test if {x} is spelt alike from either end")),
        Phrases(("判断{x}是不是回文", "检查{x}倒着读是否一样", "看看{x}正反读是否相同", "说说{x}算不算回文词")),
    ),
    Operation(
        "contains_letter", "word", "word", "truth", lambda x, k, language: k in english(x).lower(),
        Phrases(("check whether {x} contains the letter {k}", "decide if the letter {k} occurs in {x}",
                 "say whether there is a letter {k} in {x}", "test {x} for the letter {k}")),
        Phrases(("判断{x}是否含有字母{k}", "检查{x}里有没有字母{k}", "看看字母{k}在不在{x}里",
                 "说说{x}中出不出现字母{k}")),
        arguments=("a", "e", "o", "r"),
    ),
    Operation(
        "alphabet_position", "word", "letter", "number", lambda x, k, language: place(x),
        Phrases(("say which place {x} has in the alphabet", "count through the alphabet up to {x}",
                 "number {x} by its place in the alphabet"),
                ("the place of {x} in the alphabet", "the alphabet number of {x}")),
        Phrases(("数一数{x}在字母表中排第几", "说说{x}是字母表中的第几个", "查一查{x}的字母序号"),
                ("{x}在字母表中的位置", "{x}的字母序号")),
    ),
    Operation(
        "next_letter", "word", "letter", "letter", lambda x, k, language: next_letter(x),
        Phrases(("say which letter follows {x}", "move {x} one place forward in the alphabet",
                 "replace {x} by the next letter of the alphabet"),
                ("the letter after {x}", "the letter that follows {x} in the alphabet")),
        Phrases(("说说{x}后面是哪个字母", "把{x}在字母表里往后移一位", "将{x}换成字母表里的下一个字母"),
                ("{x}后面的字母", "字母表中{x}的下一个字母")),
    ),
)

MEANING = (
    Operation(
        "plural", "lexicon", "word", "word", lambda x, k, language: plural(x),
        Phrases(("put {x} into the plural", "turn {x} into the form for more than one", "make {x} plural"),
                ("the plural of {x}", "the plural form of {x}")),
        Phrases(("把{x}变成复数", "将{x}改为复数形式", "让{x}表示不止一个"), ("{x}的复数", "{x}的复数形式")),
    ),
    Operation(
        "past", "lexicon", "word", "word", lambda x, k, language: past(x),
        Phrases(("conjugate {x} in the past tense", "turn {x} into its past tense", "form the past tense of {x}"),
                ("the past tense of {x}", "the past form of {x}")),
        Phrases(("把{x}变成过去式", "将{x}改为过去式", "用过去式拼写{x}"), ("{x}的过去式", "{x}的过去时形式")),
    ),
    Operation(
        "opposite", "lexicon", "word", "word", lambda x, k, language: opposite(x),
        Phrases(("name the opposite of {x}", "turn {x} into its opposite", "replace {x} by its antonym"),
                ("the opposite of {x}", "the antonym of {x}")),
        Phrases(("说说{x}的反义词", "把{x}换成反义词", "找一个与{x}意思相反的词"),
                ("{x}的反义词", "与{x}意思相反的词")),
    ),
    Operation(
        "category", "lexicon", "word", "word", lambda x, k, language: category(x),
        Phrases(("classify {x}", "say what kind of thing {x} names", "sort {x} into its category"),
                ("the category of {x}", "the kind of thing that {x} names")),
        Phrases(("给{x}归类", "说说{x}属于哪一类", "判定{x}的类别"), ("{x}的类别", "{x}所属的类别")),
    ),
    Operation(
        "sentiment", "lexicon", "word", "word", lambda x, k, language: sentiment(x),
        Phrases(("judge whether {x} sounds positive or negative", "say what feeling {x} carries",
                 "rate the tone of {x}"),
                ("the sentiment of {x}", "the tone of {x}")),
        Phrases(("判断{x}的感情色彩", "说说{x}带有什么色彩", "给{x}评定褒贬"),
                ("{x}的感情色彩", "{x}的褒贬色彩")),
    ),
    Operation(
        "is_category", "lexicon", "word", "truth", lambda x, k, language: lexicon.category(x) == k,
        Phrases(("check whether {x} is {k}", "decide if {x} names {k}", "say whether {x} counts as {k}",
                 "test if {x} is a word for {k}"),
                spoken={"animal": "an animal", "fruit": "a fruit", "colour": "a colour", "vehicle": "a vehicle"}),
        Phrases(("判断{x}是不是{k}", "检查{x}是否为{k}", "看看{x}算不算{k}", "说说{x}是不是一种{k}"),
                spoken=CHINESE),
        arguments=CLASSES,
    ),
)

TRANSLATION = (
    Operation(
        "to_english", "translation", "word", SAME, lambda x, k, language: lexicon.translate(x, "en"),
        Phrases(("translate {x} into English", "turn {x} into English", "say {x} in English"),
                ("the English word for {x}", "the English translation of {x}")),
        Phrases(("把{x}译成英文", "将{x}翻译成英语", "用英语说{x}"), ("{x}的英文", "与{x}对应的英文词")),
    ),
    Operation(
        "to_chinese", "translation", "word", SAME, lambda x, k, language: lexicon.translate(x, "zh"),
        Phrases(("translate {x} into Chinese", "turn {x} into Chinese", "say {x} in Chinese"),
                ("the Chinese word for {x}", "the Chinese translation of {x}")),
        Phrases(("把{x}译成中文", "将{x}翻译成汉语", "用汉语说{x}"), ("{x}的中文", "与{x}对应的中文词")),
    ),
)

OPERATIONS: tuple[Operation, ...] = SPELLING + MEANING + TRANSLATION + word_lists.OPERATIONS
