//! Between the model and `health-probes`.

use std::net::SocketAddr;

use director_core::{
    EndpointRef, Failure, Model, Pace,
    model::{Endpoint, ProbeSpec, Service},
};
use health_probes as hp;

/// What to probe for a model.
pub fn targets(model: &Model) -> Vec<hp::Target<EndpointRef>> {
    model
        .services
        .iter()
        .flat_map(|service| {
            service
                .endpoints
                .iter()
                .map(|endpoint| target(service, endpoint))
        })
        .collect()
}

fn target(service: &Service, endpoint: &Endpoint) -> hp::Target<EndpointRef> {
    let policy = &service.health;
    let at = |port: Option<u16>| SocketAddr::new(endpoint.address, port.unwrap_or(endpoint.port));
    let probe = match &policy.probe {
        ProbeSpec::Tcp { port } => hp::Probe::Tcp { address: at(*port) },
        ProbeSpec::Http {
            port,
            host,
            path,
            status,
            body,
        } => {
            let address = at(*port);
            let host = if host.is_empty() {
                address.to_string()
            } else {
                host.clone()
            };
            hp::Probe::Http(hp::HttpProbe {
                address,
                host,
                path: path.clone(),
                status: status.clone(),
                body: body.clone(),
            })
        }
    };
    hp::Target {
        key: EndpointRef {
            service: service.name.clone(),
            endpoint: endpoint.name.clone(),
        },
        probe,
        schedule: hp::Schedule {
            interval: policy.interval,
            fast_interval: policy.fast_interval,
            timeout: policy.timeout,
            jitter_percent: policy.jitter_percent,
        },
    }
}

/// A prober's finding, in the core's words.
pub fn failure(failure: &hp::Failure) -> Failure {
    match failure {
        hp::Failure::Refused => Failure::Refused,
        hp::Failure::Timeout => Failure::Timeout,
        hp::Failure::Unreachable => Failure::Unreachable,
        hp::Failure::Reset => Failure::Reset,
        hp::Failure::Status(code) => Failure::Status(*code),
        hp::Failure::BodyMismatch => Failure::Body,
        hp::Failure::Protocol(_) => Failure::Protocol,
        hp::Failure::Local(_) => Failure::Local,
    }
}

/// The core's pace, in the prober's words.
pub fn pace(pace: Pace) -> hp::Pace {
    match pace {
        Pace::Normal => hp::Pace::Normal,
        Pace::Fast => hp::Pace::Fast,
    }
}
