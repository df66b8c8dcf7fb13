"""Batches against plain numpy: every target once per epoch on any number of processes, and resume from one integer."""

import itertools

import numpy as np
import pytest
from written_pages import write_pages

from jaxgpt.data.loader import Pages, evaluation_batches, positions_of, process_slice, training_batches
from jaxgpt.errors import UserError

ROW_LENGTH = 13
STREAM_TOKENS = [37, 0, 53, 2, 13, 101]  # of the shards; in rows of 13


def streams():
    """Each shard's tokens; all tokens of the split differ, and each is one more than the one before it."""
    bounds = np.cumsum([1000, *STREAM_TOKENS])
    return [np.arange(a, b) for a, b in itertools.pairwise(bounds)]


@pytest.fixture(scope="module")
def stream_folder(tmp_path_factory):
    shards = []
    for tokens in streams():
        rows = np.full(-(-len(tokens) // ROW_LENGTH) * ROW_LENGTH, 50256)
        rows[: len(tokens)] = tokens
        shards.append(({"tokens": rows.reshape(-1, ROW_LENGTH)}, len(tokens)))
    return write_pages(tmp_path_factory.mktemp("stream"), "stream", ROW_LENGTH, shards)


def dialogue_rows(seed, n_rows):
    """Rows of conversations of random lengths; tokens of all rows differ."""
    rng = np.random.default_rng(seed)
    shape = (n_rows, ROW_LENGTH)
    rows = {"tokens": np.zeros(shape, int), "weights": np.zeros(shape, np.float32)}
    rows |= {"segments": np.zeros(shape, int), "roles": np.zeros(shape, int)}
    for row in range(n_rows):
        at = 0
        for segment in range(1, 4):
            stop = min(at + int(rng.integers(2, 7)), ROW_LENGTH)
            rows["tokens"][row, at:stop] = 1000 * (seed + 1) + row * ROW_LENGTH + np.arange(at, stop)
            rows["weights"][row, at + 1 : stop] = rng.choice([0.0, 0.5, 1.0], max(stop - at - 1, 0))
            rows["segments"][row, at:stop] = segment
            rows["roles"][row, at:stop] = rng.integers(0, 2, stop - at)
            at = stop
    return rows


DIALOGUE = [dialogue_rows(seed, n_rows) for seed, n_rows in enumerate([5, 11, 3])]


@pytest.fixture(scope="module")
def dialogue_folder(tmp_path_factory):
    shards = [(rows, int((rows["segments"] > 0).sum())) for rows in DIALOGUE]
    return write_pages(tmp_path_factory.mktemp("dialogue"), "dialogue", ROW_LENGTH, shards)


def epoch_of(pages, batch_size, n_processes, seed=42, epoch=0):
    """All rows of an epoch, put together from the processes' parts of the global batches."""
    n = pages.n_rows(shuffled=True)
    first = epoch * n // batch_size * batch_size
    readers = [training_batches(pages, batch_size, seed, first, p, n_processes) for p in range(n_processes)]
    rows = []
    for _ in range(-(-n // batch_size) + 1):
        parts = [next(reader) for reader in readers]
        assert len({position for _, position in parts}) == 1
        assert np.concatenate([part["rows"] for part, _ in parts]).tolist() == list(range(batch_size))
        rows.append({name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]})
    skip = epoch * n - first
    return {name: np.concatenate([batch[name] for batch in rows])[skip : skip + n] for name in rows[0]}


@pytest.mark.parametrize("n_processes", [1, 2, 4])
@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("seq_len", [1, 2, 7, 13, 17, 29, 128])
def test_every_target_of_a_stream_once_per_epoch(stream_folder, seq_len, epoch, n_processes):
    batch = epoch_of(Pages(stream_folder, "train", seq_len), 8, n_processes, epoch=epoch)
    counts = batch["weights"] > 0
    assert batch["input_ids"].shape == counts.shape
    assert counts.shape[1] == seq_len
    expected = np.concatenate([tokens[1:] for tokens in streams()])
    assert sorted(batch["targets"][counts].tolist()) == expected.tolist()
    np.testing.assert_array_equal(batch["targets"][counts], batch["input_ids"][counts] + 1)
    assert set(np.unique(batch["weights"])) <= {0.0, 1.0}
    assert not batch["input_ids"][~counts].any()
    assert not batch["targets"][~counts].any()


def test_rows_of_a_stream_are_windows_of_one_grid(stream_folder):
    """Within an epoch all rows of a shard begin at one offset modulo seq_len; the offset differs between epochs."""
    seq_len, offsets = 7, []
    for epoch in range(11):
        batch = epoch_of(Pages(stream_folder, "train", seq_len), 4, 1, epoch=epoch)
        starts = []
        for tokens, counts in zip(batch["input_ids"], batch["weights"] > 0, strict=True):
            if not counts.any():
                continue
            at = np.flatnonzero(counts)
            assert at.tolist() == list(range(at[0], at[-1] + 1))
            shard = next(s for s in streams() if tokens[at[0]] in s)
            starts.append((int(shard[0]), int(tokens[at[0]] - shard[0] - at[0]) % seq_len))
        of_shards = dict(starts)
        assert set(starts) == set(of_shards.items())
        assert len(of_shards) == 5
        offsets.append(tuple(of_shards[shard] for shard in sorted(of_shards)))
    assert len(set(offsets)) > 8
    assert len(set(offsets[0])) > 1  # shards have offsets of their own


@pytest.mark.parametrize("seq_len", [1, 5, 13, 17, 200])
def test_stream_in_order_is_the_stream_cut_up(stream_folder, seq_len):
    pages = Pages(stream_folder, "train", seq_len)
    expected = {"input_ids": [], "targets": [], "weights": []}
    for tokens in streams():
        for start in range(0, max(len(tokens) - 1, 0), seq_len):
            part = tokens[start : start + seq_len + 1]
            fill = (0, seq_len - (len(part) - 1))
            expected["input_ids"].append(np.pad(part[:-1], fill))
            expected["targets"].append(np.pad(part[1:], fill))
            expected["weights"].append(np.pad(np.ones(len(part) - 1), fill))
    n = pages.n_rows(shuffled=False)
    assert n == len(expected["weights"])
    batch = pages.in_order(0, n)
    for name, rows in expected.items():
        np.testing.assert_array_equal(batch[name], rows)


def dialogue_batch(rows):
    """What a model should see of dialogue rows, with plain loops."""
    n = len(rows["tokens"])
    shifted = {name: np.concatenate([rows[name][:, 1:], np.zeros((n, 1))], 1) for name in ("tokens", "weights")}
    positions = np.zeros((n, ROW_LENGTH), int)
    for row in range(n):
        for at in range(1, ROW_LENGTH):
            same = rows["segments"][row, at] == rows["segments"][row, at - 1]
            positions[row, at] = positions[row, at - 1] + 1 if same else 0
    return {
        "input_ids": rows["tokens"],
        "targets": shifted["tokens"],
        "weights": shifted["weights"],
        "segments": rows["segments"],
        "roles": rows["roles"],
        "positions": positions,
    }


def test_dialogue_in_order(dialogue_folder):
    batch = Pages(dialogue_folder, "train").in_order(0, 19)
    expected = dialogue_batch({name: np.concatenate([rows[name] for rows in DIALOGUE]) for name in DIALOGUE[0]})
    assert batch.keys() == expected.keys()
    for name, rows in expected.items():
        np.testing.assert_array_equal(batch[name], rows)
        assert batch[name].dtype == (np.float32 if name == "weights" else np.int32)
    counts = batch["weights"] > 0
    counts = counts[:, :-1]  # no target beyond a row, and none of another conversation
    assert (batch["segments"][:, :-1][counts] == batch["segments"][:, 1:][counts]).all()
    assert counts.any()


@pytest.mark.parametrize("n_processes", [1, 2, 4])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_row_of_dialogue_once_per_epoch(dialogue_folder, epoch, n_processes):
    pages = Pages(dialogue_folder, "train")
    batch, whole = epoch_of(pages, 4, n_processes, epoch=epoch), pages.in_order(0, 19)
    order = np.argsort(batch["input_ids"][:, 0])
    assert order.tolist() != list(range(19))
    for name, rows in whole.items():
        np.testing.assert_array_equal(batch[name][order], rows)


@pytest.mark.parametrize("kind", ["stream", "dialogue"])
def test_resume_is_one_integer(kind, request):
    pages = Pages(request.getfixturevalue(f"{kind}_folder"), "train")
    batches = training_batches(pages, 4, seed=7)
    seen = [next(batches) for _ in range(17)]  # more than two epochs
    assert [position for _, position in seen] == [4 * (number + 1) for number in range(17)]
    for stopped in (0, 1, 5, 11):
        again = training_batches(Pages(pages.folder, "train"), 4, seed=7, position=4 * stopped)
        for batch, position in seen[stopped:]:
            other, other_position = next(again)
            assert other_position == position
            assert other.keys() == batch.keys()
            for name in batch:
                np.testing.assert_array_equal(other[name], batch[name])


@pytest.mark.parametrize("kind", ["stream", "dialogue"])
def test_epochs_and_seeds_differ(kind, request):
    pages = Pages(request.getfixturevalue(f"{kind}_folder"), "train")
    orders = [epoch_of(pages, 4, 1, seed, epoch)["input_ids"].tobytes() for seed in (1, 2) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6


@pytest.mark.parametrize("kind", ["stream", "dialogue"])
@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_evaluation_reads_each_row_once_and_fills_the_last_batch(kind, n_processes, request):
    pages = Pages(request.getfixturevalue(f"{kind}_folder"), "train")
    n = pages.n_rows(shuffled=False)
    assert n % 8
    parts = [list(evaluation_batches(pages, 8, 0, p, n_processes)) for p in range(n_processes)]
    assert {len(part) for part in parts} == {-(-n // 8)}
    batches = [{name: np.concatenate([b[name] for b in of]) for name in of[0]} for of in zip(*parts, strict=True)]
    whole = pages.in_order(0, n)
    for name, rows in whole.items():
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches])[:n], rows)
    assert batches[-1]["weights"].shape == (8, ROW_LENGTH)
    assert not batches[-1]["weights"][n % 8 :].any()
    limited = list(evaluation_batches(pages, 8, 2))
    assert len(limited) == 2
    np.testing.assert_array_equal(limited[1]["input_ids"], batches[1]["input_ids"])


def test_positions_by_hand():
    segments = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0, 0]])
    expected = [[0, 1, 2, 0, 1, 0, 1], [0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]]
    assert positions_of(segments).tolist() == expected


def test_process_slice():
    assert [process_slice(12, p, 3) for p in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    with pytest.raises(UserError, match="batch_size 13 is not divisible by 4 processes; try 12"):
        process_slice(13, 0, 4)
    with pytest.raises(UserError, match="batch_size 3 is not divisible by 4 processes; try 4"):
        process_slice(3, 0, 4)


def test_pages_that_do_not_fit_are_the_users_mistake(stream_folder, dialogue_folder, tmp_path):
    with pytest.raises(UserError, match=r"data\.seq_len 11 is not the row_length 13 of the dialogue pages"):
        Pages(dialogue_folder, "train", 11)
    with pytest.raises(UserError, match="split 'valid' has no rows"):
        Pages(stream_folder, "valid")
    with pytest.raises(UserError, match=r"no split 'test'; it has train, valid"):
        Pages(stream_folder, "test")
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        Pages(tmp_path, "train")


class Rows:
    """What grain needs of a source."""

    def __init__(self, pages):
        self.pages = pages

    def __len__(self):
        return self.pages.n_rows(shuffled=False)

    def __getitem__(self, row):
        return {name: column[0] for name, column in self.pages.in_order(int(row), 1).items()}


@pytest.mark.parametrize("kind", ["stream", "dialogue"])
def test_grain_reads_our_rows(kind, request):
    import grain

    pages = Pages(request.getfixturevalue(f"{kind}_folder"), "train")
    batches = list(grain.MapDataset.source(Rows(pages)).batch(4, drop_remainder=False))
    n = pages.n_rows(shuffled=False)
    for name, rows in pages.in_order(0, n).items():
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), rows)
