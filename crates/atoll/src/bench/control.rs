//! `atoll bench control`: how fast the control plane is by itself.
//!
//! Durable creates over the REST API with a node that answers at once: HTTP over loopback, one kept
//! connection for each client, listener, authentication, use case, store, reconciler, and back.
//! Server and clients share this process and its machine. Each measurement has a fresh database.
//!
//! Then, where asked for: what a page of a long listing takes (`--list`), and what memory and file
//! come to after many creates and deletes (`--churn`).

mod connection;
mod node;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::connection::Connection;
use self::server::Server;
use crate::bench::{Percentiles, machine, percentiles, rate};
use crate::cli::BenchControlArgs;
use crate::output;

/// Creates before anything is counted, so that files are mapped and connections are open.
const WARM_UP: usize = 200;

/// Clients that prepare a long listing, or churn: enough for the store to write in groups.
const CLIENTS: usize = 64;

/// Rows of a page: the most a client may ask for.
const PAGE: u32 = 100;

/// Looks at memory while churning.
const LOOKS: usize = 8;

/// What every line says.
#[derive(Debug, Serialize)]
struct Common<'a> {
    driver: &'a str,
    store: &'a str,
    commit: &'static str,
    machine: &'a str,
}

#[derive(Debug, Serialize)]
struct Creates<'a> {
    concurrency: usize,
    count: usize,
    ok: usize,
    creates_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    #[serde(flatten)]
    common: &'a Common<'a>,
}

#[derive(Debug, Serialize)]
struct Pages<'a> {
    listed: usize,
    pages: usize,
    p50_ms: f64,
    p99_ms: f64,
    #[serde(flatten)]
    common: &'a Common<'a>,
}

#[derive(Debug, Serialize)]
struct Churned<'a> {
    churned: usize,
    pairs_per_s: f64,
    resident_mib: u64,
    file_mib: u64,
    #[serde(flatten)]
    common: &'a Common<'a>,
}

/// Measures and prints.
///
/// # Errors
/// If the server cannot be started, or a request fails.
pub(crate) async fn run(arguments: &BenchControlArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.driver == "simulated",
        "driver `{}` is not measured here: the control plane is measured with `simulated`",
        arguments.driver
    );
    anyhow::ensure!(
        !arguments.concurrency.contains(&0),
        "--concurrency must be at least 1"
    );
    let machine = machine();
    let common = Common {
        driver: &arguments.driver,
        store: "sqlite",
        commit: env!("ATOLL_COMMIT"),
        machine: &machine,
    };
    for &concurrency in &arguments.concurrency {
        creates(arguments, concurrency, &common).await?;
    }
    if arguments.list > 0 {
        list(arguments, &common).await?;
    }
    if arguments.churn > 0 {
        churn(arguments, &common).await?;
    }
    if !arguments.json {
        output::line(&format!("commit {}; {machine}", common.commit))?;
    }
    Ok(())
}

/// Starts a server on a database of its own. The directory lives as long as the guard.
async fn fresh(arguments: &BenchControlArgs) -> anyhow::Result<(tempfile::TempDir, Server)> {
    std::fs::create_dir_all(&arguments.data.data_dir)?;
    let folder = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&arguments.data.data_dir)?;
    let delay = Duration::from_millis(arguments.node_delay_ms);
    let server = Server::start(&folder.path().join("atoll.db"), delay).await?;
    Ok((folder, server))
}

async fn creates(
    arguments: &BenchControlArgs,
    concurrency: usize,
    common: &Common<'_>,
) -> anyhow::Result<()> {
    let (_folder, server) = fresh(arguments).await?;
    drive(server.address, concurrency, WARM_UP, false).await?;
    let measured = drive(server.address, concurrency, arguments.count, false).await?;
    server.stop().await?;
    let Percentiles { p50, p99, .. } = measured.percentiles();
    let line = Creates {
        concurrency,
        count: arguments.count,
        ok: measured.took_ms.len(),
        creates_per_s: measured.per_s(),
        p50_ms: p50,
        p99_ms: p99,
        common,
    };
    if arguments.json {
        return output::json(&line);
    }
    output::line(&format!(
        "{concurrency} at a time: {} creates/s, p50 {p50} ms, p99 {p99} ms, {} of {} made",
        line.creates_per_s, line.ok, line.count
    ))
}

async fn list(arguments: &BenchControlArgs, common: &Common<'_>) -> anyhow::Result<()> {
    let (_folder, server) = fresh(arguments).await?;
    drive(server.address, CLIENTS, arguments.list, false).await?;
    let mut connection = Connection::open(server.address).await?;
    let (mut listed, mut took, mut token) = (0, Vec::new(), None);
    loop {
        let begun = Instant::now();
        let (rows, next) = connection.page(PAGE, token.as_deref()).await?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        listed += rows;
        match next {
            Some(next) => token = Some(next),
            None => break,
        }
    }
    server.stop().await?;
    anyhow::ensure!(
        listed == arguments.list,
        "{listed} of {} sandboxes are listed",
        arguments.list
    );
    let pages = took.len();
    let Percentiles { p50, p99, .. } = percentiles(took.into_iter());
    if arguments.json {
        return output::json(&Pages {
            listed,
            pages,
            p50_ms: p50,
            p99_ms: p99,
            common,
        });
    }
    output::line(&format!(
        "{listed} listed in {pages} pages of {PAGE}: p50 {p50} ms, p99 {p99} ms a page"
    ))
}

async fn churn(arguments: &BenchControlArgs, common: &Common<'_>) -> anyhow::Result<()> {
    let (folder, server) = fresh(arguments).await?;
    for look in 1..=LOOKS {
        let measured = drive(server.address, CLIENTS, arguments.churn / LOOKS, true).await?;
        let line = Churned {
            churned: arguments.churn / LOOKS * look,
            pairs_per_s: measured.per_s(),
            resident_mib: resident_mib()?,
            file_mib: std::fs::metadata(folder.path().join("atoll.db"))?.len() >> 20,
            common,
        };
        if arguments.json {
            output::json(&line)?;
        } else {
            output::line(&format!(
                "{} made and ended: {} pairs/s, {} MiB of memory, file of {} MiB",
                line.churned, line.pairs_per_s, line.resident_mib, line.file_mib
            ))?;
        }
    }
    server.stop().await
}

/// What came of a number of creates.
struct Measured {
    took_ms: Vec<f64>,
    took: Duration,
}

impl Measured {
    fn percentiles(&self) -> Percentiles {
        percentiles(self.took_ms.iter().copied())
    }

    fn per_s(&self) -> f64 {
        rate(self.took_ms.len(), self.took)
    }
}

/// Makes `count` sandboxes, `concurrency` at a time, and ends each at once if `is_churn`. Only
/// creates are timed one by one.
async fn drive(
    address: SocketAddr,
    concurrency: usize,
    count: usize,
    is_churn: bool,
) -> anyhow::Result<Measured> {
    let left = Arc::new(AtomicUsize::new(count));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.min(count) {
        let left = Arc::clone(&left);
        workers.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut took_ms = Vec::new();
            let take = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                let sent = Instant::now();
                let made = connection.create().await?;
                took_ms.push(sent.elapsed().as_secs_f64() * 1e3);
                if is_churn {
                    connection.kill(&made).await?;
                }
            }
            anyhow::Ok(took_ms)
        });
    }
    let mut took_ms = Vec::with_capacity(count);
    for worker in workers.join_all().await {
        took_ms.extend(worker?);
    }
    Ok(Measured {
        took_ms,
        took: begun.elapsed(),
    })
}

/// Resident memory of this process.
fn resident_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("the kernel does not tell the resident memory")?
        .parse()?;
    Ok(kib / 1024)
}
