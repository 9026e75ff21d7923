"""The steps from any agents to the wanted ones: a table, and what holds whatever is wanted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.stream.reconcile import PLACEHOLDER, Action, Phase, Wanted, reconcile

LOOKED_UP, OPENING, READY, ACTIVE, STOPPING = Phase
KEYS = ("1", "2", "c1", PLACEHOLDER)
Running = dict[str, Phase]


def wanted(run: str = "", keep: str = "", show: str = "") -> Wanted:
    return Wanted(frozenset(run.split()), frozenset(keep.split()), show)


@pytest.mark.parametrize(
    ("wish", "running", "steps"),
    [
        (wanted(), {}, ""),
        (wanted("1"), {}, "launch 1"),
        (wanted("2 1"), {}, "launch 1, launch 2"),
        (wanted("1", show="1"), {}, "launch 1"),
        (wanted("1", show="1"), {"1": OPENING}, ""),
        (wanted("1", show="1"), {"1": READY}, "activate 1"),
        (wanted("1", show="1"), {"1": ACTIVE}, ""),
        (wanted("1", show="1"), {"1": STOPPING}, ""),
        (wanted("1"), {"1": ACTIVE}, "pause 1"),
        (wanted("1", show="1"), {"1": LOOKED_UP}, ""),
        (wanted(), {"1": LOOKED_UP}, ""),
        (wanted(), {"1": OPENING}, "stop 1"),
        (wanted(), {"1": READY}, "stop 1"),
        (wanted(), {"1": ACTIVE}, "pause 1, stop 1"),
        (wanted(), {"1": STOPPING}, ""),
        (wanted(keep="1"), {"1": OPENING}, ""),
        (wanted(keep="1"), {"1": ACTIVE}, "pause 1"),
        (wanted(keep="1"), {}, ""),
        (wanted("2", "1 2", "2"), {"1": ACTIVE}, "pause 1, launch 2"),
        (wanted("2", "1 2", "2"), {"1": ACTIVE, "2": READY}, "pause 1, activate 2"),
        (wanted("2", "2", "2"), {"2": READY, "1": ACTIVE}, "pause 1, stop 1, activate 2"),
        (wanted("placeholder", "1", "placeholder"), {"1": ACTIVE}, "pause 1, launch placeholder"),
        (wanted("1", "", "1"), {"placeholder": ACTIVE, "1": READY},
         "pause placeholder, stop placeholder, activate 1"),
    ],
)  # fmt: skip
def test_steps(wish: Wanted, running: Running, steps: str) -> None:
    found = ", ".join(f"{action.verb} {action.key}" for action in reconcile(wish, running))
    assert found == steps


RUNNING = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(Phase)).filter(
    lambda running: list(running.values()).count(ACTIVE) <= 1
)
SETS = st.frozensets(st.sampled_from(KEYS))
WISHES = st.builds(Wanted, SETS, SETS, st.sampled_from(["", *KEYS]))
# Who is shown has an agent, as the supervisor wants it; nobody else promises that.
SENSIBLE = WISHES.filter(lambda wish: not wish.show or wish.show in wish.run)


def act(action: Action, running: Running) -> None:
    """Do to the world what the action does at once, and check that it may be done."""
    phase = running.get(action.key)
    match action.verb:
        case "launch":
            assert phase is None
            running[action.key] = LOOKED_UP
        case "pause":
            assert phase is ACTIVE
            running[action.key] = READY
        case "activate":
            assert phase is READY
            running[action.key] = ACTIVE
        case verb:
            assert verb == "stop"
            assert phase in {OPENING, READY}
            running[action.key] = STOPPING
    assert list(running.values()).count(ACTIVE) <= 1


@given(WISHES, RUNNING)
def test_each_step_may_be_done_and_only_one_is_ever_active(wish: Wanted, running: Running) -> None:
    for action in reconcile(wish, running):
        act(action, running)


@given(WISHES, RUNNING)
def test_unwanted_are_silenced_and_ended(wish: Wanted, running: Running) -> None:
    was = dict(running)
    for action in reconcile(wish, running):
        act(action, running)
    for key, phase in running.items():
        assert phase is not ACTIVE or key == wish.show
        if key not in wish.run | wish.keep and key in was:
            assert phase in {LOOKED_UP, STOPPING}


@given(WISHES, RUNNING)
def test_nothing_is_left_to_do_after_all_steps(wish: Wanted, running: Running) -> None:
    for action in reconcile(wish, running):
        act(action, running)
    assert not reconcile(wish, running)


@given(SENSIBLE, RUNNING, st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_wanted_state_is_reached(wish: Wanted, running: Running, order: list[int]) -> None:
    for turn in order:
        for action in reconcile(wish, running):
            act(action, running)
        pending = sorted(key for key, it in running.items() if it in {LOOKED_UP, OPENING, STOPPING})
        if not pending:
            break
        key = pending[turn % len(pending)]
        if running[key] is LOOKED_UP and key in wish.run | wish.keep:
            running[key] = OPENING
        elif running[key] is OPENING:
            running[key] = READY
        else:
            del running[key]
    assert wish.run <= running.keys() <= wish.run | wish.keep
    assert {key for key, it in running.items() if it is ACTIVE} == {wish.show} - {""}
    assert set(running.values()) <= {READY, ACTIVE}
