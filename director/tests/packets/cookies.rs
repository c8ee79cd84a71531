//! SYN cookies in `proxy` mode: by frames, and with sockets over a wire.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use director::config::Attach;
use director_core::{Mode, Protocol, model::Service};
use etherparse::{PacketBuilder, PacketHeaders, TcpHeader, TcpOptionElement, TransportHeader};
use nix::sched::{CloneFlags, unshare};

use crate::{
    adopt::Place,
    edge::{DROP, Edge, TX, service},
    frames::{self, CLIENT_MAC, EDGE_MAC},
};

const VIP4: &str = "203.0.113.10";
const VIP6: &str = "2001:db8:53::10";
const SEQUENCE: u32 = 0xffff_fffe;
const SYNCOOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// An edge in a network namespace of its own, which gives out cookies always.
fn edge(vip: &str) -> Option<(Place, Edge)> {
    let place = Place::new()?;
    fs::write(SYNCOOKIES, "2").unwrap();
    let (mut edge, _) = place.open();
    edge.apply(&proxy(vip), &[]);
    Some((place, edge))
}

fn proxy(vip: &str) -> Service {
    let mut proxy = service(vip, Protocol::Tcp, Mode::Proxy, &[]);
    proxy.steering.syn_cookies = true;
    proxy
}

/// Any address of the family, at the services' port.
fn listen(vip: &str) -> TcpListener {
    let any = if vip.contains(':') {
        "[::]:80"
    } else {
        "0.0.0.0:80"
    };
    TcpListener::bind(any).unwrap()
}

/// A segment from a client to the VIP.
fn segment(vip: &str, set: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
    let mut tcp = TcpHeader::new(40_000, 80, SEQUENCE, 64_000);
    set(&mut tcp);
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC);
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let step = match (address("192.0.2.1"), address("2001:db8::1"), address(vip)) {
        (std::net::IpAddr::V4(from), _, std::net::IpAddr::V4(to)) => {
            ethernet.ipv4(from.octets(), to.octets(), 60)
        }
        (_, std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            ethernet.ipv6(from.octets(), to.octets(), 60)
        }
        _ => unreachable!("families are as written"),
    };
    let mut frame = Vec::new();
    step.tcp_header(tcp).write(&mut frame, &[]).unwrap();
    frame
}

fn syn(vip: &str, options: &[TcpOptionElement]) -> Vec<u8> {
    segment(vip, |tcp| {
        tcp.syn = true;
        tcp.set_options(options).unwrap();
    })
}

fn ack(vip: &str, cookie: u32) -> Vec<u8> {
    segment(vip, |tcp| {
        tcp.ack = true;
        tcp.sequence_number = SEQUENCE.wrapping_add(1);
        tcp.acknowledgment_number = cookie.wrapping_add(1);
    })
}

/// Reads the answer to a SYN, verifies all of it, and returns its cookie.
fn cookie(vip: &str, frame: &[u8], mss: u16) -> u32 {
    let seen = frames::read(frame);
    assert_eq!(seen.macs, (CLIENT_MAC, EDGE_MAC));
    assert_eq!(seen.source, SocketAddr::new(vip.parse().unwrap(), 80));
    assert_eq!(seen.destination.port(), 40_000);
    assert_eq!((seen.hop_limit, seen.payload.len()), (64, 0));
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = packet.transport else {
        panic!("no TCP: {frame:x?}")
    };
    assert!(tcp.syn && tcp.ack && !tcp.fin && !tcp.rst && !tcp.psh && !tcp.ece);
    assert_eq!(tcp.acknowledgment_number, SEQUENCE.wrapping_add(1));
    let options: Vec<_> = tcp.options_iterator().map(Result::unwrap).collect();
    assert_eq!(options, [TcpOptionElement::MaximumSegmentSize(mss)]);
    let ip = if vip.contains(':') { 40 } else { 20 };
    assert_eq!(frame.len(), 14 + ip + 24);
    tcp.sequence_number
}

#[test]
fn a_syn_is_answered_and_only_its_cookie_opens_a_connection() {
    use TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp,
    };
    for vip in [VIP4, VIP6] {
        let Some((_place, mut edge)) = edge(vip) else {
            return;
        };
        let _listener = listen(vip);
        let options: [&[TcpOptionElement]; 4] = [
            &[MaximumSegmentSize(1460)],
            &[Noop, Noop, Timestamp(1, 0), MaximumSegmentSize(1460)],
            &[
                MaximumSegmentSize(1460),
                SelectiveAcknowledgementPermitted,
                Timestamp(1, 0),
                Noop,
                TcpOptionElement::WindowScale(7),
            ],
            &[
                Timestamp(1, 0),
                Noop,
                Noop,
                Timestamp(1, 0),
                Noop,
                Noop,
                Timestamp(1, 0),
                MaximumSegmentSize(1460),
            ],
        ];
        for (answered, options) in (1..).zip(options) {
            let out = edge.run(&syn(vip, options));
            assert_eq!(out.action, TX);
            // The kernel's tables of segment sizes: net/ipv4/syncookies.c and
            // net/ipv6/syncookies.c.
            let mss = if vip == VIP4 { 1460 } else { 1440 };
            let cookie = cookie(vip, &out.frame, mss);
            edge.passes(&ack(vip, cookie));
            // The lowest two bits say which segment size, any of which may be.
            edge.refuses(&ack(vip, cookie ^ 1 << 23), DROP, "syn_cookie_wrong");
            edge.refuses(
                &ack(vip, cookie.wrapping_add(1 << 24)),
                DROP,
                "syn_cookie_wrong",
            );
            assert_eq!(edge.cause("syn_cookie"), answered);
        }
        // Without options, the least that the family guarantees.
        assert_eq!(edge.run(&syn(vip, &[])).action, TX);
        // What cannot begin a connection is the stack's to answer.
        edge.passes(&segment(vip, |tcp| tcp.rst = true));
        edge.passes(&segment(vip, |tcp| (tcp.syn, tcp.ack) = (true, true)));
        edge.passes(&segment(vip, |tcp| tcp.fin = true));
    }
}

#[test]
fn a_tagged_syn_is_answered_with_its_tag() {
    let Some((_place, mut edge)) = edge(VIP4) else {
        return;
    };
    let _listener = listen(VIP4);
    let mut frame = syn(VIP4, &[TcpOptionElement::MaximumSegmentSize(1460)]);
    frame.splice(12..12, [0x81, 0, 0, 5]);
    let out = edge.run(&frame);
    assert_eq!(out.action, TX);
    assert_eq!(out.frame[12..16], [0x81, 0, 0, 5]);
    let untagged = [&out.frame[..12], &out.frame[16..]].concat();
    cookie(VIP4, &untagged, 1460);
}

#[test]
fn without_cookies_or_a_listener_the_stack_is_asked() {
    let Some((_place, mut edge)) = edge(VIP4) else {
        return;
    };
    let frame = syn(VIP4, &[TcpOptionElement::MaximumSegmentSize(1460)]);
    edge.passes(&frame);
    edge.passes(&ack(VIP4, 7));
    let _listener = listen(VIP4);
    assert_eq!(edge.run(&frame).action, TX);
    // 1: only while the queue is full. 0: never.
    for setting in ["1", "0"] {
        fs::write(SYNCOOKIES, setting).unwrap();
        edge.passes(&frame);
    }
    fs::write(SYNCOOKIES, "2").unwrap();
    let mut plain = proxy(VIP4);
    plain.steering.syn_cookies = false;
    edge.apply(&plain, &[]);
    edge.passes(&frame);
    edge.passes(&ack(VIP4, 7));
}

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

/// Sockets of this thread's network namespace that a client is known to.
fn connections() -> usize {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let is_open = |line: &&str| line.split_whitespace().nth(3) != Some("0A");
    table.lines().skip(1).filter(is_open).count()
}

/// Sends SYNs from many addresses out of `interface`, as they are.
fn flood(interface: &str, count: u32) {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    let index = nix::net::if_::if_nametoindex(interface).unwrap();
    // SAFETY: takes integers; the descriptor is this function's own.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        assert!(socket >= 0);
        OwnedFd::from_raw_fd(socket)
    };
    // SAFETY: a C struct of integers: zero is valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = index as i32;
    for number in 0..count {
        let [_, _, a, b] = number.to_be_bytes();
        let spec = frames::tcp(
            &format!("198.18.{a}.{b}:{}", 1024 + number),
            "203.0.113.10:80",
        );
        let frame = spec.syn().frame();
        // SAFETY: frame and address live, with their lengths.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as u32,
            )
        };
        assert_eq!(sent, frame.len() as isize);
    }
}

/// Connects and has a word echoed.
fn exchange() -> TcpStream {
    let vip: SocketAddr = "203.0.113.10:80".parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&vip, Duration::from_secs(5)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut word = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    stream
}

#[test]
fn clients_connect_over_a_wire_and_a_flood_leaves_no_socket() {
    const FLOOD: u32 = 10_000;
    let Some((_place, mut edge)) = edge(VIP4) else {
        return;
    };
    let listener = listen(VIP4);
    let (thread_sender, thread_id) = mpsc::channel();
    let (wire_sender, wire) = mpsc::channel::<()>();
    let (done_sender, done) = mpsc::channel();
    let (end_sender, end) = mpsc::channel::<()>();
    let client = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        thread_sender.send(nix::unistd::gettid()).unwrap();
        wire.recv().unwrap();
        ip("addr add 203.0.113.20/24 dev wire1");
        ip("link set dev wire1 up");
        let first = exchange();
        flood("wire1", FLOOD);
        let second = exchange();
        done_sender.send(()).unwrap();
        end.recv().unwrap();
        drop((first, second));
    });
    let client_thread = thread_id.recv().unwrap();
    ip(&format!(
        "link add wire0 type veth peer name wire1 netns {client_thread}"
    ));
    ip("addr add 203.0.113.10/24 dev wire0");
    ip("link set dev wire0 up");
    edge.datapath.attach("wire0", Attach::Generic).unwrap();
    let server = thread::spawn(move || {
        let mut kept = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut word = [0; 5];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
            kept.push(stream);
        }
        (listener, kept)
    });
    wire_sender.send(()).unwrap();
    done.recv_timeout(Duration::from_secs(60)).unwrap();
    let kept = server.join().unwrap();
    assert_eq!(connections(), 2);
    // The flood, and the client's own two.
    assert_eq!(edge.cause("syn_cookie"), u64::from(FLOOD) + 2);
    end_sender.send(()).unwrap();
    client.join().unwrap();
    drop(kept);
}
