"""Masks of one size: what a search runs is compiled in its first round."""

import jax
import pytest
from training_fixtures import run_config

from normjax.pruning.config import PruneConfig
from normjax.pruning.run import prune_run
from normjax.pruning.search import Search
from normjax.training.config import ModelConfig, OptimizerConfig
from normjax.training.loop import train

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")

MODEL = ModelConfig(name="convnet", widths=(6, 8), dense=(16,))
COMPILED = "/jax/core/compile/backend_compile_duration"


def test_rounds_after_the_first_compile_nothing(tmp_path, monkeypatch):
    train(run_config(model=MODEL, optimizer=OptimizerConfig(learning_rate=0.2)), tmp_path / "run")
    programs, by_round, tell = [], [], Search._tell

    def listen(event, _seconds, **told):
        if event == COMPILED:
            programs.append(told.get("fun_name"))

    def count(self, told):
        by_round.append(len(programs))
        tell(self, told)

    monkeypatch.setattr(Search, "_tell", count)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        options = {"epochs": 0.2, "final_epochs": 0.2, "learning_rate": 0.05, "step": 0.2, "multiple": 1}
        prune_run(tmp_path / "run", tmp_path / "smaller", PruneConfig(keep_macs=0.2, **options))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(by_round) >= 4
    assert by_round[0] < by_round[1]
    assert programs[by_round[1] : by_round[-1]] == []
