"""What the metrics say of deploys: the stage that each is in, and how others ended."""

from typing import Final

from models.vocabulary import DEPLOY_RESULTS, DEPLOY_STAGES
from server import catalogue
from server.lines import Page


class DeployCounters:
    """On the loop. Models come in with their first deploy."""

    def __init__(self) -> None:
        self._results: Final[dict[str, int]] = dict.fromkeys(DEPLOY_RESULTS, 0)
        self._stages: Final[dict[str, str | None]] = {}

    def at(self, model: str, stage: str | None) -> None:
        """The deploy of a model is in this one of `vocabulary.DEPLOY_STAGES`; None: it is over."""
        self._stages[model] = stage

    def ended(self, result: str) -> None:
        """A deploy came to this one of `vocabulary.DEPLOY_RESULTS`."""
        self._results[result] += 1

    def page(self) -> Page:
        """Their series."""
        name, total = catalogue.DEPLOY_STAGE.name, catalogue.DEPLOYS.name
        stages = "".join(
            f'{name}{{model="{model}",stage="{stage}"}} {int(stage == now)}\n'
            for model, now in sorted(self._stages.items())
            for stage in DEPLOY_STAGES
        )
        results = "".join(f'{total}{{result="{r}"}} {n}\n' for r, n in self._results.items())
        return {name: stages, total: results}
