"""What a set of records teaches: nothing that it does not hold, and of each part what the part promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from configs import UserError
from instruct import lessons
from instruct.closed import ENDS, in_words, noun_phrases
from instruct.records import Instance, Record
from instruct.teach import (
    ON_REQUEST,
    OWN_PARTS,
    PAIRS,
    SHARES,
    TURNS,
    UNKNOWN_WORDS,
    teach,
)
from instruct.world.human import HUMAN
from instruct.world.inputs import CLOSED, pool_of
from instruct.world.parse import Ambiguous, Unreadable
from instruct.world.program import Program, world
from instruct.world.wording import OBJECT
from tests.oracle import part_of, shared_course, shared_seeds

COUNT = 4000


@pytest.fixture(scope="module")
def course():
    return shared_course()


@pytest.fixture(scope="module")
def seeds():
    return shared_seeds()


@pytest.fixture(scope="module")
def taught(seeds):
    """Lessons by part: (language, what is given, what is wanted)."""
    found: dict[str, list[tuple[str, str, str]]] = {part: [] for part in SHARES}
    for lesson in teach(seeds, COUNT):
        part, language = part_of(lesson)
        *_, given, wanted = said = [message.content for message in lesson.messages]
        if part == "execute":  # the instruction is said once, its inputs one after the other
            text = said[0].partition("\n")[0]
            found[part].append((language, *said[:2]))
            found[part] += [(language, lessons.request(text, more), out) for more, out in zip(said[2::2], said[3::2])]
        else:
            found[part].append((language, given, wanted))
    return found


def test_an_instruction_is_carried_out_for_several_inputs(seeds):
    sizes, by_text = Counter(), {record.instruction: record for record in seeds}
    for lesson in teach(seeds, 2000, parts=("execute",)):
        roles = [message.role for message in lesson.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and not any(m.supervise for m in lesson.messages)
        text, *given = [message.content for message in lesson.messages if message.role == "user"]
        text, _, first = text.partition("\n")
        assert len({first, *given}) == len(given) + 1, "no input twice"
        if len(by_text[text].instances) >= TURNS:
            sizes[len(roles) // 2] += 1
    assert sizes.keys() == {*range(1, TURNS + 1)} and min(sizes.values()) > 0.8 * sizes.total() / TURNS


@pytest.fixture(scope="module")
def by_text(seeds):
    return {record.instruction: record for record in seeds}


def test_the_same_seed_teaches_the_same(seeds):
    assert teach(seeds, 300, 7) == teach(seeds, 300, 7) != teach(seeds, 300, 8)
    assert len(teach(seeds, 300, 7)) == 300


def test_every_text_is_one_of_the_records(taught, seeds):
    instructions = {record.instruction for record in seeds}
    instances = [(r.instruction, i.input, i.output) for r in seeds for i in r.instances]
    requests = {(lessons.request(text, given), output) for text, given, output in instances}
    inputs = {(text, given or lessons.NO_INPUT) for text, given, _ in instances}
    labels = {(text, output) for text, _, output in instances}
    pairs = {(lessons.pair(given, output), text) for text, given, output in instances}
    inputs_for = {(lessons.request(text, output), given) for text, given, output in instances}
    facts = {"execute": requests, "bare": requests, "input": inputs, "label": labels, "input for": inputs_for}
    facts["back-translate"] = pairs
    for part, known in facts.items():
        assert {(given, wanted) for _, given, wanted in taught[part]} <= known, part
    for part in ("deepen", "widen", "paraphrase"):
        assert {text for _, *both in taught[part] for text in both} <= instructions, part
    for _, listed, last in taught["continue"]:
        shown = [line.partition(". ")[2] for line in listed.split("\n")]
        assert {*shown, last} <= instructions and len({*shown}) == len(shown) == lessons.SHOWN
    for _, shown, instruction in taught["induce"]:
        assert len(set(shown.split("\n"))) == PAIRS
        assert all((pair, instruction) in pairs for pair in shown.split("\n"))


def test_lessons_speak_the_language_of_their_records(taught, by_text):
    texts = {"continue": 2, "induce": 2, "back-translate": 2, "deepen": 1, "widen": 1, "paraphrase": 1}
    texts |= {"input": 1, "label": 1, "classify": 1}
    for part, place in texts.items():
        assert taught[part]
        assert {by_text[each[place]].lang == each[0] for each in taught[part]} == {True}, part
    assert {language for language, *_ in taught["plan"]} == {"en", "zh"}


def test_a_plan_is_made_of_single_operations_that_compose_to_the_instruction(taught, by_text, course):
    assert len(taught["plan"]) > 100
    for language, instruction, steps in taught["plan"]:
        _assert_composed(instruction, steps, language, by_text, course)
        for step in steps.split("\n"):
            assert course.verifier.parser.parse(step).literal is None, "a step works on what it is given"


def test_what_is_combined_is_a_plan_read_backwards(taught, by_text, course):
    assert len(taught["combine"]) > 50
    for language, steps, instruction in taught["combine"]:
        _assert_composed(instruction, steps, language, by_text, course)


def test_some_plans_are_of_steps_that_do_not_fit(taught, by_text):
    for part, place in (("plan", 1), ("combine", 2)):
        known = [each[place] in by_text for each in taught[part]]
        assert 0.25 < sum(known) / len(known) < 0.75


def _assert_composed(instruction, steps, language, by_text, course):
    """The steps, one a line, are records of that language; the instruction is a record whose program they compose, or
    its steps do not fit together, so that it means nothing."""
    records = [by_text[step] for step in steps.split("\n")]
    assert [record.lang for record in records] == [language] * len(records)
    program = " | ".join(record.program for record in records)
    if instruction in by_text:
        assert by_text[instruction].program == program and by_text[instruction].lang == language
    else:
        assert not course.world.well_typed(Program.read(program))
        with pytest.raises((Unreadable, Ambiguous)):
            course.verifier.parser.parse(instruction)


def test_a_plan_says_its_steps_in_the_words_of_the_whole():
    def record(text: str, program: str) -> Record:
        return Record(text, (Instance("3 1", "1"),), "en", program=program, behaviour=program)

    sort = [record(text, "sort_up") for text in ("Sort the numbers.", "Arrange the list upwards.")]
    first = [record(text, "first") for text in ("Name the head of the list.", "Give the first item of the list.")]
    for whole, *steps in (
        ("Sort the numbers, then give the first item of it.", sort[0], first[1]),
        ("Name the head of the list, arranged upwards.", sort[1], first[0]),
    ):
        plans = teach([*sort, *first, record(whole, "sort_up | first")], 40, parts=("plan",))
        found = {lesson.messages[-1].content for lesson in plans if lesson.messages[-2].content == whole}
        assert found == {"\n".join(step.instruction for step in steps)}


def test_a_paraphrase_means_the_same_in_other_words(taught, by_text, course):
    assert len(taught["paraphrase"]) > 10
    for _, one, other in taught["paraphrase"]:
        assert one != other and by_text[one].behaviour == by_text[other].behaviour
        readings = [course.verifier.parser.parse(text) for text in (one, other)]
        assert readings[0].literal == readings[1].literal, "two capitals are two questions"


def test_a_deeper_instruction_begins_with_its_parent_and_a_sibling_with_its_first_step(taught, by_text):
    assert len(taught["deepen"]) > 50 and len(taught["widen"]) > 10
    for _, parent, child in taught["deepen"]:
        before, after = (Program.read(by_text[text].program).steps for text in (parent, child))
        assert after[:-1] == before
    for _, one, other in taught["widen"]:
        steps = [Program.read(by_text[text].program).steps for text in (one, other)]
        assert steps[0][0] == steps[1][0] and len(steps[0]) == len(steps[1])
        assert by_text[one].behaviour != by_text[other].behaviour


def test_classification_is_what_the_records_say(taught, by_text):
    assert {wanted for *_, wanted in taught["classify"]} == {"yes", "no"}
    for _, text, wanted in taught["classify"]:
        assert by_text[text].is_classification == (wanted == "yes")
    for part in ("label", "input for"):
        assert all(by_text[given.split("\n")[0]].is_classification for _, given, _ in taught[part])


def test_shares_are_kept_roughly(seeds):
    counts = Counter(part_of(lesson)[0] for lesson in teach(seeds, COUNT))
    for part, share in SHARES.items():
        found = counts[part] / COUNT
        assert 0.35 * share < found < share + 0.05, f"{part}: {found:.3f} instead of {share}"


def test_parts_can_be_limited(seeds):
    parts = Counter(part_of(lesson)[0] for lesson in teach(seeds, 2000, parts=OWN_PARTS))
    assert parts.keys() == set(OWN_PARTS)
    plans = Counter(part_of(lesson)[0] for lesson in teach(seeds, 200, parts=("plan",)))
    assert plans["plan"] > 150 and plans.keys() <= {"plan", "execute"}


def test_without_an_answer_there_is_nothing_to_teach(seeds):
    unanswered = [replace(record, instances=(Instance("3 1", ""),)) for record in seeds[:5]]
    for records in ([], unanswered):
        with pytest.raises(UserError, match="nothing to teach"):
            teach(records, 5)
    half = replace(seeds[7], instances=(*seeds[7].instances[:1], Instance("2 9 4", "")))
    for lesson in teach([half], 60):
        assert lesson.messages[-1].content and "2 9 4" not in lesson.messages[-2].content
    lessons_of_one = teach([*unanswered, seeds[7]], 40, parts=("execute",))
    assert {lesson.messages[0].content.split("\n")[0] for lesson in lessons_of_one} == {seeds[7].instruction}


def test_free_text_teaches_the_parts_that_need_no_program():
    answers = [Instance(f"blue {i}", f"It is wide, {i}.") for i in range(20)]
    records = [Record(f"Write about the sea, case {i}.", (answer,)) for i, answer in enumerate(answers)]
    parts = Counter(part_of(lesson)[0] for lesson in teach(records, 600))
    assert parts.keys() == {"execute", "bare", "input", "continue", "back-translate"}
    assert {part_of(each)[0] for each in teach(records, 30, parts=("plan",))} == {"execute"}, "they have no plans"
    one = [Record("Say hello.", (Instance("", "Hello."),))]
    assert {part_of(lesson)[0] for lesson in teach(one, 200)} == {"execute", "bare", "input"}


def test_nothing_of_a_test_is_taught(taught, course, seeds, by_text):
    """No instruction that occurs in any lesson touches what is held out; no input of an open type is a test's."""
    held = {str(program) for program in (*course.splits.held_out, *course.splits.depth3)}
    assert held
    occur = set()
    for part, lessons_of_part in taught.items():
        for _, given, wanted in lessons_of_part:
            lines = f"{given}\n{wanted}".split("\n")
            lines = [line.partition(". ")[2] if part == "continue" else line for line in lines]
            found = by_text.keys() & set(lines)
            assert found, (part, given, wanted)
            occur |= found
    for text in occur:
        reading = course.verifier.parser.parse(text)
        assert course.splits.touches(reading.program, by_text[text].lang) == ""
        assert str(reading.program) not in held
    seen = [(Program.read(r.program), i.input) for r in seeds for i in r.instances if i.input]
    seen = [(program, text) for program, text in seen if course.world.signature(program).takes not in CLOSED]
    assert len(seen) > 200
    assert {pool_of(text) for _, text in seen} == {"train"}


# Parts that are taught on request ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def requested(seeds):
    """The lessons of the parts on request: (language, what is given, what is wanted)."""
    found: dict[str, list[tuple[str, str, str]]] = {part: [] for part in ("construct", "sentence")}
    for lesson in teach(seeds, 3000, parts=tuple(found)):
        part, language = part_of(lesson)
        if part != "execute":
            found[part].append((language, lesson.messages[-2].content, lesson.messages[-1].content))
    return found


def test_what_is_taught_by_default_has_none_of_the_parts_on_request(seeds):
    assert not ON_REQUEST.keys() & SHARES.keys()
    assert teach(seeds, 600) == teach(seeds, 600, parts=tuple(SHARES))
    assert not ON_REQUEST.keys() & {part_of(lesson)[0] for lesson in teach(seeds, 600)}
    counts = Counter(part_of(lesson)[0] for lesson in teach(seeds, COUNT, parts=(*SHARES, *ON_REQUEST)))
    shares = SHARES | ON_REQUEST
    shares["execute"] += shares.pop("recall")  # which looks like carrying out anything else
    for part in ("construct", "sentence"):  # which its lessons look like
        shares[part] += shares[UNKNOWN_WORDS] / 2
    shares.pop(UNKNOWN_WORDS)
    total = sum(shares.values())
    for part, share in shares.items():
        assert 0.3 * share / total < counts[part] / COUNT < share / total + 0.05


def test_every_fact_is_recalled_equally_often(seeds, by_text, course):
    lessons_of = [lesson.messages for lesson in teach(seeds, 4000, parts=("recall",))]
    asked = Counter()
    for question, answer in lessons_of:
        instruction, given = lessons.split_request(question.content)
        record = by_text[instruction]
        assert course.world.holds(Program.read(record.program), given, answer.content, record.lang)
        asked[record.program, record.lang, given] += 1
    facts = {(record.program, record.lang, pair.input) for record in seeds for pair in record.instances if pair.input}
    facts = {each for each in facts if each[0] == "capital"}
    assert asked.keys() == facts, "of this small world only capitals must have been read"
    mean = 4000 / len(facts)
    assert 0.5 * mean < min(asked.values()) and max(asked.values()) < 1.6 * mean


def test_a_constructed_chain_does_what_the_question_asks(requested, by_text, course):
    """In the words of the parser, that is; what it cannot read is one of the forms that only people use."""
    parser, kinds = course.verifier.parser, Counter()
    for language, question, said in requested["construct"]:
        given, steps = lessons.split_chain(said)
        program = " | ".join(by_text[step].program for step in steps)
        assert {by_text[step].lang for step in steps} == {language}
        if given is None:
            question, shown = lessons.split_request(question)
            assert by_text[question].program == program and shown == lessons.HIDDEN
            kinds["open", len(steps)] += 1
            continue
        literals = [i.input for r in by_text.values() if r.program == program for i in r.instances if i.input]
        literal = given if given != lessons.HIDDEN else literals[0]
        if given != lessons.HIDDEN:
            assert given in question and given in literals
        try:
            reading = parser.parse(question.replace(lessons.HIDDEN, literal))
        except Unreadable:
            kinds["as people ask", len(steps)] += 1
            assert course.world.by_name[program].family == "facts"
            continue
        assert (str(reading.program), reading.literal) == (program, literal)
        kinds["hidden" if given == lessons.HIDDEN else "bare", len(steps)] += 1
    assert kinds.keys() >= {(kind, n) for kind in ("open", "hidden") for n in (1, 2)} | {("bare", 1)}
    assert kinds["as people ask", 1] > 5


def test_what_is_asked_for_stands_behind_words_that_nobody_knows(seeds, by_text, course):
    met, kinds = set(), Counter()
    for lesson in teach(seeds, 300, parts=(UNKNOWN_WORDS,)):
        part, language = part_of(lesson)
        question, said = (message.content for message in lesson.messages[-2:])
        kinds[part] += 1
        if part == "sentence":
            question, answer = lessons.split_request(question)
            nouns = noun_phrases(Program.read("capital"), language)
            given = next(
                pair.input for r in seeds for pair in r.instances if pair.output == answer and r.lang == language
            )
            assert answer in said and given in said and given in question
        else:
            given, steps = lessons.split_chain(said)
            nouns = noun_phrases(Program.read(" | ".join(by_text[step].program for step in steps)), language)
        asked = max((noun for noun in nouns if question[:-1].endswith(noun.replace(OBJECT, given))), key=len)
        before = question[: -1 - len(asked.replace(OBJECT, given))]
        assert before and question[-1] in ENDS[language]
        with pytest.raises(Unreadable):
            course.verifier.parser.parse(question)
        met.add(before)
    assert len(met) > 250, "other words every time"
    assert min(kinds["construct"], kinds["sentence"]) > 80


def test_an_answer_in_words_is_the_noun_of_the_question_and_the_answer(requested, by_text):
    assert len({question for _, question, _ in requested["sentence"]}) > 20
    for language, given, said in requested["sentence"]:
        answer = lessons.split_request(given)[1]
        assert answer in said or answer.capitalize() in said
        assert said.endswith("." if language == "en" else "。")


@pytest.mark.parametrize(
    ("program", "literal", "answer", "question", "language", "sentence"),
    [
        ("capital", "France", "Paris", "What is the capital of France?", "en", "The capital of France is Paris."),
        ("capital", "法国", "巴黎", "法国的首都是哪里？", "zh", "法国的首都是巴黎。"),
        ("capital", "Peru", "Lima", "Find the capital city of Peru.", "en", "Lima is the capital city of Peru."),
        ("capital", "法国", "巴黎", "请指出法国的首都。", "zh", "巴黎是法国的首都。"),
        ("young", "cow", "calf", 'The name for the young of "cow"?', "en", 'The name for the young of "cow" is calf.'),
        ("next_month", "May", "June", "Say what comes after May.", "en", None),
        ("young", "cat", "kitten", 'What is the young of "cat"?', "en", 'The young of "cat" is kitten.'),
        (
            "country_of_capital | currency", "Paris", "euro",
            "What is the currency of the country whose capital is Paris?", "en",
            "The currency of the country whose capital is Paris is euro.",
        ),
    ],
)  # fmt: skip
def test_sentences(program, literal, answer, question, language, sentence):
    said = in_words(Program.read(program), literal, answer, question, language)
    assert said == sentence if sentence else said.startswith(f"{answer} is ") and literal in said


def test_nouns_are_those_of_the_grammar_without_what_is_held_out(course):
    for name in ("capital", "sum", "reverse_list | first", "capital | country_of_capital", "is_even"):
        program = Program.read(name)
        for language in ("en", "zh"):
            nouns = noun_phrases(program, language)
            operations = [world().operation(step) for step in program.steps]
            assert bool(nouns) == all(
                any(noun != each.phrases(language).held_out for noun in each.phrases(language).nouns)
                for each in operations
            )
            assert len(set(nouns)) == len(nouns)


def test_no_question_of_the_human_test_is_taught(requested):
    asked = {given.split("\n")[0] for part in requested.values() for _, given, _ in part}
    assert not asked & {human.instruction for human in HUMAN}
