"""Checkpoints: restored anywhere, resumed after kill -9, and never misread."""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradtx

ocp = pytest.importorskip("orbax.checkpoint")

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 12


def mesh_of(*sizes: int) -> jax.sharding.Mesh:
    names = ("data", "model")[: len(sizes)]
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def placed(mesh: jax.sharding.Mesh, seed: int) -> Any:
    """A matrix, split in two where the mesh has a second axis, and a vector."""
    rng = np.random.default_rng(seed)
    spec = PartitionSpec(None, "model") if "model" in mesh.shape else PartitionSpec()
    return {
        "w": jax.device_put(rng.normal(size=(16, 24)).astype(np.float32), NamedSharding(mesh, spec)),
        "b": jax.device_put(rng.normal(size=(24,)).astype(np.float32), NamedSharding(mesh, PartitionSpec())),
    }


# ---- elsewhere ----


def test_a_run_goes_on_elsewhere(tmp_path):
    """Saved on eight devices with a split state; restored there, on two axes, on four devices, and on one."""
    inside = gradtx.accumulate_gradients(gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2)), 2)
    home = mesh_of(8)
    tx = gradtx.shard_state(inside, home, min_size=8)
    params, grads = placed(home, 0), [placed(home, i) for i in range(1, 5)]
    state = tx.init(params)
    for g in grads[:3]:
        params, state = gradtx.step(tx, params, state, g)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", {"params": params, "state": state})
        checkpointer.wait_until_finished()
        expected = gradtx.step(tx, params, state, grads[3], donate=False)
        assert not np.array_equal(expected[0]["w"], params["w"])
        for sizes in ((8,), (4, 2), (4,), (1,)):
            mesh = mesh_of(*sizes)
            like = placed(mesh, 0)
            other = inside if sizes == (1,) else gradtx.shard_state(inside, mesh, min_size=8)
            wanted = {"params": like, "state": gradtx.abstract_state(other, like)}
            restored = checkpointer.restore(tmp_path / "run", wanted)
            gradtx.check_state(other, like, restored["state"])
            for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves({"params": params, "state": state})):
                np.testing.assert_array_equal(got, want)
            for said, x in zip(jax.tree.leaves(wanted), jax.tree.leaves(restored)):
                assert x.sharding.is_equivalent_to(said.sharding, x.ndim)
            g = jax.tree.map(lambda g, p: jax.device_put(np.asarray(g), p.sharding), grads[3], like)
            after = gradtx.step(other, restored["params"], restored["state"], g, donate=False)
            for got, want in zip(jax.tree.leaves(after), jax.tree.leaves(expected)):
                if sizes == (8,):
                    np.testing.assert_array_equal(got, want)
                else:  # the norm is summed in another order
                    np.testing.assert_allclose(got, np.asarray(want), rtol=1e-6, atol=1e-7)


# ---- killed ----


def start(folder: pathlib.Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "TPU_", "JAX_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "tests" / "saving.py"), str(folder), str(STEPS)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def complete(folder: pathlib.Path) -> list[int]:
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def in_the_middle_of_a_save(folder: pathlib.Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any("tmp" in p.name for p in folder.glob("*")):
            return
        time.sleep(0.0005)


def killed_and_resumed(folder: pathlib.Path, kills: int, seed: int) -> tuple[str, int]:
    """The digest of a run that is killed again and again, and how many of the kills left a save unfinished."""
    rng = random.Random(seed)
    unfinished = 0
    for kill in range(kills):
        process = start(folder)
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            before = complete(folder)
            assert int(first.split()[1]) == (before[-1] if before else 0), (first, before)
            for _ in range(rng.randrange(1, 3)):
                process.stdout.readline()
            if kill % 2:
                in_the_middle_of_a_save(folder, process)
            time.sleep(rng.random() * 0.02)
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.communicate()
        unfinished += any("tmp" in p.name for p in folder.glob("*"))
        # What was complete before is there, or newer ones are: nothing is lost.
        assert not before or complete(folder)[-1] >= before[-1]
    output = start(folder).communicate(timeout=180)[0]
    return output.splitlines()[-1], unfinished


def test_a_killed_run_resumes_from_its_last_complete_checkpoint(tmp_path):
    expected = start(tmp_path / "whole").communicate(timeout=180)[0].splitlines()[-1]
    assert expected.startswith("digest")
    got, unfinished = killed_and_resumed(tmp_path / "killed", 3, seed=0)
    assert got == expected
    assert unfinished


@pytest.mark.slow
def test_many_kills(tmp_path):
    expected = start(tmp_path / "whole").communicate(timeout=180)[0].splitlines()[-1]
    for seed in range(1, 9):
        assert killed_and_resumed(tmp_path / f"killed_{seed}", 5, seed)[0] == expected


# ---- of another chain ----

PARAMS = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
ADAMW = gradtx.adamw(1e-3)


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        (ADAMW, ADAMW.replace(learning_rate=0.1), []),
        (
            ADAMW,
            gradtx.chain(gradtx.clip(1.0), ADAMW),
            [r"moved: stages/0/mu is stages/1/mu \(ema_first_moment\) now", "stages: 6 in the state, 7 now"],
        ),
        (
            ADAMW,
            gradtx.lion(1e-3),
            [r"gone: stages/1/nu, 2 arrays, float32\[4\], \.\.\.: the state has it, nothing keeps it"],
        ),
        (
            ADAMW,
            gradtx.chain(ADAMW, gradtx.average_parameters(0.9)),
            [
                r"new: stages/6/average \(average_parameters\), 2 arrays, float32\[4\], \.\.\.: the state does not have it"
            ],
        ),
        (
            ADAMW,
            gradtx.accumulate_gradients(ADAMW, 2),
            ["moved: stages/0/mu is inner/stages/0/mu", "new: mini_step, 1 array, int32: the state does not have it"],
        ),
        (
            gradtx.adamw(1e-3, mu_dtype=jnp.bfloat16),
            ADAMW,
            [r"other: stages/0/mu/b \(ema_first_moment\) is bfloat16\[4\] in the state, and float32\[4\] now"],
        ),
        (ADAMW, gradtx.chain(optax.adam(1e-3)), [r"new: stages/0/0 \(optax.chain\), 5 arrays", "gone: stages/0/mu"]),
        (ADAMW, gradtx.adam(1e-3), ["stages: 6 in the state, 5 now"]),
    ],
)
def test_a_state_of_another_chain(old, new, messages, tmp_path):
    """Said of the state itself, of what orbax read without being told its structure, and of orbax's metadata."""
    state = old.init(PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", state)
        checkpointer.wait_until_finished()
        metadata = checkpointer.metadata(tmp_path / "run")
        forms = [state, jax.eval_shape(old.init, PARAMS), checkpointer.restore(tmp_path / "run")]
        forms.append(getattr(metadata, "item_metadata", metadata))
    for form in forms:
        if not messages:
            gradtx.check_state(new, PARAMS, form)
            continue
        with pytest.raises(ValueError, match=r"the state is not one of chain\(|accumulate") as error:
            gradtx.check_state(new, PARAMS, form)
        for message in messages:
            assert error.match(message)


def test_parameters_of_another_model():
    with pytest.raises(ValueError) as error:
        gradtx.check_state(ADAMW, {"w": jnp.ones((5, 4)), "b": jnp.ones(4), "c": jnp.ones(2)}, ADAMW.init(PARAMS))
    assert error.match(
        r"other: stages/0/mu/w \(ema_first_moment\) is float32\[3, 4\] in the state, and float32\[5, 4\] now"
    )
    assert error.match(r"new: stages/1/nu \(ema_second_moment\), 1 array, float32\[2\]: the state does not have it")


def test_a_manifest_says_what_arrays_do_not():
    """A stage, or a codec, that keeps arrays of the same names, shapes and types."""

    def saved(tx: gradtx.Transform) -> Any:
        return json.loads(json.dumps(gradtx.state_manifest(tx, PARAMS)))

    old, new = gradtx.chain(gradtx.ema_second_moment(0.9)), gradtx.chain(gradtx.ema_belief_moment(0.9))
    old, new = (gradtx.chain(gradtx.ema_first_moment(0.9), tx) for tx in (old, new))
    assert jax.tree.structure(old.init(PARAMS)) == jax.tree.structure(new.init(PARAMS))
    gradtx.check_state(new, PARAMS, old.init(PARAMS))  # arrays alone cannot tell
    with pytest.raises(
        ValueError, match="other: stages/1 was kept by ema_second_moment, and is kept by ema_belief_moment"
    ):
        gradtx.check_state(new, PARAMS, saved(old))
    gradtx.check_state(old, PARAMS, saved(old))
    gradtx.check_state(gradtx.shard_state(old, mesh_of(8)), PARAMS, saved(old))
    with pytest.raises(ValueError, match=r"moved: stages/0/mu is stages/1/mu"):
        gradtx.check_state(gradtx.chain(gradtx.clip(1.0), old), PARAMS, saved(old))
    with pytest.raises(ValueError, match="has format 2, and this gradtx knows 1: update gradtx"):
        gradtx.check_state(old, PARAMS, {**saved(old), "format": 2})
    with pytest.raises(TypeError, match="state_manifest: expected a gradtx transformation"):
        gradtx.state_manifest(optax.adam(1e-3), PARAMS)


# ---- damaged, or another model's ----

DAMAGE = """
import json, os, pathlib, shutil, sys
import jax, jax.numpy as jnp, numpy as np
import orbax.checkpoint as ocp
import gradtx

folder = pathlib.Path(sys.argv[1])
params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(64, 128)), jnp.float32)}
tx = gradtx.adamw(1e-3)
run = (params, tx.init(params))
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder / "run", {"params": run[0], "state": run[1]})
    checkpointer.wait_until_finished()

    def attempt(path, params=params):
        try:
            got = gradtx.restore_run(lambda like: checkpointer.restore(path, like), tx, params)
        except ValueError as error:
            return str(error)
        assert jax.tree.structure(got) == jax.tree.structure(run)
        return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(run), strict=True))

    print(json.dumps(["", attempt(folder / "run")]))
    files = [p.relative_to(folder / "run") for p in (folder / "run").rglob("*") if p.is_file()]
    for i, file in enumerate(files):
        copy = folder / str(i)
        shutil.copytree(folder / "run", copy)
        (copy / file).write_bytes((copy / file).read_bytes()[: (copy / file).stat().st_size // 2])
        print(json.dumps([str(file), attempt(copy)]))
    print(json.dumps(["another model", attempt(folder / "run", {"w": jnp.ones((32, 128))})]))
assert not any(x.is_deleted() for x in jax.tree.leaves(run))
"""


def test_a_damaged_checkpoint_is_named_and_nothing_is_misread(tmp_path):
    """Each file cut in half in turn: the same numbers, or an error that says what to do. In a process of its own, since
    orbax leaves tasks behind when it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", DAMAGE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    whole, *cut, other = map(json.loads, done.stdout.splitlines())
    assert whole[1] is True
    refused = [answer for _, answer in cut if answer is not True]
    assert len(refused) >= 3  # what the arrays are, where they lie, and the arrays
    for answer in [*refused, other[1]]:
        assert re.search("the checkpoint cannot be read: .*truncated or damaged, or another model's.*older one", answer)
    assert "shape" in other[1]


def test_a_checkpoint_of_another_model():
    """With what was saved beside it, the difference in words, before anything is read."""
    state = ADAMW.init(PARAMS)
    other = {"w": jnp.ones((5, 4)), "b": jnp.ones(4)}

    def read(like: Any) -> Any:
        raise AssertionError("it was read")

    for saved in (gradtx.state_manifest(ADAMW, PARAMS), state):
        with pytest.raises(
            ValueError, match=r"other: stages/0/mu/w .* is float32\[3, 4\] in the state, and float32\[5"
        ):
            gradtx.restore_run(read, ADAMW, other, saved=saved)
    with pytest.raises(
        ValueError, match=r"another model's: params/w is float32\[3, 4\] in it, and float32\[5, 4\] now"
    ):
        gradtx.restore_run(lambda like: {"params": PARAMS, "state": state}, ADAMW, other)
    with pytest.raises(ValueError, match=r"expected read\(like\) to return a tree like the one it is given"):
        gradtx.restore_run(lambda like: state, ADAMW, other)
