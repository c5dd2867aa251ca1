"""What one model is taught to do with instructions: every part it plays, as a conversation.

A model that constructs its own instructions plays many parts: it carries instructions out, and it writes, continues,
rewrites, takes apart and guesses them. Each part is a *lesson*: a conversation whose system message names the part and
the language, whose user message is what is given, whose assistant message is what is wanted. To teach, give the last
argument; to ask, leave it out:

    execute("Sort the numbers.", "3 1 2", "1 2 3")          # a training row
    execute("Sort the numbers.", "3 1 2")                   # a prompt
    induce([("3 1 2", "1 2 3"), ("9 4", "4 9")], "en")      # what is the instruction?

| part | given | wanted | from |
|---|---|---|---|
| execute | instruction, input | output | |
| bare | nothing but the user's header | instruction, input | Magpie, Xu et al. 2024 |
| continue | eight instructions | a ninth | Self-Instruct, Wang et al. 2023 |
| classify | instruction | whether few answers are possible: yes, no | Self-Instruct |
| input | instruction | an input | Self-Instruct, input first |
| label | instruction | one of its possible answers | Self-Instruct, output first |
| input for | instruction, output | an input with this output | Self-Instruct, output first |
| deepen, widen | instruction | one that asks for more; a sibling | Evol-Instruct, Xu et al. 2023 |
| combine | instructions, one a line | one that asks for all of them, in this order | the way back from a plan |
| paraphrase | instruction | other words, same meaning | |
| back-translate | input and output, or a text | the instruction it answers | Humback, Li et al. 2023 |
| induce | pairs of input and output | the instruction | Honovich et al. 2022 |
| plan | instruction | simpler instructions, one a line | |
| construct | question, without its input or quoted text | its input, if that stands in it; simpler instructions | |
| sentence | question, short answer | the answer as a sentence | |

The wording of the parts is fixed here: whoever asks uses the same layout as whoever taught.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from configs import UserError
from data.chat import Conversation, Message

ARROW = " -> "
LANGUAGES = {"en": "English", "zh": "中文"}
SHOWN = 8  # instructions in a list that is to be continued
NO_INPUT = "-"  # what stands for the input of an instruction that needs none
INPUT = "input: "  # begins the line of "construct" that says what the first step is given
HIDDEN = "…"  # what "construct" shows of an input beside the question or quoted in it, and what the latter is called
QUOTES = '"“”„‟「」『』＂«»'


def request(instruction: str, given: str = "") -> str:
    """Instruction and input as one message; `split_request` undoes it."""
    return f"{instruction}\n{given}" if given else instruction


def split_request(text: str) -> tuple[str, str]:
    """(instruction, input): the first line, and what follows it."""
    instruction, _, given = text.partition("\n")
    return instruction.strip(), given.strip()


def execute(instruction: str, given: str = "", output: str | None = None) -> Conversation:
    """The only part without a system message: it is what a user sees."""
    return _lesson(None, request(instruction, given), output)


def execute_all(instruction: str, pairs: Sequence[tuple[str, str]]) -> Conversation:
    """The same for several inputs with their outputs, one after the other; the instruction is said once."""
    (given, output), *more = pairs
    turns = [*execute(instruction, given, output).messages]
    for given, output in more:
        turns += [Message("user", given), Message("assistant", output)]
    return Conversation(tuple(turns))


def bare(instruction: str, given: str, output: str) -> Conversation:
    """Teaches the user's turn itself, so that it can be sampled from its bare header; the answer is not learnt."""
    said = Message("user", request(instruction, given), supervise=True)
    return Conversation((said, Message("assistant", output, supervise=False)))


def continue_list(shown: Sequence[str], language: str, instruction: str | None = None) -> Conversation:
    """`shown`: the instructions that are listed, `SHOWN` of them."""
    listed = "\n".join(f"{i}. {text}" for i, text in enumerate(shown, 1))
    return _lesson("continue", listed, instruction, language)


def classify(instruction: str, language: str, few_answers: bool | None = None) -> Conversation:
    return _lesson("classify", instruction, None if few_answers is None else ("yes" if few_answers else "no"), language)


def give_input(instruction: str, language: str, given: str | None = None) -> Conversation:
    """`given`: "" where the instruction needs no input; it is said as `NO_INPUT`."""
    return _lesson("input", instruction, NO_INPUT if given == "" else given, language)


def give_label(instruction: str, language: str, label: str | None = None) -> Conversation:
    return _lesson("label", instruction, label, language)


def give_input_for(instruction: str, output: str, language: str, given: str | None = None) -> Conversation:
    return _lesson("input for", request(instruction, output), given, language)


def deepen(instruction: str, language: str, child: str | None = None) -> Conversation:
    return _lesson("deepen", instruction, child, language)


def widen(instruction: str, language: str, child: str | None = None) -> Conversation:
    return _lesson("widen", instruction, child, language)


def combine(steps: Sequence[str], language: str, child: str | None = None) -> Conversation:
    return _lesson("combine", "\n".join(steps), child, language)


def paraphrase(instruction: str, language: str, other: str | None = None) -> Conversation:
    return _lesson("paraphrase", instruction, other, language)


def backtranslate(text: str, language: str, instruction: str | None = None) -> Conversation:
    """`text`: a document, or `pair(input, output)`."""
    return _lesson("back-translate", text, instruction, language)


def induce(pairs: Iterable[tuple[str, str]], language: str, instruction: str | None = None) -> Conversation:
    return _lesson("induce", "\n".join(pair(*each) for each in pairs), instruction, language)


def plan(instruction: str, language: str, steps: Sequence[str] | None = None) -> Conversation:
    return _lesson("plan", instruction, None if steps is None else "\n".join(steps), language)


def is_plan(messages: Sequence[Message]) -> bool:
    """Whether a conversation asks for a plan."""
    return bool(messages) and messages[0].role == "system" and messages[0].content.startswith("plan ")


def construct(
    question: str,
    language: str,
    beside: bool = False,
    steps: Sequence[str] | None = None,
    given: str | None = None,
) -> Conversation:
    """`question`: one in which a quoted text is hidden (`hide_quoted`). `beside`: whether it has an input beside it,
    of which only that is shown. `given`: the input that stands in the question (`HIDDEN`: the quoted text), or None."""
    chain = [] if given is None else [INPUT + given]
    wanted = None if steps is None else "\n".join([*chain, *steps])
    return _lesson("construct", request(question, HIDDEN if beside else ""), wanted, language)


def split_plan(text: str) -> tuple[str, ...]:
    """What "plan" says: its steps, one a line."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def split_chain(text: str) -> tuple[str | None, tuple[str, ...]]:
    """What "construct" says, taken apart: the input that it names (None for none), and the steps."""
    lines = split_plan(text)
    if lines and lines[0].startswith(INPUT.strip()):
        return lines[0].removeprefix(INPUT.strip()).strip(), lines[1:]
    return None, lines


def hide_quoted(text: str) -> tuple[str, str | None]:
    """(the text with what stands in its quotes hidden, the hidden text); (text, None) where there are no quotes.

    What is quoted is data: whoever writes a chain does not see it, so nothing in it can change the chain.
    Raises UserError where it is not clear what is quoted: quotes that do not close, or several.
    """
    places = [found.start() for found in re.finditer(f"[{QUOTES}]", text)]
    if not places:
        return text, None
    if len(places) != 2:
        fault = "has a quote that does not close" if len(places) % 2 else "quotes more than one text"
        raise UserError(f"the question {fault}: quote its input once, or give it as the input")
    start, end = places
    return text[: start + 1] + HIDDEN + text[end:], text[start + 1 : end]


def sentence(question: str, answer: str, language: str, said: str | None = None) -> Conversation:
    return _lesson("sentence", request(question, answer), said, language)


def pair(given: str, output: str) -> str:
    return f"{given}{ARROW}{output}"


def _lesson(part: str | None, given: str, wanted: str | None, language: str = "en") -> Conversation:
    messages = [] if part is None else [Message("system", f"{part} {LANGUAGES[language]}")]
    messages.append(Message("user", given))
    if wanted is not None:
        messages.append(Message("assistant", wanted))
    return Conversation(tuple(messages))
