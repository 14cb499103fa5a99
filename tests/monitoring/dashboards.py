"""Reads dashboards as Grafana would: panels, variables, expressions."""

import json

import watched

# More than what Grafana makes of "All", which is every value that a variable has: nothing but popgate may be shown
# even if all jobs are selected.
VARIABLES = {"$job": ".+", "$instance": ".+", "$upstream": ".+"}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def panels(dashboard):
    """All but the rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def annotations(dashboard):
    return dashboard["annotations"]["list"]


def variables(dashboard):
    """Those whose values Prometheus is asked for."""
    return [variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"]


def filled_in(expression, window, rate_interval=watched.RATE_INTERVAL):
    """What is sent to Prometheus when everything is selected and `window` is shown."""
    for variable, value in {**VARIABLES, "$__rate_interval": rate_interval, "$__range": window}.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, f"a variable that nobody has: {expression}"
    return expression
