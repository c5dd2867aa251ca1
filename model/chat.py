"""Talk with a tuned model in the terminal.

    python -m model.chat RUN

What you type is a user message; the answer streams. Commands: /reset forgets the conversation, /save FILE writes it
as a JSON line in the messages format (ready for `train.sft`), /temperature X, /quit. When the conversation no longer
fits the context, the oldest exchanges are left out (and that is said); the session goes on.

What it leaves out: a message is one line, and the cache of one turn is not kept for the next.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

from configs import UserError, run_main
from data.chat import Conversation, Message, prompt, taken_in
from data.formats import to_row, write_rows
from data.tokenizer import StreamDecoder
from model.generate import add_sampling_arguments, never_generated, sampling_of
from model.generation import stream
from model.load import LoadedModel, load_run
from model.sampling import Sampling

HELP = "commands: /reset  /save FILE  /temperature X  /quit"


class Session:
    """A conversation with a model: `say(text)` yields the answer piece by piece and remembers both.

    `messages` is what was said; `forgets` tells whether the last answer was made without the oldest of it.
    """

    def __init__(self, loaded: LoadedModel, sampling: Sampling, new_tokens: int, seed: int = 0):
        self.loaded, self.sampling, self.seed = loaded, sampling, seed
        self.new_tokens = min(new_tokens, loaded.model.config.context // 2)
        self.messages: list[Message] = []
        self.forgets = False

    def say(self, text: str) -> Iterator[str]:
        """Complete characters of the answer to `text` as they are made; at least half of the context is for the prompt.

        Raises UserError when the context is too small for any prompt, or `text` is no text.
        """
        loaded, tokenizer = self.loaded, self.loaded.tokenizer
        conversation = Conversation((*self.messages, Message("user", text)))
        room = loaded.model.config.context - self.new_tokens
        ids = prompt(conversation, tokenizer, loaded.chat, room)
        self.forgets = len(ids) < len(prompt(conversation, tokenizer, loaded.chat))
        decoder, written, last = StreamDecoder(tokenizer), [], "\n"
        stops, seed = [tokenizer.end, tokenizer.eos], self.seed + len(self.messages)
        banned = never_generated(loaded)
        for token in stream(loaded.model, ids, self.new_tokens, self.sampling, stops, seed, banned):
            piece = decoder.push(token)
            written.append(taken_in(piece, loaded.chat, last))
            last = piece[-1:] or last
            yield written[-1]
        written.append(decoder.flush())
        yield written[-1]
        self.messages += [Message("user", text), Message("assistant", "".join(written))]

    def command(self, line: str) -> str | None:
        """Carry out a line that starts with /; returns what to print, None to end. Raises UserError for a wrong one."""
        name, _, argument = line.partition(" ")
        if name == "/quit":
            return None
        if name == "/reset":
            self.messages = []
            return "forgotten"
        if name == "/save":
            if not argument.strip():
                raise UserError("name a file: /save talk.jsonl")
            if not self.messages:
                raise UserError("nothing has been said yet, so there is nothing to save")
            write_rows(argument.strip(), [to_row(Conversation(tuple(self.messages)))])
            return f"saved {len(self.messages)} messages in {argument.strip()}"
        if name == "/temperature":
            try:
                value = float(argument)
            except ValueError:
                raise UserError("give a number: /temperature 0.7") from None
            self.sampling = replace(self.sampling, temperature=value)
            return f"temperature {value}"
        raise UserError(f"unknown command {name}; {HELP}")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.chat", description="Talk with a tuned model.", epilog=HELP)
    parser.add_argument("run", help="run folder or checkpoint folder of a tuned model")
    add_sampling_arguments(parser, temperature=0.0)
    arguments = parser.parse_args(argv)
    sampling = sampling_of(arguments)
    session = Session(load_run(arguments.run, arguments.device), sampling, arguments.tokens, arguments.seed)
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        print(f"{session.loaded.folder}; {HELP}")
    while True:
        try:
            line = input(prompt).strip()
            if line and not respond(session, line):
                return
        except EOFError:
            return
        except UnicodeDecodeError:
            print("error: that line is not UTF-8 text; send UTF-8", file=sys.stderr)
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)


def respond(session: Session, line: str) -> bool:
    """Print what the session has to say to one line; False ends it."""
    if line.startswith("/"):
        reply = session.command(line)
        if reply is not None:
            print(reply)
        return reply is not None
    for piece in session.say(line):
        print(piece, end="", flush=True)
    print("\n(the oldest messages no longer fit and were left out)" if session.forgets else "")
    return True


if __name__ == "__main__":
    run_main(main)
