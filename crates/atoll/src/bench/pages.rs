//! How long a page of a listing takes when there are many sandboxes.

use std::collections::BTreeMap;

use anyhow::Context;
use http::Method;
use serde::Serialize;
use tokio::time::Instant;

use crate::bench::conditions::{Conditions, Processors, Watch};
use crate::bench::control::{BULK_CONCURRENCY, Bench};
use crate::bench::load::Load;
use crate::bench::percentile;
use crate::client::{Client, segment};
use crate::output;

/// How often each page is read.
const REPEATS: usize = 200;
/// One sandbox in so many carries the same value of the label `bucket`, and one in so many is
/// paused.
const BUCKETS: usize = 100;

/// The result for one page, or for every page of a walk.
#[derive(Debug, Serialize)]
struct Line<'a> {
    bench: &'static str,
    page: &'static str,
    live: usize,
    /// How many pages were read.
    count: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    #[serde(flatten)]
    processors: Processors,
    #[serde(flatten)]
    conditions: &'a Conditions,
}

/// Makes `live` sandboxes, reads pages of a hundred, and ends them again.
pub(super) async fn measure(bench: &Bench<'_>, live: usize) -> anyhow::Result<()> {
    let (_, ids) = bench.create(BULK_CONCURRENCY, live, labels).await;
    anyhow::ensure!(ids.len() == live, "only {} were made", ids.len());
    let paused = ids.iter().step_by(BUCKETS).cloned().collect();
    let pause = |load: Load, id: String| async move {
        let path = format!("/sandboxes/{id}/pause");
        load.send(Method::POST, &path, None).await.map(drop)
    };
    bench.each(paused, pause).await?;
    let walked = Watch::begin();
    let (tokens, took) = walk(&bench.client).await?;
    print(bench, live, "every page of a walk", walked, took)?;
    let token = |index: usize| {
        let token = tokens.get(index).context("there is no such page")?;
        anyhow::Ok(format!("nextToken={}", segment(token)))
    };
    let bucket = format!("metadata={}", segment("bucket=b7"));
    for (page, query) in [
        ("first", String::new()),
        ("middle", token(tokens.len() / 2)?),
        ("last", token(tokens.len().saturating_sub(1))?),
        ("oldest first", "order=asc".to_owned()),
        ("by metadata, 1 in 100", bucket.clone()),
        (
            "by metadata, none",
            format!("metadata={}", segment("bucket=none")),
        ),
        ("paused, 1 in 100", "state=paused".to_owned()),
        ("by metadata and paused", format!("{bucket}&state=paused")),
    ] {
        let watch = Watch::begin();
        let mut took = Vec::with_capacity(REPEATS);
        for _ in 0..REPEATS {
            took.push(read(&bench.client, &query).await?.0);
        }
        print(bench, live, page, watch, took)?;
    }
    bench.kill(ids).await
}

fn labels(index: usize) -> BTreeMap<String, String> {
    let bucket = ("bucket".to_owned(), format!("b{}", index % BUCKETS));
    BTreeMap::from([bucket, ("app".to_owned(), "bench".to_owned())])
}

/// Reads one page; answers its time in milliseconds and where the next begins.
async fn read(client: &Client, query: &str) -> anyhow::Result<(f64, Option<String>)> {
    let began = Instant::now();
    let path = format!("/v2/sandboxes?limit=100&{query}");
    let response = client.send(Method::GET, &path, None).await?;
    let next = response.headers().get("x-next-token");
    let next = next
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    response.bytes().await?;
    Ok((began.elapsed().as_secs_f64() * 1e3, next))
}

/// Reads all pages; answers where each but the first begins, and the times of all.
async fn walk(client: &Client) -> anyhow::Result<(Vec<String>, Vec<f64>)> {
    let (mut tokens, mut took, mut query) = (Vec::new(), Vec::new(), String::new());
    loop {
        let (time, next) = read(client, &query).await?;
        took.push(time);
        let Some(next) = next else {
            return Ok((tokens, took));
        };
        query = format!("nextToken={}", segment(&next));
        tokens.push(next);
    }
}

fn print(
    bench: &Bench<'_>,
    live: usize,
    page: &'static str,
    watch: Watch,
    mut took: Vec<f64>,
) -> anyhow::Result<()> {
    took.sort_by(f64::total_cmp);
    let line = Line {
        bench: "pages",
        page,
        live,
        count: took.len(),
        p50_ms: percentile(&took, 50),
        p99_ms: percentile(&took, 99),
        max_ms: percentile(&took, 100),
        processors: watch.end(took.len()),
        conditions: &bench.conditions,
    };
    if bench.is_json {
        return output::json(&line);
    }
    output::line(&format!(
        "page of 100 of {live} ({page}): {:.2} ms, 99 % {:.2}, most {:.2}; others' CPU {:.0} %",
        line.p50_ms, line.p99_ms, line.max_ms, line.processors.others_cpu_pct
    ))
}
