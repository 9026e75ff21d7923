"""What a daemon could tell: properties of a Manager and of two sessions, as they arrive."""

from typing import Any, Final

from sessiond.ctl.client import ROOT

ESCAPE: Final = "\x1b[31mred\x1b[0m"
NOW: Final = 1_790_000_000.0

MANAGER: Final[dict[str, Any]] = {
    "Version": "0.1.0",
    "Seat": "seat0",
    "ActiveSession": ["c2", f"{ROOT}/session/c2"],
    "State": "streaming",
    "Reason": "ok",
    "ReasonText": "Session c2 is shown.",
    "HostAsking": True,
    "HostCodecs": ["mjpeg", "vp8"],
    "Backend": "x11",
    "Codec": "mjpeg",
    "Encoder": "libjpeg-turbo",
    "CodecReason": "",
    "Width": 1920,
    "Height": 1080,
    "AgentPID": 4711,
    "AgentRestarts": 2,
    "NextRetryUSec": 0,
    "StreamingEnabled": True,
    "AutoSwitch": "off",
    "FramesSent": 64,
    "BytesSent": 33_100,
    "FrameRate": 24.96,
}
ALICE: Final[dict[str, Any]] = {
    "Id": "10",
    "User": [1000, "alice"],
    "VTNr": 7,
    "Type": "x11",
    "Class": "user",
    "Display": ":0",
    "Backend": "",
    "TTY": "",
    "Desktop": "xfce",
    "Remote": False,
    "Active": False,
    "Locked": True,
    "Shown": False,
    "Reason": "paused-by-user",
    "EnvSource": "",
    "LogindPath": "/org/freedesktop/login1/session/_310",
}
BOB: Final[dict[str, Any]] = {
    **ALICE,
    "Id": "c2",
    "User": [1001, "bob"],
    "VTNr": 8,
    "Display": ":1",
    "Backend": "x11",
    "Active": True,
    "Locked": False,
    "Shown": True,
    "Reason": "ok",
    "EnvSource": "logind",
    "LogindPath": "/org/freedesktop/login1/session/c2",
}
SESSIONS: Final = {f"{ROOT}/session/c2": BOB, f"{ROOT}/session/_310": ALICE}
AGENT: Final[dict[str, Any]] = {
    "UID": 1000,
    "Name": "alice",
    "PID": 4712,
    "ConnectedUSec": 1_790_000_000_000_000,
}
AGENTS: Final = {f"{ROOT}/user/1000": AGENT}
DISPLAYS: Final = [[":0", "10", "x11", True], [":7", "", "", False]]
SCREENS: Final = [["DP-1", -1280, 0, 1280, 1024, False], ["HDMI-1", 0, 0, 1920, 1080, True]]
