"""Human wording: what people would say for the programs of this world, in both languages, without knowing its grammar.

What it is. Instructions written by hand, each with its program and an input. They are a test and never training data.
Most of them the parser cannot read, and that is the point: a model that has only ever seen the grammar is asked
something that the grammar does not contain.

What it leaves out. Numbers that would stand for the speech of mankind: it is one table of some sixty sentences.
"""

from __future__ import annotations

from typing import NamedTuple


class Human(NamedTuple):
    """An instruction, its program, its input and its language; `closed`: the input stands in the instruction."""

    instruction: str
    program: str
    given: str
    language: str
    closed: bool = False


HUMAN: tuple[Human, ...] = (
    # English: numbers and lists
    Human("Could you put these in order for me, smallest one to start with?", "sort_up", "14 3 9 5", "en"),
    Human("Which of these is the biggest?", "largest", "7 18 2 11", "en"),
    Human("what do they come to all together", "sum", "6 12 5", "en"),
    Human("How many numbers have I got here?", "count_items", "4 4 19 0 7", "en"),
    Human("Flip the whole thing round so the last one comes first.", "reverse_list", "2 9 16 5", "en"),
    Human("Get rid of the repeats, please.", "deduplicate", "8 3 8 8 1", "en"),
    Human("I only want the even ones.", "keep_even", "5 12 7 16 20", "en"),
    Human("Bump every number up by five.", "add_each 5", "1 13 6", "en"),
    Human("Chuck out anything over 9.", "keep_below 10", "4 15 9 10 2", "en"),
    Human("Give me the second biggest number.", "sort_down | item 2", "3 17 8 12", "en"),
    Human("Add them up and tell me whether you end up with an even number.", "sum | is_even", "7 9 4", "en"),
    Human("Square each of them and then total the lot.", "square_each | sum", "2 5 3", "en"),
    Human("Take away the odd ones; how many are left?", "keep_even | count_items", "6 7 10 13 18", "en"),
    Human("How far is it from the lowest to the highest?", "range", "9 2 15 6", "en"),
    Human("What's left over when you share it among 7?", "remainder 7", "46", "en"),
    Human("What is twice 34?", "double", "34", "en", closed=True),
    Human("Is 53 a prime?", "is_prime", "53", "en", closed=True),
    Human("Spell this number out for me.", "in_words", "68", "en"),
    Human("Times it by ten, then knock off three.", "times 10 | minus 3", "27", "en"),
    Human("Work this out.", "evaluate", "4 + 6 * 3", "en"),
    # English: facts and words
    Human("Which city is France run from?", "capital", "France", "en", closed=True),
    Human("What money should I take along?", "currency", "Thailand", "en"),
    Human("Where in the world is this place?", "continent", "Peru", "en"),
    Human("What do they call the little one?", "young", "sheep", "en"),
    Human("How many days has this month got?", "days_in_month", "April", "en"),
    Human("Today is Friday, so what comes two days on?", "next_weekday | next_weekday", "Friday", "en", closed=True),
    Human("How do you say this in Chinese?", "to_chinese", "bridge", "en"),
    Human("What's it called in English?", "to_english", "蝴蝶", "en"),
    Human("If there were several of these, what would you write?", "plural", "tooth", "en"),
    Human("Shout it.", "upper", "hello", "en"),
    Human("Write it back to front.", "reverse_word", "garden", "en"),
    Human("What's the very opposite of that?", "opposite", "brave", "en"),
    Human("Leave out whatever isn't an animal.", "keep_category animal", "car wolf apple hen", "en"),
    Human("Put this in the dictionary's order.", "alphabetical", "pear apple lemon grape", "en"),
    Human("How long is the longest one?", "longest | letter_count", "sun forest river", "en"),
    Human("How many letters does the name of its capital have?", "capital | letter_count", "Japan", "en"),
    # English: plans
    Human("What's the quickest way to get there?", "route", "A-B B-C C-D A-E ; A D", "en"),
    Human("Can I get from the one place to the other at all?", "reachable", "A-B C-D D-E ; A E", "en"),
    Human("In which order should I do all this?", "order_tasks", "wash<cook buy<wash cook<eat", "en"),
    Human("How tall is the highest pile?", "tower_height", "red blue | green white black", "en"),
    # Chinese: numbers and lists
    Human("帮忙把这几个数由小到大排一下", "sort_up", "11 4 17 8", "zh"),
    Human("这里头哪个数最大呀", "largest", "6 19 3 14", "zh"),
    Human("这些加一块儿是多少？", "sum", "5 8 13", "zh"),
    Human("一共有几个数？", "count_items", "2 2 16 9", "zh"),
    Human("倒着念一遍", "reverse_list", "7 1 12 20", "zh"),
    Human("重复的只留一个", "deduplicate", "3 15 3 3 6", "zh"),
    Human("单数我不要，双数留下", "keep_even", "4 9 18 11", "zh"),
    Human("每个都添上三", "add_each 3", "10 5 2", "zh"),
    Human("找第二小的那个", "sort_up | item 2", "13 6 18 1", "zh"),
    Human("它们的和是双数吗", "sum | is_even", "8 5 6", "zh"),
    Human("先各自翻一番，再合计一下", "double_each | sum", "3 9 4", "zh"),
    Human("最大的比最小的多多少", "range", "12 5 20 7", "zh"),
    Human("除以5还剩几", "remainder 5", "43", "zh"),
    Human("17的平方是几？", "square", "17", "zh", closed=True),
    Human("31是不是只能被1和它自己整除？", "is_prime", "31", "zh", closed=True),
    Human("用中文怎么写这个数", "in_words", "57", "zh"),
    Human("算算得多少", "evaluate", "9 * 2 - 5", "zh"),
    # Chinese: facts and words
    Human("意大利的首都叫啥？", "capital", "意大利", "zh", closed=True),
    Human("去这个国家要换什么钱？", "currency", "日本", "zh"),
    Human("他们那儿讲什么话？", "language", "巴西", "zh"),
    Human("它有几条腿呀？", "legs", "蜘蛛", "zh"),
    Human("三月一共多少天？", "days_in_month", "三月", "zh", closed=True),
    Human("昨天是星期几？今天是星期四。", "previous_weekday", "星期四", "zh", closed=True),
    Human("这个用英语怎么讲？", "to_english", "苹果", "zh"),
    Human("这是什么意思？用中文告诉我。", "to_chinese", "library", "zh"),
    Human("跟它相反的是什么？", "opposite", "干净", "zh"),
    Human("这东西算哪一类？", "category", "火车", "zh"),
    Human("哪个词最长？", "longest", "猫 三明治 桌子", "zh"),
    Human("首都的名字是几个字？", "capital | letter_count", "越南", "zh"),
    # Chinese: plans
    Human("怎么走最近？", "route", "甲-乙 乙-丙 丙-丁 甲-戊 ; 甲 丁", "zh"),
    Human("走得过去吗？", "reachable", "甲-乙 丙-丁 丁-戊 ; 甲 戊", "zh"),
    Human("这些事按什么次序来做好？", "order_tasks", "洗<煮 买<洗 煮<吃", "zh"),
)
