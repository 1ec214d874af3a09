//! Every limit of the API, with its reason.

use std::time::Duration;

/// The largest request body. As in E2B.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Memory for the bodies of all requests under way together: without it the places for requests,
/// each with the largest body, would be worth 64 GiB.
pub const MAX_BODIES_BYTES: usize = 256 * 1024 * 1024;

/// How long a body may take to arrive. Bodies here are small documents; what takes longer holds
/// a place that others need.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request of the E2B surface may take. Longer than the longest wait of a use case
/// (60 s for a create), shorter than what load balancers usually allow.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(70);

/// How long an RPC may take where its caller allows more or says nothing. Longer than the longest
/// wait of a use case, and shorter than [`REQUEST_TIMEOUT`], so that the answer comes in the words
/// of the protocol.
pub const RPC_TIMEOUT_MAX: Duration = Duration::from_secs(65);

/// How long a stream of an RPC may last. Whoever watches longer begins again at its cursor; what
/// forgot to hang up does not keep a place for ever.
pub const RPC_STREAM_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Streams of RPCs at once. Each is a task and a buffer for as long as its watcher likes.
pub const MAX_RPC_STREAMS: usize = 1024;

/// The largest message of an RPC: what gRPC libraries expect by default.
pub const MAX_RPC_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Sandboxes in one batch: each takes a place on a node and a wait of its own.
pub const MAX_BATCH: usize = 100;

/// Characters of a batch's request id: the place of a request in the batch is put behind it.
pub const MAX_BATCH_REQUEST_ID_LEN: usize = 250;

/// After how much silence a watch says that nothing happened: less than what proxies and home
/// routers allow a connection to be idle.
pub const WATCH_IDLE_INTERVAL: Duration = Duration::from_secs(30);

/// How long a stream of events lasts over REST. Its reader comes again with the last event's id;
/// what a revoked key still follows, and what forgot to hang up, ends with it.
pub const EVENT_STREAM_TIMEOUT_MAX: Duration = RPC_STREAM_TIMEOUT_MAX;

/// After how much silence a stream of events says that it is still there: less than any proxy
/// between allows.
pub const EVENT_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events that E2B's listing may leave out: who wants more reads by cursor.
pub const EVENT_OFFSET_MAX: u32 = 10_000;

/// Events on a page of E2B's listing (E2B wire protocol).
pub const EVENT_RECENT_MAX: u32 = 100;

/// How long a delivery to a webhook may take as a whole: a receiver should accept first and work
/// then.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connecting to a receiver may take of that.
pub const WEBHOOK_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a delivery's body. Only metadata makes one this large, and is left out then.
pub const WEBHOOK_BODY_MAX: usize = 128 * 1024;

/// How long the registration of a node may take: its report is asked for, and `base` is made on it,
/// before the answer.
pub const NODE_RPC_TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// Registrations and heartbeats under way at once. Apart from other requests, so that no load of
/// clients makes nodes look silent.
pub const MAX_NODE_RPCS: usize = 4096;

/// The largest message of a node: names, an address, some figures.
pub const MAX_NODE_MESSAGE_BYTES: usize = 64 * 1024;

/// Bytes of an address or another text of a node.
pub const MAX_NODE_TEXT_LEN: usize = 256;

/// Labels of a node.
pub const MAX_NODE_TAGS: usize = 64;

/// Types of events in one watch.
pub const MAX_WATCH_TYPES: usize = 64;

/// How often the health that a client watches is looked at.
pub const HEALTH_WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Requests under way at once. Each waiting create costs a few KiB; more than this means that the
/// machine is not keeping up, and waiting longer would not help.
pub const MAX_REQUESTS: usize = 4096;

/// What a client that met a full server is told to wait.
pub const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// The longest credential that is looked at. Ours have 44 characters.
pub const MAX_CREDENTIAL_LEN: usize = 256;

/// Labels of a sandbox.
pub const MAX_METADATA_ENTRIES: usize = 256;
/// Bytes of one label's name.
pub const MAX_METADATA_KEY_LEN: usize = 256;
/// Bytes of all labels of a sandbox, names and values: each listing carries them.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;

/// Environment variables of a sandbox.
pub const MAX_ENV_ENTRIES: usize = 1024;
/// Bytes of one variable, `name=value` with its end: Linux refuses to start a program with a
/// longer one (`MAX_ARG_STRLEN`).
pub const MAX_ENV_ENTRY_LEN: usize = 128 * 1024 - 2;
/// Bytes of all variables: half of what Linux gives to arguments and environment together by
/// default (a quarter of an 8 MiB stack).
pub const MAX_ENV_BYTES: usize = 1024 * 1024;

/// Entries of one egress list of a sandbox.
pub const MAX_NETWORK_ENTRIES: usize = 256;
/// Bytes of a domain name (RFC 1035).
pub const MAX_DOMAIN_LEN: usize = 253;

/// The longest duration the wire format can express in seconds (a signed 32-bit integer).
pub const MAX_WIRE_SECONDS: i64 = i32::MAX as i64;

/// Seconds by which one refresh may move a deadline (E2B wire protocol).
pub const MAX_REFRESH_SECONDS: i64 = 3600;
/// What a refresh without a duration asks for, and the least it asks for (E2B wire protocol).
pub const MIN_REFRESH_SECONDS: i64 = 15;

/// Timeout of a sandbox made without one through the first version of create.
pub const DEFAULT_TIMEOUT_V1_SECONDS: i64 = 15;
/// Timeout of a sandbox made without one through the second version of create or connect.
pub const DEFAULT_TIMEOUT_V2_SECONDS: i64 = 300;

/// Pages put together for the listing that has no pages.
pub const MAX_UNPAGED_PAGES: usize = 100;

/// Sandboxes whose newest metrics can be asked for at once (E2B wire protocol).
pub const MAX_METRICS_IDS: usize = 100;

/// Characters of a search in a log (E2B wire protocol).
pub const MAX_LOG_SEARCH_LEN: usize = 256;

/// Characters of an idempotency key (E2B wire protocol).
pub const MAX_IDEMPOTENCY_KEY_LEN: usize = 255;

/// Characters of a template's name or of a reference to one.
pub const MAX_TEMPLATE_REFERENCE_LEN: usize = 256;

/// Template imports that may run at once: each reads and writes gigabytes.
pub const MAX_RUNNING_IMPORTS: usize = 4;
/// Finished imports that can still be asked about.
pub const MAX_FINISHED_IMPORTS: usize = 64;
