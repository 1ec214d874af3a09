//! The file of settings: TOML, with a part for each role.
//!
//! What several roles have in common may stand before the parts; a part goes over it. All
//! mistakes are found, not only the first, and each is told with its place.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::setting::{Kind, Schema, Setting, hint};
use crate::cli::config::Role;

/// Settings fill a page or two; this is a thousand.
const BYTES_MAX: u64 = 1 << 20;
/// The bit by which every user may write a file.
const WRITABLE: u32 = 0o002;

/// What the file says of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// As the flag would be given them.
    pub(crate) values: Vec<String>,
    pub(crate) line: usize,
}

type Settings = BTreeMap<String, Given>;

/// A file without mistakes.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    shared: Settings,
    parts: BTreeMap<Role, Settings>,
}

impl File {
    /// # Errors
    /// Every mistake in it, with its place.
    pub(crate) fn read(path: &Path, schema: &Schema) -> Result<Self, Vec<String>> {
        let text = text(path).map_err(|problem| vec![format!("{}: {problem}", path.display())])?;
        Reader::read(path, &text, schema)
    }

    pub(crate) fn get(&self, role: Role, key: &str) -> Option<&Given> {
        let part = self.parts.get(&role).and_then(|part| part.get(key));
        part.or_else(|| self.shared.get(key))
    }
}

fn text(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if meta.is_file() && meta.permissions().mode() & WRITABLE != 0 {
        return Err("every user of this machine may write it: run `chmod o-w` on it".to_owned());
    }
    let mut text = String::new();
    file.take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(format!("is no file of settings: over {BYTES_MAX} bytes"));
    }
    Ok(text)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    schema: &'a Schema,
    /// By where they begin.
    problems: Vec<(usize, String)>,
}

impl<'a> Reader<'a> {
    fn read(path: &'a Path, text: &'a str, schema: &'a Schema) -> Result<File, Vec<String>> {
        let mut reader = Self {
            path,
            text,
            schema,
            problems: Vec::new(),
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What was recovered is a guess, and a complaint about a guess misleads.
            for error in errors {
                reader.complain(error.span().unwrap_or_default(), error.message());
            }
            return Err(reader.told());
        }
        let file = reader.root(root.get_ref());
        if reader.problems.is_empty() {
            Ok(file)
        } else {
            Err(reader.told())
        }
    }

    fn told(mut self) -> Vec<String> {
        self.problems.sort();
        self.problems.into_iter().map(|(_, text)| text).collect()
    }

    fn complain(&mut self, span: Range<usize>, text: &str) {
        let (line, column) = self.position(span.start);
        let path = self.path.display();
        self.problems
            .push((span.start, format!("{path}:{line}:{column}: {text}")));
    }

    /// Line and column, from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let begun = before.rfind('\n').map_or(0, |at| at + 1);
        (line, before[begun..].chars().count() + 1)
    }

    fn root(&mut self, root: &DeTable<'_>) -> File {
        let mut shared = Settings::new();
        let mut parts = BTreeMap::new();
        for (name, value) in root {
            match (Role::named(name.get_ref()), value.get_ref()) {
                (Some(role), DeValue::Table(table)) => {
                    let given = table.iter();
                    let part = given.filter_map(|(name, value)| self.one(Some(role), name, value));
                    parts.insert(role, part.collect());
                }
                (Some(role), _) => {
                    let text = format!("`{0}` is a part of the file: `[{0}]`", role.name());
                    self.complain(name.span(), &text);
                }
                (None, _) => shared.extend(self.one(None, name, value)),
            }
        }
        File {
            path: self.path.to_owned(),
            shared,
            parts,
        }
    }

    /// One setting, unless something is wrong with it.
    fn one(
        &mut self,
        part: Option<Role>,
        name: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<(String, Given)> {
        let (schema, key) = (self.schema, name.get_ref());
        let found = match part {
            Some(role) => schema.find(role, key).map(|setting| (role, setting)),
            None => schema.shared(key),
        };
        let Some((role, setting)) = found else {
            let text = self.unknown(part, key);
            self.complain(name.span(), &text);
            return None;
        };
        if setting.is_secret {
            let file_key = setting.file_key();
            let text =
                format!("`{key}` is a secret: put it into a file, and name that in `{file_key}`");
            self.complain(name.span(), &text);
            return None;
        }
        let values = match values(setting, value.get_ref()) {
            Ok(values) => values,
            Err(problem) => {
                self.complain(value.span(), &format!("`{key}` {problem}"));
                return None;
            }
        };
        let before = self.problems.len();
        for text in &values {
            if let Some(problem) = schema.judge(role, setting, text) {
                self.complain(value.span(), &format!("`{key}`: {problem}"));
            }
        }
        let line = self.position(name.span().start).0;
        let given = Given { values, line };
        (self.problems.len() == before).then(|| (key.to_string(), given))
    }

    /// What to say of a key that is none here.
    fn unknown(&self, part: Option<Role>, key: &str) -> String {
        let having = self.schema.having(key);
        if !having.is_empty() {
            let parts: Vec<String> = having
                .iter()
                .map(|(role, _)| format!("`[{}]`", role.name()))
                .collect();
            return format!("`{key}` stands in {}", parts.join(" or "));
        }
        let mut known = self.schema.keys(part);
        let of = part.map_or_else(
            || " before all parts of the file".to_owned(),
            |role| format!(" of `[{}]`", role.name()),
        );
        if part.is_none() {
            known.extend(Role::ALL.map(Role::name));
        }
        let hint = hint(key, &known);
        let allowed = known.join("`, `");
        format!("`{key}` is no setting{of}{hint}; allowed are `{allowed}`")
    }
}

/// A value as the flag would be given it, once for each of a list.
fn values(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let mut values = Vec::new();
    match (setting.is_list, value) {
        (false, value) => values.push(scalar(setting, value)?),
        (true, DeValue::Array(array)) => {
            for value in array {
                values.push(scalar(setting, value.get_ref())?);
            }
        }
        (true, DeValue::Table(table)) if setting.is_map => {
            for (key, value) in table {
                let value = scalar(setting, value.get_ref())?;
                values.push(format!("{}={value}", key.get_ref()));
            }
        }
        // One is a list of one.
        (true, value @ DeValue::String(_)) if !setting.is_map => {
            values.push(scalar(setting, value)?);
        }
        (true, value) => return Err(mismatch(setting, value)),
    }
    if let Some(delimiter) = setting.delimiter
        && let Some(wrong) = values.iter().find(|value| value.contains(delimiter))
    {
        return Err(format!("cannot have `{delimiter}` in a value: `{wrong}`"));
    }
    Ok(values)
}

fn scalar(setting: &Setting, value: &DeValue<'_>) -> Result<String, String> {
    match (setting.kind, value) {
        (Kind::Boolean, DeValue::Boolean(value)) => Ok(value.to_string()),
        (Kind::Integer | Kind::Number, DeValue::Integer(value)) => {
            let number = i64::from_str_radix(value.as_str(), value.radix());
            number
                .map(|number| number.to_string())
                .map_err(|error| format!("is no number: {error}"))
        }
        (Kind::Number, DeValue::Float(value)) => Ok(value.as_str().to_owned()),
        (Kind::Text, DeValue::String(text)) => Ok(text.to_string()),
        (_, value) => Err(mismatch(setting, value)),
    }
}

fn mismatch(setting: &Setting, value: &DeValue<'_>) -> String {
    let found = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date-time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    format!("must be {}, not {found}", expected(setting))
}

/// What the file must hold for a setting.
pub(crate) const fn expected(setting: &Setting) -> &'static str {
    match (setting.is_list, setting.kind) {
        (true, Kind::Text) if setting.is_map => "an array of strings or a table of strings",
        (true, Kind::Text) => "an array of strings",
        (true, _) => "an array of numbers",
        (false, Kind::Boolean) => "a boolean",
        (false, Kind::Integer) => "an integer",
        (false, Kind::Number) => "a number",
        (false, Kind::Text) => "a string",
    }
}

#[cfg(test)]
mod tests;
