"""The command lines."""

import pytest

from agent.options import QREXEC_SOCKET, parse
from sessiond.errors import UsageError


def test_agent() -> None:
    options = parse(["qrexec"])
    assert (options.agent_socket, options.no_fork_server, options.debug) == (
        QREXEC_SOCKET, False, False,
    )  # fmt: skip
    options = parse(["qrexec", "--agent-socket=/a", "--no-fork-server", "-d"])
    assert (options.agent_socket, options.no_fork_server, options.debug) == ("/a", True, True)


def test_client() -> None:
    options = parse(["qrexec-client", "target", "service"])
    assert (options.target, options.service, options.program) == ("target", "service", [])
    assert (options.agent_socket, options.source_qube) == (QREXEC_SOCKET, "")
    assert (options.filter_stdout, options.filter_stderr) == (None, None)


@pytest.mark.parametrize("program", [["/p"], ["/p", "-t", "--agent-socket=/b"], ["/p", "--", "-d"]])
def test_options_of_a_program_are_its_own(program: list[str]) -> None:
    options = parse(["qrexec-client", "-t", "-a", "/a", "", "s+a", *program])
    assert (options.target, options.service, options.program) == ("", "s+a", program)
    assert (options.filter_stdout, options.filter_stderr) == (True, None)
    assert options.agent_socket == "/a"


@pytest.mark.parametrize(
    "argv",
    [
        ["qrexec", "more"],
        ["qrexec", "--fork"],
        ["qrexec-client"],
        ["qrexec-client", "--agent", "t"],
    ],
)
def test_wrong_command_line(argv: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(argv)
