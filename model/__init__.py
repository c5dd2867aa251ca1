"""The hand-written Transformer: configuration, trunk, heads, cache, sampling, generation, storage.

    from model import LanguageModel, ModelConfig
    model = LanguageModel(ModelConfig(vocab_size=4096, width=256, layers=4))
    logits = model(tokens)                         # (B, T) -> (B, T, V)

Read in this order: `config.py` (the switches), `transformer.py` (the trunk), `heads.py`, `cache.py`, `generation.py`.
"""

from model.config import ModelConfig
from model.heads import LanguageModel
from model.transformer import Transformer

__all__ = ["LanguageModel", "ModelConfig", "Transformer"]
