"""Fuzz the decoder of the helper protocol; print how often, and how much of it was reached.

    python -m tests.fuzz [--runs N] [--seed N] [--corpus DIR]
    python -m tests.fuzz --repeat HEX

atheris runs in a process of its own (`tests.fuzz.target`) and keeps every input that reached
something new. Those run again here, without atheris and under `coverage`: its lines and branches
are what is printed. Exits with 0 if the invariant (`tests.fuzz.invariant`) held, no run is lacking
and the decoder was not missed. A package that is missing is a failure.
"""

# ruff: noqa: T201 (a report is printed)

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.fuzz.needed import needed
from tests.fuzz.seeds import MAX_INPUT, SEEDS, TOKENS

ROOT: Final = Path(__file__).parents[2]
DECODER: Final = ROOT / "sessiond" / "wire" / "helper.py"
ENOUGH: Final = 95.0  # percent of lines and branches; with less the fuzzer has gone blind
LAST_LINES: Final = 40  # of what libFuzzer said, when it failed


def main() -> int:
    """Fuzz, measure, print, and return the exit status."""
    options = _options()
    if options.repeat is not None:
        _run_all([options.repeat])
        return 0
    for name in ("atheris", "coverage"):
        needed(name)
    with tempfile.TemporaryDirectory() as directory:
        corpus = options.corpus or Path(directory) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        is_good = _fuzz(options.runs, options.seed, corpus, Path(directory))
        return 0 if is_good and _measure(corpus) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--runs", type=int, default=210_000, help="executions (210000)")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="where inputs stay (nowhere)")
    parser.add_argument("--repeat", type=bytes.fromhex, metavar="HEX", help="run this input alone")
    return parser.parse_args()


def _fuzz(runs: int, seed: int, corpus: Path, directory: Path) -> bool:
    """Let atheris run; return whether it ran as often as asked and the invariant held."""
    for number, data in enumerate(SEEDS):
        (corpus / f"seed-{number:02}").write_bytes(data)
    words = directory / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS))
    begin = time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz.target", f"-atheris_runs={runs}", f"-seed={seed}",
            f"-max_len={MAX_INPUT}", f"-dict={words}", f"-artifact_prefix={directory}/",
            "-timeout=10", str(corpus),
        ],
        cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    counts = json.loads(done.stdout.strip().rpartition("\n")[2] or "{}")
    executions = counts.get("executions", 0)
    print(
        f"{executions} executions in {seconds:.1f} s, seed {seed}: {counts.get('record', 0)} "
        f"records, {counts.get('refusal', 0)} refusals; {len(list(corpus.iterdir()))} inputs kept"
    )
    if done.returncode == 0 and executions >= runs:
        return True
    print(*(done.stdout + done.stderr).splitlines()[-LAST_LINES:], sep="\n")
    for found in directory.glob("*-*"):  # crash-HASH, timeout-HASH
        print(f"to repeat it: python -m tests.fuzz --repeat {found.read_bytes().hex()}")
    return False


def _measure(corpus: Path) -> bool:
    """Print what the inputs reach of the decoder; return whether that is enough."""
    # Not imported before, so that the lines of the module itself count.
    assert "sessiond.wire.helper" not in sys.modules
    measured = needed("coverage").Coverage(
        branch=True, include=[str(DECODER)], data_file=None, config_file=False
    )
    with measured.collect():
        _run_all(path.read_bytes() for path in sorted(corpus.iterdir()))
    print("\nThe decoder's lines and branches, by `coverage`, over the inputs that were kept:")
    reached: float = measured.report(show_missing=True, file=sys.stdout)
    if reached < ENOUGH:
        print(f"{reached:.0f} % is less than {ENOUGH:.0f} %")
    return reached >= ENOUGH


def _escaped(token: bytes) -> str:
    """Return it as libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02X}" for byte in token)


def _run_all(inputs: Iterable[bytes]) -> None:
    from tests.fuzz.invariant import check  # noqa: PLC0415 (see _measure)

    for data in inputs:
        check(data)


if __name__ == "__main__":
    sys.exit(main())
