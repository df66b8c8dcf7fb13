"""`jaxgpt compare`."""

from pathlib import Path

from jaxgpt.checks import require
from jaxgpt.command import make_parser, parse, print_json
from jaxgpt.data.dialogue import FormatName


def compare(arguments: list[str]) -> None:
    """Several models on the same data: a table, whether differences are real, pictures and samples, as a folder.

    jaxgpt compare runs/a runs/b gpt2 --data wikitext2:wiki.test.raw --output report
    """
    parser = make_parser("compare", compare.__doc__ or "")
    parser.add_argument("models", type=str, nargs="+", help="runs, Hugging Face folders or hub names; first the base")
    parser.add_argument("--data", type=str, nargs="+", required=True, help="one or more, as in `jaxgpt perplexity`")
    parser.add_argument("--output", type=str, required=True, help="folder for table.md, report.html and report.json")
    parser.add_argument("--protocol", type=str, nargs="+", default=None, help="by default token, word, bits_per_byte")
    parser.add_argument("--context", type=int | None, default=None, help="as in `jaxgpt perplexity`")
    parser.add_argument("--stride", type=int | None, default=None, help="as in `jaxgpt perplexity`")
    parser.add_argument("--split", type=str | None, default=None, help="of pages; by default valid")
    parser.add_argument("--format", type=FormatName | None, default=None, help="as in `jaxgpt perplexity`")
    parser.add_argument("--prompt", type=str, nargs="+", default=[], help="texts that each model continues")
    parser.add_argument("--new_tokens", type=int, default=60, help="tokens of a continuation")
    parser.add_argument("--json", action="store_true", help="print the report as JSON in the last line")
    args = parse(parser, arguments)
    folder = Path(args.output)
    require(folder.is_dir() or not folder.exists(), f"--output {folder} is a file; give a folder, or another name")

    from jaxgpt.evaluate.packages import check_packages

    check_packages("jaxgpt compare", "matplotlib")  # pictures are drawn last

    from jaxgpt.evaluate.compare import compare as measure
    from jaxgpt.evaluate.comparison_report import as_json, as_markdown, write_report
    from jaxgpt.evaluate.options import DataOptions

    options = DataOptions(
        data="",
        split=args.split,
        protocol=args.protocol or (),
        context=args.context,
        stride=args.stride,
        format=args.format,
    )
    comparison = measure(args.models, args.data, options, args.prompt, args.new_tokens)
    write_report(comparison, folder)
    print(as_markdown(comparison))
    print(f"{folder / 'report.html'} has the pictures")
    if args.json:
        print_json(as_json(comparison))
