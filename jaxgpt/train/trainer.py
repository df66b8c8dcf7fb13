"""What stays the same over the steps of one call of `train`: pages, devices, compiled steps."""

from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

from jaxgpt.config import Config
from jaxgpt.data.cache import page_folder
from jaxgpt.data.loader import Pages, prefetch, training_batches
from jaxgpt.data.manifest import TOKENIZER_FOLDER, check_fits, manifest_hash
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.hosts import Hosts
from jaxgpt.train.models import find_model
from jaxgpt.train.parallel import Parallel, check_batch
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.sample import sample
from jaxgpt.train.sharded import Sharded
from jaxgpt.train.step import STOPS, Batch, Metrics, TrainState
from jaxgpt.train.validate import SplitLoss, split_loss


class Trainer:
    """Raises UserError where configuration, pages and devices do not fit each other."""

    def __init__(self, cfg: Config, hosts: Hosts):
        self.cfg, self.hosts, self.run = cfg, hosts, Path(cfg.output)
        folder = page_folder(cfg.data.path, (cfg.data.train_split, cfg.data.valid_split), cfg.data.cache)
        self.pages = Pages(folder, cfg.data.train_split, cfg.data.seq_len)
        self.valid = Pages(folder, cfg.data.valid_split, cfg.data.seq_len)
        check_fits(self.pages.manifest, self.pages.folder, cfg.model.vocab_size)
        if self.pages.seq_len > cfg.model.n_positions:
            raise UserError(
                f"rows of {self.pages.seq_len} tokens in {self.pages.folder} are longer than model.n_positions "
                f"{cfg.model.n_positions}; raise model.n_positions or set data.seq_len"
            )
        if not self.valid.info.targets:
            raise UserError(
                f"{self.valid.folder}: no token of the split {cfg.data.valid_split!r} counts; build the pages with a "
                "larger share for it or another --loss_on"
            )
        self.parallel: Parallel = Pmapped() if cfg.parallel.mode == "pmap" else Sharded(cfg.model)
        check_batch(len(self.parallel.devices), cfg.train.batch_size, cfg.train.microbatches)
        reference, self._reference = self._find_reference()
        self._train_step = self.parallel.train_step(cfg, reference)
        self._eval_step = self.parallel.eval_step(cfg.model)
        self.tokenizer = load_tokenizer(str(self.pages.folder / TOKENIZER_FOLDER))

    def _find_reference(self) -> tuple[ModelConfig | None, Params | None]:
        """The model of loss.kl_model, where there is one."""
        name, vocab_size = self.cfg.loss.kl_model, self.cfg.model.vocab_size
        if name is None:
            return None, None
        found = find_model(name).cut_to(vocab_size)
        if found.cfg.vocab_size != vocab_size or found.cfg.n_positions < self.pages.seq_len:
            raise UserError(
                f"loss.kl_model {name} has vocab_size {found.cfg.vocab_size} and n_positions {found.cfg.n_positions}; "
                f"the run has model.vocab_size {vocab_size} and sequences of {self.pages.seq_len}: give a model of the "
                "same vocabulary that takes them"
            )
        return found.cfg, found.read(self.parallel.param_shapes(found.cfg))

    @property
    def data_hash(self) -> str:
        hash_ = manifest_hash(self.pages.folder)
        assert hash_ is not None  # its pages are open
        return hash_

    def epoch(self, position: int) -> int:
        return position // self.pages.n_rows(shuffled=True)

    def batches(self, position: int) -> Generator[tuple[Batch, int], None, None]:
        """This host's part of the batches on its devices, each with the data position after it, made ahead."""
        cfg, hosts = self.cfg, self.hosts
        host = training_batches(self.pages, cfg.train.batch_size, cfg.seed, position, hosts.index, hosts.count)
        return prefetch(((self.parallel.split(batch), after) for batch, after in host), cfg.data.prefetch)

    def step(self, state: TrainState, batch: Batch, stop: bool) -> tuple[TrainState, Metrics]:
        """The state that goes in is used up. stop: this host asks all hosts for an end."""
        return self._train_step(state, self._asking(batch, stop), self._reference)

    def validate(self, state: TrainState, stop: Callable[[], bool]) -> SplitLoss | None:
        """None where a host asked for an end before all was evaluated."""
        cfg, hosts = self.cfg, self.hosts
        return split_loss(
            self.parallel,
            lambda params, batch: self._eval_step(params, self._asking(batch, stop())),
            state.params,
            self.valid,
            cfg.train.batch_size,
            cfg.eval.batches,
            (hosts.index, hosts.count),
        )

    def _asking(self, batch: Batch, stop: bool) -> Batch:
        """The batch with this host's wish, so that all hosts learn of it at the same step and at no cost."""
        flags = np.full(self.parallel.n_own, stop, np.int32)
        return {**batch, **self.parallel.split({STOPS: flags})}

    @property
    def samples(self) -> bool:
        """Whether one host alone can compute with the parameters."""
        return self.cfg.eval.sample_tokens > 0 and (self.cfg.parallel.mode == "pmap" or self.hosts.count == 1)

    def sample(self, state: TrainState, step: int) -> str:
        """The prompt and how the model goes on, as text."""
        prompt = self.tokenizer.encode(self.cfg.eval.sample_prompt) or [self.tokenizer.eos_token_id]
        roles = [0] * len(prompt)
        cfg = self.cfg
        new = sample(cfg.model, state.params, prompt, roles, cfg.eval.sample_tokens, cfg.seed + step)
        return self.tokenizer.decode(prompt + new)
