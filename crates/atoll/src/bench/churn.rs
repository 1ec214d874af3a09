//! Whether memory and the store's file stay as they are while many sandboxes come and go.

use std::path::Path;

use serde::Serialize;

use crate::bench::conditions::{Conditions, Processors, Watch, resident_mib};
use crate::bench::control::{BULK_CONCURRENCY, Bench};
use crate::bench::rate;
use crate::output;

/// Looks on the way.
const STEPS: usize = 10;

/// What it looks like after so many.
#[derive(Debug, Serialize)]
struct Line<'a> {
    bench: &'static str,
    /// Made and ended so far.
    made: usize,
    pairs_per_s: f64,
    rss_mib: u64,
    /// The store's file and its log.
    file_mib: u64,
    wal_mib: u64,
    #[serde(flatten)]
    processors: Processors,
    #[serde(flatten)]
    conditions: &'a Conditions,
}

/// Makes and ends `count` sandboxes.
pub(super) async fn measure(bench: &Bench<'_>, count: usize) -> anyhow::Result<()> {
    let mut made = 0;
    for step in 1..=STEPS {
        let wanted = count * step / STEPS - made;
        let watch = Watch::begin();
        bench.churn(BULK_CONCURRENCY, wanted).await?;
        made += wanted;
        let line = Line {
            bench: "memory",
            made,
            pairs_per_s: rate(wanted, watch.elapsed()),
            rss_mib: resident_mib(),
            file_mib: mib(&bench.folder.join("data/atoll.db")),
            wal_mib: mib(&bench.folder.join("data/atoll.db-wal")),
            processors: watch.end(wanted),
            conditions: &bench.conditions,
        };
        if bench.is_json {
            output::json(&line)?;
        } else {
            output::line(&format!(
                "{:7} made and ended: {:.0} a second, {} MiB resident, file {} MiB, log {} MiB",
                line.made, line.pairs_per_s, line.rss_mib, line.file_mib, line.wal_mib
            ))?;
        }
    }
    Ok(())
}

fn mib(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len().div_ceil(1 << 20))
}
