"""The pump at a command's end, with real programs that do the awkward thing.

The requirements are numbered as the protocol's own history has them; those of a caller's end are in
``test_client``.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.agent.qrexec.peer import EXIT, HELLO, STDERR, STDIN, STDOUT, Gone, Peer
from tests.agent.qrexec.services import shell

if TYPE_CHECKING:
    from tests.agent.qrexec.peer import Forker
    from tests.agent.qrexec.services import Gate, Services
    from tests.fixtures.witness import Witness

LOTS = 10_000_000  # bytes


def code(number: int) -> tuple[int, bytes]:
    """Return the message with that exit code."""
    return EXIT, struct.pack("<i", number)


def pattern(size: int) -> bytes:
    """Return SIZE bytes of which no two pages are the same."""
    return b"".join(b"%15d\n" % number for number in range(size // 16 + 1))[:size]


def run(forker: Forker, command: str, data: bytes = b"") -> tuple[bytes, bytes, int]:
    """Run a shell's command with DATA as its input; return its outputs and its exit code."""
    peer = forker.start(shell(command)).peer.greet()
    feeder = peer.feed(data)
    result = peer.result()
    feeder.join()
    return result


# What any command does.


def test_a_whole_command_as_it_is_on_the_wire(forker: Forker) -> None:
    running = forker.start(shell("printf hi; printf er >&2; exit 3"))
    running.peer.send_hello()
    messages = running.peer.receive_all()
    assert messages[0] == (HELLO, b"\4\0\0\0")
    assert messages[-1] == code(3)
    assert [m for m in messages if m[0] == STDOUT] == [(STDOUT, b"hi"), (STDOUT, b"")]
    assert [m for m in messages if m[0] == STDERR] == [(STDERR, b"er"), (STDERR, b"")]
    assert len(messages) == 6
    running.wait_closed()


@pytest.mark.parametrize(
    ("end", "status"), [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)]
)
def test_exit_code(forker: Forker, end: str, status: int) -> None:
    assert run(forker, end) == (b"", b"", status)


@pytest.mark.parametrize(("version", "most"), [(2, 4096), (3, 65536), (4, 65536), (5, 65536)])
def test_chunks_are_as_long_as_the_version_allows(forker: Forker, version: int, most: int) -> None:
    command = "dd if=/dev/zero bs=65536 count=100 status=none"
    peer = forker.start(shell(command)).peer.greet(version)
    sizes = [len(body) for kind, body in peer.receive_all() if kind == STDOUT]
    assert sum(sizes) == 100 * 65536
    assert max(sizes) == most


def test_nothing_is_lost_both_ways_at_once(forker: Forker) -> None:
    data = pattern(LOTS)
    assert run(forker, "cat", data) == (data, b"", 0)


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_program_that_closes_an_output_and_goes_on(forker: Forker, closed: str) -> None:
    kind, number = {"stdout": (STDOUT, 1), "stderr": (STDERR, 2)}[closed]
    command = f"echo bye >&{number}; exec {number}>&-; read code; exit $code"
    peer = forker.start(shell(command)).peer.greet()
    assert [peer.receive(), peer.receive()] == [(kind, b"bye\n"), (kind, b"")]
    peer.send(STDIN, b"42\n")
    other = STDERR if kind == STDOUT else STDOUT
    assert peer.receive_all() == [(other, b""), code(42)]


def test_only_to_be_started(forker: Forker, witness: Witness) -> None:
    """Its caller is told that it runs, and it runs on by itself."""
    running = forker.start(shell(f"echo $QREXEC_AGENT_PID >{witness.path}"), detached=True)
    assert running.peer.greet().receive_all() == [code(0)]
    running.peer.close()
    assert running.wait_end()
    witness.wait_told(b"\n")
    assert int(witness.told)


# The requirements.


def test_program_that_writes_before_it_reads(forker: Forker) -> None:
    """Requirement 1: writing to a program's stdin never blocks, while it waits for us to read."""
    data = pattern(LOTS)
    stdout, _, status = run(forker, f"head -c {LOTS} /dev/zero; cksum", data)
    assert (stdout[:LOTS], status) == (bytes(LOTS), 0)
    assert stdout[LOTS:].split()[1] == b"%d" % LOTS


def test_program_that_does_not_read(forker: Forker, gate: Gate) -> None:
    """Requirement 2: its sender is throttled, and what it says is still carried."""
    command = f"echo before; read go <{gate.path}; echo after; read go <{gate.path}; wc -c"
    peer = forker.start(shell(command)).peer.greet()
    assert peer.receive() == (STDOUT, b"before\n")
    sent = peer.fill()
    assert sent < 2_000_000  # what the kernel holds for three sockets, and a chunk
    gate.open()
    assert peer.receive() == (STDOUT, b"after\n")
    gate.open()
    peer.finish_fill()
    peer.send(STDIN)
    assert peer.result() == (b"%d\n" % sent, b"", 0)


def test_peer_that_does_not_read(forker: Forker, tmp_path: Path) -> None:
    """Requirement 2, the other way round: then nothing more is read of a program."""
    progress = tmp_path / "progress"
    command = f"dd if=/dev/zero bs=65536 count=200 2>/dev/null; echo done >{progress}"
    peer = forker.start(shell(command)).peer.greet()
    peer.fill()  # which has to come to an end: cat takes it, and wants to be rid of it
    assert not progress.exists()
    assert len(peer.result()[0]) == 200 * 65536


def test_one_output_does_not_keep_the_other_back(forker: Forker, gate: Gate) -> None:
    """Requirement 2: not even if a slow peer has only room for a bit of one of them."""
    command = f"yes & read go <{gate.path}; echo quiet >&2; wait"
    peer = forker.start(shell(command), buffer=1).peer.greet(2)
    assert peer.receive()[0] == STDOUT
    gate.open()
    said = []
    for _ in range(30):
        said.append(peer.receive())
        run(forker, "exit 0")  # as slow as this it reads
    assert (STDERR, b"quiet\n") in said


def goodbyes(peer: Peer, how: str) -> None:
    match how:
        case "hangs up":
            pass
        case "hangs up inside a header":
            peer.sock.sendall(b"\x90\1\0")
        case "hangs up inside a message":
            peer.sock.sendall(struct.pack("<II", STDIN, 100) + b"some")
        case "sends what does not exist":
            peer.send(0x777)
        case "sends what belongs elsewhere":
            peer.send(0x200, bytes(12))
        case "sends too much at once":
            peer.sock.sendall(struct.pack("<II", STDIN, 65537))
    peer.close()


FAREWELLS = [
    "hangs up", "hangs up inside a header", "hangs up inside a message",
    "sends what does not exist", "sends what belongs elsewhere", "sends too much at once",
]  # fmt: skip


@pytest.mark.parametrize("how", FAREWELLS)
def test_lost_peer_is_the_end_of_all_streams(forker: Forker, witness: Witness, how: str) -> None:
    """Requirements 3 and 4: a program finds EOF and EPIPE, whatever has happened to its peer."""
    command = f"""trap '' PIPE
        cat >/dev/null
        while echo x; do :; done 2>/dev/null
        while echo x; do :; done >&2 2>/dev/null
        echo all of them >{witness.path}"""
    running = forker.start(shell(command))
    running.peer.greet()
    goodbyes(running.peer, how)
    witness.wait_told(b"all of them\n")
    assert running.wait_end()


@pytest.mark.parametrize("how", FAREWELLS)
def test_peer_that_is_lost_before_it_has_said_hello(forker: Forker, how: str) -> None:
    """Requirement 4: then nothing is started, and nothing left."""
    running = forker.start(shell("exit 1"))
    goodbyes(running.peer, how)
    assert not running.wait_end()


def test_lost_peer_whose_input_is_not_read_yet(
    forker: Forker, gate: Gate, witness: Witness
) -> None:
    """Requirement 3: what it had sent still reaches the program, and then the end does."""
    running = forker.start(shell(f"read go <{gate.path}; wc -c >{witness.path}"))
    peer = running.peer.greet()
    sent = peer.fill()
    peer.close()
    gate.open()
    witness.wait_told(b"\n")
    assert sent - 4096 <= int(witness.told) <= sent  # the last message may not be whole
    assert running.wait_end()


def test_lost_peer_of_a_program_that_takes_nothing(forker: Forker, witness: Witness) -> None:
    """Requirement 3: that its input waits for it does not keep it from finding EPIPE."""
    command = f"trap '' PIPE; while echo x; do :; done 2>/dev/null; echo found >{witness.path}"
    peer = forker.start(shell(command)).peer.greet()
    peer.fill()
    peer.close()
    witness.wait_told(b"found\n")


def test_lost_peer_of_a_program_that_does_not_end(forker: Forker, witness: Witness) -> None:
    """Requirement 3: it is told at once that the channel is closed, and its process stays."""
    running = forker.start(shell(f"exec 3>{witness.path}; echo begun >&3; exec sleep 1000"))
    running.peer.greet()
    witness.wait_told(b"begun\n")
    running.peer.close()
    running.wait_closed()
    running.stop()
    assert not running.wait_end()
    witness.wait_end()


def test_all_of_it_ends_when_it_is_told_to(forker: Forker) -> None:
    """Requirement 4: neither what has left the session of the program, nor what is deaf, stays."""
    command = """
        setsid sleep 1000 & echo $!
        sh -c 'trap "" TERM HUP; echo $$; while :; do sleep 1000; done' &
        sleep 1000 & echo $!; kill -STOP $!
        (sleep 1000 & echo $!)
        sleep 1000"""
    running = forker.start(shell(command))
    peer = running.peer.greet()
    text = b""
    while text.count(b"\n") < 4:
        text += peer.receive()[1]
    pids = [int(line) for line in text.split()]
    running.stop()
    assert not running.wait_end()
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_socket_for_both_directions(forker: Forker) -> None:
    """Requirement 9: after SIGUSR1 the program's output is what it writes to its stdin."""
    command = """echo first
        kill -USR1 $QREXEC_AGENT_PID
        echo hello world >&0
        read x
        echo "received: $x" >&0"""
    peer = forker.start(shell(command)).peer.greet()
    assert peer.receive_stream(STDOUT, 18) == b"first\nhello world\n"
    peer.send(STDIN, b"stdin\n")
    peer.send(STDIN)
    assert peer.result() == (b"received: stdin\n", b"", 0)


def test_what_was_written_before_the_switch_is_not_lost(forker: Forker) -> None:
    """Requirement 9: nor is it overtaken."""
    command = f"""head -c 200000 /dev/zero
        kill -USR1 $QREXEC_AGENT_PID
        (trap '' PIPE; echo dropped) 2>/dev/null
        exec >&0
        head -c {LOTS} /dev/zero | tr '\\0' x"""
    peer = forker.start(shell(command)).peer.greet(2)
    stdout, _, status = peer.result()
    assert (stdout.replace(b"dropped\n", b""), status) == (bytes(200000) + b"x" * LOTS, 0)


def test_asked_for_one_socket_twice(forker: Forker) -> None:
    """Requirement 10: the second time is harmless."""
    command = """kill -USR1 $QREXEC_AGENT_PID
        echo one >&0
        kill -USR1 $QREXEC_AGENT_PID
        echo two >&0
        kill -USR1 $QREXEC_AGENT_PID
        cat >&0"""
    assert run(forker, command, b"three\n") == (b"one\ntwo\nthree\n", b"", 0)


def test_asked_for_one_socket_after_the_end_of_stdin(forker: Forker) -> None:
    """Requirement 11: that it is shut for writing does not keep it from being read."""
    command = "cat; kill -USR1 $QREXEC_AGENT_PID; echo afterwards >&0"
    assert run(forker, command, b"all\n") == (b"all\nafterwards\n", b"", 0)


def test_asked_for_one_socket_after_the_end_of_stdout(forker: Forker) -> None:
    """Requirement 9: what has ended does not begin again."""
    command = "exec >&-; read x; kill -USR1 $QREXEC_AGENT_PID; echo x >&0"
    peer = forker.start(shell(command)).peer.greet()
    assert peer.receive() == (STDOUT, b"")
    peer.send(STDIN, b"\n")
    assert peer.receive_all() == [(STDERR, b""), code(0)]


def test_of_what_kind_a_programs_streams_are(forker: Forker) -> None:
    """Requirement 12: sockets, but for stderr, which can be opened again by its name."""
    command = """cd /proc/self/fd
        [ -S 0 ] && [ -S 1 ] && [ -p 2 ] && echo again >/proc/self/fd/2"""
    assert run(forker, command) == (b"", b"again\n", 0)


def test_command_has_a_session_of_its_own(forker: Forker) -> None:
    """Whatever terminal we have, it is not the program's."""
    stdout, _, _ = run(forker, "set -- $(cat /proc/$$/stat); echo $$ $6 $7")
    pid, session, terminal = stdout.split()
    assert (session, terminal) == (pid, b"0")


def test_one_process_for_each_command_which_it_may_signal(forker: Forker) -> None:
    """Requirement 13: it is the user's, and another command has another."""
    command = "stat -c %u /proc/$QREXEC_AGENT_PID; echo $QREXEC_AGENT_PID; read x"
    peers = [forker.start(shell(command)).peer.greet() for _ in range(2)]
    pids = set()
    for peer in peers:
        peer.feed(b"")
        uid, pid = peer.result()[0].split()
        assert int(uid) == os.geteuid()
        pids.add(pid)
    assert len(pids) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs commands of others")
def test_command_of_another_user_may_signal_its_process(forker: Forker, services: Services) -> None:
    """Requirement 13, where it is hard: the process is that user's from then on."""
    services.script("test.Whose", "kill -USR1 $QREXEC_AGENT_PID && id -un >&0; env >&2")
    peer = forker.start("nobody:QUBESRPC test.Whose+ dom").peer.greet()
    stdout, stderr, status = peer.result()
    assert (stdout, status) == (b"nobody\n", 0)
    assert b"\nUSER=nobody\n" in b"\n" + stderr
    assert b"INHERITED" not in stderr


def test_hello_is_said_at_once(forker: Forker) -> None:
    """Requirement 16: before a word of the peer's, and the same in every program."""
    peer = forker.start(shell("exit 7")).peer
    assert peer.receive() == (HELLO, b"\4\0\0\0")
    peer.send_hello()
    assert peer.result() == (b"", b"", 7)


def test_end_of_input_comes_after_it(forker: Forker, gate: Gate) -> None:
    """Requirement 17: the end waits for what is held, and what comes after it is dropped."""
    peer = forker.start(shell(f"read go <{gate.path}; wc -c; read go <{gate.path}")).peer.greet()
    sent = peer.fill()
    gate.open()
    peer.finish_fill()
    peer.send(STDIN)
    peer.send(STDIN, b"too late")
    peer.send(STDIN)
    assert peer.receive() == (STDOUT, b"%d\n" % sent)
    gate.open()
    assert peer.result() == (b"", b"", 0)


def test_input_for_a_program_that_reads_no_more(forker: Forker) -> None:
    """Requirement 17: nothing is to be said about that; EPIPE and a hang-up are an end."""
    peer = forker.start(shell("read x; exec <&-; echo closed; sleep 0.2; echo end")).peer.greet()
    peer.send(STDIN, b"data 1\n")
    assert peer.receive() == (STDOUT, b"closed\n")
    peer.feed(bytes(LOTS)).join()
    assert peer.result() == (b"end\n", b"", 0)


def test_reset_is_an_end(forker: Forker) -> None:
    """Requirement 18: that is what a socket says that was closed with unread input."""
    command = "kill -USR1 $QREXEC_AGENT_PID; echo hi >&0; read x; exit 5"
    peer = forker.start(shell(command)).peer.greet()
    peer.send(STDIN, b"\n")
    peer.send(STDIN, bytes(1000))
    assert peer.result() == (b"hi\n", b"", 5)


def test_others_hold_the_outputs_of_a_program_that_has_ended(forker: Forker, gate: Gate) -> None:
    """Requirement 19: its stdin ends at once, and its exit code waits for them."""
    command = f"""exec 3<&0
        (cat <&3; echo stdin closed; read go <{gate.path}; echo gone) &
        exit 42"""
    peer = forker.start(shell(command)).peer.greet()
    assert peer.receive() == (STDOUT, b"stdin closed\n")
    gate.open()
    assert peer.result() == (b"gone\n", b"", 42)


def test_messages_in_the_wrong_direction(forker: Forker) -> None:
    """Requirement 20: STDOUT is input, too; STDERR and an exit code are nothing."""
    peer = forker.start(shell("cat")).peer.greet()
    peer.send(STDOUT, b"out ")
    peer.send(STDERR, b"err ")
    peer.send(EXIT, b"\1\0\0\0")
    peer.send(STDIN, b"in")
    peer.send(STDOUT)
    assert peer.result() == (b"out in", b"", 0)


# When the last words cross each other.


def test_peer_that_speaks_after_the_exit_code(forker: Forker) -> None:
    """It has not heard of it yet: that is no reason for EPIPE."""
    running = forker.start(shell("exit 1"))
    peer = running.peer.greet()
    assert peer.result() == (b"", b"", 1)
    running.wait_closed()
    peer.send(STDIN, b"some")
    peer.send(STDIN)
    assert not running.wait_end()
    with pytest.raises(Gone):
        peer.receive()


def test_input_that_nobody_has_read_is_no_reset(forker: Forker) -> None:
    """A peer that finds ECONNRESET instead of an end may have lost the exit code."""
    peer = forker.start(shell("head -c 1 >&2")).peer.greet()
    peer.feed(bytes(200_000), 1000).join()
    assert peer.result() == (b"", b"\0", 0)
    assert peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_every_requirement_has_a_test() -> None:
    """By its number."""
    tested = set()
    places = [Path(__file__).parent, Path(__file__).parents[2] / "commands"]
    for path in itertools.chain(*(place.glob("test_*.py") for place in places)):
        text = path.read_text(encoding="utf-8")
        for numbers in re.findall(r'"""Requirements? ([\d, and]+)', text):
            tested |= {int(number) for number in re.findall(r"\d+", numbers)}
    assert tested == set(range(1, 22))
