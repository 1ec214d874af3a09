//! What the command line says of events and webhooks, as settings of the control plane.

use std::time::Duration;

use atoll_api::webhook::Targets;
use atoll_control::config::Config;

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
}
