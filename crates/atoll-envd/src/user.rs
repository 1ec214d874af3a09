//! Users and groups, read from the root file system's `/etc/passwd` and `/etc/group`.
//!
//! A static program has no name service switch, and the files belong to the sandbox: they are read
//! anew at each lookup, with a limit on their size. Where `/etc/passwd` is absent there is still
//! `root`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::process::{Gid, Uid};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Bytes read of `/etc/passwd` or `/etc/group`; what comes after is not seen.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Supplementary groups of one user (the kernel's own limit is 65536).
const GROUPS_MAX: usize = 256;

/// The user that is meant when nobody is named, as long as `/init` names none.
pub(crate) const DEFAULT_USER: &str = "user";

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("user: unknown user {0}")]
    Unknown(String),
    #[error("read `/etc/passwd`")]
    Read(#[source] io::Error),
}

impl User {
    /// Looks a user up by name.
    pub(crate) fn by_name(name: &str) -> Result<Self, Error> {
        let text = read(Path::new(PASSWD)).map_err(Error::Read)?;
        let found = text
            .as_deref()
            .unwrap_or_default()
            .lines()
            .filter_map(parse_user)
            .find(|user| user.name == name);
        match found {
            Some(user) => Ok(user),
            None if name == "root" => Ok(Self::root()),
            None => Err(Error::Unknown(name.to_owned())),
        }
    }

    /// `name`, or where the root file system has no user of the default's name, root.
    pub(crate) fn by_default_name(name: &str) -> Result<Self, Error> {
        match Self::by_name(name) {
            Err(Error::Unknown(_)) if name == DEFAULT_USER => Self::by_name("root"),
            other => other,
        }
    }

    fn root() -> Self {
        Self {
            name: "root".to_owned(),
            uid: 0,
            gid: 0,
            home: "/root".to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    pub(crate) fn uid(&self) -> Uid {
        Uid::from_raw(self.uid)
    }

    pub(crate) fn gid(&self) -> Gid {
        Gid::from_raw(self.gid)
    }

    /// The primary group and those that list the user in `/etc/group`.
    pub(crate) fn groups(&self) -> Vec<Gid> {
        let mut groups = vec![self.gid()];
        let text = read(Path::new(GROUP)).ok().flatten().unwrap_or_default();
        for group in text.lines().filter_map(parse_group) {
            let is_member = group
                .members
                .split(',')
                .any(|member| member.trim() == self.name);
            if is_member && group.gid != self.gid && groups.len() < GROUPS_MAX {
                groups.push(Gid::from_raw(group.gid));
            }
        }
        groups
    }
}

/// Names for the owner of files, read once per request that needs many.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: Vec<(u32, String)>,
    groups: Vec<(u32, String)>,
}

impl Names {
    pub(crate) fn load() -> Self {
        let passwd = read(Path::new(PASSWD)).ok().flatten().unwrap_or_default();
        let group = read(Path::new(GROUP)).ok().flatten().unwrap_or_default();
        Self {
            users: passwd
                .lines()
                .filter_map(parse_user)
                .map(|user| (user.uid, user.name))
                .collect(),
            groups: group
                .lines()
                .filter_map(parse_group)
                .map(|group| (group.gid, group.name.to_owned()))
                .collect(),
        }
    }

    /// The user's name, else the number.
    pub(crate) fn user(&self, uid: u32) -> String {
        name_of(&self.users, uid)
    }

    /// The group's name, else the number.
    pub(crate) fn group(&self, gid: u32) -> String {
        name_of(&self.groups, gid)
    }
}

/// Whether the group of this name lists the user.
pub(crate) fn is_in_group(user: &User, group: &str) -> bool {
    let text = read(Path::new(GROUP)).ok().flatten().unwrap_or_default();
    text.lines().filter_map(parse_group).any(|entry| {
        entry.name == group
            && (entry.gid == user.gid
                || entry
                    .members
                    .split(',')
                    .any(|member| member.trim() == user.name))
    })
}

/// Looks a user up by number.
pub(crate) fn by_uid(uid: u32) -> Option<User> {
    let text = read(Path::new(PASSWD)).ok().flatten().unwrap_or_default();
    text.lines()
        .filter_map(parse_user)
        .find(|user| user.uid == uid)
}

fn name_of(table: &[(u32, String)], id: u32) -> String {
    table
        .iter()
        .find(|(known, _)| *known == id)
        .map_or_else(|| id.to_string(), |(_, name)| name.clone())
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields
        .next()
        .filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?;
    let _password = fields.next()?;
    let uid = fields.next()?.trim().parse().ok()?;
    let gid = fields.next()?.trim().parse().ok()?;
    let _comment = fields.next()?;
    let home = fields.next()?;
    let shell = fields.next().unwrap_or_default();
    Some(User {
        name: name.to_owned(),
        uid,
        gid,
        home: home.to_owned(),
        shell: shell.trim().to_owned(),
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn parse_group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let name = fields
        .next()
        .filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?;
    let _password = fields.next()?;
    let gid = fields.next()?.trim().parse().ok()?;
    Some(Group {
        name,
        gid,
        members: fields.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_and_skips_what_is_not_one() {
        let user = parse_user("user:x:1000:1001:A, B:/home/user:/bin/bash").unwrap();
        assert_eq!(
            (user.uid, user.gid, user.home.as_str(), user.shell.as_str()),
            (1000, 1001, "/home/user", "/bin/bash")
        );
        for line in ["", "# comment", "+::::::", "x:y", "x:y:notanumber:0::/:"] {
            assert_eq!(parse_user(line), None, "{line}");
        }
        assert_eq!(
            parse_group("sudo:x:27:user,other").map(|group| (group.gid, group.members.to_owned())),
            Some((27, "user,other".to_owned()))
        );
    }
}
