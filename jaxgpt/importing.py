"""`jaxgpt import`: a model from outside becomes a run of step 0, after PyTorch agreed on its logits."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgpt.data.dialogue import FormatName, format_of
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from jaxgpt.chat.parity import Parity
    from jaxgpt.config import ModelConfig
    from jaxgpt.model.source import Source


@dataclass(frozen=True)
class Imported:
    """What was imported. assumed: what the files did not say; ignored: names of buffers that are no parameters."""

    source: str
    output: str
    cfg: "ModelConfig"
    tokenizer: Tokenizer
    dialogue_format: str | None
    assumed: tuple[str, ...]
    ignored: tuple[str, ...]
    parity: "Parity"

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "output": self.output,
            "model": asdict(self.cfg),
            "parameters": self.cfg.n_params,
            "tokenizer_hash": self.tokenizer.hash,
            "dialogue_format": self.dialogue_format,
            "assumed": list(self.assumed),
            "ignored": list(self.ignored),
            "parity": self.parity.as_json(),
        }

    def lines(self) -> list[str]:
        """For people."""
        cfg = self.cfg
        lines = [
            f"{self.source}: GPT-2 of {cfg.n_params:,} parameters, {cfg.n_layer} layers of width {cfg.n_embd}, "
            f"{cfg.n_head} heads, {cfg.n_positions} positions, {cfg.vocab_size} ids"
            + ("" if cfg.tie_word_embeddings else ", output table not tied"),
            f"tokenizer {self.tokenizer.name} of {self.tokenizer.vocab_size} ids, dialogue format "
            + (self.dialogue_format or "none (a model of dialogue needs --format)"),
        ]
        lines += [f"assumed: {sentence}" for sentence in self.assumed]
        if self.ignored:
            lines.append(f"ignored {len(self.ignored)} buffers: {self.ignored[0]} and its like")
        return [*lines, *self.parity.lines()]


def import_model(
    source_name: str,
    output: Path,
    tokenizer_name: str | None = None,
    dialogue_format: FormatName | None = None,
    n_head: int | None = None,
) -> Imported:
    """Reads, checks, compares with PyTorch, and only then writes.

    Never are two copies of the parameters in memory. UserError where anything does not fit; `output` is as it was then.
    """
    from jaxgpt.chat.parity import import_parity
    from jaxgpt.model.source import open_source
    from jaxgpt.train import imported, run
    from jaxgpt.train.models import Model, from_source, on_one_device

    imported.check_output(output)
    if run.is_run(Path(source_name)):
        raise UserError(f"{source_name} is a run already; give it to --init_from, perplexity or export as it is")
    source = open_source(source_name, n_head)
    tokenizer = _tokenizer(source_name, source, tokenizer_name)
    source = source.cut_to(tokenizer.vocab_size)
    found = from_source(source_name, source, tokenizer)
    chosen = dialogue_format or found.dialogue_format
    _check_format(chosen, tokenizer)
    read: list[Model] = []

    def ours() -> Any:
        params = found.read(on_one_device(found.cfg))
        read.append(Model(found.cfg, params, tokenizer, chosen, 0))
        return params

    report = import_parity(source.path if source.is_stock else source.tensors, source.cfg, ours, tokenizer)
    report.check(source_name)
    imported.write_import(read[0], source_name, output)
    return Imported(source_name, str(output), source.cfg, tokenizer, chosen, source.assumed, source.ignored, report)


def _tokenizer(name: str, source: "Source", chosen: str | None) -> Tokenizer:
    from jaxgpt.model.source import source_tokenizer

    if chosen is not None:
        return load_tokenizer(chosen)
    tokenizer = source_tokenizer(source)
    if tokenizer is None:
        raise UserError(
            f"{name} comes without a tokenizer; name the one that it was trained with: --tokenizer gpt2, say"
        )
    return tokenizer


def _check_format(dialogue_format: str | None, tokenizer: Tokenizer) -> None:
    written = format_of(dialogue_format)
    for token in written.special_tokens if written else ():
        if tokenizer.backend.token_to_id(token) is None:
            raise UserError(
                f"the format {dialogue_format} needs the token {token}, which the tokenizer {tokenizer.name} lacks; "
                "give the format that the model was trained in"
            )
