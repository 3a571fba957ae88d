"""A real server for tests: llama.cpp's, out of the package xllamacpp. Run as a process of its own.

python -m tests.llama_server FILE.gguf N_PARALLEL         prints its address, ends when stdin closes
python -m tests.llama_server FILE.gguf N_PARALLEL PORT    runs until it is ended
"""

from __future__ import annotations

import signal
import sys


def main(file: str, n_parallel: int, port: int = 0) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_parallel = n_parallel
    params.n_ctx = 512 * n_parallel
    params.port = port
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    if port:
        signal.pause()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
