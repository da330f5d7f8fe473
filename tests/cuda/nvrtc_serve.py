"""Compiles many CUDA sources to PTX in one process: `nvrtc_serve.py LIBRARY FLAG...`.

Each line of standard input is `SOURCE<tab>OUTPUT`; the answer is a line, `ok` or `error`. A source that takes longer
than a minute ends the process.
"""

import signal
import sys

import nvrtc

LIMIT = 60


def main():
    """See the module's documentation."""
    library, flags = sys.argv[1], sys.argv[2:]
    for line in sys.stdin:
        source, output = line.rstrip("\n").split("\t")
        signal.alarm(LIMIT)
        try:
            nvrtc.compile_source(library, source, output, flags)
            answer = "ok"
        except SystemExit:
            answer = "error"
        signal.alarm(0)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
