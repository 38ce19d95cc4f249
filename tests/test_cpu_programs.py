"""What the programs of steps on this CPU read, write and copy, beside Optax's."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from zoo import OPTIMIZERS

import gradtx


def program_of(tx: Any, leaves: int = 1, shape: tuple[int, ...] = (512, 512), **keywords: Any) -> Any:
    """A compiled step on equal parameters, which are donated with the state."""
    params = {f"w_{i}": jnp.full(shape, 0.5, jnp.float32) for i in range(leaves)}
    state = jax.eval_shape(tx.init, params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, **keywords)
        return gradtx.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):  # Optax needs it
        return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()


def bytes_read_and_written(tx: Any) -> float:
    """Bytes a parameter that the program of a step on this CPU reads and writes."""
    return program_of(tx).cost_analysis()["bytes accessed"] / 512**2


def written(program: Any, shape: str = "512,512") -> list[str]:
    """The instructions of a program, outside of conditionals, that write an array of a shape."""
    text = program.as_text()
    lines = text[text.index("ENTRY") :].splitlines()
    whole = re.compile(
        r"^\s*(?:ROOT )?(%\S+) = f32\[" + shape + r"\]\S* (?!parameter|get-tuple-element|bitcast)(\S+)\("
    )
    return [found[1] for line in lines if (found := whole.match(line))]


@pytest.mark.parametrize(
    "name",
    [
        "adagrad",
        "rmsprop",
        "adam",
        "amsgrad",
        "nadam",
        "radam",
        "adamax",
        "adabelief",
        "yogi",
        "ademamix",
        "adan",
        "lion",
        "schedule_free_adamw",
        "prodigy",
    ],
)
def test_a_step_on_the_cpu_moves_no_more_bytes_than_optax_does(name):
    """A selection of the gradient that two parts read, or a slot that ends in a function of one array, would be a pass more."""
    (row,) = (row for row in OPTIMIZERS if row.name == name)
    assert bytes_read_and_written(row.make(**row.base)) <= 1.001 * bytes_read_and_written(row.optax(**row.base))


@pytest.mark.parametrize(("storage", "bytes_moved"), [("half", 24), ("quarter", 18), ("float16", 28)])
def test_state_in_fewer_bytes_is_read_and_written_once_on_the_cpu(storage, bytes_moved):
    """And once more read by the part that updates the parameter, which XLA:CPU makes a program of its own."""
    assert bytes_read_and_written(gradtx.adamw(1e-3, storage=storage)) == pytest.approx(bytes_moved, abs=0.1)


@pytest.mark.parametrize(
    ("name", "results"), [("polyak_sgd", 1), ("adamw", 3), ("rmsprop_centered_momentum", 4), ("prodigy", 4)]
)
def test_a_step_on_the_cpu_writes_its_results_alone(name, results):
    """No scaled gradient before its norm, no clamped one that two parts read, no old mean for the variance: several leaves."""
    (row,) = (row for row in OPTIMIZERS if row.name == name)
    program = program_of(row.make(**row.base), leaves=3, **row.keywords)
    assert len(written(program)) == 3 * results
    assert len(written(program_of(gradtx.chain(gradtx.clip(1.0), gradtx.clip_by_global_norm(1.0)), 3))) > 3


def test_adafactor_on_the_cpu_writes_squares_update_and_parameters():
    """The sums over rows and over columns read one array, and no square root of a matrix is written."""
    program = program_of(gradtx.adafactor(1e-3), leaves=2, shape=(512, 384))
    assert len(written(program, "512,384")) == 2 * 3


def test_a_step_on_the_cpu_does_not_read_parameters_that_do_not_decay():
    def direction(decay: float) -> Any:
        tx = gradtx.chain(gradtx.sign_sgd(1.0), gradtx.decoupled_weight_decay(decay))
        params = {"w": jnp.full((512, 512), 0.5, jnp.float32)}
        return jax.jit(lambda p, g: tx.update(g, tx.init(p), p)[0]).lower(params, params).compile()

    assert [direction(decay).cost_analysis()["bytes accessed"] / 512**2 for decay in (0.0, 0.1)] == [8, 12]
