"""The daemon's own commands: their answers, and who is told about."""

import os
import time
from pathlib import Path

import pytest

from sessiond import __version__
from sessiond.errors import SessiondError
from sessiond.model import Display, Event, Reason, SeatFacts, Status
from sessiond.users import views
from sessiond.users.router import OF_AGENTS
from tests.fixtures.loop import in_loop
from tests.sessiond.users.hosting import ME, facts, session, world

OURS = {
    "guest-get-host-name", "guest-get-osinfo", "guest-get-time", "guest-get-timezone",
    "guest-get-users", "guest-info", "guest-ping", "guest-sync", "guest-sync-delimited",
    "virtagent-activate-session", "virtagent-call", "virtagent-connect-display",
    "virtagent-get-history", "virtagent-get-status", "virtagent-list-sessions",
    "virtagent-list-users", "virtagent-query-displays", "virtagent-query-screens",
    "virtagent-set-capabilities",
}  # fmt: skip
STREAMING = Status(
    session="1", reason=Reason.OK, text="All is well.", agent_pid=7, agent_restarts=1,
    host_codecs=(1, 99), codec=1, encoder="libjpeg-turbo", why="the host keeps up", width=640,
    height=480, backend="x11", displays={"1": Display(":0", "logind")},
)  # fmt: skip


@pytest.mark.parametrize("has_root", [False, True])
@in_loop
async def test_info_lists_what_there_is(tmp_path: Path, *, has_root: bool) -> None:
    if has_root and os.geteuid():
        pytest.skip("only root can be root's agent")
    async with world(tmp_path) as it, await it.client() as client:
        agent = await it.agent() if has_root else None
        info = await client.value("guest-info")
        assert info["version"] == __version__
        commands = {it["name"]: it["enabled"] for it in info["supported_commands"]}
        # Done by users' agents; by the daemon itself only where root's may.
        assert commands == {**dict.fromkeys(OURS, True), **dict.fromkeys(OF_AGENTS, has_root)}
        assert all(it["success-response"] is True for it in info["supported_commands"])
        if agent:
            await agent.close()


@in_loop
async def test_every_listed_command_is_known(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        for name in sorted(OURS):
            answer = await client.ask(name, nonsense=1)
            text = answer["error"]["desc"]
            assert text.startswith(("Parameter '", "no user is named")), text


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("guest-ping", {"z": 1}, "Parameter 'z' is unexpected"),
        ("guest-sync", {}, "Parameter 'id' is missing"),
        ("guest-sync", {"id": "1"}, "Invalid parameter type for 'id', expected: integer"),
        ("guest-sync", {"id": 1 << 63}, "Invalid parameter type for 'id', expected: integer"),
        ("guest-sync-delimited", {"id": 1.5}, "Invalid parameter type for 'id', expected: integer"),
        ("virtagent-activate-session", {}, "Parameter 'session' is missing"),
        ("virtagent-activate-session", {"session": "9"}, "there is no session '9'"),
        ("virtagent-get-history", {"limit": -1}, "Parameter 'limit' expects a number of 0 or more"),
        ("virtagent-query-displays", {}, "no user is named: Parameter 'username' is missing"),
        ("virtagent-query-displays", {"username": "x"}, "no agent connected for user 'x'"),
    ],
)
@in_loop
async def test_errors(
    tmp_path: Path, command: str, arguments: dict[str, object], text: str
) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        assert await client.error(command, **arguments) == ("GenericError", text)


@in_loop
async def test_machine(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        kernel = os.uname()
        assert await client.value("guest-get-host-name") == {"host-name": kernel.nodename}
        info = await client.value("guest-get-osinfo")
        assert info["kernel-release"] == kernel.release
        assert info["kernel-version"] == kernel.version
        assert info["machine"] == kernel.machine
        assert {"id", "name", "pretty-name"} <= set(info)
        assert all(isinstance(value, str) for value in info.values())
        before = time.time_ns()
        now = await client.value("guest-get-time")
        assert before <= now <= time.time_ns()


@in_loop
async def test_timezone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        async with world(tmp_path) as it, await it.client() as client:
            with monkeypatch.context() as patch:
                patch.setenv("TZ", "EST+5")
                zone = await client.value("guest-get-timezone")
                assert zone == {"zone": "EST", "offset": -5 * 3600}
    finally:
        time.tzset()


USERS = [
    # class, state, user, uid, since
    ("user", "active", "alice", 1000, 5_000_000),
    ("user", "online", "alice", 1000, 3_250_000),
    ("user-early", "online", "bob", 1001, 7_000_000),
    ("user", "closing", "carol", 1002, 1_000_000),
    ("greeter", "active", "gdm", 120, 1_000_000),
    ("lock-screen", "online", "dave", 1003, 1_000_000),
    ("background", "online", "erin", 1004, 1_000_000),
    ("manager", "online", "frank", 1005, 1_000_000),
    ("manager-early", "online", "root", 0, 1_000_000),
    ("user", "online", "", 1234, 9_000_000),
]


def test_users_are_people_with_their_earliest_login() -> None:
    sessions = [
        session(str(number), cls=cls, state=state, user=user, uid=uid, since=since)
        for number, (cls, state, user, uid, since) in enumerate(USERS)
    ]
    assert views.users(facts(*sessions)) == [
        {"user": "#1234", "login-time": 9.0},
        {"user": "alice", "login-time": 3.25},
        {"user": "bob", "login-time": 7.0},
    ]


def test_without_logind_nobody_has_logged_in() -> None:
    bare = SeatFacts(seat="seat0", sessions={"1": session("1")})
    assert views.users(bare) == []


@in_loop
async def test_users_and_sessions(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        assert await client.value("guest-get-users") == []
        it.facts = facts(
            session("1", since=1_500_000, vt=2),
            session("2", display=":5", active=True),
            session("c1", uid=1, user="gdm", cls="greeter", display=":9"),
            session("z", display=":6", state="closing"),
            active="2",
        )
        it.status = STREAMING
        [user] = await client.value("guest-get-users")
        assert user == {"user": ME, "login-time": 0.0}
        [known] = await client.value("virtagent-list-users")
        assert known.pop("since") <= time.time()
        assert known == {
            "user": ME, "uid": os.geteuid(), "pid": os.getpid(), "displays": [":0", ":5"],
        }  # fmt: skip
        sessions = await client.value("virtagent-list-sessions")
        assert [it["id"] for it in sessions] == ["1", "2", "c1", "z"]
        assert sessions[0] == {
            "id": "1", "user": ME, "uid": os.geteuid(), "class": "user", "type": "x11",
            "state": "active", "seat": "seat0", "vt": 2, "display": "", "tty": "", "desktop": "",
            "since": 1.5, "remote": False, "active": False, "locked": False, "shown": True,
        }  # fmt: skip
        assert [it["shown"] for it in sessions] == [True, False, False, False]
        await agent.close()


@in_loop
async def test_status_and_history(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        status = await client.value("virtagent-get-status")
        assert status["reason"] == "no-active-session"
        assert "codec" not in status
        it.events.append(Event(1.5, it.status))
        it.events.append(Event(2.5, STREAMING))
        it.status = STREAMING
        assert await client.value("virtagent-get-status") == {
            "state": "streaming", "reason": "ok", "text": "All is well.", "session": "1",
            "backend": "x11", "agent-pid": 7, "agent-restarts": 1,
            "host-codecs": ["mjpeg", "codec-99"], "next-retry": 0.0, "codec": "mjpeg",
            "encoder": "libjpeg-turbo", "codec-reason": "the host keeps up", "width": 640,
            "height": 480,
        }  # fmt: skip
        last = {
            "time": 2.5, "session": "1", "state": "streaming", "reason": "ok",
            "text": "All is well.",
        }  # fmt: skip
        assert await client.value("virtagent-get-history", limit=1) == [last]
        assert len(await client.value("virtagent-get-history")) == 2


@in_loop
async def test_activate(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        it.facts = facts(session("1"))
        assert await client.value("virtagent-activate-session", session="1") == {}
        it.activate_error = SessiondError("session 1 did not come to the front within 5 s")
        assert await client.error("virtagent-activate-session", session="1") == (
            "GenericError", "session 1 did not come to the front within 5 s",
        )  # fmt: skip
        assert it.activated == ["1", "1"]


@in_loop
async def test_displays(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        it.facts = facts(session("1", display=":0", active=True))
        told = [{"display": ":0", "connected": False}, {"display": ":7", "connected": True}]
        client.send({"execute": "virtagent-query-displays", "x-virtagent-username": ME})
        assert (await agent.answer(told)).command == "query-displays"
        shown = {"display": ":0", "session": "1", "type": "x11", "active": True, "connected": False}
        other = {"display": ":7", "session": "", "type": "", "active": False, "connected": True}
        assert await client.read() == {"return": [shown, other], "x-virtagent-username": ME}

        client.send({
            "execute": "virtagent-connect-display",
            "arguments": {"display": ":0", "show": True, "username": ME},
        })  # fmt: skip
        await agent.answer(told)
        assert (await agent.answer({})).arguments == {"display": ":0"}
        assert await client.read() == {"return": {"session": "1"}}
        assert it.activated == ["1"]

        inner = {"username": ME, "execute": "virtagent-query-screens",
                 "arguments": {"display": ":0"}}  # fmt: skip
        client.send({"execute": "virtagent-call", "arguments": inner})
        await agent.answer([{"display": ":0", "connected": True}])
        screen = {"output": "HDMI-1", "x": 0, "y": -5, "width": 640, "height": 480,
                  "primary": True}  # fmt: skip
        await agent.answer([screen])
        assert await client.read() == {"return": [screen]}


@in_loop
async def test_display_that_cannot_be_shown_is_an_error(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        it.facts = facts(session("1", display=":0"))
        it.activate_error = SessiondError("logind refused session 1")
        client.send({
            "execute": "virtagent-connect-display",
            "arguments": {"display": ":0", "show": True, "username": ME},
        })  # fmt: skip
        await agent.answer([])
        await agent.answer({})
        error = {"class": "GenericError", "desc": "logind refused session 1"}
        assert await client.read() == {"error": error}
