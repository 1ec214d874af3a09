//! What the command line says of events, webhooks and scheduling, as settings of the control plane.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use atoll_api::scheduling;
use atoll_api::webhook::Targets;
use atoll_control::config::Config;
use atoll_core::scheduler::forecast;
use atoll_core::scheduler::overlay::{Level, Overlay};

use crate::cli::events::{EventArgs, WebhookTargets};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Puts what the command line says in the place of the defaults.
pub(crate) fn apply(arguments: &EventArgs, config: &mut Config) {
    let EventArgs {
        webhook_targets: _,
        webhooks_per_team,
        webhook_give_up_hours,
        history_days,
        history_events,
        history_sandboxes,
    } = arguments;
    config.webhooks_per_team_max = *webhooks_per_team;
    config.webhooks.give_up_after = HOUR * *webhook_give_up_hours;
    config.history_retention = DAY * *history_days;
    config.history_events_max = *history_events;
    config.history_sandboxes_max = *history_sandboxes;
}

/// The forecast that may hold so many percent of the fleet; none of nothing.
pub(crate) fn forecast(reserve_percent: u32) -> Option<forecast::Config> {
    (reserve_percent > 0).then(|| forecast::Config {
        reserve_percent,
        ..forecast::Config::default()
    })
}

/// The fleet's scheduling policy, from its file; one that says nothing without.
///
/// # Errors
/// If the file cannot be read, or which field of it is wrong.
pub(crate) fn policy(file: Option<&Path>) -> anyhow::Result<Overlay> {
    let Some(file) = file else {
        return Ok(Overlay::default());
    };
    let shown = file.display();
    let text = fs::read_to_string(file);
    let text = text.with_context(|| format!("read the scheduling policy `{shown}`"))?;
    scheduling::parse(&text, Level::Fleet)
        .with_context(|| format!("the scheduling policy `{shown}` is wrong"))
}

/// Where webhooks may point. Who runs everything on one machine has receivers there too.
pub(crate) const fn targets(arguments: &EventArgs, is_alone: bool) -> Targets {
    match arguments.webhook_targets {
        Some(WebhookTargets::Any) => Targets::Any,
        Some(WebhookTargets::Public) => Targets::Public,
        None if is_alone => Targets::Any,
        None => Targets::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_holds_and_the_defaults_are_those_of_control() {
        let defaults = Config::development("1");
        let mut config = defaults.clone();
        apply(&EventArgs::default(), &mut config);
        assert_eq!(config, defaults);

        let given = EventArgs {
            history_days: 2,
            history_events: 1_000,
            webhook_give_up_hours: 1,
            ..EventArgs::default()
        };
        apply(&given, &mut config);
        assert_eq!(config.history_retention, 2 * DAY);
        assert_eq!(config.history_events_max, 1_000);
        assert_eq!(config.webhooks.give_up_after, HOUR);
        assert_eq!(config.history_sandboxes_max, defaults.history_sandboxes_max);
    }

    #[test]
    fn a_server_reaches_no_private_network_unless_told_so() {
        let unsaid = EventArgs::default();
        assert_eq!(targets(&unsaid, false), Targets::Public);
        assert_eq!(targets(&unsaid, true), Targets::Any);
        let any = EventArgs {
            webhook_targets: Some(WebhookTargets::Any),
            ..EventArgs::default()
        };
        assert_eq!(targets(&any, false), Targets::Any);
    }

    #[test]
    fn the_fleets_policy_is_read_from_its_file_and_refused_by_field() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.json");
        fs::write(&file, r#"{"strategy": "best_fit"}"#).unwrap();
        let read = policy(Some(&file)).unwrap();
        assert_eq!(
            read.strategy.map(|strategy| strategy.as_str()),
            Some("best_fit")
        );
        assert_eq!(policy(None).unwrap(), Overlay::default());
        fs::write(&file, r#"{"preferences": {"luck": 1}}"#).unwrap();
        let error = format!("{:#}", policy(Some(&file)).unwrap_err());
        assert!(
            error.contains("policy.json") && error.contains("preferences.luck"),
            "{error}"
        );
        assert!(policy(Some(&folder.path().join("none"))).is_err());
    }
}
