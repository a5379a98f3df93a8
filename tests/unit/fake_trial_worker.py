"""A worker of campaigns that makes no trials: what it does instead is in the order's number."""

import json
import os
import subprocess
import sys
import time
from typing import Any

from tests.unit.fake_numbers import DIES, HANGS, LINGERS, TALKS


def main() -> None:
    print(json.dumps({"remains": {}}), flush=True)
    with open(int(sys.argv[sys.argv.index("--orders-fd") + 1])) as orders:
        for line in orders:
            obey(json.loads(line))


def obey(order: dict[str, Any]) -> None:
    if order["trial"] == LINGERS:
        subprocess.Popen(["sleep", f"300.{os.getppid()}"])
    if order["trial"] in (DIES, LINGERS):
        print("boom", flush=True)
        os._exit(3)
    if order["trial"] == HANGS:
        time.sleep(300)
    if order["trial"] == TALKS:
        print("no JSON at all", flush=True)
    record = {"trial": order["trial"], "driver": order["driver"], "verdict": "recovered", "pid": os.getpid()}
    print(json.dumps({"record": record}), flush=True)


main()
