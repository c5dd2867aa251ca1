"""What an encoder's masked accuracy is worth: beside it two baselines, at exactly the same hidden places.

    python -m train.masked runs/demo/encoder [--rows 200] [--device cpu]

prints {"model": ..., "neighbours": ..., "unigram": ..., "places": ...} as JSON: the share of hidden tokens of the held-
out text that each names. `neighbours` is `train.ngram.Neighbours`, learnt from the training text: the most frequent
token between the two beside the place. `unigram` always names the most frequent one. With them stand the command, the
steps of the run and the machine.

All see the same corrupted rows. A chosen place may show its own token or a random one instead of <mask> (in BERT's
recipe one in five); the baselines take what is shown there for true, which is right half of the time. Where the model
sees no token after the last one, they see the end of the document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from configs import UserError, load, run_main
from configs.machine import machine
from data.batches import Batch, Rows
from data.prepare import PreparedData, prepare
from data.tokenizer import Tokenizer
from model.heads import LanguageModel
from model.load import load_run
from train.evaluation import first_choices
from train.ngram import Neighbours
from train.pretrain import PretrainConfig, build_rows, instruction_text


def neighbours_of(data: PreparedData) -> Neighbours:
    """The baseline of a data set, learnt from its training split."""
    stream = data.stream("train")
    ids = stream.read(0, stream.tokens).astype(np.int64)
    return Neighbours(ids, np.asarray(data.tokenizer.byte_lengths) > 0)


def guesses(batch: Batch, baseline: Neighbours, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """What neighbours and unigram say at the places of weight above 0 of a batch, in order: two (N,)."""
    tokens, documents = batch.tokens.cpu().numpy(), batch.documents.cpu().numpy()
    edge = np.full((len(tokens), 1), -1, documents.dtype)
    same = np.concatenate([edge, documents, edge], 1)
    around = np.concatenate([edge * 0, tokens, edge * 0], 1)
    left = np.where(same[:, :-2] == documents, around[:, :-2], tokenizer.bos)
    right = np.where(same[:, 2:] == documents, around[:, 2:], tokenizer.eos)
    chosen = batch.weights.cpu().numpy() > 0
    shown = tokens[chosen]
    hidden = shown == tokenizer.mask
    said = baseline.predict(left[chosen], right[chosen])
    return np.where(hidden, said, shown), np.where(hidden, baseline.unigram, shown)


@torch.no_grad()
def compare(
    model: LanguageModel, rows: Rows, baseline: Neighbours, tokenizer: Tokenizer, batch_rows: int, max_rows: int = 0
) -> dict[str, float]:
    """Shares of chosen tokens named rightly, over the rows that `train.evaluation` takes."""
    model.eval()
    device = model.trunk.embedding.weight.device
    count = min(len(rows), max_rows) if max_rows else len(rows)
    right, places = np.zeros(3), 0
    for start in range(0, count, batch_rows):
        samples = np.arange(start, min(count, start + batch_rows))
        batch = rows.batch(samples, samples)
        targets = batch.targets[batch.weights > 0].numpy()
        ours = first_choices(model, batch.to(device)).cpu().numpy()
        right += [(said == targets).sum() for said in (ours, *guesses(batch, baseline, tokenizer))]
        places += len(targets)
    shares = right / max(places, 1)
    return {**dict(zip(("model", "neighbours", "unigram"), shares.tolist())), "places": places}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.masked", description="Masked accuracy beside two baselines.")
    parser.add_argument("run", help="run folder of an encoder that train.pretrain made")
    parser.add_argument("--rows", type=int, default=0, help="held-out rows to use; 0, the default: all")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    arguments = parser.parse_args(argv)
    path = Path(arguments.run) / "config.toml"
    if not path.exists():
        raise UserError(f"there is no {path}; give the folder of a run of train.pretrain")
    config = load(PretrainConfig, path)
    if config.objective != "masked":
        raise UserError(f"{arguments.run} has the objective {config.objective!r}; give a run with objective = 'masked'")
    loaded = load_run(arguments.run, arguments.device)
    data = prepare(config.data, instruction_text() if config.instruction_text else None)
    if data.tokenizer.sha256 != loaded.tokenizer.sha256:
        raise UserError(f"the data in {config.data.folder} are not those of {arguments.run}: they have changed since")
    rows = build_rows(config, data, "validation")
    batch_rows = max(1, 4096 // config.model.context)
    found = compare(loaded.model, rows, neighbours_of(data), data.tokenizer, batch_rows, arguments.rows)
    said = {"command": f"python -m train.masked {' '.join(argv)}", "steps": config.train.steps, "machine": machine()}
    print(json.dumps(found | said, indent=1))


if __name__ == "__main__":
    run_main(main)
