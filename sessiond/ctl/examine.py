"""Looks for what ``doctor`` judges: on the bus, in the configuration and in the file system."""

import contextlib
import ctypes
import importlib.util
import os
import re
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sessiond.config import load
from sessiond.ctl.client import READ_LIMIT, Client, driver, owner_of
from sessiond.ctl.doctor import doctor_page
from sessiond.ctl.findings import Findings, Means
from sessiond.ctl.users import own_name
from sessiond.ctl.view import Page
from sessiond.displays.candidates import listeners
from sessiond.displays.cards import has_card
from sessiond.errors import BusCallError, BusError, UsageError
from sessiond.stream.holder import holder_of
from sessiond.stream.kms import may_read_cards
from sessiond.transport.bus import Bus

_LOGIND: Final = "org.freedesktop.login1"
_POLKIT: Final = "org.freedesktop.PolicyKit1"
_RUNTIME: Final = "/run/user"  # the folder of all users' runtime directories
_PIPEWIRE: Final = "pipewire-0"
_SESSION_MANAGERS: Final = frozenset({"wireplumber", "pipewire-media-"})
_AGENTS_PATH: Final = "/usr/local/bin:/usr/bin:/bin"  # PATH of what the daemon starts


async def doctor(options: Namespace) -> Page:
    """Look at everything, and return the page. Nothing that is missing raises."""
    has_pyav = importlib.util.find_spec("av") is not None  # the agent's interpreter is this one
    found = replace(_look_around(options.config), name=options.name, has_pyav=has_pyav)
    try:
        with await Bus.connect(options.bus) as bus:
            found = replace(found, **await _look_on(bus))
            owner = await owner_of(bus, options.name)
            if owner:
                found = replace(found, **await _look_at(Client(bus, owner)))
    except BusError as error:
        found = replace(found, bus_error=str(error))
    return doctor_page(replace(found, means=_look_for_means(found)))


def _look_around(config: Path | None) -> Findings:
    """Return what the configuration names, and whether it is there."""
    try:
        settings = load([] if config is None else ["--config", str(config)])
    except UsageError as error:
        return Findings(name="", config_error=str(error))
    channel = settings.text("host_channel")
    place = channel.removeprefix("unix:")
    port, agent = settings.text("stream.port"), next(iter(settings.texts("stream.agent")), "")
    return Findings(
        name="",
        codecs=settings.texts("stream.codec"),
        port=port,
        has_port=os.path.exists(port),
        agent=agent,
        agent_path=shutil.which(agent, path=_AGENTS_PATH) or "",
        channel=channel,
        has_channel=os.path.exists(place),
        channel_holder=holder_of(place) if os.path.exists(place) else 0,
        caller=own_name() if os.getuid() else "",
        means=Means(
            kms=settings.text("capture.kms"),
            cards=settings.text("capture.cards"),
            has_card=has_card(settings.text("capture.cards")),
            kms_socket=settings.text("capture.kms_socket"),
            has_kms_socket=os.path.exists(settings.text("capture.kms_socket")),
        ),
    )


def _look_for_means(found: Findings) -> Means:
    """Return the means with those of the daemon's process and of the session in front."""
    means = replace(
        found.means, may_help_itself=may_read_cards(found.pid), has_libpipewire=_has_library()
    )
    uid, _user = (found.front or {}).get("User", (None, ""))
    if uid is None or os.getuid() not in {0, uid}:  # nobody else sees all of it
        return means
    return replace(
        means,
        pipewire=f"{_RUNTIME}/{uid}/{_PIPEWIRE}",
        has_pipewire=bool(listeners(int(uid), re.escape(_PIPEWIRE), _RUNTIME)),
        has_wireplumber=not _SESSION_MANAGERS.isdisjoint(_programs_of(int(uid))),
    )


def _has_library() -> bool:
    try:
        ctypes.CDLL("libpipewire-0.3.so.0")
    except OSError:
        return False
    return True


def _programs_of(uid: int) -> set[str]:
    """Return the names of a user's processes, as the kernel shortens them."""
    names = set[str]()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if place.stat().st_uid == uid:
                names.add((place / "comm").read_text(encoding="utf-8", errors="replace").rstrip())
    return names


async def _look_on(bus: Bus) -> dict[str, Any]:
    [activatable] = await bus.call(driver("ListActivatableNames"), limit=READ_LIMIT)
    return {
        "has_logind": bool(await owner_of(bus, _LOGIND)),
        "has_polkit": _POLKIT in activatable or bool(await owner_of(bus, _POLKIT)),
    }


async def _look_at(client: Client) -> dict[str, Any]:
    """Return what the daemon says; one that hangs is a finding too."""
    found: dict[str, Any] = {}
    try:
        call = driver("GetConnectionUnixProcessID", client.owner)
        [found["pid"]] = await client.bus.call(call, limit=READ_LIMIT)
        found["manager"] = manager = await client.manager()
        _, front = manager.get("ActiveSession") or ("", "/")
        found["front"] = (await client.sessions()).get(front)
        agents = (await client.user_agents()).values()
        found["agents"] = {str(it.get("Name", "")): int(it.get("PID", 0)) for it in agents}
    except BusCallError as error:
        found["daemon_error"] = str(error)
    return found
