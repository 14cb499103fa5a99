"""The rules: that promtool likes them, that they fire when they should, and that somebody is told what to do."""

import re
import subprocess
import unittest

import watched
import yaml


def rules(kind):
    groups = yaml.safe_load(watched.RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def promtool(*arguments):
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=watched.HERE
    )


class Rules(unittest.TestCase):
    def test_they_are_sound(self):
        check = promtool("check", "rules", watched.RULES)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    def test_the_example_config_is_sound(self):
        check = promtool("check", "config", watched.RULES.parent / "prometheus.yml")
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)

    def test_they_fire_when_they_should(self):
        test = promtool("test", "rules", "rules_test.yaml")
        self.assertEqual(test.returncode, 0, test.stdout + test.stderr)

    def test_each_is_tried_both_ways(self):
        cases = yaml.safe_load((watched.HERE / "rules_test.yaml").read_text(encoding="utf-8"))["tests"]
        tried = {(expression["expr"], bool(expression["exp_samples"])) for case in cases
                 for expression in case.get("promql_expr_test", [])}  # fmt: skip
        for rule in rules("alert"):
            name, severity = rule["alert"], rule["labels"]["severity"]
            expression = f'ALERTS{{alertname="{name}", alertstate="firing", severity="{severity}"}}'
            for fires in (True, False):
                self.assertIn((expression, fires), tried)

    def test_somebody_is_told_what_to_do(self):
        headings = re.findall(r"^## (\w+)$", watched.RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
        alerts = [rule["alert"] for rule in rules("alert")]
        self.assertEqual(set(headings), set(alerts))
        for rule in rules("alert"):
            self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
            self.assertTrue(rule["annotations"]["summary"])
            anchor = rule["alert"].lower()
            self.assertEqual(rule["annotations"]["runbook_url"], f"deploy/prometheus/RUNBOOK.md#{anchor}")
        for section in watched.RUNBOOK.read_text(encoding="utf-8").split("\n## ")[1:]:
            for part in ("**It means**", "**Look at**", "**Do**"):
                self.assertIn(part, section, section.splitlines()[0])

    def test_they_read_metrics_that_exist(self):
        there = {line.split("{")[0].split(" ")[0] for line in watched.world().popgates[0].metrics()[0].splitlines()}
        recorded = {rule["record"] for rule in rules("record")}
        for rule in rules("expr"):
            for name in re.findall(r"[a-z_]*:?\b(?:popgate|process)_[a-z0-9_:]+", rule["expr"]):
                self.assertIn(name, there | recorded)
