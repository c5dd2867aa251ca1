"""How fast `instruct.rouge` decides, and whether it is right: measured beside the package rouge_score in the same run.

    python -m instruct.rouge_bench --json OUT.json            # 52,000 invented instructions, all pairs, one core
    python -m instruct.rouge_bench FILE... --json OUT.json    # your own instructions, in any format of data.formats

Three parts. *Deciding*: encode N texts and find every pair of ROUGE-L >= 0.7, which answers N (N - 1) / 2 questions.
*The reference*: rouge_score on random pairs of the same texts, both as people call it (texts in) and with the tokens
ready (the first cuts them anew each time, but deletes Chinese, so that either may be the slower one). *Agreement*:
pairs, half of them random and half chosen for the tokens that they share, so that many lie near the threshold; a
disagreement is a pair that rouge_score decides otherwise than the timed run did, and a score differs when it differs
from `rouge_l` in a single bit. Where a text has CJK characters, which rouge_score deletes, it is given our tokens.

The invented instructions come from a seeded grammar of frames, English and Chinese, 4 to about 30 tokens long; three
in ten are an earlier one with a word or two changed, as models write them.

What it leaves out. Other machines' load: wall and processor seconds are both stated, and on a quiet machine they agree.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from configs import UserError, run_main
from configs.machine import machine
from data.files import whole_file
from data.formats import conversations_of, read_rows
from instruct.rouge import Pool, rouge_l, tokens

THRESHOLD = 0.7
SIZE = 52_000  # as many as Self-Instruct made

# Invented instructions -----------------------------------------------------------------------------------------------

ENGLISH = {
    "frame": """VERB THING about TOPIC|VERB THING about TOPIC TAIL|VERB THING for PERSON who TROUBLE
        Given THING about TOPIC, ACT it TAIL|ACT the following SOURCE|ACT the following SOURCE TAIL
        What are NUMBER ways in which PERSON can deal with TOPIC?|Explain to PERSON how TOPIC works TAIL
        Classify the following SOURCE as KIND or KIND|PERSON who TROUBLE asks about TOPIC. VERB THING that helps
        Compare TOPIC with TOPIC and say which of them matters more to PERSON|Is the following SOURCE about TOPIC?""",
    "VERB": "Write|Compose|Suggest|Draft|Create|Invent|Give me|Come up with|Prepare|Sketch|Generate|Design",
    "THING": """a poem|a short story|a headline|a plan for a week|an email|a letter|a list of NUMBER ideas|a riddle
        a recipe|a slogan|a quiz with NUMBER questions|a dialogue|a speech|a product description|an outline""",
    "TOPIC": """the weather|a lost key|modern art|the moon|small gardens|old bridges|learning to swim|city traffic
        the price of bread|honest work|friendship|a sleepy cat|saving water|the sea in winter|travel by train|bees
        public libraries|home cooking|chess openings|a broken clock|night shifts|wild mushrooms|school uniforms""",
    "PERSON": """a child|a new colleague|a nervous student|an old friend|a busy parent|a tired nurse|a farmer
        a visitor from abroad|a young teacher|a retired sailor|a shop owner|a beginner""",
    "TROUBLE": """cannot sleep|has moved to a new town|wants to save money|is afraid of heights|forgot a birthday
        works too much|is learning to read music|lost a bet|needs a change|has no time to cook""",
    "ACT": "summarise|translate|rewrite|shorten|correct|simplify|expand|review|proofread|sort|criticise|paraphrase",
    "SOURCE": """paragraph|sentence|list of words|article|conversation|message|set of numbers|paragraph about TOPIC
        sentence about TOPIC|review|note by PERSON|table of prices""",
    "KIND": "positive|negative|formal|informal|fact|opinion|spam|urgent|fiction|neutral|ironic|polite",
    "NUMBER": "two|three|four|five|six|seven|eight|ten|twelve",
    "TAIL": """in NUMBER sentences|in a friendly tone|without using the letter e|so that PERSON understands it|in French
        and give one example|step by step|for PERSON who TROUBLE|with a surprising end|and explain why it matters""",
}
CHINESE = {
    "frame": """请写VERB关于TOPIC的THING
        请为PERSON写一篇关于TOPIC的THING，TAIL|把下面的SOURCE翻译成LANGUAGE|ACT下面的SOURCE
        ACT下面的SOURCE，TAIL|用NUMBER句话说明TOPIC为什么重要|给PERSON提出NUMBER条关于TOPIC的建议|判断下面的SOURCE是KIND还是KIND
        请比较TOPIC和TOPIC，并说明哪一个对PERSON更重要|列出NUMBER种和TOPIC有关的事物，TAIL|向PERSON解释什么是TOPIC""",
    "VERB": "一篇|一段|一个|一则",
    "THING": "短文|故事|演讲稿|邮件|说明书|对话|广告词|日记|新闻报道|童话|读后感|计划",
    "TOPIC": """天气变化|环境保护
        传统节日|家乡的小河|健康饮食|城市交通|友谊|时间管理|学习方法|航天事业|春天的花园|古代诗歌
        垃圾分类|网络安全|茶文化|图书馆|地震预警|太阳能|围棋|高铁旅行""",
    "PERSON": "小学生|新同事|老年人|外国游客|年轻教师|农民|护士|初学者|店主|家长",
    "SOURCE": "句子|段落|文章|词语|对话|评论|数字列表|通知|短信|新闻",
    "LANGUAGE": "英文|法文|日文|中文|德文",
    "ACT": "总结|改写|缩短|扩展|纠正|分析|润色|概括|续写|评价",
    "NUMBER": "两|三|四|五|六|八|十",
    "KIND": "正面|负面|事实|观点|正式|口语|诗歌|散文",
    "TAIL": "语气要友好|不超过NUMBER十个字|并举NUMBER个例子|让PERSON也能看懂|要求条理清楚|并说明理由",
}


def invented_instructions(count: int, seed: int = 0) -> list[str]:
    """`count` instructions, 6 in 10 English; the same for the same seed."""
    draw = random.Random(seed)
    grammars = [{name: _alternatives(text) for name, text in grammar.items()} for grammar in (ENGLISH, CHINESE)]
    made: list[tuple[list[str], bool]] = []
    for _ in range(count):
        if made and draw.random() < 0.3:
            parts, english = draw.choice(made)
            parts = parts[:]
            for _ in range(draw.randint(1, 2)):
                words = _alternatives(ENGLISH["TOPIC"] if english else CHINESE["TOPIC"])
                parts[draw.randrange(len(parts))] = draw.choice(words)
        else:
            english = draw.random() < 0.6
            text = _expand("frame", grammars[0 if english else 1], draw)
            parts = text.split() if english else list(text)
        made.append((parts, english))
    return [(" " if english else "").join(parts) for parts, english in made]


def _alternatives(text: str) -> list[str]:
    return [part.strip() for part in text.replace("\n", "|").split("|")]


def _expand(symbol: str, grammar: dict[str, list[str]], draw: random.Random) -> str:
    """A random sentence of a symbol: its names in capitals are replaced until none is left."""
    text = draw.choice(grammar[symbol])
    while names := [name for name in grammar if name in text]:
        text = text.replace(names[0], _expand(names[0], grammar, draw), 1)
    return text


def read_instructions(paths: Sequence[str]) -> list[str]:
    """The instruction of every row of files in the formats of `data.formats`: its field, or the first message."""
    found = []
    for path in paths:
        for place, row in read_rows(path):
            given = row.get("instruction")
            found.append(given if isinstance(given, str) else conversations_of(row, place)[0].messages[0].content)
    return found


# Measuring -----------------------------------------------------------------------------------------------------------


class Ready:
    """A tokenizer for rouge_score that has done its work before: `tokenize` looks the tokens up."""

    def __init__(self, texts: Sequence[str]):
        self.known = {text: tokens(text) for text in texts}

    def tokenize(self, text: str) -> list[str]:
        return self.known[text]


def reference(texts: Sequence[str]) -> tuple[Any, Any]:
    """The scorers of rouge_score: as people use it, and with our tokens ready. UserError where it is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError("the package to compare with is missing: pip install rouge_score (or '.[test]')") from None
    return RougeScorer(["rougeL"]), RougeScorer(["rougeL"], tokenizer=Ready(texts))


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of a call, and its wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - processor}


def random_pair(texts: int, draw: random.Random) -> tuple[int, int]:
    """Two different places (i, j), i > j."""
    i, j = draw.sample(range(texts), 2)
    return max(i, j), min(i, j)


class Similar:
    """Draws pairs that share tokens: of up to 30 texts with one of its rarer tokens, the one with most in common."""

    def __init__(self, texts: Sequence[str]):
        self.bags = [Counter(tokens(text)) for text in texts]
        self.having: dict[str, list[int]] = {}
        for i, bag in enumerate(self.bags):
            for token in bag:
                self.having.setdefault(token, []).append(i)

    def pair(self, draw: random.Random) -> tuple[int, int]:
        """A pair (i, j), i > j; a random one where a text shares nothing."""
        i = draw.randrange(len(self.bags))
        shared = sorted((len(self.having[token]), token) for token in self.bags[i] if len(self.having[token]) > 1)
        if not shared:
            return random_pair(len(self.bags), draw)
        others = self.having[draw.choice(shared[: 1 + len(shared) // 3])[1]]
        chosen = [j for j in draw.sample(others, min(len(others), 30)) if j != i]
        if not chosen:
            return random_pair(len(self.bags), draw)
        j = max(chosen, key=lambda j: (self.bags[i] & self.bags[j]).total())
        return max(i, j), min(i, j)


def sample_keys(count: int, texts: Sequence[str], draw: random.Random) -> np.ndarray:
    """Keys i * N + j of `count` different pairs, sorted: half random, half similar; fewer where N is small."""
    similar = Similar(texts)
    keys: set[int] = set()
    for share, drawn in ((count // 2, lambda: random_pair(len(texts), draw)), (count, lambda: similar.pair(draw))):
        for _ in range(4 * count):
            if len(keys) >= share:
                break
            i, j = drawn()
            keys.add(i * len(texts) + j)
    return np.array(sorted(keys))


def decide_all(texts: Sequence[str], asked: np.ndarray) -> tuple[int, np.ndarray]:
    """Decide all pairs; gives how many are close, and the decisions (len(asked),) of those with key i * N + j."""
    pool = Pool(texts)
    close, decisions = 0, np.zeros(len(asked), dtype=bool)
    for first, second, scores in pool.close_pairs(THRESHOLD):
        close += len(scores)
        keys = np.maximum(first, second) * len(texts) + np.minimum(first, second)
        place = np.searchsorted(asked, keys)
        known = place < len(asked)
        decisions[place[known][asked[place[known]] == keys[known]]] = True
    return close, decisions


def agreement(texts: Sequence[str], keys: np.ndarray, decisions: np.ndarray) -> dict[str, int]:
    """Compare with rouge_score pair by pair: with its own tokens where no CJK character takes part."""
    own, ready = reference(texts)
    counts = {"pairs": len(keys), "within_threshold": 0, "with_cjk": 0, "disagreements": 0, "scores_that_differ": 0}
    for key, decision in zip(keys.tolist(), decisions.tolist()):
        a, b = (texts[i] for i in divmod(key, len(texts)))
        cjk = any(not token.isascii() for text in (a, b) for token in tokens(text))
        expected = (ready if cjk else own).score(a, b)["rougeL"].fmeasure
        counts["with_cjk"] += cjk
        counts["within_threshold"] += expected >= THRESHOLD
        counts["disagreements"] += (expected >= THRESHOLD) != decision
        counts["scores_that_differ"] += rouge_l(a, b) != expected
    return counts


def measure(texts: Sequence[str], pairs: int, timed_pairs: int, seed: int) -> dict[str, Any]:
    """All figures of the benchmark; N texts, an agreement sample of `pairs`, rouge_score timed on `timed_pairs`."""
    if len(texts) < 2:
        raise UserError("at least two instructions are needed to compare them; give a larger file")
    draw = random.Random(seed)
    own, ready = reference(texts)
    keys = sample_keys(pairs, texts, draw)
    (close, decisions), deciding = timed(lambda: decide_all(texts, keys))
    tried = [tuple(texts[i] for i in random_pair(len(texts), draw)) for _ in range(timed_pairs)]
    _, as_used = timed(lambda: [own.score(a, b) for a, b in tried])
    _, with_tokens = timed(lambda: [ready.score(a, b) for a, b in tried])
    pool = Pool()
    _, admitting = timed(lambda: pool.admit(texts, THRESHOLD))
    questions = len(texts) * (len(texts) - 1) // 2
    ours = deciding["cpu_s"] / questions
    lengths = np.array([len(tokens(text)) for text in texts])
    return {
        "texts": len(texts),
        "tokens_per_text": dict(zip(("least", "median", "most"), np.quantile(lengths, (0, 0.5, 1)).tolist())),
        "threshold": THRESHOLD,
        "decisions": questions,
        "close_pairs": close,
        "deciding": deciding | {"ns_per_decision": 1e9 * ours},
        "rouge_score": {
            "pairs": timed_pairs,
            "us_per_pair_tokens_ready": 1e6 * with_tokens["cpu_s"] / timed_pairs,
            "us_per_pair_as_used": 1e6 * as_used["cpu_s"] / timed_pairs,
        },
        "speedup": {
            "tokens_ready": with_tokens["cpu_s"] / timed_pairs / ours,
            "as_used": as_used["cpu_s"] / timed_pairs / ours,
        },
        "admitting": admitting | {"kept": len(pool)},
        "agreement": agreement(texts, keys, decisions),
    }


def report(figures: dict[str, Any]) -> str:
    """The figures for people."""
    deciding, package, check = figures["deciding"], figures["rouge_score"], figures["agreement"]
    return (
        f"{figures['texts']} texts, {figures['tokens_per_text']['median']:.0f} tokens in the middle, one thread\n"
        f"all pairs     {figures['decisions']} decisions in {deciding['wall_s']:.1f} s wall, {deciding['cpu_s']:.1f} s "
        f"processor: {deciding['ns_per_decision']:.2f} ns each; {figures['close_pairs']} pairs within {THRESHOLD}\n"
        f"one by one    {figures['admitting']['kept']} kept in {figures['admitting']['wall_s']:.1f} s wall\n"
        f"rouge_score   {package['us_per_pair_tokens_ready']:.1f} us a pair with tokens ready, "
        f"{package['us_per_pair_as_used']:.1f} us as used\n"
        f"speed-up      {figures['speedup']['tokens_ready']:.0f} x with tokens ready, "
        f"{figures['speedup']['as_used']:.0f} x as used\n"
        f"agreement     {check['disagreements']} disagreements and {check['scores_that_differ']} different scores in "
        f"{check['pairs']} pairs, {check['within_threshold']} of them within, {check['with_cjk']} with CJK"
    )


def main(argv: list[str]) -> None:
    """`python -m instruct.rouge_bench [FILE...] [--json OUT]`: time, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m instruct.rouge_bench", description="Time and check ROUGE-L.")
    parser.add_argument("files", nargs="*", help="instructions in any format of data.formats (default: invented ones)")
    parser.add_argument("--json", metavar="OUT", help="write all figures to this file")
    parser.add_argument("--texts", type=int, default=SIZE, help=f"how many to invent (default {SIZE})")
    parser.add_argument("--pairs", type=int, default=100_000, help="pairs in the check of agreement (default 100000)")
    parser.add_argument("--timed-pairs", type=int, default=20_000, help="pairs rouge_score is timed on (default 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the texts and of the samples (default 0)")
    arguments = parser.parse_args(argv)
    if min(arguments.texts, arguments.pairs, arguments.timed_pairs) < 2:
        raise UserError("--texts, --pairs and --timed-pairs must be at least 2")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        where = machine() | {"load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}
        found = read_instructions(arguments.files)
        texts = found or invented_instructions(arguments.texts, arguments.seed)
        figures = measure(texts, arguments.pairs, arguments.timed_pairs, arguments.seed)
    finally:
        torch.set_num_threads(threads)
    print(report(figures))
    if arguments.json:
        command = "python -m instruct.rouge_bench " + shlex.join(argv)
        with whole_file(arguments.json) as file:
            text = json.dumps({"command": command, "machine": where} | figures, indent=2, ensure_ascii=False)
            file.write(f"{text}\n".encode())


if __name__ == "__main__":
    run_main(main)
