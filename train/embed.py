"""Training of the instruction embedding model: texts that ask for the same get vectors that lie close together.

    python -m train.embed configs/embed.toml [section.key=value ...]
    python -m train.embed configs/embed.toml data.paths=['pairs.jsonl']
    python -m train.embed configs/embed.toml run=runs/embed2 init=runs/embed data.miner=runs/embed   # hard negatives

Where no file is named, the texts are instructions of the built-in world: every operation and chains of two, in English
and Chinese, in many wordings, some with their input; texts of one behaviour are positives of each other, whatever their
words and language. Rows of files are pairs, see `instruct.paraphrases`.

A row of a batch is one behaviour: `views` of its texts, and `hard` texts of behaviours that a trained model, `miner`,
holds for similar. Mining is a second call, with the model of the first: what a run sees then follows from its
settings, and a resumed run repeats an uninterrupted one. The loss, on all ranks and in chunks, is `train.contrastive`.

What is measured while it learns, among held-out texts of known behaviours: `recall_at_1`, `mrr`, and `loss`, of each
query minus the logarithm of the share that texts of its behaviour have of all, at the model's temperature.
`train.embed_report` measures the finished model.

What it leaves out: mining while a run goes on; words other than the grammar's where there are no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from configs import UserError, check, run_main
from data.batches import Batch, row_generator
from data.vocabulary import TokenizerConfig
from instruct.curriculum import Course, CurriculumConfig
from instruct.paraphrases import Collection, Phrased, behaviours, collection, divided, phrase, read_pairs
from instruct.retrieval import relevant_ranks, retrieval_figures
from model.config import ModelConfig
from model.embedder import Embedder, embed, pad_rows, text_ids
from model.load import load_run, model_files
from model.lora import LoraConfig
from train.contrastive import NOTHING, Contrastive
from train.distributed import Ranks
from train.optim import OptimizerConfig, ScheduleConfig
from train.parallel import with_adapters
from train.run import TrainState
from train.stage import open_run, stage_main
from train.texts import start_from, start_problems
from train.trainer import TrainConfig, Trainer

NEIGHBOURS = 8  # behaviours from which hard negatives are drawn
STEP = 8  # rows are padded to a multiple of this


@dataclass(frozen=True)
class EmbedData:
    """Which texts, and how many of them stand together.

    paths          files of pairs; empty: the world
    operations, compositions, held_out, depth3   the world, see `instruct.curriculum.CurriculumConfig`
    phrasings      of the world: texts of each behaviour in each language, at most
    inputs         of the world: the share of texts that have an input
    views          texts of one behaviour in a row of a batch
    miner          run whose model chooses hard negatives; "": none
    hard           hard negatives in a row
    pool, queries  held-out texts that are searched, and searched for, while a run goes on
    """

    paths: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    compositions: int = 1000
    held_out: int = 60
    depth3: int = 200
    phrasings: int = 60
    inputs: float = 0.15
    views: int = 4
    miner: str = ""
    hard: int = 2
    pool: int = 2000
    queries: int = 500

    def __post_init__(self):
        names = ("compositions", "held_out", "depth3", "phrasings", "hard", "pool", "queries")
        problems = [f"{name} must be positive, got {getattr(self, name)}" for name in names if getattr(self, name) < 1]
        if self.views < 2:
            problems.append(f"views must be at least 2, for a text needs another one, got {self.views}")
        if not 0 <= self.inputs <= 1:
            problems.append(f"inputs must lie between 0 and 1, got {self.inputs}")
        check(problems)


@dataclass(frozen=True)
class LossConfig:
    """The contrastive loss.

    temperature   at the beginning; `learnable`: whether it is trained too
    sizes         prefixes of the vectors that are embeddings too, besides the whole
    chunk         texts of one forward pass; 0: all of a rank's at once. Changes memory, not the loss
    """

    temperature: float = 0.05
    learnable: bool = True
    sizes: tuple[int, ...] = (32, 64)
    chunk: int = 0

    def __post_init__(self):
        problems = [] if self.temperature > 0 else [f"temperature must be positive, got {self.temperature}"]
        if any(size < 1 for size in self.sizes):
            problems.append(f"sizes must be positive, got {list(self.sizes)}")
        if self.chunk < 0:
            problems.append(f"chunk must not be negative, got {self.chunk}")
        check(problems)


@dataclass(frozen=True)
class EmbedConfig:
    """An embedding run.

    init         run folder of the model whose trunk is tuned; "": a fresh one of [model], its [tokenizer] is learnt
    dimensions   of the vectors; 0: no projection, the width of the trunk
    lora         adapters that are trained instead of the trunk of `init`
    """

    run: str = "runs/embed"
    init: str = ""
    seed: int = 0
    dimensions: int = 128
    data: EmbedData = field(default_factory=EmbedData)
    loss: LossConfig = field(default_factory=LossConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = start_problems(self)
        size = self.dimensions or self.model.width
        if self.dimensions < 0:
            problems.append(f"dimensions must not be negative, got {self.dimensions}")
        elif (self.dimensions or not self.init) and any(each > size for each in self.loss.sizes):
            problems.append(f"loss.sizes must not be above the {size} dimensions, got {list(self.loss.sizes)}")
        if self.train.micro_batch:
            problems.append("train.micro_batch would cut the negatives of a batch: leave it 0 and set loss.chunk")
        check(problems)


# Data ----------------------------------------------------------------------------------------------------------------


def course_of(data: EmbedData, seed: int) -> Course:
    """The world that a run learns from."""
    config = CurriculumConfig(
        operations=data.operations, compositions=data.compositions, held_out=data.held_out, depth3=data.depth3
    )
    return Course(config, seed)


def read_data(config: EmbedConfig) -> tuple[list[Phrased], Collection]:
    """Texts to train on, and held-out ones. Raises UserError where there are not enough."""
    data = config.data
    if data.paths:
        train, held_out = divided(read_pairs(data.paths))
        held_out = Collection(held_out.pool[: data.pool], held_out.queries[: data.queries])
    else:
        course = course_of(data, config.seed)
        known = behaviours(course).known
        groups = phrase(course, known, data.phrasings, f"train {config.seed}", inputs=data.inputs)
        train = list({each.text: each for group in groups for each in group}.values())
        held_out = collection(course, known, data.pool, data.queries, config.seed)
    if len({each.behaviour for each in train}) < 2 or not held_out.pool:
        raise UserError(
            f"{', '.join(data.paths) or 'the world'}: {len(train)} texts to train on and {len(held_out.pool)} to "
            "search in; two behaviours are needed for the first, and some texts for the second: give more"
        )
    return train, held_out


class BehaviourRows:
    """Rows for the trainer: row i is behaviour i with `views` of its texts, drawn by the place in the run.

    ids: of all texts. numbers: their behaviours, from 0. neighbours (behaviours, K): similar ones, of which `hard`
    texts follow; they are of other behaviours, of which each may be in the batch by itself too.
    """

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        numbers: Sequence[int],
        views: int,
        pad: int,
        seed: int = 0,
        neighbours: Tensor | None = None,
        hard: int = 0,
    ):
        self.ids, self.views, self.pad, self.seed = ids, views, pad, seed
        self.neighbours, self.hard = neighbours, hard if neighbours is not None else 0
        self.groups: list[list[int]] = [[] for _ in range(max(numbers) + 1)]
        for place, number in enumerate(numbers):
            self.groups[number].append(place)

    def __len__(self) -> int:
        return len(self.groups)

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch:
        """tokens and documents (B, V, T), targets (B, V): the behaviours, `NOTHING` where one has fewer texts."""
        rows = [self._row(int(sample), int(position)) for sample, position in zip(samples, positions)]
        tokens, documents = pad_rows([self.ids[text] if text >= 0 else [] for row in rows for text, _ in row], self.pad)
        tokens = torch.nn.functional.pad(tokens, (0, -tokens.shape[1] % STEP), value=self.pad)
        documents = torch.nn.functional.pad(documents, (0, -documents.shape[1] % STEP), value=-1)
        shape = len(rows), self.views + self.hard, tokens.shape[1]
        targets = torch.tensor([[number for _, number in row] for row in rows])
        places = torch.arange(shape[2]).expand(shape)
        numbers = torch.from_numpy(np.asarray(samples, np.int64))
        weights = (targets != NOTHING).float()
        return Batch(tokens.view(shape), targets, weights, documents.view(shape), places, numbers)

    def _row(self, number: int, position: int) -> list[tuple[int, int]]:
        """(text, behaviour) of each place, (-1, NOTHING) where there is none."""
        generator, group = row_generator(self.seed, position), self.groups[number]
        chosen = generator.permutation(len(group))[: self.views]
        row = [(group[i], number) for i in chosen] + [(-1, NOTHING)] * (self.views - len(chosen))
        if self.hard:
            others = generator.permutation(self.neighbours[number].tolist())[: self.hard].tolist()
            row += [(int(generator.choice(self.groups[other])), other) for other in others]
            row += [(-1, NOTHING)] * (self.views + self.hard - len(row))
        return row


def mine(vectors: Tensor, numbers: Sequence[int], count: int = NEIGHBOURS) -> Tensor:
    """The most similar other behaviours of each, by the means of their texts: vectors (texts, E) -> (behaviours, K)."""
    group = torch.tensor(numbers)
    means = torch.zeros(int(group.max()) + 1, vectors.shape[1]).index_add_(0, group, vectors)
    means = torch.nn.functional.normalize(means, dim=1)
    found = []
    for start, rows in zip(range(0, len(means), 1024), means.split(1024)):
        likeness = rows @ means.T
        likeness[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = -torch.inf
        found.append(likeness.topk(min(count, len(means) - 1)).indices)
    return torch.cat(found)


def mined(run: str, texts: Sequence[str], numbers: Sequence[int], ranks: Ranks) -> Tensor:
    """Neighbours of all behaviours by the model of a run; the main rank finds them for all."""
    found = None
    if ranks.is_main:
        miner = load_run(run, heads=[Embedder.head_name])
        ids = text_ids(texts, miner.tokenizer, miner.model.config.context)
        found = mine(embed(miner.model, ids, miner.tokenizer.pad), numbers)
    return ranks.from_main(found)


# Measuring -----------------------------------------------------------------------------------------------------------


def held_out_figures(queries: Tensor, pool: Tensor, relevant: np.ndarray, scale: float) -> dict[str, float]:
    """queries (Q, E), pool (N, E), relevant (Q, N) bool; see the head of the module."""
    cosines = queries @ pool.T
    mask = torch.from_numpy(relevant)
    known = mask.any(1)
    logits = cosines[known] * scale
    share = logits.masked_fill(~mask[known], -torch.inf).logsumexp(1) - logits.logsumexp(1)
    ranks = [relevant_ranks(row, each) for row, each in zip(cosines.numpy(), relevant)]
    found = retrieval_figures(ranks)
    return {"loss": float(-share.mean()), "recall_at_1": found["recall_at_1"], "mrr": found["mrr"]}


def relevance(found: Collection) -> np.ndarray:
    """(Q, N) bool: which texts of the pool ask for what the query asks."""
    names = np.array([each.behaviour for each in found.pool])
    return np.array([each.behaviour for each in found.queries])[:, None] == names


# The run -------------------------------------------------------------------------------------------------------------


def build_trainer(config: EmbedConfig, ranks: Ranks, fresh: bool = False) -> Trainer:
    """Everything a run needs, from its configuration."""
    data = config.data
    train, held_out = read_data(config)
    texts = [each.text for each in train]
    names = {name: number for number, name in enumerate(dict.fromkeys(each.behaviour for each in train))}
    numbers = [names[each.behaviour] for each in train]
    start = start_from(config.init, config.model, config.tokenizer, texts, ranks)
    tokenizer, context = start.tokenizer, start.config.context
    if max(config.loss.sizes, default=0) > (config.dimensions or start.config.width):
        raise UserError(f"loss.sizes must not be above the width of {config.init}, {start.config.width}")
    neighbours = mined(data.miner, texts, numbers, ranks) if data.miner else None
    ids = text_ids(texts, tokenizer, context)
    rows = BehaviourRows(ids, numbers, data.views, tokenizer.pad, config.seed, neighbours, data.hard)
    searched, asked = (text_ids([each.text for each in part], tokenizer, context) for part in held_out)
    relevant = relevance(held_out)
    if ranks.is_main:
        print(f"{len(texts)} texts of {len(rows)} behaviours to train on; {len(searched)} held out to search in")
    torch.manual_seed(config.seed)
    model = Embedder(start.config, config.dimensions, config.loss.temperature, config.loss.learnable)
    start.give(model)
    with_adapters(model, config.lora, config.train.parallel, config.seed, ranks)
    run = open_run(config, ranks, fresh)
    sizes = tuple(sorted({*config.loss.sizes, model.size}))

    def evaluate() -> dict[str, float]:
        def vectors(ids: Sequence[Sequence[int]]) -> Tensor:
            here = embed(model, ids[ranks.rank :: ranks.world] or ids[:1], tokenizer.pad)
            whole = torch.empty(len(ids), model.size)
            for rank, part in enumerate(ranks.gather(here)):
                whole[rank :: ranks.world] = part[: len(ids[rank :: ranks.world])]
            return whole

        return held_out_figures(vectors(asked), vectors(searched), relevant, model.scale.item())

    return Trainer(
        config=config.train,
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=model,
        objective=Contrastive(sizes, config.loss.chunk, ranks),
        rows=rows,
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, tokenizer, start.chat),
        evaluate=evaluate,
        seed=config.seed,
    )


def embed_texts(config: EmbedConfig, ranks: Ranks, fresh: bool = False) -> TrainState:
    """Train one model as `config` says; returns the state that was reached."""
    return build_trainer(config, ranks, fresh).fit()


def main(argv: list[str]) -> None:
    stage_main(argv, "embed", EmbedConfig, embed_texts, "Train an embedding of instructions.")


if __name__ == "__main__":
    run_main(main)
