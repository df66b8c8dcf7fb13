"""Where a model's name leads: a folder, a file, the hub; and which files there are used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign_files
import huggingface_hub
import numpy as np
import pytest
from foreign_files import as_dict, assert_same
from hf import SHAPE, model_config, tensors_of, torch_model

from jaxgpt.errors import UserError
from jaxgpt.model.convert import from_hf_tensors
from jaxgpt.model.source import LazyTensors, open_source


def test_a_file_beside_its_config_uses_it(tmp_path: Path) -> None:
    folder = foreign_files.safetensors(torch_model(n_head=6), tmp_path)
    assert open_source(str(folder / "model.safetensors")).cfg.n_head == 6
    with pytest.raises(UserError, match="says n_head 6, --n_head 5; leave --n_head out"):
        open_source(str(folder), 5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_each_tensor_is_read_once(scan_layers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(foreign_files.safetensors(torch_model(), tmp_path)))
    read: list[str] = []

    def counted(self: LazyTensors, name: str) -> np.ndarray:
        read.append(name)
        return get(self, name)

    get = LazyTensors.__getitem__
    monkeypatch.setattr(LazyTensors, "__getitem__", counted)
    from_hf_tensors(source.tensors, replace(source.cfg, scan_layers=scan_layers))
    assert sorted(read) == sorted(source.stored)


def test_a_config_of_more_layers_than_the_file_has_is_refused_at_once(tmp_path: Path) -> None:
    folder = foreign_files.safetensors(torch_model(), tmp_path)
    foreign_files.config_of(torch_model(), folder, n_layer=10**8)
    with pytest.raises(UserError, match=r"has n_layer 100000000, but .* has 40 tensors in all"):
        open_source(str(folder))


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    folder, deep = foreign_files.safetensors(torch_model(), tmp_path), "[" * 200_000
    (folder / "model.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep.encode())
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        open_source(str(folder))
    (folder / "config.json").write_text(deep)
    with pytest.raises(UserError, match=r"config\.json"):
        open_source(str(folder))


def test_a_folder_that_is_misspelt_is_not_asked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no runs/mien here, though there is a folder runs"):
        open_source("runs/mien")


def test_a_folder_with_a_tokenizer_names_it(tmp_path: Path) -> None:
    folder = foreign_files.safetensors(torch_model(), tmp_path)
    assert open_source(str(folder)).tokenizer is None
    (folder / "vocab.json").write_text("{}")
    assert open_source(str(folder)).tokenizer == folder
    assert SHAPE["vocab_size"] == open_source(str(folder)).cfg.vocab_size


def test_other_names_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder or file here, and no name on the Hugging Face hub"):
        open_source(str(tmp_path / "nothing"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt is no file of weights; give one that ends in \.safetensors"):
        open_source(str(tmp_path / "notes.txt"))
    with pytest.raises(UserError, match=r"owner/model is no folder or file here, and the Hugging Face hub did not"):
        open_source("owner/model")


def test_a_hub_name_is_found_in_the_cache_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--model"
    foreign_files.safetensors(torch_model(), repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    source = open_source("owner/model")
    assert source.path == repository / "snapshots" / "abc"
    assert_same(as_dict(source), tensors_of(torch_model()))


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["pytorch_model.bin", "model.safetensors", "tf_model.h5"], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "pytorch_model.bin"],
            ["model.safetensors.index.json", "model-*.safetensors"],
        ),
        (["pytorch_model.bin", "flax_model.msgpack"], ["pytorch_model.bin"]),
    ],
)
def test_one_kind_of_weights_is_downloaded(
    files: list[str], wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign_files.safetensors(torch_model(), tmp_path)
    asked: dict[str, Any] = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: [*files, "config.json"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_source("owner/model").cfg == model_config()
    assert asked["name"] == "owner/model"
    assert [pattern for pattern in asked["patterns"] if "model" in pattern and pattern != "*.model"] == wanted
    assert {"config.json", "tokenizer.json", "merges.txt"} <= set(asked["patterns"])
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: ["config.json", "tf_model.h5"])
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        open_source("owner/model")
