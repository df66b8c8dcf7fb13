"""Duplicates: exact against a dictionary, near against datasketch and known similarities, groups against scipy."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_prep import components, dedupe
from data_prep.clean import Cleaning
from data_prep.dedupe import DuplicateFinder, bands_and_rows, is_duplicate, keys_of_items, load_duplicates
from data_prep.sources.chunk import Item
from jaxgpt.data.dialogue import Conversation

ROOT = Path(__file__).parent.parent.parent
EXACT, NEAR = Cleaning(duplicates="exact"), Cleaning(duplicates="near")
Pairs = list[tuple[int, int]]


def find(pairs: Pairs, folder: Path, batch: int = 1000) -> list[int]:
    """The orders to leave out of (key, order)."""
    finder = DuplicateFinder(folder / "keys", 1 << 30)
    array = np.array(pairs, np.uint64).reshape(-1, 2)
    for begin in range(0, len(array), batch):
        finder.add(array[begin : begin + batch, 0], array[begin : begin + batch, 1])
    count = finder.finish(folder / "duplicates.npy")
    duplicates = load_duplicates(folder / "duplicates.npy")
    assert duplicates.dtype == np.uint64
    assert len(duplicates) == count
    assert sorted(path.name for path in folder.iterdir()) == ["duplicates.npy"]
    return duplicates.tolist()


def find_items(items: list[Item], cleaning: Cleaning, folder: Path, batch: int = 1000) -> list[int]:
    pairs: Pairs = []
    for begin in range(0, len(items), batch):
        keys, index = keys_of_items(items[begin : begin + batch], cleaning)
        assert keys.dtype == np.uint64
        assert index.dtype == np.int64
        pairs += zip(keys.tolist(), (index + begin).tolist(), strict=True)
    return find(pairs, folder)


def words(numbers: np.ndarray) -> str:
    return " ".join(f"w{number}" for number in numbers)


def pair_of_similarity(rng: np.random.Generator, similarity: float, length: int = 600) -> tuple[str, str]:
    """Two texts of shingles that are all distinct, with about this Jaccard similarity: they differ in their ends.

    With n shingles in each, similarity = shared / (2 n - shared).
    """
    n = length - dedupe.SHINGLE + 1
    shared = round(2 * n * similarity / (1 + similarity))
    first = rng.integers(0, 1 << 60, 2 * length)
    second = np.concatenate(
        [first[: shared + dedupe.SHINGLE - 1], first[length : 2 * length - shared - dedupe.SHINGLE + 1]]
    )
    assert len(second) == length
    return words(first[:length]), words(second)


def jaccard(one: str, other: str) -> float:
    sets = [
        {tuple(found[at : at + 5]) for at in range(len(found) - 4)}
        for found in (one.lower().split(), other.lower().split())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_exact_duplicates_are_those_of_a_dictionary_in_any_batches_and_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    items: list[Item] = []
    for number in rng.integers(0, 701, 3001).tolist():
        text = f"text {number} é"
        items.append(text if number % 2 else Conversation.alternating([text, f"{number // 8}"]))
    seen: dict[object, int] = {}
    expected = [order for order, item in enumerate(items) if seen.setdefault(item, order) != order]
    assert len(expected) > 2000
    for batch in (1, 7, 3001):
        assert find_items(items, EXACT, tmp_path, batch) == expected

    keys, index = keys_of_items(items, EXACT)
    shuffled = rng.permutation(len(items))
    pairs = [(int(keys[at]), int(index[at])) for at in shuffled]
    assert find(pairs, tmp_path, 89) == expected


def test_conversations_are_equal_only_as_a_whole(tmp_path: Path) -> None:
    items: list[Item] = [
        Conversation.alternating(["hi there you", "hello"]),
        Conversation.alternating(["hi there you", "hello", "how are you?"]),
        Conversation.alternating(["hi there", "you hello"]),
        Conversation.alternating(["hi there you", "hello"]),
    ]
    assert find_items(items, EXACT, tmp_path) == [3]
    # Near looks at words, which the third has as well.
    assert find_items(items, NEAR, tmp_path) == [2, 3]


def test_near_finds_what_exact_finds_with_short_and_wordless_texts(tmp_path: Path) -> None:
    items: list[Item] = ["...", "a", "a b", "...", "!", "a", "A  b.", "", "", "a b c d", "a b c d e", "b a"]
    assert find_items(items, NEAR, tmp_path) == [3, 5, 6, 8]


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95])
def test_bands_and_rows_are_datasketchs(threshold: float) -> None:
    from datasketch import MinHashLSH

    lsh = MinHashLSH(threshold=threshold, num_perm=dedupe.SIGNATURE)
    assert bands_and_rows(threshold) == (lsh.b, lsh.r)


def test_near_duplicates_are_found_as_often_as_the_formula_and_datasketch_say() -> None:
    from datasketch import MinHash, MinHashLSH

    def sketch(text: str) -> MinHash:
        split = text.split()
        minima = MinHash(dedupe.SIGNATURE)
        minima.update_batch([" ".join(split[at : at + 5]).encode() for at in range(len(split) - 4)])
        return minima

    rng = np.random.default_rng(2)
    bands, rows = bands_and_rows(0.8)
    n = 300
    for similarity in (0.3, 0.6, 0.8, 0.95):
        pairs = [pair_of_similarity(rng, similarity, 120) for _ in range(n)]
        true = float(np.mean([jaccard(*pair) for pair in pairs[:5]]))
        assert true == pytest.approx(similarity, abs=0.01)
        keys, index = keys_of_items([text for pair in pairs for text in pair], NEAR)
        sets = [set(keys[index == number].tolist()) for number in range(2 * n)]
        found = sum(bool(sets[2 * number] & sets[2 * number + 1]) for number in range(n))

        lsh = MinHashLSH(num_perm=dedupe.SIGNATURE, params=(bands, rows))
        sketches = [sketch(text) for pair in pairs for text in pair]
        for number in range(n):
            lsh.insert(number, sketches[2 * number])
        judged = sum(number in lsh.query(sketches[2 * number + 1]) for number in range(n))

        probability = 1 - (1 - true**rows) ** bands
        spread = 4 * (n * probability * (1 - probability)) ** 0.5 + 1
        assert abs(found - n * probability) <= spread
        assert abs(judged - n * probability) <= spread
        assert similarity > 0.3 or found == 0
        assert similarity < 0.95 or found > 0.98 * n


def test_unrelated_texts_share_no_key() -> None:
    path = ROOT.parent / "shared" / "data" / "multiwoz22_text" / "dev_dialogues_001.txt"
    if not path.is_file():
        pytest.skip("shared/data/multiwoz22_text is absent")
    items: list[Item] = [text for text in path.read_text(encoding="utf-8").split("\n\n\n") if len(text.split()) > 50]
    assert len(items) > 200
    keys, index = keys_of_items(items, NEAR)
    shared = {key for key, count in zip(*np.unique(keys, return_counts=True), strict=True) if count > 1}
    for key in shared:  # what shares a key is alike
        first, second = index[keys == key][:2].tolist()
        assert jaccard(str(items[first]), str(items[second])) > 0.4
    assert len(set(index[np.isin(keys, list(shared))].tolist())) < 0.02 * len(items)


def test_keys_do_not_depend_on_the_batch_the_process_or_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    items: list[Item] = [words(rng.integers(0, 50, length)) for length in rng.integers(0, 200, 101)]
    items[30:60] = ["..."] * 30
    keys, index = keys_of_items(items, NEAR)
    alone = [keys_of_items([item], NEAR)[0].tolist() for item in items]
    assert [keys[index == number].tolist() for number in range(len(items))] == alone
    monkeypatch.setattr(dedupe, "_BATCH", 13)
    monkeypatch.setattr("data_prep.words._WORDS_AT_ONCE", 97)
    again_keys, again_index = keys_of_items(items, NEAR)
    assert [again_keys[again_index == number].tolist() for number in range(len(items))] == alone

    code = (
        "import sys, json; from data_prep.dedupe import keys_of_items; from data_prep.clean import Cleaning\n"
        "keys, _ = keys_of_items(json.load(sys.stdin), Cleaning(duplicates='near')); print(*keys.tolist())"
    )
    for seed, threads in (("1", "1"), ("2", "3")):
        environment = {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(items),
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert [int(key) for key in done.stdout.split()] == keys.tolist()


def test_a_text_in_pieces_has_the_keys_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = words(np.random.default_rng(4).integers(0, 999, 2003)).replace(" w7", ", w7") + " Ünïcode"
    keys, _ = keys_of_items([text], NEAR)
    monkeypatch.setattr("data_prep.words.PIECE_CHARS", 101)
    assert keys_of_items([text], NEAR)[0].tolist() == keys.tolist()


def test_of_a_group_only_the_lowest_order_stays(tmp_path: Path) -> None:
    # 5 and 20 share no key but each one with 30; 7 and 8 share two; 9 is alone.
    assert find([(1, 30), (1, 5), (2, 20), (2, 30), (3, 8), (3, 7), (4, 7), (4, 8), (6, 9)], tmp_path) == [8, 20, 30]
    # A chain against the grain, with keys and orders of all 64 bits.
    top = (1 << 64) - 1
    chain = [(top - at, order) for at in range(9) for order in (top - at, top - at - 1)]
    assert find(chain, tmp_path) == [top - at for at in range(8, -1, -1)]


@pytest.mark.parametrize("n_keys", [100, 1500, 4000, 20_000])
def test_groups_are_scipys_connected_components(n_keys: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_STEP", 61)
    monkeypatch.setattr(dedupe, "_PIECE_BYTES", 16 * 997)
    monkeypatch.setattr(dedupe, "_BUFFER_BYTES", 1 << 12)
    rng = np.random.default_rng(n_keys)
    n_pairs, n_orders = 6007, 2003
    keys, orders = rng.integers(0, n_keys, n_pairs), rng.integers(0, n_orders, n_pairs)
    graph = coo_array((np.ones(n_pairs), (orders, n_orders + keys)), shape=(n_orders + n_keys,) * 2)
    _, labels = connected_components(graph, directed=False)
    seen = set(orders.tolist())
    lowest: dict[int, int] = {}
    expected = [
        order for order in range(n_orders) if order in seen and lowest.setdefault(labels[order], order) != order
    ]
    # Keys in the lowest bits only, and spread over all.
    for factor in (1, 0x9E3779B97F4A7C15):
        pairs = [(key * factor % (1 << 64), order) for key, order in zip(keys.tolist(), orders.tolist(), strict=True)]
        assert find(pairs, tmp_path, 401) == expected


def test_an_empty_corpus_and_one_without_duplicates(tmp_path: Path) -> None:
    assert find([], tmp_path) == []
    assert not is_duplicate(load_duplicates(tmp_path / "duplicates.npy"), np.arange(3, dtype=np.uint64)).any()
    assert find([(1, 1), (2, 2)], tmp_path) == []
    assert [part.tolist() for part in keys_of_items([], NEAR)] == [[], []]
    assert [part.tolist() for part in keys_of_items([], EXACT)] == [[], []]


def test_is_duplicate_looks_orders_up(tmp_path: Path) -> None:
    find([(1, 5), (1, 7), (1, 1 << 63), (1, (1 << 63) + 1)], tmp_path)
    duplicates = load_duplicates(tmp_path / "duplicates.npy")
    orders = np.array([4, 5, 6, 7, 8, 1 << 63, (1 << 63) + 1, (1 << 63) + 2], np.uint64)
    assert is_duplicate(duplicates, orders).tolist() == [False, False, False, True, False, True, True, False]
    assert is_duplicate(duplicates, np.array([], np.uint64)).tolist() == []


def test_what_a_killed_pass_left_is_not_counted(tmp_path: Path) -> None:
    killed = DuplicateFinder(tmp_path / "keys", 0)
    killed.add(np.array([1, 1], np.uint64), np.array([1, 2], np.uint64))
    killed._flush()
    assert any((tmp_path / "keys").iterdir())
    assert find([(1, 3), (2, 4)], tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distinct", "twice", "one key"])
def test_memory_is_bounded(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "_PIECE_BYTES", 8 << 20)
    rng = np.random.default_rng(5)
    total, step = 1 << 22, 1 << 17  # 64 MiB of pairs, eight times what is sorted at once
    # A guess of 0 puts all into two files.
    finder = DuplicateFinder(tmp_path / "keys", 0)
    spread = np.uint64(0x9E3779B97F4A7C15)
    tracemalloc.start()
    for begin in range(0, total, step):
        orders = np.arange(begin, begin + step, dtype=np.uint64)
        keys = {"distinct": orders, "twice": orders % np.uint64(total // 2), "one key": orders * np.uint64(0)}[kind]
        finder.add(keys * spread, orders[rng.permutation(step)] if kind == "one key" else orders)
    found = finder.finish(tmp_path / "duplicates.npy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {"distinct": 0, "twice": total // 2, "one key": total - 1}[kind]
    begin = {"distinct": 0, "twice": total // 2, "one key": 1}[kind]
    duplicates = load_duplicates(tmp_path / "duplicates.npy")
    assert (duplicates == np.arange(begin, begin + found, dtype=np.uint64)).all()
    assert peak < 50 << 20
