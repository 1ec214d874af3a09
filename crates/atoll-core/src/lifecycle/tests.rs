use std::collections::BTreeSet;

use super::*;

/// The table as the code has it, in the form of the module's documentation.
fn printed_table() -> String {
    let mut rows = vec![[
        "from".to_owned(),
        "event".to_owned(),
        "to".to_owned(),
        "effects".to_owned(),
    ]];
    for state in STATES {
        for event in EVENTS {
            let Ok(step) = step(state, event) else {
                continue;
            };
            let effects: Vec<_> = step.effects.iter().map(ToString::to_string).collect();
            rows.push([
                state_name(state).to_owned(),
                event_name(event).to_owned(),
                state_name(step.next).to_owned(),
                if effects.is_empty() {
                    "-".to_owned()
                } else {
                    effects.join(", ")
                },
            ]);
        }
    }
    rows.iter()
        .map(|[from, event, to, effects]| format!("{from:<8} | {event:<13} | {to:<8} | {effects}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_documented_table_is_the_codes() {
    let source = include_str!("../lifecycle.rs");
    let documented: Vec<_> = source
        .lines()
        .skip_while(|line| *line != "//! ```text")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| line.trim_start_matches("//! "))
        .collect();
    assert_eq!(
        documented.join("\n"),
        printed_table(),
        "printed:\n{}",
        printed_table()
    );
}

/// The edges between different states are those of the design, no more and no fewer.
#[test]
fn the_edges_are_those_of_the_design() {
    let designed: &[(State, &[State])] = &[
        (
            State::Pending,
            &[State::Creating, State::Stopping, State::Error],
        ),
        (
            State::Creating,
            &[State::Running, State::Stopping, State::Error],
        ),
        (
            State::Running,
            &[State::Pausing, State::Stopping, State::Error],
        ),
        (
            State::Pausing,
            &[State::Paused, State::Running, State::Stopping, State::Error],
        ),
        (
            State::Paused,
            &[State::Resuming, State::Stopping, State::Error],
        ),
        (
            State::Resuming,
            &[State::Running, State::Paused, State::Stopping, State::Error],
        ),
        (State::Stopping, &[State::Pending, State::Stopped]),
        (State::Stopped, &[]),
        (State::Error, &[State::Stopping]),
    ];
    for (from, to) in designed {
        let wanted: BTreeSet<_> = to.iter().copied().collect();
        let actual: BTreeSet<_> = EVENTS
            .iter()
            .filter_map(|event| step(*from, *event).ok())
            .map(|step| step.next)
            .filter(|next| next != from)
            .collect();
        assert_eq!(wanted, actual, "from {from:?}");
    }
}

/// From every state some finite sequence of events reaches the end.
#[test]
fn every_state_can_reach_the_end() {
    for start in STATES {
        let mut reached = BTreeSet::from([start]);
        loop {
            let next: BTreeSet<_> = reached
                .iter()
                .flat_map(|state| EVENTS.iter().filter_map(|event| step(*state, *event).ok()))
                .map(|step| step.next)
                .chain(reached.iter().copied())
                .collect();
            if next == reached {
                break;
            }
            reached = next;
        }
        assert!(
            reached.contains(&State::Stopped),
            "from {start:?}: {reached:?}"
        );
    }
}

#[test]
fn delete_is_legal_everywhere_and_repeatable() {
    for state in STATES {
        let once = step(state, Event::Delete).unwrap().next;
        assert_eq!(step(once, Event::Delete).unwrap().next, once);
    }
}

/// A route exists exactly while the sandbox runs: every way in publishes, every way out withdraws.
#[test]
fn routes_follow_the_running_state() {
    for state in STATES {
        for event in EVENTS {
            let Ok(step) = step(state, event) else {
                continue;
            };
            let enters = state != State::Running && step.next == State::Running;
            let leaves = state == State::Running && step.next != State::Running;
            assert_eq!(step.effects.contains(&Effect::PublishRoute), enters);
            assert_eq!(step.effects.contains(&Effect::WithdrawRoute), leaves);
        }
    }
}

#[test]
fn names_parse_back() {
    for state in STATES {
        assert_eq!(state_from_name(state_name(state)), Some(state));
    }
    assert_eq!(state_from_name("gone"), None);
}
