"""Jobs from queued to their end, and the faults between: dying processes, vanishing servers, full disks."""

import json
import os
import select
import sys
import time

import psutil
import pytest
from django.db import OperationalError

from normjax.app.jobs import orders, processes, supervisor
from normjax.app.jobs.supervisor import Supervisor
from normjax.app.models import Run

pytest_plugins = ["app_fixtures"]
pytestmark = pytest.mark.django_db

# A job that tells when it works, waits to be told to end, and then does what a training does.
WORKS = """
import pathlib, signal, sys
run = pathlib.Path(sys.argv[1])
run.mkdir(parents=True, exist_ok=True)
def saved(*_):
    (run / "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, saved)
(run / "config.json").write_text("{}")
(run / "begun").open("a").write("x")
print("works", flush=True)
signal.pause()
"""
DEAF = WORKS.replace("signal.SIGTERM, saved", "signal.SIGTERM, signal.SIG_IGN").replace(
    "signal.pause()", "while True: signal.pause()"
)
ENDS = "import pathlib, sys; run = pathlib.Path(sys.argv[1]); run.mkdir(); (run / 'summary.json').write_text('{}')"
FAILS = "import sys; sys.exit('normjax: error: the data are not there, in ' + sys.argv[1])"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def job(ada, make_run, monkeypatch):
    """Makes a queued run whose process is a script; whatever is left of it is ended."""
    made = []

    def make(script: str, **fields: object) -> Run:
        words = lambda run: [sys.executable, "-c", script, str(run.directory)]  # noqa: E731
        monkeypatch.setattr(supervisor, "command", words)
        run = make_run(ada, **fields)
        made.append(run)
        return run

    yield make
    for run in made:
        if process := processes.find(None, run.path):
            processes.end(process)


@pytest.fixture
def boss():
    made = Supervisor()
    assert made.take_over()
    yield made
    made.stop()
    for child in [*made._children.values(), *forgotten]:
        child.kill()
        child.wait()
    forgotten.clear()


forgotten = []


def server_vanishes(boss):
    """What is left of the supervisor's memory when its server is killed."""
    forgotten.extend(boss._children.values())
    boss._children.clear()


def look_until(boss, run, *statuses, limit=30):
    """Looks, as the thread does, until the run has come to a state."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        boss.look()
        run.refresh_from_db()
        if run.status in statuses:
            return
        wait_for_something(run)
    raise AssertionError(f"{run.status} after {limit} s, not {statuses}: {run.message}")


def wait_for_something(run):
    """Waits for the end of its process, for a moment, and leaves the status that it ended with to the supervisor."""
    if run.pid and psutil.pid_exists(run.pid):
        process = os.pidfd_open(run.pid)
        select.select([process], [], [], 0.02)
        os.close(process)


def works(run):
    return (run.directory / "begun").exists() and (run.directory / "begun").read_text() == "x"


def test_a_job_runs_to_its_end(job, boss):
    run = job(ENDS)
    look_until(boss, run, "finished")
    assert run.pid is None
    assert run.started <= run.ended
    assert json.loads((run.path / "config.json").read_text()) == run.config


def test_one_job_at_a_time_in_the_order_of_the_queue(job, boss, ada, make_run):
    first = job(WORKS)
    second = make_run(ada)
    look_until(boss, first, "running")
    second.refresh_from_db()
    assert second.status == "queued"
    orders.stop(first)
    look_until(boss, first, "stopped")
    look_until(boss, second, "running")
    orders.stop(second)
    look_until(boss, second, "stopped")


def test_stop_lets_a_training_save(job, boss):
    run = job(WORKS)
    look_until(boss, run, "running")
    orders.stop(run)
    look_until(boss, run, "stopped")
    assert (run.directory / "saved").exists()
    assert run.message == ""


def test_a_job_that_does_not_hear_is_ended_after_its_grace_and_not_before(job, boss, settings, monkeypatch):
    run = job(DEAF)
    look_until(boss, run, "running")
    orders.stop(run)
    began = time.monotonic()
    for elapsed in (0, 0.1, 59.9):
        with monkeypatch.context() as clock:
            clock.setattr(supervisor.time, "monotonic", lambda elapsed=elapsed: began + elapsed)
            boss.look()
    run.refresh_from_db()
    assert run.status == "stopping"
    assert settings.STOP_GRACE_SECONDS == 60
    with monkeypatch.context() as clock:
        clock.setattr(supervisor.time, "monotonic", lambda: began + 60.1)
        boss.look()
    look_until(boss, run, "stopped")


def test_a_signal_is_sent_once_however_many_servers_ask(job, boss):
    # A second one would end a training before it has saved.
    run = job(WORKS)
    look_until(boss, run, "running")
    orders.stop(run)
    Run.objects.filter(pk=run.pk).update(stop_sent=True)  # by the server before
    for _ in range(3):
        boss.look()
    assert not (run.directory / "saved").exists()
    processes.ask_to_end(processes.find(run.pid, run.path))
    look_until(boss, run, "stopped")
    assert (run.directory / "saved").exists()


def test_a_failed_job_tells_why_without_the_directories_of_the_machine(job, boss):
    run = job(FAILS)
    look_until(boss, run, "failed")
    assert run.message == "the data are not there, in …/run"


def test_a_job_that_cannot_start_tells_why_in_the_language_of_the_page(boss, make_run, as_user, ada):
    run = make_run(ada, kind="fold")  # of a parent that is gone
    look_until(boss, run, "failed")
    client = as_user(ada)
    assert "The run that this one is made from was deleted." in client.get(f"/runs/{run.pk}/").content.decode()
    client.post("/language/", {"language": "zh-hans"})
    assert "其来源训练已被删除。" in client.get(f"/runs/{run.pk}/").content.decode()


def test_a_job_that_vanishes_is_interrupted_and_goes_on_when_asked(job, boss):
    run = job(DIES)
    look_until(boss, run, "interrupted")
    orders.resume(run)
    look_until(boss, run, "interrupted")


def test_a_job_outlives_its_server_and_is_found_by_the_next(job, boss):
    run = job(WORKS)
    look_until(boss, run, "running")
    pid = run.pid
    server_vanishes(boss)
    after = Supervisor()
    assert not after.take_over()  # while the first one lives
    boss.stop()
    assert after.take_over()
    for _ in range(3):
        after.look()
    run.refresh_from_db()
    assert (run.status, run.pid) == ("running", pid)
    assert works(run)  # begun once
    orders.stop(run)
    look_until(after, run, "stopped")
    after.stop()


def test_a_server_killed_before_the_process_is_made_loses_no_run(job, boss):
    run = job(WORKS, status="starting")
    look_until(boss, run, "running")
    assert works(run)


def test_a_server_killed_before_it_noted_the_process_starts_no_second(job, boss):
    run = job(WORKS)
    look_until(boss, run, "running")
    pid = run.pid
    server_vanishes(boss)
    Run.objects.filter(pk=run.pk).update(pid=None, status="starting")
    look_until(boss, run, "running")
    assert run.pid == pid
    assert works(run)


def test_a_process_that_got_the_number_of_a_job_is_left_alone(job, boss, make_run, ada):
    run = make_run(ada, status="running", pid=os.getpid())
    look_until(boss, run, "interrupted")  # and this process goes on
    stopping = make_run(ada, status="stopping", pid=os.getpid())
    look_until(boss, stopping, "stopped")
    assert job


def test_a_clock_that_jumps_ends_no_job(job, boss, monkeypatch):
    run = job(WORKS)
    look_until(boss, run, "running")
    server_vanishes(boss)
    for jump in (-1e6, 1e6):
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda jump=jump: 1.9e9 + jump)
            clock.setattr(psutil, "boot_time", lambda jump=jump: 1.8e9 + jump)
            boss.look()
        run.refresh_from_db()
        assert run.status == "running"


def test_a_full_disk_fails_the_job_and_not_the_supervisor(job, boss, monkeypatch):
    run = job(ENDS)
    with monkeypatch.context() as full:

        def write_text(*_, **__):
            raise OSError(28, "No space left on device")

        full.setattr("pathlib.Path.write_text", write_text)
        look_until(boss, run, "failed")
    assert "No space left on device" in run.message
    orders.resume(run)
    look_until(boss, run, "finished")


def test_a_locked_database_is_waited_for(job, boss, monkeypatch, caplog):
    run = job(ENDS)
    looks = []

    def locked():
        looks.append(1)
        if len(looks) < 3:
            raise OperationalError("database is locked")
        boss._ended.set()

    monkeypatch.setattr(boss, "look", locked)
    monkeypatch.setattr(supervisor, "_PAUSE", 0)
    monkeypatch.setattr(supervisor, "close_old_connections", lambda: None)
    boss.run()
    assert len(looks) == 3
    assert caplog.text.count("database is locked") >= 2
    run.refresh_from_db()
    assert run.status == "queued"


def test_a_run_stopped_in_the_queue_does_not_start(job, boss):
    run = job(WORKS)
    orders.stop(run)
    boss.look()
    run.refresh_from_db()
    assert run.status == "stopped"
    assert not run.path.exists()


def test_a_job_gets_no_more_of_the_machine_than_its_share_and_nothing_of_the_server(job, boss, monkeypatch):
    monkeypatch.setenv("NORMJAX_APP_SECRET", "of the server")
    run = job(WORKS)
    look_until(boss, run, "running")
    process = psutil.Process(run.pid)
    assert process.nice() >= 5
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_FSIZE)[0] == 16 * 2**30
    assert process.rlimit(psutil.RLIMIT_DATA)[0] <= psutil.virtual_memory().total
    assert not [name for name in process.environ() if name.startswith(("NORMJAX_APP", "DJANGO"))]
    assert os.getsid(run.pid) == run.pid  # Ctrl-C of the server does not reach it
    orders.stop(run)
    look_until(boss, run, "stopped")
