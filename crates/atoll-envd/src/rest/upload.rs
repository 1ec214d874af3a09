//! `POST /files`: contents from a client into files.
//!
//! A new file is created, given to the user, then written, and the last piece is written in one go:
//! watchers of the directory see *create, chmod, write*, which SDK tests count. Nothing is held but
//! one buffer, so size costs no memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Request, Response};
use serde::Serialize;

use super::metadata::{self, Metadata};
use super::multipart::{Multipart, Part};
use super::query::FileQuery;
use super::source::Source;
use super::{Refusal, find_user, json, resolve};
use crate::filesystem::tree::reason;
use crate::helper;
use crate::inbound::Inbound;
use crate::path;
use crate::server::{Agent, Body};
use crate::user::User;

/// Bytes gathered before they are written.
const WRITE_CHUNK: usize = 64 * 1024;

/// A file that was written, as clients are told of it.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    path: String,
    name: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
}

impl Written {
    pub(crate) fn new(path: String, metadata: Metadata) -> Self {
        let name = path::base_name(&path).to_owned();
        Self {
            path,
            name,
            r#type: "file",
            metadata,
        }
    }
}

/// What is the same for all files of one request.
struct Upload {
    user: User,
    metadata: Metadata,
    /// As the client states it, for messages.
    length: u64,
}

/// Where pieces come from.
enum Pieces<'a> {
    Body(&'a mut Source),
    Part(&'a mut Multipart),
}

impl Pieces<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        match self {
            Self::Body(source) => source.next().await,
            Self::Part(multipart) => multipart.next_piece().await,
        }
    }
}

/// Answers the request.
pub(crate) async fn answer(
    agent: &Arc<Agent>,
    request: Request<Inbound>,
) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let query = FileQuery::parse(&head.uri)?;
    query.authorise(&agent.settings, &head.headers, "write")?;
    let source = Source::new(&head.headers, body)?;
    let user = find_user(agent, query.username.as_deref())?;
    let metadata = metadata::from_headers(&head.headers)
        .map_err(|invalid| Refusal::bad_request(format!("invalid metadata: {invalid}")))?;
    let header = |name| {
        head.headers
            .get(name)
            .and_then(|value: &http::HeaderValue| value.to_str().ok())
            .unwrap_or_default()
    };
    let length = header(CONTENT_LENGTH).parse().unwrap_or_default();
    let upload = Upload {
        user,
        metadata,
        length,
    };
    let content_type = header(CONTENT_TYPE);
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let written = if media_type == "application/octet-stream" {
        vec![upload.whole_body(agent, &query, source).await?]
    } else if media_type.starts_with("multipart/") {
        upload
            .parts(agent, &query, Multipart::new(content_type, source)?)
            .await?
    } else {
        return Err(Refusal::bad_request(format!(
            "unsupported content type: {content_type}, expected multipart/form-data or \
             application/octet-stream"
        )));
    };
    Ok(json(&written))
}

impl Upload {
    async fn whole_body(
        &self,
        agent: &Agent,
        query: &FileQuery,
        mut source: Source,
    ) -> Result<Written, Refusal> {
        let path = query.path.as_deref().ok_or_else(|| {
            Refusal::bad_request("path query parameter is required for raw body upload")
        })?;
        let path = self.resolve(agent, path)?;
        self.store(path, Pieces::Body(&mut source)).await
    }

    async fn parts(
        &self,
        agent: &Agent,
        query: &FileQuery,
        mut multipart: Multipart,
    ) -> Result<Vec<Written>, Refusal> {
        let mut written: Vec<Written> = Vec::new();
        while let Some(part) = multipart.next_part().await? {
            if part.name.as_deref() != Some("file") {
                continue;
            }
            let path = self.resolve(agent, named_path(query, &part)?)?;
            refuse_twice(&written, &path)?;
            written.push(self.store(path, Pieces::Part(&mut multipart)).await?);
        }
        Ok(written)
    }

    fn resolve(&self, agent: &Agent, path: &str) -> Result<String, Refusal> {
        resolve(agent, path, &self.user)
            .map_err(|error| Refusal::bad_request(format!("error resolving path: {error}")))
    }

    async fn store(&self, path: String, mut pieces: Pieces<'_>) -> Result<Written, Refusal> {
        let file = helper::run({
            let (path, user) = (path.clone(), self.user.clone());
            move || open(&path, &user)
        });
        let file = Arc::new(file.await??);
        let mut buffer = BytesMut::new();
        while let Some(piece) = pieces.next().await? {
            buffer.extend_from_slice(&piece);
            if buffer.len() >= WRITE_CHUNK {
                self.write(&file, buffer.split().freeze()).await?;
            }
        }
        if !buffer.is_empty() {
            self.write(&file, buffer.freeze()).await?;
        }
        let metadata = self.metadata.clone();
        helper::run(move || {
            metadata::replace(&file, &metadata).map_err(|error| {
                match path::is_out_of_space(&error) {
                    true => Refusal::no_space(format!(
                        "not enough space for file metadata: {}",
                        reason(&error)
                    )),
                    false => Refusal::internal(format!(
                        "error writing file metadata: {}",
                        reason(&error)
                    )),
                }
            })?;
            // What was kept, not what was asked for: the file system may have no attributes.
            let kept = if metadata.is_empty() {
                Metadata::new()
            } else {
                metadata::read(&path).unwrap_or_default()
            };
            Ok(Written::new(path, kept))
        })
        .await?
    }

    async fn write(&self, file: &Arc<File>, bytes: Bytes) -> Result<(), Refusal> {
        let target = Arc::clone(file);
        let result = helper::run(move || (&*target).write_all(&bytes)).await?;
        result.map_err(|error| match path::is_out_of_space(&error) {
            true if self.length > 0 => Refusal::no_space(format!(
                "attempted to write {} bytes: not enough disk space available",
                self.length
            )),
            true => Refusal::no_space("not enough disk space available"),
            false => Refusal::internal(format!("error writing file: {}", reason(&error))),
        })
    }
}

fn named_path<'a>(query: &'a FileQuery, part: &'a Part) -> Result<&'a str, Refusal> {
    query
        .path
        .as_deref()
        .or(part.filename.as_deref())
        .ok_or_else(|| {
            Refusal::bad_request(
                "error getting multipart custom part file name: filename not found in \
             Content-Disposition header",
            )
        })
}

fn refuse_twice(written: &[Written], path: &str) -> Result<(), Refusal> {
    if !written.iter().any(|file| file.path == path) {
        return Ok(());
    }
    let mut message = format!(
        "you cannot upload multiple files to the same path '{path}' in one upload request, only \
         the first specified file was uploaded"
    );
    let others: Vec<&str> = written
        .iter()
        .map(|file| file.path.as_str())
        .filter(|other| *other != path)
        .collect();
    if !others.is_empty() {
        message.push_str(&format!(
            ", also the following files were uploaded: {}",
            others.join(", ")
        ));
    }
    Err(Refusal::bad_request(message))
}

/// Makes the file anew, with the directories above it, owned by the user.
fn open(path: &str, user: &User) -> Result<File, Refusal> {
    path::ensure_directories(&path::parent(path), user).map_err(|error| {
        match error.is_out_of_space() {
            true => Refusal::no_space(format!("error ensuring directories: {error}")),
            false => Refusal::internal(format!("error ensuring directories: {error}")),
        }
    })?;
    let is_there = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(Refusal::bad_request(format!("path is a directory: {path}")));
        }
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(Refusal::internal(format!(
                "error getting file info: {}",
                reason(&error)
            )));
        }
    };
    let chown_failed = |error: io::Error| {
        Refusal::internal(format!("error changing file ownership: {}", reason(&error)))
    };
    if is_there {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).map_err(chown_failed)?;
    }
    // Without O_NONBLOCK, a pipe that nobody reads would hold the thread for ever.
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|error| match path::is_out_of_space(&error) {
        true => Refusal::no_space(format!("not enough inodes available: {}", reason(&error))),
        false => Refusal::internal(format!(
            "error opening file: open {path}: {}",
            reason(&error)
        )),
    })?;
    if !is_there {
        std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid)).map_err(chown_failed)?;
    }
    Ok(file)
}
