"""Says which numbered picture the X server that $DISPLAY names has, -1 for none of them."""

from __future__ import annotations

import os
import sys

from tests.fixtures.drawing import Canvas, number_of

if __name__ == "__main__":
    with Canvas(os.environ["DISPLAY"]) as shown:
        sys.stdout.write(f"{number_of(shown.content())}\n")
