"""Models by their names on the Hugging Face hub, brought to a folder of its local cache."""

import logging
import re
from fnmatch import fnmatch
from pathlib import Path

from jaxgpt.errors import UserError
from jaxgpt.model import hf_config
from jaxgpt.model.weights import PYTORCH, SAFETENSORS

# One kind of weights is enough, in this order.
_KINDS = (
    (SAFETENSORS,),
    (f"{SAFETENSORS}.index.json", "model-*.safetensors"),
    (PYTORCH,),
    (f"{PYTORCH}.index.json", "pytorch_model-*.bin"),
)
_OTHERS = (
    hf_config.FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "*.spm",
)


def is_hub_name(name: str) -> bool:
    """`gpt2`, or `owner/name`."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is not None


def hub_folder(name: str) -> Path:
    """The folder of the local cache with the model's config, tokenizer and one kind of weights, fetched if need be.

    Without a network (HF_HUB_OFFLINE=1, say) what the cache has is used. UserError where the hub can't be asked, or
    does not know the name, and the cache does not have it.
    """
    from huggingface_hub import list_repo_files, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if "/" in name and Path(name).parent.is_dir():
        raise UserError(
            f"there is no {name} here, though there is a folder {Path(name).parent}; check the name, or call this from "
            "another folder where a model of the hub is meant"
        )
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each attempt
    try:
        files = list_repo_files(name)
        kind = next((kind for kind in _KINDS if any(fnmatch(file, kind[0]) for file in files)), None)
        if kind:
            return Path(snapshot_download(name, allow_patterns=[*_OTHERS, *kind]))
    except Exception as error:  # no network, no such name, no access: each layer below raises what it likes
        try:
            cached = try_to_load_from_cache(name, hf_config.FILE)
        except HFValidationError:  # it looks like a name and can't be one: a--b, say
            cached = None
        if isinstance(cached, str):
            return Path(cached).parent
        raise UserError(
            f"{name} is no folder or file here, and the Hugging Face hub did not give it "
            f"({' '.join(str(error).split())[:200]}); check the name and the network, or download the model into a "
            "folder and give that"
        ) from None
    raise UserError(
        f"{name} on the Hugging Face hub has neither {SAFETENSORS} nor {PYTORCH}; download the weights that it has "
        f"into a folder with its {hf_config.FILE} and give that"
    )
