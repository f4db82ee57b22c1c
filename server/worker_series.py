"""The series of worker processes, of which there are few."""

from collections import Counter
from collections.abc import Iterable, Mapping

from models.vocabulary import REPLACEMENT_REASONS, WORKER_STATES
from server import catalogue
from server.catalogue import Metric
from server.lines import Page
from server.runtime import WorkerStatus


def worker_page(
    workers: Iterable[WorkerStatus], cpu_seconds: Iterable[float], replaced: Mapping[str, int]
) -> Page:
    """What is said of the workers.

    Args:
        workers: those that run.
        cpu_seconds: of each slot, from the first on: of all the workers it has had.
        replaced: how many were, by why.
    """
    states = Counter(worker.state for worker in workers)
    by_slot = {worker.slot: worker for worker in workers}
    used = list(cpu_seconds)
    present = [by_slot.get(slot) for slot in range(len(used))]
    connections = [0 if each is None else each.connections for each in present]
    memory = [0 if each is None else each.memory_bytes for each in present]
    return {
        metric.name: "".join(_line(metric, label, value) for label, value in values)
        for metric, values in (
            (catalogue.WORKERS, ((state, states[state]) for state in WORKER_STATES)),
            (catalogue.WORKERS_REPLACED, ((why, replaced[why]) for why in REPLACEMENT_REASONS)),
            (catalogue.WORKER_CONNECTIONS, enumerate(connections)),
            (catalogue.WORKER_MEMORY, enumerate(memory)),
            (catalogue.WORKER_CPU, enumerate(used)),
        )
    }


def _line(metric: Metric, label: object, value: float) -> str:
    return f'{metric.name}{{{metric.labels[0]}="{label}"}} {value!r}\n'
