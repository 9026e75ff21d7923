"""spice-sessionctl as its users start it, with the real daemon."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from tests.daemon.scene import ALICE, Scene, wait_number
from tests.fixtures.child import ROOT
from tests.fixtures.processes import DIE_WITH_PARENT

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

pytestmark = pytest.mark.e2e

CTL: Final = (sys.executable, "-m", "sessiond.ctl")
NOBODY: Final = 65534
# The modules may lie where only root reads them: they are loaded first, as an installed program's
# would be readable.
AS_NOBODY: Final = f"""\
import os, sys
import sessiond.ctl.commands, sessiond.ctl.program
from sessiond.ctl.__main__ import main
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.exit(main())
"""


def ctl(
    scene: Scene, *argv: str, program: tuple[str, ...] = CTL
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*program, f"--bus={scene.stage.bus.address}", *argv],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


def document(scene: Scene, *argv: str) -> Any:  # noqa: ANN401 (as the command has it)
    done = ctl(scene, "--json=short", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def order(scene: Scene, *argv: str) -> None:
    """Run a command that is silent when it has done what it was told."""
    done = ctl(scene, *argv)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def stream_alice(scene: Scene) -> None:
    """Log Alice and Bob in, and show her."""
    scene.add_alice()
    scene.add_bob(front=False)
    wait_number(scene.watch(), ALICE)
    scene.daemon.wait_reason("ok")


def test_status_list_and_show(scene: Scene) -> None:
    stream_alice(scene)
    status = document(scene, "status")
    assert (status["State"], status["Session"]["User"][1]) == ("streaming", "alice")
    assert [(it["Id"], it["Shown"]) for it in document(scene, "list")] == [
        ("1", True),
        ("c2", False),
    ]
    assert document(scene, "show", "c2")["User"][1] == "bob"
    text = ctl(scene).stdout
    assert "State: streaming (ok)" in text
    assert "\x1b" not in text
    assert "session 1, alice, x11 user, VT 7" in text


def test_activate_and_switch_return_when_it_is_in_front(scene: Scene) -> None:
    stream_alice(scene)
    order(scene, "activate", "c2")
    assert document(scene, "status")["ActiveSession"][0] == "c2"
    order(scene, "switch", "7")
    assert document(scene, "status")["ActiveSession"][0] == "1"


def test_pause_and_resume(scene: Scene) -> None:
    stream_alice(scene)
    order(scene, "pause")
    assert document(scene)["Reason"] == "paused-by-admin"
    mark = scene.daemon.now()
    order(scene, "resume")
    scene.daemon.wait_reason("ok", after=mark)


def test_pause_and_resume_one_session(scene: Scene) -> None:
    stream_alice(scene)
    order(scene, "pause", "--session", "1")
    assert document(scene)["State"] == "paused"
    assert document(scene)["StreamingEnabled"]
    mark = scene.daemon.now()
    order(scene, "resume", "--session", "1")
    scene.daemon.wait_reason("ok", after=mark)


def test_restart_agent(scene: Scene) -> None:
    stream_alice(scene)
    before = document(scene)["AgentPID"]
    mark = scene.daemon.now()
    order(scene, "restart-agent")
    scene.daemon.wait_reason("ok", after=mark)
    assert document(scene)["AgentPID"] not in {0, before}


def test_settings_and_reload(scene: Scene) -> None:
    order(scene, "set-auto-switch", "on-session-end")
    assert document(scene)["AutoSwitch"] == "on-session-end"
    order(scene, "reload")


def test_history(scene: Scene) -> None:
    stream_alice(scene)
    events = document(scene, "history")
    assert events[-1]["Reason"] == "ok"
    assert document(scene, "history", "-n", "1") == events[-1:]
    assert ctl(scene, "history", "-n1").stdout.splitlines()[-1].endswith("Session 1 is shown.")


def test_doctor_names_what_is_wrong(scene: Scene) -> None:
    assert {"polkit", "host", "display"} <= _complaints(scene)
    stream_alice(scene)
    assert _complaints(scene) == {"polkit"}, "which this bus has not"


def _complaints(scene: Scene) -> set[str]:
    done = ctl(scene, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    return {line.split()[1] for line in done.stdout.splitlines() if not line.startswith("ok ")}


def test_a_refusal_is_one_line_in_the_daemons_words(scene: Scene) -> None:
    done = ctl(scene, "activate", "99")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "spice-sessionctl: there is no session '99'\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_somebody_else_may_look_but_not_order(scene: Scene) -> None:
    scene.add_alice()
    program = (sys.executable, "-c", AS_NOBODY)
    assert ctl(scene, "--json=short", "list", program=program).returncode == 0
    done = ctl(scene, "pause", program=program)
    assert (done.returncode, done.stdout) == (4, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("spice-sessionctl: not permitted: polkit")
    assert document(scene)["StreamingEnabled"]


@pytest.mark.parametrize("argv", [["status"], ["pause"], ["monitor"], ["--json=short", "list"]])
def test_a_daemon_that_does_not_run(scene: Scene, argv: list[str]) -> None:
    scene.daemon.close()
    done = ctl(scene, *argv)
    assert (done.returncode, done.stdout) == (3, "")
    [line] = done.stderr.splitlines()
    assert "not running" in line
    assert "systemctl start spice-sessiond" in line


def test_doctor_without_a_daemon(scene: Scene) -> None:
    scene.daemon.close()
    done = ctl(scene, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "systemctl start spice-sessiond" in done.stdout


def test_doctor_without_a_bus(scene: Scene) -> None:
    scene.stage.close()
    done = ctl(scene, "--json=short", "doctor")
    assert done.returncode == 1
    results = {line["Check"]: line["Result"] for line in json.loads(done.stdout)}
    assert results["bus name"] == "fail"
    assert results["logind"] == "skip"


class Monitor:
    """A running ``monitor``."""

    def __init__(self, scene: Scene, *argv: str) -> None:
        self.process = subprocess.Popen(
            [*DIE_WITH_PARENT, *CTL, f"--bus={scene.stage.bus.address}", *argv, "monitor"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        # A line that never comes must not hang the suite: the end of the process ends the wait.
        self._limit = threading.Timer(20, self.process.kill)
        self._limit.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self._limit.cancel()

    def wait(self, words: str) -> str:
        """Return the first line from here on that has these words."""
        assert self.process.stdout
        for line in self.process.stdout:
            if words in line:
                return line
        raise AssertionError(f"no line with {words!r} before its end")

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its status and what it said to stderr."""
        _, said = self.process.communicate()
        return self.process.returncode, said


def test_monitor_sees_a_switch_and_ends_at_an_interrupt(scene: Scene) -> None:
    stream_alice(scene)
    with Monitor(scene) as monitor:
        monitor.wait("seat0 is streaming (ok): Session 1 is shown.")
        scene.stage.login1.do("switch", id="c2")
        monitor.wait("switched from session 1 to session c2")
        monitor.wait("session c2: Shown=yes")
        monitor.process.send_signal(signal.SIGINT)
        assert monitor.end() == (0, "")


def test_monitor_as_json_sees_an_agents_end(scene: Scene) -> None:
    stream_alice(scene)
    with Monitor(scene, "--json=short") as monitor:
        monitor.wait('"Now"')
        pid = scene.daemon.property("AgentPID")
        os.kill(pid, signal.SIGKILL)
        told = json.loads(monitor.wait('"AgentExited"'))
        assert (told["PID"], told["Status"], told["Session"]) == (pid, -signal.SIGKILL, "1")


def test_monitor_ends_with_the_daemon(scene: Scene) -> None:
    with Monitor(scene) as monitor:
        monitor.wait("seat0 is")
        scene.daemon.close()
        monitor.wait("the daemon has left the bus")
        status, said = monitor.end()
    assert status == 3
    assert "systemctl start spice-sessiond" in said


def test_a_reader_that_has_enough_is_no_trouble(scene: Scene) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with ExitStack() as stack:
        stack.callback(os.close, writer)
        done = subprocess.run(
            [*CTL, f"--bus={scene.stage.bus.address}", "status"],
            cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_gets_colour_unless_it_says_no(scene: Scene) -> None:
    stream_alice(scene)
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    env["TERM"] = "xterm-256color"
    assert "\x1b[32mstreaming (ok)" in _on_terminal(scene, env)
    assert "\x1b" not in _on_terminal(scene, env | {"NO_COLOR": "1"})
    assert "State: streaming (ok)" in _on_terminal(scene, env | {"TERM": "dumb"})


def _on_terminal(scene: Scene, env: dict[str, str]) -> str:
    ours, theirs = os.openpty()
    with ExitStack() as stack:
        stack.callback(os.close, ours)
        process = subprocess.Popen(
            [*CTL, f"--bus={scene.stage.bus.address}", "status"], cwd=ROOT, env=env, stdout=theirs
        )
        os.close(theirs)
        text = b""
        while select.select([ours], [], [], 20)[0]:
            try:
                text += os.read(ours, 65536)
            except OSError:  # EIO: nobody has the other end open any more
                break
        assert process.wait(10) == 0
    return text.decode()


def test_a_shell_offers_the_sessions(scene: Scene, tmp_path: Path) -> None:
    scene.add_alice()
    scene.add_bob(front=False)
    wait_number(scene.watch(), ALICE)  # by then the daemon knows of both
    program = tmp_path / "spice-sessionctl"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m sessiond.ctl "$@"\n')
    program.chmod(0o755)
    script = ctl(scene, "completion", "bash").stdout
    line = f"spice-sessionctl --bus {scene.stage.bus.address} activate "
    typed = (
        f"{script}\nCOMP_LINE={line!r}\nCOMP_POINT=${{#COMP_LINE}}\nCOMP_TYPE=9\n"
        "COMP_WORDBREAKS=$' \\t\\n\"\\'><=;|&(:'\n"
        "_python_argcomplete spice-sessionctl\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", typed], env=os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) == {"1", "c2"}
    assert done.stderr == ""
