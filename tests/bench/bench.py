"""Measures popgate beside others at the same work, in turns; `run` starts it."""

import argparse
import os
import resource
import sys
import time

import pop3_work
import smtp_work
import table
import work

# Of all protocols, in the order of the table.
_WORKS = (*pop3_work.ALL, *smtp_work.ALL)


def _arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    names = [each.name for each in _WORKS]
    parser.add_argument("--row", action="append", choices=names, help="only this work; may be given more than once")
    parser.add_argument("--rounds", type=int, help=f"{work.FULL.rounds} if not given")
    parser.add_argument("--small", action="store_true", help="little work, for whether all of it is right")
    parser.add_argument("--popgate", required=True, metavar="PATH", help="the binary; built here if not given")
    parser.add_argument("--skip-slow", action="store_true", help="leave out whoever needs minutes")
    return parser.parse_args()


def _measure(one, rounds, slow_rounds):
    """Figures of the rounds of a work, by contestant."""
    figures = {}
    contestants = one.contestants()
    try:
        for number in range(1, rounds + 1):
            if number > 1 and one.afresh:
                _stop(contestants)
                contestants = one.contestants()
            for contestant in contestants:
                if number > slow_rounds and contestant.name in one.slow:
                    continue
                started = time.monotonic()
                figure = one.measure(contestant, number)
                figures.setdefault(contestant.name, []).append(figure)
                shown = ", ".join(f"{name} {value:.6g}" for name, value in figure.items())
                took = time.monotonic() - started
                print(f"{one.name} {number}/{rounds} {contestant.name}: {shown} ({took:.1f} s)", file=sys.stderr)
    finally:
        _stop(contestants)
    return figures


def _stop(contestants):
    for contestant in contestants:
        contestant.stop()


def main():
    arguments = _arguments()
    # Two for each session of a proxy, and the daemons inherit it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    scale = work.SMALL if arguments.small else work.FULL
    bench = work.Bench(scale, os.path.abspath(arguments.popgate))
    lines = []
    for each in _WORKS:
        if arguments.row and each.name not in arguments.row:
            continue
        one = each(bench)
        rounds = _measure(one, arguments.rounds or scale.rounds, 0 if arguments.skip_slow else 1)
        lines += [table.cells(line, rounds) for line in one.lines()]
    print(table.text(lines))
    if arguments.small:
        print("\nEvery octet was right. With so little work the figures mean nothing.")


if __name__ == "__main__":
    main()
