"""Every message in every state of the link, and what comes too late."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.device import CursorMove, Data, Format, QualityIndicator
from sessiond.wire.device import pack as pack_device
from sessiond.wire.link import (
    Activate,
    Config,
    Credit,
    DeviceMessage,
    Failed,
    Line,
    Pause,
    Ready,
    Serial,
    Stats,
    ToAgent,
    Unavailable,
    pack,
)
from sessiond.wire.link_state import (
    MAX_STRAY,
    RELAYED,
    TRANSITIONS,
    AgentLink,
    DaemonLink,
    Signal,
    State,
)

TO_AGENT: dict[Signal, ToAgent] = {
    Signal.CONFIG: Config("1", 0),
    Signal.ACTIVATE: Activate(9, (1,)),
    Signal.CREDIT: Credit(),
    Signal.LINE: Line(1e6),
    Signal.PAUSE: Pause(),
}
SERIAL = 3
FORMAT = pack_device(Format(1, 1, 1))
FRAME = pack_device(Data(b"jpeg"))
MOVE = pack_device(CursorMove(1, 2))
UNAVAILABLE = pack(Unavailable("off"))
FROM_AGENT: dict[Signal, bytes] = {
    Signal.READY: pack(Ready("r", ":0", 1, 1)),
    Signal.STATS: pack(Stats(1, 1, 0, 1.0)),
    Signal.FAILED: pack(Failed("r", "t")),
    Signal.SERIAL: pack(Serial(SERIAL)),
    Signal.OLD_SERIAL: pack(Serial(SERIAL - 1)),
    Signal.FORMAT: FORMAT,
    Signal.FRAME: FRAME,
    Signal.DECORATION: MOVE,
    Signal.UNAVAILABLE: UNAVAILABLE,
}
TO_STATE: dict[State, list[ToAgent | bytes]] = {
    State.NEW: [],
    State.OPENING: [Config("1", 0)],
    State.PAUSED: [Config("1", 0), FROM_AGENT[Signal.READY]],
    State.WAITING: [Config("1", 0), FROM_AGENT[Signal.READY], Activate(SERIAL, (1,))],
}
TO_STATE[State.SYNCED] = [*TO_STATE[State.WAITING], FROM_AGENT[Signal.SERIAL]]
TO_STATE[State.STREAMING] = [*TO_STATE[State.SYNCED], FORMAT]
TO_STATE[State.FAILED] = [*TO_STATE[State.PAUSED], FROM_AGENT[Signal.FAILED]]


def link_in(state: State) -> AgentLink:
    link = AgentLink()
    for step in TO_STATE[state]:
        if isinstance(step, bytes):
            list(link.receive(step))
        else:
            link.send(step)
    assert link.state is state
    return link


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("signal", TO_AGENT)
def test_daemon_sends_only_what_the_table_has(state: State, signal: Signal) -> None:
    link = link_in(state)
    if signal in TRANSITIONS[state]:
        assert list(DaemonLink().receive(link.send(TO_AGENT[signal]))) == [TO_AGENT[signal]]
        assert link.state is TRANSITIONS[state][signal]
    else:
        with pytest.raises(LocalProtocolError, match=f"{signal.name} in state {state.name}"):
            link.send(TO_AGENT[signal])
        assert link.state is state


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("signal", FROM_AGENT)
def test_agent_is_heard_only_as_the_table_says(state: State, signal: Signal) -> None:
    link = link_in(state)
    if signal is Signal.SERIAL and state is not State.WAITING:
        signal = Signal.OLD_SERIAL  # it was answered already, or there was none
        data = pack(Serial(link.serial))
    else:
        data = FROM_AGENT[signal] if link.serial else FROM_AGENT[signal].replace(b":2", b":0")
    if signal not in TRANSITIONS[state]:
        for _ in range(2):  # and stays dead
            with pytest.raises(ProtocolError, match=f"{signal.name} in state {state.name}"):
                list(link.receive(data))
        return
    found = list(link.receive(data))
    assert link.state is TRANSITIONS[state][signal]
    if signal is Signal.UNAVAILABLE:
        assert found == [Unavailable("off")] * (signal in RELAYED.get(state, ()))
    elif signal in {Signal.FORMAT, Signal.FRAME, Signal.DECORATION}:
        assert bool(found) is (signal in RELAYED.get(state, ()))
        assert all(isinstance(m, DeviceMessage) and m.data == data for m in found)
    else:
        assert bool(found) is (signal not in {Signal.SERIAL, Signal.OLD_SERIAL})


def test_what_was_on_its_way_at_a_new_start_does_not_reach_the_host() -> None:
    link = link_in(State.STREAMING)
    link.send(Activate(SERIAL + 1, (1,)))
    late = FRAME + MOVE + FORMAT + UNAVAILABLE + pack(Serial(SERIAL)) + FORMAT + FRAME
    assert list(link.receive(late)) == []
    new = pack(Serial(SERIAL + 1)) + FRAME + FORMAT + FRAME
    assert [m.data for m in link.receive(new) if isinstance(m, DeviceMessage)] == [FORMAT, FRAME]


def test_paused_agent_that_goes_on_writing_is_not_heard() -> None:
    link = link_in(State.STREAMING)
    link.send(Pause())
    assert list(link.receive(FORMAT + FRAME + MOVE + UNAVAILABLE)) == []
    assert link.state is State.PAUSED


def test_serial_of_the_future_breaks_the_link() -> None:
    with pytest.raises(ProtocolError, match="serial 4"):
        list(link_in(State.WAITING).receive(pack(Serial(SERIAL + 1))))


def test_quality_is_told_only_when_it_was_allowed() -> None:
    quality = pack_device(QualityIndicator("q"))
    with pytest.raises(ProtocolError, match="QUALITY"):
        list(link_in(State.STREAMING).receive(quality))
    link = link_in(State.PAUSED)
    link.send(Activate(SERIAL, (1,), quality=True))
    found = list(link.receive(FROM_AGENT[Signal.SERIAL] + quality))
    assert [m.data for m in found if isinstance(m, DeviceMessage)] == [quality]


@given(st.lists(st.sampled_from([*FROM_AGENT.values(), b"\x01", b"\0\0"]), max_size=12), st.data())
def test_no_agent_gets_a_frame_through_without_a_format(words: list[bytes], data: st.DataObject) -> None:  # fmt: skip  # noqa: E501
    link = link_in(data.draw(st.sampled_from([State.PAUSED, State.WAITING])))
    relayed: list[bytes] = []
    try:
        for word in words:
            relayed += [bytes(m.data) for m in link.receive(word) if isinstance(m, DeviceMessage)]
    except ProtocolError:
        pass
    if FRAME in relayed:
        assert FORMAT in relayed[: relayed.index(FRAME)]


@pytest.mark.parametrize("state", [State.PAUSED, State.WAITING, State.SYNCED])
def test_who_goes_on_writing_to_nobody_is_ended(state: State) -> None:
    link = link_in(state)
    assert not list(link.receive(FRAME * MAX_STRAY))
    link.send(Pause())  # its answer may be on its way, whatever was before
    assert not list(link.receive((FRAME + UNAVAILABLE) * (MAX_STRAY // 2)))
    with pytest.raises(ProtocolError, match="goes on writing in state PAUSED"):
        list(link.receive(FRAME))
