"""How every data channel begins, at both of its ends."""

import select

from agent.qrexec.watch import Deadline, Watch
from sessiond.errors import ChannelError
from sessiond.transport.duplex import CONNECT_TIMEOUT, Duplex
from sessiond.wire.exec_data import Data, DataRole


def greet(connection: Duplex, role: DataRole, watch: Watch) -> Data:
    """Say HELLO, wait for the peer's, and return the open channel; it may hold what came with it.

    Raises ChannelError if none comes, and ProtocolError for what is none.
    """
    data = Data(role)
    deadline = Deadline(CONNECT_TIMEOUT)
    connection.send(data.send_hello())
    while not data.is_open:
        watch.wait({connection.fileno(): select.POLLIN}, deadline.left)
        received = connection.read()
        if received == b"" or not deadline.left:
            raise ChannelError("the peer did not say HELLO")
        next(data.receive(received or b""), None)
    return data
