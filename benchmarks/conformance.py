"""Optax's own tests with gradtx's functions in place of Optax's of the same name, beside Optax's own results.

    python -m benchmarks.conformance [--only alias combine ...] [--failures]

Optax's wheel ships its tests. Each file runs twice in processes of its own, as it is and with
benchmarks/conformance_patch.py. A test that passes with Optax and not with gradtx is a difference; each is listed with
its reason, and one without a reason makes this script fail.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

from benchmarks import common
from benchmarks.conformance_patch import replacements
from benchmarks.conformance_reasons import REASONS

FILES = {
    "alias": "optax._src.alias_test",
    "transform": "optax._src.transform_test",
    "lookahead": "optax._src.lookahead_test",
    "update": "optax._src.update_test",
    "combine": "optax._src.combine_test",
    "float64": "optax._src.float64_test",
    "sharding": "optax._src.sharding_test",
    "accumulation": "optax.transforms._accumulation_test",
    "adding": "optax.transforms._adding_test",
    "clipping": "optax.transforms._clipping_test",
    "combining": "optax.transforms._combining_test",
    "conditionality": "optax.transforms._conditionality_test",
    "constraining": "optax.transforms._constraining_test",
    "layouts": "optax.transforms._layouts_test",
    "masking": "optax.transforms._masking_test",
    "schedules": "optax.schedules._schedule_test",
    "inject": "optax.schedules._inject_test",
    "contrib": "optax.contrib._common_test",
    "complex": "optax.contrib._complex_valued_test",
    "mechanic": "optax.contrib._mechanic_test",
    "muon": "optax.contrib._muon_test",
    "privacy": "optax.contrib._privacy_test",
    "reduce_on_plateau": "optax.contrib._reduce_on_plateau_test",
    "sam": "optax.contrib._sam_test",
    "schedule_free": "optax.contrib._schedule_free_test",
    "state_utils": "optax.tree_utils._state_utils_test",
}


def run(module: str, *, patched: bool, log: str) -> dict[str, tuple[str, str]]:
    """Outcome and message of each test of a file: passed, failed or skipped."""
    plugin = ["-p", "benchmarks.conformance_patch"] if patched else []
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(os.cpu_count()), "--tb=short", *plugin]
        command += ["-c", os.devnull, f"--rootdir={folder}", f"--junitxml={report}", "--pyargs", module]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
        with open(log, "w") as out:
            out.write(done.stdout + done.stderr)
        if not os.path.exists(report):
            raise RuntimeError(f"{module}: no report\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return {f"{case.get('classname')}::{case.get('name')}": _outcome(case) for case in cases}


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    for kind, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        node = case.find(kind)
        if node is not None:
            return outcome, f"{node.get('message') or ''}\n{node.text or ''}"
    return "passed", ""


def reason(test: str, message: str) -> str | None:
    """Why gradtx differs in this test, as far as that is known."""
    for pattern, text in REASONS:
        name, _, said = pattern.partition(" :: ")
        if re.search(name, test) and re.search(said, message):
            return text
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help=f"some of {' '.join(FILES)}")
    parser.add_argument("--failures", action="store_true", help="print the message of each difference")
    options = parser.parse_args()
    rows, reasons, unexplained = [], dict[str, list[str]](), []
    with tempfile.TemporaryDirectory() as logs:
        for name, module in FILES.items():
            if options.only and name not in options.only:
                continue
            theirs, ours = (run(module, patched=p, log=os.path.join(logs, "log")) for p in (False, True))
            counts = [
                sum(outcome == kind for outcome, _ in results.values())
                for results in (theirs, ours)
                for kind in ("passed", "failed", "skipped")
            ]
            if set(theirs) != set(ours):
                unexplained.append(f"{name}: {len(theirs)} tests with Optax, {len(ours)} with gradtx")
            rows.append([name, *counts])
            print(*rows[-1], file=sys.stderr, flush=True)
            for test, (outcome, message) in ours.items():
                if outcome == "passed" or theirs.get(test, ("", ""))[0] != "passed":
                    continue
                why = reason(test, message)
                if why is None:
                    unexplained.append(test)
                else:
                    reasons.setdefault(why, []).append(test)
                if options.failures:
                    print(f"--- {test}: {why}\n{message[-1500:]}", file=sys.stderr)
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, 7))])
    header = ["file", *(f"{who} {kind}" for who in ("Optax", "gradtx") for kind in ("passed", "failed", "skipped"))]
    print(f"{len(replacements())} functions replaced: {', '.join(sorted(replacements()))}\n")
    print(common.table(header, rows))
    print("\nDifferences:\n")
    for why, tests in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print(f"- {len(tests)} tests: {why}")
    for test in unexplained:
        print(f"- UNEXPLAINED: {test}")
    print(f"\n{common.machine()}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    raise SystemExit(main())
