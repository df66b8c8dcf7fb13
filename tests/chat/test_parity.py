"""The report on JAX and PyTorch, each number computed by hand, and that it finds what differs."""

import dataclasses
import gc
from pathlib import Path

import jax
import numpy as np
import pytest
from small_model import ALBERT, small_model
from transformers import GPT2LMHeadModel

from jaxgpt.chat.export import export
from jaxgpt.chat.parity import BOUNDS, Parity, compare, export_parity, import_parity
from jaxgpt.chat.parity_text import PROSE, Sample, prose, sample_of
from jaxgpt.errors import UserError
from jaxgpt.model.convert import to_hf_tensors
from jaxgpt.train.models import load_model

NO_ROLES = np.zeros(3, np.int32)


def _sample(*sequences: list[int]) -> Sample:
    return Sample(tuple((np.array(ids, np.int32), np.zeros(len(ids), np.int32)) for ids in sequences), "numbers")


def test_the_numbers_are_those_computed_by_hand() -> None:
    sample = _sample([0, 1, 1], [1, 0])
    theirs = [np.log(np.array([[1, 3], [2, 2], [1, 9]], np.float32)), np.log(np.array([[4, 4], [1, 7]], np.float32))]
    shift = iter([np.float32([[0, 0], [0, 0.5], [0, 0]]), np.float32([[0, 0], [0, 0.25]])])
    report = compare(sample, theirs, lambda ids, roles: theirs[len(ids) == 2] + next(shift), bound=0.4)
    # Targets of PyTorch: 1 of (1, 3), 1 of (2, 2), 0 of (4, 4); the last positions predict nothing.
    assert report.torch_perplexity == pytest.approx((4 / 3 * 2 * 2) ** (1 / 3))
    assert report.jax_perplexity == pytest.approx((4 / 3 * (1 + np.exp(0.5)) / np.exp(0.5) * 2) ** (1 / 3))
    assert report.tokens == 3
    assert report.max_abs_diff == pytest.approx(0.5)
    assert report.relative_diff == pytest.approx(0.5 / (np.log(9) / 2))  # counted from the mean
    assert report.top1_agreement == pytest.approx(4 / 5)  # a tie went to 0, and now to 1
    assert not report.holds
    assert dataclasses.replace(report, bound=0.5).holds
    assert report.as_json()["max_abs_diff"] == report.max_abs_diff


def test_what_all_logits_of_a_position_have_in_common_widens_no_bound() -> None:
    theirs = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    sample = _sample([0, 1])
    reports = [
        compare(sample, [theirs + offset], lambda ids, roles, offset=offset: theirs + offset + np.eye(2, 5), bound=0.1)
        for offset in (0, -100)
    ]
    assert reports[1].relative_diff == pytest.approx(reports[0].relative_diff, rel=1e-4)
    assert not any(report.holds for report in reports)


def test_what_is_no_number_never_holds() -> None:
    theirs = [np.zeros((3, 2), np.float32), np.ones((2, 2), np.float32)]
    ours = [theirs[0], np.array([[np.nan, 1], [1, 1]], np.float32)]
    report = compare(_sample([0, 1, 1], [1, 0]), theirs, lambda ids, roles: ours[len(ids) == 2], bound=1.0)
    assert not report.holds
    with pytest.raises(UserError, match=r"^here: logits of JAX and PyTorch differ by nan of the largest"):
        report.check("here")


def test_the_message_has_both_values() -> None:
    report = Parity(0.5, 0.25, 1e-4, 0.9, 2.0, 2.5, 7, "numbers")
    with pytest.raises(UserError, match=r"differ by 2\.50e-01 of the largest, more than 1e-04; do not use it"):
        report.check("here")
    text = "\n".join(report.lines())
    for part in ("numbers (7 tokens)", "5.00e-01", "2.50e-01 (bound 1e-04)", "90.00%", "JAX 2.0000, PyTorch 2.5000"):
        assert part in text
    dataclasses.replace(report, bound=0.25).check("here")


@pytest.mark.parametrize("changes", [{}, {"use_role_table": True} | ALBERT, {"use_token_types": True}], ids=str)
def test_a_wrong_weight_is_found(changes: dict, tmp_path: Path) -> None:
    model = small_model(**changes)
    export(model, tmp_path / "hf")
    sample = prose(model.cfg, model.tokenizer)
    good = export_parity(model, tmp_path / "hf", "float32", sample)
    assert good.relative_diff < BOUNDS["float32"] / 10
    assert good.top1_agreement == 1
    assert good.jax_perplexity == pytest.approx(good.torch_perplexity, rel=1e-5)
    assert good.tokens == 4 * 60

    changed = "wre" if "use_role_table" in changes else "wte"
    params = jax.tree.map(np.array, model.params)
    params[changed]["weight"][1] += 0.05
    bad = export_parity(dataclasses.replace(model, params=params), tmp_path / "hf", "float32", sample)
    assert not bad.holds


def test_the_arithmetic_is_float32_whatever_the_model_trains_in(tmp_path: Path) -> None:
    model = small_model(dtype="bfloat16")
    export(model, tmp_path / "hf")
    assert export_parity(model, tmp_path / "hf", "float32", prose(model.cfg, model.tokenizer)).holds


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_weights_stay_within_their_bound(dtype: str, tmp_path: Path) -> None:
    # The spread of GPT-2's weights relative to its width: 0.02 at 768.
    model = small_model(spread=0.1, n_layer=12)
    export(model, tmp_path / "hf", dtype)  # type: ignore[arg-type]
    sample = prose(model.cfg, model.tokenizer)
    report = export_parity(model, tmp_path / "hf", dtype, sample)  # type: ignore[arg-type]
    assert report.holds
    assert report.relative_diff > BOUNDS["float32"]  # it was rounded indeed


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"use_token_types": True}], ids=str)
def test_imports_are_compared_with_a_folder_or_with_tensors(changes: dict, tmp_path: Path) -> None:
    model = small_model(**changes)
    export(model, tmp_path / "hf")
    tensors = to_hf_tensors(model.params, model.cfg)

    def ours():
        assert not [thing for thing in gc.get_objects() if type(thing) is GPT2LMHeadModel]  # never both in memory
        return model.params

    for reference in (tmp_path / "hf", tensors):
        report = import_parity(reference, model.cfg, ours, None)
        assert report.holds
        assert "random ids" in report.text
    other = tensors | {"transformer.h.1.ln_2.bias": tensors["transformer.h.1.ln_2.bias"] + 0.1}
    assert not import_parity(other, model.cfg, lambda: model.params, model.tokenizer).holds


def test_prose_is_cut_to_the_models_positions() -> None:
    model = small_model()
    sample = prose(model.cfg, model.tokenizer)
    assert [len(ids) for ids, _ in sample.sequences] == [61] * 4
    assert PROSE.startswith(model.tokenizer.decode(sample.sequences[0][0].tolist()))
    n_tokens = sum(len(model.tokenizer.encode(paragraph)) for paragraph in PROSE.split("\n\n"))
    whole = prose(dataclasses.replace(model.cfg, n_positions=4096), model.tokenizer)
    assert [len(ids) for ids, _ in whole.sequences] == [256, 256, 256, n_tokens - 768]
    assert {role for _, roles in whole.sequences for role in roles.tolist()} == {0, 1}
    too_small = prose(dataclasses.replace(model.cfg, vocab_size=200), model.tokenizer)
    assert "random ids" in too_small.what
    assert max(ids.max() for ids, _ in too_small.sequences) < 200


def test_a_runs_own_validation_split_is_taken_as_long_as_it_is_the_same(tags_run, tmp_path: Path) -> None:
    model = load_model(tags_run.run)
    sample = sample_of(tags_run.run, model.cfg, model.tokenizer, model.step)
    assert sample.what == f"4 sequences of {tags_run.pages}, split valid"
    texts = [model.tokenizer.decode(ids.tolist()) for ids, _ in sample.sequences]
    assert all(text.startswith(("A:", "B:")) for text in texts)
    manifest = tags_run.pages / "manifest.json"
    before = manifest.read_text()
    try:
        manifest.write_text(before + "\n")
        assert "prose" in sample_of(tags_run.run, model.cfg, model.tokenizer, model.step).what
        manifest.unlink()
        assert "prose" in sample_of(tags_run.run, model.cfg, model.tokenizer, model.step).what
    finally:
        manifest.write_text(before)
    assert "prose" in sample_of(tags_run.hf, model.cfg, model.tokenizer, None).what


def test_damaged_pages_keep_no_model_back(tags_run) -> None:
    model = load_model(tags_run.run)
    shard = sorted(tags_run.pages.glob("*valid*"))[0]
    content = shard.read_bytes()
    try:
        shard.write_bytes(content[:-5])
        sample = sample_of(tags_run.run, model.cfg, model.tokenizer, model.step)
    finally:
        shard.write_bytes(content)
    assert "prose" in sample.what
    assert shard.name in sample.what
