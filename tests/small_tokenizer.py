"""A byte-level tokenizer of a few hundred tokens: it loads at once, and sorting its logits is no work."""

import tokenizers

from jaxgpt.data.tokenizer import END_OF_TEXT, Tokenizer


def trained(texts: list[str], *special: str, vocab_size: int = 307) -> Tokenizer:
    """GPT-2's kind, with end-of-text as id 0 and `special` behind it."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, *special],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer("small", backend)
