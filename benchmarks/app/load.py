"""The app under load while a training runs: 100 watchers of its curve, then 50 requests a second of the list of runs.

    python -m benchmarks.app.load                    # three trainings, about four minutes
    python -m benchmarks.app.load --minutes 30       # a soak instead: growth of the server's memory

The slow-down of the training is told as it is, and without the generator: this process is pinned to one core, and half
of its processor seconds (of two cores) are taken off the time of the training.
"""

import asyncio
import os
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.app.server import Server

WATCHERS = 100
REQUESTS_A_SECOND = 50


async def _request(server: Server, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nCookie: {server.cookie}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode())
    return reader, writer


async def watch(server: Server, run: str, arrived: list[tuple[int, float]], problems: list[str]) -> None:
    """One watcher: notes when each line arrives, by the place behind it."""
    reader, writer = await _request(server, f"/runs/{run}/events/")
    status = await reader.readline()
    if b" 200 " not in status:
        problems.append(f"watcher: {status!r}")
    ended = False
    async for line in reader:
        if line.startswith(b"id: "):
            arrived.append((int(line[4:]), time.monotonic()))
        ended = ended or line.startswith(b"event: end")
    if not ended:
        problems.append("watcher: the stream broke off")
    writer.close()


async def written(file: Path, done: asyncio.Event) -> list[tuple[int, float]]:
    """When the file had which size, seen every five milliseconds."""
    sizes: list[tuple[int, float]] = []
    while not done.is_set():
        size = file.stat().st_size if file.exists() else 0
        if not sizes or size != sizes[-1][0]:
            sizes.append((size, time.monotonic()))
        await asyncio.sleep(0.005)
    return sizes


async def ask_list(server: Server, seconds: list[float], problems: list[str]) -> None:
    """One request of the list of runs."""
    start = time.monotonic()
    try:
        reader, writer = await _request(server, "/runs/")
        answer = await reader.read()
    except OSError as error:
        problems.append(f"list: {error}")
        return
    seconds.append(time.monotonic() - start)
    if not answer.startswith(b"HTTP/1.1 200 ") or b"</html>" not in answer:
        problems.append(f"list: {answer[:60]!r}")
    writer.close()


async def ask_lists(server: Server, done: asyncio.Event, seconds: list[float], problems: list[str]) -> None:
    """Requests at a steady rate, whatever the answers take."""
    tasks = set()
    start, count = time.monotonic(), 0
    while not done.is_set():
        tasks.add(asyncio.create_task(ask_list(server, seconds, problems)))
        count += 1
        await asyncio.sleep(max(0.0, start + count / REQUESTS_A_SECOND - time.monotonic()))
        tasks = {task for task in tasks if not task.done()}
    await asyncio.gather(*tasks)


async def load_while_training(server: Server, watchers: int, *, lists: bool) -> dict[str, Any]:
    """A training with so many watchers, or with requests; what came of both."""
    before = time.process_time()
    run = await asyncio.to_thread(server.submit)
    await asyncio.to_thread(server.wait, run, "running")
    done, problems = asyncio.Event(), []
    arrived: list[list[tuple[int, float]]] = [[] for _ in range(watchers)]
    seconds: list[float] = []
    file = server.home / "runs" / run / "run" / "metrics.jsonl"
    tasks = [asyncio.create_task(watch(server, run, mine, problems)) for mine in arrived]
    clock = asyncio.create_task(written(file, done)) if watchers else None
    asking = asyncio.create_task(ask_lists(server, done, seconds, problems)) if lists else None
    while (await asyncio.to_thread(server.ask, "GET", f"/runs/{run}"))["status"] == "running":
        await asyncio.sleep(1)
    await asyncio.gather(*tasks)
    done.set()
    told: dict[str, Any] = {"problems": problems, "generator": time.process_time() - before}
    if clock:
        sizes = await clock
        first = sizes[1][1]  # what was there before is no news
        lags = [at - _when(sizes, end) for mine in arrived for end, at in mine if _when(sizes, end) > first]
        told |= {"lags": np.array(lags), "missing": sum(len(mine) != len(arrived[0]) for mine in arrived)}
    if asking:
        await asking
        told["seconds"] = np.array(seconds)
    ended = await asyncio.to_thread(server.wait, run, "finished")
    told["training"] = ended["figures"]["training_seconds"]
    return told


def _when(sizes: list[tuple[int, float]], end: int) -> float:
    return next(at for size, at in sizes if size >= end)


async def measure(server: Server) -> None:
    """The three trainings."""
    cores = os.cpu_count() or 1
    for _ in range(14):  # a list of a full page
        run = server.submit(epochs=1, schedule={"warmup_epochs": 0.5})
        server.ask("POST", f"/runs/{run}/stop")
    alone = await load_while_training(server, 0, lists=False)
    print(f"alone: the training takes {alone['training']:.1f} s")
    for name, told in (
        (f"{WATCHERS} watchers", await load_while_training(server, WATCHERS, lists=False)),
        (f"{REQUESTS_A_SECOND} requests/s", await load_while_training(server, 0, lists=True)),
    ):
        raw = told["training"] / alone["training"] - 1
        less = (told["training"] - told["generator"] / cores) / alone["training"] - 1
        print(f"{name}: the training takes {told['training']:.1f} s, {raw:+.1%}; without the generator {less:+.1%}")
        for what in ("lags", "seconds"):
            if what in told:
                median, most = np.percentile(told[what], [50, 95]) * 1e3
                print(f"  {what}: median {median:.0f} ms, 95th percentile {most:.0f} ms, of {len(told[what]):,}")
        print(f"  errors: {len(told['problems'])} {told['problems'][:3]}")


async def soak(server: Server, minutes: float) -> None:
    """Watchers and requests for a time; the memory of the server after each tenth of it."""
    assert server.process is not None
    process, problems, seconds = psutil.Process(server.process.pid), [], []
    # As many steps as are allowed, more than there is time for; lines come as often as in the measurement.
    run = server.submit(epochs=1000, batch_size=1, run={"log_every": 60})
    server.wait(run, "running")
    done = asyncio.Event()
    watching = [asyncio.create_task(watch(server, run, [], problems)) for _ in range(WATCHERS)]
    asking = asyncio.create_task(ask_lists(server, done, seconds, problems))
    sizes = []
    for part in range(11):
        if part:
            await asyncio.sleep(minutes * 6)
        sizes.append(process.memory_info().rss / 2**20)
        print(f"{part * minutes / 10:5.1f} min: {sizes[-1]:.0f} MiB")
    done.set()
    await asyncio.to_thread(server.ask, "POST", f"/runs/{run}/stop")
    await asyncio.gather(*watching, asking)
    print(
        f"growth after the first tenth: {sizes[-1] / sizes[1] - 1:+.1%}; {len(seconds):,} requests, "
        f"95th percentile {1e3 * np.percentile(seconds, 95):.0f} ms; errors: {len(problems)} {problems[:3]}"
    )


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0, help="of a soak, instead of the measurement")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "home", options.port)
        server.start()
        server.make_user()
        os.sched_setaffinity(0, {os.cpu_count() - 1})  # after the server, which shall not inherit it
        try:
            asyncio.run(soak(server, options.minutes) if options.minutes else measure(server))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
