//! `atoll config`: mistakes in settings, and what holds.

use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::cli::Command;
use crate::cli::config::{ConfigCommand, Role};
use crate::commands::run::Exit;
use crate::config::{self, Effective, Failure, Kind, Origin, Resolved, Setting};
use crate::discovery::Discovery;
use crate::node_process::demand_servers;
use crate::{output, secrets};

/// A setting, as a program reads it.
#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    /// None if nothing is set, and of a secret.
    value: Value,
    is_secret: bool,
    /// `unset`, `default`, `file`, `environment` or `flag`.
    origin: &'static str,
    /// The file and line, the variable or the flag.
    source: Option<String>,
    /// What it is where nobody gives one; none if that differs from machine to machine.
    default: Value,
    meaning: &'a str,
}

/// Carries out the command. Mistakes are told, and make the exit a failure.
///
/// # Errors
/// If standard output cannot be written.
pub(crate) fn run(command: ConfigCommand) -> anyhow::Result<Exit> {
    match command {
        ConfigCommand::Check { file, role, flags } => check(file.config.as_deref(), role, &flags),
        ConfigCommand::Show {
            file,
            role,
            flags,
            json,
        } => match config::of_role(role, file.config.as_deref(), &flags) {
            Ok(resolved) => show(&resolved, json).map(|()| Exit::SUCCESS),
            Err(failure) => Ok(told(failure)),
        },
    }
}

fn check(path: Option<&Path>, role: Option<Role>, flags: &[OsString]) -> anyhow::Result<Exit> {
    for warning in config::strange_variables() {
        output::complain(&format!("warning: {warning}"));
    }
    let file = match config::of_file(path) {
        Ok(file) => file,
        Err(problems) => return Ok(told(Failure::Settings(problems))),
    };
    if let Some(role) = role {
        let resolved = match config::of_role(role, path, flags) {
            Ok(resolved) => resolved,
            Err(failure) => return Ok(told(failure)),
        };
        if let Err(error) = open_secrets(&resolved.cli.command) {
            return Ok(told(Failure::Settings(vec![format!("{error:#}")])));
        }
    }
    let checked = file.map_or_else(
        || "no file of settings".to_owned(),
        |path| path.display().to_string(),
    );
    output::line(&format!("{checked}: no mistakes"))?;
    Ok(Exit::SUCCESS)
}

/// # Errors
/// If a secret that is named cannot be used, or something is missing that flags cannot demand.
fn open_secrets(command: &Command) -> anyhow::Result<()> {
    let (front, join) = match command {
        Command::Dev(arguments) => (Some(&arguments.front), None),
        Command::Server(arguments) => (Some(&arguments.front), Some(&arguments.join)),
        Command::Node(arguments) => (None, Some(&arguments.join)),
        _ => (None, None),
    };
    let consul = match command {
        Command::Dev(arguments) => Some(&arguments.front.consul),
        Command::Server(arguments) => Some(&arguments.front.consul),
        Command::Node(arguments) => Some(&arguments.consul),
        _ => None,
    };
    consul.map(Discovery::open).transpose()?;
    if let Command::Node(arguments) = command {
        demand_servers(arguments)?;
    }
    if let Some(front) = front {
        secrets::api_key(&front.key)?;
        secrets::database_url(&front.database)?;
        secrets::cache(&front.cache)?;
    }
    join.map(secrets::join_token).transpose()?;
    Ok(())
}

/// Tells what is wrong; or what was asked for, which clap answers as an error.
pub(crate) fn told(failure: Failure) -> Exit {
    match failure {
        Failure::Usage(error) => {
            // Nobody is left to tell when the output is closed.
            let _ = error.print();
            if error.use_stderr() {
                Exit::USAGE
            } else {
                Exit::SUCCESS
            }
        }
        Failure::Settings(problems) => {
            for problem in problems {
                output::complain(&problem);
            }
            Exit::USAGE
        }
    }
}

fn show(resolved: &Resolved, json: bool) -> anyhow::Result<()> {
    let settings = resolved.settings.iter().filter(|one| !is_silent(one));
    if json {
        for one in settings {
            output::json(&line(one))?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = settings.map(row).collect();
    let file = resolved.file.as_ref().map_or_else(
        || "No file of settings.".to_owned(),
        |path| format!("The file of settings is {}.", path.display()),
    );
    let table = output::table(&["KEY", "VALUE", "ORIGIN"], &rows);
    output::line(&format!("{file}\n\n{table}"))
}

/// A secret that is not given as itself is told of by its file.
fn is_silent(one: &Effective) -> bool {
    one.setting.is_secret && one.origin == Origin::Unset
}

fn row(one: &Effective) -> Vec<String> {
    let value = match &one.origin {
        Origin::Unset => "-".to_owned(),
        _ if one.setting.is_secret => "(secret)".to_owned(),
        _ if one.setting.secret_key().is_some() => {
            format!("(secret, in {})", one.values.join(","))
        }
        _ => one.values.join(","),
    };
    let (kind, source) = origin(&one.origin);
    let origin = source.unwrap_or_else(|| kind.to_owned());
    vec![one.setting.key.clone(), value, origin]
}

fn line(one: &Effective) -> Line<'_> {
    let (origin, source) = origin(&one.origin);
    let setting = &one.setting;
    let is_shown = !setting.is_secret && one.origin != Origin::Unset;
    Line {
        key: &setting.key,
        value: if is_shown {
            value(setting, &one.values)
        } else {
            Value::Null
        },
        is_secret: setting.is_secret,
        origin,
        source,
        default: value(setting, &setting.defaults),
        meaning: &setting.meaning,
    }
}

/// Values as JSON has them: what clap took as a number or a truth value is one here as well.
fn value(setting: &Setting, values: &[String]) -> Value {
    let typed = |text: &String| match setting.kind {
        Kind::Text => Value::from(text.as_str()),
        Kind::Boolean | Kind::Integer | Kind::Number => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
        }
    };
    let mut values = values.iter().map(typed);
    if setting.is_list {
        return values.collect();
    }
    values.next().unwrap_or(Value::Null)
}

fn origin(origin: &Origin) -> (&'static str, Option<String>) {
    match origin {
        Origin::Unset => ("unset", None),
        Origin::Default => ("default", None),
        Origin::File(path, line) => ("file", Some(format!("{}:{line}", path.display()))),
        Origin::Variable(name) => ("environment", Some(name.clone())),
        Origin::Flag(name) => ("flag", Some(name.clone())),
    }
}
