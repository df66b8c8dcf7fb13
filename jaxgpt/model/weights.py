"""Files of weights as lazy tensors: safetensors and PyTorch's, single or sharded. No code in a file is ever run.

A tensor's bytes are read when they are asked for and then belong to the reader alone, so that a model can be converted
in little more memory than it needs itself.
"""

import json
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxgpt.errors import UserError

SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
SUFFIXES = (".safetensors", ".bin", ".pkl", ".pt", ".pth")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "I64": "<i8", "I32": "<i4"}
_DTYPES |= {"I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_TORCH_DTYPES = tuple(np.dtype(dtype).name for dtype in _DTYPES.values())  # numpy and torch have the same names
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
# Pages of a mapped file count as the process's own memory while they are mapped, so the map is made anew now and then.
_MAPPED_BYTES = 128_000_000


class Tensor(NamedTuple):
    """One tensor of a file. read: its values, in the file's own dtype (bfloat16 as that of ml_dtypes)."""

    shape: tuple[int, ...]
    file: Path
    read: Callable[[], np.ndarray]


Tensors = dict[str, Tensor]  # by their names


def read_folder(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """As `read_file`, of the first kind of weights in the folder: safetensors, .bin (each may be sharded), .pkl."""
    for name in (SAFETENSORS, PYTORCH):
        if (folder / name).is_file():
            return read_file(folder / name)
        if (folder / (name + _INDEX)).is_file():
            return _read_sharded(folder / (name + _INDEX)), {}
    pickles = sorted(folder.glob("*.pkl"))
    if len(pickles) == 1:
        return read_file(pickles[0])
    found = f"several ({', '.join(file.name for file in pickles)}); name one of them" if pickles else "none of them"
    raise UserError(
        f"{folder} must hold weights as {SAFETENSORS}, {PYTORCH}, the {_INDEX[1:]} of either with its shards, or one "
        f"*.pkl; it has {found}"
    )


def read_file(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of one file by their names there, and what a training checkpoint holds beside them.

    UserError where the file is damaged, is a pickle that would run code, or holds numbers of a kind that is not read.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path), {}
    return _TorchFile(path).tensors()


def _read_sharded(index: Path) -> Tensors:
    try:
        weight_map: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{index} is no index of shards ({error!r}); download or export the model again") from None
    tensors: Tensors = {}
    for name in sorted(set(map(str, weight_map.values()))):
        shard = index.parent / name
        if Path(name).name != name or Path(name).suffix not in SUFFIXES:
            raise UserError(
                f"{index} names the shard {name!r}, which is no file of weights beside it; download it again"
            )
        if not shard.is_file():
            raise UserError(f"{index} names the shard {name}, which is not there; download or export the model again")
        tensors |= {name: tensor for name, tensor in read_file(shard)[0].items() if name in weight_map}
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise UserError(
            f"{index} names {len(missing)} tensors that its shards do not hold ({', '.join(missing[:3])}); "
            "download or export the model again"
        )
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    """By offsets and not through the library, which maps the file: see _MAPPED_BYTES.

    Source of the format: the section "Format" of https://github.com/huggingface/safetensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(size, _LONGEST_HEADER) else b""
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        return {name: _safetensor(path, name, size, 8 + length, entry) for name, entry in entries.items()}
    except UserError:  # a ValueError, too
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged or no safetensors file ({error!r}); download or export the model again"
        ) from None


def _safetensor(path: Path, name: str, size: int, data: int, entry: Mapping[str, Any]) -> Tensor:
    _check_dtype(path, name, entry["dtype"], _DTYPES)
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(map(int, entry["shape"]))
    start, stop = map(int, entry["data_offsets"])
    count = int(np.prod(shape, dtype=np.int64))
    if stop - start != count * dtype.itemsize or start < 0 or data + stop > size:
        raise ValueError(f"the bytes {start} to {stop} are no {entry['dtype']} of shape {shape} in {size} bytes")

    def read() -> np.ndarray:
        return np.fromfile(path, dtype, count, offset=data + start).reshape(shape)

    return Tensor(shape, path, read)


def _check_dtype(path: Path, name: str, dtype: str, known: Collection[str]) -> None:
    if dtype not in known:
        raise UserError(
            f"{path}: {name} is stored as {dtype}, but only {', '.join(known)} can be read; "
            "save the model as one of these with the tool that made it"
        )


class _TorchFile:
    """What torch.save wrote: a state dict, or a training checkpoint with one under `model`."""

    def __init__(self, path: Path):
        self._path = path
        # Only files in PyTorch's newer form can be mapped; DialoGPT's are older.
        self._mapped = zipfile.is_zipfile(path)
        self._state: dict[str, Any] | None = None
        self._read_bytes = 0

    def tensors(self) -> tuple[Tensors, dict[str, Any]]:
        import torch

        self._state, others = self._load()
        wrong = [name for name, value in self._state.items() if not isinstance(value, torch.Tensor)]
        if wrong or not self._state:
            what = f"{wrong[0]!r} is no tensor" if wrong else "it is empty"
            raise UserError(f"{self._path} is no state dict of weights ({what}); save model.state_dict() instead")
        for name, value in self._state.items():
            _check_dtype(self._path, name, str(value.dtype).removeprefix("torch."), _TORCH_DTYPES)
            if value.layout != torch.strided or value.is_meta:
                kind = "without values" if value.is_meta else f"stored as {value.layout}"
                raise UserError(f"{self._path}: {name} is {kind}; save the model with plain dense tensors")
        tensors = {
            str(name): Tensor(tuple(value.shape), self._path, partial(self._read, name))
            for name, value in self._state.items()
        }
        return tensors, others

    def _read(self, name: str) -> np.ndarray:
        import torch

        if self._state is None:
            self._state, _ = self._load()
        value = self._state[name].detach()
        # numpy has no bfloat16, and torch does not know that of ml_dtypes.
        array: np.ndarray = np.array((value.float() if value.dtype == torch.bfloat16 else value).numpy())
        self._read_bytes += array.nbytes
        if self._mapped and self._read_bytes > _MAPPED_BYTES:
            self._state, self._read_bytes = None, 0
        return array

    def _load(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state dict, and what stands beside it."""
        import torch

        try:
            with warnings.catch_warnings(action="ignore"):  # of pickles that are refused anyway
                whole = torch.load(self._path, map_location="cpu", weights_only=True, mmap=self._mapped)
        except Exception as error:  # a damaged pickle may raise anything
            raise UserError(_why_not_loaded(self._path, str(error))) from None
        if not isinstance(whole, dict):
            raise UserError(
                f"{self._path} holds a {type(whole).__name__}, not a state dict of weights; "
                "save model.state_dict() instead"
            )
        if not isinstance(whole.get("model"), dict):
            return whole, {}
        return whole["model"], {name: value for name, value in whole.items() if name != "model"}


def _why_not_loaded(path: Path, message: str) -> str:
    """torch names the object that a pickle wants to call in its message only, and not in every pickle."""
    wanted = re.search(
        r"nsupported (?:global: )?GLOBAL ([\w.]+)|unrecognized function <?(?:[a-z-]+ )*([\w.]+)", message
    )
    name = (wanted[1] or wanted[2]) if wanted else _first_object(path)
    if name:
        return (
            f"{path} would run code when it is opened: it wants to call {name}; nothing was run. If you trust it, "
            "convert it to safetensors with the tool that made it, and give that file"
        )
    reason = " ".join(message.split())[-200:]
    return f"{path} is damaged or no PyTorch file ({reason}); download or save it again"


def _first_object(path: Path) -> str | None:
    """The first object by name in a pickle of protocol 4 or newer, which torch.save writes only if told to."""
    texts = ["", ""]
    try:
        with path.open("rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "STACK_GLOBAL":
                    return ".".join(texts)
                if isinstance(argument, str):
                    texts = [texts[1], argument]
    except ValueError:
        pass  # not a pickle
    return None
