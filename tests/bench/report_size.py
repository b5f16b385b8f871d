"""How large the report of a long run is, and how long it takes to write and to open.

    PYTHONPATH=. python tests/bench/metrics_size.py RUN FOLDER
    PYTHONPATH=. python tests/bench/report_size.py RUN FOLDER

RUN is a short run with all measures, FOLDER what metrics_size.py has made of it; it gets RUN's configuration. A
browser opens the report and an empty page (chromium, where it is installed); what is between them is the report's.
"""

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from genesis_ds.user_files import dump_yaml, load_yaml

DRAWN = """<script>
const told = () => console.log(`drawn ${document.querySelectorAll("canvas").length} in ${performance.now()} ms`);
requestAnimationFrame(() => requestAnimationFrame(told));
</script></body>"""


def opened(report: Path) -> float:
    """Return the seconds from the opening of a report until its first screen is drawn, as the page itself tells."""
    told = report.with_name("told.html")
    told.write_text(report.read_text(encoding="utf-8").replace("</body>", DRAWN), encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--enable-logging=stderr"]
        shown = ["--window-size=1280,900", f"--screenshot={profile}/page.png", told.as_uri()]
        done = subprocess.run(["chromium", *quiet, *shown], capture_output=True, text=True, check=True)
    found = re.search(r"drawn ([1-9]\d*) in ([\d.]+) ms", done.stderr)
    assert found, done.stderr
    return float(found[2]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    config = load_yaml(given.run / "config.yaml").values | {"name": given.folder.name, "max_steps": 1_000_000}
    (given.folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    for name in ("ds_config.json", "provenance.jsonl"):
        shutil.copy(given.run / name, given.folder)
    report = given.folder / "report.html"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "genesis_ds", "report", given.folder, "--output", report], check=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = spent.ru_utime + spent.ru_stime
    print(f"written in {time.perf_counter() - started:.1f} s, {cpu:.1f} s of a CPU, with the start of Python")
    if shutil.which("chromium"):
        seconds = [opened(report) for _ in range(3)]
        print(f"opened and drawn in {sorted(seconds)[1]:.1f} s (the median of three)")


if __name__ == "__main__":
    main()
