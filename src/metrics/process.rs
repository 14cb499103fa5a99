//! [`ProcessCollector`]: what the process takes of its machine.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector;
use prometheus::proto::{Counter, MetricFamily};
use rustix::time::{ClockId, clock_gettime};

const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// Those of the `prometheus` crate, but for the CPU's time, which it counts in whole seconds: of a process
/// that needs one in a minute, a graph would show nothing but steps.
pub(super) struct ProcessCollector(process_collector::ProcessCollector);

impl ProcessCollector {
    pub(super) fn new() -> Self {
        Self(process_collector::ProcessCollector::for_self())
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        for family in &mut families {
            if family.name() == CPU_SECONDS {
                for metric in family.mut_metric() {
                    let mut counter = Counter::default();
                    counter.set_value(cpu_time().as_secs_f64());
                    metric.set_counter(counter);
                }
            }
        }
        families
    }
}

/// What all threads have used so far.
fn cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_s_time_has_fractions_of_seconds() {
        let before = cpu_time().as_secs_f64();
        let families = ProcessCollector::new().collect();
        let after = cpu_time().as_secs_f64();
        let family = families.iter().find(|family| family.name() == CPU_SECONDS);
        let counter = family.expect("there").get_metric()[0].get_counter();
        assert!((before..=after).contains(&counter.get_value()));
        assert!(before > 0.0);
    }
}
