"""Weights from outside as a model of ours: a Hugging Face folder or hub name, or a single file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model import foreign, hf_config
from jaxgpt.model.hub import hub_folder, is_hub_name
from jaxgpt.model.names import LM_HEAD, TABLES, WRE, WTE
from jaxgpt.model.weights import SUFFIXES, Tensor, Tensors, read_file, read_folder
from jaxgpt.model_config import ModelConfig

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.spm")


class LazyTensors(Mapping[str, np.ndarray]):
    """Hugging Face's name -> float32 array, read anew at each access. UserError where one holds NaN or infinity."""

    def __init__(self, tensors: Tensors):
        self._tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        stored = self._tensors[name]
        tensor = stored.read().astype(np.float32, copy=False)
        finite = np.isfinite(tensor)
        if not finite.all():
            first = tuple(int(index[0]) for index in np.nonzero(~finite))
            raise UserError(
                f"{stored.file}: {name} has {int((~finite).sum())} of {tensor.size} numbers that are not finite, the "
                f"first {tensor[first]} at {list(first)}; the model is broken, so take an earlier checkpoint of it"
            )
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True)
class Source:
    """A model that is not read yet.

    path: its folder or file; cfg: with GPT-2's parameters only, no factorised or shared ones; content: of config.json,
    {} without one; stored: exactly the tensors of cfg; tokenizer: the folder that holds one, or None; ignored: names of
    buffers; assumed: what the files do not say, a sentence each; padded: whether the vocabulary may have rows beyond
    the tokenizer's that mean nothing, as nanoGPT's has; is_stock: whether transformers can load the folder `path`.
    """

    path: Path
    cfg: ModelConfig
    content: dict[str, Any] = field(repr=False)
    stored: Tensors = field(repr=False)
    tokenizer: Path | None
    ignored: tuple[str, ...]
    assumed: tuple[str, ...]
    padded: bool
    is_stock: bool

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        return LazyTensors(self.stored)

    def cut_to(self, vocab_size: int) -> "Source":
        """Without the padding rows from `vocab_size` on; the same where there are none."""
        if not self.padded or vocab_size >= self.cfg.vocab_size:
            return self
        stored = _cut_tables(self.stored, vocab_size)
        said = f"a vocabulary of {vocab_size} ids; the other {self.cfg.vocab_size - vocab_size} rows are padding"
        return replace(self, cfg=replace(self.cfg, vocab_size=vocab_size), stored=stored, assumed=(*self.assumed, said))


def open_source(name: str, n_head: int | None = None) -> Source:
    """name: a folder with config.json, a file of weights, or a hub name; n_head: where no config.json says it.

    Checks names and shapes of all tensors and reads none but the two tables that may be tied. UserError names the file
    and what is wrong with it.
    """
    path = Path(name)
    if not path.exists():
        if not is_hub_name(name):
            raise UserError(
                f"{name} is no folder or file here, and no name on the Hugging Face hub; give a run, a Hugging Face "
                "folder, a file of weights, or a name such as gpt2"
            )
        path = hub_folder(name)
    if path.is_file() and path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no file of weights; give one that ends in {', '.join(SUFFIXES)}, or a folder")
    folder = path if path.is_dir() else path.parent
    content: dict[str, Any] = {}
    assumed: tuple[str, ...] = ()
    if path.is_dir() or (folder / hf_config.FILE).is_file():
        cfg, content = hf_config.read_hf_config(folder)
        if n_head not in (None, cfg.n_head):
            raise UserError(
                f"{folder / hf_config.FILE} says n_head {cfg.n_head}, --n_head {n_head}; leave --n_head out"
            )
        tensors, _ = read_folder(path) if path.is_dir() else read_file(path)
        renamed = foreign.to_hf_names(tensors)
    else:
        tensors, beside = read_file(path)
        renamed = foreign.to_hf_names(tensors)
        cfg, assumed = foreign.config_of_shapes(renamed, beside, n_head, path)
    stored = renamed.tensors
    if renamed.linear:
        stored = _cut_tables(stored, cfg.vocab_size)
    if cfg.use_role_table:
        stored = _split_off_roles(stored, cfg.vocab_size)
    stored, cfg = _tie(stored, cfg, content)
    where = folder / hf_config.FILE if content else path
    foreign.check_shapes(stored, cfg, str(path), str(where))
    found = any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES) and bool(content)
    is_stock = path.is_dir() and content.get("model_type") == "gpt2" and renamed.stock and not _is_pickle(stored)
    tokenizer = folder if found else None
    return Source(path, cfg, content, stored, tokenizer, renamed.ignored, assumed, renamed.linear, is_stock)


def _is_pickle(stored: Tensors) -> bool:
    return any(tensor.file.suffix == ".pkl" for tensor in stored.values())


def _rows(tensor: Tensor, start: int, stop: int) -> Tensor:
    rows = len(range(*slice(start, stop).indices(tensor.shape[0])))
    return Tensor((rows, *tensor.shape[1:]), tensor.file, lambda: tensor.read()[start:stop])


def _cut_tables(stored: Tensors, vocab_size: int) -> Tensors:
    """The same tensors, without the tables' rows from `vocab_size` on."""
    return {name: _rows(tensor, 0, vocab_size) if name in TABLES else tensor for name, tensor in stored.items()}


def _split_off_roles(stored: Tensors, vocab_size: int) -> Tensors:
    """An exported role table lies in the two rows after the vocabulary's; see fold.py."""
    if WTE not in stored or stored[WTE].shape[0] != vocab_size + 2:
        return stored
    return _cut_tables(stored, vocab_size) | {WRE: _rows(stored[WTE], vocab_size, vocab_size + 2)}


def _tie(stored: Tensors, cfg: ModelConfig, content: Mapping[str, Any]) -> tuple[Tensors, ModelConfig]:
    """The output table goes where it is the embedding's own; a config.json that says untied is believed.

    That of a role table's export always says so, because of the rows of the roles.
    """
    if LM_HEAD not in stored or WTE not in stored:
        return stored, replace(cfg, tie_word_embeddings=cfg.tie_word_embeddings or cfg.use_role_table)
    head, table = stored[LM_HEAD], stored[WTE]
    may_be_tied = content.get("tie_word_embeddings") is not False or cfg.use_role_table
    if not (may_be_tied and head.shape == table.shape and np.array_equal(head.read(), table.read())):
        return stored, replace(cfg, tie_word_embeddings=False)
    tied = {name: tensor for name, tensor in stored.items() if name != LM_HEAD}
    return tied, replace(cfg, tie_word_embeddings=True)


def source_tokenizer(source: Source) -> Tokenizer | None:
    """None where the files have none. The tokens that an export adds for a role table are taken out again."""
    if source.tokenizer is None:
        return None
    tokenizer = load_tokenizer(str(source.tokenizer))
    return tokenizer.without(hf_config.ROLE_TOKENS) if source.cfg.use_role_table else tokenizer


def check_vocabulary(name: str, source: Source, tokenizer: Tokenizer) -> None:
    """UserError where the tokenizer has ids that the model lacks."""
    if tokenizer.vocab_size > source.cfg.vocab_size:
        raise UserError(
            f"{name} has a vocabulary of {source.cfg.vocab_size} ids, its tokenizer {tokenizer.name} one of "
            f"{tokenizer.vocab_size}; give the tokenizer that the model was trained with"
        )
