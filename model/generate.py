"""Continue a text with a trained model.

    python -m model.generate RUN "The function returns"
    python -m model.generate RUN - < prompt.txt          # the prompt from standard input
    python -m model.generate RUN "a" "b" --samples 3 --temperature 0.8 --top-p 0.95 --seed 1

One prompt with one sample is streamed; more are generated as one batch. A prompt is a plain text that the model
continues; to ask a tuned model a question, use `python -m model.chat RUN`.

What it leaves out: filling in the middle, and files of prompts.
"""

from __future__ import annotations

import argparse
import sys

from configs import UserError, run_main
from data.tokenizer import StreamDecoder
from model.generation import generate, stream
from model.load import LoadedModel, load_run
from model.sampling import Sampling


def add_sampling_arguments(parser: argparse.ArgumentParser, temperature: float) -> None:
    """The options of `Sampling`, the length, and the seed."""
    parser.add_argument("--temperature", type=float, default=temperature, help=f"0: the likeliest ({temperature})")
    parser.add_argument("--top-k", type=int, default=0, help="keep the k likeliest tokens (0: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest tokens up to this mass (1: all)")
    parser.add_argument("--min-p", type=float, default=0.0, help="drop tokens below this share of the likeliest (0)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: avoid tokens seen before (1)")
    parser.add_argument("--tokens", type=int, default=128, help="longest continuation in tokens (128)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text (0)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    """The `Sampling` that the arguments describe."""
    if arguments.tokens < 1:
        raise UserError(f"--tokens must be positive, got {arguments.tokens}")
    return Sampling(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.min_p, arguments.repetition_penalty
    )


def never_generated(loaded: LoadedModel) -> list[int]:
    """Ids that stand for nothing: rows of the output matrix beyond the vocabulary."""
    return list(range(loaded.tokenizer.vocab_size, loaded.model.config.vocab_size))


def read_text(argument: str) -> str:
    """The argument, or standard input for -. Raises UserError when that is not UTF-8."""
    if argument != "-":
        return argument
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text (byte {error.start}); send UTF-8") from None


def print_stream(loaded: LoadedModel, text: str, length: int, sampling: Sampling, seed: int) -> None:
    """Print a text and its continuation, each character as soon as it is whole."""
    tokenizer = loaded.tokenizer
    prompt, decoder = [tokenizer.bos, *tokenizer.encode(text)], StreamDecoder(tokenizer)
    print(text, end="", flush=True)
    for token in stream(loaded.model, prompt, length, sampling, [tokenizer.eos], seed, never_generated(loaded)):
        print(decoder.push(token), end="", flush=True)
    print(decoder.flush())


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.generate", description="Continue a text.")
    parser.add_argument("run", help="run folder or checkpoint folder")
    parser.add_argument("prompts", nargs="+", help="texts to continue; - reads standard input")
    parser.add_argument("--samples", type=int, default=1, help="continuations of each prompt (1)")
    add_sampling_arguments(parser, temperature=0.8)
    arguments = parser.parse_args(argv)
    sampling = sampling_of(arguments)
    if arguments.samples < 1:
        raise UserError(f"--samples must be positive, got {arguments.samples}")
    loaded = load_run(arguments.run, arguments.device)
    texts = [text for text in map(read_text, arguments.prompts) for _ in range(arguments.samples)]
    if len(texts) == 1:
        print_stream(loaded, texts[0], arguments.tokens, sampling, arguments.seed)
        return
    tokenizer = loaded.tokenizer
    prompts = [[tokenizer.bos, *tokenizer.encode(text)] for text in texts]
    seeds = range(arguments.seed, arguments.seed + len(prompts))
    stops = [tokenizer.eos]
    outputs = generate(loaded.model, prompts, arguments.tokens, sampling, stops, seeds, never_generated(loaded))
    for number, (text, ids) in enumerate(zip(texts, outputs), 1):
        print(f"[{number}] {text}{tokenizer.decode(ids)}")


if __name__ == "__main__":
    run_main(main)
