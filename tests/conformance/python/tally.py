"""A pytest plug-in that counts outcomes per file, for the published table.

With `ATOLL_TALLY` set it writes one JSON object a line: file, test, outcome (passed, failed,
skipped) and, where it did not pass, why. Without it, it does nothing.
"""

import json
import os

ORDER = {"passed": 0, "skipped": 1, "failed": 2}


class Tally:
    def __init__(self, path):
        self.path = path
        self.rows = {}

    def pytest_runtest_logreport(self, report):
        # A test is set up, called and torn down; its outcome is the worst of the three.
        known = self.rows.get(report.nodeid, {"outcome": "passed", "why": ""})
        if ORDER[report.outcome] >= ORDER[known["outcome"]]:
            known = {"outcome": report.outcome, "why": self._why(report)}
        self.rows[report.nodeid] = known

    @staticmethod
    def _why(report):
        if report.passed:
            return ""
        if report.skipped and isinstance(report.longrepr, tuple):
            return report.longrepr[2]
        crash = getattr(report.longrepr, "reprcrash", None)
        return crash.message[:500] if crash else str(report.longrepr)[-500:]

    def pytest_sessionfinish(self):
        with open(self.path, "w") as out:
            for node, row in self.rows.items():
                file, _, test = node.partition("::")
                out.write(json.dumps({"file": file, "test": test, **row}) + "\n")


def pytest_configure(config):
    path = os.environ.get("ATOLL_TALLY")
    # Only the controller of parallel workers sees every report.
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Tally(path))
