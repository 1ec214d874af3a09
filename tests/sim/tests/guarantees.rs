//! The guarantees hold on many seeds, and each check can fail.

use atoll_sim::options::{Options, Sabotage};
use atoll_sim::run::run;

/// Seeds that one test runs: all together two hundred.
const SEEDS_PER_TEST: u64 = 25;

/// Seeds within which a defect must be found.
const SEEDS_TO_FIND: u64 = 60;

/// Seeds of runs with several servers: each takes as many times as long.
const SEEDS_OF_SEVERAL: u64 = 8;

/// Runs the seeds and fails with everything that is needed to repeat the first that fails.
fn hold(from: u64) {
    for seed in from..from + SEEDS_PER_TEST {
        hold_one(Options::new(seed));
    }
}

fn hold_one(options: Options) {
    let (report, seed) = (run(options), options.seed);
    assert!(
        report.violations.is_empty(),
        "{}\nseed {seed} breaks: {:#?}\nreproduce: {}",
        report.trace.join("\n"),
        report.violations,
        report.command(options.steps),
    );
    assert!(report.creates > 0, "seed {seed} made nothing");
}

/// The same guarantees where three servers share the store, each of which crashes, stops and starts
/// by itself.
#[test]
fn the_guarantees_hold_with_three_servers() {
    for seed in 0..SEEDS_OF_SEVERAL {
        hold_one(Options::new(seed).with_servers(3));
    }
}

#[test]
fn a_seed_with_three_servers_repeats_its_run_exactly() {
    let options = Options::new(7).with_servers(3);
    assert_eq!(run(options).hash, run(options).hash);
}

#[test]
fn the_guarantees_hold_on_seeds_0_to_24() {
    hold(0);
}

#[test]
fn the_guarantees_hold_on_seeds_25_to_49() {
    hold(25);
}

#[test]
fn the_guarantees_hold_on_seeds_50_to_74() {
    hold(50);
}

#[test]
fn the_guarantees_hold_on_seeds_75_to_99() {
    hold(75);
}

#[test]
fn the_guarantees_hold_on_seeds_100_to_124() {
    hold(100);
}

#[test]
fn the_guarantees_hold_on_seeds_125_to_149() {
    hold(125);
}

#[test]
fn the_guarantees_hold_on_seeds_150_to_174() {
    hold(150);
}

#[test]
fn the_guarantees_hold_on_seeds_175_to_199() {
    hold(175);
}

#[test]
fn a_seed_repeats_its_run_exactly() {
    let mut options = Options::new(7);
    options.keeps_trace = true;
    let (first, second) = (run(options), run(options));
    let pairs = first.trace.iter().zip(&second.trace);
    for (index, (one, other)) in pairs.enumerate() {
        assert_eq!(one, other, "line {index}");
    }
    assert_eq!(first.hash, second.hash);
    assert_ne!(first.hash, run(Options::new(8)).hash);
}

/// Breaks something on purpose and expects one of the seeds to tell, in these words.
fn find(sabotage: Sabotage, words: &str) {
    let mut others = Vec::new();
    for seed in 0..SEEDS_TO_FIND {
        let found = run(Options::new(seed).with_sabotage(sabotage)).violations;
        if found.iter().any(|violation| violation.contains(words)) {
            return;
        }
        others.extend(found);
    }
    panic!("{sabotage:?} is not found in {SEEDS_TO_FIND} seeds as `{words}`: {others:#?}");
}

#[test]
fn a_lie_about_removals_is_found() {
    find(Sabotage::LieAboutRemovals, "which nobody wants");
}

#[test]
fn a_delete_that_does_not_end_is_found() {
    find(Sabotage::RefuseRemovals, "does not end");
}

#[test]
fn a_running_row_without_a_copy_is_found() {
    find(Sabotage::ReportTheGone, "should run and does not");
}

#[test]
fn an_overloaded_node_is_found() {
    find(Sabotage::OverstateRoom, "is loaded with");
}

#[test]
fn two_routable_copies_are_found() {
    find(Sabotage::IgnoreGenerations, "has the routable copies");
}

#[test]
fn a_route_to_another_placement_is_found() {
    find(Sabotage::KeepOldRoutes, "the route to generation");
}

#[test]
fn a_pause_that_cannot_be_resumed_is_found() {
    find(Sabotage::RefuseResumes, "was paused and is not resumed");
}

#[test]
fn a_node_given_up_too_early_is_found() {
    find(Sabotage::IgnoreHeartbeats, "which was not silent");
}

#[test]
fn a_state_that_is_left_out_is_found() {
    find(Sabotage::SkipStopping, "which the design does not allow");
}

#[test]
fn events_out_of_order_are_found() {
    find(Sabotage::DisorderEvents, "a watcher of");
}

#[test]
fn a_sandbox_that_another_team_touches_is_found() {
    find(Sabotage::OpenForeign, "another team touched");
}

#[test]
fn a_pause_that_is_lost_is_found() {
    find(Sabotage::ForgetPaused, "was paused on");
}

#[test]
fn an_unknown_outcome_taken_for_a_refusal_is_found() {
    find(Sabotage::TakeUnknownForRefused, "was placed anew although");
}

#[test]
fn a_lost_event_is_found() {
    find(Sabotage::LoseEvents, "the history of");
}

#[test]
fn a_dropped_idempotency_key_is_found() {
    find(Sabotage::DropIdempotencyKeys, " made ");
}

#[test]
fn a_quota_that_is_not_counted_is_found() {
    find(Sabotage::IgnoreQuota, "sandboxes");
}

#[test]
fn a_sandbox_shown_to_another_team_is_found() {
    find(Sabotage::MixTeams, "is listed to another team");
}

#[test]
fn a_forgotten_delete_is_found() {
    find(Sabotage::ForgetStops, "after its end");
}

#[test]
fn a_deadline_that_does_not_pass_is_found() {
    find(Sabotage::StopTheClock, "the deadline of");
}
