"""The fuzz target's invariant (`tests.fuzz.qrexec`), on its seeds and what chance makes of them."""

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.qrexec.invariant import Outcome, check
from tests.fuzz.qrexec.seeds import CHOICES, SEEDS, TOKENS

PIECES = st.one_of(
    st.sampled_from(TOKENS),
    st.sampled_from(sorted({seed[CHOICES:] for seed in SEEDS})),
    st.binary(max_size=12),
)


def test_seeds_come_to_everything() -> None:
    assert {check(seed) for seed in SEEDS} == set(Outcome)


@given(st.binary(min_size=CHOICES, max_size=CHOICES), st.lists(PIECES, max_size=6))
def test_any_bytes(choices: bytes, pieces: list[bytes]) -> None:
    check(choices + b"".join(pieces))
