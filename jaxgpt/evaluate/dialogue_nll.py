"""How well a model predicts conversations: of all, by speaker, by turn, by position, and as older systems averaged."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.data.dialogue import Conversation, DialogueFormat, EncodedConversation, cut
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate.protocols import Measured, Sums, bits, exp, measured
from jaxgpt.evaluate.scoring import Scorer, Text
from jaxgpt.progress import progress_bar

_MOST_TURNS = 20  # figures by turn; later ones go together
_POSITIONS = 64  # tokens of a bin, by position


@dataclass(frozen=True)
class Group:
    """A part of the tokens: all of a speaker, of a turn, of a range of positions."""

    name: str
    perplexity: float
    nll_sum: float
    tokens: int


@dataclass(frozen=True)
class DialogueNll:
    """figures: per token, per token of responses (turns of role 1), per word, and bits per byte, over conversations.

    dialogue_mean: exp(nll / tokens) of each conversation, averaged, as PersuasionForGood's numbers were; sequence_mean:
    exp of the mean over conversations of nll / tokens, as DialoGPT's log has it. by_role, by_turn, by_position: groups.
    """

    conversations: int
    figures: tuple[Measured, ...]
    dialogue_mean: float
    sequence_mean: float
    by_role: tuple[Group, ...]
    by_turn: tuple[Group, ...]
    by_position: tuple[Group, ...]

    def as_json(self) -> dict[str, Any]:
        content = {name: value for name, value in vars(self).items() if name != "figures"}
        for name in ("by_role", "by_turn", "by_position"):
            content[name] = [asdict(group) for group in content[name]]
        return {"figures": [figure.as_json() for figure in self.figures], **content}


@dataclass(frozen=True)
class _Tokens:
    """Every counted token of all conversations, arrays (tokens,): what it is part of and its nll.

    turn, role: of the turn that the token belongs to, which is also that of the ending token behind it, as in pages of
    one role's loss. position: tokens before it that the model sees.
    """

    nll: np.ndarray
    conversation: np.ndarray
    turn: np.ndarray
    role: np.ndarray
    position: np.ndarray


def measure_dialogue(
    scorer: Scorer,
    tokenizer: Tokenizer,
    dialogue_format: DialogueFormat,
    conversations: Sequence[Conversation],
    with_roles: bool,
) -> DialogueNll:
    """Every conversation by itself, cut at turns into pieces that overlap by one where it is longer than the context.

    Each token is predicted once; turns of weight 0 count nowhere, nor do conversations without a turn. with_roles:
    whether the model is told who speaks. UserError where there is nothing to predict.
    """
    conversations = [talk for talk in conversations if talk.turns]
    tokens = _score(scorer, tokenizer, dialogue_format, conversations, with_roles)
    if not len(tokens.nll):
        raise UserError(
            f"{len(conversations)} conversations have no token that counts; give some with turns of a weight above 0"
        )

    def sums(roles: tuple[int, ...]) -> Sums:
        chosen = np.isin(tokens.role, roles)
        of = tokens.conversation[chosen]
        texts = [[turn.text for turn in talk.turns if turn.weight > 0 and turn.role in roles] for talk in conversations]
        return Sums(
            np.bincount(of, tokens.nll[chosen], len(conversations)),
            np.bincount(of, minlength=len(conversations)),
            np.array([sum(len(text.split()) for text in own) for own in texts]),
            np.array([sum(len(text.encode()) for text in own) for own in texts]),
            "conversations",
        )

    everything, answers = sums((0, 1)), sums((1,))
    has_tokens = everything.tokens > 0
    means = everything.nll[has_tokens] / everything.tokens[has_tokens]
    bins = tokens.position // _POSITIONS
    turns = np.minimum(tokens.turn, _MOST_TURNS - 1)
    figures = [
        measured("token", everything, everything.tokens),
        *([measured("token[responses]", answers, answers.tokens)] if answers.tokens.any() else []),
        measured("word", everything, everything.words),
        measured("bits_per_byte", everything, everything.bytes, bits),
    ]
    return DialogueNll(
        len(conversations),
        tuple(figures),
        float(np.exp(means).mean()),
        exp(float(means.mean())),
        _groups(tokens.nll, tokens.role, lambda role: f"role {role}"),
        _groups(tokens.nll, turns, lambda turn: f"turn {turn + 1}" + (" and later" if turn == _MOST_TURNS - 1 else "")),
        _groups(tokens.nll, bins, lambda part: f"tokens {part * _POSITIONS} to {(part + 1) * _POSITIONS - 1}"),
    )


class _Piece(NamedTuple):
    """counted: places of the tokens that count, within the piece; turns: of those."""

    conversation: int
    encoded: EncodedConversation
    counted: np.ndarray
    turns: np.ndarray


def _pieces(number: int, encoded: EncodedConversation, turn_of: np.ndarray, length: int) -> list[_Piece]:
    """A conversation cut to `length` tokens. Every token that counts does so in one piece, so they come in order.

    turn_of (T,): the number of each token's turn.
    """
    pieces, turns = list[_Piece](), turn_of[encoded.weights > 0]
    for piece in cut(encoded, length):
        counted = np.flatnonzero(piece.weights > 0)
        pieces.append(_Piece(number, piece, counted, turns[: len(counted)]))
        turns = turns[len(counted) :]
    return [piece for piece in pieces if len(piece.counted)]


def _score(
    scorer: Scorer,
    tokenizer: Tokenizer,
    dialogue_format: DialogueFormat,
    conversations: Sequence[Conversation],
    with_roles: bool,
) -> _Tokens:
    pieces = list[_Piece]()
    opening, ending = len(dialogue_format.opening_ids(tokenizer)), len(dialogue_format.ending_ids(tokenizer))
    for number, talk in enumerate(conversations):
        ids = tokenizer.encode_batch([dialogue_format.turn_text(turn) for turn in talk.turns])
        sizes = [len(of_turn) + ending for of_turn in ids]
        sizes[0] += opening
        turn_of = np.repeat(np.arange(len(sizes)), sizes)
        pieces += _pieces(number, dialogue_format.join(talk, ids, tokenizer), turn_of, scorer.context)
    texts = [Text(piece.encoded.ids, roles=piece.encoded.roles if with_roles else None) for piece in pieces]
    columns: list[list[np.ndarray]] = [[np.zeros(0)], *([np.zeros(0, np.int64)] for _ in range(4))]
    for number, scores in progress_bar(scorer.score(texts), total=len(texts), unit="piece", desc="dialogue"):
        piece = pieces[number]
        nll = scores.nll[piece.counted - 1].astype(np.float64)
        of = np.full(len(nll), piece.conversation)
        roles = np.array([turn.role for turn in conversations[piece.conversation].turns])[piece.turns]
        for column, values in zip(columns, (nll, of, piece.turns, roles, piece.counted), strict=True):
            column.append(values)
    return _Tokens(*map(np.concatenate, columns))


def _groups(nll: np.ndarray, of: np.ndarray, name: Callable[[int], str]) -> tuple[Group, ...]:
    sums, counts = np.bincount(of, nll), np.bincount(of)
    return tuple(
        Group(name(number), exp(sums[number] / counts[number]), float(sums[number]), int(counts[number]))
        for number in np.flatnonzero(counts).tolist()
    )
