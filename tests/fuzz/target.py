"""The process that atheris drives: libFuzzer's options in, one line of JSON with the counts out.

    python -m tests.fuzz.target NAME -atheris_runs=N ... CORPUS

NAME is one of `tests.fuzz.subjects`. The decoder alone is instrumented, so that what counts as new
is new there. Exit status 0 if the invariant held; else libFuzzer says on stderr which input broke
it.
"""

import collections
import json
import sys

from tests.fuzz.needed import needed
from tests.fuzz.subjects import SUBJECTS, load_check


def main() -> None:
    """Run until the count is reached or an input breaks the invariant."""
    atheris = needed("atheris")
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=list(SUBJECTS[name].modules)):
        check = load_check(name)  # what is imported is instrumented

    counts: collections.Counter[str] = collections.Counter()

    def one(data: bytes) -> None:
        counts["executions"] += 1
        counts[check(data)] += 1

    atheris.Setup(sys.argv, one)
    try:
        atheris.Fuzz()  # ends with SystemExit
    finally:
        sys.stdout.write(json.dumps(counts) + "\n")
        sys.stdout.flush()  # after a crash libFuzzer ends the process at once


if __name__ == "__main__":
    main()
