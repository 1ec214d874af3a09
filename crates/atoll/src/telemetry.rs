//! Logs, traces and metrics: where they go and how they look. Standard output belongs to the
//! commands.
//!
//! The crates below only speak to the facades `tracing` and `metrics`; what they say is turned into
//! lines, OTLP spans and Prometheus text here and nowhere else. Traces are exported only where the
//! environment names a collector (OpenTelemetry specification: `OTEL_EXPORTER_OTLP_ENDPOINT`).

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;
use std::{io, thread};

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::config::LogFormat;

/// What servers and nodes log unless told otherwise.
pub(crate) const SERVERS: &str = "info,sqlx=warn,hyper=warn";
/// What commands that talk to a server log, unless [`FILTER_VARIABLE`] says otherwise.
const COMMANDS: &str = "warn";
/// Says what to log.
const FILTER_VARIABLE: &str = "ATOLL_LOG";

/// Variables that name a collector, the narrower first.
const COLLECTORS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Upper bounds of the buckets of every histogram of seconds: from what a commit takes to what a
/// client waits for.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// Upper bounds of the buckets of histograms that count.
const COUNTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// How often what histograms were told is folded into their buckets. Until then each value takes
/// its 8 bytes, whether or not somebody reads the metrics.
const FOLDED_EACH: Duration = Duration::from_secs(5);

/// Ends the export of traces when it is dropped, with what is still to be sent.
#[derive(Debug, Default)]
#[must_use = "spans that wait are lost when this is dropped early"]
pub(crate) struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// Refuses what is no filter. What is one stays a text: filters are not to be copied.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_filter(text: &str) -> Result<String, ParseError> {
    EnvFilter::try_new(text).map(|_| text.to_owned())
}

/// As [`start`], for a command that talks to a server.
pub(crate) fn start_command() -> Telemetry {
    let given = std::env::var(FILTER_VARIABLE);
    start(LogFormat::Text, given.as_deref().unwrap_or(COMMANDS))
}

/// Starts logging to standard error what passes the filter, and tracing where a collector is named.
pub(crate) fn start(format: LogFormat, filter: &str) -> Telemetry {
    let filter = EnvFilter::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let (provider, complaint) = match collector().map(|_| exporter()) {
        None => (silent(), None),
        Some(Ok(provider)) => (provider, None),
        Some(Err(error)) => (silent(), Some(error)),
    };
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("atoll"));
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(spans);
    // A second start (a command that runs its own server) keeps the first one's.
    if let Err(error) = registry.try_init() {
        tracing::debug!(%error, "logging was started already");
        return Telemetry::default();
    }
    if let Some(error) = complaint {
        tracing::warn!(%error, "traces are not exported");
    }
    Telemetry {
        provider: Some(provider),
    }
}

/// Exports nothing. Spans have their ids all the same, so that the logs of a node name the trace
/// that the server's do, and a collector further on gets what the client wanted to be seen.
fn silent() -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
        .build()
}

fn collector() -> Option<String> {
    let named = COLLECTORS
        .iter()
        .filter_map(|name| std::env::var(name).ok());
    named.into_iter().find(|endpoint| !endpoint.is_empty())
}

fn exporter() -> Result<SdkTracerProvider, opentelemetry_otlp::ExporterBuildError> {
    // Address, headers and time-out are the exporter's to read from the environment.
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .build()?;
    let resource = Resource::builder().with_service_name("atoll").build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

/// What was counted, as Prometheus reads it. The first call begins to count.
///
/// # Errors
/// If something else in this process counts already, or no thread can be started.
pub(crate) fn metrics() -> anyhow::Result<&'static PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle);
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_writes".to_owned()), &COUNTS)?
        .install_recorder()?;
    atoll_api::metrics::describe();
    atoll_control::metrics::describe();
    atoll_edge::metrics::describe();
    atoll_node::metrics::describe();
    atoll_store::metrics::describe();
    let folding = handle.clone();
    fold_each(FOLDED_EACH, move || folding.run_upkeep()).context("start a thread")?;
    Ok(HANDLE.get_or_init(|| handle))
}

/// Calls `fold` for as long as the process lives: on a thread of its own, because who counts may
/// have no runtime, or several.
fn fold_each(interval: Duration, fold: impl Fn() + Send + 'static) -> io::Result<()> {
    let folding = move || {
        loop {
            thread::sleep(interval);
            fold();
        }
    };
    let thread = thread::Builder::new().name("metrics-folding".to_owned());
    thread.spawn(folding).map(drop)
}

/// What was counted so far; empty if nothing counts.
pub(crate) fn render_metrics() -> String {
    metrics().map_or_else(
        |_| String::new(),
        |handle| {
            // What was told since is shown, too.
            handle.run_upkeep();
            handle.render()
        },
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::bench::conditions::resident_mib;

    /// Values told between two folds: 2 MiB of them.
    const VALUES: usize = 1 << 18;
    const ROUNDS: usize = 24;
    /// A few rounds' worth: what is folded is freed a little later.
    const KEPT_MIB_MAX: u64 = 20;

    /// A server whose metrics nobody read grew by the values of every request.
    #[test]
    fn histograms_that_nobody_reads_do_not_grow() {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .expect("buckets")
            .build_recorder();
        let handle = recorder.handle();
        let folds = Arc::new(AtomicUsize::new(0));
        let folded = Arc::clone(&folds);
        let fold = move || {
            handle.run_upkeep();
            folded.fetch_add(1, Ordering::SeqCst);
        };
        fold_each(Duration::from_millis(1), fold).expect("a thread");
        let histogram = metrics::with_local_recorder(&recorder, || metrics::histogram!("test"));
        let before = resident_mib();
        for _ in 0..ROUNDS {
            for _ in 0..VALUES {
                histogram.record(0.01);
            }
            // One may have begun before the last value.
            let enough = folds.load(Ordering::SeqCst) + 2;
            while folds.load(Ordering::SeqCst) < enough {
                thread::yield_now();
            }
        }
        let grown = resident_mib().saturating_sub(before);
        assert!(grown < KEPT_MIB_MAX, "{grown} MiB more are resident");
    }

    const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

    fn names() -> Vec<(&'static str, &'static str)> {
        let mut names = Vec::new();
        names.extend(atoll_api::metrics::ALL);
        names.extend(atoll_control::metrics::ALL);
        names.extend(atoll_edge::metrics::ALL);
        names.extend(atoll_node::metrics::ALL);
        names.extend(atoll_store::metrics::ALL);
        names
    }

    #[test]
    fn the_document_lists_every_metric_and_no_other() {
        for (name, meaning) in names() {
            let row = format!("| `{name}` | {meaning} |");
            assert!(DOCUMENT.contains(&row), "docs/metrics.md lacks: {row}");
        }
        let rows = DOCUMENT
            .lines()
            .filter(|line| line.starts_with("| `atoll_"));
        assert_eq!(rows.count(), names().len());
    }
}
