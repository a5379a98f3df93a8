"""``nooks metrics``: what the supervisors say of themselves, in Prometheus' text format."""

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from nooks.host.errors import NooksError

METRICS_SECONDS = 3.0
STATES = ("starting", "running", "recovering", "degraded", "stopping", "stopped", "orphaned")

COUNTERS = frozenset({"failures", "recoveries", "planned", "requests", "frames_moved", "frames_dropped", "lost_events"})
"""Facts that only ever grow; as metrics they end in ``_total``."""

NO_METRICS = frozenset({"status", "name", "class", "driver", "state", "pid", "domain_pid", "spare_pid"})

DOCUMENTATION = {
    "up": "Whether the nook's supervisor answers.",
    "state": "1 for the state that the nook is in.",
    "incarnation": "The number of the domain that serves the nook.",
    "failures_total": "Failures that were detected.",
    "recoveries_total": "Failures that were recovered from.",
    "last_recovery_seconds": "How long the last recovery took, report to resumed service.",
}
"""Help texts; facts that are not named here get their own name as one."""


def metrics() -> None:
    """Print the metrics of all nooks in Prometheus' text format."""
    from nooks.lifecycle import contact

    facts: list[dict[str, Any]] = []
    for status in contact.all_status():
        own: dict[str, Any] = {}
        with suppress(NooksError), contact.connect(status["name"]) as control:
            own = control.request("metrics", timeout_seconds=METRICS_SECONDS)
        facts.append({**own, "status": status, "up": bool(own)})
    sys.stdout.write(render(facts))


def render(nooks: Iterable[Mapping[str, Any]]) -> str:
    """Prometheus' text for the facts of some nooks.

    Each has ``status`` (CONTRACT's), ``up``, and the supervisor's own facts: a number under a name, or a mapping from
    a label's value to a number (the label is called ``kind``). A name ending in ``_total`` is a counter.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def sample(name: str, labels: dict[str, str], value: float) -> None:
        if name not in families:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            documentation = DOCUMENTATION.get(name, name.replace("_", " ").capitalize() + ".")
            families[name] = kind(f"nooks_{name}", documentation, labels=list(labels))
        families[name].add_metric(list(labels.values()), value)

    for facts in nooks:
        status = facts["status"]
        labels = {"nook": str(status["name"]), "class": str(status["class"]), "driver": str(status["driver"])}
        for state in STATES:
            sample("state", {**labels, "state": state}, float(state == status["state"]))
        for name, value in _numbers(facts).items():
            if isinstance(value, Mapping):
                for kind, number in value.items():
                    sample(name, {**labels, "kind": str(kind)}, float(number))
            else:
                sample(name, labels, float(value))

    class Facts(Collector):
        def collect(self) -> Iterable[Metric]:
            return families.values()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Facts())
    return generate_latest(registry).decode()


def _numbers(facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that is a number, or a mapping to numbers, under its metric's name."""
    status = facts["status"]
    merged = {
        f"{key}_total" if key in COUNTERS else key: value
        for key, value in {**status, **facts}.items()
        if key not in NO_METRICS
    }

    def is_number(value: object) -> bool:
        return isinstance(value, int | float)

    return {
        key: value
        for key, value in merged.items()
        if is_number(value) or (isinstance(value, Mapping) and value and all(map(is_number, value.values())))
    }
