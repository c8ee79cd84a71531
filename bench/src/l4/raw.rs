//! Programs of a few instructions, written down as such: what sends, what drops,
//! and the least that forwards.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::programs::{Xdp, loaded_programs};
use aya_obj::programs::XdpAttachType;

/// One instruction, as the kernel's `struct bpf_insn`.
type Instruction = [u8; 8];

/// `opcode`, destination and source register, offset and immediate.
fn op(opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    let [o0, o1] = offset.to_le_bytes();
    let [i0, i1, i2, i3] = immediate.to_le_bytes();
    [opcode, from << 4 | to, o0, o1, i0, i1, i2, i3]
}

// Opcodes, by what they are in C.
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const SUBTRACT_REGISTER: u8 = 0x1f;
const LOAD_BYTE: u8 = 0x71;
const LOAD_WORD: u8 = 0x61;
const STORE_BYTE: u8 = 0x73;
const IF_GREATER: u8 = 0x2d;
const IF_NOT_EQUAL: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

const BPF_REDIRECT: i32 = 23;
const XDP_DROP: i32 = 1;

/// Ends with that verdict.
fn verdict(verdict: i32) -> [Instruction; 2] {
    [op(MOVE, 0, 0, 0, verdict), op(EXIT, 0, 0, 0, 0)]
}

/// `return bpf_redirect(interface, 0)`.
fn redirect_out_of(interface: u32) -> [Instruction; 4] {
    [
        op(MOVE, 1, 0, 0, interface.cast_signed()),
        op(MOVE, 2, 0, 0, 0),
        op(CALL, 0, 0, 0, BPF_REDIRECT),
        op(EXIT, 0, 0, 0, 0),
    ]
}

/// Drops every packet.
///
/// # Errors
/// Without the privilege to load programs.
pub fn drop_all() -> Result<Xdp> {
    load("bench_drop", &verdict(XDP_DROP))
}

/// Sends every packet out of `interface`, as it is: the least that forwards.
///
/// # Errors
/// Without the privilege to load programs.
pub fn redirect(interface: u32) -> Result<Xdp> {
    load("bench_redirect", &redirect_out_of(interface))
}

/// Sends every packet out of `interface`; those of IPv4 with the right checksum,
/// which host forwarding looks at: the frame has that of source 198.18.0.0, and a
/// source's last byte, 0 to 3 among 64 k flows, is taken off its last byte.
///
/// # Errors
/// Without the privilege to load programs.
pub fn send(interface: u32) -> Result<Xdp> {
    let [data, end] = [0, 4];
    let [source, checksum] = [29, 25];
    let mut program = vec![
        op(LOAD_WORD, 2, 1, data, 0),
        op(LOAD_WORD, 3, 1, end, 0),
        op(MOVE_REGISTER, 4, 2, 0, 0),
        op(ADD, 4, 0, 0, 34),
        // Too short: past the rest, to the redirect.
        op(IF_GREATER, 4, 3, 6, 0),
        // An IPv4 header begins with 0x45; one of IPv6 has no checksum.
        op(LOAD_BYTE, 5, 2, 14, 0),
        op(IF_NOT_EQUAL, 5, 0, 4, 0x45),
        op(LOAD_BYTE, 5, 2, checksum, 0),
        op(LOAD_BYTE, 4, 2, source, 0),
        op(SUBTRACT_REGISTER, 5, 4, 0, 0),
        op(STORE_BYTE, 2, 5, checksum, 0),
    ];
    program.extend(redirect_out_of(interface));
    load("bench_send", &program)
}

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// The attach type that aya loads XDP programs with; programs that call each
/// other must have the same.
const BPF_XDP: u32 = 37;

fn load(name: &'static str, program: &[Instruction]) -> Result<Xdp> {
    let mut load = Load {
        kind: BPF_PROG_TYPE_XDP,
        count: u32::try_from(program.len())?,
        instructions: program.as_ptr().addr() as u64,
        licence: c"Dual MIT/GPL".as_ptr().addr() as u64,
        expected_attach_type: BPF_XDP,
        ..Load::default()
    };
    load.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the attribute and all that it points to outlive the call, which
    // only reads them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of::<Load>(),
        )
    };
    let Ok(fd @ 0..) = i32::try_from(fd) else {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("loading {name}"));
    };
    // SAFETY: the kernel has just made it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    adopt(&fd, name)
}

/// aya's handle for a loaded program: it can attach, and give to another program.
fn adopt(fd: &OwnedFd, name: &'static str) -> Result<Xdp> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok())
        .with_context(|| format!("{path} names no program"))?;
    for program in loaded_programs() {
        // One of another process may end just now.
        let Ok(program) = program else { continue };
        if program.id() == id {
            return Ok(Xdp::from_program_info(
                program,
                name.into(),
                XdpAttachType::Interface,
            )?);
        }
    }
    bail!("the program {name} is gone")
}
