//! What happened in a run: a simulation that never gets anywhere checks nothing.

/// Counts over a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub probes: u64,
    pub transitions: u64,
    pub plans: u64,
    pub holds: u64,
    pub resumptions: u64,
    pub drains: u64,
    pub reloads: u64,
    pub restarts: u64,
    /// Tables found to be the same after a restart.
    pub tables_kept: u64,
    /// Faults found in time.
    pub detections: u64,
    /// Recoveries found in time.
    pub recoveries: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        self.probes += other.probes;
        self.transitions += other.transitions;
        self.plans += other.plans;
        self.holds += other.holds;
        self.resumptions += other.resumptions;
        self.drains += other.drains;
        self.reloads += other.reloads;
        self.restarts += other.restarts;
        self.tables_kept += other.tables_kept;
        self.detections += other.detections;
        self.recoveries += other.recoveries;
    }

    /// What did not happen at all.
    pub fn missing(&self) -> Vec<&'static str> {
        let counts = [
            (self.probes, "probes"),
            (self.transitions, "transitions"),
            (self.plans, "plans"),
            (self.holds, "holds"),
            (self.resumptions, "resumptions"),
            (self.drains, "drains"),
            (self.reloads, "reloads"),
            (self.restarts, "restarts"),
            (self.tables_kept, "tables kept"),
            (self.detections, "detections"),
            (self.recoveries, "recoveries"),
        ];
        let zero = counts.into_iter().filter(|(count, _)| *count == 0);
        zero.map(|(_, name)| name).collect()
    }
}
