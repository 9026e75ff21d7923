"""Who may run what as whom: a table of cases, and every mistake in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import UsageError
from sessiond.users.policy import (
    DEFAULT_FILE,
    MAX_FILE,
    NOTHING,
    Origin,
    Policy,
    Question,
    Rule,
    Verdict,
    parse,
    read,
)

EXAMPLE: Final = Path(__file__).parents[3] / "packaging" / "exec.toml"
ALLOW, DENY, ASK = Verdict.ALLOW, Verdict.DENY, Verdict.ASK


def local(caller: str, user: str, service: str = "") -> Question:
    return Question(Origin.LOCAL, user, service, caller)


def host(user: str) -> Question:
    return Question(Origin.HOST, user)


def qrexec(user: str, service: str = "") -> Question:
    return Question(Origin.QREXEC, user, service)


def rules(*lines: str) -> Policy:
    """Return the policy of lines "allow|deny CALLER SERVICE USER"."""
    words = (line.split() for line in lines)
    return Policy(
        tuple(Rule(who, what, whom, allow=it == "allow") for it, who, what, whom in words)
    )


CASES: Final[dict[str, tuple[list[str], Question, Verdict]]] = {
    "no rule: the host channel": ([], host("alice"), ALLOW),
    "no rule: a service by qrexec": ([], qrexec("alice", "my.Clock"), ALLOW),
    "no rule: a command by qrexec": ([], qrexec("alice"), DENY),
    "no rule: one's own session": ([], local("alice", "alice"), ALLOW),
    "no rule: one's own session, a service": ([], local("alice", "alice", "x"), ALLOW),
    "no rule: another's session": ([], local("alice", "bob"), ASK),
    "no rule: root": ([], local("root", "bob"), ASK),
    "nothing: the host channel": (["deny * * *"], host("alice"), DENY),
    "nothing: one's own": (["deny * * *"], local("alice", "alice"), DENY),
    "nothing: root": (["deny * * *"], local("root", "root"), DENY),
    "the first that fits": (["deny * * bob", "allow * * *"], local("alice", "bob"), DENY),
    "the first that fits, in the other order": (
        ["allow * * *", "deny * * bob"],
        local("alice", "bob"),
        ALLOW,
    ),
    "what no rule is about": (["deny bob * *"], local("alice", "alice"), ALLOW),
    "an allowed command by qrexec": (["allow qrexec command alice"], qrexec("alice"), ALLOW),
    "as another than that": (["allow qrexec command alice"], qrexec("bob"), DENY),
    "a rule for commands is not for services": (
        ["deny qrexec command *"],
        qrexec("alice", "my.Clock"),
        ALLOW,
    ),
    "a service of the name command is none": (
        ["deny * command *"],
        local("alice", "alice", "command"),
        ALLOW,
    ),
    "all services, and commands": (["deny qrexec * *"], qrexec("alice", "x"), DENY),
    "a service": (["deny qrexec my.Clock *"], qrexec("alice", "my.Clock"), DENY),
    "another service": (["deny qrexec my.Clock *"], qrexec("alice", "my.Clocks"), ALLOW),
    "a service with any argument": (["deny qrexec my.C *"], qrexec("alice", "my.C+x"), DENY),
    "a service with one argument": (["deny qrexec my.C+x *"], qrexec("alice", "my.C+x"), DENY),
    "a service with another argument": (["deny qrexec my.C+x *"], qrexec("alice", "my.C"), ALLOW),
    "an argument's own plus": (["deny qrexec my.C+x *"], qrexec("alice", "my.C+x+y"), ALLOW),
    "a service's name is no command": (["deny * my.Clock *"], local("alice", "alice"), ALLOW),
    "the host channel by its name": (["deny host-channel command *"], host("alice"), DENY),
    "that is not qrexec": (["deny host-channel * *"], qrexec("alice", "x"), ALLOW),
    "qrexec is not the host channel": (["deny qrexec * *"], host("alice"), ALLOW),
    "neither is a user of that name": (["deny qrexec * *"], local("qrexec", "qrexec"), ALLOW),
    "nor is one of them that user": (["allow qrexec * *"], local("qrexec", "bob"), ASK),
    "a user": (["allow alice command bob"], local("alice", "bob"), ALLOW),
    "another user": (["allow alice command bob"], local("carol", "bob"), ASK),
    "a user is no host": (["deny alice * *"], host("alice"), ALLOW),
    "one's own is forbidden": (["deny * * ="], local("alice", "alice"), DENY),
    "another's is not one's own": (["deny * * ="], local("alice", "bob"), ASK),
    "the host has nothing of its own": (["deny * * ="], host(""), ALLOW),
    "nor has qrexec": (["deny * * ="], qrexec("", "x"), ALLOW),
}


@pytest.mark.parametrize(("lines", "question", "verdict"), CASES.values(), ids=CASES)
def test_verdict(lines: list[str], question: Question, verdict: Verdict) -> None:
    assert rules(*lines).decide(question) is verdict


_names = st.sampled_from(["alice", "qrexec", "host-channel", "command", "*", "=", "x", "x+y"])


@given(st.sampled_from(Origin), _names, _names | st.just(""), _names)
def test_a_policy_that_could_not_be_read_allows_nothing(
    origin: Origin, user: str, service: str, caller: str
) -> None:
    assert NOTHING.decide(Question(origin, user, service, caller)) is DENY


RULE: Final = """
[[rule]]
caller = "alice"
service = "my.Clock"
user = "="
allow = true
"""


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "exec.toml"
    path.write_text(RULE + RULE.replace("alice", "*").replace("true", "false"))
    assert read(str(path)) == Policy(
        (Rule("alice", "my.Clock", "=", allow=True), Rule("*", "my.Clock", "=", allow=False))
    )
    path.write_text("# nothing\n")
    assert read(str(path)) == Policy()


WRONG: Final = {
    "no TOML": ("[[rule]", "Expected"),
    "a key of its own": ("allow = true" + RULE, "allow: there is no such key"),
    "no array": ("[rule]\nallow = true", r"rule: each is to begin with \[\[rule]]"),
    "a list of others": ("rule = [1]", r"rule: each is to begin with \[\[rule]]"),
    "an unknown key": (RULE + "uid = 0", "rule 1: uid: there is no such key, only caller"),
    "a missing key": (RULE + RULE.replace("allow = true", ""), "rule 2: allow is missing"),
    "no text": (RULE.replace('"alice"', "0"), "rule 1: caller: 0 is not a name"),
    "an empty text": (RULE.replace('"="', '""'), "rule 1: user: '' is not a name"),
    "no truth": (RULE.replace("true", '"true"'), "rule 1: allow: 'true' is not true or false"),
    "a caller of its own": (RULE.replace('"alice"', '"="'), 'rule 1: caller: only user may be "="'),
    "a service of its own": (
        RULE.replace('"my.Clock"', '"="'),
        'rule 1: service: only user may be "="',
    ),
}


@pytest.mark.parametrize(("text", "complaint"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "exec.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"^{path}: {complaint}"):
        read(str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "exec.toml"
    with pytest.raises(UsageError, match="no such file"):
        read(str(path))
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read(str(tmp_path))
    path.write_bytes(b"# \xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        read(str(path))
    path.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(UsageError, match="over"):
        read(str(path))


@pytest.mark.skipif(Path(DEFAULT_FILE).exists(), reason="this machine has a policy")
def test_without_the_default_file_there_are_no_rules() -> None:
    assert read(DEFAULT_FILE) == Policy()


def test_the_example_changes_nothing() -> None:
    """It shows rules, all of them commented out; each of them is right."""
    text = EXAMPLE.read_text()
    assert parse(text, "example") == Policy()
    shown = "\n".join(line.removeprefix("# ") for line in text.split("\n\n", 1)[1].splitlines())
    assert parse(shown, "example").rules
