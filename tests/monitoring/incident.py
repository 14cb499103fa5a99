"""Draws the dashboards from a few minutes of work, in which one of two upstreams goes away."""

import os
import pathlib
import time

import watched
import load
import picture

QUIET_SECONDS = 90
# So that the alert for an upstream that is down fires.
AWAY_SECONDS = 150


def main():
    world = watched.World(is_whole=True)
    began = time.time()
    work = load.Load(world)
    time.sleep(QUIET_SECONDS)
    load.crowd(world.popgates[0], 55, 8)
    time.sleep(10)
    world.dovecot.stop()
    time.sleep(AWAY_SECONDS)
    ended = time.time()
    for path in watched.DASHBOARDS:
        # The one that the README shows lies beside its JSON.
        folder = path.parent if path.stem == "overview" else pathlib.Path(os.environ["POPGATE_MONITORING"])
        drawn = folder / f"{path.stem}.png"
        picture.draw(path, world.prometheus, began, ended, drawn)
        print(drawn)
    work.stop()


if __name__ == "__main__":
    main()
