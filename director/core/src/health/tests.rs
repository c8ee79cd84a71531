use super::*;

const RISE: u32 = 2;
const FALL: u32 = 3;
const OK: Result<Duration, Failure> = Ok(Duration::from_millis(3));
const REFUSED: Result<Duration, Failure> = Err(Failure::Refused);

fn feed(health: &mut Health, outcomes: &[Result<Duration, Failure>]) -> Vec<Option<Cause>> {
    outcomes
        .iter()
        .map(|&o| health.observe(o, RISE, FALL))
        .collect()
}

fn healthy() -> Health {
    let mut health = Health::unknown();
    health.observe(OK, RISE, FALL);
    health
}

fn down() -> Health {
    let mut health = Health::unknown();
    health.observe(REFUSED, RISE, FALL);
    health
}

#[test]
fn the_first_outcome_decides_alone() {
    let mut health = Health::unknown();
    assert_eq!(health.verdict(false), Verdict::Unknown);
    assert_eq!(health.pace(), Pace::Fast);
    assert_eq!(
        health.observe(OK, RISE, FALL),
        Some(Cause::ProbesPassed),
        "one success is enough"
    );
    assert_eq!(health.verdict(false), Verdict::Healthy);
    assert_eq!(health.pace(), Pace::Normal);

    let mut health = Health::unknown();
    assert_eq!(
        health.observe(REFUSED, RISE, FALL),
        Some(Cause::Probe(Failure::Refused)),
        "one failure is enough"
    );
    assert_eq!(health.verdict(false), Verdict::Down);
    assert_eq!(health.pace(), Pace::Normal);
}

#[test]
fn a_healthy_endpoint_goes_down_after_fall_failures_in_a_row() {
    let mut health = healthy();
    assert_eq!(feed(&mut health, &[REFUSED, REFUSED]), [None, None]);
    assert_eq!(health.pace(), Pace::Fast);
    assert_eq!(feed(&mut health, &[OK]), [None], "a success starts over");
    assert_eq!(health.pace(), Pace::Normal);
    let changes = feed(
        &mut health,
        &[REFUSED, REFUSED, Err(Failure::Timeout), REFUSED],
    );
    let down = Some(Cause::Probe(Failure::Timeout));
    assert_eq!(changes, [None, None, down, None]);
    assert_eq!(health.verdict(false), Verdict::Down);
    assert_eq!(health.pace(), Pace::Normal);
    assert_eq!((health.successes(), health.failures()), (0, 4));
}

#[test]
fn a_down_endpoint_becomes_healthy_after_rise_successes_in_a_row() {
    let mut health = down();
    assert_eq!(feed(&mut health, &[OK]), [None]);
    assert_eq!(health.pace(), Pace::Fast);
    assert_eq!(feed(&mut health, &[REFUSED]), [None], "a failure settles");
    assert_eq!(health.pace(), Pace::Normal);
    let changes = feed(&mut health, &[OK, OK]);
    assert_eq!(changes, [None, Some(Cause::ProbesPassed)]);
    assert_eq!(health.verdict(false), Verdict::Healthy);
    assert_eq!(health.pace(), Pace::Normal);
}

#[test]
fn adopted_verdicts_stand_until_rise_or_fall() {
    for state in [EndpointState::Active, EndpointState::Draining] {
        let mut health = Health::adopted(state);
        assert_eq!(health.verdict(false), Verdict::Healthy);
        assert_eq!(health.pace(), Pace::Fast, "until the first outcome");
        let changes = feed(&mut health, &[REFUSED, REFUSED, REFUSED]);
        let down = Some(Cause::Probe(Failure::Refused));
        assert_eq!(changes, [None, None, down]);
    }
    let mut health = Health::adopted(EndpointState::Dead);
    assert_eq!(health.verdict(false), Verdict::Down);
    assert_eq!(
        feed(&mut health, &[OK, OK]),
        [None, Some(Cause::ProbesPassed)]
    );
}

#[test]
fn an_outcome_that_agrees_ends_the_doubt_about_an_adopted_verdict() {
    let mut health = Health::adopted(EndpointState::Active);
    feed(&mut health, &[OK]);
    assert_eq!(health.pace(), Pace::Normal);
    let mut health = Health::adopted(EndpointState::Dead);
    feed(&mut health, &[REFUSED]);
    assert_eq!(health.pace(), Pace::Normal);
}

#[test]
fn another_probe_keeps_the_verdict_and_forgets_the_outcomes() {
    let mut health = healthy();
    feed(&mut health, &[REFUSED, REFUSED]);
    let mut health = health.for_another_probe();
    assert_eq!(health.verdict(false), Verdict::Healthy);
    assert_eq!(health.pace(), Pace::Fast);
    assert_eq!(health.last_failure(), None);
    assert_eq!(feed(&mut health, &[REFUSED, REFUSED]), [None, None]);
    assert!(feed(&mut health, &[REFUSED])[0].is_some());

    let health = Health::unknown().for_another_probe();
    assert_eq!(health.verdict(false), Verdict::Unknown);
}

#[test]
fn a_fault_of_the_prober_counts_for_nothing() {
    const LOCAL: Result<Duration, Failure> = Err(Failure::Local);
    let mut health = Health::unknown();
    assert_eq!(feed(&mut health, &[LOCAL]), [None]);
    assert_eq!(health.verdict(false), Verdict::Unknown);
    assert_eq!(health.last_failure(), Some(Failure::Local));

    let mut health = healthy();
    assert_eq!(feed(&mut health, &[LOCAL; 5]), [None; 5]);
    assert_eq!((health.successes(), health.failures()), (1, 0));
    assert_eq!(health.pace(), Pace::Normal);

    let changes = feed(&mut health, &[REFUSED, LOCAL, REFUSED, LOCAL]);
    assert_eq!(changes, [None; 4]);
    assert_eq!(health.pace(), Pace::Fast, "nor does it end a doubt");
    assert!(feed(&mut health, &[REFUSED])[0].is_some(), "nor a row");
}

#[test]
fn down_wins_over_draining_and_unknown_stays_unknown() {
    assert_eq!(healthy().verdict(true), Verdict::Draining);
    assert_eq!(down().verdict(true), Verdict::Down);
    assert_eq!(Health::unknown().verdict(true), Verdict::Unknown);
}

#[test]
fn thresholds_of_zero_or_one_change_at_the_first_outcome() {
    for threshold in [0, 1] {
        let mut health = healthy();
        assert!(health.observe(REFUSED, threshold, threshold).is_some());
        assert_eq!(health.pace(), Pace::Normal);
        assert!(health.observe(OK, threshold, threshold).is_some());
        assert_eq!(health.pace(), Pace::Normal);
    }
}
