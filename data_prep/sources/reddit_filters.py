"""What makes a Reddit comment unfit for dialogue: DialoGPT's rules, each an option with its own count.

The rules are those of github.com/microsoft/DialoGPT (reddit_extractor: src/reddit.py with configs/Makefile.local), and
so are the default values. Where DialoGPT looks at the last turn only (score, long words, repeats) or drops every path
through a turn (URLs, brackets, capitals), each turn is judged by itself here, and one that fails is left out as if
nobody had written it: it cuts every path through it. DialoGPT counts tokens where words are counted here, and has a
list of offensive words beside.
"""

import re
from dataclasses import dataclass, field

from data_prep.rules import capitals, has_brackets, has_repeated_word, has_url, long_word
from jaxgpt.errors import UserError

_DELETED = frozenset({"[deleted]", "[removed]", "[deleted by user]", "[ Removed by Reddit ]"})


def is_deleted(text: str) -> bool:
    """Nothing but what Reddit writes in place of a deleted or removed text."""
    return text in _DELETED


def has_quote(text: str) -> bool:
    """A `>`, which begins a quoted line in Markdown; anywhere, since DialoGPT drops arrows as well."""
    return ">" in text or "&gt;" in text


def is_bot(author: str) -> bool:
    name = author.lower()
    return name.endswith("bot") or name == "automoderator"


@dataclass(frozen=True)
class RedditFilters:
    """Rules for turns, then for paths; UserError for values that no dump could meet.

    A turn is a comment, or a submission's title with `titles`. Words stand between white space.

    Args:
        drop_quotes: turns with a `>` anywhere; False keeps them
        drop_deleted: turns that Reddit replaced by [deleted] or [removed]; False keeps them
        min_words: fewest words in a turn; 0 for no limit
        max_turn_words: most words in a turn; 0 for no limit
        drop_urls: turns with :// or www.; False keeps them
        drop_brackets: turns with ( ) [ or ]; False keeps them
        capitals: turns with so many capital letters in a row are dropped; 0 keeps them
        drop_repeats: turns with a word three times in a row; False keeps them
        max_word_chars: most characters in a word; 0 for no limit
        min_score: lowest score of a comment (one without score has 0; titles are not asked); None for no limit
        subreddits: if there are any, only these are kept; without r/, case does not matter
        blocked_subreddits: never kept
        drop_bots: authors whose names end in `bot`, and AutoModerator; DialoGPT has no such rule, so False
        titles: whether a submission's title is the first turn of its paths
        from_root: only paths that begin at a title or at a comment on a submission. False is DialoGPT's: a path may
            also begin with the reply to a comment that is missing or that failed a rule
        min_depth: fewest turns in a path; 1 for no limit
        max_depth: of a longer path only its last turns, so many, are kept; 0 for no limit. A title counts (for DialoGPT
            it does not)
        max_path_words: most words in all turns of a path; 0 for no limit
    """

    drop_quotes: bool = True
    drop_deleted: bool = True
    min_words: int = 2
    max_turn_words: int = 30
    drop_urls: bool = True
    drop_brackets: bool = True
    capitals: int = 5
    drop_repeats: bool = True
    max_word_chars: int = 30
    min_score: int | None = 1
    subreddits: list[str] = field(default_factory=list)
    blocked_subreddits: list[str] = field(default_factory=list)
    drop_bots: bool = False
    titles: bool = False
    from_root: bool = False
    min_depth: int = 2
    max_depth: int = 5
    max_path_words: int = 200

    def __post_init__(self) -> None:
        for name in ("min_words", "max_turn_words", "capitals", "max_word_chars", "max_depth", "max_path_words"):
            if getattr(self, name) < 0:
                raise UserError(f"--reddit.{name} is {getattr(self, name)}, but must be 0 (no limit) or more")
        if self.min_depth < 1:
            raise UserError(
                f"--reddit.min_depth is {self.min_depth}, but a path has 1 turn or more; write 1 for no limit"
            )
        for low, high in (("min_words", "max_turn_words"), ("min_depth", "max_depth"), ("min_words", "max_path_words")):
            if 0 < getattr(self, high) < getattr(self, low):
                raise UserError(
                    f"--reddit.{high} is {getattr(self, high)}, below --reddit.{low}, which is {getattr(self, low)}: "
                    f"nothing would be left; raise --reddit.{high}, or write 0 for no limit"
                )
        for name in ("subreddits", "blocked_subreddits"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise UserError(f"--reddit.{name} is the text {given!r}, but must be a list of names")
            for subreddit in given:
                if not re.fullmatch(r"\w[\w-]*", subreddit):
                    raise UserError(
                        f"--reddit.{name} has {subreddit!r}, but must hold names as in AskReddit, without r/"
                    )
            # Lower case and sorted once, so that equal lists are equal options.
            object.__setattr__(self, name, sorted({subreddit.lower() for subreddit in given}))
        if both := set(self.subreddits) & set(self.blocked_subreddits):
            raise UserError(f"{min(both)!r} is in subreddits and in blocked_subreddits; take it out of one of them")

    def why_origin(self, author: str, subreddit: str, score: int | None) -> str | None:
        """Why a turn fails for where it comes from, or None; score None: is not asked."""
        if score is not None and self.min_score is not None and score < self.min_score:
            return f"with a score under {self.min_score}"
        if self.subreddits and subreddit.lower() not in self.subreddits:
            return "of another subreddit"
        if self.blocked_subreddits and subreddit.lower() in self.blocked_subreddits:
            return "of a blocked subreddit"
        if self.drop_bots and is_bot(author):
            return "by a bot"
        return None

    def why_text(self, text: str) -> str | None:
        """Why a turn fails for its text, the first rule of several, or None."""
        if self.drop_deleted and is_deleted(text):
            return "that is deleted or removed"
        if self.drop_quotes and has_quote(text):
            return "with a quote (>)"
        words = len(text.split())
        if words < self.min_words:
            return f"of under {self.min_words} words"
        if 0 < self.max_turn_words < words:
            return f"of over {self.max_turn_words} words"
        if self.drop_urls and has_url(text):
            return "with a URL"
        if self.drop_brackets and has_brackets(text):
            return "with brackets"
        if self.capitals and capitals(self.capitals)(text):
            return f"with {self.capitals} capitals in a row"
        if self.max_word_chars and long_word(self.max_word_chars)(text):
            return f"with a word of over {self.max_word_chars} characters"
        if self.drop_repeats and has_repeated_word(text):
            return "with a word three times in a row"
        return None
