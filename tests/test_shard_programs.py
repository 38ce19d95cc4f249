"""ZeRO-1 in programs compiled for TPUs and GPUs that are not there: what is kept, scattered, gathered and needed."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from compilers import on_gpus, on_tpus, printed

# Two matrices of 2048 x 4096, split; biases of 2048 and 4096, below min_size, whole; a count. Two moments of each.
MATRICES, BIASES = 2 * 4 * 2048 * 4096, 4 * (2048 + 4096)


def rows(*arguments: str) -> dict[str, dict[str, Any]]:
    """The rows of benchmarks.zero for two layers."""
    lines = printed("-m", "benchmarks.zero", "--json", "--layers", "2", *arguments)
    return {row["case"]: row for row in map(json.loads, lines.splitlines())}


@on_tpus
def test_programs_for_a_tpu():
    """Each matrix's gradient is reduced and scattered, each parameter gathered once, and the rest is the recipe's."""
    names = ["whole state", "shard_state", "the same by hand", "shard_state, matrices in 2 parts"]
    found = rows("--only", *names)
    assert list(found) == names
    whole, ours, recipe, tensor = found.values()
    assert ours["state_bytes"] == 2 * (MATRICES // 8 + BIASES) + 4
    assert ours["argument_bytes"] - ours["state_bytes"] == whole["argument_bytes"] - whole["state_bytes"]
    assert whole["counts"]["all-reduce"] == 1
    assert ours["counts"] == {"all-reduce": 1, "all-gather": 2, "reduce-scatter": 2}  # the all-reduce is of the biases
    assert ours["gathered"] == {"f32[2048,4096]": 1, "f32[4096,2048]": 1}
    assert ours["sent_bytes"] == pytest.approx(whole["sent_bytes"], rel=1e-3)
    for size in ("temp_bytes", "peak_bytes"):
        assert ours[size] <= recipe[size]
        assert ours[size] < whole[size]
    # With each matrix in 2 parts already, 4 devices share one: the same parts of the state, gathered into halves.
    assert tensor["state_bytes"] == 2 * (MATRICES // 8 + 4 * (2048 + 4096 // 2)) + 4
    assert tensor["gathered"] == {"f32[2048,2048]": 2}
    assert tensor["counts"]["reduce-scatter"] == 2


@on_tpus
def test_programs_for_a_larger_slice():
    """With an axis of the mesh for each side of the slice, gradients are scattered and parameters gathered along one at a time;
    along a single axis over both sides the compiler sums gradients whole."""
    arguments = ["--topology", "v5e:4x4", "--only", "shard_state"]
    one, two = (rows(*arguments, *more)["shard_state"] for more in ([], ["--sides"]))
    assert two["state_bytes"] == one["state_bytes"] == 2 * (MATRICES // 16 + BIASES) + 4
    assert two["counts"]["reduce-scatter"] == two["counts"]["all-gather"] == 4
    assert two["sent_bytes"] < 1.02 * 2 * MATRICES * 15 / 16  # each matrix is scattered and gathered
    assert two["sent_bytes"] < 0.7 * one["sent_bytes"]
    assert two["temp_bytes"] < one["temp_bytes"] // 4


@on_tpus
def test_padded_programs_for_a_tpu():
    """Every device holds an eighth of the padded state; gradients are summed whole, parameters gathered once."""
    found = rows("--width", "2049", "--only", "shard_state", "shard_state, pad=True")
    whole, ours = found.values()
    biases, matrices = 4 * (2049 + 4098), 4 * (2056 * 4098 + 4104 * 2049)
    assert whole["state_bytes"] == 2 * (2 * 4 * 2049 * 4098 + biases) + 4
    assert ours["state_bytes"] == 2 * (matrices // 8 + biases) + 4
    assert ours["counts"] == {"all-reduce": 1, "all-gather": 2}
    assert ours["moved_bytes"]["all-gather"] == matrices
    assert ours["sent_bytes"] == pytest.approx(1.5 * whole["sent_bytes"], rel=2e-3)
    assert ours["peak_bytes"] < 0.7 * whole["peak_bytes"]


@on_tpus
@pytest.mark.slow
@pytest.mark.parametrize(("topology", "devices", "most"), [("v5e:16x16", 256, 1.01), ("v5p:4x4x4", 64, 1.13)])
def test_programs_for_whole_pods(topology, devices, most):
    """Within a hundredth of scattering and gathering each array once; an eighth more on the three sides of a v5p slice."""
    row = rows("--topology", topology, "--sides", "--only", "shard_state")["shard_state"]
    assert row["state_bytes"] == 2 * (MATRICES // devices + BIASES) + 4
    assert row["counts"]["reduce-scatter"] >= 2
    assert row["sent_bytes"] < most * 2 * MATRICES * (devices - 1) / devices


def same_on_gpus(whole: dict[str, Any], row: dict[str, Any], devices: int, norm: int = 0) -> None:
    """The state is a part, its gradients are scattered, its parameters gathered once; nothing more is sent than without."""
    assert whole["state_bytes"] == 2 * (MATRICES + BIASES) + 4
    assert whole["moved_bytes"] == {"all-reduce": MATRICES + BIASES}
    assert row["state_bytes"] == 2 * (MATRICES // devices + BIASES) + 4
    assert row["moved_bytes"] == {"all-reduce": BIASES + norm, "all-gather": MATRICES, "reduce-scatter": MATRICES}
    assert row["gathered"] == {"f32[2048,4096]": 1, "f32[4096,2048]": 1}
    assert row["sent_bytes"] == pytest.approx(whole["sent_bytes"], abs=2 * norm)


def falls_by_the_state(whole: dict[str, Any], row: dict[str, Any], devices: int) -> None:
    """The peak does, but for the parts of the parameters on their way to be gathered."""
    saved = whole["state_bytes"] - row["state_bytes"]
    parts = 1.05 * MATRICES / devices + (1 << 16)
    assert row["argument_bytes"] == whole["argument_bytes"] - saved
    assert row["temp_bytes"] <= whole["temp_bytes"] + parts
    assert row["peak_bytes"] <= whole["peak_bytes"] - saved + parts


@on_gpus
def test_programs_for_gpus():
    names = ["whole state", "shard_state", "the same by hand", "shard_state, update and apply_updates"]
    names += [
        "shard_state, clip_by_global_norm",
        "whole state, matrices in 2 parts",
        "shard_state, matrices in 2 parts",
    ]
    names += ["shard_state, offload_state", "Muon, shard_state"]
    found = rows("--topology", "h100:8", "--only", *names)
    assert list(found) == names
    whole, ours, recipe, update, clipped, whole_tensor, tensor, away, muon = found.values()
    for row in (ours, recipe, update, away):
        same_on_gpus(whole, row, 8)
    same_on_gpus(whole, clipped, 8, norm=4 * 4)  # the sum of each leaf's squares
    falls_by_the_state(whole, ours, 8)
    falls_by_the_state(whole, clipped, 8)
    assert (ours["temp_bytes"], ours["peak_bytes"]) == (recipe["temp_bytes"], recipe["peak_bytes"])
    # In host memory the state is no argument; it comes, and goes.
    state = 2 * MATRICES // 8
    assert (ours["host_bytes"], away["host_bytes"]) == (0, 2 * state)
    assert ours["argument_bytes"] - away["argument_bytes"] == state
    # With each matrix in 2 parts already, 4 devices share one: the same parts of the state, gathered into halves.
    assert tensor["state_bytes"] == 2 * (MATRICES // 8 + 4 * (2048 + 4096 // 2)) + 4
    assert tensor["gathered"] == {"f32[2048,2048]": 2}
    assert tensor["moved_bytes"]["reduce-scatter"] == tensor["moved_bytes"]["all-gather"] == MATRICES // 2
    assert tensor["sent_bytes"] == whole_tensor["sent_bytes"]
    assert tensor["peak_bytes"] < whole_tensor["peak_bytes"]
    # Muon gathers no matrix but the parameter at the end: each step of its iteration sums a square of the shorter side.
    assert muon["gathered"] == ours["gathered"]
    assert muon["moved_bytes"]["reduce-scatter"] == MATRICES
    squares = 2 * 5 * 4 * 2048 * 2048
    assert squares <= muon["moved_bytes"]["all-reduce"] <= squares + BIASES + 64


@on_gpus
def test_padded_programs_for_gpus():
    """On 3 hosts of 8, 3 divides nothing. A gradient is scattered over the 8 first, and the sum of its eighth over 3 is whole."""
    shapes = 4 * (2049 * 4096 + 4098 * 2048)  # 8 splits the other dimension
    (one,) = rows("--topology", "h100:3x8", "--only", "shard_state, pad=True").values()
    split, ours = rows(
        "--topology", "h100:3x8", "--axes", "3", "8", "--only", "shard_state", "shard_state, pad=True"
    ).values()
    assert one["state_bytes"] == 2 * (4 * (2064 * 4096 + 4104 * 2048) // 24 + BIASES) + 4
    assert one["moved_bytes"]["all-reduce"] == MATRICES + BIASES
    assert split["state_bytes"] == 2 * (MATRICES // 8 + BIASES) + 4
    assert ours["state_bytes"] == 2 * (shapes // 24 + BIASES) + 4
    assert ours["moved_bytes"]["reduce-scatter"] == MATRICES
    assert ours["moved_bytes"]["all-reduce"] == MATRICES // 8 + BIASES
    assert ours["moved_bytes"]["all-gather"] == MATRICES + shapes // 8
    assert ours["sent_bytes"] < 0.7 * one["sent_bytes"]


@on_gpus
def test_a_large_model_sends_what_the_formula_says():
    """405 billion parameters on 4,096 GPUs, by the programs of a layer and of the rest."""
    line = (
        "import json; from benchmarks import scaling; print(json.dumps(scaling.row(scaling.MODELS[2], 4096, 'h100')))"
    )
    model, _, mesh, *_, by_formula, compiled, _ = json.loads(printed("-c", line))
    assert (model, mesh) == ("405B (Llama 3)", "256 x 16")
    sent, ratio = re.fullmatch(r"(\S+) \((\S+)\)", compiled).groups()
    assert sent == by_formula
    assert float(ratio) == pytest.approx(1, abs=2e-4)


@on_gpus
def test_programs_for_many_hosts_of_gpus():
    """Along one axis of the mesh over all of them, which a TPU's compiler does not."""
    whole, ours = rows("--topology", "h100:64x8", "--only", "whole state", "shard_state").values()
    same_on_gpus(whole, ours, 512)
    falls_by_the_state(whole, ours, 512)
