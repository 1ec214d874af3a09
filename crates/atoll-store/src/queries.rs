//! Every SQL text. `$n` placeholders and the clauses used here mean the same to SQLite and
//! PostgreSQL.

pub(crate) const META_INSERT: &str =
    "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
pub(crate) const META_GET: &str = "SELECT value FROM meta WHERE name = $1";

/// The columns of a team, in the order that the row reader expects.
macro_rules! team_columns {
    () => {
        "id, name, created_at, disabled, max_concurrent, max_cpu_millis, max_memory_mib, \
         max_disk_mib, creates_per_second, creates_burst, requests_per_second, requests_burst, \
         concurrent, cpu_millis, memory_mib, disk_mib, running, policy, weight"
    };
}

pub(crate) const TEAM_ENSURE: &str = "INSERT INTO teams (id, name, created_at) VALUES ($1, $2, $3) \
     ON CONFLICT (id) DO NOTHING";
pub(crate) const TEAM_NAME_TAKEN: &str = "SELECT COUNT(*) FROM teams WHERE name = $1 AND id <> $2";
pub(crate) const TEAM_INSERT: &str = "INSERT INTO teams (id, name, created_at, disabled, \
     max_concurrent, max_cpu_millis, max_memory_mib, max_disk_mib, creates_per_second, \
     creates_burst, requests_per_second, requests_burst, policy, weight) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
     ON CONFLICT (id) DO NOTHING";
pub(crate) const TEAM_UPDATE: &str = concat!(
    "UPDATE teams SET name = $2, disabled = $3, max_concurrent = $4, max_cpu_millis = $5, \
     max_memory_mib = $6, max_disk_mib = $7, creates_per_second = $8, creates_burst = $9, \
     requests_per_second = $10, requests_burst = $11, policy = $12, weight = $13 \
     WHERE id = $1 RETURNING ",
    team_columns!()
);
pub(crate) const TEAM_GET: &str = concat!("SELECT ", team_columns!(), " FROM teams WHERE id = $1");
/// The same, so that nobody else changes it until the transaction is over. PostgreSQL only.
pub(crate) const TEAM_HOLD: &str = concat!(
    "SELECT ",
    team_columns!(),
    " FROM teams WHERE id = $1 FOR NO KEY UPDATE"
);
/// The same for several, locked in the order of their ids.
pub(crate) const TEAMS_HOLD: &str = concat!(
    "SELECT ",
    team_columns!(),
    " FROM teams WHERE id = ANY($1::text[]) ORDER BY id FOR NO KEY UPDATE"
);
pub(crate) const FORECAST_PUT: &str = "INSERT INTO forecast (name, at, data) \
     VALUES ('arrivals', $1, $2) \
     ON CONFLICT (name) DO UPDATE SET at = excluded.at, data = excluded.data";
pub(crate) const FORECAST_GET: &str = "SELECT at, data FROM forecast WHERE name = 'arrivals'";

pub(crate) const TEAM_LIST: &str = concat!(
    "SELECT ",
    team_columns!(),
    " FROM teams ORDER BY created_at, id"
);
/// Moves a team's sums.
pub(crate) const TEAM_COUNT: &str = "UPDATE teams SET concurrent = concurrent + $2, \
     cpu_millis = cpu_millis + $3, memory_mib = memory_mib + $4, disk_mib = disk_mib + $5, \
     running = running + $6 WHERE id = $1";

/// The columns of a key, in the order that the row reader expects.
macro_rules! key_columns {
    () => {
        "id, team, name, hash, masked_start, masked_end, read_only, created_at, created_by, \
         last_used_at"
    };
}

pub(crate) const KEY_INSERT: &str = concat!(
    "INSERT INTO api_keys (",
    key_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (hash) DO NOTHING"
);
pub(crate) const KEY_FIND: &str =
    concat!("SELECT ", key_columns!(), " FROM api_keys WHERE hash = $1");
pub(crate) const KEY_LIST: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_keys WHERE team = $1 ORDER BY created_at, id"
);
pub(crate) const KEY_REMOVE: &str = "DELETE FROM api_keys WHERE team = $1 AND id = $2";
pub(crate) const KEY_TOUCH: &str = "UPDATE api_keys SET last_used_at = $2 WHERE id = $1";

pub(crate) const TEMPLATE_INSERT: &str = "INSERT INTO templates \
     (id, team, is_public, created_at, updated_at) VALUES ($1, $2, $3, $4, $5)";
pub(crate) const TEMPLATE_NAME_TAKEN: &str =
    "SELECT COUNT(*) FROM template_names WHERE owner = $1 AND name = $2";
pub(crate) const TEMPLATE_NAME_INSERT: &str =
    "INSERT INTO template_names (owner, name, template) VALUES ($1, $2, $3)";
pub(crate) const BUILD_INSERT: &str = "INSERT INTO template_builds \
     (id, template, status, cpu_millis, memory_mib, disk_mib, envd_version, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
pub(crate) const TEMPLATE_TOUCH: &str =
    "UPDATE templates SET updated_at = $2, is_public = $3 WHERE id = $1";
pub(crate) const BUILD_UPDATE: &str = "UPDATE template_builds SET status = $2, cpu_millis = $3, \
     memory_mib = $4, disk_mib = $5, envd_version = $6 WHERE id = $1";
pub(crate) const TEMPLATE_LIST: &str = "SELECT t.id, t.team, t.is_public, t.created_at, \
     t.updated_at, t.spawn_count, t.last_spawned_at, b.id, b.status, b.cpu_millis, b.memory_mib, \
     b.disk_mib, b.envd_version, \
     (SELECT COUNT(*) FROM template_builds c WHERE c.template = t.id) \
     FROM templates t JOIN template_builds b ON b.id = \
     (SELECT n.id FROM template_builds n WHERE n.template = t.id \
      ORDER BY n.created_at DESC, n.id DESC LIMIT 1) \
     ORDER BY t.created_at, t.id";
pub(crate) const TEMPLATE_NAMES: &str =
    "SELECT template, name FROM template_names ORDER BY template, name";
pub(crate) const TEMPLATE_SPAWNED: &str = "UPDATE templates \
     SET spawn_count = spawn_count + $2, last_spawned_at = $3 WHERE id = $1";
pub(crate) const TEMPLATE_IN_USE: &str =
    "SELECT COUNT(*) FROM sandboxes WHERE template = $1 AND state <> 'stopped'";
pub(crate) const TEMPLATE_NAMES_DELETE: &str = "DELETE FROM template_names WHERE template = $1";
pub(crate) const TEMPLATE_BUILDS_DELETE: &str = "DELETE FROM template_builds WHERE template = $1";
pub(crate) const TEMPLATE_DELETE: &str = "DELETE FROM templates WHERE id = $1";

/// The columns of a sandbox, in the order that the row reader expects.
macro_rules! sandbox_columns {
    () => {
        "id, team, template, build, alias, config, state, desired, stop_reason, generation, node, \
         created_at, started_at, deadline, updated_at, ended_at, last_error, created_by, revision, \
         timeout, keep_memory, kept_generation, kept_at, restarting, claimed_by, kept_on, \
         snapshot_store, snapshot_generation, snapshot_digest, snapshot_bytes"
    };
}

pub(crate) const SANDBOX_INSERT: &str = concat!(
    "INSERT INTO sandboxes (",
    sandbox_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
     $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30)"
);
pub(crate) const LABEL_INSERT: &str = "INSERT INTO sandbox_labels \
     (sandbox, team, name, value, created_at) VALUES ($1, $2, $3, $4, $5)";
pub(crate) const LABELS_DELETE: &str = "DELETE FROM sandbox_labels WHERE sandbox = $1";
pub(crate) const LABELS_PAUSED: &str = "UPDATE sandbox_labels SET paused = $2 WHERE sandbox = $1";
pub(crate) const SANDBOX_GET: &str = concat!(
    "SELECT ",
    sandbox_columns!(),
    " FROM sandboxes WHERE id = $1"
);
/// The beginning of a look at several; their ids are appended.
pub(crate) const SANDBOX_LIST_BY_ID: &str =
    concat!("SELECT ", sandbox_columns!(), " FROM sandboxes WHERE id");
/// The same, so that nobody else changes it until the transaction is over. PostgreSQL only.
pub(crate) const SANDBOX_HOLD: &str = concat!(
    "SELECT ",
    sandbox_columns!(),
    " FROM sandboxes WHERE id = $1 FOR NO KEY UPDATE"
);
pub(crate) const SANDBOX_LIST_LIVE: &str = concat!(
    "SELECT ",
    sandbox_columns!(),
    " FROM sandboxes WHERE state <> 'stopped' AND id > $1 ORDER BY id LIMIT $2"
);
/// What is null keeps what is there; `$15` takes it from its node. A start sets the deadline and
/// ends pause and restart; a failure ends a restart.
macro_rules! sandbox_transition {
    () => {
        "UPDATE sandboxes SET state = $4, \
         node = CASE WHEN $15 = 0 THEN COALESCE($5, node) END, \
         generation = COALESCE($6, generation), \
         deadline = COALESCE($7 + timeout, $14, deadline), \
         started_at = COALESCE($7, started_at), ended_at = COALESCE($8, ended_at), \
         desired = CASE WHEN $9 IS NOT NULL OR desired = 'stopped' THEN 'stopped' \
                        ELSE COALESCE($13, desired) END, \
         stop_reason = COALESCE(stop_reason, $9), last_error = COALESCE($10, last_error), \
         kept_at = CASE WHEN $7 IS NULL THEN COALESCE($12, kept_at) END, \
         kept_generation = CASE WHEN $7 IS NOT NULL THEN NULL \
                                WHEN $12 IS NOT NULL THEN generation \
                                ELSE kept_generation END, \
         kept_on = CASE WHEN $7 IS NOT NULL OR $15 <> 0 THEN NULL \
                        WHEN $12 IS NOT NULL THEN node ELSE kept_on END, \
         snapshot_store = CASE WHEN $7 IS NULL THEN snapshot_store END, \
         snapshot_generation = CASE WHEN $7 IS NULL THEN snapshot_generation END, \
         snapshot_digest = CASE WHEN $7 IS NULL THEN snapshot_digest END, \
         snapshot_bytes = CASE WHEN $7 IS NULL THEN snapshot_bytes END, \
         restarting = CASE WHEN $7 IS NULL AND $4 <> 'error' THEN restarting ELSE 0 END, \
         updated_at = $11, revision = revision + 1 \
         WHERE id = $1 AND state = $2 AND generation = $3"
    };
}
pub(crate) const SANDBOX_TRANSITION: &str =
    concat!(sandbox_transition!(), " RETURNING ", sandbox_columns!());
pub(crate) const SANDBOX_READMIT: &str = concat!(
    sandbox_transition!(),
    " AND desired = 'running' RETURNING ",
    sandbox_columns!()
);

/// A change of what is wanted: `$2` is when.
macro_rules! sandbox_intend {
    ($change:literal, $condition:literal) => {
        concat!(
            "UPDATE sandboxes SET ",
            $change,
            ", updated_at = $2, revision = revision + 1 WHERE id = $1 AND desired ",
            $condition,
            " RETURNING ",
            sandbox_columns!()
        )
    };
}
pub(crate) const SANDBOX_STOP: &str = sandbox_intend!(
    "desired = 'stopped', stop_reason = $3, claimed_by = COALESCE($4, claimed_by)",
    "<> 'stopped'"
);
pub(crate) const SANDBOX_EXPIRE: &str = sandbox_intend!(
    "desired = 'stopped', stop_reason = 'expired', claimed_by = COALESCE($3, claimed_by)",
    "= 'running' AND deadline = $4"
);
pub(crate) const SANDBOX_EXPIRE_TO_PAUSE: &str = sandbox_intend!(
    "desired = 'paused', keep_memory = $5, claimed_by = COALESCE($3, claimed_by)",
    "= 'running' AND deadline = $4"
);
pub(crate) const SANDBOX_PAUSE: &str = sandbox_intend!(
    "desired = 'paused', keep_memory = $4, claimed_by = COALESCE($3, claimed_by)",
    "= 'running' AND state = 'running' AND restarting = 0"
);
pub(crate) const SANDBOX_RESUME: &str = sandbox_intend!(
    "desired = 'running', timeout = $4, claimed_by = COALESCE($3, claimed_by)",
    "= 'paused' AND state = 'paused'"
);
pub(crate) const SANDBOX_STAY_PAUSED: &str =
    sandbox_intend!("desired = 'paused'", "= 'running' AND state = 'paused'");
pub(crate) const SANDBOX_SNAPSHOT: &str = sandbox_intend!(
    "snapshot_store = $3, snapshot_generation = $4, snapshot_digest = $5, snapshot_bytes = $6",
    "<> 'stopped' AND state = 'paused' AND kept_generation <= $4 AND generation >= $4 \
     AND COALESCE(snapshot_generation, -1) < $4"
);
pub(crate) const SANDBOX_RESTART: &str = sandbox_intend!(
    "restarting = 1, claimed_by = COALESCE($3, claimed_by)",
    "= 'running' AND state = 'running' AND restarting = 0"
);
pub(crate) const SANDBOX_SET_DEADLINE: &str = sandbox_intend!("deadline = $3", "<> 'stopped'");
pub(crate) const SANDBOX_EXTEND_DEADLINE: &str = sandbox_intend!(
    "deadline = CASE WHEN deadline < $3 THEN $3 ELSE deadline END",
    "<> 'stopped'"
);
pub(crate) const SANDBOX_SET_CONFIG: &str = sandbox_intend!("config = $3", "<> 'stopped'");

/// The beginning of a listing of a team, `$1`; the clauses below are appended with their
/// placeholders numbered.
pub(crate) const SANDBOX_LIST: &str = concat!(
    "SELECT ",
    sandbox_columns!(),
    " FROM sandboxes WHERE team = $1"
);
/// The beginning of a listing of those that carry the label of name `$2` and value `$3`. The index
/// over labels has the order of pages.
macro_rules! sandbox_list_labelled {
    ($labelled:literal, $which:literal, $join:literal) => {
        concat!(
            "SELECT ",
            sandbox_columns!(),
            " FROM (SELECT sandbox, created_at AS listed_at FROM sandbox_labels \
             WHERE team = $1 AND name = $2 AND ",
            $labelled,
            $which,
            ") AS labelled ",
            $join,
            " sandboxes ON id = sandbox WHERE TRUE"
        )
    };
}
/// `CROSS JOIN` has SQLite walk the index over labels, rather than the one over sandboxes.
pub(crate) const SANDBOX_LIST_LABELLED: &str =
    sandbox_list_labelled!("value = $3", "", "CROSS JOIN");
/// The same for what counts as paused, which has an index of its own: others may be many more.
pub(crate) const SANDBOX_LIST_LABELLED_PAUSED: &str =
    sandbox_list_labelled!("value = $3", " AND paused = 1", "CROSS JOIN");
/// For PostgreSQL, whose index holds the beginning of a value.
pub(crate) const PG_SANDBOX_LIST_LABELLED: &str = sandbox_list_labelled!(
    "left(value, 200) = left($3, 200) AND value = $3",
    "",
    "JOIN"
);
/// The same for what counts as paused.
pub(crate) const PG_SANDBOX_LIST_LABELLED_PAUSED: &str = sandbox_list_labelled!(
    "left(value, 200) = left($3, 200) AND value = $3",
    " AND paused = 1",
    "JOIN"
);
/// What clients can see. These lists of states repeat the partial indexes' so that the planner may
/// use them.
pub(crate) const LIST_VISIBLE: &str = " AND desired <> 'stopped' \
     AND state IN ('running', 'pausing', 'paused', 'resuming')";
/// Of these, what counts as paused.
pub(crate) const LIST_PAUSED: &str =
    " AND desired <> 'stopped' AND state IN ('pausing', 'paused', 'resuming')";
/// Restricts a listing to those that carry one more label.
pub(crate) const LIST_BY_LABEL: &str = " AND EXISTS (SELECT 1 FROM sandbox_labels AS other \
     WHERE other.sandbox = sandboxes.id AND other.name = ";

/// The columns of an event, in the order that the row reader expects.
macro_rules! event_columns {
    () => {
        "seq, sandbox, node, team, at, kind, level, message, fields"
    };
}

pub(crate) const EVENT_INSERT: &str = "INSERT INTO events \
     (sandbox, node, team, at, kind, level, message, fields, decision) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
/// The beginning of a subject's history; clauses are appended with their placeholders numbered.
pub(crate) const EVENT_LIST: &str =
    concat!("SELECT ", event_columns!(), ", decision FROM events WHERE ");
/// The beginning of a walk along the sequence; clauses are appended likewise. Decisions are part of
/// a subject's history only: subscribers would pay for them and have no use for them.
pub(crate) const EVENT_LIST_AFTER: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", NULL FROM events WHERE seq > $1 AND seq <= $2"
);
pub(crate) const EVENTS_DELETE: &str = "DELETE FROM events WHERE sandbox = $1";
pub(crate) const EVENTS_NEWEST_OF: &str =
    "SELECT COALESCE(MAX(seq), 0) FROM events WHERE sandbox = $1";
pub(crate) const EVENTS_OF_NO_SANDBOX: &str =
    "SELECT seq FROM events WHERE sandbox IS NULL AND at < $1 ORDER BY at LIMIT $2";
pub(crate) const EVENT_DELETE: &str = "DELETE FROM events WHERE seq = $1";
/// The last of the oldest events up to a cursor.
pub(crate) const EVENTS_OLDEST: &str = "SELECT COALESCE(MAX(seq), 0) FROM \
     (SELECT seq FROM events WHERE seq <= $1 ORDER BY seq LIMIT $2) AS oldest";
pub(crate) const EVENTS_DELETE_THROUGH: &str = "DELETE FROM events WHERE seq <= $1";
pub(crate) const EVENT_PRUNED_GET: &str = "SELECT through FROM event_prune WHERE id = 1";
pub(crate) const EVENT_PRUNED_SET: &str =
    "UPDATE event_prune SET through = $1 WHERE id = 1 AND through < $1";
pub(crate) const EVENT_COUNT_BETWEEN: &str =
    "SELECT COUNT(*) FROM events WHERE seq > $1 AND seq <= $2";
pub(crate) const EVENT_CURSOR_GET: &str = "SELECT seq FROM event_cursors WHERE name = $1";
pub(crate) const EVENT_CURSOR_SET: &str = "INSERT INTO event_cursors (name, seq, updated_at) \
     VALUES ($1, $2, $3) \
     ON CONFLICT (name) DO UPDATE SET seq = excluded.seq, updated_at = excluded.updated_at";
/// The newest event that ever was, also if it was pruned since. SQLite keeps it for itself.
pub(crate) const EVENT_HEAD: &str =
    "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)";

pub(crate) const IDEMPOTENCY_FIND: &str =
    "SELECT sandbox, fingerprint, team, key FROM idempotency_keys WHERE team = $1 AND key = $2";
pub(crate) const IDEMPOTENCY_INSERT: &str = "INSERT INTO idempotency_keys \
     (team, key, fingerprint, sandbox, created_at) VALUES ($1, $2, $3, $4, $5)";
pub(crate) const IDEMPOTENCY_RELEASE: &str =
    "DELETE FROM idempotency_keys WHERE team = $1 AND key = $2 AND sandbox = $3";

/// The columns of an audit row after its place, in the order that the row reader expects.
macro_rules! audit_columns {
    () => {
        "at, team, actor, operation, object, outcome, address, agent, trace, left_out"
    };
}

pub(crate) const AUDIT_INSERT: &str = concat!(
    "INSERT INTO audit (",
    audit_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
);
/// The beginning of a page; clauses are appended with their placeholders numbered.
pub(crate) const AUDIT_LIST: &str = concat!(
    "SELECT seq, ",
    audit_columns!(),
    " FROM audit WHERE seq < $1"
);
/// The oldest rows: those too old, and those beyond the newest so many.
pub(crate) const AUDIT_PRUNE: &str = "DELETE FROM audit WHERE seq IN \
     (SELECT seq FROM audit ORDER BY seq LIMIT $3) \
     AND (at < $1 OR seq <= (SELECT MAX(seq) FROM audit) - $2)";

/// The columns of a webhook, in the order that the row reader expects.
macro_rules! webhook_columns {
    () => {
        "id, team, name, url, kinds, secret, enabled, disabled_reason, created_at, updated_at, \
         version, seq, failing_since, last_error"
    };
}

pub(crate) const WEBHOOK_COUNT: &str = "SELECT COUNT(*) FROM webhooks WHERE team = $1";
pub(crate) const WEBHOOK_INSERT: &str = concat!(
    "INSERT INTO webhooks (",
    webhook_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
);
pub(crate) const WEBHOOK_GET: &str = concat!(
    "SELECT ",
    webhook_columns!(),
    " FROM webhooks WHERE id = $1"
);
pub(crate) const WEBHOOK_LIST: &str = concat!(
    "SELECT ",
    webhook_columns!(),
    " FROM webhooks WHERE team = $1 ORDER BY created_at, id"
);
pub(crate) const WEBHOOK_LIST_ENABLED: &str = concat!(
    "SELECT ",
    webhook_columns!(),
    " FROM webhooks WHERE enabled = 1 AND id > $1 ORDER BY id LIMIT $2"
);
pub(crate) const WEBHOOK_UPDATE: &str = "UPDATE webhooks SET version = version + 1, name = $3, \
     url = $4, kinds = $5, secret = $6, enabled = $7, disabled_reason = $8, updated_at = $9, \
     seq = $10, failing_since = $11, last_error = $12 WHERE id = $1 AND version = $2";
pub(crate) const WEBHOOK_PROGRESS: &str = "UPDATE webhooks SET seq = $3, failing_since = $4, \
     last_error = $5 WHERE id = $1 AND version = $2";
pub(crate) const WEBHOOK_REMOVE: &str = "DELETE FROM webhooks WHERE team = $1 AND id = $2";

/// When the last of those ended that are one too many.
pub(crate) const ENDED_BEYOND: &str = "SELECT ended_at FROM sandboxes \
     WHERE state = 'stopped' ORDER BY ended_at DESC LIMIT 1 OFFSET $1";
pub(crate) const ENDED_BEFORE: &str = "SELECT id FROM sandboxes \
     WHERE state = 'stopped' AND ended_at < $1 ORDER BY ended_at LIMIT $2";
pub(crate) const SANDBOX_DELETE: &str = "DELETE FROM sandboxes WHERE id = $1";
pub(crate) const IDEMPOTENCY_PRUNE: &str = "DELETE FROM idempotency_keys WHERE created_at < $1";

/// Its first time stays, and so does how it is being emptied.
pub(crate) const NODE_JOIN: &str = "INSERT INTO nodes \
     (id, name, address, tags, joined_at, updated_at, descriptor) \
     VALUES ($1, $2, $3, $4, $5, $5, $6) \
     ON CONFLICT (id) DO UPDATE SET name = excluded.name, address = excluded.address, \
     tags = excluded.tags, updated_at = excluded.updated_at, descriptor = excluded.descriptor \
     RETURNING id, name, address, tags, drain, joined_at, updated_at, descriptor";
pub(crate) const NODE_DRAIN: &str = "UPDATE nodes SET drain = $2, updated_at = $3 WHERE id = $1";
pub(crate) const NODE_LIST: &str = "SELECT id, name, address, tags, drain, joined_at, \
     updated_at, descriptor FROM nodes ORDER BY id";
pub(crate) const NODE_REMOVE: &str = "DELETE FROM nodes WHERE id = $1";

/// Address and version stay as they were at the first beat: they do not change.
pub(crate) const SERVER_BEAT: &str = "INSERT INTO servers (id, address, version, silent, beats) \
     VALUES ($1, $2, $3, $4, 1) \
     ON CONFLICT (id) DO UPDATE SET silent = excluded.silent, beats = servers.beats + 1";
pub(crate) const SERVER_LIST: &str =
    "SELECT id, address, version, silent, beats FROM servers ORDER BY id";
pub(crate) const SERVER_REMOVE: &str =
    "DELETE FROM servers WHERE id = $1 AND beats = COALESCE($2, beats)";
pub(crate) const CLAIM_PASS: &str = "UPDATE sandboxes SET claimed_by = $3, \
     revision = revision + 1 WHERE id = $1 AND revision = $2";
pub(crate) const LEASE_GET: &str = "SELECT holder, term FROM leases WHERE name = $1";
pub(crate) const LEASE_TAKE: &str = "INSERT INTO leases (name, holder, term) \
     SELECT $1, id, 1 FROM servers WHERE id = $2 \
     ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, term = leases.term + 1 \
     WHERE NOT EXISTS (SELECT 1 FROM servers WHERE servers.id = leases.holder)";

pub(crate) const CORRECTION_INSERT: &str = "INSERT INTO corrections \
     (at, kind, node, sandbox, generation, reason) VALUES ($1, $2, $3, $4, $5, $6)";
pub(crate) const CORRECTION_PRUNE: &str =
    "DELETE FROM corrections WHERE seq <= (SELECT MAX(seq) FROM corrections) - $1";
pub(crate) const CORRECTION_LIST: &str = "SELECT at, kind, node, sandbox, generation, reason \
     FROM corrections ORDER BY seq DESC LIMIT $1";

pub(crate) const PING: &str = "SELECT 1";

pub(crate) const SCHEMA_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_version \
     (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)";
pub(crate) const SCHEMA_APPLIED: &str = "SELECT version FROM schema_version";
pub(crate) const SCHEMA_ADD: &str = "INSERT INTO schema_version (version, name) VALUES ($1, $2)";

/// Whether the server takes writes (a standby does not), and whether its commits are durable.
pub(crate) const PG_SESSION: &str = "SELECT current_setting('transaction_read_only'), \
     current_setting('synchronous_commit')";
pub(crate) const PG_BE_DURABLE: &str = "SET synchronous_commit = on";
/// Waits for whoever else migrates.
pub(crate) const PG_MIGRATE_LOCK: &str = "SELECT pg_advisory_lock($1)";
pub(crate) const PG_MIGRATE_UNLOCK: &str = "SELECT pg_advisory_unlock($1)";
/// Waits for whoever else does the same in a transaction.
pub(crate) const PG_LOCK: &str = "SELECT pg_advisory_xact_lock($1)";
pub(crate) const PG_HEADS: &str = "SELECT event FROM heads WHERE id = 1";
pub(crate) const PG_NEW_WRITER: &str = "SELECT gen_random_uuid()::text";
/// The row must be there, committed, before a group is: a lock on it is what tells whether the
/// group is still under way.
pub(crate) const PG_WRITER_INSERT: &str = "INSERT INTO writers (id, batch, at) \
     VALUES ($1, 0, now()) ON CONFLICT (id) DO NOTHING";
pub(crate) const PG_WRITERS_PRUNE: &str =
    "DELETE FROM writers WHERE at < now() - make_interval(days => $1::int)";
/// The newest group that was committed. Waits for one that is under way.
pub(crate) const PG_WRITER_BATCH: &str = "SELECT batch FROM writers WHERE id = $1 FOR UPDATE";

macro_rules! pg_mark {
    () => {
        "INSERT INTO writers (id, batch, at) VALUES ($1, $2, now()) \
         ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = excluded.at"
    };
}
/// Ends a group that tells nothing.
pub(crate) const PG_MARK: &str = pg_mark!();
/// Ends a group: its mark, its events (`$5` to `$13`) and its rows of the audit (`$14` to `$23`),
/// numbered from the heads, which move by `$3` and `$4`. Answers the newest event.
pub(crate) const PG_TELL: &str = concat!(
    "WITH marked AS (",
    pg_mark!(),
    "), head AS (UPDATE heads SET event = event + $3, audit = audit + $4 WHERE id = 1 \
         RETURNING event - $3 AS event_base, audit - $4 AS audit_base), \
     told AS (INSERT INTO events \
         (seq, sandbox, node, team, at, kind, level, message, fields, decision) \
         SELECT event_base + n, c1, c2, c3, c4, c5, c6, c7, c8, c9 \
         FROM head, UNNEST($5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[], \
              $10::text[], $11::text[], $12::text[], $13::text[]) \
              WITH ORDINALITY AS v(c1, c2, c3, c4, c5, c6, c7, c8, c9, n)), \
     kept AS (INSERT INTO audit (seq, ",
    audit_columns!(),
    ") SELECT audit_base + n, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10 \
         FROM head, UNNEST($14::bigint[], $15::text[], $16::text[], $17::text[], $18::text[], \
              $19::text[], $20::text[], $21::text[], $22::text[], $23::bigint[]) \
              WITH ORDINALITY AS v(c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, n)) \
     SELECT event_base + $3, \
         CASE WHEN $3 > 0 THEN pg_notify('atoll_events', $1)::text END FROM head"
);

pub(crate) const SQLITE_IS_MADE: &str =
    "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'schema_version'";
pub(crate) const PG_IS_MADE: &str = "SELECT to_regclass('schema_version') IS NOT NULL";

/// Tables with their columns and types, by name.
pub(crate) const SQLITE_LAYOUT: &str = "SELECT m.name, c.name, c.type FROM sqlite_schema m \
     JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' \
     ORDER BY m.name, c.name";
pub(crate) const PG_LAYOUT: &str = "SELECT table_name::text, column_name::text, data_type::text \
     FROM information_schema.columns WHERE table_schema = current_schema() \
     ORDER BY table_name::text COLLATE \"C\", column_name::text COLLATE \"C\"";
/// The newest numbers ever given to events and to the audit.
pub(crate) const SQLITE_HEADS: &str = "SELECT \
     COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0), \
     COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'audit'), 0)";
pub(crate) const SQLITE_HEADS_CLEAR: &str =
    "DELETE FROM sqlite_sequence WHERE name IN ('events', 'audit')";
pub(crate) const SQLITE_HEADS_SET: &str =
    "INSERT INTO sqlite_sequence (name, seq) VALUES ('events', $1), ('audit', $2)";
pub(crate) const PG_HEADS_BOTH: &str = "SELECT event, audit FROM heads WHERE id = 1";
pub(crate) const PG_HEADS_SET: &str = "UPDATE heads SET event = $1, audit = $2 WHERE id = 1";
/// Identities go on after what was written with numbers of its own.
pub(crate) const PG_CORRECTIONS_GO_ON: &str = "SELECT setval('corrections_seq_seq', \
     GREATEST(MAX(seq), 1), MAX(seq) IS NOT NULL) FROM corrections";
pub(crate) const EVENT_PRUNED_CLEAR: &str = "DELETE FROM event_prune";
