"""Draws the dashboards from a few minutes of work, in which one of two upstreams goes away."""

import os
import pathlib
import time

import watched
import load
import picture

# Until rates are there.
WARM_UP_SECONDS = 15
QUIET_SECONDS = 90
# So that the alert for an upstream that is down fires.
AWAY_SECONDS = 150


def main():
    world = watched.World(is_whole=True)
    work = load.Load(world)
    time.sleep(WARM_UP_SECONDS)
    began = time.time()
    time.sleep(QUIET_SECONDS)
    load.crowd(world.popgates[0], 55, 8)
    time.sleep(10)
    world.dovecot.stop()
    time.sleep(AWAY_SECONDS)
    ended = time.time()
    for path in watched.DASHBOARDS:
        # Those that the README shows lie beside their JSON.
        folder = path.parent if path.stem == "overview" else pathlib.Path(os.environ["POPGATE_MONITORING"])
        drawn = folder / f"{path.stem}.png"
        picture.draw(path, world.prometheus, began, ended, drawn)
        print(drawn)
        if path.stem == "overview":
            # As much of it as can be read on a page.
            drawn = folder / "overview-top.png"
            picture.draw(path, world.prometheus, began, ended, drawn, above="The client's side")
            print(drawn)
    work.stop()


if __name__ == "__main__":
    main()
