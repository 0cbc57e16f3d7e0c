"""Runs a step written for one device on all of them, of one process or of many, by pmap or by shard_map."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from normjax.functional import cpu_convolutions, xla_convolutions
from normjax.training.step import AXIS

Spread = Literal["replicated", "sharded"]


class DataParallel:
    """Spreads batches over devices and keeps the state equal on each.

    pmap gives every array a leading axis of devices, shard_map a sharding over a mesh; both run the same step
    against the same axis name. With several processes each gives and gets what lies on its own devices.

    Args:
      mode: ``pmap`` or ``shard_map``.
      devices: the devices, all by default.
      kernel_gradients: of convolutions on CPUs; ``auto`` is ``normjax.functional.cpu_convolutions``, ``xla`` is
        JAX's own form.

    Example:
      >>> import jax.numpy as jnp
      >>> parallel = DataParallel("shard_map", jax.devices()[:1])
      >>> step = parallel.map(lambda s, b: (s + jax.lax.psum(b.sum(), AXIS), b), ("replicated", "sharded"))
      >>> state, echo = step(parallel.replicate(jnp.zeros(())), parallel.shard(jnp.ones(4)))
      >>> print(parallel.fetch(state))
      4.0
    """

    def __init__(
        self,
        mode: Literal["pmap", "shard_map"] = "pmap",
        devices: Sequence[jax.Device] | None = None,
        *,
        kernel_gradients: Literal["auto", "xla"] = "auto",
    ):
        self.mode = mode
        self.kernel_gradients = kernel_gradients
        # Those of a process are neighbours, as its rows of a batch are; a TPU numbers its chips by their place.
        self.devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
        self.own = sum(device.process_index == jax.process_index() for device in self.devices)
        self.mesh = Mesh(np.array(self.devices), (AXIS,))
        self._over_devices = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self._everywhere = NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """The tree, equal on every device."""
        if self.mode == "shard_map":
            return self._put(tree, self._everywhere)
        count = self.own
        stacked = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf)[None], (count, *np.shape(leaf))), tree)
        return self._put(stacked, self._over_devices)

    def fetch(self, tree: Any) -> Any:
        """A replicated tree as numpy arrays."""
        if self.mode == "pmap":
            tree = jax.tree.map(lambda leaf: leaf.addressable_data(0)[0], tree)
        return jax.device_get(tree)

    def shard(self, batch: Any) -> Any:
        """A batch, its rows divided among the devices; each process gives its own rows."""
        if self.mode == "pmap":
            count = self.own
            batch = jax.tree.map(lambda leaf: leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:]), batch)
        return self._put(batch, self._over_devices)

    def gather(self, tree: Any) -> Any:
        """What ``shard`` divided, or a step put out as ``sharded``, as numpy arrays: the rows of this process."""

        def rows(leaf: Any) -> np.ndarray:
            shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
            whole = np.concatenate([np.asarray(shard.data) for shard in shards])
            return whole.reshape(-1, *whole.shape[2:]) if self.mode == "pmap" else whole

        return jax.tree.map(rows, tree)

    def _put(self, tree: Any, sharding: NamedSharding) -> Any:
        if self.own == len(self.devices):
            return jax.device_put(tree, sharding)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)

    def map(
        self,
        step: Callable,
        outputs: Sequence[Spread] | Spread,
        *,
        inputs: Sequence[Spread] = ("replicated", "sharded"),
        donate: bool = False,
    ) -> Any:
        """The step on all devices, compiled at its first call (or by ``.lower(...).compile()``).

        Args:
          step: a function of one device, with collectives over ``AXIS``.
          outputs: for its result, or each of its results, whether it is equal on all devices or belongs to a
            device's rows.
          inputs: the same for its arguments, state and batch by default.
          donate: whether the memory of the first argument, the state, is given to the result.

        Returns:
          A function of replicated and sharded arguments.
        """
        step = (cpu_convolutions if self.kernel_gradients == "auto" else xla_convolutions)(step)
        donated = (0,) if donate else ()
        if self.mode == "pmap":
            return jax.pmap(step, axis_name=AXIS, devices=self.devices, donate_argnums=donated)
        specs = {"replicated": PartitionSpec(), "sharded": PartitionSpec(AXIS)}
        in_specs = tuple(specs[each] for each in inputs)
        out_specs = specs[outputs] if isinstance(outputs, str) else tuple(specs[each] for each in outputs)
        # Unchecked, as pmap is: the step sums its gradients itself, in one collective.
        mapped = jax.shard_map(step, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(mapped, donate_argnums=donated)
