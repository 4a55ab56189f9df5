# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A server under load: many clients for a minute, who draw, edit and ask, with batches of pictures and without.

Each run starts `wallaroo serve` as a process of its own. Each client sends its next request when it has the answer to
the last; one that is refused by 429 waits as long as `Retry-After` says. Every request must be answered or refused in
the server's own words: anything else is counted as unclean. That ends in the exit code 1, as memory that grows does.
"""

import argparse
import asyncio
import io
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from common import write_figures
from tqdm.auto import tqdm

from transformers_wallaroo.shapes import make_sample

ADDRESS = "Uvicorn running on "
START_SECONDS = 300.0
INTERRUPTED = 130  # the exit code after Ctrl-C
FIRST_REQUESTS = 4


@dataclass
class Tally:
    """What the clients saw."""

    ends: Counter = field(default_factory=Counter)  # by kind and status
    seconds: dict[str, list[float]] = field(default_factory=dict)
    unclean: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # megabytes, a sample a second


class Process:
    """`wallaroo serve` on a free port, from start to end."""

    def __init__(self, options: argparse.Namespace, max_batch: int):
        command = [sys.executable, "-m", "transformers_wallaroo.cli", "serve", "--port=0", f"--max-batch={max_batch}"]
        command += [f"--max-queue={options.queue}", f"--max-requests={2 * options.clients}", "--max-images=1"]
        if options.checkpoint is not None:
            command.append(f"--checkpoint={options.checkpoint}")
        # Its log goes to a file: a pipe that nobody reads fills up.
        self.log = options.folder / f"serve-{max_batch}.log"
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            self.url = self._wait()
        except BaseException:
            self._process.kill()
            raise

    def _wait(self) -> str:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            text = self.log.read_text(errors="replace")
            if ADDRESS in text:
                return text.split(ADDRESS)[1].split()[0]
            time.sleep(0.1)
        raise RuntimeError(f"The server did not start; {self.log} says: {self.log.read_text(errors='replace')[-500:]}")

    def megabytes(self) -> float:
        """Memory that the process holds, as Linux tells it."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("The server has ended while it was under load.")

    def end(self) -> str | None:
        """Ends it as Ctrl-C does; says what was not as it should be."""
        self._process.send_signal(signal.SIGINT)
        status = self._process.wait(60)
        if status not in (0, INTERRUPTED):
            return f"The server ended with the exit code {status}; {self.log} says why."
        return f"{self.log} has a traceback." if "Traceback" in self.log.read_text(errors="replace") else None


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


async def request(client: openai.AsyncOpenAI, kind: str, number: int) -> None:
    """One request; whatever is wrong with its answer is an error."""
    if kind == "draw":
        drawn = await client.images.generate(prompt="a red circle on a white background", extra_body={"seed": number})
        assert drawn.data and drawn.data[0].b64_json
    elif kind == "edit":
        source = png(make_sample("edit", 1, 5 + number % 7)["source_image"])
        edited = await client.images.edit(image=("a.png", source), prompt="remove the red circle")
        assert edited.data and edited.data[0].b64_json
    else:
        messages: Any = [{"role": "user", "content": f"What is {number}?"}]
        name = (await client.models.list()).data[0].id
        chunks = await client.chat.completions.create(model=name, messages=messages, max_tokens=8, stream=True)
        last = None
        async for chunk in chunks:
            last = chunk.choices[0].finish_reason
        assert last in ("stop", "length")


async def work(client: openai.AsyncOpenAI, tally: Tally, kinds: Sequence[str], number: int, end: float) -> None:
    """One client until the end: a request, and the next."""
    turns = random.Random(number)
    while time.monotonic() < end:
        kind = turns.choice(kinds)
        started = time.monotonic()
        try:
            await request(client, kind, number)
            tally.ends[kind, 200] += 1
            tally.seconds.setdefault(kind, []).append(time.monotonic() - started)
        except openai.APIStatusError as error:
            tally.ends[kind, error.status_code] += 1
            if error.status_code not in (429, 504) or not isinstance(error.body, dict):
                tally.unclean.append(f"{kind}: {error.status_code} {error.body!r}")
            await asyncio.sleep(float(error.response.headers.get("Retry-After", 1)) * turns.uniform(0.5, 1))
        except (openai.APIError, AssertionError) as error:
            tally.ends[kind, "unclean"] += 1
            tally.unclean.append(f"{kind}: {error!r}")


async def watch(process: Process, tally: Tally, end: float, seconds: float) -> None:
    with tqdm(total=round(seconds), unit="s", leave=False) as bar:
        while time.monotonic() < end:
            tally.memory.append(process.megabytes())
            await asyncio.sleep(1)
            bar.update()


async def load(process: Process, options: argparse.Namespace) -> tuple[Tally, float]:
    """Runs the clients; returns what they saw, and in how many seconds."""
    tally = Tally()
    async with openai.AsyncOpenAI(
        base_url=f"{process.url}/v1", api_key="none", max_retries=0, timeout=options.seconds + 300
    ) as client:
        for number in range(FIRST_REQUESTS):
            await request(client, options.kinds[number % len(options.kinds)], number)
        started = time.monotonic()
        end = started + options.seconds
        clients = [work(client, tally, options.kinds, number, end) for number in range(options.clients)]
        await asyncio.gather(watch(process, tally, end, options.seconds), *clients)
        return tally, time.monotonic() - started


def growth(memory: Sequence[float]) -> float:
    """Megabytes by which the last third of the run lies above the one before it, in the mean."""
    third = len(memory) // 3
    if third == 0:
        return 0.0
    return statistics.mean(memory[-third:]) - statistics.mean(memory[-2 * third : -third])


def measure(options: argparse.Namespace, max_batch: int) -> dict[str, Any]:
    """Figures of one server."""
    process = Process(options, max_batch)
    try:
        tally, seconds = asyncio.run(load(process, options))
    finally:
        fault = process.end()
    answered = Counter({kind: count for (kind, end), count in tally.ends.items() if end == 200})
    pictures = answered["draw"] + answered["edit"]
    if fault is not None:
        tally.unclean.append(fault)
    return {
        "seconds": round(seconds, 1),
        "answered": dict(answered),
        "refused": sum(count for (_, end), count in tally.ends.items() if end in (429, 504)),
        "unclean": tally.unclean,
        "pictures_per_second": round(pictures / seconds, 2),
        "requests_per_second": round(sum(answered.values()) / seconds, 2),
        "median_seconds": {kind: round(statistics.median(each), 2) for kind, each in tally.seconds.items()},
        "memory_mb": [round(megabytes) for megabytes in tally.memory],
        "growth_mb": round(growth(tally.memory), 1),
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="of each run (default: %(default)s)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[8, 1], help="pictures at once, a run each (default: %(default)s)"
    )
    parser.add_argument("--queue", type=int, default=48, help="of the server (default: %(default)s)")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=("draw", "edit", "ask"),
        default=["draw", "draw", "edit", "ask"],
        help="what clients do, the same again where more of it (default: %(default)s)",
    )
    parser.add_argument("--most-growth", type=float, default=50, help="megabytes (default: %(default)s)")
    parser.add_argument("--checkpoint", help="by default the embedded one")
    parser.add_argument("--folder", type=Path, default=Path("runs/serve-load"), help="of logs (default: %(default)s)")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    found = {str(batch): measure(options, batch) for batch in options.batches}
    for batch, row in found.items():
        memory = row["memory_mb"]
        sys.stdout.write(
            f"\n{options.clients} clients, {row['seconds']} s, at most {batch} pictures at once\n"
            f"  answered {row['answered']}, refused {row['refused']}, unclean {len(row['unclean'])}\n"
            f"  {row['pictures_per_second']} pictures/s, {row['requests_per_second']} requests/s, "
            f"median seconds {row['median_seconds']}\n"
            f"  memory {memory[0]} MB at first, {max(memory)} at most, {memory[-1]} at last; "
            f"grown by {row['growth_mb']} MB in the last third\n"
        )
        for line in row["unclean"][:10]:
            sys.stdout.write(f"  unclean: {line}\n")
    result = write_figures(options, {"figures": found, "load_average": os.getloadavg()})
    if any(row["unclean"] or row["growth_mb"] > options.most_growth for row in found.values()):
        raise SystemExit(1)
    return result


if __name__ == "__main__":
    main()
