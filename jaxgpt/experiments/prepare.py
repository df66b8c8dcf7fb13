"""Which experiment a configuration is of."""

from jaxgpt.experiments import camrest, multiwoz, persuasion
from jaxgpt.experiments.config import CamRestExperiment, Experiment, MultiWozExperiment, PersuasionExperiment
from jaxgpt.experiments.running import Prepared


def prepare(cfg: Experiment) -> Prepared:
    """Reads the raw data; UserError where it is not what the configuration says."""
    match cfg:
        case PersuasionExperiment():
            return persuasion.prepare(cfg)
        case CamRestExperiment():
            return camrest.prepare(cfg)
        case MultiWozExperiment():
            return multiwoz.prepare(cfg)
    raise AssertionError(cfg)
