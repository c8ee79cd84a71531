//! Interfaces as netlink tells of them.

use std::collections::HashMap;

use anyhow::{Context, Result};
use futures::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
        VlanProtocol, XdpAttached,
    },
};

/// An interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Up, with carrier.
    pub is_up: bool,
    pub address: Option<[u8; 6]>,
    pub mtu: u32,
    /// How an XDP program runs on it: `driver`, `generic`, …; `None` without one.
    pub xdp: Option<&'static str>,
    /// Where it is a VLAN (IEEE 802.1Q) on another interface of this host: that
    /// one's index, and the VLAN's id.
    pub vlan: Option<(u32, u16)>,
}

/// Every interface.
///
/// # Errors
/// When netlink cannot be asked.
pub(super) async fn links_of(handle: &Handle) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut stream = handle.link().get().execute();
    while let Some(message) = stream.try_next().await.context("reading interfaces")? {
        links.push(link(message));
    }
    Ok(links)
}

/// The interface that frames sent by `link` leave by, and their VLAN id. A VLAN
/// within another one is left to the kernel: two tags are not written.
pub(super) fn way_out(link: &Link, links: &HashMap<u32, Link>) -> (u32, u16) {
    match link.vlan {
        Some((lower, id)) if links.get(&lower).is_some_and(|it| it.vlan.is_none()) => (lower, id),
        _ => (link.index, 0),
    }
}

fn link(message: LinkMessage) -> Link {
    let running = LinkFlags::Up | LinkFlags::LowerUp;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        is_up: message.header.flags.contains(running),
        address: None,
        mtu: 0,
        xdp: None,
        vlan: None,
    };
    let (mut lower, mut id, mut is_elsewhere) = (None, None, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => {
                link.address = <[u8; 6]>::try_from(bytes.as_slice()).ok();
            }
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Xdp(xdp) => link.xdp = xdp_mode(&xdp),
            LinkAttribute::Link(index) => lower = Some(index),
            // The lower interface is of another network namespace: its index
            // means another one here.
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            LinkAttribute::LinkInfo(info) => id = vlan_id(&info),
            _ => {}
        }
    }
    link.vlan = lower.zip(id).filter(|_| !is_elsewhere);
    link
}

/// The id of a VLAN of IEEE 802.1Q.
fn vlan_id(info: &[LinkInfo]) -> Option<u16> {
    if !info.contains(&LinkInfo::Kind(InfoKind::Vlan)) {
        return None;
    }
    let data = info.iter().find_map(|it| match it {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let is_other = |it: &InfoVlan| matches!(it, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q);
    if data.iter().any(is_other) {
        return None;
    }
    data.iter().find_map(|it| match it {
        InfoVlan::Id(id) if *id != 0 => Some(*id),
        _ => None,
    })
}

fn xdp_mode(attributes: &[LinkXdp]) -> Option<&'static str> {
    attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some("driver"),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some("generic"),
        LinkXdp::Attached(XdpAttached::Hardware) => Some("hardware"),
        LinkXdp::Attached(XdpAttached::Multiple) => Some("several"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(id: u16, protocol: VlanProtocol) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![
                InfoVlan::Protocol(protocol),
                InfoVlan::Id(id),
            ])),
        ])
    }

    fn parsed(index: u32, attributes: Vec<LinkAttribute>) -> Link {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = attributes;
        link(message)
    }

    fn table(links: &[Link]) -> HashMap<u32, Link> {
        links.iter().map(|it| (it.index, it.clone())).collect()
    }

    #[test]
    fn a_vlan_is_left_by_its_lower_interface_with_its_id() {
        let lower = parsed(2, vec![LinkAttribute::IfName("eth0".to_owned())]);
        let upper = parsed(
            5,
            vec![
                LinkAttribute::IfName("eth0.100".to_owned()),
                LinkAttribute::Link(2),
                vlan(100, VlanProtocol::Ieee8021Q),
            ],
        );
        let links = table(&[lower.clone(), upper.clone()]);
        assert_eq!(upper.vlan, Some((2, 100)));
        assert_eq!(way_out(&upper, &links), (2, 100));
        assert_eq!(way_out(&lower, &links), (2, 0));
    }

    #[test]
    fn what_one_tag_cannot_say_is_left_to_the_kernel() {
        let tag = |id| vlan(id, VlanProtocol::Ieee8021Q);
        let lower = parsed(2, vec![LinkAttribute::Link(1), tag(7)]);
        let stacked = parsed(3, vec![LinkAttribute::Link(2), tag(8)]);
        let provider = vlan(9, VlanProtocol::Ieee8021Ad);
        let provider = parsed(4, vec![LinkAttribute::Link(1), provider]);
        let elsewhere = vec![
            LinkAttribute::Link(1),
            LinkAttribute::LinkNetNsId(0),
            tag(9),
        ];
        let elsewhere = parsed(5, elsewhere);
        let veth = parsed(
            6,
            vec![
                LinkAttribute::Link(1),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
            ],
        );
        let links = table(&[parsed(1, vec![]), lower.clone()]);
        assert_eq!(way_out(&lower, &links), (1, 7));
        for link in [stacked, provider, elsewhere, veth] {
            assert_eq!(way_out(&link, &links), (link.index, 0));
        }
    }
}
