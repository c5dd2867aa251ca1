"""What all tests share: one thread, global state that no test hands to the next, and a small tokenizer with shards."""

import random

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import settings

from data.corpus import Document
from data.shards import SplitConfig, TokenStream, read_manifest, write_shards
from data.tokenizer import Tokenizer, TokenizerConfig
from tests.small import invented_texts


def pytest_configure(config):
    torch.set_num_threads(1)
    settings.register_profile("zhiling", deadline=None)  # a busy machine is no failure
    settings.load_profile("zhiling")


@pytest.fixture(autouse=True)
def clean_state():
    """Every test starts from the same seeds; what it sets globally is set back."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """A bpe tokenizer of 420 ids."""
    return Tokenizer.train(invented_texts(60), TokenizerConfig(vocab_size=420))


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory, small_tokenizer):
    """A folder of shards: about 150 short documents, several files a split, boundaries where they fall."""
    folder = tmp_path_factory.mktemp("shards") / "small"
    corpus = [Document(text, str(i)) for i, text in enumerate(invented_texts(150, longest=60))]
    write_shards(corpus, small_tokenizer, folder, SplitConfig(validation=0.2, shard_tokens=1000))
    return folder


@pytest.fixture
def stream(shard_folder) -> TokenStream:
    """The training split of `shard_folder`."""
    return TokenStream(shard_folder, "train", read_manifest(shard_folder))
