//! Settings in layers: defaults, one file, the environment over it, flags over that.
//!
//! Settings are the flags of the roles, and nothing else is ([`setting`]). What the file says
//! becomes the default of the flag, so that one parser, clap's, puts the layers together, judges
//! every value and fills the same structures whatever a value's origin is. So the command line is
//! read twice: once for the name of the file, and once with it.
//!
//! Of a secret and the file that holds it ([`Setting::file_key`]) the upper layer counts, as if
//! they were one setting.

mod file;
mod setting;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};

use self::file::File;
pub(crate) use self::setting::{Kind, Schema, Setting};
use crate::cli::Cli;
use crate::cli::config::{DEFAULT_FILE, Role};

/// Variables that are no settings of a role or flags of a command.
const OTHER_VARIABLES: [&str; 4] = [
    "ATOLL_CRASH_AT",
    "ATOLL_GUEST_DIR",
    "ATOLL_LOG",
    "ATOLL_WEBHOOK_SECRET",
];
/// What our variables begin with.
const PREFIX: &str = "ATOLL_";

/// Why a command line cannot be carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was typed; or a request for help, which clap answers as an error.
    Usage(clap::Error),
    /// Settings, each with its place.
    Settings(Vec<String>),
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody gave one, and there is no default that would be the same everywhere.
    Unset,
    Default,
    File(PathBuf, usize),
    Variable(String),
    Flag(String),
}

/// A setting and what it is.
#[derive(Debug)]
pub(crate) struct Effective {
    pub(crate) setting: Setting,
    pub(crate) values: Vec<String>,
    pub(crate) origin: Origin,
}

/// What a role starts with.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) cli: Cli,
    pub(crate) file: Option<PathBuf>,
    pub(crate) settings: Vec<Effective>,
}

/// Reads a command line with the settings below it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(line: &[OsString]) -> Result<Cli, Failure> {
    let schema = Schema::new();
    match role_of(&schema, line)? {
        Some((role, typed)) => Ok(resolve(&schema, role, &typed, line)?.cli),
        None => {
            let matches = schema.command().clone().try_get_matches_from(line)?;
            Ok(Cli::from_arg_matches(&matches)?)
        }
    }
}

/// What a role would start with: as if it were started with these flags.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn of_role(
    role: Role,
    path: Option<&Path>,
    flags: &[OsString],
) -> Result<Resolved, Failure> {
    let mut line: Vec<OsString> = vec!["atoll".into(), role.name().into()];
    if let Some(path) = path {
        line.extend(["--config".into(), path.into()]);
    }
    line.extend_from_slice(flags);
    let schema = Schema::new();
    match role_of(&schema, &line)? {
        Some((role, typed)) => resolve(&schema, role, &typed, &line),
        None => Err(Failure::Settings(Vec::new())),
    }
}

/// Looks for mistakes in all parts of the file. Answers which file it was, if there is one.
///
/// # Errors
/// Every mistake.
pub(crate) fn of_file(path: Option<&Path>) -> Result<Option<PathBuf>, Vec<String>> {
    let file = open(path, &Schema::new())?;
    Ok(file.map(|file| file.path))
}

/// Variables that look like settings and are none: a slip in one is an error nowhere else,
/// because an environment is not only ours.
pub(crate) fn strange_variables() -> Vec<String> {
    let known = Schema::new().variables();
    let known: Vec<&str> = known
        .iter()
        .map(String::as_str)
        .chain(OTHER_VARIABLES)
        .collect();
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(PREFIX) && !known.contains(&name.as_str()))
        .map(|name| {
            let hint = setting::hint(&name, &known);
            format!("nothing reads the variable `{name}`{hint}")
        })
        .collect()
}

/// The role that a command line starts, with what was typed for it.
fn role_of(schema: &Schema, line: &[OsString]) -> Result<Option<(Role, ArgMatches)>, Failure> {
    let bare = Role::ALL
        .into_iter()
        .fold(schema.command().clone(), |command, role| {
            command.mut_subcommand(role.name(), setting::bare)
        });
    let typed = match bare.try_get_matches_from(line) {
        Ok(typed) => typed,
        // The whole command's words are better: its help names variables and what is required.
        Err(error) => {
            let whole = schema.command().clone().try_get_matches_from(line);
            return Err(Failure::Usage(whole.err().unwrap_or(error)));
        }
    };
    let role = typed.subcommand_name().and_then(Role::named);
    Ok(role.and_then(|role| Some((role, typed.subcommand_matches(role.name())?.clone()))))
}

fn open(path: Option<&Path>, schema: &Schema) -> Result<Option<File>, Vec<String>> {
    let default = Path::new(DEFAULT_FILE);
    // What exists and cannot be looked at is told of, not taken for absent.
    let path = match path {
        None if matches!(default.try_exists(), Ok(false)) => return Ok(None),
        None => default,
        Some(path) => path,
    };
    File::read(path, schema).map(Some)
}

fn resolve(
    schema: &Schema,
    role: Role,
    typed: &ArgMatches,
    line: &[OsString],
) -> Result<Resolved, Failure> {
    let path = typed.get_one::<PathBuf>("config");
    let file = open(path.map(PathBuf::as_path), schema).map_err(Failure::Settings)?;
    let layers = Layers {
        schema,
        role,
        typed,
        file,
    };
    let dropped = layers.judge().map_err(Failure::Settings)?;
    let command = layers.over(&dropped);
    let matches = command.try_get_matches_from(line)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let given = matches.subcommand_matches(role.name()).unwrap_or(typed);
    let settings = schema.of(role).iter();
    Ok(Resolved {
        settings: settings
            .map(|setting| layers.effective(setting, given))
            .collect(),
        file: layers.file.map(|file| file.path),
        cli,
    })
}

/// The layers a setting may be in, the upper one greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    File,
    Environment,
    Flags,
}

struct Layers<'a> {
    schema: &'a Schema,
    role: Role,
    typed: &'a ArgMatches,
    file: Option<File>,
}

impl Layers<'_> {
    /// The uppermost layer that has the setting.
    fn uppermost(&self, setting: &Setting) -> Option<Layer> {
        let in_file = self.file.as_ref().map(|file| (file, &setting.key));
        if self.typed.value_source(&setting.id) == Some(ValueSource::CommandLine) {
            Some(Layer::Flags)
        } else if variable(setting).is_some() {
            Some(Layer::Environment)
        } else if in_file.is_some_and(|(file, key)| file.get(self.role, key).is_some()) {
            Some(Layer::File)
        } else {
            None
        }
    }

    /// The settings that count for nothing, because what they belong together with is in an upper
    /// layer.
    fn judge(&self) -> Result<BTreeSet<&str>, Vec<String>> {
        let mut dropped = BTreeSet::new();
        let mut problems = Vec::new();
        for setting in self.schema.of(self.role) {
            let layer = self.uppermost(setting);
            if layer == Some(Layer::Flags) && setting.is_hidden {
                problems.push(format!(
                    "--{0} would show the secret to every user of this machine: use --{0}-file",
                    setting.flag
                ));
            }
            let secret = setting.secret_key();
            let secret = secret.and_then(|key| self.schema.find(self.role, key));
            let Some(secret) = secret.filter(|secret| secret.is_secret) else {
                continue;
            };
            match (layer, self.uppermost(secret)) {
                (Some(of_file), Some(of_secret)) if of_file == of_secret => {
                    problems.push(both(setting, secret, of_file));
                }
                (of_file, Some(of_secret)) if of_file < Some(of_secret) => {
                    dropped.insert(setting.key.as_str());
                }
                (Some(_), _) => {
                    dropped.insert(secret.key.as_str());
                }
                (None, _) => {}
            }
        }
        let settings = self.schema.of(self.role).iter();
        let counting = settings.filter(|setting| !dropped.contains(setting.key.as_str()));
        problems.extend(counting.flat_map(|setting| self.judge_variable(setting)));
        if problems.is_empty() {
            Ok(dropped)
        } else {
            Err(problems)
        }
    }

    /// What is wrong with a variable that counts. Clap would call it by its flag's name.
    fn judge_variable(&self, setting: &Setting) -> Vec<String> {
        let (Some(Layer::Environment), Some((name, value))) =
            (self.uppermost(setting), variable(setting))
        else {
            return Vec::new();
        };
        let values: Vec<&str> = match setting.delimiter {
            Some(delimiter) => value.split(delimiter).collect(),
            None => vec![&value],
        };
        let wrong = values
            .into_iter()
            .filter_map(|value| self.schema.judge(self.role, setting, value));
        wrong
            .map(|problem| format!("variable `{name}`: {problem}"))
            .collect()
    }

    /// The command line with the other layers below it.
    fn over(&self, dropped: &BTreeSet<&str>) -> Command {
        let layered = |arg: clap::Arg| {
            let mut settings = self.schema.of(self.role).iter();
            let found = settings.find(|setting| arg.get_id() == setting.id.as_str());
            let Some(setting) = found else {
                return arg;
            };
            if dropped.contains(setting.key.as_str()) {
                return setting::without_variable(arg);
            }
            match self.written(setting) {
                Some(given) => arg.required(false).default_values(given.values.clone()),
                None => arg,
            }
        };
        let command = self.schema.command().clone();
        command.mut_subcommand(self.role.name(), |role| role.mut_args(layered))
    }

    fn written(&self, setting: &Setting) -> Option<&file::Given> {
        self.file.as_ref()?.get(self.role, &setting.key)
    }

    fn effective(&self, setting: &Setting, given: &ArgMatches) -> Effective {
        let origin = match given.value_source(&setting.id) {
            Some(ValueSource::CommandLine) => Origin::Flag(format!("--{}", setting.flag)),
            Some(ValueSource::EnvVariable) => {
                Origin::Variable(setting.variable.clone().unwrap_or_default())
            }
            Some(_) => match (&self.file, self.written(setting)) {
                (Some(file), Some(given)) => Origin::File(file.path.clone(), given.line),
                _ => Origin::Default,
            },
            None => Origin::Unset,
        };
        let values = given.get_raw(&setting.id).into_iter().flatten();
        Effective {
            setting: setting.clone(),
            values: values
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
            origin,
        }
    }
}

/// The setting's variable and its value, if it is set.
fn variable(setting: &Setting) -> Option<(&str, String)> {
    let name = setting.variable.as_deref()?;
    let value = std::env::var_os(name)?;
    Some((name, value.to_string_lossy().into_owned()))
}

fn both(file: &Setting, secret: &Setting, layer: Layer) -> String {
    let (file, secret) = match layer {
        Layer::Environment => (file.variable.clone(), secret.variable.clone()),
        Layer::Flags => (
            Some(format!("--{}", file.flag)),
            Some(format!("--{}", secret.flag)),
        ),
        Layer::File => (Some(file.key.clone()), Some(secret.key.clone())),
    };
    let (file, secret) = (file.unwrap_or_default(), secret.unwrap_or_default());
    format!("`{secret}` and `{file}` are both given: give one")
}
