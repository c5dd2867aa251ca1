"""What a pretraining run will need, before any machine is rented: memory of a rank, speed, hours, cost.

    python -m train.plan configs/gpt2-124m.toml --gpus 8 [--gpu h100] [--mfu 0.4] [--price 2.50] [section.key=value ...]
    python -m train.plan configs/decoder-1b.toml --gpus 64 --sharded train.micro_batch=8

Memory is counted, not measured: weights, gradients and optimizer state in float32; what the forward pass of one
micro-batch keeps for the backward pass, tensor by tensor as `model.transformer` makes them (`Activations`); and the
workspace of the loss. A test compares it with what PyTorch really keeps on a CPU; what is different on a GPU (fused RMS
norm, FlexAttention, masks of dropout) follows PyTorch's formulas and was not measured. Speed is an assumption: the
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

    dtype: of the residual stream. device: "cpu" or "cuda". `total` is the sum; everything that has no B in it (copies
    of weights) is in it too.
    """

    config: ModelConfig
    B: int
    dtype: torch.dtype
    device: str
    head: HeadName = "language"

    @property
    def total(self) -> int:
        layers = self.config.layers * (self.projections + self.feed_forward + 2 * self.between)
        return self.ends + layers + sum(map(self.scores, implementations(self.config, self.dtype, self.device)))

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


def memory(config: PretrainConfig, rows: int, dtype: torch.dtype, device: str, shards: int = 1) -> Memory:
    """The memory of a rank that computes micro-batches of `rows` rows.

    shards: over how many ranks weights, gradients and optimizer state are divided; then the matrices of the two ends
    and of two layers (one at work, one on its way) are gathered besides.
    """
    model = sized(config)
    parts = count_parameters(model, config.head)
    kept = Activations(model, rows, dtype, device, config.head)
    ends = parts.embedding + parts.position + parts.head
    gathered = ends + 2 * sum(matrix_parameters(model)) if shards > 1 else 0
    return Memory(
        weights=4 * parts.total // shards,
        gradients=4 * parts.total // shards,
        optimizer=optimizer_bytes(config, model) // shards,
        activations=kept.total,
        workspace=kept.workspace,
        gathered=4 * gathered,
    )


def sized(config: PretrainConfig) -> ModelConfig:
    """The model with the vocabulary that its tokenizer is to have, where it leaves that open."""
    return dataclasses.replace(config.model, vocab_size=config.model.vocab_size or config.data.tokenizer.vocab_size)


def largest_micro_batch(
    config: PretrainConfig, capacity: float, world: int, dtype: torch.dtype, device: str, shards: int = 1
) -> int:
    """The most rows at a time that fit and divide the rows of a rank; 0 when one row does not fit."""
    rows = config.train.batch_size // world
    fitting = [
        size
        for size in range(1, rows + 1)
        if rows % size == 0 and memory(config, size, dtype, device, shards).total <= capacity
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


def memory_lines(config: PretrainConfig, gpu: Gpu, world: int, dtype: torch.dtype, device: str, shards: int):
    """The part of the table about memory."""
    rows = config.train.micro_batch or config.train.rows_per_rank(world)
    need = memory(config, rows, dtype, device, shards)
    attention = " and ".join(sorted(set(implementations(sized(config), dtype, device))))
    place = f"float32, divided over {shards} ranks" if shards > 1 else "float32"
    remarks = {
        "weights": place,
        "gradients": place,
        "optimizer": f"{config.optimizer.kind}, {place}",
        "activations": f"{str(dtype).removeprefix('torch.')}, attention by {attention}, not compiled",
        "workspace": "logits of the loss, a chunk at a time",
        "gathered": "the two ends and two layers, float32",
    }
    yield f"memory of a rank, micro-batch of {rows} rows x {config.model.context:,} tokens"
    yield from (f"  {name:<12}{gib(size)}  {remarks[name]}" for name, size in vars(need).items() if size)
    yield f"  {'total':<12}{gib(need.total)}  of {gpu.memory / GIB:.1f} GiB"
    largest = largest_micro_batch(config, gpu.memory, world, dtype, device, shards)
    if need.total > gpu.memory and largest:
        yield f"warning: this does not fit; the largest micro-batch that does is train.micro_batch={largest}"
    elif need.total > gpu.memory:
        yield "warning: this does not fit, not even with train.micro_batch=1; more ranks with --sharded hold more"
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
    shards = world if options.sharded else 1
    model = sized(config)
    total = count_parameters(model, config.head).total
    return "\n".join(
        [
            f"{options.config}: {total:,} parameters, {model.layers} layers of width {model.width}",
            f"{world} x {gpu.label}, {'weights sharded' if shards > 1 else 'a whole model on each rank'}",
            "",
            *memory_lines(config, gpu, world, dtype, device, shards),
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
    parser.add_argument("--sharded", action="store_true", help="divide weights, gradients and optimizer over the ranks")
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
