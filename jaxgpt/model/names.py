"""Hugging Face's names of a GPT-2's tensors, as in the state dict of transformers' GPT2LMHeadModel."""

PREFIX = "transformer."
LM_HEAD = "lm_head.weight"


def hf_name(path: str) -> str:
    """The name of the parameter at `path`, which is joined by dots and of the unrolled layout.

    What GPT-2 does not have is named alike: transformer.wre.weight, transformer.embed_in.bias.
    """
    return path if path == LM_HEAD else PREFIX + path


WTE, WPE, WRE = hf_name("wte.weight"), hf_name("wpe.weight"), hf_name("wre.weight")
TABLES = (WTE, LM_HEAD)  # with a row per id of the vocabulary
