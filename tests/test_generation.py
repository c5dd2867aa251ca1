"""Generation: a batch gives each row what it would get alone, stops where it should, and leaves the model as it was."""

import pytest
import torch

from configs import UserError
from data.tokenizer import StreamDecoder
from model.generation import generate, generate_steps, stream
from model.sampling import Sampling
from tests.small import small_model
from tests.test_model import every_architecture

PROMPTS = [[5, 9, 3], [7], [1, 2, 3, 4, 5, 6, 7], [50, 51]]
SEEDS = [11, 22, 33, 11]
GREEDY, SAMPLED = Sampling(), Sampling(temperature=1.0, top_p=0.95)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(0.9, repetition_penalty=1.3)], ids=str)
@every_architecture
def test_batched_equals_single(switches, sampling):
    """Prompts of unequal length, each with its seed, some stopping early: token for token."""
    model = small_model(dtype=torch.float64, **switches)
    stop = [3, 17, 40, 41, 42]
    together = generate(model, PROMPTS, 16, sampling, stop, SEEDS)
    alone = [generate(model, [p], 16, sampling, stop, [s])[0] for p, s in zip(PROMPTS, SEEDS)]
    assert together == alone
    assert len({tuple(output) for output in together}) > 1


@every_architecture
def test_greedy_generation_is_the_argmax_of_full_forward_passes(switches):
    """By the definition, without cache: the likeliest next token, appended, again and again."""
    model = small_model(dtype=torch.float64, **switches)
    for prompt, output in zip(PROMPTS, generate(model, PROMPTS, 10)):
        ids = list(prompt)
        for token in output:
            assert token == model(torch.tensor([ids]))[0, -1].argmax()
            ids.append(token)


def test_rows_end_at_their_stop_token():
    """It is not part of the output; other rows go on; one token more or less does not change what came before."""
    model = small_model()
    free = generate(model, PROMPTS, 12, SAMPLED, seeds=SEEDS)
    stop = free[0][4]
    stopped = generate(model, PROMPTS, 12, SAMPLED, [stop], SEEDS)
    assert stopped == [row[: row.index(stop)] if stop in row else row for row in free]
    assert len(stopped[0]) <= 4 and any(len(row) == 12 for row in stopped)
    assert generate(model, PROMPTS, 5, SAMPLED, seeds=SEEDS) == [row[:5] for row in free]


def test_all_rows_may_end_at_once():
    assert generate(small_model(), PROMPTS, 12, stop=range(61)) == [[]] * 4


def test_finished_rows_leave_the_batch():
    """A step runs the model for the rows that still need it, and no others."""
    model, sizes = small_model(), []
    model.trunk.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    free = generate(model, PROMPTS, 12, SAMPLED, seeds=SEEDS)
    sizes.clear()
    steps = list(generate_steps(model, PROMPTS, 12, SAMPLED, [free[0][4]], SEEDS))
    assert sizes == [4, *(len(rows) for rows, _ in steps[:-1])]
    assert sizes[-1] < 4


def test_generation_can_be_resumed_anywhere():
    """The prompt with the first tokens of its continuation, and the same seed, give the rest."""
    model = small_model(dtype=torch.float64)
    whole = generate(model, PROMPTS[:1], 12, SAMPLED, seeds=[7])[0]
    assert generate(model, [PROMPTS[0] + whole[:5]], 7, SAMPLED, seeds=[7])[0] == whole[5:]


def test_seeds_decide():
    """The default seed is the number of the row; seeds of any size are taken."""
    model = small_model()
    same = generate(model, [[5]] * 3, 12, SAMPLED)
    assert same[0] != same[1] != same[2]
    assert generate(model, [[5]] * 3, 12, SAMPLED, seeds=[0, 1, 2]) == same
    assert generate(model, [[5]] * 2, 12, SAMPLED, seeds=[4, 4]) == generate(model, [[5]], 12, SAMPLED, seeds=[4]) * 2
    generate(model, [[5]], 2, SAMPLED, seeds=[2**70 - 1])


def test_stream_gives_the_same_tokens_one_by_one():
    model = small_model()
    expected = generate(model, PROMPTS[:1], 9, SAMPLED, [3], [5])[0]
    tokens = stream(model, PROMPTS[0], 9, SAMPLED, [3], 5)
    assert next(tokens) == expected[0]
    assert list(tokens) == expected[1:]


def test_streaming_never_yields_half_a_character(small_tokenizer):
    """Of a model that writes nothing but bytes, so that most are half characters: each piece is whole, and all are the
    text of all ids."""
    model = small_model(vocab_size=small_tokenizer.vocab_size)
    is_byte = [small_tokenizer.piece(i).startswith("<0x") for i in range(small_tokenizer.vocab_size)]
    high = [i for i, byte in enumerate(is_byte) if byte and small_tokenizer.token_bytes[i][0] >= 0x80]
    banned = [i for i in range(small_tokenizer.vocab_size) if i not in high]
    sampled = generate(model, [[1, 2]], 40, SAMPLED, banned=banned)[0]
    assert set(sampled) <= set(high)
    text = [*small_tokenizer.encode("é🎉"), *small_tokenizer.encode("分😀词"), *sampled]
    decoder = StreamDecoder(small_tokenizer)
    pieces = [decoder.push(i) for i in text]
    assert "".join([*pieces, decoder.flush()]) == small_tokenizer.decode(text)
    assert "".join(pieces).startswith("é🎉分😀词") and "" in pieces
    valid = "".join(pieces).replace("�", "")
    assert valid.encode().decode() == valid


def test_banned_tokens_are_not_written():
    """Greedy and sampled; without the ban they would be."""
    model = small_model()
    free = {token for row in generate(model, PROMPTS, 12, SAMPLED) for token in row}
    banned = sorted(free)[::2]
    for sampling in (GREEDY, SAMPLED):
        written = {token for row in generate(model, PROMPTS, 12, sampling, banned=banned) for token in row}
        assert written and not written & set(banned)


def test_repetition_penalty_knows_the_prompt_and_what_was_written():
    """So strong that no token comes twice; padding of shorter prompts does not count as seen."""
    model = small_model()
    for prompt, output in zip(PROMPTS, generate(model, PROMPTS, 20, Sampling(repetition_penalty=1e6))):
        assert len({*prompt, *output}) == len(prompt) + len(output)
    assert any(0 in output for output in generate(model, PROMPTS, 40, Sampling(1.0, repetition_penalty=1e6)))


def test_the_model_is_left_as_it_was():
    """Dropout is off while generating; afterwards the model trains again, also when a reader stops early."""
    model = small_model(dropout=0.5)
    expected = generate(model, PROMPTS, 8)
    model.train()
    assert generate(model, PROMPTS, 8) == expected
    assert model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    tokens = stream(model, PROMPTS[0], 8)
    next(tokens)
    tokens.close()
    assert model.training
    model(torch.tensor(PROMPTS[:1])).sum().backward()  # nothing of inference mode has stuck to the parameters


def test_nothing_to_do():
    model = small_model()
    assert generate(model, [], 5) == []
    assert generate(model, PROMPTS, 0) == [[]] * 4


def test_impossible_requests_are_one_sentence():
    with pytest.raises(UserError, match="this model is an encoder"):
        generate(small_model(causal=False), PROMPTS, 5)
    with pytest.raises(UserError, match="a prompt must hold at least one token; start it with <bos>"):
        generate(small_model(), [[1], []], 5)
    with pytest.raises(UserError, match="11 tokens exceed the 10 learned positions of this model; shorten the prompt"):
        generate(small_model(position="learned", context=10), [[1] * 6], 5)
    assert len(generate(small_model(position="learned", context=10), [[1] * 5], 5)[0]) == 5


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=str)
def test_a_broken_model_is_one_sentence(sampling):
    """NaN in the weights, as after a training that diverged."""
    model = small_model()
    model.trunk.blocks[1].feed_forward.output.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"no numbers for the next token \(NaN or infinity\)"):
        generate(model, PROMPTS, 5, sampling)
