//! The accounts of a template: `/etc/passwd`, `group` and their shadows.
//!
//! Pure text. Every template has a user `user` (uid and gid 1000, home `/home/user`) who may become
//! root without a password; nobody has a password at all.

/// The user that commands run as.
pub(super) const USER: &str = "user";
/// Its uid and gid.
pub(super) const USER_ID: u32 = 1000;
/// Its home.
pub(super) const USER_HOME: &str = "/home/user";
/// First id of ordinary users: those of the host are none of a template's business.
const FIRST_ORDINARY_ID: u32 = 1000;
/// The user and group `nobody`.
const NOBODY_ID: u32 = 65_534;
/// The group that `sudoers` speaks of, and its usual id.
const SUDO: (&str, u32) = ("sudo", 27);

/// The four files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Accounts {
    pub(super) passwd: String,
    pub(super) group: String,
    pub(super) shadow: String,
    pub(super) gshadow: String,
}

/// Accounts for a new root file system: the host's system accounts, because files of its packages
/// belong to them, without comments, members and passwords; and `user`.
pub(super) fn from_host(passwd: &str, group: &str, shell: &str) -> Accounts {
    let mut made = Accounts::default();
    for fields in entries(passwd, 7) {
        let Some(uid) = fields[2].parse().ok().filter(is_system) else {
            continue;
        };
        if fields[0] == USER {
            continue;
        }
        let shell = if uid == 0 { shell } else { fields[6] };
        push(
            &mut made.passwd,
            &[fields[0], "x", fields[2], fields[3], "", fields[5], shell],
        );
        push(&mut made.shadow, &locked(fields[0]));
    }
    if !made.passwd.lines().any(|line| line.starts_with("root:")) {
        push(
            &mut made.passwd,
            &["root", "x", "0", "0", "", "/root", shell],
        );
        push(&mut made.shadow, &locked("root"));
    }
    for fields in entries(group, 4) {
        if fields[0] != USER && fields[2].parse().ok().filter(is_system).is_some() {
            push(&mut made.group, &[fields[0], "x", fields[2], ""]);
            push(&mut made.gshadow, &[fields[0], "*", "", ""]);
        }
    }
    with_user(&made, shell)
}

/// The accounts with `user` and the group `sudo` in them. What is there stays as it is: an image's
/// own `user` keeps its ids, and one that gave 1000 to somebody else has `user` on the next free
/// id.
pub(super) fn with_user(accounts: &Accounts, shell: &str) -> Accounts {
    let mut made = accounts.clone();
    for text in [
        &mut made.passwd,
        &mut made.group,
        &mut made.shadow,
        &mut made.gshadow,
    ] {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
    }
    if ids(&made).is_none() {
        let id = free_id(&made).to_string();
        if gid(&made.group, USER).is_none() {
            push(&mut made.group, &[USER, "x", &id, ""]);
            push(&mut made.gshadow, &[USER, "*", "", ""]);
        }
        let group = gid(&made.group, USER).map_or_else(|| id.clone(), |gid| gid.to_string());
        push(
            &mut made.passwd,
            &[USER, "x", &id, &group, "", USER_HOME, shell],
        );
        push(&mut made.shadow, &locked(USER));
    }
    join_sudo(&mut made);
    made
}

/// The uid and gid of `user`.
pub(super) fn ids(accounts: &Accounts) -> Option<(u32, u32)> {
    let fields = entries(&accounts.passwd, 7).find(|f| f[0] == USER)?;
    Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
}

/// The first id from 1000 that is neither a user's nor a group's.
fn free_id(accounts: &Accounts) -> u32 {
    let is_free = |id: &u32| {
        let id = id.to_string();
        entries(&accounts.passwd, 7).all(|f| f[2] != id)
            && entries(&accounts.group, 4).all(|f| f[2] != id)
    };
    (USER_ID..NOBODY_ID).find(is_free).unwrap_or(USER_ID)
}

/// The gid of a group, if there is one of that name.
pub(super) fn gid(group: &str, name: &str) -> Option<u32> {
    entries(group, 4).find(|f| f[0] == name)?[2].parse().ok()
}

fn join_sudo(made: &mut Accounts) {
    let has_sudo = entries(&made.group, 4).any(|f| f[0] == SUDO.0);
    if !has_sudo {
        let is_free = |id: u32| entries(&made.group, 4).all(|f| f[2] != id.to_string());
        let id = (SUDO.1..FIRST_ORDINARY_ID).find(|id| is_free(*id));
        let id = id.unwrap_or(SUDO.1).to_string();
        push(&mut made.group, &[SUDO.0, "x", &id, ""]);
        push(&mut made.gshadow, &[SUDO.0, "*", "", ""]);
    }
    let joined = made.group.lines().map(|line| {
        let is_sudo = line.split(':').next() == Some(SUDO.0);
        let members = line.rsplit(':').next().unwrap_or_default();
        match members {
            _ if !is_sudo || members.split(',').any(|m| m == USER) => format!("{line}\n"),
            "" => format!("{line}{USER}\n"),
            _ => format!("{line},{USER}\n"),
        }
    });
    made.group = joined.collect();
}

fn is_system(id: &u32) -> bool {
    *id < FIRST_ORDINARY_ID || *id == NOBODY_ID
}

/// A shadow entry that no password opens. The day of the last change is any in the past.
fn locked(name: &str) -> [&str; 9] {
    [name, "*", "19000", "0", "99999", "7", "", "", ""]
}

fn entries(text: &str, fields: usize) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(move |found| found.len() == fields && !found[0].is_empty())
}

fn push(text: &mut String, fields: &[&str]) {
    text.push_str(&fields.join(":"));
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_accounts_lose_people_and_passwords() {
        let passwd = "root:$6$hash:0:0:root:/root:/bin/zsh\n\
            daemon:x:1:1:The Daemon:/usr/sbin:/usr/sbin/nologin\n\
            alice:x:1000:1000:Alice,,,:/home/alice:/bin/bash\n\
            nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
            broken line\n";
        let group = "root:x:0:\nsudo:x:27:alice\nalice:x:1000:\nshadow:x:42:\n";
        let made = from_host(passwd, group, "/bin/bash");
        assert_eq!(
            made.passwd,
            "root:x:0:0::/root:/bin/bash\n\
             daemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
             nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n\
             user:x:1000:1000::/home/user:/bin/bash\n"
        );
        assert_eq!(
            made.group,
            "root:x:0:\nsudo:x:27:user\nshadow:x:42:\nuser:x:1000:\n"
        );
        assert!(!made.shadow.contains("$6$") && made.shadow.contains("root:*:"));
        assert_eq!(gid(&made.group, "shadow"), Some(42));
    }

    #[test]
    fn an_image_gets_the_user_beside_its_own() {
        let image = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh"
                .to_owned(),
            group: "root:x:0:\nnode:x:1000:\nwheel:x:27:root".to_owned(),
            shadow: "root:*::0:::::\n".to_owned(),
            gshadow: String::new(),
        };
        let made = with_user(&image, "/bin/sh");
        assert!(made.passwd.contains("root:x:0:0:root:/root:/bin/sh\n"));
        assert!(
            made.passwd
                .contains("node:x:1000:1000::/home/node:/bin/sh\n")
        );
        assert!(
            made.passwd
                .ends_with("user:x:1001:1001::/home/user:/bin/sh\n")
        );
        assert_eq!(ids(&made), Some((1001, 1001)));
        assert!(made.group.contains("sudo:x:28:user\n"), "{}", made.group);
        // Doing it again changes nothing.
        assert_eq!(with_user(&made, "/bin/sh"), made);
    }
}
