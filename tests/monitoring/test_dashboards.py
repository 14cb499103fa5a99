"""The dashboards: that their types are right, that each panel says what it shows, and that it has something to show."""

import json
import math
import os
import pathlib
import re
import subprocess
import time
import unittest

import dashboards
import watched
import load

TOOLS = pathlib.Path(os.environ["POPGATE_MONITORING"])
SECONDS = 25


def each_panel():
    for path in watched.DASHBOARDS:
        for panel in dashboards.panels(dashboards.read(path)):
            yield f"{path.name}: {panel['title']}", panel


class Shape(unittest.TestCase):
    def test_types_are_those_of_the_schema(self):
        folder = TOOLS / "node"
        sources = []
        for path in watched.DASHBOARDS:
            source = folder / f"{path.stem}.ts"
            template = (watched.HERE / "dashboard.ts").read_text(encoding="utf-8")
            dashboard = dashboards.read(path)
            panels = {kind: [panel for panel in dashboards.panels(dashboard) if panel["type"] == kind]
                      for kind in ("stat", "timeseries", "state-timeline")}  # fmt: skip
            self.assertEqual(sum(map(len, panels.values())), len(dashboards.panels(dashboard)), "a type without a check")
            for name, value in (("DASHBOARD", dashboard), *panels.items()):
                template = template.replace(f"'{name}'", json.dumps(value))
            source.write_text(template, encoding="utf-8")
            sources.append(source.name)
        arguments = ["node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--target", "es2022"]
        arguments += ["--module", "nodenext", "--moduleResolution", "nodenext", "--types", "", *sources]
        check = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=120)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    def test_each_panel_says_what_it_shows(self):
        for name, panel in each_panel():
            with self.subTest(name):
                self.assertTrue(panel["title"] and panel["description"].endswith("."))
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                for target in panel["targets"]:
                    self.assertEqual(target["datasource"]["uid"], "${datasource}")
                    if "rate(" in target["expr"]:
                        self.assertIn("[$__rate_interval]", target["expr"])
                    # An alert may be about no job at all.
                    if "ALERTS" not in target["expr"]:
                        self.assertIn('job=~"$job", instance=~"$instance"', target["expr"])

    def test_all_jobs_are_all_of_popgate(self):
        for path in watched.DASHBOARDS:
            for variable in dashboards.variables(dashboards.read(path)):
                # Without it Grafana selects the values that there are; NAMEs of upstreams are popgate's own.
                self.assertEqual("allValue" in variable, variable["name"] == "upstream", path.name)

    def test_an_instance_that_is_gone_is_not_ready(self):
        panels = dashboards.panels(dashboards.read(next(path for path in watched.DASHBOARDS if path.stem == "overview")))
        (tile,) = [panel for panel in panels if panel["title"] == "Instances not ready"]
        expression = dashboards.filled_in(tile["targets"][0]["expr"], "1h")

        def of(name, values, labels=""):
            return {"series": f'{name}{{job="popgate",{labels}}}', "values": values}

        # a is well, b drains at ten minutes and is gone at twenty, and c is no popgate, and down.
        series = [of("up", "1x60", 'instance="a"'), of("up", "1x19 0x40", 'instance="b"'), of("up", "0x60", 'instance="c"'),
                  of("popgate_ready", "1x60", 'instance="a"'), of("popgate_ready", "1x9 0x9 stale", 'instance="b"'),
                  of("popgate_build_info", "1x60", 'instance="a",version="1"'),
                  of("popgate_build_info", "1x18 stale", 'instance="b",version="1"')]  # fmt: skip
        cases = [{"expr": expression, "eval_time": at, "exp_samples": [{"value": value}]}
                 for at, value in (("5m", 0), ("15m", 1), ("25m", 1), ("50m", 1))]  # fmt: skip
        tests = {"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": cases}]}
        path = TOOLS / "ready_test.yaml"
        path.write_text(json.dumps(tests), encoding="utf-8")
        test = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=120)
        self.assertEqual(test.returncode, 0, test.stdout + test.stderr)

    def test_no_two_panels_are_in_one_place(self):
        for path in watched.DASHBOARDS:
            taken = set()
            for panel in dashboards.read(path)["panels"]:
                at = panel["gridPos"]
                self.assertLessEqual(at["x"] + at["w"], 24)
                cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
                self.assertFalse(cells & taken, f"{path.name}: {panel['title']}")
                taken |= cells
            ids = [panel["id"] for panel in dashboards.read(path)["panels"]]
            self.assertEqual(len(ids), len(set(ids)))


class Data(unittest.TestCase):
    """Every expression of dashboards and recording rules, asked of a Prometheus that saw popgate work."""

    @classmethod
    def setUpClass(cls):
        cls.world = watched.world()
        cls.began = time.time()
        work = load.Load(cls.world)
        time.sleep(SECONDS / 2)
        load.crowd(cls.world.popgates[0], 55, 1)
        time.sleep(SECONDS / 2)
        work.stop()
        cls.ended = time.time()

    def series(self, expression):
        window = f"{math.ceil(self.ended - self.began)}s"
        return self.world.prometheus.ranged(dashboards.filled_in(expression, window), self.began, self.ended, "1s")

    def values(self, expression):
        found = self.series(expression)
        return [float(value) for series in found for _, value in series["values"] if not math.isnan(float(value))]

    def test_every_panel_has_data(self):
        for name, panel in each_panel():
            for target in panel["targets"]:
                with self.subTest(name):
                    self.assertTrue(self.values(target["expr"]), target["expr"])

    def test_nothing_but_popgate_is_shown(self):
        ours = {popgate.name for popgate in self.world.popgates}
        for path in watched.DASHBOARDS:
            dashboard = dashboards.read(path)
            targets = [target for panel in dashboards.panels(dashboard) for target in panel["targets"]]
            # Nothing was restarted.
            restarts = [annotation["expr"].replace("> 0", ">= 0") for annotation in dashboards.annotations(dashboard)]
            self.assertTrue(all(self.values(expression) for expression in restarts))
            for expression in restarts + [target["expr"] for target in targets]:
                found = {series["metric"].get("instance") for series in self.series(expression)} - {None}
                with self.subTest(expression):
                    self.assertLessEqual(found, ours)

    def test_every_variable_has_values(self):
        expected = {"job": {"popgate"}, "instance": {popgate.name for popgate in self.world.popgates},
                    "upstream": {"office", "shop", "legacy"}}  # fmt: skip
        for path in watched.DASHBOARDS:
            for variable in dashboards.variables(dashboards.read(path)):
                query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                found = self.world.prometheus.label_values(dashboards.filled_in(query[1], ""), query[2])
                self.assertEqual(set(found), expected[variable["name"]])

    def test_every_record_has_data(self):
        from test_rules import rules

        for rule in rules("record"):
            with self.subTest(rule["record"]):
                self.assertTrue(self.values(rule["record"]))

    def test_what_happened_is_seen(self):
        for expression in (
            'popgate_upstream_up{upstream="office"} == 1',
            'popgate_upstream_up{upstream="legacy"} == 0',
            'popgate_auth_attempts_total{result="ok"} > 0',
            'popgate_auth_attempts_total{result="rejected"} > 0',
            'popgate_upstream_errors_total{upstream="legacy", reason="upstream_unreachable"} > 0',
            'popgate_messages_retrieved_total{upstream="office"} > 0',
            'popgate_messages_deleted_total{upstream="office", action="moved"} > 0',
            'popgate_messages_deleted_total{upstream="shop", action="expunged"} > 0',
            'popgate_submissions_total{result="accepted"} > 0',
            'popgate_submissions_total{result="refused"} > 0',
            'popgate_submissions_total{result="failed"} > 0',
            'popgate_submissions_total{result="aborted"} > 0',
            'popgate_connections_rejected_total{reason="connections_per_address"} > 0',
            'popgate_connections_rejected_total{reason="tls_handshake"} > 0',
            'popgate_sessions_total{outcome="foreign_protocol"} > 0',
            'popgate_sessions_total{outcome="client_closed"} > 0',
            'popgate_read_ahead_total{result="hit"} > 0',
            'popgate_listing_cache_total{result="updated"} > 0',
        ):
            with self.subTest(expression):
                self.assertTrue(self.values(expression))
