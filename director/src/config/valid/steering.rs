//! How a service's packets are treated on their way, and what of it goes with
//! which mode and protocol.

use std::{collections::HashMap, ops::RangeInclusive, time::Duration};

use director_core::model::{Affinity, Encapsulation, Mode, OnDeath, Protocol, Steering, Track};

use super::{service::ServiceDraft, value};
use crate::config::{
    place::{Fault, Given, Key, Located, Place, key},
    raw,
    report::Report,
};

const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(2);

pub(super) const SERVER_ID: Key = key("server_id", "1");

/// A number of 24 bits, and not the one that stands for none.
pub(super) fn server_id() -> impl Fn(&i64) -> Result<u32, Fault> {
    value::number(1..=0xff_ffff)
}

/// What could be read of a service's steering.
#[derive(Debug)]
pub(super) struct SteeringDraft {
    encapsulation: Given<Encapsulation>,
    track: Given<Track>,
    affinity: Given<Affinity>,
    on_death: Given<OnDeath>,
    mss: Given<u16>,
    connection_rate: Given<u32>,
    syn_cookies: Given<bool>,
    idle_timeout: Given<Duration>,
}

impl SteeringDraft {
    /// Of what no packets are steered by.
    pub(super) fn none() -> Self {
        Self {
            encapsulation: Given::Absent,
            track: Given::Absent,
            affinity: Given::Absent,
            on_death: Given::Absent,
            mss: Given::Absent,
            connection_rate: Given::Absent,
            syn_cookies: Given::Absent,
            idle_timeout: Given::Absent,
        }
    }

    pub(super) fn finish(self) -> Option<Steering> {
        let default = Steering::default();
        Some(Steering {
            encapsulation: self.encapsulation.value_or(default.encapsulation)?,
            track: self.track.value_or(default.track)?,
            affinity: self.affinity.value_or(default.affinity)?,
            on_death: self.on_death.value_or(default.on_death)?,
            mss: self.mss.into_option()?,
            connection_rate: self.connection_rate.into_option()?,
            syn_cookies: self.syn_cookies.value_or(default.syn_cookies)?,
            idle_timeout: self.idle_timeout.value_or(default.idle_timeout)?,
        })
    }
}

pub(super) fn steering(
    report: &mut Report<'_>,
    service: &Place,
    raw: &raw::Service,
) -> SteeringDraft {
    let encapsulations = value::choice(&[("ip", Encapsulation::Ip), ("gue", Encapsulation::Gue)]);
    let tracks = value::choice(&[
        ("auto", Track::Auto),
        ("always", Track::Always),
        ("never", Track::Never),
    ]);
    let affinities = value::choice(&[
        ("flow", Affinity::Flow),
        ("source", Affinity::Source),
        ("quic", Affinity::Quic),
    ]);
    let deaths = value::choice(&[("resteer", OnDeath::Resteer), ("reset", OnDeath::Reset)]);
    let encapsulation = key("encapsulation", r#""gue""#);
    let track = key("track", r#""always""#);
    let affinity = key("affinity", r#""source""#);
    let on_death = key("on_death", r#""reset""#);
    let connection_rate = key("connection_rate", "1000");
    let syn_cookies = key("syn_cookies", "true");
    let idle_timeout = key("idle_timeout", r#""60s""#);
    let mss = value::number(536..=9000);
    let rates = value::number(1..=1_000_000);
    let timeouts = value::duration(IDLE_TIMEOUT);
    SteeringDraft {
        encapsulation: report.read(service, encapsulation, &raw.encapsulation, encapsulations),
        track: report.read(service, track, &raw.track, tracks),
        affinity: report.read(service, affinity, &raw.affinity, affinities),
        on_death: report.read(service, on_death, &raw.on_death, deaths),
        mss: report.read(service, key("mss", "1400"), &raw.mss, mss),
        connection_rate: report.read(service, connection_rate, &raw.connection_rate, rates),
        syn_cookies: report.read(service, syn_cookies, &raw.syn_cookies, |on| Ok(*on)),
        idle_timeout: report.read(service, idle_timeout, &raw.idle_timeout, timeouts),
    }
}

/// Reports what does not go with the mode, the protocol or the endpoints.
pub(super) fn check(report: &mut Report<'_>, service: &ServiceDraft<'_>) {
    let SteeringDraft {
        encapsulation,
        track,
        affinity,
        on_death,
        mss,
        connection_rate,
        syn_cookies,
        idle_timeout,
    } = &service.steering;
    let mut fit = Fit::of(report, service);
    fit.only(encapsulation.located(), "encapsulation", TUNNEL);
    fit.only(track.located(), "track", DIRECT);
    fit.only(mss.located(), "mss", TCP);
    fit.only(connection_rate.located(), "connection_rate", TCP);
    let reset = on_death.located().filter(|it| it.value == OnDeath::Reset);
    fit.only(reset, "on_death", TCP);
    let cookies = syn_cookies.located().filter(|it| it.value);
    fit.only(cookies, "syn_cookies", PROXY_TCP);
    fit.only(idle_timeout.located(), "idle_timeout", UDP);
    let quic = affinity.located().filter(|it| it.value == Affinity::Quic);
    let quic_fits = fit.only(quic, "affinity", QUIC);
    match affinity {
        Given::Refused => {}
        _ if quic.is_none() => server_ids_without_use(report, service),
        _ if quic_fits => server_ids(report, service),
        _ => {}
    }
    let is_proxy = |mode: &Located<Mode>| mode.value == Mode::Proxy;
    if service.mode.as_ref().is_some_and(is_proxy) {
        let affinity = affinity.located().map(|it| &it.place);
        let on_death = on_death.located().map(|it| &it.place);
        let idle_timeout = idle_timeout.located().map(|it| &it.place);
        for place in [affinity, on_death, idle_timeout].into_iter().flatten() {
            let why = "is of no use in proxy mode, where this host itself serves";
            report.warning(place, why, "remove it");
        }
    }
}

/// What services a key is for.
#[derive(Clone, Copy)]
struct Only {
    modes: &'static [Mode],
    protocols: &'static [Protocol],
    /// The same in words.
    what: &'static str,
    /// What would make it so.
    remedy: &'static str,
}

const ALL_MODES: &[Mode] = &[Mode::Tunnel, Mode::Nat, Mode::L2, Mode::Proxy];
const BOTH: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];

const TUNNEL: Only = Only {
    modes: &[Mode::Tunnel],
    protocols: BOTH,
    what: "tunnel mode",
    remedy: "use mode = \"tunnel\"",
};
const DIRECT: Only = Only {
    modes: &[Mode::Tunnel, Mode::L2],
    protocols: BOTH,
    what: "tunnel and l2 mode",
    remedy: "use one of them",
};
const TCP: Only = Only {
    modes: ALL_MODES,
    protocols: &[Protocol::Tcp],
    what: "tcp",
    remedy: "use protocol = \"tcp\"",
};
const UDP: Only = Only {
    modes: ALL_MODES,
    protocols: &[Protocol::Udp],
    what: "udp",
    remedy: "use protocol = \"udp\"",
};
const PROXY_TCP: Only = Only {
    modes: &[Mode::Proxy],
    protocols: &[Protocol::Tcp],
    what: "tcp in proxy mode",
    remedy: "use protocol = \"tcp\" and mode = \"proxy\"",
};
const QUIC: Only = Only {
    modes: &[Mode::Tunnel, Mode::L2],
    protocols: &[Protocol::Udp],
    what: "udp in tunnel and l2 mode",
    remedy: "use protocol = \"udp\" and one of them",
};

/// Holds keys against one service.
struct Fit<'a, 't> {
    report: &'a mut Report<'t>,
    mode: Option<Mode>,
    protocol: Option<Protocol>,
}

impl<'a, 't> Fit<'a, 't> {
    fn of(report: &'a mut Report<'t>, service: &ServiceDraft<'_>) -> Self {
        Self {
            report,
            mode: service.mode.as_ref().map(|mode| mode.value),
            protocol: service.protocol.as_ref().map(|protocol| protocol.value),
        }
    }

    /// Reports a value that is there and does not fit. Returns whether none was.
    fn only<T>(&mut self, value: Option<&Located<T>>, name: &str, only: Only) -> bool {
        let mode_fits = self.mode.is_none_or(|mode| only.modes.contains(&mode));
        let protocol = self.protocol;
        let protocol_fits = protocol.is_none_or(|it| only.protocols.contains(&it));
        let Some(Located { place, .. }) = value.filter(|_| !mode_fits || !protocol_fits) else {
            return true;
        };
        self.report.error(
            place,
            format!("is for {} only", only.what),
            format!("{}, or remove {name}", only.remedy),
        );
        false
    }
}

/// A client's later packets name the endpoint by its ID, so each has its own.
fn server_ids(report: &mut Report<'_>, service: &ServiceDraft<'_>) {
    let mut first: HashMap<u32, &Place> = HashMap::new();
    for endpoint in service.endpoints.iter().flatten() {
        match &endpoint.server_id {
            Given::Refused => {}
            Given::Absent => report.error(
                &endpoint.place.key(SERVER_ID.name, endpoint.place.at),
                "is missing: packets of QUIC connections name their endpoint by it",
                "add server_id with a number that no other endpoint of the service has",
            ),
            Given::Value(Located { value, place }) => {
                if let Some(first) = first.get(value) {
                    let line = report.line(first);
                    report.error(
                        place,
                        format!("another endpoint of this service is {value}, on line {line}"),
                        "give each endpoint of this service a server_id of its own",
                    );
                } else {
                    first.insert(*value, place);
                }
            }
        }
    }
}

const QUIC_OR_NO_IDS: &str =
    "set affinity = \"quic\" for the service, or remove the server_id of each endpoint";

/// Once for a service: the mistake is in one place, if it is one.
fn server_ids_without_use(report: &mut Report<'_>, service: &ServiceDraft<'_>) {
    let mut endpoints = service.endpoints.iter().flatten();
    if let Some(given) = endpoints.find_map(|endpoint| endpoint.server_id.located()) {
        let help = match service.mode.as_ref() {
            Some(mode) if !mode.value.is_steered() => "remove the server_id of each endpoint",
            _ => QUIC_OR_NO_IDS,
        };
        report.warning(
            &given.place,
            "is of no use without affinity = \"quic\"",
            help,
        );
    }
}
