//! The edge proxy's counters, out of what the director serves as metrics.

use std::collections::BTreeMap;

/// By breaker, by the state it went to: how often.
type Transitions = BTreeMap<String, BTreeMap<String, u64>>;

/// The counters that a drill reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tries beyond a request's first.
    pub retries: u64,
    /// Those that the budget refused.
    pub retries_refused: u64,
    /// Changes of breakers. A site's breaker has the site's name, an endpoint's
    /// `site/endpoint`.
    pub transitions: Transitions,
}

impl Counters {
    /// Reads them out of the Prometheus text format; what is absent is zero.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut counters = Self::default();
        for (name, labels, value) in text.lines().filter_map(sample) {
            match name {
                "director_l7_request_events_total" => match label(labels, "event") {
                    Some("retry") => counters.retries += value,
                    Some("retry_refused") => counters.retries_refused += value,
                    _ => {}
                },
                "director_l7_breaker_transitions_total" => {
                    if let (Some(breaker), Some(to)) =
                        (label(labels, "breaker"), label(labels, "to"))
                    {
                        let states = counters.transitions.entry(breaker.into()).or_default();
                        *states.entry(to.into()).or_default() += value;
                    }
                }
                _ => {}
            }
        }
        counters
    }

    /// The changes that came since `before`.
    #[must_use]
    pub fn transitions_since(&self, before: &Self) -> Transitions {
        let mut since = self.transitions.clone();
        for (breaker, states) in &mut since {
            for (to, count) in states.iter_mut() {
                let earlier = before.transitions.get(breaker);
                let earlier = earlier.and_then(|states| states.get(to)).copied();
                *count = count.saturating_sub(earlier.unwrap_or(0));
            }
            states.retain(|_, count| *count > 0);
        }
        since.retain(|_, states| !states.is_empty());
        since
    }
}

/// How often breakers of `site`, its own and those of its endpoints, went to `state`.
#[must_use]
pub fn of_site(transitions: &Transitions, site: &str, state: &str) -> u64 {
    transitions
        .iter()
        .filter(|(breaker, _)| breaker.split('/').next() == Some(site))
        .filter_map(|(_, states)| states.get(state))
        .sum()
}

/// `name{labels} value`, of a whole value that is not negative.
fn sample(line: &str) -> Option<(&str, &str, u64)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    let value: f64 = value.split(' ').next()?.parse().ok()?;
    Some((name, labels, value as u64))
}

/// The value of a label; the names that a drill reads have nothing to be escaped.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE director_l7_request_events counter
director_l7_request_events_total{service="web",route="all",event="retry"} 12
director_l7_request_events_total{service="web",route="all",event="retry_refused"} 3
director_l7_request_events_total{service="web",route="all",event="shed"} 9
director_l7_breaker_transitions_total{service="web",route="all",breaker="dc01",to="open"} 2
director_l7_breaker_transitions_total{service="web",route="all",breaker="dc01/dc01-a",to="open"} 1
director_l7_breaker_transitions_total{service="web",route="all",breaker="dc02/dc02-a",to="open"} 4
director_flows 7
# EOF
"#;

    #[test]
    fn the_counters_are_found_among_others() {
        let counters = Counters::parse(TEXT);
        assert_eq!((counters.retries, counters.retries_refused), (12, 3));
        assert_eq!(of_site(&counters.transitions, "dc01", "open"), 3);
        assert_eq!(of_site(&counters.transitions, "dc01", "closed"), 0);
        assert_eq!(Counters::parse(""), Counters::default());
    }

    #[test]
    fn what_was_counted_earlier_is_taken_off() {
        let counters = Counters::parse(TEXT);
        assert_eq!(counters.transitions_since(&counters), BTreeMap::new());
        let mut before = counters.clone();
        before.transitions.remove("dc01");
        let since = counters.transitions_since(&before);
        assert_eq!(since.len(), 1);
        assert_eq!(since["dc01"]["open"], 2);
    }
}
