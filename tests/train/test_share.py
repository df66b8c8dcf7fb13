"""What the first process knows reaches all, with real processes on loopback; and nobody is left waiting."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import share_worker
from many_processes import free_port, run_all
from small_states import check_same, random_state
from tiny import step_config

from jaxgpt.train.checkpoint import read_state
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.share import arrays_from_first, from_first, on_all, same_on_all


def test_alone_nothing_is_sent() -> None:
    given = (1, object())
    assert from_first(lambda: given) is given
    with pytest.raises(KeyError):
        from_first(lambda: {}["x"])
    assert on_all(lambda: given) is given
    with pytest.raises(KeyError):
        on_all(lambda: {}["x"])
    same_on_all("the manifest", "abc")
    place = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    like = {"w": jax.ShapeDtypeStruct((3,), np.float32, sharding=place)}
    found = arrays_from_first({"w": np.array([1.0, -0.0, np.nan], np.float32)}, like)["w"]
    assert found.sharding == place
    assert np.asarray(found).tobytes() == np.array([1.0, -0.0, np.nan], np.float32).tobytes()
    assert arrays_from_first({"w": found}, like)["w"] is found


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_all_processes_learn_the_same(count: int, tmp_path: Path) -> None:
    port, first = free_port(), tmp_path / "first"
    # The others have no such folder.
    commands = [
        [
            sys.executable,
            share_worker.__file__,
            *map(str, (index, count, port, tmp_path / ("none", "first")[index == 0], tmp_path / str(index))),
        ]
        for index in range(count)
    ]
    for finished in run_all(commands):
        assert finished.exit_code == 0, finished.error
    outcomes = [json.loads((tmp_path / str(index)).read_text()) for index in range(count)]
    others = ", ".join(str(index) for index in range(count) if index != 1)
    for index, outcome in enumerate(outcomes):
        assert outcome["made"] == {"index": 0, "long": share_worker.LONG, "none": None}
        assert outcome["user_error"] == "UserError: host 0 found nothing"
        told = "UserError: host 0: failed with KeyError('x'); see its output"
        assert outcome["other_error"] == (told if index else "KeyError: 'x'")
        assert outcome["all"] == index
        assert outcome["error_on_1"] == ("UserError: no pages" if index == 1 else "UserError: host 1: no pages")
        assert outcome["same"] == "none"
        assert outcome["different"] == (
            f"UserError: the manifest differs between the hosts: abc on host {others};  on host 1; "
            "make it the same and start all of them again"
        )
        assert outcome["own"]
        assert outcome["everyone"]
        for mode in ("pmap", "fsdp"):
            assert outcome[mode]["empty"]
            assert outcome[mode]["steps"] == [[2, True], [1, True]]
            assert "are damaged" in outcome[mode]["error"]
    assert not (tmp_path / "none").exists()
    # And one process alone reads what several have written.
    cfg = step_config(n_embd=40)
    for mode in ("pmap", "fsdp"):
        aside = first / mode / "damaged" / "2"
        whole = aside.rename(first / mode / "checkpoints" / "2")
        bias = random_state(cfg, 2).params["ln_f"]["bias"]
        (whole / "params" / "ln_f.bias" / "0").write_bytes(bias.tobytes())
        check_same(read_state(first / mode, 2, Pmapped(jax.devices()[:1]).shapes(cfg)), random_state(cfg, 2))
