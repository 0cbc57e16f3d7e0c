"""The process that recognises: reads a request a line, answers with a line. Both are JSON.

It is started by the app and belongs to it alone; networks stay loaded from one request to the next.
"""

import json
import os
import sys
import traceback
from collections import OrderedDict
from pathlib import Path
from typing import Any

from normjax.app.recognition.messages import NO_CHECKPOINT
from normjax.errors import UserError

MAX_NETWORKS = 6


class Networks:
    """The networks that were used last."""

    def __init__(self, most: int = MAX_NETWORKS):
        self._most = most
        self._loaded: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def get(self, path: str) -> Any:
        """The network of a run, loaded again where its training has gone on."""
        from normjax.app.recognition.network import Network

        checkpoints = Path(path) / "checkpoints"
        if not checkpoints.is_dir():
            raise UserError(NO_CHECKPOINT)
        key = (path, checkpoints.stat().st_mtime_ns)
        if key not in self._loaded:
            self._loaded[key] = Network(Path(path))
            while len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def answer(networks: Networks, request: dict[str, Any]) -> Any:
    """Does what a request asks for."""
    network = networks.get(request["run"])
    data_dir = Path(request["data_dir"]) if request.get("data_dir") else None
    match request["do"]:
        case "predict":
            return network.predict([Path(file) for file in request["files"]], request["top"])
        case "saliency":
            return network.saliency(Path(request["file"]))
        case "answers":
            return network.answers(data_dir)
        case "pictures":
            return network.pictures(request["indices"], data_dir)
        case "activations":
            return network.activations(data_dir)
        case "export":
            return network.export(Path(request["output"]))
        case unknown:
            raise ValueError(f"do={unknown!r} is not known")


def main() -> None:
    """Answers until the app closes the pipe, which it does when it ends, however it ends."""
    os.nice(5)
    # What libraries print must not come between two answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    networks = Networks()
    for line in sys.stdin:
        try:
            told: dict[str, Any] = {"ok": answer(networks, json.loads(line))}
        except UserError as error:
            told = {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - one bad request must not end the process for all others
            traceback.print_exc()
            told = {"fault": type(error).__name__}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
