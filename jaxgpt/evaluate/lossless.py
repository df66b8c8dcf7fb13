"""Does a tokenizer keep the text? Otherwise a figure per word or byte is of another, easier one."""

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.evaluate.corpora import Corpus


def altered(name: str, tokenizer: Tokenizer, corpus: Corpus) -> str | None:
    """A sentence on the documents that don't come back from their tokens, white space aside; None where all do."""
    texts = [corpus.detokenize(document.text) for document in corpus.documents]
    back = (tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts))
    n_altered = sum(one.split() != other.split() for one, other in zip(texts, back, strict=True))
    if not n_altered:
        return None
    return (
        f"The tokenizer of {name} does not keep the text: {n_altered} of {len(texts)} documents of {corpus.name} don't "
        "come back from their tokens (unknown or changed characters), so its figures are of an easier text and not "
        "comparable."
    )
