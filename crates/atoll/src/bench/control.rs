//! `atoll bench control`: what the control plane takes by itself.
//!
//! Sandboxes are created over the REST API, with a node that does at once what it is told, on a
//! fresh SQLite file, or in a fresh database of PostgreSQL; each answered create is durable. Server
//! and client are one process and share the machine's processors. Asked for, the listing of many
//! sandboxes is timed page by page, and memory is watched while many are made and ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::conditions::{Conditions, Processors, SyncCost, Watch};
use crate::bench::load::Load;
use crate::bench::{churn, pages, percentile, rate, repeated, serve};
use crate::cli::bench::BenchControlArgs;
use crate::client::Client;
use crate::database::Database;
use crate::output;
use crate::stack::Nodes;

/// Sandboxes made and ended before anything is counted, so that connections are open, statements
/// prepared and code is in memory.
const WARM_UP: usize = 256;
/// Requests under way at once while many are made or ended that nobody times.
pub(super) const BULK_CONCURRENCY: usize = 64;
/// Deadline of the sandboxes, in seconds: longer than any measurement.
const SANDBOX_TIMEOUT_S: u32 = 3_600;
/// What the team may have and do: more than any measurement asks for.
const ENDLESS: u32 = 1_000_000_000;

/// What everything is measured with.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub(super) client: Client,
    /// What makes and ends sandboxes.
    pub(super) load: Load,
    /// Where the server's state is.
    pub(super) folder: &'a Path,
    /// The store that is measured.
    store: &'static str,
    pub(super) conditions: Conditions,
    pub(super) is_json: bool,
}

/// The result for one concurrency.
#[derive(Debug, Serialize)]
struct Line<'a> {
    bench: &'static str,
    driver: &'a str,
    store: &'static str,
    concurrency: usize,
    count: usize,
    ok: usize,
    creates_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Deletes of the same sandboxes afterwards.
    deletes_per_s: f64,
    #[serde(flatten)]
    processors: Processors,
    #[serde(flatten)]
    sync: SyncCost,
    #[serde(flatten)]
    conditions: &'a Conditions,
}

/// Measures and prints.
///
/// # Errors
/// If the server cannot be started, or a request of the preparations fails.
pub(crate) async fn run(arguments: &BenchControlArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.driver == "simulated",
        "driver `{}` cannot be measured so; there is `simulated`",
        arguments.driver
    );
    repeated(arguments.count, &arguments.concurrency)?;
    let database = Database::of(&arguments.database)?;
    let store = match &database {
        Database::File => "sqlite",
        Database::Postgres(..) => "postgres",
    };
    let (stack, folder) = serve(&arguments.data, database, Nodes::Instant).await?;
    let bench = Bench {
        client: Client::new(stack.connection().clone())?,
        load: Load::new(stack.connection())?,
        folder: folder.path(),
        store,
        conditions: Conditions::of(folder.path()),
        is_json: arguments.json,
    };
    let measured = measure(arguments, &bench).await;
    stack.stop().await?;
    measured
}

async fn measure(arguments: &BenchControlArgs, bench: &Bench<'_>) -> anyhow::Result<()> {
    bench.lift_limits().await?;
    let (_, ids) = bench.create(BULK_CONCURRENCY, WARM_UP, no_labels).await;
    bench.kill(ids).await?;
    let mut rows = Vec::new();
    for &concurrency in &arguments.concurrency {
        let line = creates(arguments, bench, concurrency).await?;
        if arguments.json {
            output::json(&line)?;
        }
        rows.push(row(&line));
    }
    if !arguments.json {
        let heading = [
            "AT A TIME",
            "OK",
            "CREATES/S",
            "P50 MS",
            "P99 MS",
            "DELETES/S",
            "CPU µS EACH",
            "OTHERS' CPU",
            "FDATASYNC MS",
        ];
        output::line(&output::table(&heading, &rows))?;
        output::line(&bench.conditions.text())?;
    }
    if arguments.live > 0 {
        pages::measure(bench, arguments.live).await?;
    }
    if arguments.churn > 0 {
        churn::measure(bench, arguments.churn).await?;
    }
    Ok(())
}

async fn creates<'a>(
    arguments: &'a BenchControlArgs,
    bench: &'a Bench<'_>,
    concurrency: usize,
) -> anyhow::Result<Line<'a>> {
    let sync = SyncCost::measure(bench.folder)?;
    let watch = Watch::begin();
    let (took, ids) = bench.create(concurrency, arguments.count, no_labels).await;
    let elapsed = watch.elapsed();
    let processors = watch.end(arguments.count);
    let ok = ids.len();
    let began = Instant::now();
    bench.kill(ids).await?;
    Ok(Line {
        bench: "creates",
        driver: &arguments.driver,
        store: bench.store,
        concurrency,
        count: arguments.count,
        ok,
        creates_per_s: rate(ok, elapsed),
        p50_ms: percentile(&took, 50),
        p99_ms: percentile(&took, 99),
        deletes_per_s: rate(ok, began.elapsed()),
        processors,
        sync,
        conditions: &bench.conditions,
    })
}

fn row(line: &Line<'_>) -> Vec<String> {
    vec![
        line.concurrency.to_string(),
        format!("{}/{}", line.ok, line.count),
        format!("{:.0}", line.creates_per_s),
        format!("{:.2}", line.p50_ms),
        format!("{:.2}", line.p99_ms),
        format!("{:.0}", line.deletes_per_s),
        format!("{:.0}", line.processors.cpu_us_each),
        format!("{:.0} %", line.processors.others_cpu_pct),
        line.sync.text(),
    ]
}

fn no_labels(_: usize) -> BTreeMap<String, String> {
    BTreeMap::new()
}

/// What a create answers, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Created {
    #[serde(rename = "sandboxID")]
    id: String,
}

impl Bench<'_> {
    /// Lets the team have and do as much as is measured.
    async fn lift_limits(&self) -> anyhow::Result<()> {
        let teams: Vec<Value> = self
            .client
            .call(Method::GET, "/admin/v1/teams", None)
            .await?;
        let id = teams.first().and_then(|team| team["id"].as_str());
        let path = format!("/admin/v1/teams/{}", id.context("there is no team")?);
        let quota = json!({ "quota": {
            "concurrentSandboxes": ENDLESS, "cpuMillis": i64::MAX, "memoryMiB": i64::MAX,
            "diskMiB": i64::MAX, "createsPerSecond": ENDLESS, "createsBurst": ENDLESS,
            "requestsPerSecond": ENDLESS, "requestsBurst": ENDLESS,
        } });
        self.client.send(Method::PATCH, &path, Some(quota)).await?;
        Ok(())
    }

    /// Makes `count` sandboxes. Answers the sorted times in milliseconds and the ids of those that
    /// were made; of failures the first is told.
    pub(super) async fn create(
        &self,
        concurrency: usize,
        count: usize,
        labels: fn(usize) -> BTreeMap<String, String>,
    ) -> (Vec<f64>, Vec<String>) {
        let load = self.load.clone();
        let results = drive(concurrency, count, move |index| {
            one(load.clone(), labels(index))
        });
        let (mut took, ids): (Vec<_>, Vec<_>) = succeeded(results.await).into_iter().unzip();
        took.sort_by(f64::total_cmp);
        (took, ids)
    }

    /// Makes `count` sandboxes and ends each at once.
    pub(super) async fn churn(&self, concurrency: usize, count: usize) -> anyhow::Result<()> {
        let load = self.load.clone();
        let results = drive(concurrency, count, move |_| {
            let load = load.clone();
            async move {
                let (_, id) = one(load.clone(), BTreeMap::new()).await?;
                kill(load, id).await
            }
        });
        results.await.into_iter().collect()
    }

    /// Ends sandboxes.
    pub(super) async fn kill(&self, ids: Vec<String>) -> anyhow::Result<()> {
        self.each(ids, kill).await
    }

    /// Does something with each of these sandboxes.
    pub(super) async fn each<F, R>(&self, ids: Vec<String>, act: F) -> anyhow::Result<()>
    where
        F: Fn(Load, String) -> R + Send + Sync + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (load, count) = (self.load.clone(), ids.len());
        let ids = Arc::new(ids);
        let results = drive(BULK_CONCURRENCY, count, move |index| {
            act(load.clone(), ids[index].clone())
        });
        results.await.into_iter().collect()
    }
}

/// Makes one; answers how long that took in milliseconds, and its id.
async fn one(load: Load, labels: BTreeMap<String, String>) -> anyhow::Result<(f64, String)> {
    let body = json!({
        "templateID": "base", "timeout": SANDBOX_TIMEOUT_S, "metadata": labels,
    });
    let body = body.to_string();
    let began = Instant::now();
    let answer = load.send(Method::POST, "/v2/sandboxes", Some(body)).await?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    let created: Created = serde_json::from_slice(&answer)?;
    Ok((took, created.id))
}

/// Ends one.
async fn kill(load: Load, id: String) -> anyhow::Result<()> {
    let path = format!("/sandboxes/{id}");
    load.send(Method::DELETE, &path, None).await.map(drop)
}

fn succeeded<T>(results: Vec<anyhow::Result<T>>) -> Vec<T> {
    let mut failed = 0_usize;
    let mut done = Vec::with_capacity(results.len());
    for result in results {
        match result {
            Ok(value) => done.push(value),
            Err(error) => {
                if failed == 0 {
                    output::complain(&format!("{error:#}"));
                }
                failed += 1;
            }
        }
    }
    if failed > 1 {
        output::complain(&format!("{} more failed", failed - 1));
    }
    done
}

/// Does something `count` times, `concurrency` at a time.
pub(super) async fn drive<T, F, R>(
    concurrency: usize,
    count: usize,
    act: F,
) -> Vec<anyhow::Result<T>>
where
    T: Send + 'static,
    F: Fn(usize) -> R + Send + Sync + 'static,
    R: Future<Output = anyhow::Result<T>> + Send,
{
    let (act, next) = (Arc::new(act), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (act, next) = (Arc::clone(&act), Arc::clone(&next));
        workers.spawn(async move {
            let mut own = Vec::with_capacity(count / concurrency + 1);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                own.push(act(index).await);
            }
            own
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_done_once() {
        let results = drive(3, 10, |index| async move { Ok(index) }).await;
        let mut done: Vec<_> = results.into_iter().map(Result::unwrap).collect();
        done.sort_unstable();
        assert_eq!(done, (0..10).collect::<Vec<_>>());
    }
}
