"""What a pretraining run will need, before any machine is rented: memory of a rank, speed, hours, cost.

    python -m train.plan configs/gpt2-124m.toml --gpus 8 [--gpu h100] [--mfu 0.4] [--price 2.50] [section.key=value ...]
    python -m train.plan configs/decoder-1b.toml --gpus 64 train.parallel=ddp

Memory is counted, not measured: weights, gradients and optimizer state in float32; what the forward pass of one
micro-batch keeps for the backward pass, tensor by tensor as `model.transformer` makes them (`Activations`); the
workspace of the loss; and of a sharded run what is gathered for the moment. `train.parallel` and
`train.activation_checkpointing` are taken from the configuration. Tests compare it with what PyTorch really keeps on a
CPU; what is different on a GPU (fused RMS norm, FlexAttention, masks of dropout) follows PyTorch's formulas and was not
measured. Speed is an assumption: the
published peak of the GPU times the share of it (MFU) that you expect; 0.3 to 0.5 is what good codes reach.

What it leaves out. `torch.compile` keeps less than is counted here, because it computes cheap tensors again. The
backward pass, the communication and the allocator need some percent more: leave a tenth free.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch._subclasses import FakeTensorMode

from configs import UserError, load, read_toml, run_main
from kernels import ALiBi, explain
from kernels.loss import default_chunk
from model.config import ModelConfig
from model.count import count_parameters, matrix_parameters, training_flops
from model.heads import HeadName
from model.transformer import Transformer
from train.parallel import compute_dtype
from train.pretrain import PretrainConfig
from train.track import GPUS, Gpu

GIB = 2**30


@cache
def implementations(config: ModelConfig, dtype: torch.dtype, device: str) -> tuple[str, ...]:
    """Which attention each layer takes in training, as `kernels.explain` says of tensors that have no memory.

    The batch always says which document a token is of, so the mask is never a plain one.
    """
    T, count = config.context, len(config.windows)
    with FakeTensorMode():
        trunk = Transformer(dataclasses.replace(config, layers=count))
        documents = torch.zeros(1, T, dtype=torch.int32, device=device)
        empty = partial(torch.empty, dtype=dtype, device=device, requires_grad=True)
        q, k = (empty(1, heads, T, config.D) for heads in (config.heads, config.num_kv_heads))
        bias = ALiBi.for_heads(config.heads, device) if config.position == "alibi" else None
        masks = [trunk.mask(layer, documents) for layer in range(count)]
        cap = config.attention_softcap or None
        chosen = [explain(q, k, k, mask, softcap=cap, bias=bias).impl for mask in masks]
    return tuple(chosen[layer % count] for layer in range(config.layers))


@dataclass(frozen=True)
class Activations:
    """Bytes that a forward pass of B rows of `config.context` tokens keeps for the backward pass, run eagerly.

    dtype: of the residual stream. device: "cpu" or "cuda". recomputed: blocks keep their inputs only, and one of them
    at a time is computed again, when the workspace of the loss is free. `total` is the sum; everything that has no B in
    it (copies of weights) is in it too.
    """

    config: ModelConfig
    B: int
    dtype: torch.dtype
    device: str
    head: HeadName = "language"
    recomputed: bool = False

    @property
    def total(self) -> int:
        return self.stored + max(0, self.again - self.workspace)

    @property
    def blocks(self) -> list[int]:
        """What each block makes for its backward pass."""
        layer = self.projections + self.feed_forward + 2 * self.between
        return [layer + self.scores(impl) for impl in implementations(self.config, self.dtype, self.device)]

    @property
    def stored(self) -> int:
        """What is kept from the forward to the backward pass."""
        inputs = self.config.layers * self.size * self.tokens * self.config.width
        return self.ends + (inputs if self.recomputed else sum(self.blocks))

    @property
    def again(self) -> int:
        """Of the block that is computed a second time, with the two gradients of the hidden width that its backward
        pass holds at once; beside the activations of all blocks these would not count."""
        return max(self.blocks) + 2 * self.size * self.tokens * self.config.hidden_width if self.recomputed else 0

    @property
    def tokens(self) -> int:
        return self.B * self.config.context

    @property
    def size(self) -> int:
        return self.dtype.itemsize

    @property
    def casts(self) -> bool:
        """Whether the stream is narrower than the float32 of the parameters, so that copies in both are made."""
        return self.size < 4

    def norm(self, vectors: int, width: int, kind: str) -> int:
        """A norm keeps its input in float32 and a statistic or two per vector. On a CPU the RMS norm is made of single
        operations, one of which keeps the normalised input as well."""
        composed = kind == "rms" and self.device == "cpu"
        return vectors * 4 * (width * (2 if composed else 1) + (1 if kind == "rms" else 2))

    @property
    def dropout(self) -> int:
        """The mask: of bytes on a GPU, of factors in the dtype of the stream on a CPU."""
        each = self.size if self.device == "cpu" else 1
        return each * self.tokens * self.config.width if self.config.dropout else 0

    @property
    def between(self) -> int:
        """Around each half of a layer: its norm and its dropout."""
        return self.norm(self.tokens, self.config.width, self.config.norm) + self.dropout

    @property
    def projections(self) -> int:
        """Of the attention of one layer: inputs of the projections; queries, keys and values; their norms."""
        config, n = self.config, self.tokens
        H, K, D = config.heads, config.num_kv_heads, config.D
        kept = self.size * n * (config.width + (H + 2 * K) * D + H * D)
        if config.head_norm:
            kept += self.norm(n * (H + K), D, "rms")
        if self.casts:
            kept += self.size * matrix_parameters(config)[0]
        return kept

    def scores(self, implementation: str) -> int:
        """What attention keeps besides queries, keys and values, in one layer."""
        config, n, T = self.config, self.tokens, self.config.context
        H, pairs = config.heads, self.B * T * T
        output_and_sums = n * H * (self.size * config.D + 4)
        if implementation == "reference":  # the softmax in float32, its copy, the mask
            return H * pairs * (4 + self.casts * self.size + 4 * (config.attention_softcap > 0)) + pairs + n
        if implementation == "sdpa":  # the mask as an additive tensor
            return output_and_sums + pairs * self.size * (H if config.position == "alibi" else 1) + n
        if implementation == "blocked":  # document numbers of queries and keys, intervals
            return 16 * (n + T)
        return output_and_sums + 8 * n

    @property
    def feed_forward(self) -> int:
        """Of one layer: the input of the projections, and every tensor of the hidden width that a product meets."""
        config = self.config
        hidden = {"relu2": 2, "gelu": 2, "swiglu": 4}[config.activation]
        kept = self.size * self.tokens * (config.width + hidden * config.hidden_width)
        return kept + self.casts * self.size * matrix_parameters(config)[1]

    @property
    def ends(self) -> int:
        """Before the first layer and after the last: embedding, rotation, last norm, head; the loss keeps the
        gradients of its inputs, which it has computed already."""
        config, n, C = self.config, self.tokens, self.config.width
        kept = 8 * n * (2 if config.position == "learned" else 1)  # token ids, places
        kept += self.norm(n, C, config.norm) + self.dropout
        if config.position == "rope":
            kept += 4 * n * config.D
        if self.head == "masked":
            kept += 2 * self.size * n * C + self.norm(n, C, config.norm) + self.casts * self.size * C * C
        return kept + self.size * C * (n + config.vocab_size)

    @property
    def workspace(self) -> int:
        """What the loss needs while it computes: the logits of a chunk of tokens, in both dtypes and with the slope of
        a softcap; the gradient of the output matrix in float32, where that is wider."""
        V = self.config.vocab_size
        rows = min(self.tokens, default_chunk(V, self.device))
        logits = rows * V * (4 + self.casts * self.size + 4 * (self.config.softcap > 0))
        return logits + self.casts * (4 + self.size) * V * self.config.width


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the moment when most is held."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    gathered: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def optimizer_bytes(config: PretrainConfig, model: ModelConfig) -> int:
    """AdamW keeps two float32 moments of a parameter, Muon one of a matrix inside a block."""
    inside = model.layers * sum(matrix_parameters(model)) if config.optimizer.kind == "muon" else 0
    return 8 * count_parameters(model, config.head).total - 4 * inside


def shards_of(config: PretrainConfig, world: int) -> int:
    """Over how many ranks weights, gradients and optimizer state are divided."""
    return world if config.train.parallel == "fsdp" else 1


def memory(config: PretrainConfig, rows: int, dtype: torch.dtype, device: str, world: int = 1) -> Memory:
    """The memory of one of `world` ranks, when it computes micro-batches of `rows` rows."""
    model, shards = sized(config), shards_of(config, world)
    total = count_parameters(model, config.head).total
    kept = Activations(model, rows, dtype, device, config.head, config.train.activation_checkpointing == "blocks")
    return Memory(
        weights=4 * total // shards,
        gradients=4 * total // shards,
        optimizer=optimizer_bytes(config, model) // shards,
        activations=kept.total,
        workspace=kept.workspace,
        gathered=gathered(config, kept) if shards > 1 else 0,
    )


def gathered(config: PretrainConfig, kept: Activations) -> int:
    """Bytes that a sharded run holds whole beside activations and workspace, when most is held.

    That is while the loss is computed: the two ends and the last block; or in the backward pass of that block, when
    the workspace is free again: its weights and gradients, the weights of the block before and the gradients of the
    one after on their way, and the ends with the gradient of the output matrix, which takes the place of what the
    loss has kept.
    """
    parts = count_parameters(kept.config, config.head)
    ends, block = 4 * (parts.embedding + parts.position + parts.head), 4 * sum(matrix_parameters(kept.config))
    output = kept.config.vocab_size * kept.config.width
    loss = kept.stored + kept.workspace + ends + block
    backward = kept.stored + kept.again + ends + 4 * block + (4 - kept.size) * output
    return max(loss, backward) - kept.total - kept.workspace


def sized(config: PretrainConfig) -> ModelConfig:
    """The model with the vocabulary that its tokenizer is to have, where it leaves that open."""
    return dataclasses.replace(config.model, vocab_size=config.model.vocab_size or config.data.tokenizer.vocab_size)


def largest_micro_batch(config: PretrainConfig, capacity: float, world: int, dtype: torch.dtype, device: str) -> int:
    """The most rows at a time that fit and divide the rows of a rank; 0 when one row does not fit."""
    rows = config.train.batch_size // world
    fitting = [
        size
        for size in range(1, rows + 1)
        if rows % size == 0 and memory(config, size, dtype, device, world).total <= capacity
    ]
    return max(fitting, default=0)


# The command ---------------------------------------------------------------------------------------------------------


def hardware(name: str, world: int, peak: float | None) -> Gpu:
    """The GPU of that name; for "cpu" this machine, whose memory its ranks share and whose peak nobody published."""
    if name == "cpu":
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        gpu = Gpu("CPU of this machine", 0.0, memory_bytes / world, "not known: give --peak TFLOPS", ())
    else:
        gpu = GPUS[name]
    return gpu if peak is None else dataclasses.replace(gpu, peak=peak * 1e12, source="given by --peak")


def gib(size: float) -> str:
    return f"{size / GIB:9.2f} GiB"


def memory_lines(config: PretrainConfig, gpu: Gpu, world: int, dtype: torch.dtype, device: str):
    """The part of the table about memory."""
    rows, shards = config.train.micro_batch or config.train.rows_per_rank(world), shards_of(config, world)
    need = memory(config, rows, dtype, device, world)
    attention = " and ".join(sorted(set(implementations(sized(config), dtype, device))))
    recomputed = "blocks recomputed, " if config.train.activation_checkpointing == "blocks" else ""
    place = f"float32, divided over {shards} ranks" if shards > 1 else "float32"
    remarks = {
        "weights": place,
        "gradients": place,
        "optimizer": f"{config.optimizer.kind}, {place}",
        "activations": f"{str(dtype).removeprefix('torch.')}, attention by {attention}, {recomputed}not compiled",
        "workspace": "logits of the loss, a chunk at a time",
        "gathered": "the two ends and up to four blocks of weights and gradients, float32",
    }
    yield f"memory of a rank, micro-batch of {rows} rows x {config.model.context:,} tokens"
    yield from (f"  {name:<12}{gib(size)}  {remarks[name]}" for name, size in vars(need).items() if size)
    yield f"  {'total':<12}{gib(need.total)}  of {gpu.memory / GIB:.1f} GiB"
    largest = largest_micro_batch(config, gpu.memory, world, dtype, device)
    if need.total > gpu.memory and largest:
        yield f"warning: this does not fit; the largest micro-batch that does is train.micro_batch={largest}"
    elif need.total > gpu.memory:
        divided = "more ranks" if shards_of(config, 2) > 1 else "several ranks with train.parallel=fsdp"
        remedy = f"{divided} hold more, and train.activation_checkpointing=blocks keeps less"
        yield f"warning: this does not fit, not even with train.micro_batch=1; {remedy}"
    else:
        yield f"  fits; of a rank's {config.train.rows_per_rank(world)} rows, {largest} at a time are the most that do"


def time_lines(config: PretrainConfig, gpu: Gpu, world: int, mfu: float, price: float | None):
    """The part of the table about time and money."""
    model, steps = sized(config), config.train.steps
    tokens = config.train.batch_size * model.context
    flops = training_flops(model, model.context, config.head)
    yield f"time at an MFU of {mfu:g}, which is assumed"
    if not gpu.peak:
        yield f"  {'peak':<12}{gpu.source}"
        return
    rate = world * gpu.peak * mfu / flops
    hours = steps * tokens / rate / 3600
    yield f"  {'peak':<12}{gpu.peak / 1e12:9,.1f} TFLOP/s a rank, dense bfloat16 ({gpu.source})"
    yield f"  {'work':<12}{flops / 1e6:9,.0f} MFLOP a token"
    yield f"  {'speed':<12}{rate:9,.0f} tokens/s, {rate / world:,.0f} a rank"
    yield f"  {'a step':<12}{tokens / rate:9.3f} s for {tokens:,} tokens"
    yield f"  {'all steps':<12}{hours:9,.2f} h for {steps:,} steps, {steps * tokens / 1e9:,.2f} billion tokens"
    if price is not None:
        yield f"  {'cost':<12}{hours * world * price:9,.2f} at {price:g} a rank and hour"


def plan(config: PretrainConfig, options: argparse.Namespace) -> str:
    """The whole table. Raises UserError when the batch cannot be split over the ranks."""
    world, device = options.gpus, "cpu" if options.gpu == "cpu" else "cuda"
    config.train.rows_per_rank(world)
    gpu = hardware(options.gpu, world, options.peak)
    precision = "bfloat16" if device == "cuda" and config.train.precision == "auto" else config.train.precision
    dtype = compute_dtype(precision, torch.device("cpu"))
    model = sized(config)
    total = count_parameters(model, config.head).total
    held = "weights sharded" if shards_of(config, world) > 1 else "a whole model on each rank"
    return "\n".join(
        [
            f"{options.config}: {total:,} parameters, {model.layers} layers of width {model.width}",
            f"{world} x {gpu.label}, {held}",
            "",
            *memory_lines(config, gpu, world, dtype, device),
            "",
            *time_lines(config, gpu, world, options.mfu, options.price),
        ]
    )


def parse(argv: list[str]) -> argparse.Namespace:
    """Raises UserError for numbers that make no sense."""
    parser = argparse.ArgumentParser(prog="python -m train.plan", description="Memory, speed, hours and cost of a run.")
    parser.add_argument("config", help="TOML file of a pretraining run, for example configs/gpt2-124m.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replace settings of the file")
    parser.add_argument("--gpus", type=int, default=1, help="number of ranks, one a GPU (1)")
    parser.add_argument("--gpu", choices=[*GPUS, "cpu"], default="h100", help="which one (h100)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that you expect to reach (0.4)")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="peak of a rank, instead of the published one")
    parser.add_argument("--price", type=float, help="of a GPU for an hour, in any currency")
    options = parser.parse_intermixed_args(argv)
    if options.gpus < 1:
        raise UserError(f"--gpus must be at least 1, got {options.gpus}")
    if not 0 < options.mfu <= 1:
        raise UserError(f"--mfu is a share above 0 and at most 1, got {options.mfu:g}")
    for name in ("peak", "price"):
        if getattr(options, name) is not None and not 0 < getattr(options, name) < float("inf"):
            raise UserError(f"--{name} must be a positive number, got {getattr(options, name):g}")
    return options


def main(argv: list[str]) -> None:
    options = parse(argv)
    if "init" in read_toml(options.config):
        raise UserError(f"{options.config} starts from a model: give the configuration that pretrained it")
    print(plan(load(PretrainConfig, options.config, options.overrides), options))


if __name__ == "__main__":
    run_main(main)
