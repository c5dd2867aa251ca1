"""From text to batches: corpora, tokenizer, token shards, the order of samples, chat, packing. Knows no model."""
