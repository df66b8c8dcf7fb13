"""A comparison's folder, where a figure is no finite number."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.evaluate.compare import Comparison, Entry
from jaxgpt.evaluate.comparison_report import write_report
from jaxgpt.evaluate.protocols import Sums, measured


def entry(name: str, nll: list[float]) -> Entry:
    each = np.ones(len(nll))
    figures = {"text:t": [measured("token", Sums(np.array(nll), each, each, each, "documents"), each)]}
    return Entry(name, 10, None, None, math.nan, None, "hash", figures, None, None, ())


def refuse(word: str) -> Any:
    raise AssertionError(f"{word} is not JSON")


def test_what_is_no_finite_number_is_null_in_the_report(tmp_path: Path) -> None:
    entries = [entry("good", [1.0, 2.0, 3.0]), entry("overflows", [1e6, 1e6, 1e6])]
    write_report(Comparison(entries, ["text:t"], [], {"text:t": []}, []), tmp_path)
    good, overflowing = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)["models"]
    assert good["figures"]["text:t"][0]["value"] > 1
    assert overflowing["figures"]["text:t"][0]["value"] is None
    assert (good["flops"], overflowing["flops"]) == (None, None)
