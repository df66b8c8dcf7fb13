"""Splits that have nothing in common: a figure of dialogues that were trained on says nothing."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from jaxgpt.data.dialogue import Conversation
from jaxgpt.errors import UserError


def as_texts(conversations: Iterable[Conversation]) -> list[str]:
    """What tells conversations without names apart: their turns, one a line."""
    return ["\n".join(turn.text for turn in talk.turns) for talk in conversations]


def check_apart(splits: Mapping[str, Sequence[str]], sources: Mapping[str, str]) -> None:
    """UserError where a dialogue is in two splits.

    splits: name -> its dialogues, by what tells them apart; sources: name -> the options that it comes from.
    """
    for one, other in combinations(splits, 2):
        of_one = set(splits[one])
        shared = [dialogue for dialogue in splits[other] if dialogue in of_one]
        if shared:
            raise UserError(
                f"the splits {one} ({sources[one]}) and {other} ({sources[other]}) share {len(shared)} dialogues, such "
                f"as {shared[0]!r:.60}; give files or lists that have no dialogue in common"
            )
