"""Train a transformer to write Python, on the sources of the standard library: one file for a laptop and for a TPU pod.

    python examples/train_lm.py                              # a million parameters; some minutes on two cores
    python examples/train_lm.py --devices 8 --storage half   # eight simulated devices; the state in half the bytes
    python examples/train_lm.py --checkpoints runs/lm        # saves as it goes; the same with --resume goes on
    python examples/train_lm.py --rehearse v5p:4x4x4 --width 2048 --layers 24 --heads 16 --length 1024 --batch 256

Data parallel over however many devices there are, with the optimizer's state split over them (ZeRO-1). Matrices are
multiplied in bfloat16; parameters are float32. `--rehearse` compiles this very step for a slice that is not there, and
prints what each of its devices would hold, need and send. On a pod, start it in every process with `--distributed`.

Needs `pip install gradtx[examples]`; `--rehearse` also `gradtx[rehearsal]`.
"""

import argparse
import functools
import pathlib
import sys
import sysconfig
import time

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

import gradtx

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = pathlib.Path(__file__).parent / "out"
BYTES = 128  # what is not ASCII reads as 0

# ---- the data: every process draws the same windows, and takes the rows of its own devices ----


def sources(limit=12_000_000):
    """The standard library's Python sources, one file behind the other: what to learn from, and what to test on."""
    skipped = {"site-packages", "test", "tests", "idlelib"}
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in root.rglob("*.py") if not skipped & set(p.relative_to(root).parts))
    text = np.frombuffer(b"\n".join(p.read_bytes() for p in files)[:limit], np.uint8)
    return np.split(np.where(text < BYTES, text, 0).astype(np.uint8), [len(text) * 19 // 20])


def windows(text, seed, rows, length):
    """Rows of `length + 1` bytes, int32; the same for the same seed, so a resumed run sees what it would have seen."""
    starts = np.random.default_rng(seed).integers(0, len(text) - length - 1, rows)
    return text[starts[:, None] + np.arange(length + 1)].astype(np.int32)


# ---- the model ----


def init_params(key, width, layers, length):
    keys = iter(jax.random.split(key, 2 + 4 * layers))

    def dense(inputs, outputs, gain=1.0):
        kernel = gain * inputs**-0.5 * jax.random.normal(next(keys), (inputs, outputs))
        return {"kernel": kernel, "bias": jnp.zeros(outputs)}

    def norm():
        return {"scale": jnp.ones(width)}

    def block():
        last = (2 * layers) ** -0.5  # the sum of all residual branches starts as large as one
        attention = {"norm": norm(), "qkv": dense(width, 3 * width), "out": dense(width, width, last)}
        return {**attention, "mlp_norm": norm(), "up": dense(width, 4 * width), "down": dense(4 * width, width, last)}

    return {
        "embedding": 0.02 * jax.random.normal(next(keys), (BYTES, width)),
        "position": 0.02 * jax.random.normal(next(keys), (length, width)),
        "blocks": [block() for _ in range(layers)],
        "norm": norm(),
    }


def loss_fn(params, tokens, heads):
    """Nats a byte, float32; `tokens` has the shape [rows, length + 1]."""
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def norm(x, layer):
        wide = x.astype(jnp.float32)
        return (wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)).astype(x.dtype) * layer["scale"]

    x = params["embedding"][tokens[:, :-1]] + params["position"]
    for block in params["blocks"]:
        qkv = dense(norm(x, block["norm"]), block["qkv"]).reshape(*x.shape[:2], 3, heads, -1)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
        x += dense(mixed.reshape(x.shape), block["out"])
        x += dense(jax.nn.gelu(dense(norm(x, block["mlp_norm"]), block["up"])), block["down"])
    logits = (norm(x, params["norm"]) @ params["embedding"].T).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


# ---- the training step, for a mesh of devices that may be there or not ----


def optimizer(args, mesh):
    """Clipping, then AdamW for the matrices and Adam for norms and biases; the state split over the devices."""
    warmup = max(1, args.steps // 20)
    rate = gradtx.schedules.warmup_cosine_decay_schedule(0.0, args.learning_rate, warmup, max(args.steps, warmup + 1))
    groups = {"**/scale": gradtx.adam(rate), "**/bias": gradtx.adam(rate)}
    groups = gradtx.by_path({**groups, "**": gradtx.adamw(rate, weight_decay=0.1)})
    if args.storage != "float32":
        groups = gradtx.with_storage(groups, args.storage)
    return gradtx.shard_state(gradtx.chain(gradtx.clip_by_global_norm(1.0), groups), mesh, mesh.axis_names)


def training(args, mesh):
    """The transformation, the shapes of the parameters and of a batch with their shardings, and the step."""
    tx, everywhere = optimizer(args, mesh), NamedSharding(mesh, PartitionSpec())
    init = functools.partial(init_params, width=args.width, layers=args.layers, length=args.length)
    init = jax.jit(init, out_shardings=everywhere)
    params = jax.eval_shape(init, jax.random.key(0))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), params)
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    batch = jax.ShapeDtypeStruct((args.batch, args.length + 1), jnp.int32, sharding=rows)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, tokens):
        loss, grads = jax.value_and_grad(loss_fn)(params, tokens, args.heads)
        return *gradtx.step(tx, params, state, grads), loss

    return tx, init, params, batch, step


# ---- a run ----


class Checkpoints:
    """Parameters, state and losses, saved together; nothing without a folder."""

    def __init__(self, args, tx, shapes):
        self.every, self.tx, self.shapes, self.manager = args.save_every, tx, shapes, None
        if args.checkpoints:
            options = ocp.CheckpointManagerOptions(max_to_keep=2)
            self.manager = ocp.CheckpointManager(args.checkpoints.absolute(), options=options)
        last = self.manager.latest_step() if self.manager else None
        if last is not None and not args.resume:
            sys.exit(f"{args.checkpoints} has a checkpoint of step {last}: go on with --resume, or give another folder")
        self.last = last or 0

    def save(self, params, state, losses):
        step = len(losses)
        if self.manager and step % self.every == 0:
            run = ocp.args.StandardSave({"params": params, "state": state})
            told = {"losses": [float(x) for x in losses], "state": gradtx.state_manifest(self.tx, self.shapes)}
            self.manager.save(step, args=ocp.args.Composite(run=run, told=ocp.args.JsonSave(told)))

    def restore(self):
        """What the last one has, onto the devices there are now, however many there were; (params, state, losses)."""
        told = self.manager.restore(self.last, args=ocp.args.Composite(told=ocp.args.JsonRestore()))["told"]

        def read(like):
            return self.manager.restore(self.last, args=ocp.args.Composite(run=ocp.args.StandardRestore(like)))["run"]

        # What another model or chain would make of it, or a damaged file, is said in words; nothing is misread.
        return *gradtx.restore_run(read, self.tx, self.shapes, saved=told["state"]), told["losses"]

    def close(self):
        if self.manager:
            self.manager.wait_until_finished()


def train(args, mesh):
    """The parameters after the run, and the loss of every step."""
    tx, init, shapes, batch, step = training(args, mesh)
    learned, held_out = sources()
    checkpoints = Checkpoints(args, tx, shapes)
    if checkpoints.last:
        params, state, losses = checkpoints.restore()
    else:
        params = init(jax.random.key(args.seed))
        state, losses = tx.init(params), []
    here = jax.process_index() == 0
    if here:
        print(f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters, {mesh.size} devices; {tx}")
        print(gradtx.memory_plan(tx, params))

    def on_devices(tokens):
        return jax.make_array_from_callback(tokens.shape, batch.sharding, lambda rows: tokens[rows])

    start, done = time.perf_counter(), len(losses)
    progress = tqdm(range(done, args.steps), "training", args.steps, initial=done, disable=None if here else True)
    for i in progress:
        tokens = on_devices(windows(learned, (args.seed, i), args.batch, args.length))
        params, state, loss = step(params, state, tokens)
        losses.append(loss)
        if len(losses) % 10 == 0:
            progress.set_postfix(loss=f"{float(np.mean(losses[-10:])):.3f}")
        checkpoints.save(params, state, losses)
    losses = np.array([float(x) for x in losses])
    took = time.perf_counter() - start
    checkpoints.close()
    tested = on_devices(windows(held_out, args.seed, 8 * args.batch, args.length))
    final = float(jax.jit(loss_fn, static_argnums=2)(params, tested, args.heads))
    if here:
        print(f"{args.steps - done} steps, {took:.0f} s; training loss {losses[-20:].mean():.3f}, held out {final:.3f}")
    return params, losses, final


def draw(losses, final, path):
    window = max(len(losses) // 30, 1)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(np.arange(len(losses)) + 1, losses, color="#0072B2", alpha=0.25, lw=0.8)
    axes.plot(np.arange(len(smooth)) + 1 + (window - 1) / 2, smooth, color="#0072B2", lw=1.8, label="training")
    axes.plot(len(losses), final, "o", color="#E69F00", label=f"held out: {final:.2f}")
    axes.grid(axis="y", color="0.9")
    axes.set(xlabel="step", ylabel="loss, nats a byte")
    axes.set_title("A transformer on the standard library's sources", loc="left", pad=12)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, pil_kwargs={"optimize": True})
    print(f"Loss curve: {path}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16, help="rows a step, over all devices")
    parser.add_argument("--length", type=int, default=64, help="bytes a row")
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at its peak")
    parser.add_argument("--storage", choices=["float32", "half", "quarter"], default="float32", help="of the state")
    parser.add_argument("--devices", type=int, help="simulate so many on this CPU")
    parser.add_argument("--distributed", action="store_true", help="one of several processes, as on a pod")
    parser.add_argument("--rehearse", metavar="TOPOLOGY", help="compile for v5e:4x4, v5p:4x4x4, ... and run nothing")
    parser.add_argument("--checkpoints", type=pathlib.Path, metavar="FOLDER", help="where to save and to look")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("--out", type=pathlib.Path, default=OUT, help="where train_lm.png goes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.resume and not args.checkpoints:
        parser.error("--resume needs --checkpoints")
    if args.devices or args.rehearse:
        jax.config.update("jax_platforms", "cpu")
    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)
    if args.distributed:
        jax.distributed.initialize()
    mesh = gradtx.data_mesh(args.rehearse)
    if args.batch % mesh.size or args.width % args.heads:
        parser.error(f"expected --batch to be a multiple of {mesh.size} devices, and --width of --heads")
    if args.rehearse:
        tx, _, params, batch, step = training(args, mesh)
        print(gradtx.rehearse(step, params, gradtx.abstract_state(tx, params), batch, topology=args.rehearse))
        return None
    params, losses, final = train(args, mesh)
    if jax.process_index() == 0:
        draw(losses, final, args.out / "train_lm.png")
    return params, losses


if __name__ == "__main__":
    main()
