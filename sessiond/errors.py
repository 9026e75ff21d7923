"""Every error that the programs of this project raise on purpose.

::

    SessiondError                exit status 1, one line for the operator
    ├── UsageError               exit status 2: a wrong option, a wrong value
    ├── RunningError             exit status 3: this user's agent runs already
    ├── InstallError             our files cannot be put in place or taken away: nothing was changed
    │   └── NotPermittedError    not by this user
    ├── ProtocolError            the peer broke the protocol: its connection is dead
    ├── LocalProtocolError       we were about to break it: a bug of ours
    ├── PortError                the stream port cannot be opened, or went away
    │   ├── PortBusyError        another program has it open
    │   └── PortMissingError     there is no such file
    ├── BusError                 the message bus cannot be reached, or the connection was lost
    ├── BusCallError             a peer on the bus answered a call with an error, or too late
    ├── RequestError             a peer on the bus asked for what we do not do
    ├── CommandError             a command of the host, or of a user's agent, is not done
    │   ├── NoAgentError         no agent of that user is connected
    │   ├── NoAnswerError        nobody will ever say whether it was done
    │   ├── NoSessionError       the user has no such session
    │   ├── RefusedError         the policy does not let this caller have that run
    │   ├── NoDisplayError       the user has no such display
    │   └── NotConnectedError    the user's agent is not connected to that display
    ├── DisplayError             the display cannot be opened or captured, or died
    ├── EncoderError             an encoder cannot be made, or failed on a frame
    ├── ChannelError             another domain cannot be reached, or reads nothing
    └── StartError               a command that a peer has asked for is not started
"""


class SessiondError(Exception):
    """An error with a message for a person: what went wrong, and where."""


class UsageError(SessiondError):
    """The command line asks for something that does not exist."""


class RunningError(SessiondError):
    """There is one agent for each user, and another process is it."""


class InstallError(SessiondError):
    """What is there is in the way, or something is missing; nothing was changed."""


class NotPermittedError(InstallError):
    """The user who runs us may not write there."""


class ProtocolError(SessiondError):
    """The peer sent what the protocol forbids; nothing more of its stream can be trusted.

    The message is the text that a SPICE host would send in NOTIFY_ERROR.
    """


class LocalProtocolError(SessiondError):
    """Our own side asked for a message that the connection's state forbids."""


class PortError(SessiondError):
    """The port is missing, busy, of a wrong kind, or was lost."""


class PortBusyError(PortError):
    """Another program has the port open."""


class PortMissingError(PortError):
    """There is no such file: nothing to do until it comes."""


class BusError(SessiondError):
    """The message bus does not answer, refuses us, or hung up: this connection is dead."""


class BusCallError(SessiondError):
    """A call was answered with an error; the connection lives.

    ``name`` is the D-Bus error name, ``text`` the peer's own words.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text} ({name})" if text else name)
        self.name = name
        self.text = text


class RequestError(SessiondError):
    """What a peer on the bus asked for is not done; ``name`` is the D-Bus error's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class CommandError(SessiondError):
    """The answer to a command is an error; the connection lives.

    ``cls`` is one of the QEMU guest agent's classes: its set is closed.
    """

    def __init__(self, text: str, cls: str = "GenericError") -> None:
        super().__init__(text)
        self.cls = cls


class NoAgentError(CommandError):
    """No agent of the user's is connected; ``user`` is the name that was asked for."""

    def __init__(self, user: str) -> None:
        super().__init__(f"no agent connected for user '{user}'")
        self.user = user


class NoSessionError(CommandError):
    """The user has no such session."""

    def __init__(self, user: str, session: str) -> None:
        super().__init__(f"user '{user}' has no session '{session}'")


class RefusedError(CommandError):
    """What is to be run is refused; ``user`` is whose it would be."""

    def __init__(self, user: str) -> None:
        super().__init__(f"the policy refuses to run that as user '{user}'")


class NoAnswerError(CommandError):
    """The peer has gone, or takes too long: the command may be done, or not."""


class NoDisplayError(CommandError):
    """The user has no such display."""

    def __init__(self, user: str, display: str) -> None:
        super().__init__(f"user '{user}' has no display '{display}'")


class NotConnectedError(CommandError):
    """The user's agent has not opened that display."""

    def __init__(self, display: str) -> None:
        super().__init__(f"display '{display}' is not connected")


class DisplayError(SessiondError):
    """The display does not answer, refuses us, has an unusable format, or died."""


class EncoderError(SessiondError):
    """No such encoder, an option it does not know, or a frame it could not encode."""


class ChannelError(SessiondError):
    """A channel to another domain cannot be opened, or its peer leaves too much unread."""


class StartError(SessiondError):
    """A command is not started; ``exit_code`` is what its caller is told.

    125 is for a fault of the call's or ours, 126 a refusal, 127 what does not exist (qrexec).
    """

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code
