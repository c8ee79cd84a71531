//! What `director check` says of kernel memory, beside the kernel's own figure.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::MapData;
use director::{
    config::{Limits, Prefix},
    datapath::{Datapath, Options, Uses, deny_memory, memory},
};

use crate::edge::options;

/// Bytes that the kernel says each map of an edge takes, by name.
pub fn taken(datapath: &mut Datapath) -> Vec<(String, u64)> {
    let program = datapath.program().unwrap().info().unwrap();
    let ids = program.map_ids().unwrap().expect("this kernel tells");
    let of = |id: u32| {
        let map = MapData::from_id(id).unwrap();
        let name = map.info().unwrap().name_as_str().unwrap().to_owned();
        let fd = map.fd().as_fd().as_raw_fd();
        let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let line = told.lines().find_map(|line| line.strip_prefix("memlock:"));
        (name, line.unwrap().trim().parse().unwrap())
    };
    ids.into_iter().map(of).collect()
}

fn check(limits: Limits, uses: Uses) {
    let Some(options) = options(None) else { return };
    let options = Options {
        limits,
        uses,
        ..options
    };
    let (mut datapath, _) = Datapath::open(&options).unwrap();
    let maps = taken(&mut datapath);
    let kernel: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    let told = memory(&limits, uses, &options.nat);
    let ratio = told as f64 / kernel as f64;
    assert!(
        (0.85..=1.15).contains(&ratio),
        "told {told}, kernel {kernel}: {maps:?}"
    );
}

#[test]
fn the_memory_that_is_told_of_is_what_the_kernel_takes() {
    let small = Limits {
        flows: 4096,
        nat_flows: 4096,
        services: 8,
        endpoints: 32,
        table_size: 251,
    };
    let large = Limits {
        flows: 1 << 18,
        nat_flows: 1 << 17,
        services: 512,
        endpoints: 8192,
        table_size: 1021,
    };
    let none = Uses::default();
    let all = Uses {
        ipv4: true,
        ipv6: true,
        nat4: true,
        nat6: true,
    };
    for limits in [small, large] {
        for uses in [none, all] {
            check(limits, uses);
        }
    }
}

#[test]
fn a_deny_list_takes_no_more_than_is_told() {
    let Some(options) = options(None) else { return };
    let (mut datapath, _) = Datapath::open(&options).unwrap();
    let before: u64 = taken(&mut datapath).iter().map(|(_, bytes)| bytes).sum();
    // Far apart, so that the tree needs as many branches as it can have.
    let prefixes: Vec<Prefix> = (0..20_000_u32)
        .map(|i| {
            Prefix::around(
                std::net::Ipv6Addr::from((u128::from(i)).reverse_bits()).into(),
                64,
            )
        })
        .collect();
    datapath.set_deny(&prefixes).unwrap();
    let after: u64 = taken(&mut datapath).iter().map(|(_, bytes)| bytes).sum();
    let told = deny_memory(prefixes.len());
    // The kernel's figure leaves out branches, and what its allocator rounds up.
    let took = after - before;
    assert!(took <= told && took * 3 >= told, "told {told}, took {took}");
}
