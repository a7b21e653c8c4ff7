"""The cases in ``virtual`` need eight devices from the start of the process; test_virtual.py gives them one of their own."""

from __future__ import annotations

import os

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"

collect_ignore = [] if EIGHT_DEVICES in os.environ.get("XLA_FLAGS", "") else ["virtual"]
