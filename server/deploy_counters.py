"""What the metrics say of deploys: the stage that each is in, and how others ended."""

from typing import Final

from models.vocabulary import DEPLOY_RESULTS, DEPLOY_STAGES
from server import catalogue
from server.lines import Page
from server.own_counts import Counts, States


class DeployCounters:
    """On the loop. Models come in with their first deploy."""

    def __init__(self) -> None:
        self._results: Final = Counts(catalogue.DEPLOYS, ((each,) for each in DEPLOY_RESULTS))
        self._stages: Final = States(catalogue.DEPLOY_STAGE, DEPLOY_STAGES)

    def at(self, model: str, stage: str | None) -> None:
        """The deploy of a model is in this one of `vocabulary.DEPLOY_STAGES`; None: it is over."""
        self._stages.put(model, stage)

    def ended(self, result: str) -> None:
        """A deploy came to this one of `vocabulary.DEPLOY_RESULTS`."""
        self._results.add(result)

    def page(self) -> Page:
        """Their series."""
        return self._stages.page | self._results.page
