//! Webhooks: every event reaches its receiver in order, and nobody else's trouble delays it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::request::{EventSelection, NewWebhook, StartAt, WebhookChange};
use atoll_control::view::{Scope, Tenant, WebhookView};
use atoll_control::webhooks::{Delivery, Notice, SendError, WebhookSender};
use atoll_core::error::ErrorKind;
use atoll_core::event::EventKind;
use atoll_core::id::SandboxId;
use secrecy::SecretString;

use crate::tenancy::stranger;
use crate::world::{Running, World, wait_for};

const SECRET: &str = "a secret of the receiver";
const LIFE: [EventKind; 3] = [
    EventKind::SandboxCreated,
    EventKind::SandboxRunning,
    EventKind::SandboxDeleted,
];

/// How a receiver behaves.
#[derive(Debug, Clone)]
enum Manner {
    Accepts,
    /// Refuses so many attempts, then accepts.
    Refuses(u32),
    /// Never answers.
    Hangs,
    Gone,
}

/// Receivers by their URLs.
#[derive(Debug, Default)]
struct Receivers {
    manners: Mutex<BTreeMap<String, Manner>>,
    accepted: Mutex<BTreeMap<String, Vec<Notice>>>,
}

impl Receivers {
    fn behave(&self, url: &str, manner: Manner) {
        self.manners.lock().unwrap().insert(url.to_owned(), manner);
    }

    fn accepted(&self, url: &str) -> Vec<Notice> {
        let accepted = self.accepted.lock().unwrap();
        accepted.get(url).cloned().unwrap_or_default()
    }

    /// What a receiver heard, of which sandbox, in order.
    fn heard(&self, url: &str) -> Vec<(SandboxId, EventKind)> {
        let notices = self.accepted(url).into_iter();
        notices
            .filter_map(|notice| match notice {
                Notice::Event { event, .. } => {
                    Some((event.subject.sandbox().unwrap().clone(), event.kind))
                }
                Notice::Lagged { .. } => None,
            })
            .collect()
    }
}

#[async_trait]
impl WebhookSender for Receivers {
    fn check(&self, url: &str) -> Result<(), String> {
        match url.starts_with("test:") {
            true => Ok(()),
            false => Err("it must begin with test:".to_owned()),
        }
    }

    async fn send(&self, delivery: &Delivery<'_>) -> Result<(), SendError> {
        assert_eq!(delivery.secret.expose(), SECRET);
        let manner = {
            let mut manners = self.manners.lock().unwrap();
            let manner = manners
                .entry(delivery.url.to_owned())
                .or_insert(Manner::Accepts);
            let now = manner.clone();
            if let Manner::Refuses(left) = manner {
                *manner = match *left {
                    0 | 1 => Manner::Accepts,
                    left => Manner::Refuses(left - 1),
                };
            }
            now
        };
        match manner {
            Manner::Accepts => {}
            Manner::Refuses(_) => return Err(SendError::Failed("it refused".to_owned())),
            Manner::Hangs => std::future::pending().await,
            Manner::Gone => return Err(SendError::Gone),
        }
        let mut accepted = self.accepted.lock().unwrap();
        let heard = accepted.entry(delivery.url.to_owned()).or_default();
        heard.push(delivery.notice.clone());
        Ok(())
    }
}

fn world() -> World {
    let mut world = World::new();
    world.config.webhooks.retry_min = Duration::from_millis(5);
    world.config.webhooks.retry_max = Duration::from_millis(20);
    world
}

async fn start(world: &World, receivers: &Arc<Receivers>) -> Running {
    let running = world.start().await;
    let sender = Arc::clone(receivers);
    running.control.webhooks_deliver(sender).await.unwrap();
    running
}

fn wanted(url: &str) -> NewWebhook {
    NewWebhook {
        name: "mine".to_owned(),
        url: url.to_owned(),
        kinds: LIFE.to_vec(),
        secret: SecretString::from(SECRET),
        is_enabled: true,
    }
}

async fn hook(running: &Running, url: &str) -> WebhookView {
    let made = running.control.webhook_create(&running.tenant, wanted(url));
    made.await.unwrap()
}

async fn live_and_die(running: &Running) -> Vec<(SandboxId, EventKind)> {
    let id = running.create().await.sandbox.id;
    let killed = running.control.sandbox_kill(&running.tenant, &id).await;
    killed.unwrap();
    LIFE.map(|kind| (id.clone(), kind)).to_vec()
}

#[tokio::test]
async fn a_receiver_that_fails_at_first_gets_everything_in_order() {
    let world = world();
    let receivers = Arc::new(Receivers::default());
    let running = start(&world, &receivers).await;
    receivers.behave("test:a", Manner::Refuses(7));
    let made = hook(&running, "test:a").await;
    let mut expected = live_and_die(&running).await;
    expected.extend(live_and_die(&running).await);
    wait_for("all is delivered", async || {
        receivers.heard("test:a") == expected
    })
    .await;
    let last = receivers.accepted("test:a").pop().unwrap();
    let Notice::Event { sandbox, .. } = last else {
        panic!("{last:?}");
    };
    assert_eq!(sandbox.unwrap().id, expected[5].0);
    let view = running.control.webhook_get(&running.tenant, &made.id).await;
    assert_eq!(view.unwrap().failing_since, None);
    running.stop().await;
}

#[tokio::test]
async fn a_dead_receiver_delays_no_other() {
    let world = world();
    let receivers = Arc::new(Receivers::default());
    let running = start(&world, &receivers).await;
    receivers.behave("test:dead", Manner::Hangs);
    receivers.behave("test:broken", Manner::Refuses(u32::MAX));
    for url in ["test:dead", "test:broken", "test:fine"] {
        hook(&running, url).await;
    }
    let expected = live_and_die(&running).await;
    wait_for("the living has all", async || {
        receivers.heard("test:fine") == expected
    })
    .await;
    assert_eq!(receivers.heard("test:dead"), []);
    assert_eq!(receivers.heard("test:broken"), []);
    running.stop().await;
}

/// What was committed while nothing was delivered reaches the receiver after a restart.
#[tokio::test]
async fn what_was_not_delivered_is_delivered_after_a_restart() {
    let world = world();
    let receivers = Arc::new(Receivers::default());
    let running = start(&world, &receivers).await;
    receivers.behave("test:a", Manner::Hangs);
    hook(&running, "test:a").await;
    let mut expected = live_and_die(&running).await;
    running.stop().await;

    receivers.behave("test:a", Manner::Accepts);
    let running = start(&world, &receivers).await;
    expected.extend(live_and_die(&running).await);
    wait_for("all is delivered", async || {
        receivers.heard("test:a") == expected
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up_and_can_go_on() {
    let mut world = world();
    world.config.webhooks.give_up_after = Duration::from_millis(50);
    let receivers = Arc::new(Receivers::default());
    let running = start(&world, &receivers).await;
    let control = &running.control;
    receivers.behave("test:a", Manner::Refuses(u32::MAX));
    receivers.behave("test:gone", Manner::Gone);
    let broken = hook(&running, "test:a").await;
    let gone = hook(&running, "test:gone").await;
    let selection = EventSelection {
        kinds: vec![EventKind::WebhookDisabled],
        ..EventSelection::default()
    };
    let mut told = control
        .events_watch(&running.tenant, &selection, StartAt::Now)
        .unwrap();
    let expected = live_and_die(&running).await;
    for _ in 0..2 {
        let next = tokio::time::timeout(Duration::from_secs(15), told.next());
        next.await.expect("nobody is told").unwrap().unwrap();
    }
    for id in [&broken.id, &gone.id] {
        let view = control.webhook_get(&running.tenant, id).await.unwrap();
        assert!(!view.is_enabled);
        assert!(view.disabled_reason.is_some());
    }
    receivers.behave("test:a", Manner::Accepts);
    let change = WebhookChange {
        is_enabled: Some(true),
        ..WebhookChange::default()
    };
    let changed = control.webhook_update(&running.tenant, &broken.id, change);
    let view = changed.await.unwrap();
    assert_eq!((view.is_enabled, view.disabled_reason), (true, None));
    wait_for("it goes on where it stopped", async || {
        receivers.heard("test:a") == expected
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_webhook_that_its_owner_switched_off_begins_with_what_follows() {
    let world = world();
    let receivers = Arc::new(Receivers::default());
    let running = start(&world, &receivers).await;
    let made = hook(&running, "test:a").await;
    let switch = async |is_enabled| {
        let change = WebhookChange {
            is_enabled: Some(is_enabled),
            ..WebhookChange::default()
        };
        let control = &running.control;
        let changed = control.webhook_update(&running.tenant, &made.id, change);
        changed.await.unwrap()
    };
    switch(false).await;
    live_and_die(&running).await;
    switch(true).await;
    let expected = live_and_die(&running).await;
    wait_for("the rest is delivered", async || {
        receivers.heard("test:a") == expected
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn webhooks_are_of_one_team_and_bounded() {
    let world = world();
    let receivers = Arc::new(Receivers::default());
    let running = start(&world, &receivers).await;
    let (control, own, other) = (&running.control, &running.tenant, stranger());
    let made = hook(&running, "test:a").await;
    assert_eq!(control.webhook_list(&other).await.unwrap(), []);
    let change = WebhookChange::default();
    for error in [
        control.webhook_get(&other, &made.id).await.unwrap_err(),
        control
            .webhook_update(&other, &made.id, change.clone())
            .await
            .unwrap_err(),
        control.webhook_remove(&other, &made.id).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::NotFound);
    }
    let reader = Tenant {
        scope: Scope::ReadOnly,
        ..own.clone()
    };
    let refused = control.webhook_create(&reader, wanted("test:b")).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::PermissionDenied);
    for change in [
        |new: &mut NewWebhook| new.name.clear(),
        |new: &mut NewWebhook| new.url = "http://elsewhere".to_owned(),
        |new: &mut NewWebhook| new.kinds.clear(),
        |new: &mut NewWebhook| new.kinds.push(EventKind::Log),
        |new: &mut NewWebhook| new.secret = SecretString::from("short"),
    ] {
        let mut new = wanted("test:b");
        change(&mut new);
        let refused = control.webhook_create(own, new).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidArgument);
    }
    for _ in 1..20 {
        hook(&running, "test:b").await;
    }
    let refused = control.webhook_create(own, wanted("test:b")).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::QuotaExceeded);
    control.webhook_remove(own, &made.id).await.unwrap();
    live_and_die(&running).await;
    wait_for("the others are told", async || {
        receivers.heard("test:b").len() == 19 * LIFE.len()
    })
    .await;
    assert_eq!(receivers.heard("test:a"), []);
    running.stop().await;
}

#[tokio::test]
async fn without_a_sender_there_are_no_webhooks() {
    let world = world();
    let running = world.start().await;
    let refused = running
        .control
        .webhook_create(&running.tenant, wanted("test:a"));
    assert_eq!(refused.await.unwrap_err().kind, ErrorKind::Unsupported);
    running.stop().await;
}
