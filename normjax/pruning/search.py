"""The search for a smaller network: score, remove, fine-tune, and go on while the target holds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from normjax.data import Dataset, make_drift, make_stream, training_batches
from normjax.errors import UserError
from normjax.inference import Shrunken
from normjax.inference.shrink import Size, Sizes
from normjax.pruning.activations import ActivationProbe
from normjax.pruning.config import PruneConfig
from normjax.pruning.constants import fold_constants
from normjax.pruning.debias import debiased
from normjax.pruning.evidence import images_and_classes
from normjax.pruning.latency import milliseconds
from normjax.pruning.rounds import Cut, Found, Round
from normjax.pruning.scores import SCORES, score
from normjax.pruning.select import Kept, at_multiples, everything, without_lowest
from normjax.tracing import leaf_paths
from normjax.tracing.neurons import Neurons
from normjax.training.checkpoint import Checkpoints
from normjax.training.config import ScheduleConfig, TrainConfig
from normjax.training.evaluate import Evaluator
from normjax.training.session import build_session
from normjax.training.stop import StoppedError, StopRequest
from normjax.transforms import frozen_zeros, with_alive

_BATCH = 128  # images at a time that decide what is faster
_BEYOND = 0.05  # of the network, which a cut to a multiple may take beyond what was asked for


class Search:
    """Searches with masks at the network's own sizes, so that each program is compiled once.

    Args:
      config: of the run whose network is made smaller.
      variables: its network.
      reference: images of its reference batch; None where no layer wants them.
      neurons: of the network.
      dataset: of the run.
      options: of the search.
      folder: where rounds are kept, so that a search goes on where it stopped.
      console: where rounds are told.
      stop: tells whether to end early.

    Raises:
      UserError: a protected layer is not there, or all are protected.
    """

    def __init__(
        self,
        config: TrainConfig,
        variables: dict[str, Any],
        reference: Any,
        neurons: Neurons,
        dataset: Dataset,
        options: PruneConfig,
        folder: Path,
        console: Console,
        stop: StopRequest,
    ):
        self.options, self.neurons, self.dataset, self.console, self.stop = options, neurons, dataset, console, stop
        self.sizes = {group.name: group.size for group in neurons.groups}
        self.protected = _protected(neurons, options)
        self.features = {group.name: group.features for group in neurons.groups}
        self.session = build_session(fine_tuning(config, options, options.epochs), dataset.info, after=frozen_zeros())
        self.parallel = self.session.parallel
        self.evaluator = Evaluator(self.session)
        self.model = build_session(config, dataset.info, training=False).model
        self.example = jnp.zeros((1, *dataset.info.image_shape))
        self._size = Sizes(self.model, neurons, self.example, train=False).of
        self.probe = ActivationProbe(self.model, neurons, optax.softmax_cross_entropy_with_integer_labels, train=False)
        self.blank = self.session.state_like().replace(reference=reference)
        self.first = variables
        self.checkpoints = Checkpoints(folder, keep=1)
        self.cut: Cut | None = None
        self._compiled: Any = None
        refresh = self.session.refresh
        self._refresh = refresh and self.parallel.map(refresh, "replicated", inputs=("replicated",), donate=True)

    def carry_out(self) -> Found:
        """Rounds until the target no longer holds, or is reached.

        Raises:
          UserError: a size cannot be reached, fine-tuning diverges, or a checkpoint
            cannot be written.
          StoppedError: it was asked to stop; all rounds that are done are saved.
        """
        self._check_reachable()
        try:
            return self._search()
        finally:
            self.checkpoints.close()

    def _check_reachable(self) -> None:
        """Refuses a size that is below what stays in any case, before the network is ruined on the way there."""
        options, whole = self.options, everything(self.sizes)
        least = whole | {
            name: numbers[: self._least(name)] for name, numbers in whole.items() if name not in self.protected
        }
        first, smallest = self._size(whole), self._size(least)
        for name, what in (("keep_macs", "multiply_adds"), ("keep_params", "parameters")):
            share = getattr(smallest, what) / getattr(first, what)
            if what in (wanted := self._wanted(first)) and getattr(smallest, what) > wanted[what]:
                raise UserError(
                    f"{name}={getattr(options, name):g} cannot be reached: {share:.3g} of it is what "
                    f"min_keep={options.min_keep:g} of each layer and what is protected leave; ask for more."
                )

    def _search(self) -> Found:
        best, kept, step = self.first, everything(self.sizes), self.options.step
        rounds: list[Round] = []
        if (latest := self.checkpoints.latest) is not None:
            best, meta = self.checkpoints.restore(latest, self.first)
            rounds = [Round(**told) for told in meta["rounds"]]
            kept, step = {name: tuple(numbers) for name, numbers in meta["kept"].items()}, meta["step"]
            self.cut = meta["cut"] and Cut(**meta["cut"])
        else:
            rounds.append(self._round(0, kept, self._accuracy(self._state(best, kept), 0), 0.0, accepted=True))
            self._tell(rounds[0])
        target = self._target(rounds[0])
        # A cut ends the search, whatever became of it.
        while self.cut is None and not self._reached(_size(rounds[-1]), _size(rounds[0])):
            if self.stop.signal is not None:
                done = f"after round {rounds[-1].number}, which is saved" if rounds[1:] else "before the first round"
                raise StoppedError(f"stopped {done}; the same command goes on")
            number = rounds[-1].number + 1
            smaller = kept
            if step >= self.options.min_step:
                smaller = self._smaller(best, kept, step, number, _size(rounds[0]))
            if smaller == kept:
                smaller = self._faster(self._cut(self._scores(best, kept), kept, kept), kept)
            if smaller == kept:
                if self.cut is not None:  # measured once, and not taken
                    self._save(number, best, kept, step, rounds)
                break
            going = {name: set(numbers) - set(smaller[name]) for name, numbers in kept.items()}
            begun = fold_constants(self.model, best, self.neurons, going, self.example, train=False)
            state = self._fine_tune(self._state(begun, smaller), number)
            accuracy = self._accuracy(state, number)
            accepted = target is None or accuracy >= target
            rounds.append(self._round(number, smaller, accuracy, step, accepted=accepted))
            if accepted:
                fetched = self.parallel.fetch(state)
                best, kept = {"params": fetched.params, **fetched.model_state}, smaller
            else:
                step /= 2
            self._tell(rounds[-1])
            self._save(number, best, kept, step, rounds)
        return Found(kept, best, rounds, self.cut, target)

    def _target(self, first: Round) -> float | None:
        """The validation accuracy that must hold; None where only the size counts."""
        options = self.options
        if options.max_drop is not None:
            return first.accuracy - options.max_drop
        return options.target_accuracy

    def _wanted(self, first: Size) -> dict[str, float]:
        """The size that was asked for."""
        shares = {"multiply_adds": self.options.keep_macs, "parameters": self.options.keep_params}
        return {what: share * getattr(first, what) for what, share in shares.items() if share is not None}

    def _reached(self, now: Size, first: Size, beyond: float = 1.0) -> bool:
        """Whether the network is as small as was asked for, and not in all ways smaller by more than a share."""
        over = [(getattr(now, what) - most) / getattr(first, what) for what, most in self._wanted(first).items()]
        return bool(over) and max(over) <= 0 and max(over) >= -beyond

    def _per_cost(self, scores: dict[str, np.ndarray], kept: Kept, first: Size) -> dict[str, np.ndarray]:
        """Scores by what the neuron brings towards the sizes asked for, of which the farther one counts more."""
        now, wanted = self._size(kept), self._wanted(first)
        divided = dict(scores)
        for name, numbers in kept.items():
            if scores[name][list(numbers)].min() < 0:
                raise UserError(f"per_cost=True divides, and scores of {name} are negative; use debias=minmax or rank.")
            if len(numbers) > 1:
                less = self._size(kept | {name: numbers[1:]})
                divided[name] = scores[name] / sum(
                    max(getattr(now, what) - most, 0)
                    * (getattr(now, what) - getattr(less, what))
                    / getattr(first, what) ** 2
                    for what, most in wanted.items()
                )
        return divided

    def _smaller(self, variables: Any, kept: Kept, step: float, number: int, first: Size) -> Kept:
        """The neurons that stay after this round."""
        options, scores = self.options, self._scores(variables, kept)
        if options.per_cost:
            scores = self._per_cost(scores, kept, first)
        limits: dict[str, Any] = {
            "min_keep": options.min_keep,
            "layer_cap": options.layer_cap,
            "protected": self.protected,
        }
        most = max(1, round(step * sum(self.sizes.values())))
        if options.order == "in_turn":
            layer = self._layer_of(number, kept)
            limits["protected"] = tuple(name for name in self.sizes if name != layer)
            most = max(1, round(step * self.sizes[layer]))

        def without(count: int) -> Kept:
            return without_lowest(scores, kept, count, **limits)

        def least(change: Callable[[Kept], Kept], high: int) -> Kept:
            """Not smaller than was asked for: with the least number that reaches it."""
            low = 1
            while low < high:
                middle = (low + high) // 2
                reached = self._reached(self._size(change(without(middle))), first)
                low, high = (low, middle) if reached else (middle + 1, high)
            return change(without(low))

        if not self._reached(self._size(without(most)), first):
            return without(most)
        uncut = least(lambda left: left, most)
        if options.multiple == 1:
            return uncut
        # What is rounded up must go elsewhere, so that more than a step may be needed.
        cut = least(lambda left: self._cut(scores, left, kept), sum(map(len, kept.values())))
        return self._faster(cut, uncut) if self._reached(self._size(cut), first, _BEYOND) else uncut

    def _layer_of(self, number: int, kept: Kept) -> str:
        """The layer whose turn it is in a round, counted from 1; the next one with neurons to spare."""
        layers = [name for name in self.sizes if name not in self.protected]
        first = (number - 1) % len(layers)
        turns = layers[first:] + layers[:first]
        return next((name for name in turns if len(kept[name]) > self._least(name)), turns[0])

    def _least(self, name: str) -> int:
        """The neurons of a layer that stay in any case."""
        return max(1, math.ceil(self.options.min_keep * self.sizes[name]))

    def _cut(self, scores: dict[str, np.ndarray], kept: Kept, before: Kept) -> Kept:
        options = self.options
        limits: dict[str, Any] = {"min_keep": options.min_keep, "protected": self.protected}
        return at_multiples(scores, kept, before, options.multiple, each=self.features, **limits)

    def _faster(self, cut: Kept, kept: Kept) -> Kept:
        """The network with widths cut to a multiple, if each product of it takes less time as measured here."""
        if cut == kept:
            return kept
        shrunken = [Shrunken(self.model, self.neurons, neurons) for neurons in (cut, kept)]
        networks = [(network, network.shrink(self.first)) for network in shrunken]
        times = milliseconds(networks, self.dataset.info.image_shape, (_BATCH,))
        faster, usual = (time[str(_BATCH)] for time in times)
        even = sum(len(cut[name]) * each % self.options.multiple == 0 for name, each in self.features.items())
        share = self._size(cut).multiply_adds / self._size(kept).multiply_adds
        self.cut = Cut(faster < min(share, 1) * usual, faster, usual, share, even)
        verdict = "taken" if self.cut.taken else "not taken"
        said = f"{even} of {len(cut)} widths at multiples of {self.options.multiple}: {faster:.2f} ms instead of "
        said += f"{usual:.2f} for {share:.0%} of the products, {verdict}"
        self.console.print(said, highlight=False, soft_wrap=True)
        return cut if self.cut.taken else kept

    def _scores(self, variables: Any, kept: Kept) -> dict[str, np.ndarray]:
        """Comparable scores; of the neurons that have gone they mean nothing."""
        activations, seed = None, self.session.config.seed
        try:
            if SCORES[self.options.score].needs == "data":
                shown = images_and_classes(self.dataset, self.options.score_images, self.session.eval_batch_size)
                activations = self.probe.measure(variables, shown)
            raw = score(self.neurons, variables, self.options.score, activations=activations, seed=seed)
            left = debiased({name: raw[name][list(numbers)] for name, numbers in kept.items()}, self.options.debias)
        except ValueError as error:
            raise UserError(str(error)) from error
        scores = {name: np.full(size, np.inf) for name, size in self.sizes.items()}
        for name, numbers in kept.items():
            scores[name][list(numbers)] = left[name]
        return scores

    def _state(self, variables: dict[str, Any], kept: Kept) -> Any:
        """A state that begins a round: the parameters of what has gone are 0, and stay so."""
        alive = self._alive(variables["params"], kept)
        params = jax.tree.map(lambda param, left: np.where(left, param, 0), variables["params"], alive)
        optimizer = with_alive(self.session.optimizer.init(params), alive)
        others = {name: tree for name, tree in variables.items() if name != "params"}
        state = self.blank.replace(params=params, model_state=others, opt_state=optimizer)
        return self.parallel.replicate(jax.tree.map(np.asarray, state))

    def _alive(self, params: Any, kept: Kept) -> Any:
        """Which weights are left, as the parameters are."""
        alive, leaves = self.neurons.alive(kept), []
        for path, leaf in leaf_paths({"params": params}).items():
            left = np.ones(leaf.shape, bool)
            for axis, size in enumerate(leaf.shape):
                if (path, axis) in alive:
                    left &= alive[path, axis].reshape([size if i == axis else 1 for i in range(leaf.ndim)])
            leaves.append(left)
        return jax.tree.unflatten(jax.tree.structure(params), leaves)

    def _fine_tune(self, state: Any, number: int) -> Any:
        config, session, train = self.session.config, self.session, self.dataset.train
        seed = config.seed + 1000 * number  # another order each round
        source = training_batches(
            train,
            self.dataset.augment,
            batch_size=config.batch_size,
            seed=seed,
            start=0,
            stop=session.total_steps,
            stream=make_stream(config.stream, train, batch_size=config.batch_size, seed=seed),
            drift=make_drift(config.stream),
            threads=config.run.threads,
        )
        for step, batch in enumerate(source, 1):
            sharded = self.parallel.shard(batch)
            if self._compiled is None:
                mapped = self.parallel.map(session.train_step, ("replicated", "replicated"), donate=True)
                self._compiled = mapped.lower(state, sharded).compile()
            if session.refreshes_before(step):
                state = self._refresh(state)
            state, metrics = self._compiled(state, sharded)
            skipped = int(np.max(metrics.skipped_in_row))
            if skipped >= min(config.max_skipped_steps, session.total_steps):
                raise UserError(
                    f"round {number}, step {step}: {skipped} steps in a row were not finite; use a learning_rate below "
                    f"{config.optimizer.learning_rate:g}."
                )
        return state

    def _accuracy(self, state: Any, number: int) -> float:
        assert self.dataset.validation is not None
        found = self.evaluator.score(state, self.dataset.validation, self.dataset.prepare)
        if not math.isfinite(found.loss):
            rate = self.session.config.optimizer.learning_rate
            raise UserError(
                f"round {number}: the loss on the validation split is not finite; use a learning_rate below {rate:g}."
            )
        return found.accuracy

    def _round(self, number: int, kept: Kept, accuracy: float, step: float, *, accepted: bool) -> Round:
        widths = {name: len(numbers) for name, numbers in kept.items()}
        return Round(number, sum(widths.values()), *self._size(kept), accuracy, step, accepted, widths)

    def _save(self, number: int, variables: Any, kept: Kept, step: float, rounds: list[Round]) -> None:
        cut = self.cut and self.cut._asdict()
        meta = {"rounds": [told._asdict() for told in rounds], "kept": kept, "step": step, "cut": cut}
        self.checkpoints.save(number, variables, meta)
        self.checkpoints.wait()

    def _tell(self, told: Round) -> None:
        verdict = "as it was" if told.number == 0 else "accepted" if told.accepted else "too much"
        size = f"{told.neurons:,} neurons, {told.parameters:,} parameters, {told.multiply_adds / 1e6:,.2f} M products"
        said = f"round {told.number}: {size}, {told.accuracy:.2%} of the validation split, {verdict}"
        self.console.print(said, highlight=False, soft_wrap=True)


def _size(told: Round) -> Size:
    return Size(told.parameters, told.multiply_adds)


def _protected(neurons: Neurons, options: PruneConfig) -> tuple[str, ...]:
    """The groups whose neurons the protected layers make."""
    try:
        found = neurons.groups_of(options.protected)
    except ValueError as error:
        raise UserError(f"protected={' '.join(options.protected)}: {error}") from error
    if len(found) == len(neurons.groups):
        raise UserError(f"protected={' '.join(options.protected)}: that is every layer of this network.")
    return found


def fine_tuning(config: TrainConfig, options: PruneConfig, epochs: float, **changes: Any) -> TrainConfig:
    """The config of a training that goes on with a network: a rate that falls from its peak to 0, no average."""
    rate = config.optimizer.learning_rate / 5 if options.learning_rate is None else options.learning_rate
    return config.model_copy(
        update={
            "epochs": epochs,
            "ema_decay": None,
            "optimizer": config.optimizer.model_copy(update={"learning_rate": rate}),
            "schedule": ScheduleConfig(name="cosine", warmup_epochs=0),
            **changes,
        }
    )
