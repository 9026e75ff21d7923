"""Fixtures of the tests that need a whole guest.

Every test below this directory bears the mark ``vm``. Where a guest cannot run they are skipped,
with the reason; but they fail where the environment variable CI is set: there a skip would hide it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.vm import guest as guests
from tests.vm import image as images

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
# SPICE's other agent has a port of its own.
VDAGENT: Final = (
    *("-chardev", "spicevmc,id=vdagent,name=vdagent"),
    *("-device", "virtserialport,chardev=vdagent,name=com.redhat.spice.0"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def guest_images() -> dict[str, images.Image]:
    """Give the images of all suites; what the cache does not have is built, at the same time."""
    if lacks := dict.fromkeys(guests.missing() + images.missing()):
        reason = f"a guest needs {'; '.join(lacks)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with ThreadPoolExecutor() as pool:
        return dict(
            zip(images.SUITES, pool.map(images.cached_or_built, images.SUITES), strict=True)
        )


@pytest.fixture(scope="session")
def guest_image(guest_images: dict[str, images.Image]) -> images.Image:
    """Give the image for $GUEST."""
    return guest_images[images.suite_from_environment()]


@pytest.fixture(scope="session")
def package() -> Path:
    """Give the project's package as ``make deb`` has left it."""
    found = list((PROJECT / "dist").glob("spice-sessiond_*_all.deb"))
    assert len(found) == 1, f"not one package, but {found}: make deb"
    return found[0]


@pytest.fixture(scope="module")
def pictures(request: pytest.FixtureRequest) -> Path:
    """Give an empty directory for pictures that a person may want to see: build/vm/MODULE."""
    directory = PROJECT / "build" / "vm" / request.path.stem.removeprefix("test_")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


@pytest.fixture(scope="session")
def guest(
    guest_image: images.Image, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[guests.Guest]:
    """Share one booted guest with the project's tree among all tests of the run.

    A test leaves it as it found it: no session, no process, VT 1 in front. One that cannot, boots
    its own from ``guest_image``.
    """
    directory = tmp_path_factory.mktemp("guest")
    with guests.Guest(guest_image, directory=directory) as booted:
        booted.push_tree(PROJECT)
        yield booted


@pytest.fixture(scope="session")
def desktop_guest(
    guest_images: dict[str, images.Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[guests.Guest]:
    """Share one guest that has desktops: of ``test_desktop`` first, then of ``test_screens``."""
    machine = dataclasses.replace(
        guests.machine_from_environment(),
        reboots=True,
        devices=VDAGENT,
        kernel_arguments=("systemd.show_status=true",),
    )
    image = guest_images[images.DESKTOP_SUITE]
    directory = tmp_path_factory.mktemp("desktop")
    with guests.Guest(image, directory=directory, machine=machine) as booted:
        yield booted
