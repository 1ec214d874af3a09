//! Every write as a value, and how it is carried out inside a transaction.
//!
//! A write is a value rather than a closure so that a group that failed can be run again one by
//! one.

use atoll_core::event::Cursor;
use atoll_core::id::{KeyId, SandboxId, TeamId, TemplateId, WebhookId};
use atoll_core::quota::Limits;
use atoll_core::sandbox::{OnTimeout, Sandbox};
use atoll_core::template::Template;
use atoll_core::time::Timestamp;

use super::batch::readmit;
use super::dialect::{Columns, Lock, Tx, column, fetch};
use super::forecast;
use super::lease::{self, LeaseWrite};
use super::many::{Many, many};
use super::node::{self, NodeWrite};
use super::statement::query;
use super::{decode, event, team, webhook};
use crate::queries;
use crate::row::{config_to_json, corrupt, micros, status_name, to_i64};
use crate::store::forecast::ForecastRow;
use crate::store::lease::Lease;
use crate::store::node::NodeRow;
use crate::store::{
    Admission, AuditRow, EventRow, Inserted, Intent, IntentChange, KeyRow, NewSandbox, Pruned,
    Readmission, Removed, Result, TeamChange, TeamChanged, TeamRow, Transition,
};
use crate::webhook::{WebhookProgress, WebhookRow};

/// One write.
#[derive(Debug)]
pub(crate) enum Write {
    MetaEnsure {
        name: String,
        value: String,
    },
    ForecastPut(Box<ForecastRow>),
    TeamEnsure {
        id: TeamId,
        name: String,
        at: Timestamp,
    },
    TeamInsert(Box<TeamRow>),
    TeamUpdate {
        id: TeamId,
        change: TeamChange,
    },
    KeyInsert(KeyRow),
    KeyRemove {
        team: TeamId,
        key: KeyId,
    },
    KeyTouch(Vec<(KeyId, Timestamp)>),
    IdempotencyRelease {
        team: TeamId,
        key: String,
        sandbox: SandboxId,
    },
    TemplateInsert(Template),
    TemplateUpdate(Template),
    TemplateSpawned {
        id: TemplateId,
        count: u64,
        last: Timestamp,
    },
    TemplateRemove(TemplateId),
    SandboxInsert(Box<NewSandbox>),
    SandboxTransition(Box<Transition>),
    SandboxReadmit {
        transition: Box<Transition>,
        limits: Limits,
    },
    SandboxIntend(Box<Intent>),
    EventAppend(Vec<EventRow>),
    EventCursorSet {
        name: String,
        cursor: Cursor,
        at: Timestamp,
    },
    AuditAppend(Vec<AuditRow>),
    AuditPrune {
        before: Timestamp,
        keep: u64,
        limit: u32,
    },
    Node(NodeWrite),
    Lease(LeaseWrite),
    HistoryPrune(Prune),
    WebhookInsert {
        row: Box<WebhookRow>,
        most: u32,
    },
    WebhookUpdate {
        row: Box<WebhookRow>,
        events: Vec<EventRow>,
    },
    WebhookProgress(Box<WebhookProgress>),
    WebhookRemove {
        team: TeamId,
        id: WebhookId,
    },
}

/// What of the past goes, counts turned into limits of time and place.
#[derive(Debug)]
pub(crate) struct Prune {
    /// Sandboxes that ended before this.
    pub(super) ended_before: Timestamp,
    /// What belongs to no sandbox and is from before this.
    pub(super) before: Timestamp,
    /// Events up to here.
    pub(super) through: Cursor,
    /// At most so many sandboxes.
    pub(super) limit: u32,
}

/// What a write answers. Each write has one form of answer, which its caller knows.
#[derive(Debug)]
pub(crate) enum Reply {
    Unit,
    Text(String),
    Count(u64),
    Inserted(Inserted),
    Removed(Removed),
    TeamChanged(TeamChanged),
    Admission(Admission),
    Sandbox(Option<Box<Sandbox>>),
    Pruned(Pruned),
    Readmission(Readmission),
    Node(Option<Box<NodeRow>>),
    Lease(Option<Lease>),
}

macro_rules! into {
    ($name:ident, $variant:ident, $type:ty) => {
        pub(super) fn $name(self) -> $type {
            match self {
                Self::$variant(value) => value,
                other => unreachable!("a write answered {other:?}"),
            }
        }
    };
}

impl Reply {
    into!(into_text, Text, String);
    into!(into_count, Count, u64);
    into!(into_inserted, Inserted, Inserted);
    into!(into_removed, Removed, Removed);
    into!(into_team_changed, TeamChanged, TeamChanged);
    into!(into_admission, Admission, Admission);
    into!(into_pruned, Pruned, Pruned);
    into!(into_readmission, Readmission, Readmission);
    into!(into_lease, Lease, Option<Lease>);

    pub(super) fn into_unit(self) {
        assert!(matches!(self, Self::Unit), "a write answered {self:?}");
    }

    pub(super) fn into_node(self) -> Option<NodeRow> {
        match self {
            Self::Node(row) => row.map(|row| *row),
            other => unreachable!("a write answered {other:?}"),
        }
    }

    pub(super) fn into_sandbox(self) -> Option<Sandbox> {
        match self {
            Self::Sandbox(row) => row.map(|row| *row),
            other => unreachable!("a write answered {other:?}"),
        }
    }
}

/// Carries out one write inside the caller's transaction.
pub(super) async fn apply<T: Tx>(tx: &mut T, write: &Write) -> Result<Reply> {
    match write {
        Write::MetaEnsure { name, value } => meta_ensure(tx, name, value).await,
        Write::TeamEnsure { id, name, at } => team::ensure(tx, id, name, *at).await,
        Write::TeamInsert(team) => team::insert(tx, team).await,
        Write::TeamUpdate { id, change } => team::update(tx, id, change).await,
        Write::KeyInsert(key) => team::key_insert(tx, key).await,
        Write::KeyRemove { team, key } => team::key_remove(tx, team, key).await,
        Write::KeyTouch(used) => team::key_touch(tx, used).await,
        Write::IdempotencyRelease { team, key, sandbox } => {
            let release = query(queries::IDEMPOTENCY_RELEASE)
                .bind(team.as_str())
                .bind(key)
                .bind(sandbox.as_str());
            tx.execute("release an idempotency key", release).await?;
            Ok(Reply::Unit)
        }
        Write::TemplateInsert(template) => template_insert(tx, template).await,
        Write::TemplateUpdate(template) => template_update(tx, template).await,
        Write::TemplateSpawned { id, count, last } => {
            let statement = query(queries::TEMPLATE_SPAWNED)
                .bind(id.as_str())
                .bind(to_i64(*count))
                .bind(last.as_micros());
            tx.execute("count a template's use", statement).await?;
            Ok(Reply::Unit)
        }
        Write::TemplateRemove(id) => template_remove(tx, id).await,
        Write::SandboxInsert(_) | Write::SandboxTransition(_) | Write::AuditAppend(_) => {
            unreachable!("these are always gathered")
        }
        Write::SandboxReadmit { transition, limits } => readmit(tx, transition, *limits).await,
        Write::SandboxIntend(intent) => sandbox_intend(tx, intent).await,
        Write::EventAppend(events) => {
            tx.tell(&events.iter().collect::<Vec<_>>(), &[]).await?;
            Ok(Reply::Unit)
        }
        Write::EventCursorSet { name, cursor, at } => {
            event::cursor_set(tx, name, *cursor, *at).await?;
            Ok(Reply::Unit)
        }
        Write::AuditPrune {
            before,
            keep,
            limit,
        } => {
            let statement = query(queries::AUDIT_PRUNE)
                .bind(before.as_micros())
                .bind(to_i64(*keep))
                .bind(i64::from(*limit));
            Ok(Reply::Count(
                tx.execute("prune the audit", statement).await?,
            ))
        }
        Write::Node(write) => node::apply(tx, write).await,
        Write::ForecastPut(row) => forecast::put(tx, row).await,
        Write::Lease(write) => lease::apply(tx, write).await,
        Write::HistoryPrune(prune) => history_prune(tx, prune).await,
        Write::WebhookInsert { row, most } => webhook::insert(tx, row, *most).await,
        Write::WebhookUpdate { row, events } => webhook::update(tx, row, events).await,
        Write::WebhookProgress(progress) => webhook::progress(tx, progress).await,
        Write::WebhookRemove { team, id } => webhook::remove(tx, team, id).await,
    }
}

pub(super) fn count_of(row: &impl Columns) -> Result<i64> {
    column(row, 0)
}

async fn meta_ensure<T: Tx>(tx: &mut T, name: &str, value: &str) -> Result<Reply> {
    let operation = "ensure a meta value";
    let insert = query(queries::META_INSERT).bind(name).bind(value);
    tx.execute(operation, insert).await?;
    let row = fetch(tx, operation, query(queries::META_GET).bind(name)).await?;
    let row = row.ok_or_else(|| corrupt("meta", name, "it was not written".to_owned()))?;
    Ok(Reply::Text(column(&row, 0)?))
}

async fn template_insert<T: Tx>(tx: &mut T, template: &Template) -> Result<Reply> {
    let operation = "insert a template";
    tx.lock(Lock::TemplateNames).await?;
    let owner = template.team.as_ref().map_or("", TeamId::as_str);
    for name in &template.names {
        let taken = query(queries::TEMPLATE_NAME_TAKEN).bind(owner).bind(name);
        if let Some(row) = fetch(tx, operation, taken).await?
            && count_of(&row)? > 0
        {
            return Ok(Reply::Inserted(Inserted::AlreadyExists));
        }
    }
    let insert = query(queries::TEMPLATE_INSERT)
        .bind(template.id.as_str())
        .bind(template.team.as_ref().map(TeamId::as_str))
        .bind(i64::from(template.is_public))
        .bind(template.created_at.as_micros())
        .bind(template.updated_at.as_micros());
    tx.execute(operation, insert).await?;
    let build = query(queries::BUILD_INSERT)
        .bind(template.build.as_str())
        .bind(template.id.as_str())
        .bind(status_name(template.status))
        .bind(i64::from(template.resources.cpu_millis))
        .bind(i64::from(template.resources.memory_mib))
        .bind(i64::from(template.resources.disk_mib))
        .bind(&template.envd_version)
        .bind(template.created_at.as_micros());
    tx.execute(operation, build).await?;
    for name in &template.names {
        let statement = query(queries::TEMPLATE_NAME_INSERT)
            .bind(owner)
            .bind(name)
            .bind(template.id.as_str());
        tx.execute(operation, statement).await?;
    }
    Ok(Reply::Inserted(Inserted::Yes))
}

async fn template_update<T: Tx>(tx: &mut T, template: &Template) -> Result<Reply> {
    let operation = "update a template";
    let touch = query(queries::TEMPLATE_TOUCH)
        .bind(template.id.as_str())
        .bind(template.updated_at.as_micros())
        .bind(i64::from(template.is_public));
    tx.execute(operation, touch).await?;
    let build = query(queries::BUILD_UPDATE)
        .bind(template.build.as_str())
        .bind(status_name(template.status))
        .bind(i64::from(template.resources.cpu_millis))
        .bind(i64::from(template.resources.memory_mib))
        .bind(i64::from(template.resources.disk_mib))
        .bind(&template.envd_version);
    tx.execute(operation, build).await?;
    Ok(Reply::Unit)
}

async fn template_remove<T: Tx>(tx: &mut T, id: &TemplateId) -> Result<Reply> {
    let operation = "remove a template";
    let used = query(queries::TEMPLATE_IN_USE).bind(id.as_str());
    if let Some(row) = fetch(tx, operation, used).await? {
        let count = count_of(&row)?;
        if count > 0 {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            return Ok(Reply::Removed(Removed::InUse(count)));
        }
    }
    for text in [
        queries::TEMPLATE_NAMES_DELETE,
        queries::TEMPLATE_BUILDS_DELETE,
    ] {
        tx.execute(operation, query(text).bind(id.as_str())).await?;
    }
    let statement = query(queries::TEMPLATE_DELETE).bind(id.as_str());
    let removed = match tx.execute(operation, statement).await? {
        0 => Removed::Unknown,
        _ => Removed::Yes,
    };
    Ok(Reply::Removed(removed))
}

async fn sandbox_intend<T: Tx>(tx: &mut T, intent: &Intent) -> Result<Reply> {
    let operation = "change what is wanted of a sandbox";
    let begun = |text: &'static str| {
        query(text)
            .bind(intent.id.as_str())
            .bind(intent.at.as_micros())
    };
    let claimed_by = intent.claimed_by.as_ref().map(|server| server.as_str());
    let turned = |text: &'static str| begun(text).bind(claimed_by);
    let statement = match &intent.change {
        IntentChange::Stop(_) => unreachable!("these are always gathered"),
        IntentChange::Expire { seen, how } => match how {
            OnTimeout::Kill => turned(queries::SANDBOX_EXPIRE).bind(seen.as_micros()),
            OnTimeout::Pause { keep_memory } => turned(queries::SANDBOX_EXPIRE_TO_PAUSE)
                .bind(seen.as_micros())
                .bind(i64::from(*keep_memory)),
        },
        IntentChange::Pause { keep_memory } => {
            turned(queries::SANDBOX_PAUSE).bind(i64::from(*keep_memory))
        }
        IntentChange::Resume { timeout } => turned(queries::SANDBOX_RESUME).bind(micros(*timeout)),
        IntentChange::StayPaused => begun(queries::SANDBOX_STAY_PAUSED),
        IntentChange::NoteSnapshot(snapshot) => begun(queries::SANDBOX_SNAPSHOT)
            .bind(snapshot.store.as_str())
            .bind(to_i64(snapshot.generation.get()))
            .bind(snapshot.digest.to_string())
            .bind(to_i64(snapshot.bytes)),
        IntentChange::Restart => turned(queries::SANDBOX_RESTART),
        IntentChange::SetDeadline(deadline) => {
            begun(queries::SANDBOX_SET_DEADLINE).bind(deadline.as_micros())
        }
        IntentChange::ExtendDeadline(deadline) => {
            begun(queries::SANDBOX_EXTEND_DEADLINE).bind(deadline.as_micros())
        }
        IntentChange::SetNetwork(policy) => {
            let Some(mut sandbox) = get(tx, &intent.id).await? else {
                return Ok(Reply::Sandbox(None));
            };
            sandbox.config.network = policy.clone();
            begun(queries::SANDBOX_SET_CONFIG).bind(config_to_json(&sandbox.config))
        }
    };
    let Some(row) = fetch(tx, operation, statement).await? else {
        return Ok(Reply::Sandbox(None));
    };
    let events: Vec<_> = intent.events.iter().collect();
    tx.tell(&events, intent.audit.as_deref().as_slice()).await?;
    Ok(Reply::Sandbox(Some(Box::new(decode::sandbox(&row)?))))
}

/// A sandbox as it is, and stays until the transaction is over.
pub(super) async fn get<T: Tx>(tx: &mut T, id: &SandboxId) -> Result<Option<Sandbox>> {
    let text = if T::LOCKS_ROWS {
        queries::SANDBOX_HOLD
    } else {
        queries::SANDBOX_GET
    };
    let row = fetch(tx, "get a sandbox", query(text).bind(id.as_str())).await?;
    row.as_ref().map(decode::sandbox).transpose()
}

static SANDBOXES_GONE: Many = many!(queries::SANDBOX_DELETE, "t");

async fn history_prune<T: Tx>(tx: &mut T, prune: &Prune) -> Result<Reply> {
    let operation = "prune history";
    let ended = query(queries::ENDED_BEFORE)
        .bind(prune.ended_before.as_micros())
        .bind(i64::from(prune.limit));
    let rows = tx.fetch_all(operation, ended).await?;
    let ids = rows.iter().map(|row| column(row, 0));
    let ids: Vec<String> = ids.collect::<Result<_>>()?;
    let through = event::forget_sandboxes(tx, &ids).await?;
    let gone = ids.iter().map(|id| query(queries::SANDBOX_DELETE).bind(id));
    tx.many(operation, &SANDBOXES_GONE, gone.collect()).await?;
    let (others, is_more_of_others) = event::forget_others(tx, prune).await?;
    let (oldest, is_more_of_oldest) = event::forget_oldest(tx, prune).await?;
    event::mark_pruned(tx, through.max(others).max(oldest)).await?;
    let statement = query(queries::IDEMPOTENCY_PRUNE).bind(prune.before.as_micros());
    tx.execute(operation, statement).await?;
    let sandboxes = ids.len() as u64;
    Ok(Reply::Pruned(Pruned {
        sandboxes,
        is_more: sandboxes >= u64::from(prune.limit) || is_more_of_others || is_more_of_oldest,
    }))
}
