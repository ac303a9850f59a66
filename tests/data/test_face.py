from __future__ import annotations

import subprocess
import sys

HEAVY = ("gymnasium", "gymnasium_robotics", "minari", "h5py", "mujoco")


def test_the_face_imports_no_simulator_and_no_reader() -> None:
    script = f"import sys, jaxrl_prefs.data; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == "[]"
