"""The commands that give numbers: `jaxgpt perplexity`."""

from jaxgpt.command import add_step, make_parser, parse, print_json


def perplexity(arguments: list[str]) -> None:
    """Perplexity of any causal language model on pages, texts, dialogue or a standard test set, with intervals.

    jaxgpt perplexity --model runs/mine --data pages:data/pages
    jaxgpt perplexity --model gpt2 --data wikitext2:wiki.test.raw --stride 512
    jaxgpt perplexity --model runs/mine --data dialogue:talk.jsonl
    """
    from jaxgpt.evaluate.options import DataOptions

    parser = make_parser("perplexity", perplexity.__doc__ or "")
    parser.add_argument(
        "--model", type=str, required=True, help="a run, a Hugging Face folder or hub name, or a file of weights"
    )
    add_step(parser)
    parser.add_argument("--tokenizer", type=str | None, default=None, help="where the model's files have none")
    parser.add_argument(
        "--batch_size", type=int | None, default=None, help="most windows at once; by default by length"
    )
    parser.add_class_arguments(DataOptions, skip={"protocol"})
    parser.add_argument(
        "--protocol",
        type=str,
        nargs="+",
        default=(),
        help="of texts, one or several of token, word, bits_per_byte and adjusted; docs/evaluation.md says what each "
        "is; by default the first three",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON in the last line")
    args = parse(parser, arguments)
    options = DataOptions(**{name: getattr(args, name) for name in DataOptions.__dataclass_fields__})

    from jaxgpt.evaluate.measuring import check_options, is_pages, measure_on
    from jaxgpt.evaluate.report import lines
    from jaxgpt.evaluate.subject import open_subject

    check_options(options, [options.data])
    subject = open_subject(args.model, args.step, args.tokenizer, args.batch_size)
    found = measure_on(subject, options)
    where = args.model if subject.step is None else f"{args.model} (step {subject.step})"
    split = f", split {options.split or 'valid'}" if is_pages(args.data) else ""
    print(f"{where} on {args.data}{split}, tokenizer {subject.tokenizer.hash[:12]}")
    for line in lines(found):
        print(f"  {line}")
    if args.json:
        print_json(found)
