"""The ioctls' numbers and their structs, against the kernel's own headers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sessiond.kms.drm import (
    CONNECTORS,
    MODE_FB_MODIFIERS,
    OBJECT_PLANE,
    Call,
    Capability,
    Device,
)

HEADERS = [path for path in map(Path, ("/usr/include/libdrm", "/usr/include/drm")) if path.exists()]

# Each field that we read or write: where it is among those of the struct's format.
FIELDS = {
    Call.VERSION: ("drm_version", {"name_len": 3, "name": 4}),
    Call.GEM_CLOSE: ("drm_gem_close", {"handle": 0}),
    Call.SET_CLIENT_CAP: ("drm_set_client_cap", {"capability": 0, "value": 1}),
    Call.PRIME_HANDLE_TO_FD: ("drm_prime_handle", {"handle": 0, "flags": 1, "fd": 2}),
    Call.MODE_GETRESOURCES: (
        "drm_mode_card_res",
        {"crtc_id_ptr": 1, "connector_id_ptr": 2, "count_crtcs": 5, "count_connectors": 6},
    ),
    Call.MODE_GETCRTC: (
        "drm_mode_crtc",
        {
            "crtc_id": 2, "fb_id": 3, "x": 4, "y": 5, "mode_valid": 7, "mode.hdisplay": 9,
            "mode.vdisplay": 14,
        },
    ),
    Call.MODE_GETENCODER: ("drm_mode_get_encoder", {"encoder_id": 0, "crtc_id": 2}),
    Call.MODE_GETCONNECTOR: (
        "drm_mode_get_connector",
        {
            "modes_ptr": 1, "count_modes": 4, "encoder_id": 7, "connector_id": 8,
            "connector_type": 9, "connector_type_id": 10,
        },
    ),
    Call.MODE_GETPROPERTY: ("drm_mode_get_property", {"prop_id": 2, "name": 4}),
    Call.MODE_GETPLANERESOURCES: ("drm_mode_get_plane_res", {"plane_id_ptr": 0, "count_planes": 1}),
    Call.MODE_OBJ_GETPROPERTIES: (
        "drm_mode_obj_get_properties",
        {"props_ptr": 0, "prop_values_ptr": 1, "count_props": 2, "obj_id": 3, "obj_type": 4},
    ),
    Call.MODE_GETFB2: (
        "drm_mode_fb_cmd2",
        {
            "fb_id": 0, "width": 1, "height": 2, "pixel_format": 3, "flags": 4, "handles": 5,
            "pitches": 9, "offsets": 13, "modifier": 17,
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Give what a C compiler says of the headers."""
    if not HEADERS or not shutil.which("gcc"):
        pytest.skip("needs libdrm-dev and gcc")
    folder = tmp_path_factory.mktemp("drm")
    wanted = {f"DRM_IOCTL_{call.name}" for call in Call}
    wanted |= {f"DRM_CLIENT_CAP_{name.name}" for name in Capability}
    wanted |= {"DRM_MODE_FB_MODIFIERS", "DRM_MODE_OBJECT_PLANE", "DRM_CLOEXEC"}
    wanted |= {f"offsetof(struct {struct}, {it})" for struct, its in FIELDS.values() for it in its}
    wanted |= {"DRM_MODE_CONNECTOR_VIRTUAL", "DRM_MODE_CONNECTOR_USB"}
    lines = "\n".join(f'printf("%llu\\t{it}\\n", (unsigned long long)({it}));' for it in wanted)
    source = folder / "measure.c"
    source.write_text(
        "#include <fcntl.h>\n#include <stdio.h>\n#include <stddef.h>\n"
        "#include <drm.h>\n#include <drm_mode.h>\n"
        # Debian 12's headers do not have it.
        "#ifndef DRM_CLIENT_CAP_CURSOR_PLANE_HOTSPOT\n"
        "#define DRM_CLIENT_CAP_CURSOR_PLANE_HOTSPOT 6\n#endif\n"
        f"int main(void) {{ {lines} return 0; }}\n"
    )
    program = str(folder / "measure")
    subprocess.run(["gcc", f"-I{HEADERS[0]}", "-o", program, str(source)], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    numbers = (line.split("\t") for line in printed.splitlines())
    return {name: int(number) for number, name in numbers}


@pytest.mark.parts
@pytest.mark.parametrize("call", list(Call), ids=lambda call: call.name)
def test_numbers_and_sizes(measured: dict[str, int], call: Call) -> None:
    assert call.request == measured[f"DRM_IOCTL_{call.name}"]


@pytest.mark.parts
@pytest.mark.parametrize("call", list(FIELDS), ids=lambda call: call.name)
def test_fields(measured: dict[str, int], call: Call) -> None:
    """A value of one alone begins where the field does: these machines' bytes go that way."""
    struct, fields = FIELDS[call]
    nothing = call.form.unpack(bytes(call.form.size))
    for name, place in fields.items():
        value = b"\1" if isinstance(nothing[place], bytes) else 1
        packed = call.form.pack(*nothing[:place], value, *nothing[place + 1 :])
        assert packed.index(1) == measured[f"offsetof(struct {struct}, {name})"], name


@pytest.mark.parts
def test_constants(measured: dict[str, int]) -> None:
    assert measured["DRM_MODE_FB_MODIFIERS"] == MODE_FB_MODIFIERS
    assert measured["DRM_MODE_OBJECT_PLANE"] == OBJECT_PLANE
    assert measured["DRM_CLOEXEC"] == os.O_CLOEXEC
    assert CONNECTORS[measured["DRM_MODE_CONNECTOR_VIRTUAL"]] == "Virtual"
    assert CONNECTORS[measured["DRM_MODE_CONNECTOR_USB"]] == "USB"
    for capability in Capability:
        assert measured[f"DRM_CLIENT_CAP_{capability.name}"] == capability


def test_no_card() -> None:
    with open("/dev/null", "rb") as null, pytest.raises(OSError, match="Inappropriate ioctl"):
        Device(null.fileno()).driver()
