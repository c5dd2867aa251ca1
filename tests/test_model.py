"""The model: causality, documents apart to the last bit, packed equals unpacked, every switch does what it says."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from configs import UserError
from data.batches import PADDING, DocumentPieces, ExamplePieces, FlatRows, PackedRows
from data.chat import Example
from kernels import Causal, Full, Window
from model import LanguageModel, ModelConfig
from model.transformer import Norm
from tests.small import small_model

ARCHITECTURES = {
    "default": {},
    "learned": {"position": "learned"},
    "alibi": {"position": "alibi"},
    "no position": {"position": "none"},
    "windows": {"windows": (3, 0)},
    "windows and alibi": {"windows": (4,), "position": "alibi"},
    "grouped queries": {"heads": 4, "kv_heads": 2},
    "one key head": {"kv_heads": 1, "windows": (5,)},
    "softcaps": {"attention_softcap": 2.0, "softcap": 3.0},
    "post-norm": {"norm_place": "post", "norm": "layer", "bias": True},
    "swiglu, untied": {"activation": "swiglu", "tie": False},
    "gelu, no head norm": {"activation": "gelu", "head_norm": False},
}
every_architecture = pytest.mark.parametrize("switches", ARCHITECTURES.values(), ids=ARCHITECTURES)
every_precision = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
T = 13


def random_tokens(rows: int = 2, length: int = T, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


def others(tokens: torch.Tensor) -> torch.Tensor:
    """Different tokens everywhere."""
    return (tokens + torch.randint(1, 61, tokens.shape)) % 61


# What sees what ------------------------------------------------------------------------------------------------------


@every_precision
@every_architecture
def test_the_future_does_not_exist(switches, dtype):
    """Changing the tokens from t on leaves the logits before t as they were, bit for bit, and changes those at t."""
    model, tokens = small_model(dtype=dtype, **switches), random_tokens()
    logits = model(tokens)
    for t in range(1, T):
        changed = torch.cat([tokens[:, :t], others(tokens[:, t:])], dim=1)
        after = model(changed)
        assert torch.equal(after[:, :t], logits[:, :t])
        assert not torch.equal(after[:, t], logits[:, t])


@every_architecture
def test_an_encoder_sees_the_future(switches):
    """With causal = false the last token changes the first logits (through a window: those within its reach)."""
    model, tokens = small_model(causal=False, **switches), random_tokens()
    changed = tokens.clone()
    changed[:, -1] = others(tokens[:, -1])
    first = T - min(filter(None, (*model.config.windows, T)))
    assert (model(changed)[:, first] != model(tokens)[:, first]).any(-1).all()


@pytest.mark.parametrize("causal", [True, False])
@every_precision
@every_architecture
def test_documents_do_not_see_each_other(switches, dtype, causal):
    """Changing one document, or the padding, leaves the logits of all others as they were, bit for bit.

    Packed documents leaked, and the loss fell all the same (axolotl#1375, axolotl#3796, transformers#46634); positions
    that begin anew change nothing about that (nanoVLM#204).
    """
    model = small_model(dtype=dtype, causal=causal, **switches)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, -1], [0, 1, 1, 1, 1, 1, 1, 1, 2, 2, -1, -1, -1]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4, 5, 6, 0, 1, 0, 0, 0]])
    tokens = random_tokens()
    logits = model(tokens, documents.int(), positions)
    for number in (-1, 0, 1, 2):
        touched = documents == number
        after = model(torch.where(touched, others(tokens), tokens), documents.int(), positions)
        assert torch.equal(after[~touched], logits[~touched])
        assert (after[touched] != logits[touched]).any()


@pytest.mark.parametrize("context", [64, 640])
@pytest.mark.parametrize("layout", ["flat", "packed"])
@every_precision
def test_documents_of_real_rows_do_not_see_each_other(stream, small_tokenizer, layout, dtype, context):
    """The same with rows as they come from a corpus, in both layouts, short and long."""
    if layout == "flat":
        rows = FlatRows(stream, context, small_tokenizer.pad, small_tokenizer.bos)
    else:
        rows = PackedRows(DocumentPieces(stream, context), context, small_tokenizer.pad)
    last = np.arange(len(rows))[-24 * 64 // context :]
    batch = rows.batch(last, last)
    model = small_model(dtype=dtype, vocab_size=small_tokenizer.vocab_size)
    logits = model(batch.tokens, batch.documents, batch.positions)
    most = int(batch.documents.max())
    assert most > 1 and (batch.documents == PADDING).any()
    for number in {0, 1, most // 2, most}:
        touched = batch.documents == number
        tokens = torch.where(touched, (batch.tokens + 1) % small_tokenizer.vocab_size, batch.tokens)
        after = model(tokens, batch.documents, batch.positions)
        assert torch.equal(after[~touched], logits[~touched])
        assert not torch.equal(after[touched], logits[touched])


@every_architecture
def test_packed_equals_unpacked(switches):
    """Loss and gradient of packed rows are the sums over the pieces alone, in float64, to rounding."""
    generator = np.random.default_rng(0)
    lengths = (17, 9, 31, 5, 22, 12, 49, 3, 2)
    pieces = [Example(generator.integers(0, 61, n), generator.random(n, np.float32)) for n in lengths]
    rows = PackedRows(ExamplePieces(pieces), 48, pad=0)
    batch = rows.batch(np.arange(len(rows)), np.arange(len(rows)))
    assert batch.documents.max() > 1 and (batch.documents == PADDING).any()
    model = small_model(dtype=torch.float64, **switches)
    parameters = list(model.parameters())
    hidden = model.trunk(batch.tokens, batch.documents, batch.positions)
    packed = model.head.loss(hidden, batch.targets, batch.weights)
    alone = torch.zeros((), dtype=torch.float64)
    for piece in pieces:
        ids, weights = torch.from_numpy(piece.ids)[None], torch.from_numpy(piece.weights)[None]
        alone = alone + model.head.loss(model.trunk(ids[:, :-1]), ids[:, 1:], weights[:, 1:])
    torch.testing.assert_close(packed, alone, rtol=1e-12, atol=0)
    for one, two in zip(torch.autograd.grad(packed, parameters), torch.autograd.grad(alone, parameters)):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@every_architecture
def test_rows_of_padding_alone_are_harmless(switches, dtype):
    """Finite outputs, no loss, and the gradient is that of the batch without them."""
    for causal in (True, False):
        model = small_model(dtype=dtype, causal=causal, **switches)
        tokens, targets = random_tokens(3), random_tokens(3, seed=1)
        documents = torch.zeros(3, T, dtype=torch.int32)
        documents[1], documents[2, 5:] = PADDING, PADDING
        weights = (documents >= 0).float()

        def gradients(rows, model=model, tokens=tokens, targets=targets, documents=documents, weights=weights):
            hidden = model.trunk(tokens[rows], documents[rows])
            assert hidden.isfinite().all() and model.head(hidden).isfinite().all()
            loss = model.head.loss(hidden, targets[rows], weights[rows])
            return loss, torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

        loss, only_padding = gradients([1])
        assert loss == 0 and all((g == 0).all() for g in only_padding)
        (_, full), (_, without) = gradients([0, 1, 2]), gradients([0, 2])
        scale = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05}[dtype]
        for one, two in zip(full, without):
            torch.testing.assert_close(one, two, rtol=scale, atol=scale * float(two.abs().max() + 1e-3))


def test_loss_is_the_weighted_cross_entropy_of_the_logits():
    model = small_model(softcap=3.0, dtype=torch.float64)
    tokens, targets = random_tokens(), random_tokens(seed=1)
    weights = torch.rand(2, T, dtype=torch.float64)
    losses = cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="none")
    loss = model.head.loss(model.trunk(tokens), targets, weights)
    torch.testing.assert_close(loss, (losses * weights.flatten()).sum())


# Precision -----------------------------------------------------------------------------------------------------------


@every_architecture
def test_bf16_computes_in_bf16_and_keeps_float32_parameters(switches):
    """Activations are bf16, logits and gradients float32, and the outcome is that of float32 to bf16's precision."""
    model, tokens = small_model(**switches), random_tokens()
    exact = model(tokens)
    model.trunk.compute_dtype = torch.bfloat16
    hidden = model.trunk(tokens)
    logits = model(tokens)
    assert hidden.dtype == torch.bfloat16 and logits.dtype == torch.float32
    assert (logits - exact).norm() < 0.1 * exact.norm()
    logits.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_late_positions_keep_their_angles():
    """Far from the beginning, attention by relative position is what it is near it: float32 angles would not do."""
    model, tokens = small_model(layers=1, dtype=torch.float64), random_tokens()
    near = model(tokens)
    far = model(tokens, positions=torch.arange(T)[None] + 1_000_000)
    torch.testing.assert_close(far, near, rtol=1e-4, atol=1e-5)


# One test for each switch --------------------------------------------------------------------------------------------


def names(**switches) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in small_model(**switches).named_parameters()}


def test_vocab_size_context_and_width():
    """The sizes are what the parameters say; rope has no limit at `context`, learned positions do."""
    assert names(vocab_size=37, width=18)["trunk.embedding.weight"] == (37, 18)
    assert names(position="learned", context=20)["trunk.position.weight"] == (20, 24)
    assert small_model(context=5)(random_tokens()).shape == (2, T, 61)
    with pytest.raises(UserError, match="13 tokens exceed the 12 learned positions"):
        small_model(position="learned", context=12)(random_tokens())
    with pytest.raises(UserError, match="vocab_size is 0"):
        LanguageModel(ModelConfig())


def test_layers():
    assert len(small_model(layers=5).trunk.blocks) == 5


def test_heads():
    """More heads of the same total width are another function of the same parameters (without head norm)."""
    one, three = (small_model(heads=heads, head_norm=False, position="none") for heads in (1, 3))
    three.load_state_dict(one.state_dict())
    assert not torch.allclose(one(random_tokens()), three(random_tokens()))


def test_kv_heads():
    """Fewer key and value rows; equal to full heads whose keys and values are repeated in groups."""
    grouped, full = small_model(heads=4, kv_heads=2, dtype=torch.float64), small_model(heads=4, dtype=torch.float64)
    state = grouped.state_dict()
    assert state["trunk.blocks.0.attention.key.weight"].shape == (12, 24)
    for name, value in state.items():
        if ".key.weight" in name or ".value.weight" in name:
            state[name] = value.view(2, 6, 24).repeat_interleave(2, 0).view(24, 24)
    full.load_state_dict(state)
    torch.testing.assert_close(full(random_tokens()), grouped(random_tokens()))


def test_head_width():
    assert names(head_width=10)["trunk.blocks.0.attention.output.weight"] == (24, 30)
    assert ModelConfig(width=24, heads=3).D == 8


def test_hidden():
    """As given, else 4 C, or for swiglu about 8/3 C, so that its three matrices cost what two do."""
    assert names(hidden=17)["trunk.blocks.0.feed_forward.input.weight"] == (17, 24)
    assert names(hidden=None)["trunk.blocks.0.feed_forward.input.weight"] == (96, 24)
    assert ModelConfig(width=768, activation="swiglu").hidden_width == 2048
    assert ModelConfig(width=252, heads=2, activation="swiglu").hidden_width == 672


def test_causal():
    assert isinstance(small_model().trunk.mask(0), Causal)
    assert isinstance(small_model(causal=False).trunk.mask(0), Full)


def test_norm():
    """rms keeps the mean and brings the root mean square to one; layer takes the mean out first."""
    x = torch.randn(5, 24, dtype=torch.float64) * 3 + 2
    rms, layer = Norm(24, "rms", bias=True).double(), Norm(24, "layer", bias=True).double()
    assert rms.bias is None and layer.bias is not None
    torch.testing.assert_close(rms(x), x / x.square().mean(-1, keepdim=True).sqrt(), rtol=1e-5, atol=1e-6)
    centred = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(layer(x), centred / centred.square().mean(-1, keepdim=True).sqrt(), rtol=1e-5, atol=1e-5)
    assert (
        isinstance(small_model(norm="layer").trunk.norm, Norm) and small_model(norm="layer").trunk.norm.kind == "layer"
    )


def test_norm_place():
    """pre: the stream is a plain sum, normed at the end. post: it is normed after the embedding and after each part."""
    pre, post = small_model(norm_place="pre"), small_model(norm_place="post")
    assert pre.trunk.norm is not None and pre.trunk.embedding_norm is None
    assert post.trunk.norm is None and post.trunk.embedding_norm is not None
    for model, is_normed in ((pre, False), (post, True)):
        for block in model.trunk.blocks:
            torch.nn.init.ones_(block.feed_forward_norm.weight)
        outputs = []
        model.trunk.blocks[1].register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[2]))
        model(random_tokens())
        size = outputs[0].square().mean(-1)
        assert torch.allclose(size, torch.ones_like(size), atol=1e-3) == is_normed


@pytest.mark.parametrize("activation", ["gelu", "relu2", "swiglu"])
def test_activation(activation):
    """The feed-forward part against its formula."""
    part = small_model(activation=activation, bias=True).trunk.blocks[0].feed_forward
    x = torch.randn(3, 24)
    inner = x @ part.input.weight.T + part.input.bias
    if activation == "gelu":
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    elif activation == "relu2":
        inner = inner.clamp(min=0) ** 2
    else:
        gate = x @ part.gate.weight.T + part.gate.bias
        inner = gate * torch.sigmoid(gate) * inner
    torch.testing.assert_close(part(x), inner @ part.output.weight.T + part.output.bias, rtol=1e-5, atol=1e-5)
    assert (part.gate is not None) == (activation == "swiglu")


def test_position():
    """Without positions the last logits do not depend on the order of what came before; with each kind they do.

    rope and alibi know distances only: shifting all positions changes nothing. Learned ones know the place itself.
    """
    tokens = random_tokens()
    shuffled = torch.cat([tokens[:, :-1].flip(1), tokens[:, -1:]], dim=1)
    for position in ("rope", "learned", "alibi", "none"):
        model = small_model(position=position, layers=1)
        same = torch.allclose(model(shuffled)[:, -1], model(tokens)[:, -1], atol=1e-4)
        assert same == (position == "none"), position
        shifted = model(tokens, positions=torch.arange(T)[None] + 9)
        assert torch.allclose(shifted, model(tokens), atol=1e-4) == (position != "learned"), position


def test_rope_base():
    """The same rotation for the first pair of channels whatever the base; slower ones for the others."""
    tokens = random_tokens()
    assert not torch.allclose(small_model(rope_base=100.0)(tokens), small_model(rope_base=10_000.0)(tokens))
    two = [small_model(rope_base=base, head_width=2)(tokens) for base in (100.0, 10_000.0)]
    assert torch.equal(*two)  # heads of width 2 have only that pair


def test_head_norm():
    """With it the scores do not follow the size of queries and keys; without it they do."""
    for head_norm in (True, False):
        model, tokens = small_model(head_norm=head_norm), random_tokens()
        before = model(tokens)
        for block in model.trunk.blocks:
            block.attention.query.weight.data *= 5
        assert torch.allclose(model(tokens), before, atol=1e-4) == head_norm
    assert "trunk.blocks.0.attention.query_norm.weight" not in names(head_norm=False)


def test_windows():
    """A token reaches as far as the windows of the layers add up to, and no farther; the pattern repeats."""
    config = ModelConfig(windows=(3, 0), layers=5)
    assert [config.window(layer) for layer in range(5)] == [3, 0, 3, 0, 3]
    model, tokens = small_model(windows=(3, 4)), random_tokens()
    assert any(isinstance(part, Window) for part in model.trunk.mask(0).parts)
    reach = (3 - 1) + (4 - 1)
    for distance in range(T - 1):
        changed = tokens.clone()
        changed[:, T - 1 - distance] = others(changed[:, T - 1 - distance])
        same = torch.equal(model(changed)[:, -1], model(tokens)[:, -1])
        assert same == (distance > reach)


def test_window_of_an_encoder_is_the_same_on_both_sides():
    model, tokens = small_model(windows=(3,), layers=1, causal=False), random_tokens()
    for place in range(T):
        changed = tokens.clone()
        changed[:, place] = others(changed[:, place])
        seen = (model(changed)[0, 6] != model(tokens)[0, 6]).any()
        assert seen == (abs(place - 6) <= 2)


def test_attention_softcap():
    """A wide cap is none; a cap near zero makes all scores alike, as if the queries were zero."""
    tokens = random_tokens()
    plain, wide, narrow = (small_model(attention_softcap=cap) for cap in (0.0, 1e4, 1e-6))
    torch.testing.assert_close(wide(tokens), plain(tokens), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(narrow(tokens), plain(tokens), atol=1e-2)
    for block in plain.trunk.blocks:
        torch.nn.init.zeros_(block.attention.query.weight)
    torch.testing.assert_close(narrow(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


def test_softcap():
    """Logits are cap * tanh(logits / cap)."""
    plain, capped = small_model(), small_model(softcap=2.0)
    logits = plain(random_tokens())
    assert logits.abs().max() > 2
    torch.testing.assert_close(capped(random_tokens()), 2 * torch.tanh(logits / 2))


def test_bias():
    """Biases in all linear layers and layer norms, or nowhere; rms norms and head norms have none."""
    assert not any(name.endswith("bias") for name in names(norm="layer"))
    with_bias = [name for name in names(bias=True, norm="layer") if name.endswith("bias")]
    assert len(with_bias) == 2 * (4 + 2 + 2) + 1  # per layer: attention, feed-forward, norms; and the last norm
    assert len([name for name in names(bias=True) if name.endswith("bias")]) == 2 * (4 + 2)


def test_tie():
    """Tied: one matrix, one parameter, gradients from both ends. Untied: two."""
    tied, untied = small_model(tie=True), small_model(tie=False)
    assert tied.head.output.weight is tied.trunk.embedding.weight
    assert "head.output.weight" not in dict(tied.named_parameters())
    assert untied.head.output.weight is not untied.trunk.embedding.weight
    for model in (tied, untied):
        model(torch.zeros(1, 3, dtype=torch.int64))[..., 1:].sum().backward()
    unseen = [model.trunk.embedding.weight.grad[5] for model in (tied, untied)]
    assert unseen[0].any() and not unseen[1].any()


def test_dropout():
    """In training it drops the share it says after the embedding (and the parts); in evaluation nothing.

    24,000 numbers at 0.25: the share is within 6 standard deviations but for a probability of 1e-8.
    """
    model, tokens = small_model(dropout=0.25), random_tokens(50, 20)
    assert torch.equal(model(tokens), model(tokens))
    assert torch.equal(model(tokens), small_model()(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
    embedded = model.trunk.embed(tokens, torch.arange(20)[None], 20)
    dropped = int((embedded == 0).sum())
    assert abs(dropped - 6000) < 6 * math.sqrt(24_000 * 0.25 * 0.75)
    assert sum(isinstance(module, torch.nn.Dropout) for module in model.modules()) == 1 + 2


@pytest.mark.parametrize("init", ["gpt2", "small", "zero"])
def test_init(init):
    """Every matrix has the mean and deviation that its paper names; biases are 0, norms 1.

    The deviation of n normal numbers is off by a share of 1 / sqrt(2 n): more than 6 of that with probability 1e-8.
    """
    torch.manual_seed(0)
    config = ModelConfig(500, width=64, layers=3, position="learned", init=init, bias=True, norm="layer", tie=False)
    spread = math.sqrt(2 / (5 * 64)) if init == "small" else 0.02
    for name, parameter in LanguageModel(config).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            is_last = "attention.output" in name or "feed_forward.output" in name
            expected = spread / math.sqrt(2 * 3) if is_last else spread
            expected = 0.0 if is_last and init == "zero" else expected
            n = parameter.numel()
            assert abs(parameter.std() - expected) <= 6 * expected / math.sqrt(2 * n), name
            assert abs(parameter.mean()) <= 6 * expected / math.sqrt(n), name


def test_init_zero_makes_layers_the_identity():
    model = LanguageModel(ModelConfig(61, width=24, heads=3, init="zero"))
    calls = []
    for block in model.trunk.blocks:
        block.register_forward_hook(lambda module, inputs, output: calls.append((inputs[0], output)))
    model(random_tokens())
    assert len(calls) == 4 and all(torch.equal(before, after) for before, after in calls)


def test_head_transform():
    """The masked head puts a linear layer, GELU and a norm before the output matrix."""
    model = small_model(head="masked", causal=False)
    hidden = torch.randn(2, 3, 24)
    linear, _, norm = model.head.transform
    inner = norm(torch.nn.functional.gelu(hidden @ linear.weight.T + linear.bias))
    torch.testing.assert_close(model.head(hidden), inner @ model.trunk.embedding.weight.T, rtol=1e-5, atol=1e-5)
    weights = torch.ones(2, 3)
    targets = random_tokens(2, 3)
    losses = cross_entropy(model.head(hidden).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(model.head.loss(hidden, targets, weights), losses, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"width": 0}, "width must be positive, got 0"),
        ({"layers": -1}, "layers must be positive"),
        ({"vocab_size": -1}, "vocab_size must not be negative"),
        ({"heads": 3, "kv_heads": 2, "width": 24}, "heads (3) must be a multiple of kv_heads (2)"),
        ({"heads": 5, "width": 24}, "width (24) must be a multiple of heads (5), or give head_width"),
        ({"head_width": 7}, "rope turns pairs: the head width (7) must be even"),
        ({"windows": ()}, "windows must be a list of numbers not below 0"),
        ({"windows": (4, -1)}, "windows must be a list of numbers not below 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"dropout": math.nan}, "dropout must be"),
        ({"softcap": -1.0}, "softcap must not be negative"),
        ({"attention_softcap": math.nan}, "attention_softcap must not be negative"),
        ({"rope_base": 0.0}, "rope_base must be above 1"),
    ],
)
def test_impossible_architectures_are_refused(wrong, sentence):
    with pytest.raises(UserError) as caught:
        ModelConfig(**wrong)
    assert sentence in str(caught.value)
