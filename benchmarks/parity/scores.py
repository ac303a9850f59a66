"""Scores of JAX-CORL's IQL and TD3+BC in our evaluation, several seeds each.

    git clone https://github.com/nissymori/JAX-CORL PEER
    pip install distrax pydantic tqdm
    python -m benchmarks.parity.scores --peer=PEER --algo=iql --output=scores.json

The peer's data, networks and updates are its own, as written; its Python loop over calls is one
compiled loop with the same random numbers. Its policies play our environments, from the starts of
our runs (`eval_seed` 10000). A seed that is in the file already is not trained again; a file of
other flags is refused. The rows of a time limit, where the two codes differ, are the peer's.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks.parity import jax_corl
from jaxrl_prefs import data
from jaxrl_prefs.evaluation import copies

FLAGS = flags.FLAGS
START = 10_000  # `eval_seed` of our runs
ABOUT = ("algo", "dataset", "updates", "evaluations", "episodes")
OBSERVATION_EPS = {"iql": 1e-5, "td3_bc": 0.0}  # that the peer's evaluation adds to deviations


class Peer:
    """One method of JAX-CORL."""

    def __init__(self, algo: str) -> None:
        """Imports it."""
        self.algo = algo
        module = self.module = jax_corl.imported(FLAGS.peer, algo.replace("_", ""))
        kind = module.IQL if algo == "iql" else module.TD3BC
        self.config = module.IQLConfig if algo == "iql" else module.TD3BCConfig
        self.create = getattr(module, f"create_{algo.replace('_', '')}_train_state")
        self.update, self.get_action = kind().update_n_times, kind().get_action

    def train(self, state: Any, rows: Any, key: Any, settings: Any, calls: int) -> tuple[Any, Any]:
        """`calls` calls of its update, each of `n_jitted_updates` updates."""

        def call(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            state, key = carry
            key, own = jax.random.split(key)
            return (self.update(state, rows, own, settings)[0], key), None

        return jax.lax.scan(call, (state, key), None, calls)[0]

    def act(self, state: Any, observation: np.ndarray) -> Any:
        """Its policy in evaluation."""
        if self.algo == "iql":
            return self.get_action(state, observation, jax.random.key(0), temperature=0.0)
        return self.get_action(state, observation)


def returns(envs: Any, act: Any) -> np.ndarray:
    """Raw returns [E] of one episode in each copy."""
    seen, _ = envs.reset(seed=[START + episode for episode in range(envs.num_envs)])
    live, found = np.ones(envs.num_envs, bool), np.zeros(envs.num_envs)
    while live.any():
        seen, reward, terminated, truncated, _ = envs.step(np.asarray(act(seen)))
        found += np.where(live, reward, 0.0)
        live &= ~(terminated | truncated)
    return found


def scores(peer: Peer, seed: int, envs: Any) -> dict[str, Any]:
    """Trains one seed: its score at every evaluation, and the seconds of compiling and training."""
    settings = peer.config(seed=seed, max_steps=FLAGS.updates)
    rows, mean, std = jax_corl.dataset(peer.module, settings, FLAGS.dataset)
    std = std + OBSERVATION_EPS[peer.algo]
    key, start = jax.random.split(jax.random.key(seed))
    state = peer.create(start, rows.observations[0], rows.actions[0], settings)
    calls, rest = divmod(FLAGS.updates, settings.n_jitted_updates * FLAGS.evaluations)
    if rest:
        each = settings.n_jitted_updates
        raise ValueError(f"--updates must be a multiple of {each} times --evaluations")
    train = jax.jit(partial(peer.train, settings=settings, calls=calls))
    act, recording = jax.jit(peer.act), data.load(FLAGS.dataset)
    found, spent = [], 0.0
    for _ in range(FLAGS.evaluations):
        begun = time.perf_counter()
        state, key = jax.block_until_ready(train(state, rows, key))
        spent += time.perf_counter() - begun
        played = returns(envs, lambda seen, state=state: act(state, (seen - mean) / std))
        found.append(round(float(recording.score(played).mean()), 1))
        print(f"seed {seed}: {found[-1]} after {len(found) * calls * settings.n_jitted_updates}")
    return {"seed": seed, "scores": found, "seconds": round(spent)}


def main(argv: list[str]) -> None:
    """Trains the seeds that the file lacks."""
    del argv
    path, about = Path(FLAGS.output), {name: FLAGS[name].value for name in ABOUT}
    found = json.loads(path.read_text()) if path.exists() else about | {"records": []}
    if found | about != found:
        raise ValueError(f"{path} holds scores of other flags: name another --output")
    peer, task = Peer(FLAGS.algo), data.load(FLAGS.dataset).task
    if task is None:
        raise ValueError(f"{FLAGS.dataset} names no environment: name another --dataset")
    envs = copies.side_by_side(task.make, FLAGS.episodes)
    for seed in range(FLAGS.seeds):
        if seed not in [record["seed"] for record in found["records"]]:
            found["records"].append(scores(peer, seed, envs))
            path.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("peer", None, "folder of JAX-CORL", required=True)
    flags.DEFINE_enum("algo", "iql", list(OBSERVATION_EPS), "its method")
    flags.DEFINE_string("dataset", "hopper/medium-v0", "with an environment")
    flags.DEFINE_integer("seeds", 5, "from 0")
    flags.DEFINE_integer("updates", 100_000, "of each seed")
    flags.DEFINE_integer("evaluations", 20, "of each seed")
    flags.DEFINE_integer("episodes", 10, "of each evaluation")
    flags.DEFINE_string("output", None, "file of scores", required=True)
    app.run(main)
