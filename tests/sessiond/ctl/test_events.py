"""What a monitor says of each signal."""

import json
from typing import Any

import pytest

from sessiond.ctl.client import MANAGER, OBJECT_MANAGER, PROPERTIES, ROOT, SESSION, USER_AGENT
from sessiond.ctl.events import Told, tell, tell_state
from sessiond.ctl.screen import to_json
from sessiond.transport.bus_match import Signal
from tests.sessiond.ctl import told
from tests.sessiond.ctl.told import AGENT, ALICE, ESCAPE

PATH = f"{ROOT}/session/_310"


def said(member: str, *body: Any, path: str = ROOT, interface: str = MANAGER) -> Told | None:  # noqa: ANN401
    return tell(Signal(":1.1", path, interface, member, list(body)), {PATH: "10"})


def line(member: str, *body: Any, **where: str) -> str:  # noqa: ANN401
    found = said(member, *body, **where)
    assert found
    return found.line


def test_what_holds_at_the_beginning() -> None:
    found = tell_state(told.MANAGER)
    assert found.line == "seat0 is streaming (ok): Session c2 is shown."
    assert found.fields["State"] == "streaming"


def test_properties() -> None:
    changed = {"State": "idle", "ReasonText": "No client.", "HostAsking": False, "Codec": "",
               "HostCodecs": ["mjpeg", "vp8"], "Width": 640}  # fmt: skip
    found = said("PropertiesChanged", MANAGER, changed, [], interface=PROPERTIES)
    assert found
    assert found.line == (
        'seat: State=idle, ReasonText="No client.", HostAsking=no, Codec="", '
        "HostCodecs=(mjpeg, vp8), Width=640"
    )
    assert found.fields == {"Session": "", "Changed": changed}


def test_properties_of_a_session() -> None:
    where = {"path": PATH, "interface": PROPERTIES}
    assert line("PropertiesChanged", SESSION, {"Shown": True}, [], **where) == (
        "session 10: Shown=yes"
    )


@pytest.mark.parametrize("body", [("org.example.Other", {"A": 1}, []), (MANAGER, {}, [])])
def test_what_says_nothing(body: tuple[Any, ...]) -> None:
    assert said("PropertiesChanged", *body, interface=PROPERTIES) is None
    assert said("Unheard") is None
    assert said("InterfacesAdded", "/other", {"org.example.Other": {}}) is None
    assert said("InterfacesRemoved", "/other", [SESSION]) is None


def test_switch() -> None:
    assert line("SessionSwitched", ["10", PATH], ["c2", "/c2"]) == (
        "switched from session 10 to session c2"
    )
    assert line("SessionSwitched", ["10", PATH], ["", "/"]) == (
        "switched from session 10 to no session"
    )


@pytest.mark.parametrize(
    ("status", "how"), [(0, "exit status 0"), (-9, "SIGKILL"), (-99, "signal 99")]
)
def test_agents(status: int, how: str) -> None:
    assert line("AgentStarted", "10", 4711) == "agent of session 10 started, pid 4711"
    assert line("AgentExited", "10", 4711, status, "agent-crashed") == (
        f"agent of session 10, pid 4711, ended by {how} (agent-crashed)"
    )


def test_sessions_come_and_go() -> None:
    names: dict[str, str] = {}
    new = Signal(":1.1", ROOT, OBJECT_MANAGER, "InterfacesAdded", [PATH, {SESSION: ALICE}])
    gone = Signal(":1.1", ROOT, OBJECT_MANAGER, "InterfacesRemoved", [PATH, [SESSION]])
    lines = [found.line for found in (tell(new, names), tell(gone, names)) if found]
    assert lines == ["new: session 10, alice, x11 user, VT 7", "gone: session 10"]
    assert names == {}


def test_users_agents_come_and_go() -> None:
    names: dict[str, str] = {}
    path = f"{ROOT}/user/1000"
    new = Signal(":1.1", ROOT, OBJECT_MANAGER, "InterfacesAdded", [path, {USER_AGENT: AGENT}])
    gone = Signal(":1.1", ROOT, OBJECT_MANAGER, "InterfacesRemoved", [path, [USER_AGENT]])
    events = [found for found in (tell(new, names), tell(gone, names)) if found]
    assert [it.line for it in events] == [
        "new: agent of user alice, pid 4712", "gone: agent of user alice"
    ]  # fmt: skip
    assert [it.fields for it in events] == [{"UserAgent": AGENT}, {"User": "alice"}]
    assert names == {}


@pytest.mark.parametrize(
    ("member", "body"),
    [
        ("PropertiesChanged", [MANAGER, {ESCAPE: ESCAPE, "List": [ESCAPE]}, []]),
        ("SessionSwitched", [[ESCAPE, "/"], [ESCAPE, "/"]]),
        ("AgentStarted", [ESCAPE, 1]),
        ("AgentExited", [ESCAPE, 1, 1, ESCAPE]),
        ("InterfacesAdded", ["/x", {SESSION: {"Id": ESCAPE, "User": [1, ESCAPE]}}]),
        ("InterfacesRemoved", [PATH, []]),
        ("InterfacesAdded", ["/x", {USER_AGENT: {"Name": ESCAPE, "PID": ESCAPE}}]),
        ("InterfacesRemoved", [PATH, [USER_AGENT]]),
    ],
)
def test_no_line_steers_the_terminal(member: str, body: list[Any]) -> None:
    found = tell(Signal(":1.1", ROOT, "", member, body), {PATH: ESCAPE})
    assert found
    assert found.line.isprintable()
    assert to_json(found.fields).isprintable()
    assert json.loads(to_json(found.fields)) == found.fields
