//! `POST /files/compose`: several files become one, inside the sandbox. The parts are removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response, StatusCode};
use serde::Deserialize;

use super::metadata::Metadata;
use super::upload::Written;
use super::{Refusal, find_user, json, read_all, resolve};
use crate::filesystem::tree::reason;
use crate::helper;
use crate::inbound::Inbound;
use crate::path;
use crate::server::{Agent, Body};
use crate::user::User;

/// Files that can be put together at once.
const SOURCES_MAX: usize = 10_000;

/// Tells the unfinished files of one agent apart.
static COUNT: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Deserialize)]
struct Compose {
    #[serde(default)]
    source_paths: Vec<String>,
    #[serde(default)]
    destination: String,
    username: Option<String>,
}

/// Answers the request.
pub(crate) async fn answer(
    agent: &Arc<Agent>,
    request: Request<Inbound>,
) -> Result<Response<Body>, Refusal> {
    let body = read_all(request.into_body()).await?;
    let compose: Compose = serde_json::from_slice(&body)
        .map_err(|error| Refusal::bad_request(format!("invalid request body: {error}")))?;
    if compose.source_paths.is_empty() {
        return Err(Refusal::bad_request("source_paths must not be empty"));
    }
    if compose.source_paths.len() > SOURCES_MAX {
        return Err(Refusal::bad_request(format!(
            "source_paths must not be more than {SOURCES_MAX}"
        )));
    }
    if compose.destination.is_empty() {
        return Err(Refusal::bad_request("destination is required"));
    }
    let user = find_user(agent, compose.username.as_deref())?;
    let destination = resolve(agent, &compose.destination, &user).map_err(|error| {
        Refusal::bad_request(format!("error resolving destination path: {error}"))
    })?;
    let mut sources = Vec::with_capacity(compose.source_paths.len());
    for source in compose.source_paths {
        let resolved = resolve(agent, &source, &user).map_err(|error| {
            Refusal::bad_request(format!("error resolving source path \"{source}\": {error}"))
        })?;
        if resolved == destination {
            let message = format!("source path \"{source}\" cannot be the same as destination");
            return Err(Refusal::bad_request(message));
        }
        sources.push((source, resolved));
    }
    let written = helper::run(move || put_together(&sources, destination, &user)).await??;
    Ok(json(&written))
}

fn put_together(
    sources: &[(String, String)],
    destination: String,
    user: &User,
) -> Result<Written, Refusal> {
    for (asked, path) in sources {
        let found = fs::metadata(path).map_err(|_| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                format!("source file not found: {asked}"),
            )
        })?;
        if !found.is_file() {
            return Err(Refusal::bad_request(format!(
                "source path is not a regular file: {asked}"
            )));
        }
    }
    path::ensure_directories(&path::parent(&destination), user)
        .map_err(|error| Refusal::internal(format!("error ensuring directories: {error}")))?;
    // Written aside, so that a failure half-way leaves what was there.
    let unfinished = format!(
        "{destination}.e2b-compose.{}-{}.tmp",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let result = write(sources, &unfinished, user).and_then(|()| {
        fs::rename(&unfinished, &destination)
            .map_err(|error| failure("error finalizing compose", &error))
    });
    if let Err(refusal) = result {
        let _ = fs::remove_file(&unfinished);
        return Err(refusal);
    }
    for (_, path) in sources {
        // A part that stays does not make the whole wrong.
        let _ = fs::remove_file(path);
    }
    Ok(Written::new(destination, Metadata::new()))
}

fn write(sources: &[(String, String)], unfinished: &str, user: &User) -> Result<(), Refusal> {
    let mut whole = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(unfinished)
        .map_err(|error| failure("error creating destination file", &error))?;
    std::os::unix::fs::fchown(&whole, Some(user.uid), Some(user.gid))
        .map_err(|error| failure("error changing file ownership", &error))?;
    for (_, path) in sources {
        let mut part = File::open(path)
            .map_err(|error| failure(&format!("error opening source file {path}"), &error))?;
        io::copy(&mut part, &mut whole)
            .map_err(|error| failure(&format!("error composing source {path}"), &error))?;
    }
    Ok(())
}

fn failure(what: &str, error: &io::Error) -> Refusal {
    if path::is_out_of_space(error) {
        return Refusal::no_space("not enough disk space available");
    }
    Refusal::internal(format!("{what}: {}", reason(error)))
}
