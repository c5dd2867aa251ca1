"""The Triton kernels, run by Triton's interpreter on CPU tensors in float32 and float16, or on a GPU where one is.

The interpreter is chosen by TRITON_INTERPRET=1 before Python starts, so the checks run in a process of their own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from configs import UserError
from kernels import IMPLEMENTATIONS, ALiBi, attention
from kernels.accuracy import error_ratios
from kernels.triton_flash import triton_obstacle
from tests.test_attention import H, masks, options_of, tensors

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
INSTALLED = importlib.util.find_spec("triton") is not None


def interpreter_obstacle() -> str | None:
    if not INSTALLED:
        return "Triton is not installed"
    import triton

    versions = lambda text: tuple(int(part) for part in text.split(".")[:2])
    if versions(triton.__version__) < (3, 7) and versions(numpy.__version__) >= (2, 4):
        return f"the interpreter of Triton {triton.__version__} needs numpy < 2.4 (triton issue 9171)"
    return None


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the process with the interpreter")
def test_in_the_interpreter():
    obstacle = interpreter_obstacle()
    if obstacle:
        pytest.skip(obstacle)
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]


inside = pytest.mark.skipif(not INTERPRETED, reason="runs inside test_in_the_interpreter")


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("kind", masks(1, 1))
def test_every_mask(kind, dtype):
    for T, S in ((1, 70), (150, 170), (70, 33)):
        ratios = error_ratios(IMPLEMENTATIONS["triton"], *tensors(T, S), masks(T, S)[kind], dtype)
        assert max(ratios.values()) <= 2.0, (T, S, ratios)


@inside
@pytest.mark.parametrize("option", ["softcap", "scale", "alibi", "sinks", "lse"])
def test_every_option(option):
    T, S = 70, 81
    for kind in ("padding", "mixed"):
        options = options_of(T, S)[option]
        ratios = error_ratios(IMPLEMENTATIONS["triton"], *tensors(T, S), masks(T, S)[kind], torch.float32, **options)
        assert max(ratios.values()) <= 2.0, ratios


@inside
def test_opcheck_and_one_graph():
    from kernels.triton_flash import _forward

    q, k, v = (x.requires_grad_() for x in tensors(9, 9))
    spans = masks(9, 9)["documents"].spans(9, 9)
    masking = (spans.low, spans.high, spans.query_ids, spans.key_ids, None, None)
    torch.library.opcheck(_forward, (q, k, v, *masking, 0.3, 0.0))
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, impl="triton", bias=ALiBi.for_heads(H)), fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), attention(q, k, v, impl="reference", bias=ALiBi.for_heads(H)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("kind", masks(1, 1))
def test_on_a_gpu(kind, dtype):
    """All masks on the device; a mask's tensors are moved by building the mask there."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for T, S in ((1, 70), (150, 170), (1000, 1000)):
        with torch.device("cuda"):
            mask = to_cuda(masks_on_cpu(T, S)[kind])
        ratios = error_ratios(IMPLEMENTATIONS["triton"], *(x.cuda() for x in tensors(T, S)), mask, dtype)
        assert max(ratios.values()) <= 2.0, (T, S, ratios)


def masks_on_cpu(T: int, S: int) -> dict:
    with torch.device("cpu"):
        return masks(T, S)


def to_cuda(mask):
    """The same mask with its tensors on the GPU."""
    import dataclasses

    move = lambda x: x.cuda() if isinstance(x, torch.Tensor) else tuple(map(to_cuda, x)) if isinstance(x, tuple) else x
    return type(mask)(*(move(getattr(mask, field.name)) for field in dataclasses.fields(mask)))


def test_what_it_cannot_do_is_said():
    q, k, v = tensors(4, 4)
    if not INTERPRETED:
        assert "Triton" in triton_obstacle("cpu", torch.float32)
        with pytest.raises(UserError, match="Triton"):
            attention(q, k, v, impl="triton")
    with pytest.raises(UserError, match="bias"):
        IMPLEMENTATIONS["triton"](q, k, v, bias=torch.zeros(4, 4))
