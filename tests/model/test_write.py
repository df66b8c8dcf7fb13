"""Weight files against the libraries that read them, and what happens to the folder around them."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from hf import model_config, tensors_of, torch_model
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from jaxgpt.errors import UserError
from jaxgpt.model.convert import from_hf_tensors, to_hf_tensors
from jaxgpt.model.write import check_values, check_weights, is_weight_file, rounded, write_weights

DTYPES = ["float32", "bfloat16", "float16"]


def _tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"a": (7, 11), "b": (13,), "c": (3, 5, 2), "d": (17, 19)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def _read(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    for path in folder.glob("*.bin"):
        found |= torch.load(path, weights_only=True)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pytorch_bin", [False, True])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 700])
def test_the_libraries_read_what_torch_would_have_rounded(
    dtype: str, pytorch_bin: bool, max_shard_bytes: int, tmp_path: Path
) -> None:
    tensors = _tensors()
    for tensor in tensors.values():
        tensor.flags.writeable = False  # as those of jax are
    write_weights(tmp_path, tensors, dtype, pytorch_bin, max_shard_bytes)  # type: ignore[arg-type]
    found = _read(tmp_path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = torch.tensor(tensor).to(getattr(torch, dtype))
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)
    check_weights(tmp_path, tensors, dtype)  # type: ignore[arg-type]


def test_shards_and_their_index_have_hugging_faces_names(tmp_path: Path) -> None:
    write_weights(tmp_path, _tensors(), max_shard_bytes=500)  # a and b 360 bytes, c 120, d 1292 and so larger
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 4 * (77 + 13 + 30 + 323)}
    assert index["weight_map"] == {"a": names[0], "b": names[0], "c": names[0], "d": names[1]}
    for file in names:
        assert set(load_file(tmp_path / file)) == {name for name, where in index["weight_map"].items() if where == file}


def test_the_arrays_begin_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    for length in range(8):
        write_weights(tmp_path, {"x" * (length + 1): np.ones(3, np.float32)})
        content = (tmp_path / "model.safetensors").read_bytes()
        assert int.from_bytes(content[:8], "little") % 8 == 0
        assert np.frombuffer(content[-12:], np.float32).tolist() == [1, 1, 1]


def test_older_weights_of_other_names_go_and_foreign_files_stay(tmp_path: Path) -> None:
    for path in (tmp_path / "model.safetensors.bak", tmp_path / "optimizer.bin"):
        path.write_text("x")
    kept = {"model.safetensors.bak", "optimizer.bin"}
    write_weights(tmp_path, _tensors(), max_shard_bytes=500)
    write_weights(tmp_path, _tensors(), pytorch_bin=True, max_shard_bytes=500)
    assert {path.name for path in tmp_path.iterdir()} == kept | {
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
    }
    write_weights(tmp_path, _tensors(), pytorch_bin=True)
    assert {path.name for path in tmp_path.iterdir()} == kept | {"pytorch_model.bin"}
    write_weights(tmp_path, _tensors())
    assert {path.name for path in tmp_path.iterdir()} == kept | {"model.safetensors"}


@pytest.mark.parametrize("name", ["README.md", "model.safetensors2", "xmodel.safetensors", "model-1-of-2.safetensors"])
def test_other_files_are_no_weights(name: str) -> None:
    assert not is_weight_file(name)


def test_a_value_that_float16_does_not_have_is_named() -> None:
    tensors = _tensors()
    tensors["c"][2, 1, 1] = -70000.0
    with pytest.raises(UserError, match=r"^c holds -70000.0, which float16 can't; export with --dtype bfloat16$"):
        check_values(tensors, "float16")
    check_values(tensors, "bfloat16")
    tensors["c"][2, 1, 1] = 65504.0  # the largest there is
    check_values(tensors, "float16")
    tensors["b"][5] = 3.4e38
    with pytest.raises(UserError, match=r"^b holds 3\.39.*e\+38, which bfloat16 can't; export with --dtype float32$"):
        check_values(tensors, "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_of_a_diverged_training_are_named(dtype: str, value: float) -> None:
    tensors = _tensors()
    tensors["d"][3, 3] = value
    with pytest.raises(UserError, match=rf"^d holds {value}: the training diverged; export an earlier checkpoint"):
        check_values(tensors, dtype)  # type: ignore[arg-type]


def test_ties_are_rounded_to_even() -> None:
    halfway = np.array([0x3F808000, 0x3F818000, 0x3F808001], np.uint32).view(np.float32)
    assert rounded("x", halfway, "bfloat16").view(np.uint16).tolist() == [0x3F80, 0x3F82, 0x3F81]


@pytest.mark.parametrize("pytorch_bin", [False, True])
def test_one_flipped_bit_is_found(pytorch_bin: bool, tmp_path: Path) -> None:
    tensors = _tensors()
    write_weights(tmp_path, tensors, pytorch_bin=pytorch_bin)
    other = {name: tensor.copy() for name, tensor in tensors.items()}
    other["b"].view(np.uint32)[4] ^= 1
    with pytest.raises(UserError, match="b is not what was written"):
        check_weights(tmp_path, other, "float32")
    with pytest.raises(UserError, match="e was not written"):
        check_weights(tmp_path, tensors | {"e": tensors["a"]}, "float32")
    with pytest.raises(UserError, match="d is not what was written"):
        check_weights(tmp_path, {name: tensor for name, tensor in tensors.items() if name != "d"}, "float32")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pytorch_bin", [False, True])
def test_hugging_face_to_jax_and_back_is_bitwise(tied: bool, pytorch_bin: bool, tmp_path: Path) -> None:
    theirs = torch_model(tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path / "theirs")
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    cfg = model_config(tie_word_embeddings=tied)
    params = from_hf_tensors(tensors_of(theirs), cfg)

    (tmp_path / "ours").mkdir()
    write_weights(tmp_path / "ours", to_hf_tensors(jax.device_put(params), cfg), pytorch_bin=pytorch_bin)
    after = _read(tmp_path / "ours")
    assert after.keys() == before.keys()
    assert ("lm_head.weight" in after) == (not tied)
    for name, tensor in before.items():
        assert torch.equal(after[name].view(torch.int32), tensor.view(torch.int32)), name
    theirs.config.save_pretrained(tmp_path / "ours")
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "ours")
    assert (again.lm_head.weight is again.transformer.wte.weight) == tied
