//! The command line: what there is to type, with its help. No behaviour.

pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod config;
pub(crate) mod database;
pub(crate) mod discovery;
pub(crate) mod events;
pub(crate) mod forecast;
pub(crate) mod machine;
pub(crate) mod schedule;

use std::net::SocketAddr;
use std::path::PathBuf;

use atoll_core::id::NodeId;
use atoll_core::scheduler::forecast::{RESERVE_PERCENT, RESERVE_PERCENT_MAX};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::cli::bench::{
    BenchControlArgs, BenchCreateArgs, BenchPlacementArgs, BenchSchedulerArgs,
};
use crate::cli::cache::CacheArgs;
use crate::cli::config::{ConfigCommand, FileArgs, JoinArgs, KeyArgs, LogArgs};
use crate::cli::database::{DatabaseArgs, DatabaseCommand};
use crate::cli::discovery::ConsulArgs;
use crate::cli::events::{EventArgs, EventsArgs, WebhookCommand};
use crate::cli::forecast::BenchForecastArgs;
use crate::cli::machine::MachineArgs;
use crate::cli::schedule::{PolicyCommand, ScheduleArgs};

/// Where Atoll keeps its state unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/atoll";

/// Self-hosted sandboxes for AI agents, speaking the E2B API.
#[derive(Debug, Parser)]
#[command(name = "atoll", version = crate::VERSION, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine in one process: store, control, API, edge and one node.
    Dev(DevArgs),
    /// Run the server of a fleet: store, control, API and edge. Nodes join it.
    Server(ServerProcessArgs),
    /// Run a node of a fleet: this machine's sandboxes, on the orders of a server.
    Node(NodeArgs),
    /// Carry the traffic of this machine's sandboxes; a node starts it for itself.
    #[command(hide = true)]
    Relay(RelayArgs),
    /// Run one command in a sandbox made for it, and remove the sandbox.
    Run(RunArgs),
    /// List, look into, use and remove sandboxes.
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Make, list and remove templates, the root file systems sandboxes start from.
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make, list, limit and disable teams. Needs the operator's token.
    #[command(subcommand)]
    Team(TeamCommand),
    /// List, look into and empty the nodes of a server.
    #[command(subcommand)]
    Nodes(NodesCommand),
    /// Say why a sandbox or a node is as it is: intent, observation, decisions, repairs, history.
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// Say where a sandbox would go, and why. Needs the operator's token.
    Schedule(ScheduleArgs),
    /// Show who asked for which change, newest first. Needs the operator's token.
    Audit(AuditArgs),
    /// Show what happened, oldest first, and follow what happens.
    Events(EventsArgs),
    /// Have events sent to URLs: make, list and remove webhooks.
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Say what this machine offers each driver, and how to mend what is missing.
    Doctor(DoctorArgs),
    /// Look for mistakes in the settings, and show what holds and where it is from.
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Database(DatabaseCommand),
    /// Measure.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print a shell's completion script.
    Completions {
        /// The shell to print for.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    pub(crate) file: FileArgs,
    #[command(flatten)]
    pub(crate) front: FrontArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ServerProcessArgs {
    #[command(flatten)]
    pub(crate) file: FileArgs,
    #[command(flatten)]
    pub(crate) front: FrontArgs,
    #[command(flatten)]
    pub(crate) join: JoinArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) file: FileArgs,
    /// URLs of the servers to join, `http://HOST:PORT`, with commas between them: each one of
    /// those that share a store. With Consul those that are registered there are joined, too.
    #[arg(long, env = "ATOLL_SERVER", value_delimiter = ',')]
    pub(crate) server: Vec<http::Uri>,
    /// Address for orders and for connections into sandboxes.
    #[arg(long, default_value = "127.0.0.1:3001", env = "ATOLL_NODE_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Where the server reaches this node, `http://HOST:PORT`; the listening address unless given.
    #[arg(long, env = "ATOLL_NODE_ADVERTISE")]
    pub(crate) advertise: Option<http::Uri>,
    /// Address on which clients reach the guest agents of this machine's sandboxes without the
    /// server; nobody does unless given.
    #[arg(long, env = "ATOLL_NODE_TRAFFIC_LISTEN")]
    pub(crate) traffic_listen: Option<SocketAddr>,
    /// Name of the node, unique in the fleet and the same at every start; the machine's unless
    /// given.
    #[arg(long, env = "ATOLL_NODE_NAME")]
    pub(crate) name: Option<NodeId>,
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) join: JoinArgs,
    #[command(flatten)]
    pub(crate) consul: ConsulArgs,
    /// Print one JSON line whenever the node joined, and nothing else, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// What a node tells its relay. The listening socket is its standard input, the join token in the
/// environment.
#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// The node's folder.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// Tells its settings from others. Never an argument: who sees those could guess at the token.
    #[arg(env = "ATOLL_RELAY_SETTINGS", hide_env_values = true)]
    pub(crate) settings: String,
    /// Address for clients.
    #[arg(long)]
    pub(crate) traffic_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// What servers have in common.
#[derive(Debug, Args)]
pub(crate) struct FrontArgs {
    /// Address for the API and for sandbox traffic.
    #[arg(long, default_value = "127.0.0.1:3000", env = "ATOLL_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Where others reach this server, `HOST:PORT`, for those that look for it in Consul; the
    /// listening address unless given.
    #[arg(long, value_name = "HOST:PORT", env = "ATOLL_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Domain of sandbox host names, `<port>-<id>.<domain>`.
    #[arg(long, env = "ATOLL_DOMAIN")]
    pub(crate) domain: Option<String>,
    /// File with the fleet's scheduling policy, as JSON; sandboxes are spread unless given.
    #[arg(long, value_name = "FILE", env = "ATOLL_SCHEDULER_POLICY")]
    pub(crate) scheduler_policy: Option<PathBuf>,
    /// Percent of the fleet that may be held for sandboxes that are expected; 0 switches the
    /// forecast off.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = RESERVE_PERCENT,
        value_parser = clap::value_parser!(u32).range(0..=i64::from(RESERVE_PERCENT_MAX)),
        env = "ATOLL_FORECAST_RESERVE"
    )]
    pub(crate) forecast_reserve: u32,
    #[command(flatten)]
    pub(crate) events: EventArgs,
    #[command(flatten)]
    pub(crate) consul: ConsulArgs,
    /// Print one JSON line when ready, and nothing else, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Where a node gets what templates are made from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SourceArgs {
    /// A host to pull a registry's images from before the registry itself; may repeat.
    #[arg(
        long = "registry-mirror",
        value_name = "REGISTRY=HOST",
        value_parser = parse_mirror,
        env = "ATOLL_REGISTRY_MIRRORS",
        value_delimiter = ','
    )]
    pub(crate) mirrors: Vec<(String, String)>,
    /// A registry or mirror that is asked without TLS; may repeat.
    #[arg(
        long = "registry-plain-http",
        value_name = "HOST",
        env = "ATOLL_REGISTRY_PLAIN_HTTP",
        value_delimiter = ','
    )]
    pub(crate) plain_http: Vec<String>,
    /// Mirror that Debian suites are made from; this machine's own unless given.
    #[arg(long, value_name = "URL", env = "ATOLL_DEBIAN_MIRROR")]
    pub(crate) debian_mirror: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DataDirArgs {
    /// Folder for the database, templates and sandboxes.
    #[arg(long, default_value = DEFAULT_DATA_DIR, env = "ATOLL_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
}

/// How to reach a server. What is not given is read from the running `atoll dev`'s data directory.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// URL of the API.
    #[arg(long, env = "E2B_API_URL")]
    pub(crate) api_url: Option<String>,
    /// URL of sandbox traffic; the API's unless given.
    #[arg(long, env = "E2B_SANDBOX_URL")]
    pub(crate) sandbox_url: Option<String>,
    /// API key.
    #[arg(long, env = "E2B_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Token of the operators' part of the API.
    #[arg(long, env = "ATOLL_ADMIN_TOKEN", hide_env_values = true)]
    pub(crate) admin_token: Option<String>,
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Template to start from.
    #[arg(long, short, default_value = "base")]
    pub(crate) template: String,
    /// Seconds until the sandbox is removed whatever happens.
    #[arg(long, default_value_t = 300)]
    pub(crate) timeout_s: u32,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ProcessArgs {
    /// Environment for the command: NAME=VALUE, may repeat.
    #[arg(long = "env", short, value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub(crate) envs: Vec<(String, String)>,
    /// Working directory; the user's home unless given.
    #[arg(long)]
    pub(crate) cwd: Option<String>,
    /// User inside the sandbox.
    #[arg(long, short)]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodesCommand {
    /// List nodes with what they have and gave away.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show one node as JSON, with what each sandbox holds of it.
    Show {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
    },
    /// Have no new sandboxes on a node, and wait until it is empty.
    Drain {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
        /// End the sandboxes that run there, too. Paused ones stay.
        #[arg(long)]
        evict: bool,
        /// Seconds to wait until it is empty; 0 does not wait.
        #[arg(long, default_value_t = 0)]
        wait_s: u64,
    },
    /// Let a node have new sandboxes again.
    Undrain {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
    },
    /// Forget a node for good; what it runs counts as lost.
    Remove {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
        /// Although it is ready or has sandboxes.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// A sandbox, of any team, also after its end.
    Sandbox {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// A node.
    Node {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// List sandboxes, newest first.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show one sandbox.
    Info {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove sandboxes.
    Kill {
        #[command(flatten)]
        server: ServerArgs,
        /// Their ids.
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// Remove every sandbox of the team.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Keep sandboxes without serving: their processes stay as they are, their time stops.
    Pause {
        #[command(flatten)]
        server: ServerArgs,
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Keep only their files, and give their memory back: processes end.
        #[arg(long)]
        files_only: bool,
    },
    /// Let paused sandboxes serve again.
    Resume {
        #[command(flatten)]
        server: ServerArgs,
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Seconds they serve from then.
        #[arg(long, default_value_t = 300)]
        timeout: u32,
    },
    /// Begin sandboxes anew from their templates: their files and processes are lost.
    Restart {
        #[command(flatten)]
        server: ServerArgs,
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Run a command in a sandbox.
    Exec {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        process: ProcessArgs,
        /// Its id.
        id: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Show what happened to a sandbox.
    Logs {
        #[command(flatten)]
        server: ServerArgs,
        /// Its id.
        id: String,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Make a template from a folder, an archive, an image or a Debian suite.
    Import {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name.
        name: String,
        /// DIR, TAR, oci-layout:PATH, docker://IMAGE, debian:SUITE[,PACKAGE…] or host.
        #[arg(long)]
        from: String,
        /// Cores of its sandboxes.
        #[arg(long)]
        cpu_count: Option<u32>,
        /// Memory of its sandboxes, in MiB.
        #[arg(long)]
        memory_mib: Option<u32>,
        /// Writable disk of its sandboxes, in MiB.
        #[arg(long)]
        disk_mib: Option<u32>,
    },
    /// List templates.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Remove a template.
    Rm {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name or id.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; it is shown this once.
    Create {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        team: OfTeamArgs,
        /// What it is for.
        name: String,
        /// A key that may look but not touch.
        #[arg(long)]
        read_only: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List keys, masked.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        team: OfTeamArgs,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key.
    Revoke {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        team: OfTeamArgs,
        /// Its id, as `key list` shows it.
        id: String,
    },
}

/// For which team an operator acts.
#[derive(Debug, Args)]
pub(crate) struct OfTeamArgs {
    /// Act for this team (name or id), with the operator's token; the key's own team otherwise.
    #[arg(long)]
    pub(crate) team: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TeamCommand {
    /// Make a team, and print its id. `atoll key create --team` makes its first key.
    Create {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name.
        name: String,
        #[command(flatten)]
        quota: QuotaArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List teams with what each has.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show a team: its limits and what it has of each.
    Show {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name or id.
        team: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change a team's limits; those not given stay. They hold at once.
    SetQuota {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name or id.
        team: String,
        #[command(flatten)]
        quota: QuotaArgs,
        /// Give the team the installation's defaults, but for what else is given.
        #[arg(long)]
        reset: bool,
    },
    /// Set how much a team gets beside others of a fleet that is too small for all. It holds at
    /// once.
    SetWeight {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name or id.
        team: String,
        /// 1 to 1000; 1 unless set.
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
        weight: u32,
    },
    /// Refuse a team's keys. Its sandboxes go on until their deadlines.
    Disable {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name or id.
        team: String,
    },
    /// Set, show or remove what a team's sandboxes must and should have of their nodes.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Accept a disabled team's keys again.
    Enable {
        #[command(flatten)]
        server: ServerArgs,
        /// Its name or id.
        team: String,
    },
}

/// A team's own limits.
#[derive(Debug, Args)]
pub(crate) struct QuotaArgs {
    /// Sandboxes that are not paused.
    #[arg(long)]
    pub(crate) concurrent_sandboxes: Option<u32>,
    /// CPU of all its sandboxes together, in thousandths of a core.
    #[arg(long)]
    pub(crate) cpu_millis: Option<u64>,
    /// Memory of all its sandboxes together, in MiB.
    #[arg(long)]
    pub(crate) memory_mib: Option<u64>,
    /// Disk of all its sandboxes together, in MiB.
    #[arg(long)]
    pub(crate) disk_mib: Option<u64>,
    /// Creates: so many a second, and so many at once.
    #[arg(long, value_name = "PER_SECOND:BURST", value_parser = parse_rate)]
    pub(crate) creates: Option<(u32, u32)>,
    /// Requests: so many a second, and so many at once.
    #[arg(long, value_name = "PER_SECOND:BURST", value_parser = parse_rate)]
    pub(crate) requests: Option<(u32, u32)>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Only for this team (name or id).
    #[arg(long)]
    pub(crate) team: Option<String>,
    /// Only by this actor: `key:ID`, `operator` or `anonymous`.
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// Only of this operation, as the list shows it.
    #[arg(long)]
    pub(crate) operation: Option<String>,
    /// Only of this object.
    #[arg(long)]
    pub(crate) object: Option<String>,
    /// Only with this outcome: `ok`, `not_found`, …
    #[arg(long)]
    pub(crate) outcome: Option<String>,
    /// Only from this time on (RFC 3339).
    #[arg(long)]
    pub(crate) start: Option<String>,
    /// Only before this time (RFC 3339).
    #[arg(long)]
    pub(crate) end: Option<String>,
    /// How many rows at most.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Time create, guest agent and first command of sandboxes.
    Create(BenchCreateArgs),
    /// Time creates and listings with a node that takes no time: what the control plane takes.
    Control(BenchControlArgs),
    /// Time placement decisions, by size of the fleet.
    Scheduler(BenchSchedulerArgs),
    /// Compare placements with those of other ways to choose a node.
    Placement(BenchPlacementArgs),
    /// Replay recorded days with and without room held by forecast.
    Forecast(BenchForecastArgs),
}

fn parse_mirror(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((registry, host)) if !registry.is_empty() && !host.is_empty() => {
            Ok((registry.to_owned(), host.to_owned()))
        }
        _ => Err("must be REGISTRY=HOST, such as docker.io=mirror.example:5000".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
    text.split_once(':')
        .and_then(|(per_second, burst)| Some((number(per_second)?, number(burst)?)))
        .ok_or_else(|| "write PER_SECOND:BURST, both at least 1".to_owned())
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
