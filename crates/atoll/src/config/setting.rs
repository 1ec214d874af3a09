//! Settings, as their flags describe them.
//!
//! The command line is the only list there is: a flag of a role is a setting, its long name with
//! underscores is its key in the file, its parser judges values from everywhere, its help is its
//! meaning. Who adds a flag has added a setting.

use std::any::TypeId;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::cli::Cli;
use crate::cli::config::Role;

/// Flags that say how a command runs this once, and so are no settings.
const NOT_SETTINGS: [&str; 4] = ["config", "json", "help", "version"];
/// How alike words must be for one to be taken for a slip of the other; clap's own measure.
const SIMILARITY_MIN: f64 = 0.7;
/// What the key of a secret's file has beyond that of the secret.
const FILE_SUFFIX: &str = "_file";

/// What a value is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    Integer,
    Number,
    Text,
}

/// One setting of a role.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// What the command line calls it inside.
    pub(crate) id: String,
    /// Its name in the file.
    pub(crate) key: String,
    /// Its flag, without dashes in front.
    pub(crate) flag: String,
    pub(crate) variable: Option<String>,
    /// What it sets, in one sentence.
    pub(crate) meaning: String,
    pub(crate) defaults: Vec<String>,
    pub(crate) kind: Kind,
    pub(crate) is_list: bool,
    /// Whether a list is of `KEY=VALUE`, which may be a table in the file.
    pub(crate) is_map: bool,
    /// What separates a list's values in a variable, so that none may contain it.
    pub(crate) delimiter: Option<char>,
    /// Never shown, and taken from a file of its own only.
    pub(crate) is_secret: bool,
    /// For files and variables only.
    pub(crate) is_hidden: bool,
}

impl Setting {
    fn of(arg: &Arg) -> Option<Self> {
        let flag = arg.get_long().filter(|flag| !NOT_SETTINGS.contains(flag))?;
        let text = |os: &clap::builder::OsStr| os.to_string_lossy().into_owned();
        let names = arg.get_value_names().unwrap_or_default();
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        Some(Self {
            id: arg.get_id().to_string(),
            key: flag.replace('-', "_"),
            flag: flag.to_owned(),
            variable: arg
                .get_env()
                .map(|name| name.to_string_lossy().into_owned()),
            meaning: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            defaults: arg.get_default_values().iter().map(text).collect(),
            kind: kind(arg),
            is_list,
            is_map: is_list && names.first().is_some_and(|name| name.contains('=')),
            delimiter: arg.get_value_delimiter(),
            is_secret: arg.is_hide_env_values_set(),
            is_hidden: arg.is_hide_set(),
        })
    }

    /// The key of the file that a secret may be in.
    pub(crate) fn file_key(&self) -> String {
        format!("{}{FILE_SUFFIX}", self.key)
    }

    /// The key of the secret that this names the file of, if it is such a setting.
    pub(crate) fn secret_key(&self) -> Option<&str> {
        self.key.strip_suffix(FILE_SUFFIX)
    }
}

fn kind(arg: &Arg) -> Kind {
    if matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
        return Kind::Boolean;
    }
    let integers = [
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<i64>(),
    ];
    let of = arg.get_value_parser().type_id();
    if integers.iter().any(|integer| of == *integer) {
        Kind::Integer
    } else if of == TypeId::of::<f64>() {
        Kind::Number
    } else {
        Kind::Text
    }
}

/// The settings of every role.
#[derive(Debug)]
pub(crate) struct Schema {
    command: Command,
    roles: Vec<(Role, Vec<Setting>)>,
}

impl Schema {
    pub(crate) fn new() -> Self {
        let command = Cli::command();
        let settings = |role: Role| {
            let found = command.find_subcommand(role.name());
            let arguments = found.into_iter().flat_map(Command::get_arguments);
            (role, arguments.filter_map(Setting::of).collect())
        };
        let roles = Role::ALL.map(settings).into();
        Self { command, roles }
    }

    /// The command line that the settings are from.
    pub(crate) const fn command(&self) -> &Command {
        &self.command
    }

    pub(crate) fn of(&self, role: Role) -> &[Setting] {
        let found = self.roles.iter().find(|(of, _)| *of == role);
        found.map_or(&[], |(_, settings)| settings)
    }

    pub(crate) fn find(&self, role: Role, key: &str) -> Option<&Setting> {
        self.of(role).iter().find(|setting| setting.key == key)
    }

    /// The roles that have a setting of this name.
    pub(crate) fn having(&self, key: &str) -> Vec<(Role, &Setting)> {
        let all = Role::ALL.into_iter();
        all.filter_map(|role| Some((role, self.find(role, key)?)))
            .collect()
    }

    /// The setting that several roles have in common. What is called the same in two roles and is
    /// not the same, as their listening addresses, has different variables.
    pub(crate) fn shared(&self, key: &str) -> Option<(Role, &Setting)> {
        let having = self.having(key);
        let (role, first) = *having.first()?;
        let is_one = having
            .iter()
            .all(|(_, setting)| setting.variable == first.variable);
        (having.len() > 1 && is_one).then_some((role, first))
    }

    /// Keys that may stand in a role's part of the file, or before all parts.
    pub(crate) fn keys(&self, role: Option<Role>) -> Vec<&str> {
        let roles = role.map_or_else(|| Role::ALL.to_vec(), |role| vec![role]);
        let of = roles.into_iter().flat_map(|role| self.of(role));
        let mut keys: Vec<&str> = of
            .filter(|setting| !setting.is_secret)
            .map(|setting| setting.key.as_str())
            .filter(|key| role.is_some() || self.shared(key).is_some())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// What the flag's parser has against a value.
    pub(crate) fn judge(&self, role: Role, setting: &Setting, value: &str) -> Option<String> {
        if setting.kind == Kind::Boolean {
            return None;
        }
        let flag = format!("--{}={value}", setting.flag);
        let command = bare(self.command.find_subcommand(role.name())?.clone());
        let error = command
            .try_get_matches_from([role.name(), flag.as_str()])
            .err()?;
        let is_of_the_value = matches!(
            error.kind(),
            ErrorKind::InvalidValue | ErrorKind::ValueValidation
        );
        is_of_the_value.then(|| complaint(&error, value))
    }

    /// Names of variables that some command reads.
    pub(crate) fn variables(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut waiting = vec![&self.command];
        while let Some(command) = waiting.pop() {
            let of = command.get_arguments().filter_map(Arg::get_env);
            names.extend(of.map(|name| name.to_string_lossy().into_owned()));
            waiting.extend(command.get_subcommands());
        }
        names
    }
}

/// A role's command that demands nothing, and that no environment reaches: what remains is what
/// is typed, and the name of the file.
pub(crate) fn bare(command: Command) -> Command {
    command.mut_args(|arg| {
        if arg.get_id() == "config" {
            return arg;
        }
        without_variable(arg).required(false)
    })
}

/// A flag that its variable does not reach.
pub(crate) fn without_variable(arg: Arg) -> Arg {
    arg.env(Resettable::Reset)
}

/// What a parser said, with what would be allowed where that is a list.
fn complaint(error: &clap::Error, value: &str) -> String {
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue)
        && !allowed.is_empty()
    {
        let names: Vec<&str> = allowed.iter().map(String::as_str).collect();
        let listed = names.join("`, `");
        let hint = hint(value, &names);
        return format!("`{value}` is not allowed{hint}; allowed are `{listed}`");
    }
    let source = std::error::Error::source(error);
    let reason = source.map_or_else(|| "it is not allowed".to_owned(), ToString::to_string);
    format!("`{value}`: {reason}")
}

/// `; did you mean …?`, if something is alike; else nothing.
pub(crate) fn hint(word: &str, known: &[&str]) -> String {
    let alike = known
        .iter()
        .map(|name| (strsim::jaro(word, name), *name))
        .filter(|(likeness, _)| *likeness > SIMILARITY_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    alike.map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const DOCUMENT: &str = include_str!("../../../../docs/config.md");

    /// Every setting, once for all roles that share it.
    fn table() -> String {
        let schema = Schema::new();
        let mut text = "| key | of | default | variable | what it sets |\n".to_owned();
        text.push_str("|---|---|---|---|---|\n");
        let mut told: Vec<(&str, Option<&str>)> = Vec::new();
        for role in Role::ALL {
            for setting in schema.of(role) {
                let name = (setting.key.as_str(), setting.variable.as_deref());
                if told.contains(&name) {
                    continue;
                }
                told.push(name);
                let having = schema.having(&setting.key).into_iter();
                let roles: Vec<&str> = having
                    .filter(|(_, other)| other.variable == setting.variable)
                    .map(|(role, _)| role.name())
                    .collect();
                let code = |text: &str| match text {
                    "" => String::new(),
                    text => format!("`{text}`"),
                };
                writeln!(
                    text,
                    "| {} | {} | {} | {} | {} |",
                    code(&setting.key),
                    roles.join(", "),
                    code(&setting.defaults.join(",")),
                    code(setting.variable.as_deref().unwrap_or_default()),
                    setting.meaning
                )
                .unwrap();
            }
        }
        text
    }

    #[test]
    fn the_document_lists_every_setting() {
        let table = table();
        assert!(
            DOCUMENT.contains(&table),
            "docs/config.md must have:\n{table}"
        );
    }

    #[test]
    fn every_setting_has_a_variable_and_a_meaning() {
        let schema = Schema::new();
        for role in Role::ALL {
            assert!(!schema.of(role).is_empty(), "{}", role.name());
            for setting in schema.of(role) {
                assert!(setting.variable.is_some(), "{}", setting.key);
                assert!(!setting.meaning.is_empty(), "{}", setting.key);
            }
        }
    }

    #[test]
    fn every_secret_may_be_in_a_file() {
        let schema = Schema::new();
        for role in Role::ALL {
            for secret in schema.of(role).iter().filter(|setting| setting.is_secret) {
                assert!(
                    schema.find(role, &secret.file_key()).is_some(),
                    "{}",
                    secret.key
                );
            }
        }
    }

    #[test]
    fn what_roles_have_in_common_is_shared_and_what_only_looks_alike_is_not() {
        let schema = Schema::new();
        assert!(schema.shared("data_dir").is_some());
        assert!(schema.shared("history_days").is_some());
        assert!(schema.shared("listen").is_none());
        assert!(schema.shared("server").is_none());
    }
}
