"""Files of weights: every kind gives the same tensors, damage is named, and nothing in a file is ever run."""

import json
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import foreign_files
import numpy as np
import pytest
import torch
from foreign_files import Write, as_dict, assert_same
from hf import model_config, tensors_of, torch_model
from safetensors.torch import save_file

from jaxgpt.errors import UserError
from jaxgpt.model.source import open_source


@pytest.mark.parametrize(
    "write",
    [
        foreign_files.safetensors,
        foreign_files.sharded_safetensors,
        foreign_files.without_prefix,
        foreign_files.pytorch_bin,
        foreign_files.sharded_bin,
    ],
)
def test_every_folder_gives_the_same_tensors(write: Write, tmp_path: Path) -> None:
    model = torch_model()
    source = open_source(str(write(model, tmp_path)))
    assert source.cfg == model_config()
    assert source.is_stock
    assert_same(as_dict(source), tensors_of(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_other_precisions_become_float32_exactly(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    model = torch_model()
    foreign_files.config_of(model, tmp_path)
    state = {name: x.to(dtype) for name, x in foreign_files.state_of(model).items()}
    if kind == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        save_file(state, tmp_path / "model.safetensors")
    assert_same(as_dict(open_source(str(tmp_path))), {name: x.float().numpy() for name, x in state.items()})


@pytest.mark.parametrize(
    ("suffix", "dtype", "message"),
    [
        ("safetensors", torch.float8_e4m3fn, "stored as F8_E4M3, but only F64, F32, F16, BF16, I64"),
        ("safetensors", torch.complex64, "stored as C64, but only F64"),
        ("bin", torch.float8_e5m2, "stored as float8_e5m2, but only float64, float32, float16, bfloat16, int64"),
        ("bin", torch.complex64, "stored as complex64, but only float64"),
    ],
)
def test_a_dtype_that_is_not_read_is_named(suffix: str, dtype: torch.dtype, message: str, tmp_path: Path) -> None:
    name = "transformer.h.1.ln_2.bias"
    state = foreign_files.state_of(torch_model())
    state[name] = state[name].to(dtype)
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "bin" else save_file)(state, path)
    with pytest.raises(UserError, match=rf"weights\.{suffix}: {name} is {message}.* with the tool that made it$"):
        open_source(str(path), 5)


@pytest.mark.parametrize("write", [foreign_files.safetensors, foreign_files.sharded_safetensors])
def test_one_tensor_is_in_memory_at_a_time(write: Write, tmp_path: Path) -> None:
    source = open_source(str(write(torch_model(n_embd=120, vocab_size=1009, n_layer=7), tmp_path)))
    largest = 4 * max(int(np.prod(tensor.shape)) for tensor in source.stored.values())
    whole = 4 * sum(int(np.prod(tensor.shape)) for tensor in source.stored.values())
    tracemalloc.start()
    for name in source.tensors:
        _ = source.tensors[name]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * largest < whole


class Malicious:
    """Touches a file when it is unpickled by a careless reader."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("name", ["model.pkl", "model.bin", "model.pt", "folder"])
@pytest.mark.parametrize("kind", ["plain", "zip", "old"])
def test_a_pickle_that_would_run_code_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    content = foreign_files.state_of(torch_model()) | {"extra": Malicious(proof)}
    path = tmp_path / name
    given = path
    if name == "folder":
        foreign_files.config_of(torch_model(), path)
        path = path / "pytorch_model.bin"
    if kind == "plain":
        path.write_bytes(pickle.dumps(Malicious(proof)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(UserError, match=r"would run code when it is opened: it wants to call \w+\.system") as refused:
        open_source(str(given), 5)
    assert str(path) in str(refused.value)
    assert "convert it to safetensors" in str(refused.value)
    assert not proof.exists()
    if kind == "plain":  # the file is what it is said to be
        pickle.loads(path.read_bytes())
        assert proof.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(value: float, tmp_path: Path) -> None:
    name = "transformer.h.1.mlp.c_fc.weight"
    source = open_source(foreign_files.changed(tmp_path, lambda state: state[name][7].fill_(value)))
    with pytest.raises(UserError, match=rf"h\.1\.mlp\.c_fc\.weight has 71 of 2130 .* first {value} at \[7, 0\]"):
        as_dict(source)


def test_damaged_files_say_which(tmp_path: Path) -> None:
    folder = foreign_files.safetensors(torch_model(), tmp_path / "st")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:5], b"", b"\xff" * 100, whole[:8] + b"[]" + whole[10:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            open_source(str(folder))
    folder = foreign_files.pytorch_bin(torch_model(), tmp_path / "bin")
    path = folder / "pytorch_model.bin"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nonsense", whole[:-7]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"pytorch_model\.bin is damaged"):
            open_source(str(folder))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        open_source(str(folder))
    torch.save({"a": 3}, path)
    with pytest.raises(UserError, match="'a' is no tensor"):
        open_source(str(folder))


def test_a_folder_must_hold_whole_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        open_source(str(tmp_path))
    foreign_files.config_of(torch_model(), tmp_path)
    with pytest.raises(UserError, match="it has none of them"):
        open_source(str(tmp_path))
    for name in ("a.pkl", "b.pkl"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"it has several \(a\.pkl, b\.pkl\); name one"):
        open_source(str(tmp_path))
    folder = foreign_files.sharded_bin(torch_model(), tmp_path / "sharded")
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    (folder / "pytorch_model-00002-of-00002.bin").rename(folder / "gone")
    with pytest.raises(UserError, match=r"names the shard pytorch_model-00002-of-00002\.bin, which is not there"):
        open_source(str(folder))
    (folder / "gone").rename(folder / "pytorch_model-00002-of-00002.bin")
    content["weight_map"]["made.up"] = "pytorch_model-00002-of-00002.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names 1 tensors that its shards do not hold \(made\.up\)"):
        open_source(str(folder))
    content["weight_map"]["made.up"] = "../outside.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names the shard '\.\./outside\.bin', which is no file of weights beside it"):
        open_source(str(folder))
    index.write_text("{}")
    with pytest.raises(UserError, match="is no index of shards"):
        open_source(str(folder))
