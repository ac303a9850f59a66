"""Train, look at the scores, act: `python examples/quickstart.py`.

The dataset is made on first use. With a folder the run is kept: the same call resumes it if it
was stopped, and returns at once when it is finished.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import jaxrl_prefs as jp


def main(workdir: str = "runs/quickstart", **fields: Any) -> jp.Run:
    """Trains TD3+BC with three seeds; `fields` replace those below."""
    data = jp.load_dataset("pendulum-mixed")
    print(data)
    settings = {"train_steps": 5_000, "eval_every": 2_500, **fields}
    run = jp.train("td3_bc", data, seeds=3, workdir=workdir, **settings)
    print(run)
    print(run.table())

    policy = run.policy(seed=0)
    print("an action:", policy(np.array([1.0, 0.0, 0.0])))
    print(jp.evaluate(policy, episodes=2))
    run.plot(f"{workdir}/learning_curves.png")
    return run


if __name__ == "__main__":
    main()
