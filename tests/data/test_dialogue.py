"""The three formats against ids written by hand, cutting by its properties, prompts and templates against training."""

import numpy as np
import pytest

from jaxgpt.data.dialogue import FORMATS, Conversation, EncodedConversation, Turn, cut, weigh
from jaxgpt.data.tokenizer import load_tokenizer

EOS, SEP = 50256, 50257
HELLO_WORLD, IVE_123, HELLO = [15496, 995], [40, 1053, 17031], [15496]  # of "Hello world", "I've 123", "Hello"
A, B, END = [32, 25], [33, 25], [628, 198]  # of "A:", "B:" and three newlines
TALK = ("Hello world", "I've 123", "Hello")
PLAIN_TALKS = [
    ("Hello world",),
    ("Hi there!", "Hey. How's life?", "Can't complain :) naïve 🤖"),
    ("first line\nsecond line", "two  spaces", "1, 2, 3...", "四 five", "Über 6"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("gpt2").with_tokens(["<sep>"])


def encode(format_name, conversation, tokenizer):
    format_ = FORMATS[format_name]
    texts = [format_.turn_text(turn) for turn in conversation.turns]
    return format_.join(conversation, tokenizer.encode_batch(texts), tokenizer)


def test_eos_by_hand(tokenizer):
    encoded = encode("eos", Conversation.alternating(TALK), tokenizer)
    assert encoded.ids.tolist() == [*HELLO_WORLD, EOS, *IVE_123, EOS, *HELLO, EOS]
    assert encoded.roles.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert encoded.weights.tolist() == [0.0] + [1.0] * 8
    assert encoded.starts == (0, 3, 7)


def test_tags_by_hand(tokenizer):
    encoded = encode("tags", Conversation.alternating(TALK), tokenizer)
    assert encoded.ids.tolist() == [*A, *HELLO_WORLD, *END, *B, *IVE_123, *END, *A, *HELLO, *END]
    assert encoded.roles.tolist() == [0] * 6 + [1] * 7 + [0] * 5
    assert encoded.weights.tolist() == [0.0] + [1.0] * 17
    assert encoded.starts == (0, 6, 13)


def test_sep_by_hand(tokenizer):
    encoded = encode("sep", Conversation.alternating(TALK), tokenizer)
    assert encoded.ids.tolist() == [SEP, *HELLO_WORLD, SEP, *IVE_123, SEP, *HELLO, SEP]
    # Each <sep> opens the turn that it stands before; the last one is the next speaker's.
    assert encoded.roles.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 1]
    assert encoded.weights.tolist() == [0.0] + [1.0] * 9
    assert encoded.starts == (0, 3, 7)


def test_types_of_the_arrays(tokenizer):
    for name in FORMATS:
        encoded = encode(name, Conversation.alternating(TALK), tokenizer)
        assert (encoded.ids.dtype, encoded.weights.dtype, encoded.roles.dtype) == (np.int64, np.float32, np.uint8)


@pytest.mark.parametrize("texts", PLAIN_TALKS)
def test_tags_are_the_whole_conversation_encoded_at_once(tokenizer, texts):
    conversation = Conversation.alternating(texts)
    whole = "".join(f"{'AB'[turn.role]}:{turn.text}\n\n\n" for turn in conversation.turns)
    assert encode("tags", conversation, tokenizer).ids.tolist() == tokenizer.encode(whole)


def test_weights_follow_turns_and_endings(tokenizer):
    """A turn's weight holds for its text and its ending; sep's opening has none, since nothing predicts it."""
    conversation = Conversation((Turn("Hello world", 0, 0.5), Turn("I've 123", 1, 2.0), Turn("Hello", 0, 0.0)))
    assert encode("eos", conversation, tokenizer).weights.tolist() == [0, 0.5, 0.5, 2, 2, 2, 2, 0, 0]
    assert encode("sep", conversation, tokenizer).weights.tolist() == [0, 0.5, 0.5, 0.5, 2, 2, 2, 2, 0, 0]
    assert encode("tags", conversation, tokenizer).weights.tolist() == [0] + [0.5] * 5 + [2] * 7 + [0] * 5


@pytest.mark.parametrize(
    ("loss_on", "weights"),
    [
        ("all", [1, 2, 3, 4]),
        ("responses", [0, 2, 3, 4]),
        ("last", [0, 0, 0, 4]),
        ("role0", [1, 0, 3, 0]),
        ("role1", [0, 2, 0, 4]),
    ],
)
def test_weigh(loss_on, weights):
    turns = tuple(Turn(text, index % 2, index + 1.0) for index, text in enumerate("abcd"))
    weighed = weigh(Conversation(turns), loss_on)
    assert [turn.weight for turn in weighed.turns] == weights
    assert [(turn.text, turn.role) for turn in weighed.turns] == [("a", 0), ("b", 1), ("c", 0), ("d", 1)]


def random_encoded(seed, longest_turn):
    """Ids are their own positions, so that a piece tells where it was cut from. Every weight but the first is > 0."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest_turn + 1, rng.integers(1, 14))
    n = int(lengths.sum())
    starts = tuple(int(start) for start in np.cumsum(lengths) - lengths)
    weights = rng.uniform(0.1, 2.0, n).astype(np.float32)
    weights[0] = 0.0
    return EncodedConversation(np.arange(n), weights, rng.integers(0, 2, n).astype(np.uint8), starts)


@pytest.mark.parametrize("longest_turn", [1, 3, 12, 13, 29, 61])
@pytest.mark.parametrize("row_length", [8, 13])
def test_cut_scores_each_token_once_in_contiguous_pieces(row_length, longest_turn):
    for seed in range(101):
        whole = random_encoded(seed, longest_turn)
        n = len(whole.ids)
        pieces = cut(whole, row_length)
        scored = np.zeros(n, int)
        for piece in pieces:
            first, size = int(piece.ids[0]), len(piece.ids)
            assert 1 <= size <= row_length
            assert piece.ids.tolist() == list(range(first, first + size))
            assert piece.roles.tolist() == whole.roles[first : first + size].tolist()
            assert piece.starts == tuple(start - first for start in whole.starts if first <= start < first + size)
            assert piece.weights[0] == 0
            counts = piece.weights > 0
            np.testing.assert_array_equal(piece.weights[counts], whole.weights[first : first + size][counts])
            scored[first : first + size] += counts
        assert scored.tolist() == [0] + [1] * (n - 1)
        assert pieces[0].ids[0] == 0
        assert len(pieces) == 1 or n > row_length


@pytest.mark.parametrize("row_length", [8, 13, 61])
def test_cut_keeps_turns_whole_where_they_fit(row_length):
    """Turns shorter than a row are never cut within; a piece takes as many as fit and repeats one for context."""
    n_pieces = 0
    for seed in range(211):
        whole = random_encoded(seed, row_length - 1)
        edges = {*whole.starts, len(whole.ids)}
        pieces = cut(whole, row_length)
        n_pieces += len(pieces)
        for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
            start, stop = int(piece.ids[0]), int(piece.ids[-1]) + 1
            assert stop in edges
            assert not [edge for edge in edges if stop < edge <= start + row_length]
            if following is not None:
                turn_before = max(edge for edge in edges if edge < stop)
                turn_after = min(edge for edge in edges if edge > stop)
                repeats_turn = turn_after - turn_before <= row_length
                assert following.ids[0] == (turn_before if repeats_turn else stop - 1)
    assert n_pieces > 2 * 211


def test_cut_by_hand():
    """Turns of 3, 4, 2 and 11 tokens in rows of 8."""
    weights = np.ones(20, np.float32)
    weights[0] = 0
    whole = EncodedConversation(np.arange(20), weights, np.zeros(20, np.uint8), (0, 3, 7, 9))
    pieces = [(piece.ids.tolist(), int(piece.weights.argmax())) for piece in cut(whole, 8)]
    assert pieces == [
        (list(range(0, 7)), 1),
        (list(range(3, 9)), 4),  # turn 1 again as context, turn 2
        (list(range(8, 16)), 1),  # turn 3 is too long: one token of context
        (list(range(15, 20)), 1),
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_cut_of_written_conversations_decodes_to_whole_turns(name, tokenizer):
    texts = [f"turn number {number}" for number in range(17)]
    encoded = encode(name, Conversation.alternating(texts), tokenizer)
    pieces = cut(encoded, 23)
    assert len(pieces) >= 4
    openings = {"eos": tokenizer.encode("turn"), "sep": [SEP], "tags": [A[0], B[0]]}[name]
    for piece in pieces:
        assert piece.ids[0] in openings
        assert tokenizer.decode(piece.ids.tolist()).count("turn number") >= 2
    assert sum(int((piece.weights > 0).sum()) for piece in pieces) == len(encoded.ids) - 1


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("texts", PLAIN_TALKS)
def test_prompt_is_how_training_goes_on(name, texts, tokenizer):
    talk = Conversation.alternating([*texts, "Yes, indeed"])
    training = encode(name, talk, tokenizer)
    prompt = FORMATS[name].prompt(Conversation.alternating(texts), len(texts) % 2, tokenizer)
    n = len(prompt.ids)
    assert prompt.ids.tolist() == training.ids[:n].tolist()
    assert prompt.roles.tolist() == training.roles[:n].tolist()
    ending = {"eos": [EOS], "tags": END, "sep": [SEP]}[name]
    assert training.ids[n:].tolist() == [*tokenizer.encode("Yes, indeed"), *ending]
    assert FORMATS[name].stop_ids(tokenizer) == ending


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("texts", [PLAIN_TALKS[0], *(talk[:3] for talk in PLAIN_TALKS[1:])])
def test_transformers_template_gives_the_prompt(name, texts, tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = load_tokenizer("gpt2").with_tokens(FORMATS[name].special_tokens)
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, eos_token="<|endoftext|>")
    saved.chat_template = FORMATS[name].chat_template()
    saved.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": ("user", "assistant")[index % 2], "content": f"  {text}\n"} for index, text in enumerate(texts)
    ]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == FORMATS[name].prompt(Conversation.alternating(texts), 1, tokenizer).ids.tolist()
    without = theirs.apply_chat_template(messages, return_dict=False)
    assert without == encode(name, Conversation.alternating(texts), tokenizer).ids.tolist()


def test_the_end_of_a_turn_within_a_turn_is_shortened_only_where_it_ends_turns(tokenizer):
    turn = Turn("one\n\n\n\n\ntwo\n\n\nthree", 1)
    assert FORMATS["tags"].turn_text(turn) == "B:one\n\ntwo\n\nthree\n\n\n"
    assert FORMATS["tags"].ends_within(turn)
    assert not FORMATS["tags"].ends_within(Turn("one\n\ntwo", 0))
    for name in ("eos", "sep"):
        assert FORMATS[name].turn_text(turn) == turn.text
        assert not FORMATS[name].ends_within(turn)
