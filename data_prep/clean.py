"""What is mended and what is left out, item by item."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

from data_prep.rules import (
    Blocklist,
    Rule,
    capitals,
    count_words,
    has_brackets,
    has_repeated_word,
    has_url,
    long_word,
    read_blocklist,
    repeated_share,
)
from data_prep.sources.chunk import Dropped, Item
from jaxgpt.data.dialogue import Conversation
from jaxgpt.errors import UserError

_EXAMPLE_CHARS = 200
# Characters that Unicode repair may change; the others are plain ASCII text. `&` may open an HTML entity.
_SUSPECT = r"[^\t\n\f -%'-~]"
_MAY_NEED_REPAIR = re.compile(_SUSPECT)
_LINE_TO_REPAIR = re.compile(rf"(?m)^[\t\f -%'-~]*+{_SUSPECT}.*\n?")
_TURNS_ONLY = ("min_turn_words", "max_turn_words", "max_turns")
_NO_WEIGHTS = (
    "--clean.blocklist_action is weight0, but documents have no weights, only turns do; take "
    "--clean.blocklist_action drop"
)


@dataclass(frozen=True)
class Cleaning:
    """What to mend, and what to leave out; everything is off until it is asked for.

    A conversation goes as a whole: a rule that one of its turns breaks drops it. Words stand between white space.

    Args:
        fix_unicode: repair text that was decoded wrongly (as in `schÃ¶n`), HTML entities, ligatures and control
            characters with ftfy, and normalise to NFC; curly quotes and full-width letters stay
        min_chars: fewest characters of a document, or of a conversation's turns together
        max_chars: most characters of a document, or of a conversation's turns together; 0 is no bound
        min_words: fewest words of a document or conversation
        max_words: most words of a document or conversation; 0 is no bound
        min_turn_words: fewest words of each turn
        max_turn_words: most words of each turn; 0 is no bound
        max_turns: most turns of a conversation; 0 is no bound
        max_repeated_ngrams: largest share, in [0, 1], of an item's n-grams that stood in it before:
            1 - different n-grams / n-grams. Here a word is a run of letters and digits whose case does not matter, and
            no n-gram goes across two turns; 1 is no bound
        ngram: words of an n-gram for max_repeated_ngrams
        no_urls: drop text with :// or www. (DialoGPT's rule)
        no_brackets: drop text with round or square brackets (DialoGPT's rule)
        no_allcaps: drop text with so many capital letters A to Z in a row; DialoGPT has 5; 0 is off
        no_repeated_words: drop text with the same word three times in a row (DialoGPT's rule)
        max_word_chars: most characters of a word; DialoGPT has 30; 0 is no bound
        blocklist: UTF-8 file of words and phrases, one per line; whole words match, case does not matter
        blocklist_action: what a match leads to. drop: the item is left out; weight0: the turn stays as context, but its
            loss gets weight 0, which documents do not have
        duplicates: exact: of equal items all but the first are left out; near: and of items that are nearly equal.
            Conversations that only begin alike stay
        near_threshold: Jaccard similarity, of the sets of 5 words in a row, from which two items are nearly equal; it
            is found by MinHash, so items close to the threshold may fall on either side
    """

    fix_unicode: bool = False
    min_chars: int = 0
    max_chars: int = 0
    min_words: int = 0
    max_words: int = 0
    min_turn_words: int = 0
    max_turn_words: int = 0
    max_turns: int = 0
    max_repeated_ngrams: float = 1.0
    ngram: int = 4
    no_urls: bool = False
    no_brackets: bool = False
    no_allcaps: int = 0
    no_repeated_words: bool = False
    max_word_chars: int = 0
    blocklist: str | None = None
    blocklist_action: Literal["drop", "weight0"] = "drop"
    duplicates: Literal["off", "exact", "near"] = "off"
    near_threshold: float = 0.8

    def __post_init__(self) -> None:
        for name in (
            *("min_chars", "max_chars", "min_words", "max_words", "min_turn_words", "max_turn_words", "max_turns"),
            *("no_allcaps", "max_word_chars"),
        ):
            if getattr(self, name) < 0:
                raise UserError(f"--clean.{name} is {getattr(self, name)}; it must be 0 (off) or more")
        for what in ("chars", "words", "turn_words"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if 0 < high < low:
                raise UserError(
                    f"--clean.min_{what} {low} is above --clean.max_{what} {high}, so nothing would be left; swap them"
                )
        if self.max_turns == 1:
            raise UserError("--clean.max_turns is 1; a conversation has 2 turns or more, so nothing would be left")
        if not 1 <= self.ngram <= 64:
            raise UserError(f"--clean.ngram is {self.ngram}; it must lie in [1, 64]")
        if not 0 <= self.max_repeated_ngrams <= 1:
            raise UserError(f"--clean.max_repeated_ngrams is {self.max_repeated_ngrams}; it must lie in [0, 1]")
        if not 0.5 <= self.near_threshold <= 0.95:
            raise UserError(f"--clean.near_threshold is {self.near_threshold}; it must lie in [0.5, 0.95]")

    def check_sources(self, holds: Collection[Literal["documents", "dialogue"]]) -> None:
        """UserError where an option asks for turns and the sources, which hold this, bring none."""
        if "documents" in holds and self.blocklist is not None and self.blocklist_action == "weight0":
            raise UserError(_NO_WEIGHTS)
        for name in _TURNS_ONLY:
            if getattr(self, name) and "dialogue" not in holds:
                raise UserError(
                    f"--clean.{name} is {getattr(self, name)}, but the sources hold documents, which have no turns; "
                    "take --clean.min_words or --clean.max_words"
                )

    def fingerprint(self) -> dict[str, Any]:
        """All that decides what cleaning does: the options, the blocklist's content, the versions of the libraries."""
        values = asdict(self)
        if self.blocklist is not None:
            values["blocklist"] = hashlib.sha256(read_blocklist(self.blocklist)).hexdigest()
        if self.fix_unicode:
            values["ftfy"] = version("ftfy")
        if self.duplicates == "near":
            values["rensa"] = version("rensa")
        return values


class Cleaner:
    """Cleans items by the options; one lives in each worker.

    counts: "unicode repaired" (items) and "turns with weight 0 by blocklist", since the caller last cleared it.
    """

    def __init__(self, cleaning: Cleaning):
        """UserError for a blocklist that cannot be read."""
        self.counts: Counter[str] = Counter()
        self._cleaning = cleaning
        self._rules = list(_rules(cleaning))
        self._rules_for_documents = [(name, rule) for name, rule in self._rules if name not in _TURNS_ONLY]
        self._blocklist = Blocklist(cleaning.blocklist) if cleaning.blocklist is not None else None

    def clean(self, item: Item) -> Item | Dropped:
        """The item, the same object where nothing changed; or Dropped, whose reason names the option.

        UserError for a document that the blocklist should give weight 0.
        """
        if self._cleaning.fix_unicode:
            repaired = _repaired(item)
            if isinstance(repaired, Dropped):
                return repaired
            self.counts["unicode repaired"] += repaired is not item
            item = repaired
        rules = self._rules_for_documents if isinstance(item, str) else self._rules
        if not rules and self._blocklist is None:
            return item
        texts = _texts(item)
        for name, rule in rules:
            broken_by = rule(texts)
            if broken_by is not None:
                return _dropped(name, broken_by)
        return item if self._blocklist is None else self._without_blocked(item, self._blocklist)

    def _without_blocked(self, item: Item, blocklist: Blocklist) -> Item | Dropped:
        texts = _texts(item)
        blocked = [blocklist.matches(text) for text in texts]
        if not any(blocked):
            return item
        if self._cleaning.blocklist_action == "drop":
            return _dropped("blocklist", texts[blocked.index(True)])
        if isinstance(item, str):
            raise UserError(_NO_WEIGHTS)
        silenced = [hit and turn.weight > 0 for hit, turn in zip(blocked, item.turns, strict=True)]
        if not any(silenced):
            return item
        self.counts["turns with weight 0 by blocklist"] += sum(silenced)
        return Conversation(
            tuple(turn._replace(weight=0.0) if now else turn for now, turn in zip(silenced, item.turns, strict=True))
        )


def _texts(item: Item) -> list[str]:
    return [item] if isinstance(item, str) else [turn.text for turn in item.turns]


def _dropped(name: str, text: str) -> Dropped:
    return Dropped(f"clean: {name}", text[:_EXAMPLE_CHARS])


def _rules(cleaning: Cleaning) -> Iterator[tuple[str, Callable[[list[str]], str | None]]]:
    """(option, rule) of the rules that are on, the cheap ones first; a rule returns the text that breaks it."""

    def each(test: Rule) -> Callable[[list[str]], str | None]:
        return lambda texts: next((text for text in texts if test(text)), None)

    def whole(test: Callable[[list[str]], bool]) -> Callable[[list[str]], str | None]:
        return lambda texts: texts[0] if test(texts) else None

    c = cleaning
    if c.max_turns:
        yield "max_turns", whole(lambda texts: len(texts) > c.max_turns)
    if c.min_chars:
        yield "min_chars", whole(lambda texts: sum(map(len, texts)) < c.min_chars)
    if c.max_chars:
        yield "max_chars", whole(lambda texts: sum(map(len, texts)) > c.max_chars)
    if c.min_turn_words:
        yield "min_turn_words", each(lambda text: count_words(text) < c.min_turn_words)
    if c.max_turn_words:
        yield "max_turn_words", each(lambda text: count_words(text) > c.max_turn_words)
    if c.min_words:
        yield "min_words", whole(lambda texts: sum(map(count_words, texts)) < c.min_words)
    if c.max_words:
        yield "max_words", whole(lambda texts: sum(map(count_words, texts)) > c.max_words)
    if c.no_brackets:
        yield "no_brackets", each(has_brackets)
    if c.no_urls:
        yield "no_urls", each(has_url)
    if c.no_allcaps:
        yield "no_allcaps", each(capitals(c.no_allcaps))
    if c.max_word_chars:
        yield "max_word_chars", each(long_word(c.max_word_chars))
    if c.no_repeated_words:
        yield "no_repeated_words", each(has_repeated_word)
    if c.max_repeated_ngrams < 1:
        yield "max_repeated_ngrams", whole(lambda texts: repeated_share(texts, c.ngram) > c.max_repeated_ngrams)


def _repaired(item: Item) -> Item | Dropped:
    """The item with ftfy's repairs, the same object where there are none; Dropped where they leave no text."""
    texts = _texts(item)
    repaired = [_repair(text) for text in texts]
    if repaired == texts:
        return item
    for old, new in zip(texts, repaired, strict=True):
        if not new.strip() and old.strip():
            return _dropped("fix_unicode", repr(old[:_EXAMPLE_CHARS]))
    if isinstance(item, str):
        return repaired[0]
    return Conversation(tuple(turn._replace(text=text) for turn, text in zip(item.turns, repaired, strict=True)))


def _repair(text: str) -> str:
    """The text with ftfy's repairs, line by line as ftfy itself goes; lines of plain ASCII need none and are spared."""
    if not _MAY_NEED_REPAIR.search(text):
        return text
    from ftfy import TextFixerConfig, fix_text

    # With a `<` the text is taken for HTML, where entities belong.
    config = TextFixerConfig(
        unescape_html="<" not in text, uncurl_quotes=False, fix_character_width=False, explain=False
    )
    return _LINE_TO_REPAIR.sub(lambda line: fix_text(line[0], config), text)
