//! `atoll bench create`: how long sandboxes take, as a client sees it.
//!
//! Each measured sandbox is created over the REST API, its guest agent asked for its health, and
//! one command run through it in the form the SDKs use (a login shell), all over the edge; then it
//! is removed. Every time is counted from the moment the create was sent. The server is one started
//! for the measurement on a data directory of its own, in this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_proto::process::ProcessConfig;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::{compare, machine, percentile, rate, repeated, serve};
use crate::cli::bench::BenchCreateArgs;
use crate::cli::machine::MachineArgs;
use crate::client::Client;
use crate::database::Database;
use crate::output;
use crate::process::Processes;
use crate::stack::Nodes;

/// Sandboxes made before anything is counted, so that files are cached and pools are full.
const WARM_UP: usize = 3;
/// Deadline of the measured sandboxes, in seconds: longer than any measurement.
const SANDBOX_TIMEOUT_S: u32 = 300;
/// The command that is run, as the SDKs run it.
const COMMAND: [&str; 4] = ["/bin/bash", "-l", "-c", "true"];

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Percentiles {
    p50: f64,
    p95: f64,
    p99: f64,
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Line<'a> {
    driver: &'a str,
    concurrency: usize,
    count: usize,
    ok: usize,
    answer_ms: Percentiles,
    envd_ready_ms: Percentiles,
    first_command_ms: Percentiles,
    /// Sandboxes made, used and removed per second.
    per_s: f64,
    commit: &'static str,
    machine: &'a str,
}

/// Milliseconds from sending the create to each milestone.
struct Sample {
    answer: f64,
    envd_ready: f64,
    first_command: f64,
}

/// Measures and prints.
///
/// # Errors
/// If the server cannot be started, or no sandbox can be made.
pub(crate) async fn run(arguments: &BenchCreateArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.driver == "jail",
        "driver `{}` is not part of this version; there is `jail`",
        arguments.driver
    );
    repeated(arguments.count, &arguments.concurrency)?;
    let (stack, folder) = serve(
        &arguments.data,
        Database::File,
        Nodes::Own(Box::<MachineArgs>::default()),
    )
    .await?;
    let result = measure(arguments, &Client::new(stack.connection().clone())?).await;
    stack.stop().await?;
    result?;
    print_comparisons(arguments.json, folder.path()).await
}

async fn measure(arguments: &BenchCreateArgs, client: &Client) -> anyhow::Result<()> {
    for _ in 0..WARM_UP {
        one(client, &arguments.template).await?;
    }
    let machine = machine();
    let mut rows = Vec::new();
    for &concurrency in &arguments.concurrency {
        let begun = Instant::now();
        let samples = many(client, &arguments.template, concurrency, arguments.count).await;
        let took = begun.elapsed();
        let line = Line {
            driver: &arguments.driver,
            concurrency,
            count: arguments.count,
            ok: samples.len(),
            answer_ms: percentiles(samples.iter().map(|sample| sample.answer)),
            envd_ready_ms: percentiles(samples.iter().map(|sample| sample.envd_ready)),
            first_command_ms: percentiles(samples.iter().map(|sample| sample.first_command)),
            per_s: rate(samples.len(), took),
            commit: env!("ATOLL_COMMIT"),
            machine: &machine,
        };
        if arguments.json {
            output::json(&line)?;
        }
        rows.push(row(&line));
    }
    if arguments.json {
        return Ok(());
    }
    let heading = [
        "DRIVER",
        "AT A TIME",
        "OK",
        "ANSWER MS",
        "ENVD READY MS",
        "COMMAND MS",
        "PER S",
    ];
    output::line(&output::table(&heading, &rows))?;
    output::line(&format!(
        "times are p50/p95/p99 from the create; commit {}; {machine}",
        env!("ATOLL_COMMIT")
    ))
}

fn row(line: &Line<'_>) -> Vec<String> {
    let triple = |p: Percentiles| format!("{:.1}/{:.1}/{:.1}", p.p50, p.p95, p.p99);
    vec![
        line.driver.to_owned(),
        line.concurrency.to_string(),
        format!("{}/{}", line.ok, line.count),
        triple(line.answer_ms),
        triple(line.envd_ready_ms),
        triple(line.first_command_ms),
        format!("{:.1}", line.per_s),
    ]
}

/// Makes `count` sandboxes, `concurrency` at a time; those that fail are reported and left out.
async fn many(client: &Client, template: &str, concurrency: usize, count: usize) -> Vec<Sample> {
    let left = Arc::new(AtomicUsize::new(count));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (client, template, left) = (client.clone(), template.to_owned(), Arc::clone(&left));
        workers.spawn(async move {
            let mut samples = Vec::new();
            let take = |left: usize| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                match one(&client, &template).await {
                    Ok(sample) => samples.push(sample),
                    Err(error) => output::complain(&format!("{error:#}")),
                }
            }
            samples
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

async fn one(client: &Client, template: &str) -> anyhow::Result<Sample> {
    let begun = Instant::now();
    let elapsed = || begun.elapsed().as_secs_f64() * 1e3;
    let sandbox = client.create(template, SANDBOX_TIMEOUT_S).await?;
    let answer = elapsed();
    let used = async {
        client.guest_health(&sandbox.id).await?;
        let envd_ready = elapsed();
        let [program, arguments @ ..] = COMMAND;
        let config = ProcessConfig {
            cmd: program.to_owned(),
            args: arguments.map(str::to_owned).to_vec(),
            ..ProcessConfig::default()
        };
        let processes = Processes::new(client.connection(), &sandbox, None)?;
        let code = processes.run(config, false, |_| Ok(())).await?;
        anyhow::ensure!(code == 0, "the command ended with {code}");
        Ok(Sample {
            answer,
            envd_ready,
            first_command: elapsed(),
        })
    };
    let result = used.await;
    client.kill(&sandbox.id).await?;
    result
}

async fn print_comparisons(json: bool, folder: &Path) -> anyhow::Result<()> {
    for comparison in compare::all(folder).await {
        let tool = comparison.tool;
        match comparison.result {
            Ok(times) if json => output::json(&serde_json::json!({
                "driver": tool, "concurrency": 1, "count": times.len(), "ok": times.len(),
                "first_command_ms": percentiles(times.iter().copied()),
                "commit": env!("ATOLL_COMMIT"), "machine": machine(),
            }))?,
            Ok(times) => {
                let p = percentiles(times.iter().copied());
                output::line(&format!(
                    "{tool} run of /bin/true on the same files: {:.1}/{:.1}/{:.1} ms",
                    p.p50, p.p95, p.p99
                ))?;
            }
            Err(reason) => output::complain(&format!("no comparison with {tool}: {reason}")),
        }
    }
    Ok(())
}

/// Zeros of nothing.
fn percentiles(values: impl Iterator<Item = f64>) -> Percentiles {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    Percentiles {
        p50: percentile(&values, 50),
        p95: percentile(&values, 95),
        p99: percentile(&values, 99),
    }
}

#[cfg(test)]
mod tests {
    use super::percentiles;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let p = percentiles((1..=100).map(f64::from));
        assert_eq!((p.p50, p.p95, p.p99), (50.0, 95.0, 99.0));
        let one = percentiles([7.0].into_iter());
        assert_eq!((one.p50, one.p99), (7.0, 7.0));
    }
}
