"""A comparison as a folder: table.md, report.html (one file, pictures within), report.json, and the pictures."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxgpt import valid_json
from jaxgpt.data.atomic import replacing, write_text
from jaxgpt.evaluate.compare import Comparison, Entry
from jaxgpt.evaluate.plots import draw
from jaxgpt.evaluate.protocols import Measured
from jaxgpt.evaluate.report import rounded

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "div{overflow-x:auto}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;"
    "text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}"
    "img{max-width:100%}pre{white-space:pre-wrap;background:#f6f6f6;padding:.7rem}"
    "@media(prefers-color-scheme:dark){body{background:#1b1b1b;color:#ddd}pre{background:#262626}img{background:#fff}}"
)
_HOW = " (in nats, below 0 is better; of accuracy in shares, above 0 is better)"
Table = tuple[list[str], list[list[str]]]


def write_report(comparison: Comparison, folder: Path) -> None:
    """The folder is made if need be; files of an earlier report are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", as_markdown(comparison))
    write_text(folder / "report.json", valid_json.dumps(as_json(comparison), indent=1, ensure_ascii=False) + "\n")
    pictures = draw(comparison)
    for name, content in pictures.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    write_text(folder / "report.html", _as_html(comparison, pictures))


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything but curves; a figure may be no finite number."""
    return {
        "models": [_entry_as_json(entry) for entry in comparison.entries],
        "differences": {
            spec: [difference.as_json() for difference in found] for spec, found in comparison.differences.items()
        },
        "prompts": comparison.prompts,
        "left_out": comparison.left_out,
    }


def _entry_as_json(entry: Entry) -> dict[str, Any]:
    names = ("name", "n_parameters", "step", "tokens", "flops", "hours", "tokenizer")
    return {
        **{name: getattr(entry, name) for name in names},
        "figures": {spec: [figure.as_json() for figure in found] for spec, found in entry.figures.items()},
        "samples": list(entry.samples),
    }


def as_markdown(comparison: Comparison) -> str:
    parts = []
    for spec in comparison.data:
        parts += [f"## {spec}", "", *_markdown(_figures(comparison.entries, spec)), ""]
        if comparison.differences[spec]:
            parts += [f"Difference to {comparison.entries[0].name}{_HOW}:", ""]
            parts += [*_markdown(_differences(comparison, spec)), ""]
    return "\n".join([*parts, *comparison.left_out]).rstrip() + "\n"


def _figures(entries: Sequence[Entry], spec: str) -> Table:
    protocols = [figure.protocol for figure in entries[0].figures[spec]]
    rows = [
        [
            entry.name,
            _short(entry.n_parameters),
            _short(entry.tokens),
            "" if entry.flops is None else f"{entry.flops:.2e}",
            "" if entry.hours is None else f"{entry.hours:.2f}",
            *(_with_interval(figure) for figure in entry.figures[spec]),
        ]
        for entry in entries
    ]
    return ["model", "parameters", "trained tokens", "FLOPs", "hours", *protocols], rows


def _differences(comparison: Comparison, spec: str) -> Table:
    rows = [
        [
            found.other,
            found.protocol,
            f"{found.difference:+.4f}",
            f"{found.low:+.4f} to {found.high:+.4f}",
            f"{found.p_value:.3f}",
        ]
        for found in comparison.differences[spec]
    ]
    return ["model", "protocol", "difference", "95 % interval", "p"], rows


def _with_interval(figure: Measured) -> str:
    if figure.low is None or figure.high is None:
        return rounded(figure.value)
    return f"{rounded(figure.value)} [{rounded(figure.low)}, {rounded(figure.high)}]"


def _short(number: float | None) -> str:
    if number is None:
        return ""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:.0f}"


def _markdown(table: Table) -> list[str]:
    head, rows = table
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    return [_line(escaped[0]), _line(["---"] + ["---:"] * (len(head) - 1)), *map(_line, escaped[1:])]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _as_html(comparison: Comparison, pictures: dict[str, bytes]) -> str:
    body = ["<h1>Comparison</h1>"]
    for spec in comparison.data:
        body += [f"<h2>{html.escape(spec)}</h2>", _html_table(_figures(comparison.entries, spec))]
        if comparison.differences[spec]:
            body.append(f"<p>Difference to {html.escape(comparison.entries[0].name)}{_HOW}:</p>")
            body.append(_html_table(_differences(comparison, spec)))
    body += [f"<p>{html.escape(sentence)}</p>" for sentence in comparison.left_out]
    for name, content in pictures.items():
        label = name.removesuffix(".png").replace("_", " ")
        data = base64.b64encode(content).decode()
        body.append(f'<p><img alt="{label}" src="data:image/png;base64,{data}"></p>')
    for number, prompt in enumerate(comparison.prompts):
        body.append(f"<h2>After “{html.escape(prompt)}”</h2>")
        for entry in comparison.entries:
            body.append(f"<h3>{html.escape(entry.name)}</h3><pre>{html.escape(entry.samples[number])}</pre>")
    page = "".join(f"{part}\n" for part in body)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Comparison</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{page}</body></html>\n'
    )


def _html_table(table: Table) -> str:
    head, rows = table
    cells = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    cells += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<div><table>{''.join(cells)}</table></div>"
