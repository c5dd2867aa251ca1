"""Learning from preferences without a reward model: DPO and its kin, and KTO, on judged answers.

    python -m train.prefer configs/demo/prefer.toml [section.key=value ...]
    python -m train.prefer configs/demo/prefer.toml data.paths=['pairs.jsonl'] loss.kind=kto
    torchrun --standalone --nproc_per_node=2 -m train.prefer configs/demo/prefer.toml

`init` is the run folder of the model to start from, which is the reference too. The judgements come from files
(`data.preferences`: pairs for all objectives, labels for KTO) or, when none is named, from the world: right answers
against the model's own wrong ones (`instruct.pairs`), kept in RUN/pairs.jsonl. The objectives are in
`train.preference`. The reference's log-probabilities are computed once and kept in RUN/reference-HASH.safetensors;
the hash is that of reference and data.

These objectives go wrong in silence: the loss falls while the chosen answers become less likely, answers longer, or
repetitive. So each evaluation says, of held-out prompts, what follows, and the rules of `train.health` stop a run that
breaks them, and say why; its last checkpoint stays.

    accuracy             share of comparisons in which the good answer gained more than the bad one (ties half)
    ranking              share in which it is likelier than the bad one
    margin               mean gain of good answers minus that of bad ones, in nats
    chosen, rejected     mean log-probability of a good, of a bad answer
    chosen_drift, rejected_drift    mean gain, as a share of the reference's log-probability; below 0: less likely
    kl                   divergence from the reference in nats an answer, estimated from answers of the model itself
    entropy              mean -log p of a token of those answers
    length, repetition, unfinished  tokens of an answer; share of its trigrams that occurred before; share cut off
    share_chosen, share_rejected    share of the sampled answers that are a good, a bad one of the data
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from configs import UserError, check, run_main
from data.answers import AnswerRows, example_of
from data.chat import ChatFormat, Conversation, prompt, taken_in
from data.files import whole_file
from data.preferences import read_preferences, write_preferences
from data.tokenizer import Tokenizer
from instruct.curriculum import Course, CurriculumConfig
from instruct.pairs import PairsConfig, make_pairs
from model.generation import generate
from model.heads import LanguageModel
from model.load import WEIGHTS, LoadedModel, load_run, model_files
from model.lora import LoraConfig
from model.sampling import Sampling
from model.storage import decode_tensors, encode_tensors, read_manifest
from train.distributed import Ranks
from train.health import Health, HealthConfig, repetition
from train.optim import OptimizerConfig, ScheduleConfig
from train.parallel import frozen_copy, with_adapters
from train.preference import Logs, PreferenceConfig, PreferenceObjective, answer_logs, total_loss
from train.preference_data import (
    Judged,
    Material,
    Prompt,
    by_prompt,
    divided,
    kto_material,
    pair_material,
    read_judged,
)
from train.rounds import sharing
from train.run import RunFolder, TrainState, read_metrics
from train.stage import stage_main
from train.texts import in_epochs
from train.trainer import TrainConfig, Trainer

PAIRS = "pairs.jsonl"
BATCH_TOKENS = 16_384  # of a forward pass that needs no gradient
ROWS = 64  # answers that are sampled together


@dataclass(frozen=True)
class PreferenceData:
    """Which judgements.

    paths        files of pairs, or for KTO of labelled answers too; empty: pairs made from the world
    validation   share of the prompts that is held out
    pairs, curriculum   of the world: how pairs are made, and what it contains; that which `init` was taught
    """

    paths: tuple[str, ...] = ()
    validation: float = 0.1
    pairs: PairsConfig = field(default_factory=PairsConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)

    def __post_init__(self):
        check([] if 0 < self.validation < 1 else [f"validation must lie between 0 and 1, got {self.validation}"])


@dataclass(frozen=True)
class PreferConfig:
    """A run of preference learning.

    init           run folder (or checkpoint folder) of the model to start from, which is the reference
    epochs         passes over the data; 0: `train.steps` decides
    answer_tokens  the longest answer that is sampled when the model is measured
    asked          held-out prompts that are answered then; 0: none
    loss           the objective; a row of a batch is a pair, or for KTO `loss.group` answers
    health         rules that stop the run, judged at every evaluation
    lora           adapters that are trained instead of the model
    """

    run: str = "runs/prefer"
    init: str = "runs/sft"
    seed: int = 0
    epochs: float = 0.0
    answer_tokens: int = 48
    asked: int = 64
    data: PreferenceData = field(default_factory=PreferenceData)
    loss: PreferenceConfig = field(default_factory=PreferenceConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = [] if self.init else ["init must name the run folder of a model"]
        problems += [
            f"{n} must not be negative, got {getattr(self, n)}" for n in ("epochs", "asked") if getattr(self, n) < 0
        ]
        if self.answer_tokens < 1:
            problems.append(f"answer_tokens must be positive, got {self.answer_tokens}")
        check(problems)


# Data ----------------------------------------------------------------------------------------------------------------


def judgements(config: PreferConfig, loaded: LoadedModel, run: RunFolder, fresh: bool, ranks: Ranks) -> list[Judged]:
    """Those of the files, or pairs of the world."""
    if config.data.paths:
        return read_judged(config.data.paths, config.loss.kind)
    return world_pairs(config.data, config.seed, loaded, run, fresh, ranks)


def world_pairs(
    data: PreferenceData, seed: int, loaded: LoadedModel, run: RunFolder, fresh: bool, ranks: Ranks
) -> list[Judged]:
    """The run's own pairs, which are made where they are not there yet."""
    path = run.path / PAIRS
    if not fresh and ranks.from_main(path.exists()):
        return list(read_preferences(path))
    return list(make_pairs(loaded, Course(data.curriculum, seed), data.pairs, seed, sharing(ranks)))


def material_of(
    config: PreferConfig, found: Sequence[Judged], tokenizer: Tokenizer, chat: ChatFormat, context: int
) -> Material:
    """The rows of judgements, as the objective wants them."""
    if config.loss.kind == "kto":
        return kto_material(found, tokenizer, chat, context, config.loss.group, config.seed)
    return pair_material(found, tokenizer, chat, context)


# The reference -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def log_table(model: LanguageModel, rows: AnswerRows, ranks: Ranks) -> Tensor:
    """The log-probabilities (rows, K) of all answers, float32, on the device; each rank computes its part."""
    model.eval()
    mine = range(ranks.rank, len(rows), ranks.world)
    found = torch.zeros(len(rows), rows.size, device=ranks.device)
    for batch in rows.batches(mine, max(1, BATCH_TOKENS // (rows.context * rows.size)), ranks.device):
        found[batch.samples] = answer_logs(model, batch).float()
    return ranks.sum(found)


def reference_tables(
    reference: LanguageModel, weights: str, parts: dict[str, AnswerRows], run: RunFolder, ranks: Ranks
) -> dict[str, Tensor]:
    """The reference's tables of all rows, from the run folder where they lie already.

    weights: a hash of those of the reference. With another reference, other data or another precision they are
    computed anew, and the old ones removed.
    """
    said = [weights, str(reference.trunk.compute_dtype), *(f"{name} {rows.digest}" for name, rows in parts.items())]
    path = run.path / f"reference-{hashlib.sha256(' '.join(said).encode()).hexdigest()[:16]}.safetensors"
    if not ranks.from_main(path.exists()):
        found = {name: log_table(reference, rows, ranks) for name, rows in parts.items()}
        if ranks.is_main:
            for old in run.path.glob("reference-*.safetensors"):
                old.unlink()
            with whole_file(path) as file:
                file.write(encode_tensors({name: table.cpu() for name, table in found.items()}))
        ranks.barrier()
    tables = decode_tensors(path.read_bytes(), str(path))
    return {name: tables[name].to(ranks.device) for name in parts}


# Measuring -----------------------------------------------------------------------------------------------------------


def held_out_figures(
    config: PreferenceConfig, policy: Tensor, reference: Tensor, material: Material
) -> dict[str, float]:
    """Loss, accuracy, ranking, margin, and log-probabilities with their drift: of tables (rows, K); see the head."""
    logs = Logs(policy.double().cpu(), reference.double().cpu(), material.tokens.double())
    total, weight = total_loss(config, logs, material.good)
    judged, good = material.prompts >= 0, material.good
    right, wrong = judged & good, judged & ~good
    figures = {"loss": float(total / weight.clamp(min=1))}
    prompts = material.prompts[right], material.prompts[wrong]
    figures["accuracy"] = comparison(logs.gain[right], logs.gain[wrong], *prompts)
    figures["ranking"] = comparison(logs.policy[right], logs.policy[wrong], *prompts)
    figures["margin"] = _mean(logs.gain[right]) - _mean(logs.gain[wrong])
    for name, where in (("chosen", right), ("rejected", wrong)):
        figures[name] = _mean(logs.policy[where])
        figures[f"{name}_drift"] = _mean(logs.gain[where]) / max(-_mean(logs.reference[where]), 1e-9)
    return figures


def comparison(good: Tensor, bad: Tensor, good_prompts: Tensor, bad_prompts: Tensor) -> float:
    """The share of (good, bad) answers to the same prompt of which the good one has the larger value, ties counting
    half; where no prompt has both, of all of them. One half where there is nothing to compare.
    """
    same = good_prompts[:, None] == bad_prompts
    same = same if same.any() else torch.ones_like(same)
    difference = (good[:, None] - bad)[same]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean()) if len(difference) else 0.5


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0


@torch.no_grad()
def sampled_figures(
    loaded: LoadedModel,
    reference: LanguageModel,
    prompts: dict[Prompt, tuple[set[str], set[str]]],
    new_tokens: int,
    ranks: Ranks,
) -> dict[str, float]:
    """What the model says at temperature 1 to these prompts; see the head. Each rank asks its part."""
    model, tokenizer, context = loaded.model, loaded.tokenizer, loaded.model.config.context
    mine = list(enumerate(prompts.items()))[ranks.rank :: ranks.world]
    names = ("kl", "entropy", "length", "repetition", "unfinished", "share_chosen", "share_rejected")
    sums = torch.zeros(len(names) + 1, dtype=torch.float64)
    for start in range(0, len(mine), ROWS):
        part = mine[start : start + ROWS]
        given = [prompt(Conversation(said), tokenizer, loaded.chat, context - new_tokens) for _, (said, _) in part]
        stops, sampling = [tokenizer.end, tokenizer.eos], Sampling(temperature=1.0)
        written = generate(model, given, new_tokens, sampling, stops, [number for number, _ in part])
        whole = [ids if len(ids) == new_tokens else [*ids, tokenizer.end] for ids in written]
        rows = AnswerRows([[example_of(*each)] for each in zip(given, whole)], context, tokenizer.pad)
        logs, before = (log_table(each, rows, Ranks(device=ranks.device))[:, 0].cpu() for each in (model, reference))
        for i, ids in enumerate(written):
            text, (good, bad) = taken_in(tokenizer.decode(ids), loaded.chat).strip(), part[i][1][1]
            figures = [logs[i] - before[i], -logs[i] / len(whole[i]), len(ids), repetition(ids), len(ids) == new_tokens]
            sums += torch.tensor([*map(float, figures), text in good, text in bad, 1.0], dtype=torch.float64)
    sums = ranks.sum(sums.to(ranks.device)).tolist()
    return {name: total / max(sums[-1], 1) for name, total in zip(names, sums)}


# The run -------------------------------------------------------------------------------------------------------------


def build_trainer(config: PreferConfig, ranks: Ranks, fresh: bool = False) -> Trainer:
    """Everything a run needs, from its configuration."""
    loaded = load_run(config.init)
    model, tokenizer, context = loaded.model, loaded.tokenizer, loaded.model.config.context
    if not model.config.causal:
        raise UserError(f"{config.init} holds an encoder, which gives no answers; use a causal model")
    if config.asked and config.answer_tokens >= context:
        raise UserError(f"answer_tokens must be below the context of {config.init}, {context} tokens")
    reference = frozen_copy(model, config.train.precision, ranks.device)
    with_adapters(model, config.lora, config.train.parallel, config.seed, ranks)
    run = RunFolder(config.run, ranks.is_main)
    run.check(config, fresh)
    found = judgements(config, loaded, run, fresh, ranks)
    parts = divided(found, config.data.validation, ", ".join(config.data.paths) or "the pairs of the world")
    material, held_out = (material_of(config, part, tokenizer, loaded.chat, context) for part in parts)
    run.open(config, fresh)
    if ranks.is_main:
        dropped = material.dropped + held_out.dropped
        print(f"{len(parts[0])} judgements to train on, {len(parts[1])} held out, {dropped} dropped (answers too long)")
        if not config.data.paths:
            write_preferences(run.path / PAIRS, found)
    ranks.barrier()
    weights = read_manifest(loaded.folder)[WEIGHTS][1]
    tables = reference_tables(reference, weights, {"train": material.rows, "held_out": held_out.rows}, run, ranks)
    asked = dict(list(by_prompt(parts[1]).items())[: config.asked])
    health = Health(config.health)

    def evaluate() -> dict[str, float]:
        policy = log_table(model, held_out.rows, ranks)
        figures = held_out_figures(config.loss, policy, tables["held_out"], held_out)
        if asked:
            figures |= sampled_figures(loaded, reference, asked, config.answer_tokens, ranks)
        if problem := health.check(figures):
            run.log({"kind": "stopped", "step": trainer.state.step, "why": problem, **figures})
            trainer.saver.finish()
            raise UserError(f"{run.path} was stopped after step {trainer.state.step}: {problem}")
        return figures

    trainer = Trainer(
        config=in_epochs(config.train, config.epochs, len(material.rows)),
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=model,
        objective=PreferenceObjective(config.loss, tables["train"], material.good.to(ranks.device)),
        rows=material.rows,
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, tokenizer, loaded.chat),
        evaluate=evaluate,
        seed=config.seed,
    )
    seen = read_metrics(run.path) if (run.path / "metrics.jsonl").exists() else []
    health.replay(ranks.from_main(seen), "evaluation")
    return trainer


def prefer(config: PreferConfig, ranks: Ranks, fresh: bool = False) -> TrainState:
    """Train one model as `config` says; returns the state that was reached."""
    return build_trainer(config, ranks, fresh).fit()


def main(argv: list[str]) -> None:
    stage_main(argv, "prefer", PreferConfig, prefer, "Tune a model on judged answers.")


if __name__ == "__main__":
    run_main(main)
