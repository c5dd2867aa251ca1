"""Operations on lists of words: order, the longest and the shortest, one thing done to each word, choosing by meaning.

What it is. The family "words". What any list can do, numbers too, is in `instruct.world.lists`; what is done to one
word is in `instruct.world.words`, and its operations for each word are told apart by "each", "every" or 每, 各, 逐个.

Why so. A list is translated word by word and fails as a whole if one word is unknown, for half an answer is no answer.
Of several equally long words the one that stands first counts. The alphabet orders English words without regard to
capitals; Chinese words have no one order, so that sorting them is Undefined.

What it leaves out. Two lists at a time, and orders by meaning.
"""

from __future__ import annotations

from instruct.world import lexicon
from instruct.world.operation import Operation, Phrases, Undefined, language_of

CLASSES = ("animal", "fruit", "colour", "vehicle")
PLURALS = {"animal": "animals", "fruit": "fruits", "colour": "colours", "vehicle": "vehicles"}
CHINESE = {key: lexicon.CATEGORY_NAMES[key].zh for key in CLASSES}

# What they compute ---------------------------------------------------------------------------------------------------


def some(words: list[str]) -> list[str]:
    """The list itself; Undefined if it is empty."""
    if not words:
        raise Undefined("there are no words")
    return words


def length(word: str) -> int:
    """Its letters or characters; a hyphen is none."""
    return sum(character.isalpha() for character in word)


def english(word: str) -> str:
    """The word itself; Undefined if it is not spelt in Latin letters."""
    if language_of(word) != "en":
        raise Undefined(f"{word!r} is not spelt in Latin letters")
    return word


def all_english(words: list[str]) -> list[str]:
    return [english(word) for word in some(words)]


def alphabetical(words: list[str]) -> list[str]:
    return sorted(all_english(words), key=lambda word: (word.lower(), word))


def plural_each(words: list[str]) -> list[str]:
    plurals = [lexicon.known(word).plural for word in all_english(words)]
    if not all(plurals):
        raise Undefined("one of the words has no plural")
    return plurals


def in_category(words: list[str], category: str) -> list[str]:
    return [word for word in words if (entry := lexicon.find(word)) and entry.category == category]


# How people ask for them ---------------------------------------------------------------------------------------------

ORDER = (
    Operation(
        "alphabetical", "words", "words", "words", lambda x, k, language: alphabetical(x),
        Phrases(("sort {x} alphabetically", "put {x} in alphabetical order", "arrange {x} from A to Z"),
                ("the alphabetical order of {x}", "the version of {x} sorted from A to Z")),
        Phrases(("把{x}按字母顺序排列", "将{x}按字典顺序排好", "让{x}从A到Z排队"),
                ("{x}的字母顺序排列", "{x}按字典顺序的排列")),
    ),
    Operation(
        "longest", "words", "words", "word", lambda x, k, language: max(some(x), key=length),
        Phrases(("pick the longest word from {x}", "select the word with the most letters from {x}",
                 "choose the lengthiest word in {x}"),
                ("the longest word in {x}", "the word with the most letters in {x}")),
        Phrases(("从{x}里挑出最长的词", "在{x}中选字符最多的词", "取{x}中的最长者"),
                ("{x}中最长的词", "{x}里字符最多的词")),
    ),
    Operation(
        "shortest", "words", "words", "word", lambda x, k, language: min(some(x), key=length),
        Phrases(("pick the shortest word from {x}", "select the word with the fewest letters from {x}",
                 "choose the briefest word in {x}"),
                ("the shortest word in {x}", "the word with the fewest letters in {x}")),
        Phrases(("从{x}里挑出最短的词", "在{x}中选字符最少的词", "取{x}中的最短者"),
                ("{x}中最短的词", "{x}里字符最少的词")),
    ),
)

SPELLING = (
    Operation(
        "lengths", "words", "words", "numbers", lambda x, k, language: [length(word) for word in some(x)],
        Phrases(("count the letters of each word in {x}", "measure the length of every word in {x}",
                 "replace each word in {x} by its number of letters"),
                ("the list of word lengths in {x}", "the letter count of each word in {x}")),
        Phrases(("数一数{x}里每个词的字符数", "量一量{x}中各词的长度", "把{x}里的每个词换成字符数"),
                ("{x}中各词的长度", "{x}里每个词的字符数")),
    ),
    Operation(
        "initials", "words", "words", "word", lambda x, k, language: "".join(word[0] for word in some(x)),
        Phrases(("join the first letters of all the words in {x}", "run the initials of {x} together",
                 "make an acronym from {x}"),
                ("the acronym of {x}", "the string of initials of {x}")),
        Phrases(("取{x}里每个词的第一个字符拼起来", "把{x}的词首字符连在一起", "用{x}的各词开头造一个缩写"),
                ("{x}的词首缩写", "{x}各词开头字符拼成的词")),
    ),
    Operation(
        "join", "words", "words", "word", lambda x, k, language: "".join(some(x)),
        Phrases(("join {x} into a single word", "write {x} together without spaces", "glue {x} together end to end"),
                ("the single word made by joining {x}", "the spaceless joining of {x}")),
        Phrases(("把{x}连成一个词", "不留空格地连写{x}", "将{x}首尾相接拼成一个长词"),
                ("{x}连成的一个词", "{x}首尾相接所得的词")),
    ),
    Operation(
        "upper_each", "words", "words", "words", lambda x, k, language: [word.upper() for word in all_english(x)],
        Phrases(("write each word in {x} in capital letters", "put every word of {x} into upper case",
                 "capitalise all the letters in {x}"),
                ("the upper-case version of all the words in {x}", "the all-capitals version of {x}")),
        Phrases(("把{x}里的每个词变成大写", "用大写字母写{x}中的各个词", "将{x}逐个转换为大写"),
                ("{x}中各词的大写形式", "{x}逐个大写所得的列表")),
    ),
    Operation(
        "plural_each", "words", "words", "words", lambda x, k, language: plural_each(x),
        Phrases(("put each word in {x} into the plural", "make every word in {x} plural",
                 "turn each item of {x} into its plural"),
                ("the list of plurals of {x}", "the list of plural forms of {x}")),
        Phrases(("把{x}里的每个词变成复数", "将{x}中的各词改为复数形式", "让{x}里的词逐个变成复数"),
                ("{x}中各词的复数", "{x}里每个词的复数形式")),
    ),
)

MEANING = (
    Operation(
        "each_to_english", "words", "words", "words",
        lambda x, k, language: [lexicon.translate(word, "en") for word in some(x)],
        Phrases(("translate each word in {x} into English", "turn every word of {x} into English",
                 "go through {x} putting each word into English"),
                ("the list of English words for {x}", "the word-by-word English translation of {x}")),
        Phrases(("把{x}逐个译成英文", "将{x}里的每个词翻译成英语", "用英语依次说{x}里的词"),
                ("{x}里各词的英文", "与{x}逐个对应的英文词")),
    ),
    Operation(
        "each_to_chinese", "words", "words", "words",
        lambda x, k, language: [lexicon.translate(word, "zh") for word in some(x)],
        Phrases(("translate each word in {x} into Chinese", "turn every word of {x} into Chinese",
                 "go through {x} putting each word into Chinese"),
                ("the list of Chinese words for {x}", "the word-by-word Chinese translation of {x}")),
        Phrases(("把{x}逐个译成中文", "将{x}里的每个词翻译成汉语", "用汉语依次说{x}里的词"),
                ("{x}里各词的中文", "与{x}逐个对应的中文词")),
    ),
    Operation(
        "keep_category", "words", "words", "words", lambda x, k, language: in_category(x, k),
        Phrases(("keep only the {k} in {x}", "remove everything but the {k} from {x}", "filter {x} for {k}"),
                ("the list of {k} in {x}", "the {k} in {x}"), spoken=PLURALS),
        Phrases(("只保留{x}中的{k}", "去掉{x}里不是{k}的词", "从{x}中筛出{k}"), ("{x}中的{k}", "{x}里表示{k}的词"),
                spoken=CHINESE),
        arguments=CLASSES,
    ),
    Operation(
        "count_category", "words", "words", "number", lambda x, k, language: len(in_category(x, k)),
        Phrases(("count the {k} in {x}", "count how many words in {x} are {k}", "tally the {k} of {x}"),
                ("the number of {k} in {x}", "the count of {k} in {x}"), spoken=PLURALS),
        Phrases(("数一数{x}中有几个词是{k}", "统计{x}里{k}的个数", "看看{x}中{k}有多少"),
                ("{x}中{k}的个数", "{x}里{k}的数量"), spoken=CHINESE),
        arguments=CLASSES,
    ),
)

OPERATIONS: tuple[Operation, ...] = ORDER + SPELLING + MEANING
