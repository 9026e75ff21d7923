"""Fuzz the decoders of what strangers send; print how often, and how much of them was reached.

    python -m tests.fuzz [NAME ...] [--runs N] [--seed N] [--corpus DIR]
    python -m tests.fuzz NAME --repeat HEX

NAME is one of `tests.fuzz.subjects`; without any, all take their turn. atheris runs in a process of
its own (`tests.fuzz.target`) and keeps every input that reached something new. Those run again
here, without atheris and under `coverage`: its lines and branches are what is printed. Exits with 0
if every invariant (`tests.fuzz.NAME.invariant`) held, no run is lacking and no decoder was missed.
A package that is missing is a failure.
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
from tests.fuzz.subjects import SUBJECTS, Subject, load_check

ROOT: Final = Path(__file__).parents[2]
ENOUGH: Final = 95.0  # percent of lines and branches; with less the fuzzer has gone blind
LAST_LINES: Final = 40  # of what libFuzzer said, when it failed


def main() -> int:
    """Fuzz, measure, print, and return the exit status."""
    options = _options()
    if options.repeat is not None:
        _run_all(options.names[0], [options.repeat])
        return 0
    for package in ("atheris", "coverage"):
        needed(package)
    return max(_fuzz_and_measure(name, options) for name in options.names)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SUBJECTS) + " (all)")
    parser.add_argument("--runs", type=int, help="executions (enough for each)")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="where inputs stay (nowhere)")
    parser.add_argument("--repeat", type=bytes.fromhex, metavar="HEX", help="run this input alone")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SUBJECTS):
        parser.error(f"no such decoder: {', '.join(sorted(unknown))}")
    if options.repeat is not None and len(options.names) != 1:
        parser.error("--repeat is for one decoder: name it")
    options.names = options.names or list(SUBJECTS)
    return options


def _fuzz_and_measure(name: str, options: argparse.Namespace) -> int:
    subject = SUBJECTS[name]
    print(f"\n== {name}: {', '.join(subject.modules)}")
    with tempfile.TemporaryDirectory() as directory:
        corpus = (options.corpus or Path(directory) / "corpus") / name
        corpus.mkdir(parents=True, exist_ok=True)
        runs = subject.runs if options.runs is None else options.runs
        is_good = _fuzz(name, runs, options.seed, corpus, Path(directory))
        return 0 if is_good and _measure(name, subject, corpus) else 1


def _fuzz(name: str, runs: int, seed: int, corpus: Path, directory: Path) -> bool:
    """Let atheris run; return whether it ran as often as asked and the invariant held."""
    subject = SUBJECTS[name]
    for number, data in enumerate(subject.seeds):
        (corpus / f"seed-{number:02}").write_bytes(data)
    words = directory / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in subject.tokens))
    begin = time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz.target", name, f"-atheris_runs={runs}",
            f"-seed={seed}", f"-max_len={subject.max_input}", f"-dict={words}",
            f"-artifact_prefix={directory}/", "-timeout=10", str(corpus),
        ],
        cwd=ROOT, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    counts = json.loads(done.stdout.strip().rpartition("\n")[2] or "{}")
    executions = counts.pop("executions", 0)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(
        f"{executions} executions in {seconds:.1f} s, seed {seed}: {outcomes}; "
        f"{len(list(corpus.iterdir()))} inputs kept"
    )
    if done.returncode == 0 and executions >= runs:
        return True
    print(*(done.stdout + done.stderr).splitlines()[-LAST_LINES:], sep="\n")
    for found in directory.glob("*-*"):  # crash-HASH, timeout-HASH
        print(f"to repeat it: python -m tests.fuzz {name} --repeat {found.read_bytes().hex()}")
    return False


def _measure(name: str, subject: Subject, corpus: Path) -> bool:
    """Print what the inputs reach of the decoder; return whether that is enough."""
    # Not imported before, so that the lines of the modules themselves count.
    assert not sys.modules.keys() & set(subject.modules)
    files = [str(ROOT / (module.replace(".", "/") + ".py")) for module in subject.modules]
    measured = needed("coverage").Coverage(
        branch=True, include=files, data_file=None, config_file=False
    )
    with measured.collect():
        _run_all(name, (path.read_bytes() for path in sorted(corpus.iterdir())))
    print("\nThe decoder's lines and branches, by `coverage`, over the inputs that were kept:")
    reached: float = measured.report(show_missing=True, file=sys.stdout)
    if reached < ENOUGH:
        print(f"{reached:.0f} % is less than {ENOUGH:.0f} %")
    return reached >= ENOUGH


def _escaped(token: bytes) -> str:
    """Return it as libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02X}" for byte in token)


def _run_all(name: str, inputs: Iterable[bytes]) -> None:
    check = load_check(name)  # only now: see _measure
    for data in inputs:
        check(data)


if __name__ == "__main__":
    sys.exit(main())
