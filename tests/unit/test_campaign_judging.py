"""The oracle's judgement, and what records amount to."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.campaign_records import control, fault, order, trial

from nooks.lab.campaign.order import Outcome, Verdict, not_run
from nooks.lab.campaign.summary import by_type, isolation, summarize, unrecovered, wilson
from nooks.lab.campaign.verdict import Observation, is_dormant, judge
from nooks.lab.product import Event

INJECTED_AT = 1000.0


def failed(reason: str = "oops", at: float = 0.1, incarnation: int = 3) -> Event:
    return Event(INJECTED_AT + at, incarnation, "failed", reason)


def resumed(at: float = 0.15, incarnation: int = 4) -> Event:
    return Event(INJECTED_AT + at, incarnation, "resumed", "", {"recovery_seconds": 0.04, "means": "spare"})


def observation(
    *events: Event,
    state: str = "running",
    errors: tuple[str, ...] = (),
    works: bool = True,
    outage: float | None = 0.2,
) -> Observation:
    return Observation(events, state, errors, works, outage, INJECTED_AT, [fault()])


WRONG = ("a file came with wrong content",)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (observation(), Verdict.NO_EFFECT),
        (observation(errors=WRONG), Verdict.UNDETECTED),
        (observation(errors=WRONG, works=False), Verdict.UNDETECTED),
        (observation(failed(), resumed()), Verdict.RECOVERED),
        (observation(failed(), resumed(), errors=WRONG), Verdict.RECOVERED_WITH_ERROR),
        (observation(failed(), resumed(), errors=WRONG, works=False), Verdict.NOT_RECOVERED),
        (observation(failed(), state="degraded", errors=WRONG), Verdict.NOT_RECOVERED),
        (observation(failed(), state="recovering"), Verdict.NOT_RECOVERED),
        (observation(failed(), resumed(), failed("oops", 0.3, 4), state="degraded"), Verdict.NOT_RECOVERED),
        (observation(failed(), resumed(), failed("oops", 0.3, 4), resumed(0.4, 5)), Verdict.RECOVERED),
        (observation(failed("planned"), resumed()), Verdict.NO_EFFECT),
    ],
)
def test_every_verdict(seen: Observation, verdict: Verdict) -> None:
    assert judge(seen)["verdict"] == verdict


def test_times_and_reasons_are_those_of_the_first_failure() -> None:
    found = judge(observation(failed(), resumed(), failed("heartbeat", 0.5, 4), resumed(0.6, 5)))
    assert found["domain"] == "failed"
    assert found["reason"] == "oops"
    assert found["detection_seconds"] == 0.1
    assert found["recovery_seconds"] == 0.04
    assert found["outage_seconds"] == 0.2
    assert (found["means"], found["failures"]) == ("spare", 2)


def test_a_healthy_domain_has_no_times() -> None:
    found = judge(observation(outage=None))
    assert found["domain"] == "healthy"
    assert [found[f"{what}_seconds"] for what in ("detection", "recovery", "outage")] == [None, None, None]


def test_an_outage_that_did_not_end_has_no_length() -> None:
    assert judge(observation(errors=WRONG, works=False))["outage_seconds"] is None
    assert judge(observation(failed(), state="degraded", errors=WRONG))["outage_seconds"] is None
    assert judge(observation(failed(), resumed(), errors=WRONG))["outage_seconds"] == 0.2


def test_dormant_is_only_what_surely_did_not_run() -> None:
    assert is_dormant([fault(executed=False), fault(executed=False)])
    assert not is_dormant([fault(executed=False), fault(executed=True)])
    assert not is_dormant([fault(executed=False), fault(executed=None)])
    assert not is_dormant([{"type": "nop"}])


def test_a_trial_that_was_not_run_is_never_a_success() -> None:
    record = not_run(order(3), "no memory")
    assert record["verdict"] == Verdict.NOT_RUN
    summary = summarize([record, trial(1)], [], {})
    assert summary["verdicts"]["not-run"] == 1
    assert (summary["effective"], summary["with_effect"], summary["automatic"]) == (1, 1, 1.0)
    assert not_run(order(3, side="native"), "no memory")["outcome"] == Outcome.NOT_RUN


def test_the_order_tells_how_to_repeat_it() -> None:
    assert order(17).injection_seed == 700017
    assert order(17).repeat() == (
        "nooks campaign --driver e1000 --faults 5 --type mixed --seed 7 --kernel 6.1.0-test --trial 17"
    )
    assert order(17, side="native", kernel=None).repeat().endswith("--seed 7 --trial 17 --native")


# -- what records amount to ------------------------------------------------------------------------------------


def test_the_denominator_has_failures_and_errors_only() -> None:
    trials = [
        *(trial(number) for number in range(8)),
        trial(8, Verdict.UNDETECTED),
        trial(9, Verdict.RECOVERED_WITH_ERROR),
        trial(10, Verdict.NO_EFFECT),
        trial(11, Verdict.NO_EFFECT, dormant=True),
        trial(12, Verdict.NOT_RUN),
    ]
    found = summarize(trials, [], {"seed": 7})
    assert found["seed"] == 7
    assert (found["trials"], found["dormant"], found["effective"], found["with_effect"]) == (13, 1, 11, 10)
    assert found["automatic"] == 0.8
    assert found["automatic_interval"] == [0.4902, 0.9433]
    assert found["verdicts"]["no-effect"] == 2
    assert found["drivers"]["e1000"]["automatic"] == 0.8
    assert [record["trial"] for record in unrecovered(trials)] == [8, 9]


def test_a_failure_without_a_fault_that_ran_counts_all_the_same() -> None:
    found = summarize([trial(1, Verdict.UNDETECTED, dormant=True)], [], {})
    assert (found["dormant"], found["effective"], found["automatic"]) == (0, 1, 0.0)


def test_isolation_compares_what_was_made_both_ways() -> None:
    trials = [trial(1), trial(2), trial(3), trial(4, Verdict.NOT_RUN), trial(1, driver="e100", host="harmed")]
    controls = [
        control(1, Outcome.PANIC),
        control(2, Outcome.HANG),
        control(4, Outcome.PANIC),
        control(9, Outcome.PANIC),
        control(1, Outcome.DRIVER_FAILED, driver="e100"),
        control(3, Outcome.NOT_RUN),
    ]
    found = isolation(trials, controls)
    assert (found["pairs"], found["native_crashes"], found["nook_crashes"]) == (3, 2, 1)
    assert found["native"] == {"no-effect": 0, "panic": 1, "hang": 1, "driver-failed": 1}


def test_types_count_what_was_injected_and_what_ran() -> None:
    trials = [
        trial(1, faults=[fault("nop"), fault("nop"), fault("loop", executed=False)]),
        trial(2, Verdict.UNDETECTED, faults=[fault("loop"), fault("text", executed=None)]),
    ]
    table = by_type(trials)
    assert table["nop"] | {"no-effect": 0} == table["nop"]
    assert (table["nop"]["injected"], table["nop"]["ran"], table["nop"]["recovered"]) == (2, 2, 1)
    assert (table["loop"]["injected"], table["loop"]["ran"], table["loop"]["undetected"]) == (2, 1, 1)
    assert table["text"]["ran"] == 1


@given(st.integers(1, 500).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_the_interval_has_the_share_in_it_and_solves_the_score_equation(counts: tuple[int, int]) -> None:
    successes, trials = counts
    interval = wilson(successes, trials)
    assert interval is not None
    low, high = interval
    share = successes / trials
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:
            assert math.isclose(abs(share - bound) / math.sqrt(bound * (1 - bound) / trials), 1.959964, rel_tol=1e-4)


def test_no_trials_have_no_interval() -> None:
    assert wilson(0, 0) is None
    found = summarize([], [], {})
    assert found["automatic"] is None
    assert found["automatic_interval"] is None
