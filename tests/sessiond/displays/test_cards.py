"""Graphics cards by their names, and that they come and go, with the kernel's own inotify."""

from pathlib import Path

import pytest

from sessiond.displays.cards import Cards, has_card
from sessiond.transport.edge import EdgePoller
from tests.fixtures.loop import Signal, in_loop, turns


@pytest.mark.parametrize(
    ("names", "wanted"),
    [((), False), (("card0",), True), (("by-path", "card12", "renderD128"), True),
     (("renderD128",), False), (("card0-DP-1", "discard0", "controlD64", "card"), False)],
)  # fmt: skip
def test_a_card_is_known_by_its_name(
    tmp_path: Path, names: tuple[str, ...], *, wanted: bool
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert has_card(str(tmp_path)) == wanted


@in_loop
async def test_the_first_that_comes_and_the_last_that_goes_are_told(tmp_path: Path) -> None:
    folder, told, poller = tmp_path / "dri", Signal(), EdgePoller()
    said: list[bool] = []

    def note() -> None:
        said.append(cards.are_there)
        told.happened()

    cards = Cards(str(folder), poller, note)
    assert not cards.are_there
    folder.mkdir()
    (folder / "renderD128").touch()
    (folder / "card0").touch()
    await told.until(lambda: len(said) == 1)
    (folder / "card1").touch()
    (folder / "card0").unlink()
    (folder / "card1").unlink()
    await told.until(lambda: len(said) == 2)
    folder.joinpath("renderD128").unlink()
    folder.rmdir()
    folder.mkdir()
    (folder / "card0").touch()
    await told.until(lambda: len(said) == 3)
    assert said == [True, False, True]
    cards.close()
    (folder / "card0").unlink()
    await turns(5)
    assert len(said) == 3
    poller.close()


@in_loop
async def test_one_that_is_there_is_known_at_once(tmp_path: Path) -> None:
    (tmp_path / "card0").touch()
    poller = EdgePoller()
    cards = Cards(str(tmp_path), poller, lambda: None)
    assert cards.are_there
    cards.close()
    poller.close()
