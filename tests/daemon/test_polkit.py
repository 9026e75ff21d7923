"""Who may change what, with a real polkitd that knows our actions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pwd
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.bus import access
from sessiond.bus.paths import ROOT, session_path
from tests.daemon.scene import ALICE, BOB, Scene, wait_number
from tests.fixtures.daemon import BUS_NAME, MANAGER
from tests.fixtures.loop import in_loop
from tests.fixtures.polkit import Polkit, require_polkit
from tests.fixtures.processes import DIE_WITH_PARENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.e2e

SESSION: Final = f"{BUS_NAME}.Session"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
DENIED: Final = "org.freedesktop.DBus.Error.AccessDenied"
ASK: Final = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"

# Accounts that every Debian has. What the rules do not name is as the policy's defaults say.
MAY_ONE: Final = {
    "games": access.SWITCH,
    "man": access.PAUSE,
    "lp": access.RESTART,
    "mail": access.SETTINGS,
    "news": access.RELOAD,
}
MAY_ALL: Final = "backup"
MAY_NOTHING: Final = "irc"
UNNAMED: Final = "nobody"
RULES: Final = f"""
var mayOne = {json.dumps(MAY_ONE)};
polkit.addRule(function(action, subject) {{
    if (subject.user in mayOne)
        return mayOne[subject.user] == action.id ? polkit.Result.YES : polkit.Result.NO;
    if (subject.user == "{MAY_ALL}")
        return polkit.Result.YES;
    if (subject.user == "{MAY_NOTHING}")
        return polkit.Result.NO;
}});
"""

# What is asked about each order, the object's path, the method, and its arguments.
Order = tuple[str, str, str, tuple[str, ...]]


def _setting(name: str, value: str) -> tuple[str, str, tuple[str, ...]]:
    return ROOT, f"{PROPERTIES}.Set", (f"'{MANAGER}'", f"'{name}'", f"<{value}>")


ORDERS: Final[dict[str, Order]] = {
    "ActivateSession": (access.SWITCH, ROOT, f"{MANAGER}.ActivateSession", ("'1'",)),
    "SwitchToVT": (access.SWITCH, ROOT, f"{MANAGER}.SwitchToVT", ("uint32 7",)),
    "Activate": (access.SWITCH, session_path("1"), f"{SESSION}.Activate", ()),
    "StreamingEnabled": (access.PAUSE, *_setting("StreamingEnabled", "true")),
    "SetStreaming": (access.PAUSE, session_path("1"), f"{SESSION}.SetStreaming", ("true",)),
    "RestartAgent": (access.RESTART, ROOT, f"{MANAGER}.RestartAgent", ()),
    "AutoSwitch": (access.SETTINGS, *_setting("AutoSwitch", "'off'")),
    "Reload": (access.RELOAD, ROOT, f"{MANAGER}.Reload", ()),
}
READINGS: Final[dict[str, Order]] = {
    "State": ("", ROOT, f"{PROPERTIES}.Get", (f"'{MANAGER}'", "'State'")),
    "GetAll": ("", session_path("1"), f"{PROPERTIES}.GetAll", (f"'{SESSION}'",)),
    "ListSessions": ("", ROOT, f"{MANAGER}.ListSessions", ()),
    "GetHistory": ("", ROOT, f"{MANAGER}.GetHistory", ("uint32 0",)),
}


@pytest.fixture
def polkit(scene: Scene) -> Iterator[Polkit]:
    require_polkit()
    with Polkit(scene.stage.bus.address, RULES) as made:
        yield made


def ask(scene: Scene, user: str, order: Order, *, interactive: bool = False) -> str:
    """Let USER call a method; return the error's name, "" for none."""
    _action, path, method, arguments = order
    done = subprocess.run(
        [
            *("gdbus", "call", "--address", scene.stage.bus.address, "--dest", BUS_NAME),
            *("--object-path", path, "--method", method, *(["-i"] if interactive else [])),
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        **_as(user),
    )
    if not done.returncode:
        return ""
    said = str(done.stderr)
    return said.partition("GDBus.Error:")[2].partition(": ")[0] or said


def _as(user: str) -> dict[str, Any]:
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _uid(user: str) -> int:
    return pwd.getpwnam(user).pw_uid


@pytest.mark.usefixtures("polkit")
def test_each_order_is_asked_about_by_its_action(scene: Scene) -> None:
    scene.add_alice()
    for user, may in MAY_ONE.items():
        answers = {name: ask(scene, user, order) for name, order in ORDERS.items()}
        assert answers == {
            name: "" if order[0] == may else DENIED for name, order in ORDERS.items()
        }, user


@pytest.mark.usefixtures("polkit")
def test_everybody_may_read(scene: Scene) -> None:
    scene.add_alice()
    for name, order in READINGS.items():
        assert ask(scene, MAY_NOTHING, order) == "", name


def test_root_is_not_asked(scene: Scene, polkit: Polkit) -> None:
    scene.add_alice()
    polkit.freeze()
    for name, order in ORDERS.items():
        assert ask(scene, "root", order) == "", name


def test_without_polkit_only_root_may(scene: Scene) -> None:
    require_polkit()
    scene.add_alice()
    for name, order in ORDERS.items():
        assert ask(scene, MAY_ALL, order) == DENIED, name
        assert ask(scene, "root", order) == "", name
    scene.daemon.wait_line("polkit was asked about")


@pytest.mark.usefixtures("polkit")
def test_a_password_is_asked_for_only_when_the_caller_allows_it(scene: Scene) -> None:
    order = ORDERS["Reload"]
    assert ask(scene, UNNAMED, order) == ASK
    # No agent is there that could ask somebody.
    assert ask(scene, UNNAMED, order, interactive=True) == DENIED
    # Who is denied needs no password, and who is allowed none either.
    assert ask(scene, MAY_NOTHING, order) == DENIED
    assert ask(scene, MAY_ALL, order, interactive=True) == ""


@pytest.mark.usefixtures("polkit")
@pytest.mark.parametrize(
    ("flag", "answer"),
    [("no", f"a password is needed for {access.RELOAD}"), ("yes", "Access denied")],
)
def test_busctl_chooses_with_its_option(scene: Scene, flag: str, answer: str) -> None:
    done = subprocess.run(
        [
            *("busctl", f"--address={scene.stage.bus.address}"),
            *(f"--allow-interactive-authorization={flag}", "call"),
            *(BUS_NAME, ROOT, MANAGER, "Reload"),
        ],
        capture_output=True,
        text=True,
        check=False,
        **_as(UNNAMED),
    )
    assert answer in done.stderr


@pytest.mark.usefixtures("polkit")
def test_sessions_own_user_pauses_and_resumes_it_and_no_others(scene: Scene) -> None:
    owner = MAY_NOTHING
    scene.add_bob(front=False)
    scene.add_alice(uid=_uid(owner), gid=_uid(owner), user=owner)
    probe = scene.watch()
    wait_number(probe, ALICE)
    assert ask(scene, owner, _streaming("1", "false")) == ""
    assert scene.daemon.property("Reason") == "paused-by-user"
    probe.wait_for("primary-create", w=1024, h=768)
    assert ask(scene, owner, _streaming("1", "true")) == ""
    wait_number(probe, ALICE)
    assert ask(scene, owner, _streaming("c2", "false")) == DENIED
    assert ask(scene, owner, ORDERS["StreamingEnabled"]) == DENIED


@pytest.mark.usefixtures("polkit")
def test_sessions_own_user_restarts_its_agent_while_it_is_shown(scene: Scene) -> None:
    owner = MAY_NOTHING
    scene.add_bob(front=False)
    scene.add_alice(uid=_uid(owner), gid=_uid(owner), user=owner)
    probe = scene.watch()
    wait_number(probe, ALICE)
    before = scene.daemon.property("AgentPID")
    mark = scene.daemon.now()
    assert ask(scene, owner, ORDERS["RestartAgent"]) == ""
    scene.daemon.wait_reason("ok", after=mark)
    assert scene.daemon.property("AgentPID") not in {0, before}
    scene.stage.login1.do("switch", id="c2")
    wait_number(probe, BOB)
    assert ask(scene, owner, ORDERS["RestartAgent"]) == DENIED


@pytest.mark.usefixtures("polkit")
@pytest.mark.parametrize("admin", ["root", MAY_ALL])
def test_sessions_own_user_cannot_undo_an_administrators_pause(scene: Scene, admin: str) -> None:
    owner = MAY_NOTHING
    scene.add_alice(uid=_uid(owner), gid=_uid(owner), user=owner)
    assert ask(scene, admin, _streaming("1", "false")) == ""
    for enabled in ("true", "false"):  # to pause it too would make it the user's own
        assert ask(scene, owner, _streaming("1", enabled)) == DENIED
        assert scene.daemon.property("Reason") == "paused-by-admin"
    # Nobody is left to undo it but an administrator, who may undo the user's own as well.
    assert ask(scene, admin, _streaming("1", "true")) == ""
    assert ask(scene, owner, _streaming("1", "false")) == ""
    assert ask(scene, admin, _streaming("1", "true")) == ""
    assert scene.daemon.property("State") != "paused"


@in_loop
async def test_a_hanging_polkit_holds_up_nobody_else(scene: Scene, polkit: Polkit) -> None:
    scene.add_alice()
    probe = await asyncio.to_thread(scene.watch)
    await asyncio.to_thread(wait_number, probe, ALICE)
    polkit.freeze()
    async with _asking(scene, MAY_ALL, "StreamingEnabled", "true") as caller:
        assert scene.daemon.property("State") == "streaming"
        assert ask(scene, MAY_NOTHING, READINGS["ListSessions"]) == ""
        assert ask(scene, "root", ORDERS["Reload"]) == ""
        scene.screens[ALICE].show_number(5)
        await asyncio.to_thread(wait_number, probe, 5)
        assert caller.returncode is None
        polkit.thaw()
        assert await caller.wait() == 0


@in_loop
async def test_who_has_left_while_polkit_was_asked_changes_nothing(
    scene: Scene, polkit: Polkit
) -> None:
    polkit.freeze()
    async with _asking(scene, MAY_ALL, "StreamingEnabled", "false") as caller:
        caller.kill()
        await caller.wait()
        polkit.thaw()
        scene.daemon.wait_line("polkit was asked about")
    assert scene.daemon.property("StreamingEnabled") is True
    assert ask(scene, MAY_ALL, ORDERS["Reload"]) == ""


def _streaming(session: str, value: str) -> Order:
    return access.PAUSE, session_path(session), f"{SESSION}.SetStreaming", (value,)


@contextlib.asynccontextmanager
async def _asking(
    scene: Scene, user: str, name: str, value: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """USER sets a property of type b; begins when polkit has been asked about it."""
    busctl = (*DIE_WITH_PARENT, "busctl", f"--address={scene.stage.bus.address}")
    monitor = await asyncio.create_subprocess_exec(
        *(*busctl, "monitor", "--match", "type='method_call',member='CheckAuthorization'"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert monitor.stdout is not None
    assert monitor.stderr is not None
    assert b"Monitoring" in await monitor.stderr.readline()
    caller = await asyncio.create_subprocess_exec(
        *("busctl", f"--address={scene.stage.bus.address}", "set-property"),
        *(BUS_NAME, ROOT, MANAGER, name, "b", value),
        **_as(user),
    )
    try:
        assert await monitor.stdout.readline()
        yield caller
    finally:
        for process in (monitor, caller):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
