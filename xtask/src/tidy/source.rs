//! Rules about the lines of one file.
//!
//! The words this file looks for are written in halves, so that it passes its own checks.

use super::{Finding, SourceFile};

/// Beyond this a file holds more than one subject.
const LINES_MAX: usize = 800;

/// Beyond this a line does not fit beside another file on a screen.
const COLUMNS_MAX: usize = 100;

/// Marks of unfinished work, of a forgotten look, and of tests that do not run.
const MARKS: [&str; 8] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("db", "g!("),
    concat!("#[ign", "ore"),
    concat!("should_", "panic"),
];

/// How a statement begins, in a string or on a line of its own.
const STATEMENTS: [&str; 8] = [
    concat!("SEL", "ECT "),
    concat!("INS", "ERT INTO "),
    concat!("INS", "ERT OR "),
    concat!("UPD", "ATE "),
    concat!("DEL", "ETE FROM "),
    concat!("CRE", "ATE TABLE "),
    concat!("CRE", "ATE INDEX "),
    concat!("PRA", "GMA "),
];

/// Hosts of package registries: packages are named, the client knows where they are.
const REGISTRIES: [&str; 8] = [
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("registry.", "npmjs.org"),
    concat!("py", "pi.org"),
    concat!("files.", "pythonhosted.org"),
    concat!("deb.", "debian.org"),
    concat!("archive.", "ubuntu.com"),
    concat!("proxy.", "golang.org"),
];

/// A folder that exists on one machine only.
const MACHINE_PATH: &str = concat!("/wo", "rk/");

/// The crates with system calls of their own; all others forbid what needs a proof of safety.
const SYSTEM_CRATES: [&str; 3] = ["atoll-node", "atoll-jail", "atoll-envd"];

/// Every finding of one file.
pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(length(file));
    findings.extend(roots(file));
    for (number, line) in (1..).zip(file.text.lines()) {
        let said = [
            columns(&file.path, line),
            mark(&file.path, line),
            sql(&file.path, line),
            unsafety(&file.path, line),
            machine(&file.path, line),
        ];
        let place = format!("{}:{number}", file.path);
        let line_findings = said.into_iter().flatten();
        findings.extend(line_findings.map(|(rule, text)| Finding::new(rule, &place, text)));
    }
    findings
}

/// A line's violation: the rule and what to say of it.
type Said = Option<(&'static str, String)>;

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    path.rsplit_once('.')
        .is_some_and(|(_, extension)| extensions.contains(&extension))
}

fn is_code(path: &str) -> bool {
    has_extension(path, &["rs", "py", "js", "mjs", "sh", "proto", "sql"])
}

fn length(file: &SourceFile) -> Option<Finding> {
    let lines = file.text.lines().count();
    (is_code(&file.path) && lines > LINES_MAX).then(|| {
        let message = format!("{lines} lines: split it below {LINES_MAX}");
        Finding::new("file-length", &file.path, message)
    })
}

/// A crate's root says how it stands to unsafe code.
fn roots(file: &SourceFile) -> Option<Finding> {
    let crate_name = owner(&file.path)?;
    let is_root = ["src/lib.rs", "src/main.rs"]
        .iter()
        .any(|root| file.path == format!("crates/{crate_name}/{root}"));
    let attribute = if SYSTEM_CRATES.contains(&crate_name) {
        "#![deny(unsafe_code)]"
    } else {
        "#![forbid(unsafe_code)]"
    };
    // `forbid` is stricter, so it serves everywhere.
    let is_stated = file.text.contains(attribute) || file.text.contains("#![forbid(unsafe_code)]");
    (is_root && !is_stated).then(|| {
        Finding::new(
            "unsafe",
            &file.path,
            format!("add `{attribute}` to the crate root"),
        )
    })
}

/// The crate a path belongs to.
fn owner(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?.split('/').next()
}

fn columns(path: &str, line: &str) -> Said {
    let columns = line.chars().count();
    (is_code(path) && columns > COLUMNS_MAX).then(|| {
        (
            "line-length",
            format!("{columns} columns: at most {COLUMNS_MAX}"),
        )
    })
}

fn mark(path: &str, line: &str) -> Said {
    let is_judged = is_code(path) || has_extension(path, &["toml", "md", "yml", "yaml"]);
    let found = MARKS.iter().find(|mark| contains_word(line, mark))?;
    is_judged.then(|| ("mark", format!("`{found}` does not reach main")))
}

fn sql(path: &str, line: &str) -> Said {
    if !has_extension(path, &["rs"]) || owner(path) == Some("atoll-store") {
        return None;
    }
    let start = line.trim_start();
    let found = STATEMENTS.iter().find(|statement| {
        start.starts_with(*statement) || line.contains(&format!("\"{statement}"))
    })?;
    let message = format!("`{}` belongs in atoll-store", found.trim_end());
    Some(("sql", message))
}

fn unsafety(path: &str, line: &str) -> Said {
    if !has_extension(path, &["rs"]) {
        return None;
    }
    let code = line.split("//").next().unwrap_or_default();
    let is_unsafe = [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe extern",
        "#[unsafe(",
    ]
    .iter()
    .any(|form| code.contains(form) && !code.contains(&format!("\"{form}")));
    let is_allowed = owner(path).is_some_and(|name| {
        let in_crate = path
            .strip_prefix(&format!("crates/{name}/"))
            .unwrap_or_default();
        SYSTEM_CRATES.contains(&name)
            && (in_crate.ends_with("sys.rs") || in_crate.split('/').any(|part| part == "sys"))
    });
    (is_unsafe && !is_allowed).then(|| {
        (
            "unsafe",
            "only the `sys` module of a system crate may".to_owned(),
        )
    })
}

fn machine(path: &str, line: &str) -> Said {
    // The lock file names its registry in every entry: that is its format.
    if path == "Cargo.lock" {
        return None;
    }
    let found = REGISTRIES
        .iter()
        .copied()
        .find(|host| line.contains(host))
        .or_else(|| begins_path(line, MACHINE_PATH).then_some(MACHINE_PATH))?;
    Some((
        "machine",
        format!("`{found}` is of one machine or registry"),
    ))
}

/// Whether `folder` stands in the line as the beginning of a path, not inside a longer one.
fn begins_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '~' | '_' | '-' | '}'))
    })
}

/// Whether `word` stands in the line with nothing of a name around it.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let ends_open = word.ends_with(is_part);
        !(before.is_some_and(is_part) || ends_open && after.is_some_and(is_part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules broken by a file of one line.
    fn broken(path: &str, text: &str) -> Vec<&'static str> {
        let file = SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&file)
            .into_iter()
            .map(|finding| finding.rule)
            .collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn long_lines_and_files_are_found_in_code_only() {
        let line = "x".repeat(COLUMNS_MAX);
        assert_eq!(broken("a.rs", &line), NONE);
        assert_eq!(broken("a.py", &format!("{line}x")), ["line-length"]);
        assert_eq!(broken("a.md", &format!("{line}x")), NONE);
        // Columns are characters, not bytes.
        assert_eq!(broken("a.rs", &"ü".repeat(COLUMNS_MAX)), NONE);
        assert_eq!(broken("a.rs", &"\n".repeat(LINES_MAX)), NONE);
        assert_eq!(broken("a.rs", &"\n".repeat(LINES_MAX + 1)), ["file-length"]);
        assert_eq!(broken("Cargo.lock", &"\n".repeat(LINES_MAX + 1)), NONE);
    }

    #[test]
    fn each_mark_is_found_as_a_word() {
        for mark in MARKS {
            assert_eq!(
                broken("a.rs", &format!("// {mark} later")),
                ["mark"],
                "{mark}"
            );
            assert_eq!(broken("a.rs", &format!("pre_{mark}")), NONE, "{mark}");
        }
        assert_eq!(broken("a.md", &format!("MAS{}", MARKS[0])), NONE);
    }

    #[test]
    fn statements_belong_in_the_store() {
        for statement in STATEMENTS {
            let line = format!("let text = \"{statement}x\";");
            assert_eq!(
                broken("crates/atoll-control/src/a.rs", &line),
                ["sql"],
                "{statement}"
            );
            assert_eq!(
                broken("crates/atoll-store/src/a.rs", &line),
                NONE,
                "{statement}"
            );
        }
        let prose = format!("// {}the node is told.", STATEMENTS[3]);
        assert_eq!(broken("crates/atoll-control/src/a.rs", &prose), NONE);
    }

    #[test]
    fn unsafe_code_stays_in_the_sys_modules() {
        let line = concat!("let x = unsafe", " { f() };");
        assert_eq!(broken("crates/atoll-jail/src/sys.rs", line), NONE);
        assert_eq!(broken("crates/atoll-node/src/sys/mount.rs", line), NONE);
        assert_eq!(broken("crates/atoll-node/tests/it/sys.rs", line), NONE);
        assert_eq!(broken("crates/atoll-jail/src/run.rs", line), ["unsafe"]);
        assert_eq!(broken("crates/atoll-core/src/sys.rs", line), ["unsafe"]);
        assert_eq!(broken("tests/a.rs", line), ["unsafe"]);
        assert_eq!(
            broken("tests/a.rs", concat!("// unsafe", " { is a comment }")),
            NONE
        );
    }

    #[test]
    fn crate_roots_state_their_attitude() {
        assert_eq!(broken("crates/atoll-core/src/lib.rs", "//! x"), ["unsafe"]);
        assert_eq!(
            broken("crates/atoll-core/src/lib.rs", "#![deny(unsafe_code)]"),
            ["unsafe"]
        );
        assert_eq!(
            broken("crates/atoll-core/src/lib.rs", "#![forbid(unsafe_code)]"),
            NONE
        );
        assert_eq!(
            broken("crates/atoll-jail/src/main.rs", "#![deny(unsafe_code)]"),
            NONE
        );
        assert_eq!(broken("crates/atoll-jail/src/spec.rs", "//! x"), NONE);
    }

    #[test]
    fn paths_and_hosts_of_one_machine_are_found() {
        for host in REGISTRIES {
            assert_eq!(
                broken("README.md", &format!("https://{host}/x")),
                ["machine"],
                "{host}"
            );
            assert_eq!(
                broken("Cargo.lock", &format!("https://{host}/x")),
                NONE,
                "{host}"
            );
        }
        let line = format!("(\"{MACHINE_PATH}x\")");
        assert_eq!(broken("a.rs", &line), ["machine"]);
        let line = format!("/home/user{MACHINE_PATH}x");
        assert_eq!(broken("a.rs", &line), NONE);
    }
}
