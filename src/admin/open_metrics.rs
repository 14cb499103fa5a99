//! The OpenMetrics text format 1.0, which the `prometheus` crate does not write, and who gets it.
//!
//! A family is called what its samples are called, without the suffix: the counter
//! `popgate_sessions_total` is of the family `popgate_sessions`. Timestamps, exemplars and `_created`
//! are not written, since nobody here has them.

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// For the header of the answer.
pub(super) const OPEN_METRICS_FORMAT: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Units that our names may end with; a family says which it has.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// Whether a client with this `Accept` header would rather have OpenMetrics than the older text format:
/// who does not name it gets the older one.
pub(super) fn is_preferred(accept: &str) -> bool {
    let quality_of = |wanted: &str| {
        accept
            .split(',')
            .filter_map(|range| quality(range, wanted))
            .fold(0.0, f64::max)
    };
    let open_metrics = quality_of("application/openmetrics-text");
    open_metrics > 0.0 && open_metrics >= quality_of("text/plain")
}

/// How much this media range is wanted, if it is of this type and of a version that we write.
fn quality(range: &str, wanted: &str) -> Option<f64> {
    let mut parameters = range.split(';').map(str::trim);
    if !parameters.next()?.eq_ignore_ascii_case(wanted) {
        return None;
    }
    let mut quality = 1.0;
    for parameter in parameters {
        match parameter.split_once('=') {
            Some(("q", value)) => quality = value.parse().ok()?,
            Some(("version", "1.0.0" | "0.0.4")) | None => {}
            Some(("version", _)) => return None,
            Some(_) => {}
        }
    }
    Some(quality)
}

/// The whole exposition.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut out = String::new();
    for family in families {
        encode_family(&mut out, family);
    }
    out.push_str("# EOF\n");
    out
}

fn encode_family(out: &mut String, family: &MetricFamily) {
    let (kind, name) = match family.get_field_type() {
        MetricType::COUNTER => ("counter", family.name().trim_end_matches("_total")),
        MetricType::GAUGE => ("gauge", family.name()),
        MetricType::HISTOGRAM => ("histogram", family.name()),
        // We have none of these.
        MetricType::SUMMARY | MetricType::UNTYPED => return,
    };
    out.push_str(&format!("# TYPE {name} {kind}\n"));
    let unit = UNITS.iter().find(|unit| {
        let stem = name.strip_suffix(**unit);
        stem.is_some_and(|stem| stem.ends_with('_'))
    });
    if let Some(unit) = unit {
        out.push_str(&format!("# UNIT {name} {unit}\n"));
    }
    out.push_str(&format!("# HELP {name} {}\n", escaped(family.help())));
    for metric in family.get_metric() {
        encode_metric(out, name, family.get_field_type(), metric);
    }
}

fn encode_metric(out: &mut String, name: &str, kind: MetricType, metric: &Metric) {
    let labels = metric.get_label();
    let mut sample = |suffix: &str, bound: Option<f64>, value: f64| {
        out.push_str(name);
        out.push_str(suffix);
        encode_labels(out, labels, bound);
        out.push_str(&format!(" {value}\n"));
    };
    match kind {
        MetricType::COUNTER => sample("_total", None, metric.get_counter().get_value()),
        MetricType::GAUGE => sample("", None, metric.get_gauge().get_value()),
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            #[allow(clippy::cast_precision_loss, reason = "samples are floats")]
            let count = |count: u64| count as f64;
            for bucket in histogram.get_bucket() {
                let bound = bucket.upper_bound();
                sample("_bucket", Some(bound), count(bucket.cumulative_count()));
            }
            let observed = count(histogram.get_sample_count());
            sample("_bucket", Some(f64::INFINITY), observed);
            sample("_count", None, observed);
            sample("_sum", None, histogram.get_sample_sum());
        }
        MetricType::SUMMARY | MetricType::UNTYPED => {}
    }
}

fn encode_labels(out: &mut String, labels: &[LabelPair], bound: Option<f64>) {
    let mut pairs: Vec<String> = labels
        .iter()
        .map(|label| format!("{}=\"{}\"", label.name(), escaped(label.value())))
        .collect();
    if let Some(bound) = bound {
        // Bounds are floats and look like it, so that all exporters' are equal: 1.0, not 1.
        let bound = match bound.is_infinite() {
            true => "+Inf".to_owned(),
            false => format!("{bound:?}"),
        };
        pairs.push(format!("le=\"{bound}\""));
    }
    if !pairs.is_empty() {
        out.push_str(&format!("{{{}}}", pairs.join(",")));
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;

    #[test]
    fn each_kind_looks_as_the_format_says() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("octets_bytes_total", "A \"b\"\\."), &["side"]);
        let counter = counter.expect("sound");
        counter.with_label_values(&["a\"b\\c\n"]).inc_by(3);
        let gauge = IntGauge::new("ready", "Whether.").expect("sound");
        let options = HistogramOpts::new("wait_seconds", "How long.").buckets(vec![0.5, 1.0]);
        let histogram = Histogram::with_opts(options).expect("sound");
        histogram.observe(0.75);
        for family in [
            Box::new(counter) as Box<dyn prometheus::core::Collector>,
            Box::new(gauge),
            Box::new(histogram),
        ] {
            registry.register(family).expect("names differ");
        }
        let expected = r#"# TYPE octets_bytes counter
# UNIT octets_bytes bytes
# HELP octets_bytes A \"b\"\\.
octets_bytes_total{side="a\"b\\c\n"} 3
# TYPE ready gauge
# HELP ready Whether.
ready 0
# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
# HELP wait_seconds How long.
wait_seconds_bucket{le="0.5"} 0
wait_seconds_bucket{le="1.0"} 1
wait_seconds_bucket{le="+Inf"} 1
wait_seconds_count 1
wait_seconds_sum 0.75
# EOF
"#;
        assert_eq!(encode(&registry.gather()), expected);
    }

    #[test]
    fn only_who_names_it_gets_it() {
        for (accept, expected) in [
            // Prometheus 2.42, and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;q=0.3,*/*;q=0.2",
                true,
            ),
            ("application/openmetrics-text", true),
            (
                "Application/OpenMetrics-Text; version=1.0.0; charset=utf-8",
                true,
            ),
            (
                "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.1",
                false,
            ),
            ("application/openmetrics-text;version=0.0.1", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=much", false),
            ("text/html,*/*;q=0.8", false),
            ("", false),
        ] {
            assert_eq!(is_preferred(accept), expected, "{accept}");
        }
    }
}
