"""The commands on models as a whole: `jaxgpt import | export | perplexity`."""

from pathlib import Path
from typing import Literal

from jaxgpt.command import add_step, make_parser, parse, print_json


def import_(arguments: list[str]) -> None:
    """Take a GPT-2 from outside (a Hugging Face folder or name, a file of weights), and check it in PyTorch.

    jaxgpt import gpt2 --output runs/gpt2
    jaxgpt import ckpt.pt --tokenizer gpt2 --output runs/nano
    """
    from jaxgpt.data.dialogue import FormatName

    parser = make_parser("import", import_.__doc__ or "")
    parser.add_argument("source", type=str, help="a folder with config.json, a hub name, or a file of weights")
    parser.add_argument("--output", type=str, required=True, help="folder for the run of step 0")
    parser.add_argument("--tokenizer", type=str | None, default=None, help="by default the source's own")
    parser.add_argument(
        "--format", type=FormatName | None, default=None, help="dialogue format that the model was trained in"
    )
    parser.add_argument("--n_head", type=int | None, default=None, help="where there is no config.json to say it")
    parser.add_argument("--json", action="store_true", help="print the report as JSON in the last line")
    args = parse(parser, arguments)

    from jaxgpt.importing import import_model

    outcome = import_model(args.source, Path(args.output), args.tokenizer, args.format, args.n_head)
    for line in outcome.lines():
        print(line)
    print(f"{args.output} holds it; train on with jaxgpt train --init_from {args.output} --output OTHER")
    if args.json:
        print_json(outcome.as_json())


def export(arguments: list[str]) -> None:
    """Write a model as a stock Hugging Face folder, and check it in PyTorch.

    jaxgpt export runs/mine --output runs/mine/hf
    jaxgpt export runs/mine --output runs/mine/hf16 --dtype bfloat16
    """
    parser = make_parser("export", export.__doc__ or "")
    parser.add_argument("run", type=str, help="a run, or whatever `jaxgpt import` takes")
    parser.add_argument("--output", type=str, required=True, help="folder for model, tokenizer and chat template")
    parser.add_argument(
        "--dtype", type=Literal["float32", "bfloat16", "float16"], default="float32", help="of the weights"
    )
    parser.add_argument(
        "--pytorch_bin", action="store_true", help="write pytorch_model.bin, for old programs, not model.safetensors"
    )
    add_step(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON in the last line")
    args = parse(parser, arguments)
    source, output = Path(args.run), Path(args.output)

    from jaxgpt.chat import export as exporting
    from jaxgpt.chat.parity import export_parity
    from jaxgpt.chat.parity_text import sample_of
    from jaxgpt.train.models import load_model

    exporting.check_output(output, source)
    model = load_model(args.run, args.step)
    sample = sample_of(source, model.cfg, model.tokenizer, model.step)
    exporting.export(model, output, args.dtype, args.pytorch_bin, source)
    parity = export_parity(model, output, args.dtype, sample)
    for line in parity.lines():
        print(line)
    if parity.holds:
        print(f"{output} holds the model{'' if model.step is None else f' of step {model.step}'} in {args.dtype}")
    else:
        exporting.withdraw(output)
    if args.json:
        print_json({"output": str(output), "step": model.step, "dtype": args.dtype, **parity.as_json()})
    parity.check(str(output))
