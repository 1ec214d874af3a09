//! Decisions against a plain model of the fleet that shares no code with the scheduler's own
//! bookkeeping, and against the oracle that walks over all nodes.

mod constraints;
mod examples;
mod model;
mod scale;

use proptest::prelude::*;

use self::model::{Step, World, policies, steps};
use super::oracle::verdict;
use super::policy::Strategy as How;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// No decision breaks a hard constraint or a capacity; a request is refused if and only if no
    /// node fits; the score is within the policy's tolerance of the best there is; every node that
    /// does not fit is counted once.
    #[test]
    fn decisions_are_those_of_the_oracle(
        steps in steps(60),
        policy in policies(),
        seed: u64,
    ) {
        let mut world = World::new(8);
        for (turn, step) in (0..).zip(steps) {
            let Step::Decide(request) = &step else {
                world.take(step);
                continue;
            };
            let seed = seed.wrapping_add(turn);
            world.fleet.advance(world.now);
            let request = world.resolved(request);
            let expected = verdict(&world.fleet, &request, &policy);
            match world.fleet.decide(&request, &policy, seed, world.now) {
                Ok(decision) => {
                    world.check_fits(&decision.node, &request, &policy)?;
                    prop_assert!(expected.fitting.contains(&decision.node));
                    prop_assert_eq!(decision.counts, expected.counts);
                    let fitting = u32::try_from(expected.fitting.len()).unwrap();
                    prop_assert_eq!(decision.fitting, fitting);
                    let best = expected.best.unwrap().1;
                    // Where zones count, their part is rounded by itself: two points.
                    let bound = policy.tolerance + 2;
                    if !matches!(policy.strategy, How::BestOf(_) | How::Random) {
                        prop_assert!(decision.score.total() + bound >= best);
                    }
                    for other in &decision.alternatives {
                        prop_assert!(expected.fitting.contains(&other.node));
                        prop_assert!(other.node != decision.node);
                    }
                    world.reserved(decision, &request);
                }
                Err(refusal) => {
                    prop_assert_eq!(expected.fitting.len(), 0);
                    prop_assert_eq!(refusal.counts, expected.counts);
                    prop_assert_eq!(refusal.smallest_change.is_some(), !world.nodes.is_empty());
                }
            }
        }
    }

    /// What the classes know after any changes is what they would know if they were made then, and
    /// the accounts are the sums of what is held.
    #[test]
    fn incremental_state_is_recomputed_state(
        steps in steps(80),
        policy in policies(),
        classes_max in 1_usize..6,
    ) {
        let mut world = World::new(classes_max);
        for step in steps {
            match &step {
                Step::Decide(request) => {
                    let request = world.resolved(request);
                    if let Ok(decision) = world.fleet.decide(&request, &policy, 7, world.now) {
                        world.reserved(decision, &request);
                    }
                }
                _ => world.take(step),
            }
        }
        world.fleet.settle();
        let fleet = &mut world.fleet;
        let known = fleet.classes.knowledge();
        fleet.classes.rebuild(&fleet.table);
        prop_assert_eq!(fleet.classes.knowledge(), known);
        world.check_accounts()?;
    }

    /// The same history and seed give the same decisions.
    #[test]
    fn decisions_repeat_for_a_seed(steps in steps(40), policy in policies(), seed: u64) {
        let run = || {
            let mut world = World::new(4);
            let mut decisions = Vec::new();
            for step in &steps {
                match step {
                    Step::Decide(request) => {
                        let request = world.resolved(request);
                        let answer = world.fleet.decide(&request, &policy, seed, world.now);
                        decisions.push(answer.clone());
                        if let Ok(decision) = answer {
                            world.reserved(decision, &request);
                        }
                    }
                    _ => world.take(step.clone()),
                }
            }
            decisions
        };
        prop_assert_eq!(run(), run());
    }

    /// A refusal leads to another node each time, at most as often as there are nodes that fit, and
    /// leaves nothing behind.
    #[test]
    fn refusals_lead_on_and_end(steps in steps(40), policy in policies(), seed: u64) {
        let mut world = World::new(4);
        let mut last = None;
        for step in steps {
            match &step {
                Step::Decide(request) => last = Some(request.clone()),
                _ => world.take(step),
            }
        }
        let Some(request) = last else { return Ok(()) };
        let request = world.resolved(&request);
        world.fleet.advance(world.now);
        let fitting = verdict(&world.fleet, &request, &policy).fitting.len();
        let mut tried = Vec::new();
        let mut answer = world.fleet.decide(&request, &policy, seed, world.now);
        while let Ok(decision) = answer {
            if tried.len() == super::request::EXCLUDED_MAX - request.excluded.len() {
                world.fleet.cancel(decision.reservation.unwrap());
                break;
            }
            prop_assert!(!tried.contains(&decision.node));
            world.check_fits(&decision.node, &request, &policy)?;
            tried.push(decision.node.clone());
            answer = world.fleet.next(decision, &request, &policy, seed, world.now);
        }
        prop_assert!(tried.len() <= fitting);
        world.check_accounts()?;
    }
}
