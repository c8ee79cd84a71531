use aya::{EbpfLoader, VerifierLogLevel, programs::Xdp};
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let mut bpf = EbpfLoader::new().verifier_log_level(VerifierLogLevel::STATS).load(&bytes).unwrap();
    for (name, program) in bpf.programs_mut() {
        let start = std::time::Instant::now();
        let p: &mut Xdp = program.try_into().unwrap();
        match p.load() {
            Ok(()) => { let i = p.info().unwrap(); println!("{name}: verified {:?} jited {} xlated {:?} in {:?}", i.verified_instruction_count(), i.size_jitted(), i.size_translated(), start.elapsed()) }
            Err(e) => { let s = format!("{e:?}"); println!("{name}: FAILED in {:?} {}", start.elapsed(), &s[s.len().saturating_sub(1500)..]) }
        }
    }
}
