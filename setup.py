"""Packaging of zhiling: five packages at run time, everything else as an extra."""

from pathlib import Path

from setuptools import setup

SERVE = ["fastapi", "uvicorn"]

setup(
    name="zhiling",
    version="0.1.0",
    description="A from-scratch PyTorch laboratory for language models that construct their own instructions (指令)",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=[
        *("configs", "data", "instruct", "instruct.applications", "instruct.world"),
        *("kernels", "kernels.masks", "model", "train", "train.reliability"),
    ],
    package_data={"configs": ["*.toml", "*/*.toml"], "train": ["*.html"]},
    install_requires=["torch>=2.11,<2.14", "numpy", "sentencepiece", "tqdm", "einops"],
    extras_require={
        "plot": ["matplotlib"],
        "interop": ["safetensors"],
        "serve": SERVE,
        "track": ["tensorboard"],
        "peers": ["transformers", "accelerate"],
        "test": ["pytest", "pytest-xdist", "hypothesis", "ruff", "rouge_score", "safetensors", *SERVE, "httpx"],
    },
)
