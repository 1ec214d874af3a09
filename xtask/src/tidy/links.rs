//! Links in Markdown must lead somewhere: a relative target has to be a file or folder of the
//! checkout. Targets on the web are not followed: that would make the answer depend on the hour.

use super::{Finding, SourceFile};

/// Relative links of one Markdown file that lead nowhere.
pub(super) fn check(file: &SourceFile, files: &[String]) -> Vec<Finding> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut is_fenced = false;
    for (number, line) in (1..).zip(file.text.lines()) {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        }
        if is_fenced {
            continue;
        }
        for target in targets(&without_code(line)) {
            if !leads_somewhere(&file.path, target, files) {
                let place = format!("{}:{number}", file.path);
                findings.push(Finding::new(
                    "link",
                    place,
                    format!("`{target}` does not exist"),
                ));
            }
        }
    }
    findings
}

/// The line with its code spans cut out: brackets in code are no links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// What stands between `](` and `)`.
fn targets(line: &str) -> Vec<&str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split_whitespace().next().unwrap_or_default())
        .collect()
}

fn leads_somewhere(from: &str, target: &str, files: &[String]) -> bool {
    let is_elsewhere = ["http://", "https://", "mailto:", "#"]
        .iter()
        .any(|prefix| target.starts_with(prefix));
    if is_elsewhere {
        return true;
    }
    let target = target.split('#').next().unwrap_or_default();
    let Some(path) = resolve(from, target) else {
        return false;
    };
    let folder = format!("{path}/");
    // An empty target names the folder of the file itself: a link somebody forgot.
    !target.is_empty()
        && files
            .iter()
            .any(|file| *file == path || file.starts_with(&folder))
}

/// The target as a path from the root; none if it climbs out of the checkout.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<String> {
        let files = ["README.md", "docs/a.md", "docs/b/c.md", "LICENSE"].map(ToOwned::to_owned);
        let file = SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&file, &files)
            .into_iter()
            .map(|finding| finding.place)
            .collect()
    }

    #[test]
    fn targets_that_exist_are_fine() {
        let text = "[a](a.md) [c](b/c.md#part) [up](../LICENSE) [folder](b/) [own](#here)\n\
                    [web](https://example.org/x) ![picture](a.md \"title\")";
        assert_eq!(broken("docs/d.md", text), [""; 0]);
    }

    #[test]
    fn targets_that_do_not_exist_are_found_with_their_line() {
        assert_eq!(
            broken("README.md", "[a](docs/a.md)\n[x](docs/x.md)"),
            ["README.md:2"]
        );
        assert_eq!(
            broken("docs/d.md", "[out](../../etc/passwd)"),
            ["docs/d.md:1"]
        );
        assert_eq!(broken("docs/d.md", "[nothing]()"), ["docs/d.md:1"]);
    }

    #[test]
    fn code_is_not_searched_for_links() {
        assert_eq!(
            broken("docs/d.md", "`v[0](x)`\n```\n[x](y)\n```\n"),
            [""; 0]
        );
        assert_eq!(
            broken("docs/d.md", "```\n[x](y)\n```\n[x](y)"),
            ["docs/d.md:4"]
        );
    }

    #[test]
    fn other_files_are_not_markdown() {
        assert_eq!(broken("src/a.rs", "//! [x](y)"), [""; 0]);
    }
}
