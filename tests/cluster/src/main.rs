//! `atoll-cluster`: a whole fleet on one machine, which clients use while its parts are killed, cut
//! off and replaced. Usually called as `cargo xtask cluster`.
//!
//! Real PostgreSQL, Redis and Consul, servers, and nodes with real sandboxes, each in a
//! network namespace of its own. Afterwards every sandbox that was answered must be accounted for:
//! none lost, none twice, none forgotten on a node, nothing left of those that were deleted.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program for people")]

mod client;
mod faults;
mod fleet;
mod load;
mod member;
mod network;
mod process;
mod services;
mod table;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Journal};
use crate::faults::Fault;
use crate::fleet::{Fleet, Size};
use crate::load::{Load, Story};
use crate::table::{Line, Window};

/// How long things may take to settle after the last fault.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

#[derive(Debug, Parser)]
struct Arguments {
    /// The program whose fleet this is.
    #[arg(long)]
    program: PathBuf,
    /// Another version of it, which servers are upgraded to; the same unless given.
    #[arg(long)]
    next: Option<PathBuf>,
    #[arg(long, default_value_t = 3)]
    servers: u8,
    #[arg(long, default_value_t = 5)]
    nodes: u8,
    /// Clients at a time.
    #[arg(long, default_value_t = 6)]
    users: usize,
    /// What is done to the fleet; all there is unless given.
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Seconds of work between a fault, mended, and the next.
    #[arg(long, default_value_t = 8)]
    seconds_between: u64,
    /// Write the table into this file, between its marks.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Keep logs and data here.
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let missing = services::missing();
    if !missing.is_empty() {
        println!("skipped: the fleet needs {}", missing.join(", "));
        return Ok(());
    }
    network::enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("cluster-").tempdir()?;
    let folder = arguments.keep.as_deref().unwrap_or_else(|| scratch.path());
    std::fs::create_dir_all(folder.join("logs"))?;
    // PostgreSQL's user must come through.
    open_to_all(folder)?;
    let size = Size {
        servers: arguments.servers,
        nodes: arguments.nodes,
    };
    let next = arguments.next.as_deref().unwrap_or(&arguments.program);
    let began = Instant::now();
    let mut fleet = Fleet::start(folder, size, (&arguments.program, next)).await?;
    println!(
        "the fleet is ready after {:.1} s",
        began.elapsed().as_secs_f64()
    );

    let journal = Journal::default();
    let client = Client::new(fleet.server_urls(), Fleet::key(), journal.clone())?;
    let load = Load::start(&client, arguments.users);
    let windows = strike_all(arguments, &mut fleet).await?;
    let stories = load.stop().await;

    let attempts = journal.read();
    let lines: Vec<Line> = windows
        .iter()
        .map(|window| Line::of(*window, &attempts))
        .collect();
    let table = table::markdown(&lines);
    for window in &windows {
        for reason in table::reasons(*window, &attempts) {
            println!("{}: {reason}", window.fault.text());
        }
    }
    println!("{table}");
    if let Some(path) = &arguments.write {
        table::write(path, &table)?;
    }
    judge(&client, &mut fleet, &stories, folder).await?;
    fleet.stop().await?;
    println!(
        "{} sandboxes: every one is accounted for, and nothing is left",
        stories.len()
    );
    Ok(())
}

async fn strike_all(arguments: &Arguments, fleet: &mut Fleet) -> Result<Vec<Window>> {
    let faults = if arguments.faults.is_empty() {
        Fault::all()
    } else {
        arguments.faults.clone()
    };
    let between = Duration::from_secs(arguments.seconds_between);
    let mut windows = Vec::new();
    for fault in faults {
        if !fault.is_possible(fleet) {
            println!("left out: {}", fault.text());
            continue;
        }
        println!("{}", fault.text());
        let began = Instant::now();
        fault.strike(fleet).await.with_context(|| fault.text())?;
        sleep(between).await;
        let ended = Instant::now();
        windows.push(Window {
            fault,
            began,
            ended,
        });
    }
    Ok(windows)
}

/// Waits until what is there is what must be, then deletes all of it, and waits until nothing is
/// left of it.
async fn judge(client: &Client, fleet: &mut Fleet, stories: &[Story], folder: &Path) -> Result<()> {
    settle("what is there is what was answered", async || {
        let listed = client.list().await?;
        Ok(verdict::accounts(stories, &listed, fleet))
    })
    .await?;
    for (name, id, _) in client.list().await? {
        if let client::Outcome::Failed(why) = client.delete(&id).await {
            bail!("{name} cannot be deleted: {why}");
        }
    }
    settle("nothing is left", async || {
        let listed = client.list().await?;
        let mut left: Vec<String> = listed.into_iter().map(|(name, ..)| name).collect();
        for node in fleet.living_nodes() {
            left.extend(verdict::leftovers(node, folder));
        }
        Ok(left)
    })
    .await
}

/// Waits until nothing is wrong any more.
async fn settle(what: &str, look: impl AsyncFn() -> Result<Vec<String>>) -> Result<()> {
    let since = Instant::now();
    loop {
        let wrong = look().await;
        match wrong {
            Ok(wrong) if wrong.is_empty() => return Ok(()),
            Ok(wrong) if since.elapsed() > SETTLE_LIMIT => {
                bail!(
                    "after {SETTLE_LIMIT:?} not so: {what}\n{}",
                    wrong.join("\n")
                )
            }
            Err(error) if since.elapsed() > SETTLE_LIMIT => return Err(error),
            Ok(_) | Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
