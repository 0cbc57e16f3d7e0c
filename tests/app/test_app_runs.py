"""The form of a training, what a user may order, and the bounds of both (check 23)."""

import json
import os
import shutil

import pytest
from app_cases import QUICK, files_below
from django.urls import reverse
from sklearn.datasets import load_digits

from normjax.app import data_sets
from normjax.app.choices import choices, most_examples, tfds_data_sets
from normjax.app.config_form import RefusedError, check_pruning, leaves, make_form, read_form
from normjax.app.jobs import orders
from normjax.app.jobs.commands import command
from normjax.app.models import Run, User
from normjax.errors import UserError
from normjax.pruning.config import PruneConfig
from normjax.training.config import DataConfig, ModelConfig, NormConfig, TrainConfig

pytest_plugins = ["app_fixtures"]
pytestmark = pytest.mark.django_db

CONFIGS = [
    TrainConfig(),
    TrainConfig.model_validate(QUICK),
    TrainConfig(
        norm=NormConfig(name="decorrelated_batch_norm", options={"group_size": 8, "use_scale": False, "epsilon": 1e-3}),
        model=ModelConfig(widths=None, dense=()),
        data=DataConfig(mean=(0.5,), std=(0.25,)),
        ema_decay=0.99,
    ),
]


def sent_form(ada, config=None, **changes):
    """What a browser sends for a config."""
    form = make_form(config or TrainConfig(), choices(ada))
    return {**{field.name: field.value for field in form}, **changes}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_form_says_what_its_config_says(ada, config):
    assert read_form(ada, sent_form(ada, config)) == (config, None)


def test_every_field_of_the_config_is_in_the_form(ada):
    names = {field.name for field in make_form(TrainConfig(), choices(ada))}
    assert names == {name for name, _ in leaves()}
    dumped = TrainConfig().model_dump()
    expected = {f"{s}.{n}" for s, fields in dumped.items() if isinstance(fields, dict) for n in fields}
    expected |= {name for name, value in dumped.items() if not isinstance(value, dict)}
    assert names == expected - {"model.kept", "model.weights"}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimizer.learning_rate", "-1", "more than 0"),
        ("optimizer.learning_rate", "fast", "Use a number"),
        ("optimizer.learning_rate", "nan", "Use a number"),
        ("optimizer.learning_rate", "", "Use a number"),
        ("optimizer.learning_rate", "1" + "0" * 400, "Use a number"),
        ("epochs", "1001", "use 1000 at most"),
        ("epochs", "0", "more than 0"),
        ("batch_size", "1.5", "whole number"),
        ("batch_size", "100000", "use 4096 at most"),
        ("seed", "99999999999", "Use less than"),
        ("norm.name", "magic_norm", "Use one of"),
        ("norm.options", "epsilon", "name=value"),
        ("norm.options", "colour=red", "has no option 'colour'"),
        ("model.widths", "16, many", "whole number"),
        ("model.widths", "100000", "of 4096 at most"),
        ("model.widths", ", ".join(["8"] * 33), "32 layers"),
        ("schedule.warmup_epochs", "50", "must be less than epochs"),
        ("schedule.milestones", "0.7, 0.5", "ascend"),
        ("data.name", "cifar10", "no such data set"),
        ("data.name", "folder", "no such data set"),
        ("data.name", "folder:../../etc", "no such data set"),
        ("data.name", "\x00", "no such data set"),
        ("micro_batches", "7", "does not divide"),
        ("run.threads", "100", "use 8 at most"),
        # Numbers beyond the floats, and brackets beyond the stack, were errors of the server.
        ("batch_size", "1" + "0" * 400, "1000000000"),
        ("run.log_every", "1" + "0" * 400, "use 1000000 at most"),
        ("norm.options", "epsilon=" + "[" * 50_000, "is not a number"),
        ("weight_norm.initialize_from", "64", "sets scales"),
        ("proximal.strength", "0.5", "needs a penalty"),
    ],
)
def test_what_is_wrong_stands_beside_its_field_and_nothing_is_queued(ada, as_user, field, value, words):
    with pytest.raises(RefusedError) as refused:
        read_form(ada, sent_form(ada, **{field: value}))
    (name,) = refused.value.errors
    assert name.split(".")[0] == field.split(".")[0]
    assert words in refused.value.errors[name]
    page = as_user(ada).post(reverse("run_new"), sent_form(ada, **{field: value}))
    assert page.status_code == 422
    shown = {f.name: f for f in page.context["form"]}
    assert words in shown[name].error
    assert shown[field].value == value  # what was typed is not lost
    assert Run.objects.count() == 0


def test_15_2_2_a_training_writes_no_more_lines_than_can_be_shown(ada):
    # 1000 epochs of 1797 digits one by one, each with a line: a file of 270 MB, sent to everybody who looks.
    plain = sent_form(ada, epochs="1000", batch_size="1", **{"run.log_every": "18", "run.validate_every": "18"})
    assert read_form(ada, plain)[0].run.log_every == 18
    with pytest.raises(RefusedError) as refused:
        read_form(ada, {**plain, "run.log_every": "17", "run.validate_every": "1"})
    assert refused.value.errors.keys() == {"run.log_every", "run.validate_every"}
    assert "more than 100000 lines of metrics; use 18 or more" in refused.value.errors["run.log_every"]


@pytest.mark.parametrize(
    ("split", "examples"), [("train", 50), ("train[:10%]+test", 60), ("all", 60), ("train_2", 0), ("", 0)]
)
def test_how_many_pictures_an_epoch_has_at_most_is_known_before(data_set, tmp_path, settings, split, examples):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    splits = [{"name": "train", "shardLengths": ["20", "30"]}, {"name": "test", "shardLengths": ["10"]}]
    (folder / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    settings.DATA_DIR = tmp_path
    assert most_examples(DataConfig(name="mnist", train_split=split), None) == examples
    assert most_examples(DataConfig(name="folder", train_split=split), data_set) == 4
    assert most_examples(DataConfig(train_split=split), None) == len(load_digits().target)


def test_a_training_is_queued_with_what_the_form_said(ada, as_user):
    answer = as_user(ada).post(reverse("run_new"), sent_form(ada, CONFIGS[2], name="  mine  "))
    run = Run.objects.get()
    assert answer["Location"] == reverse("run", args=[run.pk])
    assert (run.name, run.status, run.owner) == ("mine", "queued", ada)
    assert TrainConfig.model_validate(run.config) == CONFIGS[2]


def test_a_clone_has_the_settings_of_another_run(ada, bob, make_run, as_user):
    run = make_run(bob, config=CONFIGS[2].model_dump(mode="json"), shared_with_all=True)
    page = as_user(ada).get(reverse("run_new"), {"from": run.pk})
    fields = {field.name: field.value for field in page.context["form"]}
    assert read_form(ada, fields)[0] == CONFIGS[2]
    run.shared_with_all = False
    run.save()
    assert as_user(ada).get(reverse("run_new"), {"from": run.pk}).status_code == 404


def test_a_data_set_of_the_users_own_is_offered_to_its_owner_alone(ada, bob, data_set):
    value = f"folder:{data_set.pk}"
    assert value in {choice.value for choice in choices(ada)}
    assert value not in {choice.value for choice in choices(bob)}
    with pytest.raises(RefusedError, match="no such data set"):
        read_form(bob, sent_form(bob, **{"data.name": value, "data.image_size": "8"}))
    with pytest.raises(RefusedError, match=r"data\.image_size: Pictures of a folder differ in size"):
        read_form(ada, sent_form(ada, **{"data.name": value}))
    config, chosen = read_form(ada, sent_form(ada, **{"data.name": value, "data.image_size": "8"}))
    assert (config.data.name, chosen) == ("folder", data_set)


def test_data_sets_that_are_present_are_found_by_their_features(tmp_path):
    def prepared(path, features):
        folder = tmp_path / path
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
        (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))

    prepared("mnist/3.0.1", {"image": {}, "label": {}})
    prepared("corrupted/blur/1.0.0", {"image": {}, "label": {}})
    prepared("words/1.0.0", {"text": {}, "label": {}})
    (tmp_path / "mnist/3.0.1/features.json").with_name("other").mkdir()
    assert tfds_data_sets(tmp_path) == ["corrupted/blur", "mnist"]
    assert tfds_data_sets(tmp_path / "nowhere") == []


def test_2_3_2_a_user_has_so_many_jobs_and_no_more(ada, bob, make_run, settings):
    settings.MAX_JOBS_PER_USER = 2
    for status in ("queued", "running"):
        make_run(ada, status=status)
    ended = make_run(ada, status="stopped")
    with pytest.raises(UserError, match="2 runs queued or running"):
        orders.submit_training(ada, TrainConfig())
    with pytest.raises(UserError, match="2 runs queued or running"):
        orders.resume(ended)
    assert orders.submit_training(bob, TrainConfig()).status == "queued"


def test_5_2_4_a_user_whose_runs_fill_the_disk_queues_nothing(ada, trained, settings):
    settings.MAX_RUN_BYTES = orders.size_of(trained)
    assert orders.submit_training(ada, TrainConfig()).status == "queued"
    settings.MAX_RUN_BYTES -= 1
    with pytest.raises(UserError, match="delete some first"):
        orders.submit_training(ada, TrainConfig())


@pytest.mark.parametrize(
    ("status", "can_stop", "can_resume", "can_delete"),
    [
        ("queued", True, False, False),
        ("starting", True, False, False),
        ("running", True, False, False),
        ("stopping", False, False, False),
        ("finished", False, False, True),
        ("stopped", False, True, True),
        ("failed", False, True, True),
        ("interrupted", False, True, True),
    ],
)
def test_what_can_be_done_in_each_state(ada, make_run, status, can_stop, can_resume, can_delete):
    for order, possible, then in (
        (orders.stop, can_stop, "stopped" if status == "queued" else "stopping"),
        (orders.resume, can_resume, "queued"),
        (orders.delete, can_delete, None),
    ):
        run = make_run(ada, status=status)
        if possible:
            order(run)
            assert Run.objects.filter(pk=run.pk).values_list("status", flat=True).first() == then
        else:
            with pytest.raises(UserError):
                order(run)
            assert Run.objects.get(pk=run.pk).status == status


def test_deleting_takes_the_files_and_spares_what_others_need(ada, trained, make_run):
    child = make_run(ada, kind="fold", parent=trained, status="running")
    with pytest.raises(UserError, match="being made of this one"):
        orders.delete(trained)
    assert "run/summary.json" in files_below(trained.path)
    Run.objects.filter(pk=child.pk).update(status="finished")
    path = trained.path
    orders.delete(trained)
    assert not path.exists()
    child.refresh_from_db()
    assert child.parent is None


def test_sharing_is_all_or_nothing(ada, bob, make_run):
    run = make_run(ada, status="finished")
    with pytest.raises(UserError, match="There is no user nobody"):
        orders.share(run, with_all=True, names=["bob", "nobody"])
    run.refresh_from_db()
    assert (run.shared_with_all, run.shared_with.count()) == (False, 0)
    orders.share(run, with_all=False, names=["bob", ""])
    assert list(run.shared_with.all()) == [bob]


def test_a_run_can_be_shared_anew_when_one_who_saw_it_was_disabled(ada, bob, make_run):
    run = make_run(ada, status="finished")
    orders.share(run, names=["bob"])
    User.objects.filter(pk=bob.pk).update(is_active=False)
    orders.share(run, with_all=True)
    orders.share(run, names=["bob"])
    assert list(run.shared_with.all()) == [bob]
    other = make_run(ada, status="finished")
    with pytest.raises(UserError, match="There is no user bob"):
        orders.share(other, names=["bob"])


def test_what_is_wrong_with_a_name_or_a_share_stands_beside_the_field_and_is_not_lost(ada, make_run, as_user):
    run, client = make_run(ada, status="finished"), as_user(ada)
    page = client.post(reverse("run_share", args=[run.pk]), {"names": "nobody, x", "with_all": "on"})
    text = page.content.decode()
    assert (page.status_code, page.context["share_error"]) == (422, "There is no user nobody.")
    assert 'value="nobody, x"' in text
    assert 'id="names_error"' in text
    page = client.post(reverse("run_rename", args=[run.pk]), {"name": "x" * 81})
    assert (page.status_code, page.context["name_sent"]) == (422, "x" * 81)
    run.refresh_from_db()
    assert (run.name, run.shared_with_all) == ("a run", False)


def test_files_that_vanish_while_they_are_counted_are_not_counted(trained, monkeypatch):
    # A training removes old checkpoints while another is queued.
    stat, whole = os.stat, orders.size_of(trained)
    assert whole > 10_000

    def gone(path, *args, **options):
        if str(path).endswith("summary.json"):
            raise FileNotFoundError
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", gone)
    assert 0 < orders.size_of(trained) < whole


def test_a_pruning_holds_the_data_set_of_its_parent(ada, trained, data_set):
    Run.objects.filter(pk=trained.pk).update(data_set=data_set)
    trained.refresh_from_db()
    orders.submit_pruning(ada, trained, PruneConfig(max_drop=0.1))
    with pytest.raises(UserError, match="A run is using this data set"):
        data_sets.delete(data_set)


def test_a_clone_of_a_run_on_data_of_another_asks_for_data(ada, bob, make_run, as_user):
    config = TrainConfig.model_validate({**QUICK, "data": {"name": "folder", "image_size": 8}})
    run = make_run(bob, config=config.model_dump(mode="json"), shared_with_all=True)
    fields = {field.name: field for field in as_user(ada).get(reverse("run_new"), {"from": run.pk}).context["form"]}
    assert fields["data.name"].choices[0] == ("", "")  # a browser would choose the digits without a word
    assert "choose another" in fields["data.name"].error


def test_only_finished_trainings_are_made_smaller(ada, make_run, trained):
    running = make_run(ada, status="running")
    for order in (orders.submit_folding, lambda user, run: orders.submit_pruning(user, run, PruneConfig(max_drop=0.1))):
        with pytest.raises(UserError, match="Only a finished training"):
            order(ada, running)
        assert order(ada, trained).parent == trained


@pytest.mark.parametrize(
    ("sent", "field", "words"),
    [
        ({"max_drop": "2"}, "max_drop", "less than 1"),
        ({"max_drop": "some"}, "max_drop", "Use a number"),
        ({"max_drop": "0.1", "score": "luck"}, "score", "Use one of"),
        ({"max_drop": "0.1", "epochs": "101"}, "epochs", "use 100 at most"),
        ({"max_drop": "0.1", "final_epochs": "1e9"}, "final_epochs", "use 100 at most"),
    ],
)
def test_what_is_wrong_with_a_pruning_stands_beside_its_field(ada, trained, as_user, sent, field, words):
    page = as_user(ada).post(reverse("run_prune", args=[trained.pk]), sent)
    assert (page.status_code, page.context["field"]) == (422, field)
    assert words in page.context["error"]
    assert not trained.children.exists()


def test_no_word_of_a_command_comes_from_a_user(ada, trained, make_run, settings):
    # 1.2.5: names of layers would stand among the options of normjax prune.
    with pytest.raises(RefusedError, match="cannot be protected"):
        check_pruning(PruneConfig(max_drop=0.1, protected=("--output", "/tmp/elsewhere")))
    run = orders.submit_pruning(ada, trained, PruneConfig(max_drop=0.1, score="l1", epochs=0.5))
    *_, output, a, b, c, d, e, f = command(run)
    assert output == str(run.directory)
    assert (a, b, c, d, e, f) == ("--max-drop", "0.1", "--score", "l1", "--epochs", "0.5")
    named = make_run(ada, name="--workdir /tmp; rm -rf /", config=TrainConfig().model_dump(mode="json"))
    assert [word for word in command(named)[3:] if not word.startswith(str(settings.HOME.path))] == [
        *("train", "--config", "--workdir")
    ]


def test_the_comparison_shows_the_best_figure_of_each_run(ada, bob, trained, make_run, as_user):
    worse = make_run(ada, status="stopped", name="worse")
    worse.directory.mkdir(parents=True)
    lines = [
        {"step": step, "epoch": step, "split": "validation", "loss": 1, "accuracy": a}
        for step, a in ((1, 0.5), (2, 0.2))
    ]
    (worse.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    private = make_run(bob, status="finished", name="private of bob")
    page = as_user(ada).get(reverse("compare"), {"run": [trained.pk, worse.pk, private.pk, "nothing"]})
    rows = page.context["rows"]
    assert [row["run"].name for row in rows] == ["trained", "worse"]
    assert (rows[1]["best_validation_accuracy"], rows[1]["best_step"]) == (0.5, 1)
    summary = json.loads((trained.directory / "summary.json").read_text())
    assert rows[0]["test_accuracy"] == summary["test"]["accuracy"]
    assert b"private of bob" not in page.content
    shutil.rmtree(worse.path)


def test_the_log_tells_nothing_of_the_directories_of_the_machine(ada, make_run, as_user, settings):
    run = make_run(ada, status="failed")
    run.path.mkdir()
    run.log.write_text(f"\x1b[31mno space in {run.path}/run\x1b[0m\nand {settings.HOME.path}/x\n")
    text = as_user(ada).get(reverse("run_log", args=[run.pk])).context["log"]
    assert str(settings.HOME.path) not in text
    assert "no space in …/run" in text
    assert "\x1b" not in text
