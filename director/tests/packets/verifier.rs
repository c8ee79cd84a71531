//! What the program costs the kernel's verifier, held so that growth is seen.

use crate::edge::Edge;

/// Instructions that the verifier may walk. The kernel's own limit is a million
/// (`BPF_COMPLEXITY_LIMIT_INSNS`); other kernels walk some more than this one.
const MOST_WALKED: u32 = 300_000;
/// Bytes of machine code.
const MOST_CODE: u32 = 110_000;

#[test]
fn the_verifiers_work_is_bounded() {
    let Some(mut edge) = Edge::new() else { return };
    let info = edge.datapath.program().unwrap().info().unwrap();
    let walked = info
        .verified_instruction_count()
        .expect("this kernel tells");
    let code = info.size_jitted();
    println!("the verifier walked {walked} instructions; {code} bytes of machine code");
    assert!(walked <= MOST_WALKED, "{walked} of at most {MOST_WALKED}");
    assert!(code <= MOST_CODE, "{code} of at most {MOST_CODE}");
}
