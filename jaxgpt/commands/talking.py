"""The commands that make a model speak: `jaxgpt generate | chat`."""

from functools import partial
from pathlib import Path
from typing import Literal

from jaxgpt.command import add_step, make_parser, parse, print_json
from jaxgpt.errors import UserError


def generate(arguments: list[str]) -> None:
    """Continue texts with any model, in JAX.

    jaxgpt generate --model gpt2 --prompt "Once upon a time" --max_new_tokens 50
    jaxgpt generate --model runs/mine --prompts prompts.txt --num_beams 4 > completions.jsonl
    """
    from jaxgpt.chat.decoding import Decoding, check_stops

    parser = make_parser("generate", generate.__doc__ or "")
    parser.add_argument("--model", type=str, required=True, help="a run, or whatever `jaxgpt import` takes")
    add_step(parser)
    parser.add_argument("--prompt", type=str | None, default=None, help="text to continue, shown while it is drawn")
    parser.add_argument(
        "--prompts", type=str | None, default=None, help="a file with a prompt per line; the output is JSON Lines"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="prompts at once")
    parser.add_argument(
        "--stop", type=list[str], default=[], help="a text before which a completion ends; --stop+ TEXT adds one"
    )
    parser.add_class_arguments(Decoding)
    parser.add_argument("--json", action="store_true", help="with --prompt: print the completion as JSON")
    args = parse(parser, arguments)
    decoding = Decoding(**{name: getattr(args, name) for name in Decoding.__dataclass_fields__})
    if (args.prompt is None) == (args.prompts is None):
        raise UserError("give either --prompt TEXT or --prompts FILE")
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}; it must be 1 or more")
    check_stops(args.stop, decoding)
    prompts = [args.prompt] if args.prompts is None else _lines(Path(args.prompts))

    from jaxgpt.chat.generate import Generator
    from jaxgpt.chat.streaming import printable
    from jaxgpt.train.models import load_model

    generator = Generator(load_model(args.model, args.step), decoding, args.stop)
    if args.prompt is not None and not args.json and decoding.num_beams == 1:
        for piece in generator.stream(args.prompt):
            print(printable(piece), end="", flush=True)
        print()
        return
    for completion in generator.complete(prompts, args.batch_size):
        if args.prompt is not None and not args.json:
            print(completion.text)
        else:
            print_json(completion.as_json())


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            return [line.removesuffix("\n") for line in file]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); convert it first") from None


def chat(arguments: list[str]) -> None:
    """Talk with an exported model, in the terminal or on a page in the browser.

    jaxgpt chat --model runs/mine/hf
    jaxgpt chat --model runs/mine/hf --web
    jaxgpt chat --model runs/mine/hf --prompt "hello, how are you?"
    """
    from jaxgpt.chat.decoding import Decoding, History

    parser = make_parser("chat", chat.__doc__ or "")
    parser.add_argument("--model", type=str, required=True, help="a folder that `jaxgpt export` made")
    parser.add_argument("--engine", type=Literal["torch", "jax"], default="torch", help="what computes the model")
    parser.add_argument("--prompt", type=str | None, default=None, help="say this, print the reply and leave")
    parser.add_class_arguments(Decoding)
    parser.add_class_arguments(History, "history")
    parser.add_argument(
        "--candidates", type=int, default=1, help="draw so many replies in one batch and say the likeliest"
    )
    parser.add_argument(
        "--reverse_model",
        type=str | None,
        default=None,
        help="say the candidate after which this exported model, trained on pages built with --reverse, finds what was "
        "said before the likeliest (MMI)",
    )
    parser.add_argument("--names", type=str, default="You,Bot", help="of the two speakers, yours first")
    parser.add_argument(
        "--transcript", type=str | None, default=None, help="add each conversation to this file of dialogue JSON Lines"
    )
    parser.add_argument("--web", action="store_true", help="talk on a page in the browser")
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="of the page; a password is needed where others can reach it"
    )
    parser.add_argument("--port", type=int, default=7860, help="of the page; 0 means any that is free")
    parser.add_argument(
        "--password_file",
        type=str | None,
        default=None,
        help="the page asks for the password in this file, or else in the environment's JAXGPT_WEB_PASSWORD; "
        "the user name is jaxgpt",
    )
    parser.add_argument("--json", action="store_true", help="with --prompt: print the exchange as JSON")
    args = parse(parser, arguments)
    decoding = Decoding(**{name: getattr(args, name) for name in Decoding.__dataclass_fields__})
    names = _speakers(args.names)
    if args.json and args.prompt is None:
        raise UserError("--json is for one exchange; add --prompt TEXT")
    if args.prompt is not None and not args.prompt.strip():
        raise UserError("--prompt is empty; say something, or leave it out to talk")

    if not args.web and (args.host, args.port, args.password_file) != ("127.0.0.1", 7860, None):
        raise UserError("--host, --port and --password_file are of the page in the browser; add --web")
    if args.web and (args.prompt is not None or args.transcript):
        raise UserError("--web shows a page; leave out --prompt and --transcript, which are for the terminal")
    if args.candidates < 1:
        raise UserError(f"--candidates is {args.candidates}; it must be 1 or more")
    if args.reverse_model and args.candidates == 1:
        raise UserError("--reverse_model chooses among candidates, but --candidates is 1; try --candidates 16")

    from jaxgpt.chat import web
    from jaxgpt.chat.bot import Bot
    from jaxgpt.chat.engine import describe, open_engine
    from jaxgpt.chat.rerank import Candidates
    from jaxgpt.chat.streaming import printable
    from jaxgpt.chat.terminal import talk
    from jaxgpt.chat.transcript import Transcript

    transcript = Transcript(Path(args.transcript)) if args.transcript else None
    place = web.reserve(args.host, args.port, args.password_file) if args.web else None
    # What can be said without the weights, which may take a while, is said before.
    decoding.check(describe(Path(args.model)).cfg.n_positions, args.candidates)
    if args.reverse_model:
        describe(Path(args.reverse_model))
    engine = open_engine(args.engine, Path(args.model))
    reverse = open_engine(args.engine, Path(args.reverse_model)) if args.reverse_model else None
    candidates = Candidates(args.candidates, reverse) if args.candidates > 1 else None
    if place is not None:
        name = "/".join(Path(args.model).absolute().parts[-2:])
        title = f"{name}, format {engine.format.name}"
        new_bot = partial(Bot, engine, decoding, args.history, names, candidates)
        web.serve(new_bot, title, engine.cfg.n_positions, place)
        return
    bot = Bot(engine, decoding, args.history, names, candidates)
    if args.prompt is None:
        talk(bot, transcript)
        return
    reply = bot.reply(args.prompt, lambda piece: print(printable(piece), end="", flush=True))
    print()
    if transcript is not None:
        transcript.keep(bot.turns, names)
    if args.json:
        print_json({"prompt": args.prompt, "reply": reply})


def _speakers(text: str) -> tuple[str, str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(f"--names is {text!r}; it must be two names with a comma between them, such as Anna,Bot")
    return names[0], names[1]
