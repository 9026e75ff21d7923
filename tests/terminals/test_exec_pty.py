"""``exec --pty`` and ``shell`` in a window: the real program, daemon, bus and user's agent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.commands.test_exec import AS_USER, is_there, wait_gone, zombies_of
from tests.fixtures.child import ROOT
from tests.fixtures.user_agent import ALICE, BOB, IS_ROOT
from tests.terminals.served import (
    SHELL_USER,
    ctl,
    on_pty,
    open_files,
    script,
    serving,
    wait_until,
    watching,
)
from tests.terminals.window import LIMIT, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fixtures.daemon import Stage
    from tests.fixtures.user_agent import UserAgent

pytestmark = pytest.mark.e2e

needs_root = pytest.mark.skipif(not IS_ROOT, reason="without root everybody is us")
INTERRUPT: Final = b"\x03"
END: Final = b"\x04"
SIGNALS: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Stage, UserAgent]]:
    with serving(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, UserAgent]]:
    """Return what a test leaves as it was."""
    with serving(tmp_path_factory.mktemp("stage"), (ALICE, SHELL_USER)) as made:
        yield made


@pytest.fixture
def stage(shared: tuple[Stage, UserAgent]) -> Stage:
    return shared[0]


def output(argv: list[str], data: bytes = b"", **how: Any) -> tuple[int, bytes, bytes]:  # noqa: ANN401
    """Run it without any terminal; return status, output and what was said."""
    done = subprocess.run(
        argv, cwd=ROOT, input=data, capture_output=True, check=False, timeout=LIMIT, **how
    )
    return done.returncode, done.stdout, done.stderr


def run(argv: list[str], **how: Any) -> tuple[int, str]:  # noqa: ANN401
    """Run it to its end in a window, which is as it was then; return status and what was shown."""
    with Window(argv, **how) as window:
        status = window.wait_exit()
        assert window.modes() == window.before
        return status, window.shown


# What it has.


def test_its_terminal_is_its_own_and_the_users(stage: Stage) -> None:
    text = 'tty; stat -c %U "$(tty)"; stty -a; ps -o pid=,sid=,pgid=,tpgid= $$'
    status, shown = run(script(stage, text))
    assert status == 0
    tty, owner, *modes, ids = shown.splitlines()
    assert tty.startswith("/dev/pts/")
    assert owner == ALICE
    assert " iutf8" in "".join(modes)
    assert "80; " in modes[0]
    assert len(set(ids.split()[:3])) == 1, "it leads its session and its group"


def test_it_has_nothing_else_open(stage: Stage) -> None:
    status, shown = run(on_pty(stage, "ls", "/proc/self/fd"))
    assert (status, shown.split()) == (0, ["0", "1", "2", "3"])  # 3 is the list's own


@pytest.mark.parametrize(
    ("options", "kind"), [([], "xterm-old"), (["--env=TERM=dumb"], "dumb"), (["--env=TERM="], "")]
)
def test_kind_of_terminal(stage: Stage, options: list[str], kind: str) -> None:
    argv = script(stage, 'echo "[$TERM]"', options=options)
    assert run(argv, extra={"TERM": "xterm-old"}) == (0, f"[{kind}]\r\n")


@pytest.mark.parametrize("code", [0, 1, 42, 125, 127, 255])
def test_exit_code(stage: Stage, code: int) -> None:
    assert run(script(stage, f"exit {code}")) == (code, "")


def test_signal_that_kills_it(stage: Stage) -> None:
    assert run(script(stage, "kill -SEGV $$")) == (128 + signal.SIGSEGV, "")


def test_what_is_not_run(stage: Stage) -> None:
    for path, code in (("/nowhere/at-all", 127), ("/etc/passwd", 126)):
        status, shown = run(on_pty(stage, path))
        assert status == code
        assert shown.startswith("spice-sessionctl: ")
        assert path in shown


def test_folder_and_variables(stage: Stage) -> None:
    argv = script(stage, 'pwd; echo "$A"', options=["--cwd=/usr", "--env=A=1 2"])
    assert run(argv) == (0, "/usr\r\n1 2\r\n")


def test_all_that_it_has_written_is_shown(stage: Stage) -> None:
    status, shown = run(on_pty(stage, "seq", "200000"))
    assert status == 0
    assert shown.split() == [str(it) for it in range(1, 200001)]


@contextlib.contextmanager
def ended_and_unread(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """Have ``seq 3000`` end on its terminal, when most of what it wrote waits for the caller."""
    mark = stage.daemon.now()
    with subprocess.Popen(
        on_pty(stage, "seq", "3000"), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        stage.daemon.wait_line(r"run 'seq' .*: exit code 0", after=mark)
        yield process


def test_what_it_has_written_before_its_end_is_shown_after_it(stage: Stage) -> None:
    with ended_and_unread(stage) as process:
        assert process.stdout
        out = process.stdout.read()
        assert process.wait(LIMIT) == 0
    assert out.split() == [b"%d" % it for it in range(1, 3001)]


# A shell.


def test_login_shell(stage: Stage) -> None:
    with Window(ctl(stage, "shell", f"--user={SHELL_USER}")) as window:
        window.type("PS1='ready '\n")
        window.wait(r"ready $")
        window.type('echo "[$0]" "[$TERM]" "$(pwd)" $-\n')
        window.wait(rf"\[-\w+\] \[xterm\] {pwd.getpwnam(SHELL_USER).pw_dir} \w*m")
        window.type("exit 7\n")
        assert window.wait_exit() == 7
        assert window.modes() == window.before
    stage.daemon.wait_line(f"-> {SHELL_USER}: run 'login shell' .*: exit code 7")


def test_nobodys_login_shell(stage: Stage) -> None:
    if not IS_ROOT:
        pytest.skip("we have a shell")
    status, shown = run(ctl(stage, "shell", f"--user={ALICE}"))
    assert (status, shown) == (1, "This account is currently not available.\r\n")


def test_shell_through_a_pipe(stage: Stage) -> None:
    """It types what comes in, and the end of it ends the shell."""
    argv = ctl(stage, "shell", f"--user={SHELL_USER}")
    status, out, said = output(argv, b"PS1=; id -un\nexec sh -c 'exit $(stty size | wc -w)'\n")
    assert (status, said) == (2, b"")
    assert f"{SHELL_USER}\r\n".encode() in out
    status, out, said = output(argv, b"echo $((6*7))\n")
    assert (status, said) == (0, b"")
    assert b"42\r\n" in out


def test_command_in_a_pipe(stage: Stage) -> None:
    status, out, said = output([*on_pty(stage, "ls", "/usr")])
    assert (status, said) == (0, b"")
    assert out.split() == sorted(it.encode() for it in os.listdir("/usr"))


def test_end_of_input_is_typed(stage: Stage) -> None:
    status, out, _ = output(on_pty(stage, "cat"), b"one\ntwo\n")
    assert status == 0
    assert out.replace(b"^D\b\b", b"").split().count(b"two") == 2, "the echo, and the cat's"


def test_nobody_reads_its_output(stage: Stage) -> None:
    """It is hung up, and so is its caller."""
    with subprocess.Popen(
        script(stage, "echo $$; exec yes"), cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        pid = int(process.stdout.readline())
        process.stdout.close()
        assert process.wait(LIMIT) == 128 + signal.SIGPIPE
    wait_gone(pid)


def test_nobody_reads_what_it_has_written_before_its_end(stage: Stage) -> None:
    with ended_and_unread(stage) as process:
        assert process.stdout
        process.stdout.close()
        assert process.wait(LIMIT) == 128 + signal.SIGPIPE


def test_nobody_takes_its_output(stage: Stage) -> None:
    """That holds it up, and nobody up who wants to leave."""
    with subprocess.Popen(
        script(stage, "echo $$; exec yes"), cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        pid = int(process.stdout.readline())
        used = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
        wait_until(lambda: waiting(process.stdout) > used // 2)
        process.terminate()
        assert process.wait(LIMIT) == 128 + signal.SIGTERM
    wait_gone(pid)


def waiting(pipe: Any) -> int:  # noqa: ANN401
    """Return how many bytes wait there."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_stream_that_the_program_itself_lacks(stage: Stage, fd: int) -> None:
    argv = ["sh", "-c", f'exec "$@" {fd}>&-', "sh", *script(stage, "cat; exit 3")]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        assert process.wait(LIMIT) == 3


def test_descriptors_that_others_share_stay_blocking(stage: Stage) -> None:
    with Window(script(stage, "echo ready; exec cat")) as window:
        window.wait("ready")
        assert os.get_blocking(window.slave)
        window.type(END)
        assert window.wait_exit() == 0
        assert os.get_blocking(window.slave)


def test_what_holds_the_terminal_in_the_background_holds_nobody_up(stage: Stage) -> None:
    text = "trap '' HUP; sleep 1000 & echo $!; exit 4"
    status, shown = run(script(stage, text))
    os.kill(int(shown), signal.SIGKILL)
    assert status == 4


# The terminal is as it was.


def begun(stage: Stage, text: str = "exec cat") -> tuple[Window, int]:
    """Return a window where a program runs, and its process."""
    window = Window(script(stage, f"echo begun $$; {text}"))
    pid = int(window.wait(r"begun (\d+)")[1])
    assert window.is_raw
    return window, pid


def test_restored_when_the_program_ends(stage: Stage) -> None:
    with begun(stage)[0] as window:
        window.type("line\n")
        window.wait("line\r\nline\r\n")
        window.type(END)
        assert window.wait_exit() == 0
        assert window.modes() == window.before


def test_restored_when_the_program_is_killed(stage: Stage) -> None:
    window, pid = begun(stage)
    with window:
        os.kill(pid, signal.SIGKILL)
        assert window.wait_exit() == 128 + signal.SIGKILL
        assert window.modes() == window.before


def test_restored_when_it_is_interrupted_there(stage: Stage) -> None:
    with begun(stage)[0] as window:
        window.type(INTERRUPT)
        assert window.wait_exit() == 128 + signal.SIGINT
        assert window.modes() == window.before


@pytest.mark.parametrize("number", SIGNALS)
def test_restored_when_a_signal_comes_from_outside(stage: Stage, number: signal.Signals) -> None:
    window, pid = begun(stage)
    with window:
        window.process.send_signal(number)
        assert window.wait_exit() == 128 + number
        assert window.modes() == window.before
        wait_gone(pid)


def test_signal_that_is_ignored_stays_so(stage: Stage) -> None:
    argv = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *script(stage, "echo begun; exec cat")]
    with Window(argv) as window:
        window.wait("begun")
        window.process.send_signal(signal.SIGHUP)
        window.type("line\n")
        window.wait("line\r\nline\r\n")
        window.type(END)
        assert window.wait_exit() == 0


LOSSES: Final[dict[str, Callable[[Stage, UserAgent], None]]] = {
    "daemon": lambda stage, _: os.kill(stage.daemon.pid, signal.SIGKILL),
    "daemon ends": lambda stage, _: os.kill(stage.daemon.pid, signal.SIGTERM),
    "agent": lambda _, agent: os.kill(agent.pid, signal.SIGKILL),
    "agent ends": lambda _, agent: os.kill(agent.pid, signal.SIGTERM),
    "bus": lambda stage, _: stage.bus.close(),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_restored_when_somebody_has_gone(
    served: tuple[Stage, UserAgent], lose: Callable[[Stage, UserAgent], None]
) -> None:
    """Whose end it was is said on a terminal that is set up to show it."""
    stage, agent = served
    window, pid = begun(stage)
    with window:
        lose(stage, agent)
        assert window.wait_exit() == 125
        assert window.modes() == window.before
        window.wait("\nspice-sessionctl: .*\r\n$|^spice-sessionctl: .*\r\n$|spice-sessionctl: .*")
        wait_gone(pid)


def test_program_ends_with_its_caller(stage: Stage) -> None:
    """Also what ignores it to be hung up, and what the caller cannot do anything about."""
    for text in ("exec cat", "trap '' HUP TERM; while :; do sleep 0.1; done"):
        window, pid = begun(stage, text)
        with window:
            window.process.kill()
            window.wait_exit()
            wait_gone(pid)


def test_jobs_end_with_their_caller(stage: Stage) -> None:
    """That in front, in a group of its own, and those in the background, as by a terminal's end."""
    with Window(on_pty(stage, "bash", "--norc", "--noprofile", "-i")) as window:
        window.type("sleep 1000 & echo back $!.\n")
        back = int(window.wait(r"back (\d+)\.")[1])
        window.type("sh -c 'echo front $$.; exec cat'\n")
        front = int(window.wait(r"front (\d+)\.")[1])
        assert os.getpgid(front) == front
        window.process.kill()
        window.wait_exit()
    wait_gone(back)
    wait_gone(front)


def test_who_ignores_that_he_is_hung_up_has_no_terminal_any_more(stage: Stage) -> None:
    mark = stage.daemon.now()
    window, _ = begun(stage, "trap '' HUP TERM; cat; exit 44")
    with window:
        window.process.kill()
        window.wait_exit()
    stage.daemon.wait_line(r"run 'sh' .*: exit code 44", after=mark)


@needs_root
def test_who_has_become_another_user_is_hung_up(stage: Stage) -> None:
    """By the kernel: the agent may send no signal there."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        become = shutil.copy("/usr/bin/setpriv", folder)
        Path(become).chmod(0o4755)
        mark = stage.daemon.now()
        words = (become, "--reuid=0", "--regid=0", "--clear-groups", "sh", "-c")
        with Window(on_pty(stage, *words, "echo begun $$ $(id -ru).; exec cat")) as window:
            pid = int(window.wait(r"begun (\d+) 0\.")[1])
            window.process.kill()
            window.wait_exit()
            wait_gone(pid)
        stage.daemon.wait_line(r"run '/.*/setpriv' .*: killed by signal 1", after=mark)


def test_window_that_is_closed(stage: Stage) -> None:
    """Its own terminal is hung up, as by a terminal emulator that ends."""
    window, pid = begun(stage)
    with window:
        window.hang_up()
        assert window.wait_exit() == 128 + signal.SIGHUP
        wait_gone(pid)


def test_stopped_and_continued(stage: Stage) -> None:
    """The terminal is cooked meanwhile, and has another size afterwards."""
    text = "echo begun; while read line; do stty size; done; exit 5"
    with Window(["sh", "-i"], extra={"PS1": "prompt "}) as window:
        window.wait("prompt ")
        before = window.modes()
        words = [*script(stage, text)]
        window.type(" ".join(f"'{it}'" for it in words) + "\n")
        window.wait("[^ ]begun\r\n")
        assert window.is_raw
        [caller] = children(window.process.pid)
        os.kill(caller, signal.SIGTSTP)
        mark = window.wait("Stopped.*\r\nprompt ").end()
        assert window.modes() == before
        window.resize(100, 50)
        window.type("fg\n")
        wait_until(lambda: window.is_raw)
        window.type("\n")
        window.wait("50 100\r\n", after=mark)
        window.type(END)
        mark = window.wait("prompt ", after=mark).end()
        assert window.modes() == before
        window.type("echo status $?; exit\n")
        window.wait("status 5", after=mark)
        window.wait_exit()


def children(pid: int) -> list[int]:
    return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Sizes.


@pytest.mark.parametrize("size", [(1, 1), (500, 1000), (1000, 500), (65535, 65535)])
def test_size_of_the_window(stage: Stage, size: tuple[int, int]) -> None:
    with Window(watching(stage), size=size) as window:
        window.wait(r"size {}x{}\.".format(*size))
        for other in ((80, 24), size, (1, 2)):
            mark = window.now()
            window.resize(*other)
            window.wait(r"size {}x{}\.".format(*other), after=mark)
        window.type(INTERRUPT)
        assert window.wait_exit() == 0


def test_window_without_a_size(stage: Stage) -> None:
    with Window(watching(stage), size=(0, 0)) as window:
        window.wait(r"size 80x24\.")
        window.type(INTERRUPT)
        assert window.wait_exit() == 0


def test_no_final_size_is_lost(stage: Stage) -> None:
    """Of 10,000, however fast they come."""
    numbers = random.Random(4)
    with Window(watching(stage)) as window:
        window.wait(r"size 80x24\.")
        for burst in (*[1] * 200, *[10] * 180, *[1000] * 8):
            mark = window.now()
            sizes = [(numbers.randint(1, 999), numbers.randint(1, 999)) for _ in range(burst)]
            for size in sizes:
                window.resize(*size)
            window.wait(r"size {}x{}\.".format(*sizes[-1]), after=mark)
        window.type(INTERRUPT)
        assert window.wait_exit() == 0
        assert window.modes() == window.before


# Who may, and what is left.


@needs_root
def test_another_users_terminal_is_refused(stage: Stage) -> None:
    program = AS_USER.format(uid=pwd.getpwnam(BOB).pw_uid)
    bus = f"--bus={stage.bus.address}"
    for what in (["exec", "--pty", f"--user={ALICE}", "id"], ["shell", f"--user={ALICE}"]):
        status, shown = run([sys.executable, "-c", program, bus, "--no-ask-password", *what])
        assert status == 126
        assert shown.startswith("spice-sessionctl: not permitted: ")


def test_service_gets_no_terminal(stage: Stage) -> None:
    status, shown = run(ctl(stage, "exec", "--pty", f"--user={ALICE}", "--service=x"))
    assert status == 2
    assert "a service has no terminal" in shown


def test_nothing_is_left(served: tuple[Stage, UserAgent]) -> None:
    """No descriptor and no zombie, whatever has become of the commands; nor is any left open."""
    stage, agent = served
    assert run(script(stage, "true"))[0] == 0  # whatever is made once, is there now
    pids = (stage.daemon.pid, agent.pid)
    wait_until(lambda: "/dev/ptmx" not in open_files(agent.pid))
    before = [len(open_files(it)) for it in pids]
    for _ in range(5):
        window, pid = begun(stage)
        with window:
            assert "/dev/ptmx" not in open_files(stage.daemon.pid), "no byte passes the daemon"
            window.process.kill()
            window.wait_exit()
        wait_gone(pid)
        run(script(stage, "exit 3"))
        run(on_pty(stage, "/nowhere"))
        assert output(on_pty(stage, "true"))[0] == 0
    for pid, count in zip(pids, before, strict=True):
        wait_until(lambda pid=pid, count=count: len(open_files(pid)) == count)  # type: ignore[misc]
        wait_until(lambda pid=pid: not zombies_of(pid))  # type: ignore[misc]
    assert is_there(agent.pid)


def test_modes_of_a_window_that_was_not_as_usual(stage: Stage) -> None:
    with Window(["cat"]) as window:
        odd = window.modes()
        odd[3] &= ~termios.ECHO
        odd[6][termios.VINTR] = b"\x07"
        termios.tcsetattr(window.slave, termios.TCSANOW, odd)
        odd = window.modes()
        with subprocess.Popen(
            script(stage, "exit 3"), cwd=ROOT, stdin=window.slave, stdout=window.slave
        ) as process:
            assert process.wait(LIMIT) == 3
        assert window.modes() == odd
