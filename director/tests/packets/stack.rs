//! How much stack the program takes along its deepest chain of calls, counted
//! as the kernel's verifier does (`check_max_stack_depth`): each function's own
//! part, rounded up, and those of its callers.

use std::collections::{BTreeMap, HashSet};

use aya_obj::{Object, generated::bpf_insn};

use crate::edge;

/// Bytes of stack that a chain of calls may take in all (`MAX_BPF_STACK`).
const LIMIT: usize = 512;
/// What a function's own part is rounded up to.
const STEP: usize = 32;

const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;
/// Source register of a call that is to a function of the program's own.
const TO_OWN: u8 = 1;
const FRAME_POINTER: u8 = 10;

/// Bytes that the function of these instructions takes itself: the lowest
/// address relative to the frame pointer that is used or computed.
fn own(instructions: &[bpf_insn]) -> usize {
    let mut offsets: [Option<i64>; 11] = [None; 11];
    offsets[usize::from(FRAME_POINTER)] = Some(0);
    let mut lowest = 0;
    for instruction in instructions {
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        let offset = i64::from(instruction.off);
        let reached = match (instruction.code, instruction.code & 7) {
            (MOVE, _) => {
                offsets[usize::from(to)] = offsets[usize::from(from)];
                None
            }
            (ADD, _) => {
                let sum = offsets[usize::from(to)].map(|at| at + i64::from(instruction.imm));
                offsets[usize::from(to)] = sum;
                sum
            }
            // Loads.
            (_, 1) => {
                let at = offsets[usize::from(from)].map(|at| at + offset);
                offsets[usize::from(to)] = None;
                at
            }
            // Stores.
            (_, 2 | 3) => offsets[usize::from(to)].map(|at| at + offset),
            // Jumps change no register; a call does.
            (CALL, _) => {
                offsets[..6].fill(None);
                None
            }
            (_, 5 | 6) => None,
            _ => {
                offsets[usize::from(to)] = None;
                None
            }
        };
        lowest = lowest.min(reached.unwrap_or(0));
    }
    lowest.unsigned_abs() as usize
}

/// The deepest chain of calls from the function at `start`: the part of each.
fn deepest(program: &[bpf_insn], ends: &BTreeMap<usize, usize>, start: usize) -> Vec<usize> {
    let body = &program[start..ends[&start]];
    let calls = calls(body, start).map(|to| deepest(program, ends, to));
    let mut chain = vec![own(body).max(1).next_multiple_of(STEP)];
    chain.extend(
        calls
            .max_by_key(|chain| chain.iter().sum::<usize>())
            .unwrap_or_default(),
    );
    chain
}

/// Where the calls within a body go.
fn calls(body: &[bpf_insn], start: usize) -> impl Iterator<Item = usize> {
    body.iter()
        .enumerate()
        .filter(|(_, instruction)| instruction.code == CALL && instruction.src_reg() == TO_OWN)
        .map(move |(at, instruction)| {
            (start + at + 1)
                .checked_add_signed(instruction.imm as isize)
                .unwrap()
        })
}

#[test]
fn the_stack_suffices_with_room_to_spare() {
    let bytes = edge::object_bytes();
    let mut object = Object::parse(&bytes).unwrap();
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object.relocate_calls(&sections).unwrap();
    for (name, program) in &object.programs {
        let body = &object.functions[&program.function_key()].instructions;
        let mut starts: Vec<usize> = calls(body, 0).chain([0]).collect();
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).copied().chain([body.len()]);
        let ends: BTreeMap<usize, usize> = starts.iter().copied().zip(ends).collect();
        let chain = deepest(body, &ends, 0);
        let depth: usize = chain.iter().sum();
        println!("{name}: {depth} of {LIMIT} bytes of stack: {chain:?}");
        assert!(depth <= LIMIT, "{name} takes {depth} bytes");
    }
}
