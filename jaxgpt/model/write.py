"""Weights as Hugging Face's files, written tensor by tensor and read back.

Sources: the section "Format" of https://github.com/huggingface/safetensors (8 bytes with the length of a JSON header,
the header and the arrays); names of files and the index are those of transformers' `save_pretrained`.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
import numpy as np

from jaxgpt.data.atomic import replacing, write_text
from jaxgpt.errors import UserError
from jaxgpt.model.weights import read_folder

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16", "float16"]
Arrays = Mapping[str, np.ndarray]  # by their names, float32
MAX_SHARD_BYTES = 5 * 10**9

_SAFETENSORS_DTYPE: dict[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_WEIGHT_FILE = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")


def rounded(name: str, tensor: np.ndarray, dtype: Dtype) -> np.ndarray:
    """The float32 tensor in `dtype`, to nearest, ties to even. UserError where a value is not finite there."""
    with np.errstate(over="ignore"):
        result = tensor.astype(jnp.dtype(dtype), copy=False)
    if not np.isfinite(result).all():
        value = tensor[~np.isfinite(result)][0]
        raise UserError(
            f"{name} holds {value}, which {dtype} can't; export with --dtype {_wider(dtype)}"
            if np.isfinite(value)
            else f"{name} holds {value}: the training diverged; export an earlier checkpoint with --step"
        )
    return result


def _wider(dtype: Dtype) -> Dtype:
    return "bfloat16" if dtype == "float16" else "float32"


def check_values(tensors: Arrays, dtype: Dtype) -> None:
    """UserError as `rounded` for any of the tensors."""
    for name, tensor in tensors.items():
        rounded(name, tensor, dtype)


def is_weight_file(name: str) -> bool:
    return _WEIGHT_FILE.fullmatch(name) is not None


def write_weights(
    folder: Path,
    tensors: Arrays,
    dtype: Dtype = "float32",
    pytorch_bin: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """model.safetensors or pytorch_model.bin, or several with an index where one would have more bytes than allowed.

    Other weights that were in the folder before are gone afterwards.
    """
    stem, suffix = ("pytorch_model", "bin") if pytorch_bin else ("model", "safetensors")
    size = jnp.dtype(dtype).itemsize
    shards = _shards(tensors, size, max_shard_bytes)
    files = {
        f"{stem}.{suffix}" if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}": names
        for number, names in enumerate(shards, start=1)
    }
    index = f"{stem}.{suffix}.index.json"
    for path in folder.iterdir():
        if is_weight_file(path.name) and path.name not in files:
            path.unlink()
    write = _write_bin if pytorch_bin else _write_safetensors
    for file, names in files.items():
        with replacing(folder / file) as temporary:
            write(temporary, names, tensors, dtype)
    if len(shards) > 1:
        total = sum(tensor.size for tensor in tensors.values()) * size
        weight_map = {name: file for file, names in files.items() for name in names}
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(folder / index, json.dumps(content, indent=2) + "\n")


def _shards(tensors: Arrays, itemsize: int, max_bytes: int) -> list[list[str]]:
    """The names in order, a new shard wherever the next tensor would not fit; a larger one has its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.size * itemsize
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write_safetensors(path: Path, names: Sequence[str], tensors: Arrays, dtype: Dtype) -> None:
    itemsize = jnp.dtype(dtype).itemsize
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].size * itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _SAFETENSORS_DTYPE[dtype], "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # the arrays begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            file.write(_bytes(rounded(name, tensors[name], dtype)))


def _bytes(tensor: np.ndarray) -> memoryview:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def _write_bin(path: Path, names: Sequence[str], tensors: Arrays, dtype: Dtype) -> None:
    import torch

    def of(name: str) -> "torch.Tensor":
        tensor = np.ascontiguousarray(rounded(name, tensors[name], dtype))
        # torch knows numpy's dtypes only, so bfloat16 travels as integers of its size.
        return torch.from_numpy(tensor.view(f"i{tensor.itemsize}")).view(getattr(torch, dtype))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to it
        torch.save({name: of(name) for name in names}, path)


def check_weights(folder: Path, tensors: Arrays, dtype: Dtype) -> None:
    """UserError where the folder's files do not hold exactly these tensors as rounded to `dtype`."""
    found = read_folder(folder)[0]
    for name in tensors.keys() | found.keys():
        if name not in found:
            raise UserError(f"{folder}: {name} was not written; check the disk, then export again")
        # As float32, which holds every value of the others, and keeps the sign of a zero.
        written = np.asarray(found[name].read(), np.float32)
        expected = np.asarray(rounded(name, tensors[name], dtype), np.float32) if name in tensors else None
        if expected is None or written.shape != expected.shape or _bytes(written) != _bytes(expected):
            raise UserError(f"{found[name].file}: {name} is not what was written; check the disk, then export again")
