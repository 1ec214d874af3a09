//! What every store must do with webhooks.

use atoll_core::event::{Cursor, EventKind};

use super::{at, event, team};
use crate::store::Store;
use crate::webhook::{SigningSecret, WebhookProgress, WebhookRow};

pub(super) fn hook(id: &str, second: i64) -> WebhookRow {
    WebhookRow {
        id: id.parse().unwrap(),
        team: team(),
        name: "mine".to_owned(),
        url: "https://example.com/a?b=c".to_owned(),
        kinds: vec![EventKind::SandboxCreated, EventKind::SandboxDeleted],
        secret: SigningSecret::new("secret'\n".to_owned()),
        is_enabled: true,
        disabled_reason: None,
        created_at: at(second),
        updated_at: at(second),
        version: 1,
        cursor: Cursor::new(7),
        failing_since: None,
        last_error: None,
    }
}

pub(super) async fn webhooks_are_kept_and_changed(store: &dyn Store) {
    store.team_ensure(&team(), "default", at(1)).await.unwrap();
    let (first, second) = (hook("b", 1), hook("a", 2));
    for row in [&first, &second] {
        assert!(store.webhook_insert(row, 2).await.unwrap());
    }
    assert!(!store.webhook_insert(&hook("c", 3), 2).await.unwrap());
    let found = store.webhook_get(&first.id).await.unwrap();
    assert_eq!(found, Some(first.clone()));
    let listed = store.webhook_list(&team()).await.unwrap();
    assert_eq!(listed, [first.clone(), second.clone()]);
    let other = "other".parse().unwrap();
    assert_eq!(store.webhook_list(&other).await.unwrap(), []);

    let mut changed = first.clone();
    changed.is_enabled = false;
    changed.disabled_reason = Some("it does not answer".to_owned());
    let told = event("ia", 5, "given up");
    let updated = store.webhook_update(changed.clone(), vec![told]).await;
    changed.version = 2;
    assert_eq!(updated.unwrap(), Some(changed.clone()));
    assert_eq!(*store.event_head().borrow(), Cursor::new(1));
    let found = store.webhook_get(&first.id).await.unwrap();
    assert_eq!(found, Some(changed));
    let stale = store.webhook_update(first.clone(), vec![event("ia", 6, "no")]);
    assert_eq!(stale.await.unwrap(), None);
    assert_eq!(*store.event_head().borrow(), Cursor::new(1));

    let enabled = store.webhook_list_enabled(None, 10).await.unwrap();
    assert_eq!(enabled, std::slice::from_ref(&second));
    let after = store.webhook_list_enabled(Some(&second.id), 10).await;
    assert_eq!(after.unwrap(), []);

    assert!(!store.webhook_remove(&other, &first.id).await.unwrap());
    assert!(store.webhook_remove(&team(), &first.id).await.unwrap());
    assert!(!store.webhook_remove(&team(), &first.id).await.unwrap());
}

pub(super) async fn progress_of_an_older_version_is_refused(store: &dyn Store) {
    store.team_ensure(&team(), "default", at(1)).await.unwrap();
    let row = hook("a", 1);
    store.webhook_insert(&row, 1).await.unwrap();
    let progress = |version, cursor| WebhookProgress {
        id: row.id.clone(),
        version,
        cursor: Cursor::new(cursor),
        failing_since: Some(at(9)),
        last_error: Some("refused".to_owned()),
    };
    assert!(store.webhook_progress(progress(1, 9)).await.unwrap());
    let kept = store.webhook_get(&row.id).await.unwrap().unwrap();
    assert_eq!((kept.version, kept.cursor), (1, Cursor::new(9)));
    assert_eq!(kept.failing_since, Some(at(9)));
    assert_eq!(kept.last_error.as_deref(), Some("refused"));
    store.webhook_update(kept, Vec::new()).await.unwrap();
    assert!(!store.webhook_progress(progress(1, 11)).await.unwrap());
    let kept = store.webhook_get(&row.id).await.unwrap().unwrap();
    assert_eq!((kept.version, kept.cursor), (2, Cursor::new(9)));
}
