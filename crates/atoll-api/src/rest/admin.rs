//! The operators' surface, `/admin/v1`: keys, template imports, nodes, health; teams beneath.

mod audit;
mod forecast;
pub(super) mod nodes;
mod schedule;
mod servers;
mod teams;

use atoll_control::request::ImportRequest;
use atoll_core::error::ErrorKind;
use atoll_core::resources::Resources;
use atoll_core::template::TemplateSource;
use axum::extract::State;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;

use super::{Answer, Api, Segment, Table, json, keys, made, no_content, templates};
use crate::auth::Operator;
use crate::body::JsonBody;
use crate::dto::{NewKey, TemplateDto};
use crate::error::ApiError;

/// What each sandbox of an imported template takes where the request does not say: E2B's default.
const DEFAULT_RESOURCES: Resources = Resources {
    cpu_millis: 2_000,
    memory_mib: 1_024,
    disk_mib: 5_120,
};
/// The least memory in which the guest agent and a shell work.
const MIN_MEMORY_MIB: u32 = 64;
/// The least disk that holds a file system.
const MIN_DISK_MIB: u32 = 16;
/// Cores of the largest machine anybody runs this on.
const MAX_CPU_COUNT: u32 = 1_024;
/// Characters of a template's name.
const MAX_NAME_LEN: usize = 64;

pub(super) fn routes(table: Table) -> Table {
    let table = forecast::routes(schedule::routes(nodes::routes(table)));
    let table = servers::routes(table);
    audit::routes(teams::routes(table))
        .add(Method::GET, "/admin/v1/keys", list_keys)
        .add(Method::POST, "/admin/v1/keys", create_key)
        .add(Method::DELETE, "/admin/v1/keys/{keyID}", revoke_key)
        .add(Method::GET, "/admin/v1/templates", list_templates)
        .add(
            Method::DELETE,
            "/admin/v1/templates/{template}",
            remove_template,
        )
        .add(Method::POST, "/admin/v1/imports", start_import)
        .add(Method::GET, "/admin/v1/imports", list_imports)
        .add(Method::GET, "/admin/v1/imports/{importID}", get_import)
}

async fn list_keys(State(api): State<Api>, Operator(tenant): Operator) -> Answer {
    keys::list_of(api.control(), &tenant).await
}

async fn create_key(
    State(api): State<Api>,
    Operator(tenant): Operator,
    body: JsonBody<NewKey>,
) -> Answer {
    keys::create_for(api.control(), &tenant, body.value).await
}

async fn revoke_key(
    State(api): State<Api>,
    Operator(tenant): Operator,
    Segment(id): Segment,
) -> Answer {
    keys::revoke_of(api.control(), &tenant, &id).await
}

async fn list_templates(State(api): State<Api>, Operator(tenant): Operator) -> Answer {
    let templates = api.control().template_list(&tenant).await?;
    let rows: Vec<TemplateDto> = templates.into_iter().map(TemplateDto::from).collect();
    Ok(json(StatusCode::OK, rows))
}

async fn remove_template(
    State(api): State<Api>,
    Operator(tenant): Operator,
    Segment(reference): Segment,
) -> Answer {
    templates::check_reference(&reference)?;
    api.control().template_remove(&tenant, &reference).await?;
    Ok(no_content())
}

/// `POST /admin/v1/imports`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewImport {
    name: String,
    source: SourceDto,
    cpu_count: Option<u32>,
    #[serde(rename = "memoryMB")]
    memory_mb: Option<u32>,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: Option<u32>,
    #[serde(default)]
    public: bool,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum SourceDto {
    Host,
    Dir {
        path: std::path::PathBuf,
    },
    Tar {
        path: std::path::PathBuf,
    },
    OciLayout {
        path: std::path::PathBuf,
    },
    Image {
        reference: String,
    },
    Debian {
        suite: String,
        #[serde(default)]
        packages: Vec<String>,
    },
}

impl NewImport {
    fn into_request(self) -> Result<ImportRequest, ApiError> {
        let is_name_char =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if self.name.is_empty()
            || self.name.len() > MAX_NAME_LEN
            || !self.name.bytes().all(is_name_char)
        {
            return Err(ApiError::validation(format_args!(
                "`name` must have 1 to {MAX_NAME_LEN} characters of a-z, 0-9, dash and underscore"
            )));
        }
        Ok(ImportRequest {
            resources: resources(self.cpu_count, self.memory_mb, self.disk_size_mb)?,
            name: self.name,
            source: self.source.into_source()?,
            is_public: self.public,
        })
    }
}

fn resources(
    cpu_count: Option<u32>,
    memory_mib: Option<u32>,
    disk_mib: Option<u32>,
) -> Result<Resources, ApiError> {
    let mut resources = DEFAULT_RESOURCES;
    if let Some(cores) = cpu_count {
        if !(1..=MAX_CPU_COUNT).contains(&cores) {
            return Err(ApiError::validation(format_args!(
                "`cpuCount` must be from 1 to {MAX_CPU_COUNT}, not {cores}"
            )));
        }
        resources.cpu_millis = cores * 1_000;
    }
    if let Some(memory) = memory_mib {
        if memory < MIN_MEMORY_MIB {
            return Err(ApiError::validation(format_args!(
                "`memoryMB` must be at least {MIN_MEMORY_MIB}, not {memory}"
            )));
        }
        resources.memory_mib = memory;
    }
    if let Some(disk) = disk_mib {
        if disk < MIN_DISK_MIB {
            return Err(ApiError::validation(format_args!(
                "`diskSizeMB` must be at least {MIN_DISK_MIB}, not {disk}"
            )));
        }
        resources.disk_mib = disk;
    }
    Ok(resources)
}

impl SourceDto {
    fn into_source(self) -> Result<TemplateSource, ApiError> {
        let absolute = |path: std::path::PathBuf| {
            if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
                Ok(path)
            } else {
                Err(ApiError::validation(
                    "`source.path` must be an absolute path on the node",
                ))
            }
        };
        let word = |name: &str, text: String| {
            // What begins with a dash would be an option to the tools that read it.
            let is_plain = |c: char| c.is_ascii_graphic();
            if text.is_empty() || text.starts_with('-') || !text.chars().all(is_plain) {
                return Err(ApiError::validation(format_args!(
                    "`source.{name}` is not valid"
                )));
            }
            Ok(text)
        };
        Ok(match self {
            Self::Host => TemplateSource::Host,
            Self::Dir { path } => TemplateSource::Directory(absolute(path)?),
            Self::Tar { path } => TemplateSource::Tar(absolute(path)?),
            Self::OciLayout { path } => TemplateSource::OciLayout(absolute(path)?),
            Self::Image { reference } => TemplateSource::Image(word("reference", reference)?),
            Self::Debian { suite, packages } => TemplateSource::Debian {
                suite: word("suite", suite)?,
                packages: packages
                    .into_iter()
                    .map(|package| word("packages", package))
                    .collect::<Result<_, _>>()?,
            },
        })
    }
}

async fn start_import(
    State(api): State<Api>,
    Operator(tenant): Operator,
    body: JsonBody<NewImport>,
) -> Answer {
    let request = body.value.into_request()?;
    let import = api
        .imports()
        .start(api.control().clone(), tenant, request)?;
    let location = format!("/admin/v1/imports/{}", import.id);
    let name = import.name.clone();
    let mut response = made(StatusCode::ACCEPTED, &name, import);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn list_imports(State(api): State<Api>, Operator(tenant): Operator) -> Answer {
    Ok(json(StatusCode::OK, api.imports().list(&tenant.team)))
}

async fn get_import(
    State(api): State<Api>,
    Operator(tenant): Operator,
    Segment(id): Segment,
) -> Answer {
    match api.imports().get(&tenant.team, &id) {
        Some(import) => Ok(json(StatusCode::OK, import)),
        None => Err(ApiError::new(ErrorKind::NotFound, "no such import")),
    }
}
