"""The hand-over's message and addresses, and senders that do not keep to it."""

import array
import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from agent.terminal import handover
from agent.terminal.handover import HandoverError
from sessiond.transport import rights
from sessiond.transport.peer import Peer

# struct sockaddr_un as the C programs bind it, and their control message for 0, 1, 2.
SOCKADDR = bytes.fromhex("010000696e69745f636f6e736f6c65") + bytes(95)
CMSG = bytes.fromhex("1c000000000000000100000001000000000000000100000002000000")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give who sends and who receives; what is open is the same before and after."""
    before = sorted(os.listdir("/proc/self/fd"))
    sender, receiver = socket.socketpair()
    with sender, receiver:
        yield sender, receiver
    assert sorted(os.listdir("/proc/self/fd")) == before


def send_raw(sock: socket.socket, data: bytes, *fds: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sock.sendmsg([data], [rights] if fds else [])


def test_addresses_are_those_of_the_c_programs_and_a_tight_one() -> None:
    tight, padded = handover.addresses("init_console")
    assert tight == b"\0init_console"
    assert struct.pack("H", socket.AF_UNIX) + padded == SOCKADDR


def test_a_name_without_room_has_one_address() -> None:
    assert handover.addresses("x" * 107) == (b"\0" + b"x" * 107,)


def test_a_listener_is_found_at_both_addresses() -> None:
    name = f"test-{os.getpid()}"
    listeners = handover.listen(name)
    try:
        assert [sock.getsockname() for sock in listeners] == [*handover.addresses(name)]
        for address, listener in zip(handover.addresses(name), listeners, strict=True):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
                listener.accept()[0].close()
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize("taken", [0, 1])
def test_a_name_that_is_taken_is_not_offered_in_part(taken: int) -> None:
    name = f"test-{os.getpid()}"
    before = sorted(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(handover.addresses(name)[taken])
        with pytest.raises(HandoverError, match=f"a terminal is offered as '{name}' already"):
            handover.listen(name)
        with socket.socket(socket.AF_UNIX) as free:
            free.bind(handover.addresses(name)[1 - taken])
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_root_and_ourselves_are_trusted_and_nobody_else() -> None:
    own = os.geteuid()
    assert handover.is_trusted(Peer(pid=1, uid=0, gid=0))
    assert handover.is_trusted(Peer(pid=1, uid=own, gid=0))
    assert not handover.is_trusted(Peer(pid=1, uid=own + 1, gid=0))


def test_the_message_is_that_of_the_c_programs(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    rights.send(sender, (0, 1, 2))
    data, [(level, kind, body)], flags, _ = receiver.recvmsg(16, socket.CMSG_SPACE(64))
    fds = array.array("i", body)
    for fd in fds:
        os.close(fd)
    assert (data, flags) == (b"\x17", 0)
    # struct cmsghdr: its length has that of what follows in it.
    header = struct.pack("Nii", struct.calcsize("Nii") + len(body), level, kind)
    assert header == CMSG[: len(header)]
    assert len(CMSG) == len(header) + len(body)


def test_what_is_received_is_what_was_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    pipes = [os.pipe() for _ in range(3)]
    sent = [write for _, write in pipes]
    rights.send(sender, sent)
    fds = handover.receive(receiver)
    assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in sent]
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in (*fds, *(end for pipe in pipes for end in pipe)):
        os.close(fd)


def test_the_bytes_value_means_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    send_raw(sender, b"\0", 0, 1, 2)
    for fd in handover.receive(receiver):
        os.close(fd)


@pytest.mark.parametrize(
    ("data", "count", "complaint"),
    [
        (b"\x17", 0, "^0 descriptors came, not 3$"),
        (b"\x17", 1, "^1 descriptors came, not 3$"),
        (b"\x17", 2, "^2 descriptors came, not 3$"),
        (b"\x17", 4, "^4 descriptors came, not 3$"),
        (b"\x17", 5, "^4 and more descriptors came, not 3$"),
        (b"\x17", 253, "^4 and more descriptors came, not 3$"),
        (b"\x17\x17", 3, "^2 bytes came, not 1$"),
        (b"\x17\x17\x17", 3, "^2 bytes came, not 1$"),
    ],
)
def test_everything_else_is_refused_and_closed(
    pair: tuple[socket.socket, socket.socket], data: bytes, count: int, complaint: str
) -> None:
    sender, receiver = pair
    send_raw(sender, data, *[sender.fileno()] * count)
    with pytest.raises(HandoverError, match=complaint):
        handover.receive(receiver)


def test_a_sender_that_goes_without_a_byte(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    sender.close()
    with pytest.raises(HandoverError, match="went away"):
        handover.receive(receiver)


def test_a_sender_that_goes_with_our_bytes_unread(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    receiver.send(b"x")
    sender.close()  # at which the kernel resets the connection
    with pytest.raises(HandoverError, match="nothing came: Connection reset by peer"):
        handover.receive(receiver)


def test_a_receiver_that_has_gone_is_an_error_and_no_signal(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    receiver.close()
    with pytest.raises(BrokenPipeError):
        rights.send(sender, (0, 1, 2))


@pytest.mark.parametrize("free", [(0,), (2,), (0, 1), (0, 1, 2)], ids=str)
def test_numbers_of_the_standard_streams_are_not_taken(free: tuple[int, ...]) -> None:
    """In a child, where those that are free can be so."""
    pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            sender, receiver = socket.socketpair()
            pipe = os.pipe()
            for fd in free:
                with contextlib.suppress(OSError):
                    os.close(fd)
            rights.send(sender, (pipe[0], pipe[1], pipe[0]))
            fds = handover.receive(receiver)
            same = [os.fstat(fd).st_ino for fd in fds] == [os.fstat(pipe[0]).st_ino] * 3
            sock = handover.stream_socket()
            above = min((*fds, sock.fileno())) > 2
            still_free = all(not os.path.exists(f"/proc/self/fd/{fd}") for fd in free)
            closed = not any(os.get_inheritable(fd) for fd in (*fds, sock.fileno()))
            status = 0 if same and above and still_free and closed else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
