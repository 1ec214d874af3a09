//! Every SQL text. `$n` placeholders and the clauses used here mean the same to SQLite and
//! PostgreSQL.

pub(crate) const META_INSERT: &str =
    "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
pub(crate) const META_GET: &str = "SELECT value FROM meta WHERE name = $1";

pub(crate) const TEAM_INSERT: &str = "INSERT INTO teams (id, name, created_at) VALUES ($1, $2, $3) \
     ON CONFLICT (id) DO NOTHING";
pub(crate) const TEAM_USAGE: &str = "SELECT concurrent, running FROM teams WHERE id = $1";
/// Takes places of the quota; no row: there are not so many left.
pub(crate) const TEAM_ADMIT: &str =
    "UPDATE teams SET concurrent = concurrent + $3 WHERE id = $1 AND concurrent + $3 <= $2";
pub(crate) const TEAM_COUNT: &str =
    "UPDATE teams SET concurrent = concurrent + $2, running = running + $3 WHERE id = $1";

pub(crate) const KEY_INSERT: &str = "INSERT INTO api_keys \
     (id, team, name, hash, masked_start, masked_end, read_only, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (hash) DO NOTHING";
pub(crate) const KEY_FIND: &str = "SELECT id, team, name, hash, masked_start, masked_end, \
     read_only, created_at FROM api_keys WHERE hash = $1";
pub(crate) const KEY_LIST: &str = "SELECT id, team, name, hash, masked_start, masked_end, \
     read_only, created_at FROM api_keys WHERE team = $1 ORDER BY created_at, id";
pub(crate) const KEY_REMOVE: &str = "DELETE FROM api_keys WHERE team = $1 AND id = $2";

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
         created_at, started_at, deadline, updated_at, ended_at, last_error"
    };
}

pub(crate) const SANDBOX_INSERT: &str = concat!(
    "INSERT INTO sandboxes (",
    sandbox_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
);
pub(crate) const LABEL_INSERT: &str =
    "INSERT INTO sandbox_labels (sandbox, team, name, value) VALUES ($1, $2, $3, $4)";
pub(crate) const LABELS_DELETE: &str = "DELETE FROM sandbox_labels WHERE sandbox = $1";
pub(crate) const SANDBOX_GET: &str = concat!(
    "SELECT ",
    sandbox_columns!(),
    " FROM sandboxes WHERE id = $1"
);
pub(crate) const SANDBOX_LIST_LIVE: &str = concat!(
    "SELECT ",
    sandbox_columns!(),
    " FROM sandboxes WHERE state <> 'stopped' AND id > $1 ORDER BY id LIMIT $2"
);
/// What is null keeps what is there. The deadline moves by the time the start took.
pub(crate) const SANDBOX_TRANSITION: &str = concat!(
    "UPDATE sandboxes SET state = $4, \
     node = COALESCE($5, node), generation = COALESCE($6, generation), \
     deadline = deadline + (CASE WHEN $7 > created_at AND started_at IS NULL \
                            THEN $7 - created_at ELSE 0 END), \
     started_at = COALESCE($7, started_at), ended_at = COALESCE($8, ended_at), \
     desired = CASE WHEN $9 IS NULL THEN desired ELSE 'stopped' END, \
     stop_reason = COALESCE(stop_reason, $9), last_error = COALESCE($10, last_error), \
     updated_at = $11 \
     WHERE id = $1 AND state = $2 AND generation = $3 RETURNING ",
    sandbox_columns!()
);
pub(crate) const SANDBOX_STOP: &str = concat!(
    "UPDATE sandboxes SET desired = 'stopped', stop_reason = $2, updated_at = $3 \
     WHERE id = $1 AND desired <> 'stopped' RETURNING ",
    sandbox_columns!()
);
pub(crate) const SANDBOX_EXPIRE: &str = concat!(
    "UPDATE sandboxes SET desired = 'stopped', stop_reason = 'expired', updated_at = $3 \
     WHERE id = $1 AND desired <> 'stopped' AND deadline = $2 RETURNING ",
    sandbox_columns!()
);
pub(crate) const SANDBOX_SET_DEADLINE: &str = concat!(
    "UPDATE sandboxes SET deadline = $2, updated_at = $3 \
     WHERE id = $1 AND desired <> 'stopped' RETURNING ",
    sandbox_columns!()
);
pub(crate) const SANDBOX_EXTEND_DEADLINE: &str = concat!(
    "UPDATE sandboxes SET deadline = CASE WHEN deadline < $2 THEN $2 ELSE deadline END, \
     updated_at = $3 WHERE id = $1 AND desired <> 'stopped' RETURNING ",
    sandbox_columns!()
);
pub(crate) const SANDBOX_SET_CONFIG: &str = concat!(
    "UPDATE sandboxes SET config = $2, updated_at = $3 \
     WHERE id = $1 AND desired <> 'stopped' RETURNING ",
    sandbox_columns!()
);

/// The beginning of a listing; the clauses below are appended with their placeholders numbered.
/// The list of states repeats the partial index's so that the planner may use it.
pub(crate) const SANDBOX_LIST: &str = concat!(
    "SELECT ",
    sandbox_columns!(),
    " FROM sandboxes WHERE team = $1 AND desired <> 'stopped' \
     AND state IN ('running', 'pausing', 'paused', 'resuming')"
);
/// Restricts a listing to those that carry a label: team is `$1`.
pub(crate) const LIST_BY_LABEL: &str =
    " AND id IN (SELECT sandbox FROM sandbox_labels WHERE team = $1 AND name = ";

pub(crate) const EVENT_INSERT: &str = "INSERT INTO sandbox_events \
     (sandbox, team, at, kind, level, message, fields) VALUES ($1, $2, $3, $4, $5, $6, $7)";
pub(crate) const EVENT_LIST: &str = "SELECT sandbox, team, at, kind, level, message, fields \
     FROM sandbox_events WHERE sandbox = $1";
pub(crate) const EVENTS_DELETE: &str = "DELETE FROM sandbox_events WHERE sandbox = $1";

pub(crate) const IDEMPOTENCY_FIND: &str =
    "SELECT sandbox, fingerprint FROM idempotency_keys WHERE team = $1 AND key = $2";
pub(crate) const IDEMPOTENCY_INSERT: &str = "INSERT INTO idempotency_keys \
     (team, key, fingerprint, sandbox, created_at) VALUES ($1, $2, $3, $4, $5)";

pub(crate) const ENDED_BEFORE: &str = "SELECT id FROM sandboxes \
     WHERE state = 'stopped' AND ended_at < $1 ORDER BY ended_at LIMIT $2";
pub(crate) const SANDBOX_DELETE: &str = "DELETE FROM sandboxes WHERE id = $1";
pub(crate) const IDEMPOTENCY_PRUNE: &str = "DELETE FROM idempotency_keys WHERE created_at < $1";

pub(crate) const PING: &str = "SELECT 1";

pub(crate) const SCHEMA_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_version \
     (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)";
pub(crate) const SCHEMA_CURRENT: &str = "SELECT COALESCE(MAX(version), 0) FROM schema_version";
pub(crate) const SCHEMA_ADD: &str = "INSERT INTO schema_version (version, name) VALUES ($1, $2)";
