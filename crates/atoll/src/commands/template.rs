//! `atoll template …`.

use std::path::{Path, absolute};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::TemplateCommand;
use crate::client::{Client, segment};
use crate::commands::sandbox::client;
use crate::output;

/// How often a running import is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Template {
    #[serde(rename = "templateID")]
    id: String,
    names: Vec<String>,
    build_status: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mib: u32,
    created_at: String,
}

#[derive(Debug, Deserialize)]
struct Import {
    #[serde(rename = "importID")]
    id: String,
    status: String,
    #[serde(rename = "templateID")]
    template: Option<String>,
    message: Option<String>,
}

/// Does what the subcommand says.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(command: TemplateCommand) -> anyhow::Result<()> {
    match command {
        TemplateCommand::Import {
            server,
            name,
            from,
            cpu_count,
            memory_mib,
            disk_mib,
        } => {
            let mut request = json!({ "name": name, "source": source(&from)? });
            let sizes = [
                ("cpuCount", cpu_count),
                ("memoryMB", memory_mib),
                ("diskSizeMB", disk_mib),
            ];
            for (field, size) in sizes {
                if let Some(size) = size {
                    request[field] = size.into();
                }
            }
            import(&client(&server)?, request).await
        }
        TemplateCommand::List { server, json } => list(&client(&server)?, json).await,
        TemplateCommand::Rm { server, name } => {
            let path = format!("/templates/{}", segment(&name));
            client(&server)?
                .send(Method::DELETE, &path, None)
                .await
                .map(drop)
        }
    }
}

/// Reads the forms of `--from`. Paths are made absolute: the server has another working directory.
fn source(text: &str) -> anyhow::Result<Value> {
    let path_of = |path: &str| absolute(path).context("the path is not valid");
    if text == "host" {
        return Ok(json!({ "kind": "host" }));
    }
    if let Some(reference) = text.strip_prefix("docker://") {
        return Ok(json!({ "kind": "image", "reference": reference }));
    }
    if let Some(path) = text.strip_prefix("oci-layout:") {
        return Ok(json!({ "kind": "oci-layout", "path": path_of(path)? }));
    }
    if let Some(suite) = text.strip_prefix("debian:") {
        let mut words = suite.split(',');
        let suite = words.next().unwrap_or_default();
        let packages: Vec<&str> = words.collect();
        return Ok(json!({ "kind": "debian", "suite": suite, "packages": packages }));
    }
    let path = path_of(text)?;
    ensure!(
        path.exists(),
        "`{text}` does not exist; --from takes DIR, TAR, oci-layout:PATH, docker://IMAGE, \
         debian:SUITE[,PACKAGE…] or host"
    );
    let kind = if Path::new(&path).is_dir() {
        "dir"
    } else {
        "tar"
    };
    Ok(json!({ "kind": kind, "path": path }))
}

async fn import(client: &Client, request: Value) -> anyhow::Result<()> {
    let token = &client.connection().admin_token;
    ensure!(
        token.is_some(),
        "templates are imported by operators: run this as root on the server's machine, or set \
         ATOLL_ADMIN_TOKEN"
    );
    let mut import: Import = client
        .call(Method::POST, "/admin/v1/imports", Some(request))
        .await?;
    // The server bounds the import; this loop ends with it.
    while import.status == "running" {
        tokio::time::sleep(POLL_INTERVAL).await;
        let path = format!("/admin/v1/imports/{}", segment(&import.id));
        import = client.call(Method::GET, &path, None).await?;
    }
    match import.template {
        Some(template) if import.status == "ready" => output::line(&template),
        _ => bail!("{}", import.message.unwrap_or(import.status)),
    }
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let templates: Vec<Value> = client.call(Method::GET, "/templates", None).await?;
    if json {
        return templates.iter().try_for_each(output::json);
    }
    let rows = templates.into_iter().map(|row| {
        let row: Template = serde_json::from_value(row)?;
        Ok(vec![
            row.names.join(", "),
            row.id,
            row.build_status,
            row.cpu_count.to_string(),
            row.memory_mib.to_string(),
            row.created_at,
        ])
    });
    let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
    output::line(&output::table(
        &["NAME", "ID", "STATUS", "CPU", "MEMORY MIB", "CREATED"],
        &rows,
    ))
}

#[cfg(test)]
mod tests {
    use super::source;

    #[test]
    fn every_form_of_a_source_is_read() {
        assert_eq!(source("host").unwrap()["kind"], "host");
        assert_eq!(source("docker://a/b:c").unwrap()["reference"], "a/b:c");
        assert_eq!(source("oci-layout:/x").unwrap()["path"], "/x");
        let debian = source("debian:bookworm,git,curl").unwrap();
        assert_eq!(
            (debian["suite"].as_str(), debian["packages"][1].as_str()),
            (Some("bookworm"), Some("curl"))
        );
        assert_eq!(source("/").unwrap()["kind"], "dir");
        assert!(
            source("/nonexistent/x")
                .unwrap_err()
                .to_string()
                .contains("debian:SUITE")
        );
    }
}
