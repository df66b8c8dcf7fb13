"""`jaxgpt replies`."""

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxgpt import valid_json
from jaxgpt.checks import require
from jaxgpt.command import add_step, make_parser, parse, print_json
from jaxgpt.data.dialogue import FormatName
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from jaxgpt.chat.decoding import Decoding
    from jaxgpt.data.dialogue import DialogueFormat
    from jaxgpt.evaluate.dstc7 import ReferenceSet
    from jaxgpt.evaluate.examples import Example
    from jaxgpt.train.models import Model

_WAYS = ("greedy", "sample", "beam", "mmi")
_BEAMS, _CANDIDATES = 10, 16  # as DialoGPT's table
_DRAWN = ("sample", "mmi")
_TAKERS = {  # options that not every way of decoding takes; those of all ways have no use without a model
    **dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "seed"), _DRAWN),
    **dict.fromkeys(("num_beams", "length_penalty", "early_stopping"), ("beam",)),
    **dict.fromkeys(("candidates", "reverse_model"), ("mmi",)),
    **dict.fromkeys(("repetition_penalty", "no_repeat_ngram_size", "max_new_tokens"), _WAYS),
    **dict.fromkeys(("step", "batch_size", "format"), _WAYS),
}
_REPORTED = (
    *("model", "step", "data", "reverse_model", "batch_size", "format", "hypotheses"),
    *("role", "last", "convos", "key_file", "limit"),
)


def replies(arguments: list[str]) -> None:
    """Replies of a model, decoded in several ways, measured against those that people gave.

    jaxgpt replies --model runs/mine --data dialogue:talk.jsonl --decoding greedy sample beam --output report
    jaxgpt replies --data dstc7:test.refs --hypotheses theirs=submission.txt --output report
    """
    parser = _parser()
    args = parse(parser, arguments)
    _check_given(parser, args)
    decodings = _decodings(args)

    from jaxgpt.evaluate.packages import check_packages

    check_packages("jaxgpt replies", "sacrebleu", "nltk")

    from jaxgpt.data.atomic import write_text
    from jaxgpt.evaluate.dialogue import evaluate_replies, table
    from jaxgpt.evaluate.dstc7 import write_hypotheses

    references = _references(args)
    systems = _given(args, references)
    references = references.first(args.limit)
    systems = {name: found[: len(references.examples)] for name, found in systems.items()}
    folder = Path(args.output)
    for name, found in _answers(args, decodings, references.examples):
        # Each as soon as it is there: it may have taken hours.
        folder.mkdir(parents=True, exist_ok=True)
        write_hypotheses(folder / f"{name}.txt", found)
        if references.first_columns:
            write_hypotheses(folder / f"{name}.convos.txt", found, references.first_columns)
        systems[name] = found
    evaluation = evaluate_replies(references.examples, systems, args.tokenize, args.lowercase)
    content: dict[str, Any] = {name: getattr(args, name) for name in _REPORTED}
    content["candidates"] = args.candidates if "mmi" in decodings else None
    content["decoding"] = {name: asdict(decoding) for name, decoding in decodings.items()}
    content |= {"examples": len(references.examples), **evaluation.as_json()}
    lines = table(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", "".join(f"{line}\n" for line in lines))
    write_text(folder / "report.json", valid_json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print("\n".join(lines))
    print(f"{folder / 'report.json'} has all figures")
    if args.json:
        print_json(content)


def _parser() -> "ArgumentParser":
    from jaxgpt.chat.decoding import Decoding

    parser = make_parser("replies", replies.__doc__ or "")
    parser.add_argument("--model", type=str | None, default=None, help="a run, or whatever `jaxgpt import` takes")
    add_step(parser)
    parser.add_argument(
        "--data",
        type=str,
        required=True,
        help="dialogue:FILES (or another kind of conversations of docs/data.md), references:FILE of JSON Lines with "
        "context and references, or dstc7:FILE of DSTC-7's or DialoGPT's references",
    )
    parser.add_argument("--output", type=str, required=True, help="folder for table.md, report.json and the replies")
    parser.add_argument(
        "--decoding",
        type=str,
        nargs="+",
        default=None,
        help="one or several of greedy (by default), sample, beam and mmi. beam has --num_beams beams, 10 by "
        "default; mmi draws --candidates and takes the one that suits the reverse model best",
    )
    parser.add_argument(
        "--reverse_model", type=str | None, default=None, help="of mmi: a model of pages built with --reverse"
    )
    parser.add_argument("--candidates", type=int, default=_CANDIDATES, help="of mmi")
    parser.add_class_arguments(Decoding)
    parser.add_argument("--batch_size", type=int, default=32, help="rows at once; each candidate or beam is one")
    parser.add_argument("--format", type=FormatName | None, default=None, help="for models that do not say theirs")
    parser.add_argument("--hypotheses", type=str, nargs="+", default=[], help="NAME=FILE of replies to measure as well")
    parser.add_argument("--role", type=Literal[0, 1], default=1, help="of conversations: who answers")
    parser.add_argument("--last", action="store_true", help="of conversations: only the last answer of each")
    parser.add_argument("--convos", type=str | None, default=None, help="of dstc7: test.convos.txt, with the contexts")
    parser.add_argument("--key_file", type=str | None, default=None, help="of dstc7: a file of the keys to keep")
    parser.add_argument("--tokenize", type=Literal["13a", "none"], default="13a", help="none: tokens have spaces")
    parser.add_argument("--lowercase", action="store_true", help="ignore case, as mteval and DialoGPT do")
    parser.add_argument("--limit", type=int | None, default=None, help="only so many first examples")
    parser.add_argument("--json", action="store_true", help="print the report as JSON in the last line")
    return parser


def _names(args: "Namespace") -> list[str]:
    """The ways of decoding that were asked for."""
    return args.decoding or (["greedy"] if args.model else [])


def _check_given(parser: "ArgumentParser", args: "Namespace") -> None:
    """UserError where options do not go together, or one was given that does nothing."""
    names = _names(args)
    require(args.model or args.hypotheses, "there is nothing to measure; give --model M or --hypotheses NAME=FILE")
    require(args.model or not names, f"--decoding {' '.join(names)} needs --model M")
    for name in names:
        require(name in _WAYS, f"--decoding is {name!r}; it must be one of {', '.join(_WAYS)}")
    require(len(set(names)) == len(names), f"--decoding {' '.join(names)} names one twice; leave it out")
    for option, takers in _TAKERS.items():
        value = getattr(args, option)
        require(
            value == parser.get_default(option) or not set(takers).isdisjoint(names),
            f"--{option} is {value}, but --decoding is {' '.join(names) or 'none'}; leave it out, or decode by "
            f"{' or '.join(takers)}",
        )
    require("mmi" not in names or args.reverse_model, "--decoding mmi needs a --reverse_model of reversed pages")
    require(args.batch_size > 0, f"--batch_size is {args.batch_size}; it must be above 0")
    output = Path(args.output)
    require(output.is_dir() or not output.exists(), f"--output {output} is a file; name a folder")
    require(args.limit is None or args.limit > 0, f"--limit is {args.limit}; it must be above 0")


def _decodings(args: "Namespace") -> dict[str, "Decoding"]:
    """What each way stands for. UserError where it can't draw."""
    from jaxgpt.chat.decoding import Decoding

    names = _names(args)
    base = Decoding(**{name: getattr(args, name) for name in Decoding.__dataclass_fields__})
    chance = [name for name in names if name in _DRAWN]
    require(
        not chance or base.temperature > 0,
        f"--decoding {' '.join(chance)} draws by chance, but --temperature is {base.temperature}; set it above 0",
    )
    # A report can be made again, so there always is a seed.
    drawn = replace(base, num_beams=1, seed=base.seed or 0)
    ways = {
        "greedy": replace(drawn, temperature=0.0),
        "sample": drawn,
        "beam": replace(drawn, num_beams=base.num_beams if base.num_beams > 1 else _BEAMS),
        "mmi": drawn,
    }
    return {name: ways[name] for name in names}


def _references(args: "Namespace") -> "ReferenceSet":
    """The examples of --data; UserError where there are none."""
    from jaxgpt.data.dialogue import Conversation
    from jaxgpt.evaluate.corpora import read_items
    from jaxgpt.evaluate.dstc7 import ReferenceSet, read_references
    from jaxgpt.evaluate.examples import examples_of, read_examples

    kind, _, file = args.data.partition(":")
    require(
        kind == "dstc7" or not (args.convos or args.key_file),
        f"--convos and --key_file are of dstc7:FILE, not {args.data}",
    )
    require(
        kind not in ("dstc7", "references") or (args.role == 1 and not args.last),
        f"--role and --last are of conversations, which --data {args.data} is not; leave them out",
    )
    if kind == "dstc7":
        return read_references(file, args.convos, args.key_file)
    if kind == "references":
        found = read_examples(file)
    else:
        items = list(read_items(args.data))
        talks = [item for item in items if isinstance(item, Conversation)]
        require(len(talks) == len(items), f"--data {args.data} holds texts and no conversations; give dialogue:FILE")
        found = examples_of(talks, args.role, args.last)
    require(
        bool(found), f"--data {args.data} has no reply of role {args.role} to anything; give another file or --role"
    )
    return ReferenceSet(found, None)


def _given(args: "Namespace", references: "ReferenceSet") -> dict[str, list[str]]:
    """The replies of --hypotheses."""
    from jaxgpt.evaluate.dialogue import HUMAN
    from jaxgpt.evaluate.dstc7 import read_hypotheses

    files = dict[str, str]()
    for spec in args.hypotheses:
        name, equals, file = spec.partition("=")
        if not (equals and file and re.fullmatch(r"[\w.+-]+", name)):
            raise UserError(f"--hypotheses {spec!r}: write NAME=FILE, the name of letters, digits and . + - _")
        require(name not in files, f"--hypotheses names {name} twice; give each its own name")
        require(name not in (HUMAN, *_WAYS), f"--hypotheses {spec}: {name} is a row of its own; choose another name")
        files[name] = file
    return {name: read_hypotheses(file, references) for name, file in files.items()}


def _answers(
    args: "Namespace", decodings: dict[str, "Decoding"], examples: "list[Example]"
) -> Iterator[tuple[str, list[str]]]:
    """Each decoding's name and its replies to all examples, as files have them."""
    if not decodings:
        return
    if not all(example.context for example in examples):
        raise UserError(f"--data {args.data} has no contexts for the model to answer; add --convos test.convos.txt")

    from jaxgpt.chat.answering import Answerer
    from jaxgpt.chat.jax_reader import JaxReader
    from jaxgpt.chat.rerank import Candidates
    from jaxgpt.evaluate.dstc7 import as_line
    from jaxgpt.evaluate.measuring import format_of
    from jaxgpt.train.models import load_model

    def opened(name: str, step: int | None) -> "tuple[Model, DialogueFormat]":
        model = load_model(name, step)
        return model, format_of(name, model, args.format)

    model, dialogue_format = opened(args.model, args.step)
    reverse = JaxReader(*opened(args.reverse_model, None)) if args.reverse_model else None
    contexts = [example.context for example in examples]
    candidates = {name: Candidates(args.candidates, reverse) if name == "mmi" else None for name in decodings}
    # All that can be said against them is said before the first of them works.
    for name, decoding in decodings.items():
        decoding.check(model.cfg.n_positions)
        if chosen := candidates[name]:
            chosen.check(dialogue_format, model.tokenizer)
            chosen.check_room(decoding.longest(model.cfg.n_positions))
    for name, decoding in decodings.items():
        answerer = Answerer(model, dialogue_format, decoding, candidates[name], args.batch_size)
        yield name, [as_line(reply) for reply in answerer.answer(contexts, args.role)]
