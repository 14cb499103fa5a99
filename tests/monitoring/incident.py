"""Draws the dashboards from four minutes of work, in which the upstream is away for a while."""

import threading
import time

import watched
import load
import picture

QUIET_SECONDS = 90
AWAY_SECONDS = 50


def main():
    world = watched.world()
    began = time.time()
    work = load.Load(world)
    time.sleep(QUIET_SECONDS)
    crowd = threading.Thread(target=load.crowd, args=(world.popgates[0], 55, 8))
    crowd.start()
    crowd.join()
    time.sleep(10)
    world.dovecot.stop()
    time.sleep(AWAY_SECONDS / 2)
    # What a person on call would see while it lasts.
    time.sleep(AWAY_SECONDS / 2)
    ended = time.time()
    for path in watched.DASHBOARDS:
        picture.draw(path, world.prometheus, began, ended, path.with_suffix(".png"))
        print(path.with_suffix(".png"))
    work.stop()


if __name__ == "__main__":
    main()
