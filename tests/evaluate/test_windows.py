"""How long texts are cut: every token predicted once, as the loops of others do it."""

import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.evaluate.windows import check_windows, continuation, rolling, sliding

END = 999


def predicted(windows: list) -> list[int]:
    return [int(token) for text in windows for token in text.ids[text.first :]]


@pytest.mark.parametrize(("context", "stride"), [(7, 7), (7, 3), (7, 1), (40, 40), (2, 1), (31, 30)])
@pytest.mark.parametrize("n", [2, 7, 8, 31, 32])
def test_sliding_windows_predict_what_hugging_faces_loop_does(n: int, context: int, stride: int) -> None:
    ids = np.arange(n)
    windows, begins = sliding(ids, context, stride)
    expected, done = [], 0
    for begin in range(0, n, stride):  # labels of the tokens before `done` are masked, and shifted by one
        end = min(begin + context, n)
        expected += [int(token) for token in ids[begin:end][1:] if token >= done]
        done = end
        if end == n:
            break
    assert predicted(windows) == expected
    for text, begin in zip(windows, begins, strict=True):
        assert len(text.ids) <= context
        np.testing.assert_array_equal(text.ids, ids[begin : begin + len(text.ids)])
    if stride < context:
        assert predicted(windows) == list(range(1, n))


@pytest.mark.parametrize("n", [1, 5, 6, 7, 13, 30])
def test_rolling_windows_are_those_of_lm_evaluation_harness(n: int) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    theirs = map(make_disjoint_window, get_rolling_token_windows(list(range(n)), END, 6, 1))
    expected = [(list(before), list(after)) for before, after in theirs]
    ours = [
        (text.ids[: text.first].tolist(), text.ids[text.first :].tolist()) for text in rolling(np.arange(n), END, 6)
    ]
    assert ours == expected
    assert predicted(rolling(np.arange(n), END, 6)) == list(range(n))


def test_a_continuation_loses_what_is_too_far_back() -> None:
    assert continuation([1, 2, 3], [4, 5], 10).ids.tolist() == [1, 2, 3, 4, 5]
    text = continuation([1, 2, 3], [4, 5], 3)
    assert (text.ids.tolist(), text.first) == ([2, 3, 4, 5], 2)


@pytest.mark.parametrize(
    ("context", "stride", "message"),
    [
        (1, 1, r"--context is 1; the model takes 2 to 64 tokens"),
        (65, 1, r"--context is 65; the model takes 2 to 64 tokens"),
        (10, 11, r"--stride is 11; it must be 1 to --context 10"),
        (10, 0, r"--stride is 0; it must be 1"),
    ],
)
def test_windows_that_leave_tokens_out_are_refused(context: int, stride: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_windows(context, stride, 64)
