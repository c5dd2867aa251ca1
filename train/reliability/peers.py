"""The same questions to a peer: the Trainer of Hugging Face transformers, as its documentation says to use it.

    python -m train.reliability.peers --out results/        # needs the [peers] extra

It trains a tiny GPT-2 with dropout, saves after every step, is killed, signalled, given damaged checkpoints and
poisoned steps, and is restarted with `resume_from_checkpoint=True`. No option is tuned for or against it: what is
counted is what a user sees who asks for no more. `python -m train.reliability` puts the counts beside ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from configs import UserError, run_main
from train.reliability.__main__ import PEERS
from train.reliability.malformed import Trap
from train.reliability.trials import never_left, spawn, wait
from train.run import write_text

STEPS = 16


class Ids(torch.utils.data.Dataset):
    """256 rows of ids that depend on their number only."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, 64, (16,), generator=torch.Generator().manual_seed(number))
        return {"input_ids": ids, "labels": ids}


def train(folder: Path, poison: int = 0, last: int = STEPS) -> None:
    """Train, or continue, to step `last`; poison: the step whose loss is NaN. Writes the final weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    class Poisoned(Trainer):
        def compute_loss(self, *arguments, **options):
            loss = super().compute_loss(*arguments, **options)
            return loss * torch.nan if poison and self.state.global_step == poison - 1 else loss

    torch.set_num_threads(1)
    set_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=last, per_device_train_batch_size=4, save_steps=1, save_total_limit=4,
        logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, seed=0,
        lr_scheduler_type="constant",  # so that a run to the half is the half of a run
    )  # fmt: skip
    trainer = Poisoned(model=GPT2LMHeadModel(config), args=arguments, train_dataset=Ids())
    found = folder.is_dir() and get_last_checkpoint(str(folder))
    trainer.train(resume_from_checkpoint=True if found else None)
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    torch.save(state, folder / "final.pt")


def final(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "final.pt", weights_only=True)


def same(one: Path, other: Path) -> bool:
    a, b = final(one), final(other)
    return all(torch.equal(a[name], b[name]) for name in a)


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


class Peer:
    """The trials, below a folder; `seen` collects how often what held."""

    def __init__(self, below: Path, count: int):
        self.below, self.count, self.draw = below, count, random.Random(0)
        self.seen: dict[str, dict[str, Any]] = {}
        self.log = below / "log"
        process = self.begin("whole")
        started = time.monotonic()
        if wait(process):
            raise UserError(f"the uninterrupted run of the peer failed: {self.log.read_text('utf-8')[-300:]}")
        self.seconds = time.monotonic() - started

    def begin(self, name: str) -> int:
        """Start a run, and wait for its first checkpoint."""
        process = spawn(lambda: train(self.below / name), self.log)
        deadline = time.monotonic() + 60
        while not any((self.below / name).glob("checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        return process

    def run(self, name: str, **options: Any) -> int | None:
        return wait(spawn(lambda: train(self.below / name, **options), self.log))

    def note(self, key: str, outcomes: list[str], good: str) -> None:
        counted = Counter(outcomes)
        what = ", ".join(f"{number} {outcome}" for outcome, number in counted.most_common())
        self.seen[key] = {"tried": len(outcomes), "held": counted[good], "what": what}

    def kills(self) -> None:
        """SIGKILL at random moments after the first checkpoint, then resume. Runs that ended before do not count."""
        outcomes: list[str] = []
        for number in range(10 * self.count):
            if len(outcomes) == self.count:
                break
            process = self.begin(f"kill-{number}")
            with never_left([process]):
                time.sleep(self.draw.uniform(0, self.seconds))
                os.kill(process, signal.SIGKILL)
                if wait(process) != -signal.SIGKILL:
                    continue
            if self.run(f"kill-{number}"):
                outcomes.append("could not resume (traceback)")
            else:
                equal = same(self.below / "whole", self.below / f"kill-{number}")
                outcomes.append("same bits" if equal else "other bits")
        self.note("kills", outcomes, "same bits")

    def corrupted(self) -> None:
        """The newest checkpoint: a flipped bit in the weights, the weights cut, one of its files missing."""
        self.run("half", last=STEPS // 2)
        shutil.copytree(self.below / "half", self.below / "undamaged")
        if self.run("undamaged") or not same(self.below / "whole", self.below / "undamaged"):
            raise UserError("the undamaged half of the peer's run does not continue to the same bits")
        outcomes = []
        missing = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
        kinds = ("flipped bit", "cut file", *(f"no {name}" for name in missing))
        for number in range(self.count):
            copy, kind = self.below / "damaged", kinds[number % len(kinds)]
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.below / "half", copy)
            (copy / "final.pt").unlink()
            self.damage(newest(copy), kind)
            if self.run("damaged"):
                outcomes.append(f"{kind}: ends with a traceback, nothing older is used")
            else:
                right = same(self.below / "whole", copy)
                outcomes.append("older one used" if right else f"{kind}: accepted without a word")
        self.note("corrupted", outcomes, "older one used")

    def damage(self, checkpoint: Path, kind: str) -> None:
        if kind.startswith("no "):
            (checkpoint / kind[3:]).unlink()
            return
        path = checkpoint / "model.safetensors"
        raw = bytearray(path.read_bytes())
        if kind == "flipped bit":
            raw[self.draw.randrange(len(raw) // 2, len(raw))] ^= 1 << self.draw.randrange(8)
        path.write_bytes(raw[: len(raw) // 2] if kind == "cut file" else raw)

    def poisoned(self) -> None:
        outcomes = []
        for number in range(max(1, self.count // 3)):
            self.run(f"poison-{number}", poison=number % (STEPS - 2) + 2)
            finite = all(value.isfinite().all() for value in final(self.below / f"poison-{number}").values())
            outcomes.append("not applied" if finite else "NaN loss applied: all weights NaN")
        self.note("poisoned", outcomes, "not applied")

    def pickles(self) -> None:
        """A bomb in the place of every pickle that a checkpoint has."""
        outcomes = []
        names = [path.name for path in newest(self.below / "half").iterdir() if path.suffix in (".pt", ".pth", ".bin")]
        trap = self.below / "sprung"
        for name in sorted(names):
            copy = self.below / "bomb"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.below / "half", copy)
            for write in (lambda p: torch.save(Trap(trap), p), lambda p: p.write_bytes(pickle.dumps(Trap(trap)))):
                write(newest(copy) / name)
                code = self.run("bomb")
                how = "not read" if code == 0 else "refused with a traceback"
                outcomes.append(f"executed ({name})" if trap.exists() else how)
                with contextlib.suppress(FileNotFoundError):
                    trap.rmdir()
        counted = Counter(outcomes)
        held = counted["not read"] + counted["refused with a traceback"]
        what = ", ".join(f"{number} {outcome}" for outcome, number in counted.most_common())
        listed = f"{what}; pickles in a checkpoint: {', '.join(sorted(names))}"
        self.seen["pickles"] = {"tried": len(outcomes), "held": held, "what": listed}

    def signals(self) -> None:
        outcomes = []
        for number in range(max(1, self.count // 3)):
            process = self.begin(f"signal-{number}")
            with never_left([process]):
                os.kill(process, (signal.SIGTERM, signal.SIGINT)[number % 2])
                code = wait(process)
            outcomes.append("exit 0" if code == 0 else "ended at once")
        self.note("signals", outcomes, "exit 0")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.reliability.peers", description="Ask a peer the same.")
    parser.add_argument("--out", required=True, help=f"folder for {PEERS}")
    parser.add_argument("--count", type=int, default=30, help="trials of a kind (30)")
    options = parser.parse_args(argv)
    try:
        import accelerate
        import transformers
    except ImportError:
        raise UserError("the peers need transformers and accelerate: pip install 'zhiling[peers]'") from None
    import tempfile

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder), options.count)
        for trial in (peer.kills, peer.corrupted, peer.poisoned, peer.pickles, peer.signals):
            trial()
            print(json.dumps(peer.seen, indent=1), flush=True)
    report = {
        "peer": "transformers Trainer",
        "versions": f"transformers {transformers.__version__}, accelerate {accelerate.__version__}, "
        f"torch {torch.__version__}",
        "command": f"python -m train.reliability.peers --count {options.count} --out results/",
        "how": "a tiny GPT-2 with dropout, saved after every step, one process, killed after its first "
        "checkpoint, restarted with `resume_from_checkpoint=True`; no other option set for its safety",
        "seen": peer.seen,
    }
    write_text(Path(options.out) / PEERS, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
