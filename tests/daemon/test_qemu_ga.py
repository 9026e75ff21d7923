"""One script for the QEMU guest agent and for the daemon's host channel: the answers compared."""

from __future__ import annotations

import json
import random
import re
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.users.router import OF_AGENTS
from tests.daemon.qemu_ga_script import COMMANDS, EXECS, Case, Like, exec_errors, line, script
from tests.fixtures.daemon import Daemon, Stage
from tests.fixtures.qemu_ga import PATIENCE, Answer, Peer, QemuGuestAgent
from tests.fixtures.user_agent import ALICE, UserAgent
from tests.fuzz.qga.seeds import PIECES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

STRAY: Final = "JSON parse error, stray "
MEMBER: Final = "QMP input member "
OUR_LIMITS: Final = re.compile(rb'"desc": "JSON [^"]*(?:limit exceeded|number out of range)"')
ONLY_OURS: Final = (b"return", b"error", b"x-virtagent")
KNOWN_TO_BOTH: Final = [piece for piece in PIECES if not any(word in piece for word in ONLY_OURS)]
CHANCE: Final = 8  # the seed: the same texts each time
TEXTS: Final = 2000
ENOUGH: Final = 500  # cases, so that none is lost unseen


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with QemuGuestAgent(tmp_path_factory.mktemp("qemu-ga")) as program:
        peer = Peer(program.socket)
        yield peer
        peer.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Stage(tmp_path_factory.mktemp("stage") / "no-port") as stage:
        stage.daemon.wait_ready()
        yield stage.daemon


@pytest.fixture(scope="module")
def ours(daemon: Daemon) -> Iterator[Peer]:
    peer = Peer(daemon.host_channel)
    yield peer
    peer.close()


@pytest.fixture(scope="module")
def agent(daemon: Daemon) -> Iterator[UserAgent]:
    with UserAgent(daemon.agent_socket) as made:
        daemon.wait_line(f"the agent of {ALICE} has connected")
        yield made


def test_script(theirs: Peer, ours: Peer) -> None:
    cases = list(script())
    assert len(cases) > ENOUGH
    wrong = [text for case in cases if (text := compared(case, theirs, ours))]
    assert not wrong, f"{len(wrong)} of {len(cases)} differ:\n" + "\n".join(wrong[:20])


def test_texts_by_chance(theirs: Peer, ours: Peer) -> None:
    chance = random.Random(CHANCE)
    wrong = []
    for _ in range(TEXTS):
        data = b"".join(chance.choices(KNOWN_TO_BOTH, k=chance.randint(1, 12)))
        his, mine = theirs.ask(data), ours.ask(data)
        if not is_alike(his, mine):
            wrong.append(f"{data!r}\n    QEMU {his!s:.500}\n    ours {mine!s:.500}")
    assert not wrong, f"{len(wrong)} of {TEXTS} differ:\n" + "\n".join(wrong[:20])


def is_alike(his: list[Answer], mine: list[Answer]) -> bool:
    if any(OUR_LIMITS.search(answer.line) for answer in mine):
        return True
    # Which of two wrong members is told depends on QEMU's hash.
    return [(it.is_delimited, _first_words(it.value)) for it in his] == [
        (it.is_delimited, _first_words(it.value)) for it in mine
    ]


def _first_words(value: Any) -> object:  # noqa: ANN401 (JSON)
    match _reduced(value, Like.SAME):
        case {"error": (cls, str(text)), **rest} if text.startswith(MEMBER):
            return {"error": (cls, MEMBER), **rest}
        case other:
            return other


def test_info_lists_what_both_have_in_the_same_form(theirs: Peer, ours: Peer) -> None:
    his, mine = info(theirs), info(ours)
    assert his.keys() == mine.keys() == {"version", "supported_commands"}
    theirs_by_name = {command["name"]: command for command in his["supported_commands"]}
    ours_by_name = {command["name"]: command for command in mine["supported_commands"]}
    assert {*COMMANDS, "guest-info", "guest-exec", "guest-exec-status"} <= ours_by_name.keys()
    for name, command in ours_by_name.items():
        is_enabled = name not in OF_AGENTS  # without root's
        if name.startswith("virtagent-"):
            assert command == {"name": name, "enabled": is_enabled, "success-response": True}
        else:
            assert command == theirs_by_name[name] | {"enabled": is_enabled}


def info(peer: Peer) -> Any:  # noqa: ANN401 (JSON)
    [answer] = peer.ask(line("guest-info", id=1))
    assert isinstance(answer.value, dict)
    assert answer.value["id"] == 1
    return answer.value["return"]


def test_nobody_runs_a_command_if_no_user_is_named(ours: Peer) -> None:
    for command in ("guest-exec", "guest-exec-status"):
        [answer] = ours.ask(line(command, arguments={"path": "/bin/true"}))
        match answer.value:
            case {"error": {"class": "CommandNotFound", "desc": str(text)}}:
                assert text.startswith(f"Command {command} has been disabled")
            case _:
                pytest.fail(str(answer))


@pytest.mark.usefixtures("agent")
def test_errors_of_commands_that_are_run(theirs: Peer, ours: Peer) -> None:
    """A user's agent runs them with us, and the answer of virtagent-call is a plain one."""
    wrong = []
    for command, arguments, like in exec_errors():
        his = theirs.ask(line(command, arguments=arguments))
        mine = ours.ask(by_agent(command, arguments))
        if reduced(his, like) != reduced(mine, like) or "error" not in str(mine):
            wrong.append(f"{command} {arguments}\n    QEMU {his!s:.300}\n    ours {mine!s:.300}")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:20])


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("name", EXECS)
def test_command_that_is_run(name: str, theirs: Peer, ours: Peer) -> None:
    def ask_theirs(command: str, **arguments: object) -> Any:  # noqa: ANN401 (JSON)
        [answer] = theirs.ask(line(command, arguments=arguments))
        return answer.value

    def ask_ours(command: str, **arguments: object) -> Any:  # noqa: ANN401
        [answer] = ours.ask(by_agent(command, arguments))
        return answer.value

    his, mine = run(ask_theirs, EXECS[name]), run(ask_ours, EXECS[name])
    assert mine == his
    assert "exitcode" in mine or "signal" in mine


def by_agent(command: str, arguments: dict[str, Any]) -> bytes:
    """Return the request that has the user's agent do it."""
    call = {"username": ALICE, "execute": command, "arguments": arguments}
    return line("virtagent-call", arguments=call)


def run(ask: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Let it run to its end and return what is told of it, once."""
    pid = ask("guest-exec", **arguments)["return"]["pid"]
    deadline = time.monotonic() + PATIENCE
    while not (status := ask("guest-exec-status", pid=pid)["return"])["exited"]:
        assert status == {"exited": False}
        assert time.monotonic() < deadline
    assert ask("guest-exec-status", pid=pid) == {
        "error": {"class": "GenericError", "desc": "Invalid parameter 'pid'"}
    }
    assert isinstance(status, dict)
    return status


def compared(case: Case, theirs: Peer, ours: Peer) -> str:
    """Return what differs that should not, or what does not that should; "" for nothing."""
    his, mine = theirs.ask(*case.chunks), ours.ask(*case.chunks)
    for answer in mine:
        assert json.dumps(answer.value).encode() == answer.line  # its separators, ASCII alone
    if case.ours is not None:
        values = [answer.value for answer in mine]
        is_right = values == list(case.ours) and values != [answer.value for answer in his]
    else:
        is_right = reduced(his, case.like) == reduced(mine, case.like)
    return "" if is_right else f"{case.name}\n    QEMU {his!s:.500}\n    ours {mine!s:.500}"


def reduced(answers: list[Answer], like: Like) -> object:
    """Leave away what may differ."""
    return [(answer.is_delimited, _reduced(answer.value, like)) for answer in answers]


def _reduced(value: Any, like: Like) -> object:  # noqa: ANN401 (JSON)
    match value:
        case {"error": {"class": cls, "desc": text}, **rest}:
            if like is Like.CLASS:
                text = ""
            elif text.startswith(STRAY):  # what bytes that are no text become is QEMU's affair
                text = STRAY
            return {"error": (cls, text), **rest}
        case {"return": returned, **rest} if like is Like.SHAPE:
            return {"return": _shape(returned), **rest}
    return value


def _shape(value: object) -> object:
    if isinstance(value, dict):
        return {name: type(member) for name, member in value.items()}
    return type(value)
