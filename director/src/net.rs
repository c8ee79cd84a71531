//! Routes, neighbours and interfaces, through netlink.
//!
//! [`watch`] keeps the next hop of every endpoint known: on each change that
//! the kernel tells of, and every five seconds in any case. It also keeps the
//! neighbours warm, so that the packet path never waits for one.

mod links;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection,
    packet_route::{
        address::AddressAttribute,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteType, RouteVia},
    },
};
use tokio::sync::{mpsc, watch};

pub use self::links::Link;
use self::links::{links_of, way_out};

/// Every change is looked at this long after it was told of, with all others
/// that came meanwhile.
const SETTLE: Duration = Duration::from_millis(10);
/// How often everything is looked at without being told.
const REFRESH: Duration = Duration::from_secs(5);

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface index.
    pub interface: u32,
    /// Ethernet address of the next hop.
    pub destination: [u8; 6],
    /// Ethernet address of the interface.
    pub source: [u8; 6],
    /// Largest IP packet that the interface takes, in bytes.
    pub mtu: u16,
    /// VLAN id that frames carry there; 0: no tag.
    pub vlan: u16,
}

/// What is known of the ways to the addresses asked for.
pub type NextHops = BTreeMap<IpAddr, Option<NextHop>>;

/// Starts keeping the ways to `addresses` known. Sends every state that
/// differs from the one before; ends when the receiver is gone.
///
/// # Errors
/// When netlink cannot be opened.
pub fn watch(addresses: watch::Receiver<Vec<IpAddr>>, found: mpsc::Sender<NextHops>) -> Result<()> {
    let (connection, handle, messages) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .context("opening netlink")?;
    tokio::spawn(connection);
    tokio::spawn(keep(handle, messages, addresses, found));
    Ok(())
}

async fn keep<M: futures::Stream + Unpin>(
    handle: Handle,
    mut messages: M,
    mut addresses: watch::Receiver<Vec<IpAddr>>,
    found: mpsc::Sender<NextHops>,
) {
    let mut last: Option<NextHops> = None;
    let mut refresh = tokio::time::interval(REFRESH);
    loop {
        let is_refresh = tokio::select! {
            _ = refresh.tick() => true,
            changed = addresses.changed() => {
                if changed.is_err() {
                    return;
                }
                true
            }
            message = messages.next() => {
                if message.is_none() {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
                drain(&mut messages);
                false
            }
        };
        let wanted = addresses.borrow_and_update().clone();
        match resolve(&handle, &wanted, is_refresh).await {
            Ok(hops) if last.as_ref() != Some(&hops) => {
                if found.send(hops.clone()).await.is_err() {
                    return;
                }
                last = Some(hops);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("next hops could not be read: {error:#}"),
        }
    }
}

/// Takes what is there already; it is covered by the look that follows.
fn drain<M: futures::Stream + Unpin>(messages: &mut M) {
    use futures::FutureExt as _;
    while let Some(Some(_)) = messages.next().now_or_never() {}
}

/// Looks up the way to each address. With `keep_warm`, the kernel is asked to
/// confirm each next hop, or to find it.
async fn resolve(handle: &Handle, addresses: &[IpAddr], keep_warm: bool) -> Result<NextHops> {
    let links: HashMap<u32, Link> = links_of(handle)
        .await?
        .into_iter()
        .map(|link| (link.index, link))
        .collect();
    let neighbours = neighbours(handle).await?;
    let mut hops = NextHops::new();
    let mut asked = BTreeSet::new();
    for address in addresses {
        let Some((interface, via)) = route(handle, *address).await else {
            hops.insert(*address, None);
            continue;
        };
        if keep_warm && asked.insert((interface, via)) {
            // A failure here shows as a next hop that stays unknown.
            let _ = handle
                .neighbours()
                .add(interface, via)
                .flags(NeighbourFlags::Use)
                .state(NeighbourState::None)
                .replace()
                .execute()
                .await;
        }
        let hop = links
            .get(&interface)
            .filter(|link| link.is_up)
            .and_then(|link| {
                let (interface, vlan) = way_out(link, &links);
                Some(NextHop {
                    interface,
                    destination: *neighbours.get(&(link.index, via))?,
                    source: link.address?,
                    mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
                    vlan,
                })
            });
        hops.insert(*address, hop);
    }
    Ok(hops)
}

/// Interface and next hop of the route to `address`, if it leads off this host.
async fn route(handle: &Handle, address: IpAddr) -> Option<(u32, IpAddr)> {
    let message = match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(v4, 32)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(v6, 128)
            .build(),
    };
    // An error is the kernel's way to say that there is no route.
    let route = handle
        .route()
        .get(message)
        .execute()
        .try_next()
        .await
        .ok()??;
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut interface = None;
    let mut via = address;
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => via = gateway.into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => via = gateway.into(),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => via = gateway.into(),
            _ => {}
        }
    }
    Some((interface?, via))
}

/// Link addresses of the neighbours that may be sent to.
async fn neighbours(handle: &Handle) -> Result<HashMap<(u32, IpAddr), [u8; 6]>> {
    let mut known = HashMap::new();
    let mut stream = handle.neighbours().get().execute();
    while let Some(entry) = stream.try_next().await.context("reading neighbours")? {
        if matches!(
            entry.header.state,
            NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None
        ) {
            continue;
        }
        let (mut address, mut link) = (None, None);
        for attribute in entry.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    link = <[u8; 6]>::try_from(bytes.as_slice()).ok();
                }
                _ => {}
            }
        }
        if let (Some(address), Some(link)) = (address, link) {
            known.insert((entry.header.ifindex, address), link);
        }
    }
    Ok(known)
}

/// The interfaces of this host.
///
/// # Errors
/// When netlink cannot be asked.
pub async fn links() -> Result<Vec<Link>> {
    let (connection, handle, _) = new_connection().context("opening netlink")?;
    tokio::spawn(connection);
    links_of(&handle).await
}

/// The addresses of this host, with the index of their interface.
///
/// # Errors
/// When netlink cannot be asked.
pub async fn addresses() -> Result<Vec<(u32, IpAddr)>> {
    let (connection, handle, _) = new_connection().context("opening netlink")?;
    tokio::spawn(connection);
    let mut addresses = Vec::new();
    let mut stream = handle.address().get().execute();
    while let Some(message) = stream.try_next().await.context("reading addresses")? {
        for attribute in message.attributes {
            if let AddressAttribute::Address(address) = attribute {
                addresses.push((message.header.index, address));
            }
        }
    }
    Ok(addresses)
}
