"""Conversations to build pages of: written to a file, drawn at random, or large."""

import json

import numpy as np

GOOD = '["hello", "hi"]\n'


def write_talks(path, talks):
    path.write_text("".join(json.dumps(talk, ensure_ascii=False) + "\n" for talk in talks), encoding="utf-8")
    return f"dialogue:{path}"


def random_talks(n, seed=0):
    rng = np.random.default_rng(seed)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "asked", "why", "it", "never", "rains", "in", "May"]
    return [
        [" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(rng.integers(2, 6))] + [f"talk {number}"]
        for number in range(n)
    ]


def large_talks(path):
    """Conversations that fill more than half a row each, so that every one takes a record of 9 KB."""
    path.write_text((json.dumps(["why " * 300, "no " * 300]) + "\n") * 907)
    return f"dialogue:{path}"
