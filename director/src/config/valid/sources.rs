//! Addresses that the edge sends from: `[edge.tunnel]` and `[edge.nat]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    prefix,
    value::{self, Family, Role},
};
use crate::config::{
    NatSources, Prefix, TunnelSources,
    place::{Given, Located, Place, key},
    raw,
    report::Report,
};

/// NAT source addresses per family.
const NAT_SOURCES: usize = 4;

/// Shortest prefixes that tunnels may start from: those of IPv4 are a public
/// block, those of IPv6 a network.
const SHORTEST4: u8 = 8;
const SHORTEST6: u8 = 64;

/// Outer source addresses. An empty list: none is configured; `None`: what is
/// configured is wrong.
#[derive(Debug, Default)]
pub(super) struct TunnelDraft {
    v4: Option<Vec<Located<Prefix>>>,
    v6: Option<Vec<Located<Prefix>>>,
    gue_port: Option<u16>,
}

impl TunnelDraft {
    /// Every prefix that could be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Located<Prefix>> {
        self.v4.iter().chain(&self.v6).flatten()
    }

    /// Whether the family of this address is known to have no source.
    pub(super) fn lacks(&self, family: IpAddr) -> bool {
        lacks(family, &self.v4, &self.v6)
    }

    pub(super) fn finish(self) -> Option<TunnelSources> {
        let mut sources = TunnelSources {
            gue_port: self.gue_port?,
            ..TunnelSources::default()
        };
        for Located { value, .. } in self.v4?.into_iter().chain(self.v6?) {
            match value.address {
                IpAddr::V4(v4) => (sources.v4, sources.prefix4) = (Some(v4), value.length),
                IpAddr::V6(v6) => (sources.v6, sources.prefix6) = (Some(v6), value.length),
            }
        }
        Some(sources)
    }
}

/// Source addresses of NAT mode, in the same manner.
#[derive(Debug, Default)]
pub(super) struct NatDraft {
    v4: Option<Vec<Located<Ipv4Addr>>>,
    v6: Option<Vec<Located<Ipv6Addr>>>,
}

impl NatDraft {
    /// Every address that could be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, &Place)> {
        let v4 = self.v4.iter().flatten();
        let v6 = self.v6.iter().flatten();
        v4.map(|source| (source.value.into(), &source.place))
            .chain(v6.map(|source| (source.value.into(), &source.place)))
    }

    /// Whether the family of this address is known to have no source.
    pub(super) fn lacks(&self, family: IpAddr) -> bool {
        lacks(family, &self.v4, &self.v6)
    }

    pub(super) fn finish(self) -> Option<NatSources> {
        Some(NatSources {
            v4: self.v4?.into_iter().map(|it| it.value).collect(),
            v6: self.v6?.into_iter().map(|it| it.value).collect(),
        })
    }
}

fn lacks<A, B>(family: IpAddr, v4: &Option<Vec<A>>, v6: &Option<Vec<B>>) -> bool {
    match family {
        IpAddr::V4(_) => v4.as_ref().is_some_and(Vec::is_empty),
        IpAddr::V6(_) => v6.as_ref().is_some_and(Vec::is_empty),
    }
}

pub(super) fn tunnel(report: &mut Report<'_>, edge: &Place, raw: &raw::Edge) -> TunnelDraft {
    let default_port = TunnelSources::default().gue_port;
    let Located { value: raw, place } = match report.table(edge, "tunnel", &raw.tunnel) {
        Given::Value(located) => located,
        Given::Refused => return TunnelDraft::default(),
        Given::Absent => {
            return TunnelDraft {
                v4: Some(Vec::new()),
                v6: Some(Vec::new()),
                gue_port: Some(default_port),
            };
        }
    };
    let v4 = prefix::source::<Ipv4Addr>(SHORTEST4);
    let v6 = prefix::source::<Ipv6Addr>(SHORTEST6);
    let key4 = key("source4", Ipv4Addr::EXAMPLE);
    let key6 = key("source6", Ipv6Addr::EXAMPLE);
    let gue_port = key("gue_port", "6080");
    TunnelDraft {
        v4: report
            .read(&place, key4, &raw.source4, |text| v4(text))
            .into_list(),
        v6: report
            .read(&place, key6, &raw.source6, |text| v6(text))
            .into_list(),
        gue_port: report
            .read(&place, gue_port, &raw.gue_port, value::number(1..=u16::MAX))
            .value_or(default_port),
    }
}

pub(super) fn nat(report: &mut Report<'_>, edge: &Place, raw: &raw::Edge) -> NatDraft {
    match report.table(edge, "nat", &raw.nat) {
        Given::Refused => NatDraft::default(),
        Given::Absent => NatDraft {
            v4: Some(Vec::new()),
            v6: Some(Vec::new()),
        },
        Given::Value(Located { value: raw, place }) => NatDraft {
            v4: nat_sources(report, &place, "source4", &raw.source4),
            v6: nat_sources(report, &place, "source6", &raw.source6),
        },
    }
}

fn nat_sources<A>(
    report: &mut Report<'_>,
    nat: &Place,
    name: &'static str,
    raw: &raw::Texts,
) -> Option<Vec<Located<A>>>
where
    A: Copy + Eq + std::hash::Hash + std::str::FromStr + std::fmt::Display + Into<IpAddr> + Family,
{
    let key = key(name, A::LIST_EXAMPLE);
    let list = match report.read(nat, key, raw, Ok) {
        Given::Value(list) => list,
        Given::Refused => return None,
        Given::Absent => return Some(Vec::new()),
    };
    let located = report.items(&list, key, value::address::<A>(Role::Source));
    report.unique(&located, A::to_string);
    if let Some(extra) = list.value.get(NAT_SOURCES) {
        report.error(
            &list.place.index(NAT_SOURCES, extra.span.start),
            format!("is one too many: there can be {NAT_SOURCES} source addresses per family"),
            "remove it, and those after it",
        );
    }
    (located.len() == list.value.len()).then_some(located)
}
